"""The limits of a worker's life: requests, time, memory. Whoever has reached one is replaced the gentle way."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from attrs import define, frozen
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall

from serverworker.monitor.worker_process import WorkerProcess
from serverworker.processes.descendants import rss_bytes
from serverworker.values.settings import LimitsSettings

INTERVAL_SECONDS = 5.0
"""From one look at all workers to the next."""
_CHANCE = 0.1
"""So large a part of a limit is left to chance."""


class Measured(Protocol):
    """A serving worker that can be looked at."""

    @property
    def id(self) -> int:
        """Its number."""

    @property
    def serving_since(self) -> float:
        """The monotonic time at which it began to serve."""

    def requests(self) -> int:
        """How many it has finished."""

    def memory_mib(self) -> float | None:
        """Its resident memory; None where the system does not tell."""


@frozen
class ServingWorker:
    """A real one: its request board and /proc know it."""

    process: WorkerProcess
    serving_since: float

    @property
    def id(self) -> int:
        """Its number."""
        return self.process.id

    def requests(self) -> int:
        """How many it has finished, heartbeats included."""
        return self.process.counters().requests_finished

    def memory_mib(self) -> float | None:
        """Its resident memory."""
        found = None if self.process.pid is None else rss_bytes(self.process.pid)
        return None if found is None else found / 2**20


@define
class _Watched:
    requests: float
    lifetime: float
    samples_above: int = 0


class LimitsWatch:
    """Looks at every serving worker every five seconds, and tells which has reached a limit."""

    def __init__(
        self,
        *,
        clock: IReactorTime,
        limits: LimitsSettings,
        workers: Callable[[], Iterable[Measured]],
        worn: Callable[[int, str], None],
        chance: Callable[[], float],
    ) -> None:
        """`worn(worker id, which limit)`; `chance` answers a number from [0, 1)."""
        self._clock = clock
        self._limits = limits
        self._workers = workers
        self._worn = worn
        self._chance = chance
        self._watched: dict[int, _Watched] = {}
        self._loop = LoopingCall(self._look)
        self._loop.clock = clock

    def start(self) -> None:
        """Look from now on, if there is any limit at all."""
        limits = self._limits
        if (limits.requests, limits.lifetime_seconds, limits.memory_mib) != (None, None, None):
            self._loop.start(INTERVAL_SECONDS, now=False)

    def stop(self) -> None:
        """Look no more."""
        if self._loop.running:
            self._loop.stop()

    def _look(self) -> None:
        seen = set()
        for worker in self._workers():
            seen.add(worker.id)
            reached = self._reached(worker)
            if reached:
                self._worn(worker.id, reached)
        for gone in self._watched.keys() - seen:
            del self._watched[gone]

    def _reached(self, worker: Measured) -> str:
        watched = self._watched.get(worker.id)
        if watched is None:
            watched = self._watched[worker.id] = self._begin()
        limits = self._limits
        if (done := worker.requests()) >= watched.requests:
            return f"it has answered {done} requests (limit {limits.requests})"
        if (age := self._clock.seconds() - worker.serving_since) >= watched.lifetime:
            return f"it has served for {age:.0f} s (limit {limits.lifetime_seconds:g})"
        if limits.memory_mib is not None:
            memory = worker.memory_mib()
            above = memory is not None and memory > limits.memory_mib
            watched.samples_above = watched.samples_above + 1 if above else 0
            if watched.samples_above >= limits.memory_samples:
                return f"it takes {memory:.0f} MiB of memory (limit {limits.memory_mib})"
        return ""

    def _begin(self) -> _Watched:
        """The limits of one worker: those that are unset are never reached."""
        requests, lifetime = self._limits.requests, self._limits.lifetime_seconds
        never = float("inf")
        return _Watched(
            requests=never if requests is None else max(1.0, requests * (1 - _CHANCE * self._chance())),
            lifetime=never if lifetime is None else lifetime * (1 - _CHANCE * self._chance()),
        )
