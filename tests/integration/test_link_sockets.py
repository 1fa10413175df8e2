"""Links over real socket pairs: back-pressure, large values, a peer that dies, what stays in memory."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.protocols import amp
from twisted.trial.unittest import TestCase

from serverworker.values.errors import EmitError, EmitTimeout, LinkDestroyed, PeerLost
from serverworker.wire.commands import Ping
from serverworker.wire.emits import Handlers
from serverworker.wire.large import MAX_VALUE_BYTES
from serverworker.wire.link import Link, adopt

reactor: Any = installed_reactor
ROOT = Path(__file__).resolve().parents[2]

PEER = """
import os, sys
from twisted.internet import reactor
from twisted.protocols import amp
from serverworker.wire.emits import Handlers
from serverworker.wire.link import Link, adopt

handlers = Handlers()
handlers.on("echo", lambda value: value)
handlers.on("exit", lambda value: os._exit(3))
link = Link(reactor, amp.CommandLocator(), handlers, on_lost=lambda reason: reactor.stop())
adopt(link, reactor, int(sys.argv[1]))
reactor.run()
"""
"""The program of a peer in a process of its own."""


class Responders(amp.CommandLocator):
    @Ping.responder
    def ping(self) -> dict[str, Any]:
        return {}


class End:
    """A link, and the Deferred of its end."""

    def __init__(self, name: str) -> None:
        self.handlers = Handlers()
        self.handlers.on("echo", lambda value: value)
        self.lost: Deferred[EmitError] = Deferred()
        self.link = Link(reactor, Responders(), self.handlers, peer=name, on_lost=self.lost.callback)

    def adopt(self, ours: socket.socket) -> None:
        adopt(self.link, reactor, ours.detach())

    async def closed(self) -> None:
        self.link.close()
        if not self.lost.called:
            await self.lost


class LinkSocketsTests(TestCase):
    """One or two links on the ends of a socket pair."""

    timeout = 60

    def pair(self) -> tuple[End, End]:
        ours, theirs = socket.socketpair()
        ends = End("their end"), End("our end")
        ends[0].adopt(ours)
        ends[1].adopt(theirs)
        for end in ends:
            self.addCleanup(end.closed)
        return ends

    def alone(self) -> tuple[End, socket.socket]:
        """A link, and the bare socket at the other end."""
        ours, theirs = socket.socketpair()
        end = End("the socket")
        end.adopt(ours)
        theirs.setblocking(False)
        self.addCleanup(end.closed)
        self.addCleanup(theirs.close)
        return end, theirs

    async def failure(self, answer: Deferred[Any], kind: type[BaseException]) -> str:
        try:
            result = await answer
        except kind as error:
            return str(error)
        raise self.failureException(f"{result!r} instead of {kind.__name__}")

    async def test_descriptor(self) -> None:
        """`adopt` uses the descriptor up: nothing of it is open once the link is closed."""
        await deferLater(reactor, 0)  # a reactor that runs has descriptors of its own
        before = open_descriptors()
        end, theirs = self.alone()
        theirs.close()
        await end.lost
        self.assertEqual(open_descriptors(), before)

    async def test_echo(self) -> None:
        """Values of every size come back equal, both ways at once."""
        here, there = self.pair()
        for size in (0, 100, 65_535, 65_536, 1_000_000, MAX_VALUE_BYTES - 2):
            value = "ж" * (size // 2)
            answers = await gatherResults([here.link.emit("echo", value), there.link.emit("echo", value)])
            self.assertEqual(answers, [[value], [value]])
        self.assertEqual((here.link.unanswered, there.link.unanswered), (0, 0))

    async def test_many(self) -> None:
        """Ten thousand emits in one turn all come back, each with its own answer."""
        here, _ = self.pair()
        answers = await gatherResults([here.link.emit("echo", number) for number in range(10_000)])
        self.assertEqual(answers, [[number] for number in range(10_000)])

    async def test_large_block_nobody(self) -> None:
        """While a hundred megabytes are on their way, small emits and commands overtake most of them."""
        here, _ = self.pair()
        done: list[str] = []
        large = [
            here.link.emit("echo", "x" * 1_000_000).addCallback(lambda _: done.append("large"))
            for _ in range(100)
        ]
        await deferLater(reactor, 0)
        await here.link.ask(Ping, 30)
        await here.link.emit("echo", 1)
        self.assertLess(len(done), 20)
        await gatherResults(large)

    async def test_peer_that_does_not_read(self) -> None:
        """Emits to a peer that does not read wait here, not in the transport, and end by their deadline."""
        end, theirs = self.alone()
        small = [end.link.emit("n", "x" * 1000, timeout=0.3) for _ in range(1000)]
        large = [end.link.emit("n", "x" * 1_000_000, timeout=0.3) for _ in range(20)]
        await deferLater(reactor, 0.1)
        stream: Any = end.link.transport
        self.assertLess(len(stream.dataBuffer) + stream._tempDataLen, 2_500_000)
        texts = [await self.failure(answer, EmitTimeout) for answer in small + large]
        self.assertTrue(any("never sent" in text for text in texts))
        self.assertEqual(end.link.unanswered, 0)
        received = 0
        while True:  # a peer that reads again gets what was on its way, and none of the rest
            await deferLater(reactor, 0.01)
            try:
                received += len(theirs.recv(10**7))
            except BlockingIOError:
                break
        self.assertLess(received, 4_000_000)
        self.assertFalse(end.link.closed)

    async def test_garbage(self) -> None:
        """Garbage on the descriptor ends that link alone; its emits end with PeerLost, once."""
        end, theirs = self.alone()
        here, _ = self.pair()
        answer = end.link.emit("echo")
        theirs.send(b"Traceback (most recent call last):\n")
        self.assertIn("sent garbage", await self.failure(answer, PeerLost))
        self.assertIn("sent garbage", str(await end.lost))
        self.assertEqual(await here.link.emit("echo", 1), [1])

    async def test_half_an_answer(self) -> None:
        """A peer that ends in the middle of a box is a lost peer."""
        end, theirs = self.alone()
        answer = end.link.emit("echo")
        theirs.send(b"\0\x08_command\0\x08Messages\0\5batch\xff\xff[")
        theirs.shutdown(socket.SHUT_RDWR)
        self.assertIn("the socket ended", await self.failure(answer, PeerLost))
        self.assertIsInstance(await end.lost, PeerLost)

    async def test_close(self) -> None:
        """Closing one end ends the emits of both: LinkDestroyed here, PeerLost there."""
        here, there = self.pair()
        there.handlers.on("hang", lambda value: Deferred())
        here.handlers.on("hang", lambda value: Deferred())
        answers = here.link.emit("hang"), there.link.emit("hang")
        await here.link.emit("echo")
        here.link.close()
        await self.failure(answers[0], LinkDestroyed)
        await self.failure(answers[1], PeerLost)
        self.assertIsInstance(await here.lost, LinkDestroyed)
        self.assertIsInstance(await there.lost, PeerLost)

    async def test_close_behind_much(self) -> None:
        """What was sent before the end arrives, however much it is."""
        here, there = self.pair()
        got: list[int] = []
        there.handlers.on("n", lambda value: got.append(len(value)))
        answer = here.link.emit("n", "x" * 10_000_000)
        await deferLater(reactor, 0)
        here.link.close()
        await self.failure(answer, LinkDestroyed)
        await there.lost
        self.assertEqual(got, [10_000_000])


class LinkProcessTests(TestCase):
    """A link to another process."""

    timeout = 60

    def setUp(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self.peer = subprocess.Popen(
                [sys.executable, "-c", PEER, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        self.addCleanup(self.peer.wait)
        self.addCleanup(self.peer.kill)
        self.end = End("the peer")
        self.end.adopt(ours)
        self.addCleanup(self.end.closed)

    async def test_exit_in_a_handler(self) -> None:
        """A peer that dies while it handles an emit ends that emit, and all others, with PeerLost."""
        self.assertEqual(await self.end.link.emit("echo", 1), [1])
        answers = [self.end.link.emit("exit"), self.end.link.emit("echo", "x" * 1_000_000)]
        for answer in answers:
            try:
                await answer
            except PeerLost:
                continue
            self.fail("the peer answered")
        self.assertIsInstance(await self.end.lost, PeerLost)
        self.assertEqual(self.peer.wait(), 3)

    async def test_kill(self) -> None:
        """So does a peer that is killed."""
        self.assertEqual(await self.end.link.emit("echo", 1), [1])
        answer = self.end.link.emit("echo", "x" * 16_000_000)
        self.peer.kill()
        try:
            await answer
        except PeerLost:
            return
        self.fail("a killed peer answered")

    async def test_memory(self) -> None:
        """Many emits leave nothing behind at either end."""

        async def some(count: int) -> None:
            for _ in range(count):
                await gatherResults(
                    [self.end.link.emit("echo", {"n": n, "text": "x" * 80}) for n in range(1000)]
                )

        await some(10)
        before = resident(os.getpid()), resident(self.peer.pid)
        await some(50)
        after = resident(os.getpid()), resident(self.peer.pid)
        for early, late in zip(before, after, strict=True):
            self.assertLess(late - early, 4e6)


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def resident(pid: int) -> int:
    """Resident memory of a process, in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
