"""Counts what happens in a session; `metric_families` tells it to Prometheus."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import accumulate

from serverworker.monitor.handle import Monitor
from serverworker.values import events
from serverworker.values.causes import CauseKind
from serverworker.values.events import Told
from serverworker.values.state import Life

RECOVERY_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
HEARTBEAT_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
MODES = ("clean", "force")
OUTCOMES = ("completed", "failed")
BEATS = ("ok", "failed")
SURFACES = ("control", "dashboard")


class Histogram:
    """Observed durations, counted in buckets; seconds."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """One more."""
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self.sum += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """How many took at most so long, as Prometheus has it: each bound as a text, the last one ``+Inf``."""
        bounds = [*map(str, self._bounds), "+Inf"]
        return [(bound, float(count)) for bound, count in zip(bounds, accumulate(self._counts), strict=True)]


class Counts:
    """Others' counts, each with who knows it: it is asked when somebody asks for metrics."""

    def __init__(self) -> None:
        self.dropped: dict[str, Callable[[], int]] = {}
        """How many events a keeper of them has lost, by its name, such as ``journal``."""
        self.pending: Callable[[], int] = lambda: 0
        """How many notifications wait to be delivered."""


class Metrics:
    """The observer that counts. What it shows of workers is looked up when asked for, so that who is gone leaves nothing."""

    def __init__(self, monitor: Monitor, counts: Counts, wall_clock: Callable[[], float] = time.time) -> None:
        """`wall_clock` answers seconds since the epoch."""
        self.monitor = monitor
        self.counts = counts
        self.started_at = wall_clock()
        """When the session began, seconds since the epoch."""
        self.restarts: Counter[tuple[str, str]] = Counter()
        """By mode and outcome."""
        self.crashes: Counter[CauseKind] = Counter()
        self.recovery = Histogram(RECOVERY_BUCKETS)
        self.heartbeats = {outcome: Histogram(HEARTBEAT_BUCKETS) for outcome in BEATS}
        self.faults = 0
        self.lines_dropped = 0
        self.failed_logins: Counter[str] = Counter()
        self._modes: dict[int, str] = {}
        self._failed: dict[int, float] = {}
        self._recovered: set[int] = set()

    def __call__(self, told: Told) -> None:
        """Count an event."""
        event = told.event
        match event:
            case events.Heartbeat():
                self.heartbeats["ok" if event.beat.ok else "failed"].observe(event.beat.seconds)
            case events.OutputLine():
                return
            case events.WorkerDied():
                self.crashes[event.cause.kind] += 1
            case events.RestartStarted():
                self._modes = {event.generation: event.mode}
            case events.RestartCompleted() | events.RestartFailed():
                outcome = "completed" if isinstance(event, events.RestartCompleted) else "failed"
                self.restarts[self._modes.pop(event.generation, "clean"), outcome] += 1
            case events.Fault():
                self.faults += 1
            case events.OutputDropped():
                self.lines_dropped += event.lines
            case events.LoginFailed():
                self.failed_logins[event.surface] += 1
            case _:
                pass
        self._watch_recovery(told)

    # A worker that serves and fails is replaced at once, and told to be dead when its process is gone and its output
    # read: its successor often serves before that. So who has failed is looked up in the state.

    def _watch_recovery(self, told: Told) -> None:
        state, now = self.monitor.state, self.monitor.seconds()
        for worker in state.workers:
            if worker.cause is not None and worker.failed_in is Life.SERVING:
                self._fail(worker.id, worker.since)
        event = told.event
        if isinstance(event, events.WorkerDied) and event.life == Life.SERVING.value:
            self._fail(event.worker, now)
        if len(state.in_life(Life.SERVING)) >= state.policy.count:
            for worker_id in tuple(self._failed):
                self._recover(worker_id, now)
        if isinstance(event, events.WorkerDied):
            self._recovered.discard(event.worker)

    def _fail(self, worker: int, at: float) -> None:
        if worker not in self._recovered:
            self._failed.setdefault(worker, at)

    def _recover(self, worker: int, now: float) -> None:
        self.recovery.observe(max(now - self._failed.pop(worker), 0.0))
        self._recovered.add(worker)
