"""The heartbeat of a worker: when it polls its own health route, and what follows from the answers.

How a poll is made is the business of `poller`. This module knows no HTTP, so that it costs nothing to import.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from attrs import frozen
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from serverworker.values.causes import Beat
from serverworker.values.settings import PollingSettings

FIRST_PAUSE_SECONDS = 0.01
"""After the first beat, while the application is not ready."""
LONGEST_FAST_PAUSE_SECONDS = 0.25
"""The pauses before the first success grow to this, or to the interval where that is shorter."""
PAUSE_GROWTH = 1.5
"""So readiness is known late by at most half of the time that it took, and by a quarter of a second."""

_log = Logger()


@frozen(kw_only=True)
class PollResult:
    """What one poll of the health route came to."""

    ok: bool
    text: str
    """Such as ``200``, ``500``, or ``no answer within 5 s``."""
    seconds: float
    """From the start of the poll to the last byte that was read, or to the failure."""
    status: int | None = None
    """The HTTP status; None where no head came."""


class Heartbeat:
    """Polls a worker's own health route, one poll at a time, until it is stopped.

    The next poll starts a full interval after the last one has finished, as in the original. Until the
    first success the pauses are short, so that ready is known in milliseconds, and failures have no
    consequence: the start-up deadline of the monitor judges. After it, `gave_up` is called once when more
    failures than tolerated have come in a row, and the heartbeat stops. A success resets the count.

    Nothing that a poll or a callback raises ends the heartbeat. It waits for as long as a poll takes:
    `poll` has to have a deadline of its own.
    """

    def __init__(
        self,
        clock: IReactorTime,
        poll: Callable[[], Deferred[PollResult]],
        polling: PollingSettings,
        *,
        told: Callable[[Beat], object],
        first_success: Callable[[], object],
        gave_up: Callable[[Beat], object],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Prepare, and poll nothing yet.

        `told` gets every beat, before `first_success` or `gave_up` is called for it. `wall_clock` gives the
        seconds since the epoch.
        """
        self._clock = clock
        self._poll = poll
        self._interval = polling.interval_seconds
        self._tolerance = polling.failure_tolerance
        self._told = told
        self._first_success = first_success
        self._gave_up = gave_up
        self._wall_clock = wall_clock
        self._failures = 0
        self._has_succeeded = False
        self._stopped = False
        self._fast_pause = FIRST_PAUSE_SECONDS
        self._in_flight: Deferred[PollResult] | None = None
        self._pause_began = 0.0
        self._pause_timer: IDelayedCall | None = None
        self._pause_over: Deferred[None] = Deferred()
        self._loop = LoopingCall(self._beat_and_pause)
        self._loop.clock = clock

    def start(self) -> None:
        """Poll at once, and go on. To be called once; after `stop` it does nothing."""
        if self._stopped:
            return
        # A LoopingCall keeps its grid: after a call of 9 s at an interval of 10 it calls again after 1 s.
        # So the pause is a part of the call, and the loop itself adds none.
        self._loop.start(0)

    def stop(self) -> None:
        """End for good: a poll in flight is cancelled, and no callback is called any more."""
        self._stopped = True
        if self._loop.running:
            self._loop.stop()
        if self._in_flight is not None:
            self._in_flight.cancel()
        if self._pause_timer is not None:
            self._pause_timer.cancel()
            self._end_pause()

    def set_interval(self, seconds: float) -> None:
        """Change the interval, at once: a pause that has begun ends `seconds` (above 0) after its beginning."""
        self._interval = seconds
        if self._pause_timer is not None:
            passed = self._clock.seconds() - self._pause_began
            self._pause_timer.reset(max(0.0, self._pause_seconds() - passed))

    def _beat_and_pause(self) -> Deferred[None]:
        began = self._clock.seconds()
        polled = maybeDeferred(self._poll)
        self._in_flight = polled
        polled.addErrback(self._result_of_broken_poll, began)
        return polled.addCallback(self._judge).addCallback(lambda _: self._pause())

    def _result_of_broken_poll(self, failure: Failure, began: float) -> PollResult:
        return PollResult(
            ok=False,
            text=f"the poll failed: {type(failure.value).__name__}: {failure.getErrorMessage()}",
            seconds=self._clock.seconds() - began,
        )

    def _judge(self, result: PollResult) -> None:
        self._in_flight = None
        if self._stopped:
            return
        self._failures = 0 if result.ok else self._failures + 1
        beat = Beat(
            at=self._wall_clock(),
            ok=result.ok,
            seconds=result.seconds,
            text=result.text,
            failures=self._failures,
        )
        self._call(self._told, beat)
        self._draw_consequence(beat)

    def _draw_consequence(self, beat: Beat) -> None:
        if self._stopped:  # by `told`
            return
        if beat.ok and not self._has_succeeded:
            self._has_succeeded = True
            self._call(self._first_success)
        elif self._has_succeeded and self._failures > self._tolerance:
            self.stop()
            self._call(self._gave_up, beat)

    def _call(self, callback: Callable[..., object], *args: object) -> None:
        with _log.failuresHandled("while telling of a heartbeat; the heartbeat goes on"):
            callback(*args)

    def _pause(self) -> Deferred[None]:
        if self._stopped:
            return succeed(None)
        self._pause_began = self._clock.seconds()
        self._pause_over = Deferred()
        self._pause_timer = self._clock.callLater(self._pause_seconds(), self._end_pause)
        return self._pause_over

    def _pause_seconds(self) -> float:
        if self._has_succeeded:
            return self._interval
        return min(self._fast_pause, LONGEST_FAST_PAUSE_SECONDS, self._interval)

    def _end_pause(self) -> None:
        self._pause_timer = None
        self._fast_pause *= PAUSE_GROWTH
        self._pause_over.callback(None)
