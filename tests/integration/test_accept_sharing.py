"""Two real workers on one listening socket: how they share connections, and what one does for the other."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from serverworker.processes.descendants import is_stopped
from serverworker.processes.shares import Shares

reactor: Any = global_reactor
PROGRAM = Path(__file__).with_name("accept_worker.py")

CONNECTIONS = 32
RUNS = 5
LEAST = CONNECTIONS / 2 / 3
"""A third of the even share, which every one of two workers has to get."""

REQUESTS = 10
"""On each connection."""


class Worker(ProcessProtocol):
    """Runs accept_worker.py and notes the words that it prints."""

    def __init__(self) -> None:
        self.ended: Deferred[None] = Deferred()
        self._heard: list[str] = []
        self._waiting: dict[str, Deferred[None]] = {}

    def when(self, word: str) -> Deferred[None]:
        """Fires when the worker has printed that word."""
        waiting: Deferred[None] = self._waiting.setdefault(word, Deferred())
        if word in self._heard and not waiting.called:
            waiting.callback(None)
        return waiting

    def outReceived(self, data: bytes) -> None:
        for word in data.decode().split():
            self._heard.append(word)
            waiting = self._waiting.get(word)
            if waiting is not None and not waiting.called:
                waiting.callback(None)

    def errReceived(self, data: bytes) -> None:
        sys.stderr.write(data.decode())

    def processEnded(self, reason: Failure) -> None:
        self.ended.callback(None)


class KeepAlive(LineReceiver):
    """A client that asks again and again on one connection, and notes who answers."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.answered: Deferred[int] = Deferred()
        self.lost: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        self.ask()

    def ask(self) -> None:
        assert self.transport is not None
        self.transport.write(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")

    def lineReceived(self, line: bytes) -> None:
        if line.lower().startswith(b"content-length:"):
            self._length = int(line.partition(b":")[2])
        if not line:
            self._body = b""
            self.setRawMode()

    def rawDataReceived(self, data: bytes) -> None:
        self._body += data
        if len(self._body) == self._length:
            self.answers.append(int(self._body))
            self.setLineMode()
            if len(self.answers) < REQUESTS:
                self.ask()
            elif not self.answered.called:
                self.answered.callback(self.answers[0])

    def connectionLost(self, reason: Any = None) -> None:
        if not self.answered.called:
            self.answered.errback(reason)
        self.lost.callback(None)


class SharingTests(TestCase):
    """One socket, two workers."""

    timeout = 60

    def setUp(self) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.addCleanup(self.listening.close)
        self.shares_descriptor = Shares.create()
        self.addCleanup(os.close, self.shares_descriptor)

    def start(self, name: str, limit: int | None = None) -> Worker:
        worker = Worker()
        given = (self.listening.fileno(), self.shares_descriptor)
        transport = reactor.spawnProcess(
            worker,
            sys.executable,
            [sys.executable, str(PROGRAM), name, *map(str, given), *([] if limit is None else [str(limit)])],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            childFDs={0: "w", 1: "r", 2: "r", **{number: number for number in given}},
        )

        def end() -> Deferred[None]:
            transport.closeStdin()
            return worker.ended

        self.addCleanup(end)
        return worker

    async def connect(self, count: int) -> list[KeepAlive]:
        """Clients that have connected at the same moment; they are asking already."""
        clients = [KeepAlive() for _ in range(count)]
        endpoint = HostnameEndpoint(reactor, "127.0.0.1", self.listening.getsockname()[1])
        await gatherResults([connectProtocol(endpoint, client) for client in clients])
        return clients

    async def hang_up(self, clients: list[KeepAlive]) -> None:
        for client in clients:
            assert client.transport is not None
            client.transport.loseConnection()
        await gatherResults([client.lost for client in clients])

    async def shares(self) -> list[int]:
        """How many of the connections each worker got, of those opened in one go; the smallest number first."""
        clients = await self.connect(CONNECTIONS)
        owners = await gatherResults([client.answered for client in clients])
        for client in clients:
            self.assertEqual(len(set(client.answers)), 1, "a connection stays with its worker")
        await self.hang_up(clients)
        shares = sorted(Counter(owners).values())
        return [0] * (2 - len(shares)) + shares

    async def assert_fair(self, name: str) -> None:
        workers = [self.start(name), self.start(name)]
        await gatherResults([worker.when("ready") for worker in workers])
        runs = [await self.shares() for _ in range(RUNS)]
        self.assertGreaterEqual(min(smaller for smaller, _ in runs), LEAST, runs)

    def test_fair_epoll(self) -> Deferred[None]:
        """In every run each worker gets at least a third of the even share."""
        return Deferred.fromCoroutine(self.assert_fair("epoll"))

    def test_fair_asyncio(self) -> Deferred[None]:
        """On asyncio as well, whose own servers take all that waits at once."""
        return Deferred.fromCoroutine(self.assert_fair("asyncio"))

    async def test_shortage(self) -> None:
        """What a worker without free descriptors cannot accept, its sibling serves: none is refused, closed or late."""
        poor = self.start("epoll", limit=40)
        await poor.when("ready")
        first = await self.connect(40)
        await poor.when("shortage")
        rich = self.start("epoll")
        await rich.when("ready")
        owners = Counter(await gatherResults([client.answered for client in first]))
        self.assertEqual(len(owners), 2, owners)
        second = await self.connect(20)
        await gatherResults([client.answered for client in second])
        await self.hang_up(first + second)

    async def test_sibling_stopped(self) -> None:
        """New connections are served although they would be the share of a worker that is stopped, and later killed."""
        workers = [self.start("epoll"), self.start("epoll")]
        await gatherResults([worker.when("ready") for worker in workers])
        clients = await self.connect(CONNECTIONS)
        await gatherResults([client.answered for client in clients])
        stopped, living = (worker.transport.pid for worker in workers if worker.transport is not None)
        os.kill(stopped, signal.SIGSTOP)
        self.addCleanup(os.kill, stopped, signal.SIGKILL)
        while not is_stopped(stopped):
            await deferLater(reactor, 0.01)
        # Those of the living go, so that all new ones are the other's share.
        await self.hang_up([client for client in clients if client.answers[0] == living])
        more = await self.connect(CONNECTIONS)
        self.assertEqual(set(await gatherResults([client.answered for client in more])), {living})
        await self.hang_up(more + [client for client in clients if client.answers[0] == stopped])
