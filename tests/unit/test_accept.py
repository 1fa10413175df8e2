"""Tests of `serverworker.processes.accept`: how connections are accepted, and in which reactors."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IReadDescriptor
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from zope.interface.verify import verifyObject

from serverworker.processes import accept
from serverworker.processes.accept import AcceptReader
from serverworker.processes.shares import Shares
from tests.unit.accept_case import AcceptCase, FakeTransport, open_descriptors


class AcceptTests(AcceptCase):
    """Connections that come as they should."""

    def test_one_for_each_wake_up(self) -> None:
        """Of three that wait, a wake-up accepts one: the others are for whoever is free."""
        for _ in range(3):
            self.connect()
        reader = self.reader()
        for count in (1, 2, 3):
            reader.doRead()
            self.assertEqual((reader.accepted, len(self.reactor.adopted)), (count, count))
        reader.doRead()
        self.assertEqual(reader.accepted, 3)

    def test_flags(self) -> None:
        """An accepted connection never blocks, is closed on exec and sends small packets at once."""
        self.connect()
        self.reader().doRead()
        (adopted,) = self.reactor.adopted
        self.assertFalse(os.get_blocking(adopted.fileno()))
        self.assertFalse(os.get_inheritable(adopted.fileno()))
        self.assertTrue(adopted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    def test_unix(self) -> None:
        """A unix socket is accepted from as well."""
        folder = tempfile.mkdtemp(prefix="sw-")
        self.addCleanup(shutil.rmtree, folder)
        listening = socket.socket(socket.AF_UNIX)
        self.addCleanup(listening.close)
        listening.bind(f"{folder}/a")
        listening.listen()
        client = socket.socket(socket.AF_UNIX)
        self.addCleanup(client.close)
        client.connect(f"{folder}/a")
        self.reader(listening=listening).doRead()
        self.assertEqual(self.reactor.adopted[0].family, socket.AF_UNIX)

    def test_the_last(self) -> None:
        """Before a socket is closed for good, all that wait are accepted; then clients are refused."""
        for _ in range(3):
            self.connect()
        reader = self.reader()
        reader.accept_the_last()
        self.assertEqual(len(self.reactor.adopted), 3)
        self.assertRaises(ConnectionRefusedError, self.connect)
        reader.accept_the_last()

    def test_a_sibling_accepted_the_last(self) -> None:
        """Who finds the socket closed by another looks no more, and that is no trouble."""
        reader, sibling = self.reader(), self.reader()
        sibling.accept_the_last()
        reader.doRead()
        self.assertNotIn(reader, self.reactor.readers)
        self.assertEqual(self.log, [])

    def test_own_copy(self) -> None:
        """Nothing of a connection stays open here after the transport has closed it."""
        client = self.connect()
        self.reader().doRead()
        self.reactor.adopted.pop().close()
        self.assertEqual(client.recv(1), b"")

    def test_sibling_was_faster(self) -> None:
        """Nothing to accept is normal: nothing is logged, and it goes on."""
        reader = self.reader()
        reader.doRead()
        self.assertIn(reader, self.reactor.readers)
        self.assertEqual(self.log, [])

    def test_never_blocks(self) -> None:
        """A socket that was handed over blocking is made non-blocking."""
        self.listening.setblocking(True)
        self.reader()
        self.assertFalse(os.get_blocking(self.listening.fileno()))

    def test_stop_and_start(self) -> None:
        """After `stop` the reactor has nothing of it; after `start` it accepts again. Both may be called twice."""
        before = open_descriptors()
        reader = self.reader()
        reader.start()
        self.assertEqual(self.reactor.readers, {reader})
        for _ in range(2):
            reader.stop()
            self.assertEqual(self.reactor.readers, set())
            self.assertEqual(open_descriptors(), before)
        self.connect()
        reader.start()
        reader.doRead()
        self.assertEqual(reader.accepted, 1)

    def test_stopped_from_inside(self) -> None:
        """A connection that makes the worker stop accepting is served, and nothing is left open."""
        before = open_descriptors()
        reader = self.reader()
        self.reactor.adopting = reader.stop
        self.connect()
        reader.doRead()
        self.assertEqual(len(self.reactor.adopted), 1)
        self.reactor.adopted.pop().close()
        self.assertEqual(open_descriptors(), before + 1, "only the client of this test is left")

    def test_socket_stays_open(self) -> None:
        """Neither `stop` nor the reactor's end closes the socket or its other copies."""
        reader = self.reader()
        reader.connectionLost(Failure(ConnectionLost()))
        self.assertEqual(self.reactor.readers, set())
        self.assertTrue(self.listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
        self.assertEqual(len(self.texts("info")), 1)
        reader.connectionLost(Failure(ConnectionLost()))
        self.assertEqual(len(self.texts("info")), 1)

    def test_interface(self) -> None:
        """It is what reactors read from."""
        reader = self.reader()
        verifyObject(IReadDescriptor, reader)
        self.assertEqual(reader.fileno(), self.listening.fileno())
        self.assertEqual(reader.logPrefix(), "accept")


class CountTests(AcceptCase):
    """How many connections are open."""

    def accept(self, reader: AcceptReader) -> FakeTransport:
        self.connect()
        reader.doRead()
        return self.reactor.transports[-1]

    def test_count(self) -> None:
        """A connection is open until its transport has ended, which is told on and counted once."""
        reader = self.reader()
        first, second = self.accept(reader), self.accept(reader)
        self.assertEqual(reader.opened, 2)
        reason = Failure(ConnectionLost())
        first.connectionLost(reason)
        first.connectionLost(reason)
        self.assertEqual((reader.opened, reader.accepted), (1, 2))
        self.assertEqual(first.ended, [reason, reason])
        self.assertNotIn("connectionLost", vars(first))
        second.connectionLost(reason)
        self.assertEqual(reader.opened, 0)

    def test_others_look_too(self) -> None:
        """Whoever has put a method on the transport before is called, and finds it there."""
        reader = self.reader()
        transport = FakeTransport()
        heard: list[Failure] = []

        def lost(reason: Failure) -> None:
            del transport.connectionLost
            heard.append(reason)

        transport.connectionLost = lost  # type: ignore[method-assign]
        reader._count(transport)
        transport.connectionLost(Failure(ConnectionLost()))
        self.assertEqual((len(heard), reader.opened), (1, 0))
        self.assertNotIn("connectionLost", vars(transport))

    def test_shares(self) -> None:
        """A connection is left to a sibling that has fewer; with as many, or after `stop`, the table says so."""
        descriptor = Shares.create()
        self.addCleanup(os.close, descriptor)
        sibling = Shares(descriptor).join(self.listening.fileno(), 0)
        assert sibling is not None
        reader = self.reader(shares=Shares(descriptor))
        (row,) = Shares(descriptor).siblings(0)
        self.accept(reader)
        self.assertEqual(Shares(descriptor).opened[row], 1)
        last = self.accept(reader)
        self.connect()
        reader.doRead()
        self.assertEqual(reader.accepted, 2)
        self.assertNotIn(reader, self.reactor.readers)
        self.reactor.advance(accept.LEAVE_SECONDS)
        self.assertIn(reader, self.reactor.readers)
        last.connectionLost(Failure(ConnectionLost()))
        self.assertEqual(Shares(descriptor).opened[row], 1)
        reader.doRead()
        self.assertEqual(reader.accepted, 3)
        reader.stop()
        self.assertEqual(Shares(descriptor).siblings(0), [])
        reader.start()
        self.assertEqual(Shares(descriptor).opened[row], 2)

    def test_full_table(self) -> None:
        """Without a row it accepts as if there were no table."""

        class Full:
            def join(self, listening: int, opened: int) -> None:
                """None is free."""

        reader = self.reader(shares=Full())
        self.accept(reader)
        self.assertEqual(reader.accepted, 1)


PROGRAM = """
import socket, sys, threading
from twisted.internet.{reactor}reactor import install
install()
from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import globalLogBeginner
from serverworker.processes.accept import AcceptReader

globalLogBeginner.beginLoggingTo([], redirectStandardIO=False)
count = 0

class Echo(Protocol):
    def connectionMade(self):
        global count
        count += 1
        if count == 2:
            raise ZeroDivisionError("the second connection")

    def dataReceived(self, data):
        self.transport.write(data.upper())

def client():
    answers = []
    for _ in range(3):
        with socket.create_connection(listening.getsockname(), timeout=20) as each:
            each.sendall(b"a")
            try:
                answers.append(each.recv(1))
            except ConnectionResetError:
                answers.append(b"")
    reactor.callFromThread(end, answers)

def end(answers):
    reader.stop()
    print(answers, reader.accepted, reader in reactor.getReaders())
    reactor.stop()

listening = socket.create_server(("127.0.0.1", 0))
reader = AcceptReader(reactor, listening, Factory.forProtocol(Echo))
reactor.callWhenRunning(reader.start)
reactor.callWhenRunning(threading.Thread(target=client).start)
reactor.run()
"""


class ReactorTests(TestCase):
    """The reader in a reactor of each kind."""

    def assert_works(self, reactor: str) -> None:
        """Three connections: served, closed because of a mistake, served."""
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", PROGRAM.format(reactor=reactor)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            timeout=60,
            check=False,
        )
        self.assertEqual(done.stdout.decode(), "[b'A', b'', b'A'] 3 False\n", done.stderr.decode())

    def test_epoll(self) -> None:
        """Linux's own."""
        self.assert_works("epoll")

    def test_poll(self) -> None:
        """The poll(2) one."""
        self.assert_works("poll")

    def test_select(self) -> None:
        """The select(2) one."""
        self.assert_works("select")

    def test_asyncio(self) -> None:
        """The one on top of asyncio."""
        self.assert_works("asyncio")
