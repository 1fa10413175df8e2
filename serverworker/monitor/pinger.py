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


class Pinged(Protocol):
    """A worker that can be asked."""

    id: int

    def ping(self) -> Deferred[None]:
        """Ask; fires when it answers, fails when it never will."""


@define
class _Outstanding:
    since: float
    answered: bool = False


class Pinger:
    """Pings all workers at an interval, and tells which has not answered within the deadline.

    Judged by the monitor's own clock: time in which the monitor itself did not turn counts against nobody.
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
        self._outstanding: dict[int, _Outstanding] = {}
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

    def _safe_turn(self) -> None:
        # An exception would end the loop for good, and with it the watch over every worker.
        with self._log.failuresHandled("a round of pings failed; the next one comes all the same"):
            self._turn()

    def _turn(self) -> None:
        now = self._clock.seconds()
        # The timer came late by so much: the monitor slept or was stopped, and could not have read an answer.
        late = max(0.0, now - self._last_turn - self._settings.interval_seconds)
        self._last_turn = now
        seen = set()
        for worker in self._workers():
            seen.add(worker.id)
            self._look_at(worker, now, late)
        for gone in self._outstanding.keys() - seen:
            del self._outstanding[gone]

    def _look_at(self, worker: Pinged, now: float, late: float) -> None:
        ping = self._outstanding.get(worker.id)
        if ping is None or ping.answered:
            self._ask(worker, now)
            return
        ping.since += late
        waited = now - ping.since
        if waited >= self._settings.timeout_seconds:
            # Judged once: asked again only if it should still be there at the next turn.
            del self._outstanding[worker.id]
            self._hung(worker.id, waited)

    def _ask(self, worker: Pinged, now: float) -> None:
        ping = self._outstanding[worker.id] = _Outstanding(since=now)

        def answered(_: object) -> None:
            ping.answered = True

        # A link that breaks is somebody else's news: it is no hang.
        worker.ping().addBoth(answered)
