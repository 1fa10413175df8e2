"""The limits watch: which worker has reached a limit, by requests, time and memory."""

from __future__ import annotations

from typing import Any

from attrs import define
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from serverworker.monitor.limits import INTERVAL_SECONDS, LimitsWatch, Measured
from serverworker.values.settings import LimitsSettings


@define
class FakeWorker:
    """A serving worker with figures set by hand."""

    id: int
    serving_since: float = 0.0
    done: int = 0
    memory: float | None = 50.0

    def requests(self) -> int:
        return self.done

    def memory_mib(self) -> float | None:
        return self.memory


class LimitsTests(TestCase):
    """Each limit by itself."""

    def watch(self, *workers: Measured, chance: float = 0.0, **limits: Any) -> None:
        """Watch these workers; what is told is in `told`."""
        self.clock = Clock()
        self.told: list[tuple[int, str]] = []
        self.workers = list(workers)
        self.limits = LimitsWatch(
            clock=self.clock,
            limits=LimitsSettings(**limits),
            workers=lambda: self.workers,
            worn=lambda worker, text: self.told.append((worker, text)),
            chance=lambda: chance,
        )
        self.limits.start()

    def test_requests(self) -> None:
        """Told at the first look after the limit."""
        worker = FakeWorker(1, done=99)
        self.watch(worker, requests=100)
        self.clock.advance(INTERVAL_SECONDS)
        self.assertEqual([], self.told)
        worker.done = 101
        self.clock.advance(INTERVAL_SECONDS)
        self.assertEqual([(1, "it has answered 101 requests (limit 100)")], self.told)

    def test_lifetime(self) -> None:
        """Counted from when it began to serve."""
        worker = FakeWorker(1, serving_since=7.0)
        self.watch(worker, lifetime_seconds=60)
        self.clock.pump([INTERVAL_SECONDS] * 13)
        self.assertEqual([], self.told)
        self.clock.advance(INTERVAL_SECONDS)
        self.assertEqual([(1, "it has served for 63 s (limit 60)")], self.told)

    def test_chance_takes_off_a_tenth_at_most(self) -> None:
        """Workers that were started together are not replaced together."""
        worker = FakeWorker(1, done=91)
        self.watch(worker, requests=100, chance=0.999)
        self.clock.advance(INTERVAL_SECONDS)
        self.assertEqual(1, len(self.told))
        worker.done = 89
        self.watch(worker, requests=100, chance=0.999)
        self.clock.advance(INTERVAL_SECONDS)
        self.assertEqual([], self.told)

    def test_memory_in_a_row(self) -> None:
        """Only so many samples one after the other count: a peak is no leak."""
        worker = FakeWorker(1, memory=300.0)
        self.watch(worker, memory_mib=200, memory_samples=3)
        self.clock.pump([INTERVAL_SECONDS] * 2)
        worker.memory = 100.0
        self.clock.advance(INTERVAL_SECONDS)
        worker.memory = 300.0
        self.clock.pump([INTERVAL_SECONDS] * 2)
        self.assertEqual([], self.told)
        self.clock.advance(INTERVAL_SECONDS)
        self.assertEqual([(1, "it takes 300 MiB of memory (limit 200)")], self.told)

    def test_memory_unknown(self) -> None:
        """Where the system does not tell, nothing is concluded."""
        self.watch(FakeWorker(1, memory=None), memory_mib=1, memory_samples=1)
        self.clock.advance(INTERVAL_SECONDS)
        self.assertEqual([], self.told)

    def test_a_worker_that_went(self) -> None:
        """Its samples go with it: another one of the same number would begin anew."""
        worker = FakeWorker(1, memory=300.0)
        self.watch(worker, memory_mib=200, memory_samples=2)
        self.clock.advance(INTERVAL_SECONDS)
        self.workers = []
        self.clock.advance(INTERVAL_SECONDS)
        self.workers = [worker]
        self.clock.advance(INTERVAL_SECONDS)
        self.assertEqual([], self.told)

    def test_no_limits(self) -> None:
        """Without any limit no timer runs."""
        self.watch(FakeWorker(1))
        self.assertEqual([], self.clock.getDelayedCalls())
        self.limits.stop()

    def test_stop(self) -> None:
        """Stopped, it looks no more."""
        self.watch(FakeWorker(1, done=5), requests=1)
        self.limits.stop()
        self.clock.advance(INTERVAL_SECONDS)
        self.assertEqual([], self.told)
