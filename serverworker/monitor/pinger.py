"""Does it turn? One timer asks every worker; a worker whose reactor turns answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from attrs import define
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from serverworker.values.settings import WatchdogSettings

_JITTER = 0.1
"""Of an interval: a timer is always late by a little, which must not put a judgement off to the next turn."""


class Pinged(Protocol):
    """A worker that can be asked."""

    id: int

    def ping(self) -> Deferred[None]:
        """Ask; fires when it answers, fails when it never will."""


@define
class _Ping:
    since: float
    """When the worker was last known to turn: by its answer before this one, or by being there."""
    asked_at: float
    answered_at: float | None = None


class Pinger:
    """Pings all workers at an interval, and tells which has not answered for as long as the deadline.

    That counts from its last answer, since it may hang from right behind it. Judged by the monitor's own clock: time
    in which the monitor itself did not turn counts against nobody.
    """

    _log = Logger(namespace="serverworker.monitor")

    def __init__(
        self,
        *,
        clock: IReactorTime,
        settings: WatchdogSettings,
        workers: Callable[[], Iterable[Pinged]],
        hung: Callable[[int, float], None],
    ) -> None:
        """`hung(worker id, seconds)` is called once for a worker that does not answer."""
        self._clock = clock
        self._settings = settings
        self._workers = workers
        self._hung = hung
        self._pings: dict[int, _Ping] = {}
        self._answers: dict[int, float] = {}
        self._jitter = _JITTER * settings.interval_seconds
        self._last_turn = 0.0
        self._loop = LoopingCall(self._safe_turn)
        self._loop.clock = clock

    def start(self) -> None:
        """Ping at every interval from now on."""
        self._last_turn = self._clock.seconds()
        self._loop.start(self._settings.interval_seconds, now=False)

    def stop(self) -> None:
        """Ping no more."""
        if self._loop.running:
            self._loop.stop()

    def seconds(self, worker: int) -> float | None:
        """How late a worker's reactor is: what its last answer took, or as long as it owes one if that is longer.

        None before its first answer, unless that is overdue, and for who is not asked.
        """
        last, ping = self._answers.get(worker), self._pings.get(worker)
        if ping is None or ping.answered_at is not None:
            return last
        waited = self._clock.seconds() - ping.asked_at
        if last is None:
            return waited if waited > self._settings.interval_seconds else None
        return max(last, waited)

    def _safe_turn(self) -> None:
        # An exception would end the loop for good, and with it the watch over every worker.
        with self._log.failuresHandled("a round of pings failed; the next one comes all the same"):
            self._turn()

    def _turn(self) -> None:
        now = self._clock.seconds()
        # The timer came late by so much: the monitor slept or was stopped, and could not have read an answer.
        late = now - self._last_turn - self._settings.interval_seconds
        if late < self._jitter:
            late = 0.0
        self._last_turn = now
        seen = set()
        for worker in self._workers():
            seen.add(worker.id)
            self._look_at(worker, now, late)
        for gone in self._pings.keys() - seen:
            del self._pings[gone]
        for gone in self._answers.keys() - seen:
            del self._answers[gone]

    def _look_at(self, worker: Pinged, now: float, late: float) -> None:
        ping = self._pings.get(worker.id)
        if ping is None:
            self._ask(worker, now)
        elif ping.answered_at is not None:
            # Not from earlier on: the monitor itself may have slept since the answer.
            self._ask(worker, max(ping.answered_at, now - self._settings.interval_seconds))
        else:
            ping.since += late
            self._judge(worker, now - ping.since)

    def _judge(self, worker: Pinged, waited: float) -> None:
        if waited >= self._settings.timeout_seconds - self._jitter:
            # Judged once: asked again only if it should still be there at the next turn.
            del self._pings[worker.id]
            self._hung(worker.id, waited)

    def _ask(self, worker: Pinged, since: float) -> None:
        ping = self._pings[worker.id] = _Ping(since=since, asked_at=self._clock.seconds())

        def answered(_: object) -> None:
            ping.answered_at = self._clock.seconds()
            self._answers[worker.id] = ping.answered_at - ping.asked_at

        def broken(_: object) -> None:
            ping.answered_at = self._clock.seconds()

        # A link that breaks is somebody else's news: it is no hang.
        worker.ping().addCallbacks(answered, broken)
