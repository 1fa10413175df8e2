"""A port that is served by what is no factory of Twisted's."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from serverworker.processes.accept import AcceptReader
from serverworker.processes.access_log import AccessLog
from serverworker.processes.board import RequestBoard
from serverworker.processes.listeners import Listeners, Port
from serverworker.processes.taker import Taker
from serverworker.testing import FakeReactor


class FakeTaker(Taker):
    """Keeps what it is given, and notes what it is told."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.taken: list[tuple[socket.socket, Callable[[], object]]] = []
        self.error: Exception | None = None

    def begin(self, board: RequestBoard, access: AccessLog | None) -> None:
        self.done.append("begin")

    def take(self, connection: socket.socket, closed: Callable[[], object]) -> None:
        if self.error is not None:
            raise self.error
        self.taken.append((socket.socket(fileno=connection.detach()), closed))

    @property
    def open_connections(self) -> int:
        return len(self.taken)

    def drain(self) -> None:
        self.done.append("drain")

    def close_idle(self) -> None:
        self.done.append("close idle")

    def abort(self) -> None:
        self.done.append("abort")

    def when_idle(self) -> Deferred[None]:
        return succeed(None)

    def end(self) -> None:
        self.done.append("end")


class TakerTests(SynchronousTestCase):
    """It is handed accepted connections, and counted as a factory's are."""

    def setUp(self) -> None:
        self.reactor = FakeReactor()
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(self.listening.close)
        self.taker = FakeTaker()
        self.addCleanup(self.close_taken)

    def close_taken(self) -> None:
        for connection, _ in self.taker.taken:
            connection.close()

    def connect(self) -> socket.socket:
        client = socket.create_connection(self.listening.getsockname())
        self.addCleanup(client.close)
        return client

    def reader(self) -> AcceptReader:
        reactor: Any = self.reactor
        made = AcceptReader(reactor, self.listening, self.taker)
        made.start()
        self.addCleanup(made.stop)
        return made

    def test_connection(self) -> None:
        """It gets the connection itself, which does not block, and says when that is closed."""
        reader, client = self.reader(), self.connect()
        reader.doRead()
        ((connection, closed),) = self.taker.taken
        self.assertEqual(
            (os.get_blocking(connection.fileno()), reader.accepted, reader.opened), (False, 1, 1)
        )
        client.sendall(b"hello")
        self.assertEqual(connection.recv(10), b"hello")
        closed()
        self.assertEqual(reader.opened, 0)

    def test_shortage(self) -> None:
        """Where it has not got what a connection needs, the queue is left to siblings for a moment."""
        reader, client = self.reader(), self.connect()
        self.taker.error = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        reader.doRead()
        self.assertEqual((client.recv(1), reader.opened, self.reactor.readers), (b"", 0, []))
        self.flushLoggedErrors()

    def test_mistake(self) -> None:
        """Whatever it raises ends this connection alone, and is logged."""
        reader, client = self.reader(), self.connect()
        for error in (ZeroDivisionError(), OSError(errno.ENOTCONN, "gone")):
            self.taker.error = error
            reader.doRead()
            self.assertEqual((client.recv(1), reader.opened), (b"", 0))
            client = self.connect()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.taker.error = None
        reader.doRead()
        self.assertEqual(len(self.taker.taken), 1)

    def test_listened_with(self) -> None:
        """It is begun, counted, drained, ended as a factory; its own heartbeat is its own business."""
        board, descriptor = RequestBoard.create()
        os.close(descriptor)
        self.addCleanup(board.close)
        ports = {"server": Port(name="server", description="tcp:1", socket=self.listening)}
        listeners = Listeners(reactor=self.reactor, board=board, ports=ports, bind=True)
        self.addCleanup(listeners.stop_accepting)
        given: Any = self.taker
        listeners.listen("server", given)
        self.assertIsNone(listeners.heartbeat_factory("server"))
        listeners.accept()
        self.connect()
        self.reactor.readers[0].doRead()
        self.assertEqual(listeners.open_connections, 1)
        listeners.drain()
        listeners.close_idle()
        listeners.abort()
        self.successResultOf(listeners.when_gone())
        listeners.close()
        self.assertEqual(self.taker.done, ["begin", "drain", "close idle", "abort", "end"])
