"""Two links that are joined in memory, for the tests of both ends."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.protocols import amp
from twisted.trial.unittest import SynchronousTestCase

from serverworker.values.errors import (
    EmitError,
)
from serverworker.wire.commands import CommandFailed, Ping
from serverworker.wire.emits import Handlers
from serverworker.wire.large import LargeJSON
from serverworker.wire.link import Link


class Refused(Exception):
    """An error that a command declares."""


class Do(amp.Command):
    arguments = [(b"what", LargeJSON())]
    response = [(b"result", LargeJSON())]
    errors = {CommandFailed: b"COMMAND_FAILED", Refused: b"REFUSED"}


class ShortText(amp.Command):
    arguments = [(b"text", amp.String())]
    response = [(b"text", amp.String())]


class Unknown(amp.Command):
    pass


class Responders(amp.CommandLocator):
    """Answers `Do` with whatever the test says."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.answer: Any = lambda what: {"result": what}

    @Ping.responder
    async def ping(self) -> dict[str, Any]:
        return {}

    @Do.responder
    def do(self, what: Any) -> Any:
        self.asked.append(what)
        return self.answer(what)

    @ShortText.responder
    def short(self, text: bytes) -> dict[str, bytes]:
        return {"text": text * 70_000}


class Stream:
    """One end of a connection in memory."""

    disconnecting = False

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.producer: Any = None
        self.closed = ""

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert streaming
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None

    def loseConnection(self) -> None:
        assert self.producer is None, "a stream with a producer is not closed"
        self.closed = self.closed or "flushed"

    def abortConnection(self) -> None:
        self.closed = "aborted"


class LinkTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.handlers, self.theirs = Handlers(), Handlers()
        self.responders, self.our_responders = Responders(), Responders()
        self.lost: list[EmitError] = []
        self.link = Link(
            self.clock, self.our_responders, self.handlers, peer="worker 3", on_lost=self.lost.append
        )
        self.peer = Link(self.clock, self.responders, self.theirs, peer="the monitor")
        self.stream, self.their_stream = Stream(), Stream()
        self.link.makeConnection(self.stream)
        self.peer.makeConnection(self.their_stream)

    def pump(self) -> None:
        """Carry bytes to and fro until none is left."""
        self.clock.advance(0)
        while self.stream.written or self.their_stream.written:
            for stream, receiver in ((self.stream, self.peer), (self.their_stream, self.link)):
                written, stream.written = stream.written, []
                if written and not (self.stream.closed == "aborted" or self.their_stream.closed == "aborted"):
                    receiver.dataReceived(b"".join(written))
            self.clock.advance(0)

    def ask(self, what: Any) -> Deferred[dict[str, Any]]:
        return self.link.ask(Do, 10, what=what)

    def failed(self, answer: Deferred[Any], kind: type[BaseException]) -> Any:
        return self.failureResultOf(answer, kind).value

    def assert_alive(self) -> None:
        """Both ends are open, have nothing left, and carry commands and emits."""
        self.assertEqual((self.stream.closed, self.their_stream.closed, self.lost), ("", "", []))
        self.assertEqual((self.link.closed, self.peer.closed), (False, False))
        self.theirs.on("still there?", lambda args: True)
        self.responders.answer = lambda what: {"result": what}
        answer, emitted = self.ask("anything"), self.link.emit("still there?")
        self.pump()
        self.assertEqual(self.successResultOf(answer), {"result": "anything"})
        self.assertEqual(self.successResultOf(emitted), [True])
        self.assert_nothing_left()

    def assert_nothing_left(self) -> None:
        self.assertEqual((self.link.unanswered, self.peer.unanswered), (0, 0))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def flush_faults(self, kind: type[BaseException], count: int = 1) -> None:
        """So many failures were logged, and no others."""
        self.assertEqual(len(self.flushLoggedErrors(kind)), count)
        self.assertEqual(self.flushLoggedErrors(), [])
