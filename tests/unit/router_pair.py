"""Two emit routers that are joined by nothing but a clock, for the tests of both."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from serverworker.wire.emits import Handlers
from serverworker.wire.router import BATCH_BYTES, EmitRouter

LARGE = "x" * (BATCH_BYTES + 1)


class Pair:
    """Two routers, joined by nothing but the clock."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.batches: list[bytes] = []
        self.handlers = Handlers()
        self.theirs = Handlers()
        self.router = EmitRouter(self.clock, self.handlers, self.send, "worker 3")
        self.their_router = EmitRouter(self.clock, self.theirs, self.send_back, "the monitor")
        self.router.resumeProducing()
        self.their_router.resumeProducing()

    def send(self, batch: bytes) -> None:
        self.batches.append(batch)
        self.clock.callLater(0, self.their_router.batch_received, batch)

    def send_back(self, batch: bytes) -> None:
        self.clock.callLater(0, self.router.batch_received, batch)

    def turn(self) -> None:
        """Let all happen that happens without time passing."""
        self.clock.advance(0)

    def lines(self) -> list[int]:
        """How many messages each batch that we sent had."""
        return [batch.count(b"\n") + 1 for batch in self.batches]


class RouterTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.pair = Pair()
        self.router = self.pair.router
        self.logged = self.enterContext(capturedLogs())

    @property
    def log(self) -> list[str]:
        """What the routers logged: level and text."""
        events = [
            event for event in self.logged if event["log_namespace"] == EmitRouter.__module__ + ".EmitRouter"
        ]
        return [f"{event['log_level'].name} {formatEvent(event)}" for event in events]

    def failed(self, answer: Deferred[list[Any]], kind: type[BaseException]) -> Any:
        return self.failureResultOf(answer, kind).value

    def assert_nothing_left(self) -> None:
        for router in (self.router, self.pair.their_router):
            self.assertEqual((router.unanswered, router.unsent, router._in_flight_bytes), (0, 0, 0))
        self.assertEqual(self.pair.clock.getDelayedCalls(), [])
