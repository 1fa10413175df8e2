"""How long heartbeats took and how late reactors were, for each worker over the last half hour."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from attrs import define, frozen
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from serverworker.monitor.figures import WorkerFigures
from serverworker.values.causes import Beat
from serverworker.values.event_json import utc
from serverworker.values.events import Heartbeat, Told

SAMPLE_SECONDS = 5.0
KEPT_SAMPLES = 360


@frozen(kw_only=True)
class Point:
    """One worker in one sample; durations in seconds."""

    beat_seconds: float | None
    """The slowest heartbeat since the sample before; None: there was none."""
    beat_ok: bool
    """False: one of them failed."""
    lag_seconds: float | None
    """How late its reactor was, by the last ping; None before the first."""


@frozen(kw_only=True)
class Sample:
    """All workers at one moment."""

    at: float
    """Seconds since the epoch."""
    points: tuple[tuple[int, Point], ...]
    """By worker."""

    def as_json(self) -> dict[str, Any]:
        """As ``/api/series`` has it: ``{at, workers: {id: [beat_seconds, beat_ok, lag_seconds]}}``."""
        workers = {
            str(worker): [_short(point.beat_seconds), point.beat_ok, _short(point.lag_seconds)]
            for worker, point in self.points
        }
        return {"at": utc(self.at), "workers": workers}


def _short(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 5)


@define
class _Beats:
    slowest: float = 0.0
    ok: bool = True


class Series:
    """The observer of heartbeats that takes a sample every five seconds."""

    _log = Logger(namespace="serverworker.dashboard")

    def __init__(
        self,
        clock: IReactorTime,
        figures: Callable[[], Sequence[WorkerFigures]],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.samples: deque[Sample] = deque(maxlen=KEPT_SAMPLES)
        self.taken = 0
        """How many there have been; whoever has seen so many has seen all."""
        self._clock = clock
        self._figures = figures
        self._wall_clock = wall_clock
        self._beats: dict[int, _Beats] = {}
        self._timer: IDelayedCall | None = None

    def __call__(self, told: Told) -> None:
        """Note a heartbeat."""
        if isinstance(told.event, Heartbeat):
            self._note(told.event.worker, told.event.beat)

    def _note(self, worker: int, beat: Beat) -> None:
        beats = self._beats.setdefault(worker, _Beats())
        beats.slowest = max(beats.slowest, beat.seconds)
        beats.ok = beats.ok and beat.ok

    def start(self) -> None:
        """Take samples from now on."""
        self._timer = self._clock.callLater(SAMPLE_SECONDS, self._sample)

    def stop(self) -> None:
        """Take no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sample(self) -> None:
        self._timer = self._clock.callLater(SAMPLE_SECONDS, self._sample)
        try:
            points = tuple((each.worker, self._point(each)) for each in self._figures())
        except Exception:  # the timer is set already, and a chart must not end by one bad look
            self._log.failure("the figures of a moment are missing on the dashboard; the next come in 5 s")
            return
        self._beats.clear()  # of workers that are gone as well
        self.samples.append(Sample(at=self._wall_clock(), points=points))
        self.taken += 1

    def _point(self, figures: WorkerFigures) -> Point:
        beats = self._beats.get(figures.worker)
        return Point(
            beat_seconds=None if beats is None else beats.slowest,
            beat_ok=beats is None or beats.ok,
            lag_seconds=figures.ping_seconds,
        )

    def as_json(self) -> dict[str, Any]:
        """All that is kept, oldest first."""
        return {"interval_seconds": SAMPLE_SECONDS, "samples": [each.as_json() for each in self.samples]}
