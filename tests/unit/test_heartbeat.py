"""The heartbeat on a Clock: when it polls, what it counts, and what it tells."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from serverworker.processes.heartbeat import Heartbeat, PollResult
from serverworker.values.causes import Beat
from serverworker.values.settings import PollingSettings

GOOD = PollResult(ok=True, text="200", seconds=0.001, status=200)
BAD = PollResult(ok=False, text="500", seconds=0.001, status=500)


class Bench:
    """A heartbeat with a poll that is answered by hand, and a record of all that it told."""

    def __init__(self, *, interval: float = 10.0, tolerance: int = 2) -> None:
        self.clock = Clock()
        self.polls: list[float] = []
        self.pending: Deferred[PollResult] | None = None
        self.cancelled = 0
        self.beats: list[Beat] = []
        self.successes: list[float] = []
        self.given_up: list[Beat] = []
        self.poll: Callable[[], Deferred[PollResult]] = self.pend
        self.on_beat: Callable[[], object] = lambda: None
        self.heartbeat = Heartbeat(
            self.clock,
            self._poll,
            PollingSettings(interval_seconds=interval, failure_tolerance=tolerance),
            told=self._told,
            first_success=lambda: self.successes.append(self.clock.seconds()),
            gave_up=self.given_up.append,
            wall_clock=lambda: 1_000_000 + self.clock.seconds(),
        )

    def _poll(self) -> Deferred[PollResult]:
        self.polls.append(self.clock.seconds())
        return self.poll()

    def _told(self, beat: Beat) -> None:
        self.beats.append(beat)
        self.on_beat()

    def pend(self) -> Deferred[PollResult]:
        assert self.pending is None, "two polls at once"
        self.pending = Deferred(self._cancel)
        return self.pending

    def _cancel(self, _pending: Deferred[PollResult]) -> None:
        self.cancelled += 1

    def answer(self, result: PollResult) -> None:
        """Let the poll in flight end, and with it the loop's own turn."""
        assert self.pending is not None
        pending, self.pending = self.pending, None
        pending.callback(result)

    def advance(self, seconds: float) -> None:
        """Let time pass, and the call that the loop makes at once."""
        self.clock.advance(seconds)
        self.clock.advance(0)

    def next_poll_after(self, limit: float = 1000.0) -> float:
        """Seconds until the next poll starts."""
        before, began = len(self.polls), self.clock.seconds()
        while len(self.polls) == before:
            calls = self.clock.getDelayedCalls()
            assert calls and self.clock.seconds() - began < limit
            self.clock.advance(max(0.0, min(call.getTime() for call in calls) - self.clock.seconds()))
        return self.polls[-1] - began


def ready_bench(*, interval: float = 10.0, tolerance: int = 2) -> Bench:
    """A bench whose first poll has succeeded."""
    bench = Bench(interval=interval, tolerance=tolerance)
    bench.heartbeat.start()
    bench.answer(GOOD)
    return bench


class RhythmTests(SynchronousTestCase):
    """When a poll is made."""

    def test_polls_at_once(self) -> None:
        """The first poll starts with the heartbeat, not an interval later."""
        bench = Bench()
        bench.heartbeat.start()
        self.assertEqual(bench.polls, [0.0])

    def test_first_beats_come_in_quick_succession(self) -> None:
        """Until the first success the pauses grow from 10 ms to a quarter of a second, and no further."""
        bench = Bench()
        bench.poll = lambda: succeed(BAD)
        bench.heartbeat.start()
        pauses = [bench.next_poll_after() for _ in range(15)]
        self.assertAlmostEqual(pauses[0], 0.01)
        self.assertAlmostEqual(pauses[1], 0.015)
        self.assertEqual(pauses, sorted(pauses))
        self.assertAlmostEqual(pauses[-1], 0.25)

    def test_readiness_is_seen_in_time(self) -> None:
        """Whenever the application becomes ready, the pause that hides it is at most half of that time."""
        bench = Bench()
        bench.poll = lambda: succeed(BAD)
        bench.heartbeat.start()
        for _ in range(15):
            elapsed = bench.clock.seconds()
            pause = bench.next_poll_after()
            self.assertLessEqual(pause, max(0.01, elapsed / 2 + 0.011))

    def test_first_pauses_are_no_longer_than_the_interval(self) -> None:
        """A short interval is kept during the start as well."""
        bench = Bench(interval=0.1)
        bench.poll = lambda: succeed(BAD)
        bench.heartbeat.start()
        self.assertAlmostEqual(max(bench.next_poll_after() for _ in range(10)), 0.1)

    def test_a_full_interval_after_the_last_one_finished(self) -> None:
        """After a poll of 9 s at an interval of 10 the next comes after 10, not after 1."""
        bench = ready_bench()
        self.assertAlmostEqual(bench.next_poll_after(), 10)
        bench.advance(9)
        bench.answer(GOOD)
        self.assertAlmostEqual(bench.next_poll_after(), 10)

    def test_never_two_at_once(self) -> None:
        """A poll that takes longer than the interval is waited for."""
        bench = ready_bench()
        bench.next_poll_after()
        bench.advance(1000)
        self.assertEqual(len(bench.polls), 2)
        bench.answer(BAD)
        self.assertAlmostEqual(bench.next_poll_after(), 10)

    def test_a_shorter_interval_counts_at_once(self) -> None:
        """The pause that has begun ends by the new interval, counted from its beginning."""
        bench = ready_bench(interval=100)
        bench.advance(3)
        bench.heartbeat.set_interval(5)
        self.assertAlmostEqual(bench.next_poll_after(), 2)
        bench.answer(GOOD)
        self.assertAlmostEqual(bench.next_poll_after(), 5)

    def test_an_interval_that_has_passed_already_polls_at_once(self) -> None:
        """Nobody waits for an old interval to run out."""
        bench = ready_bench(interval=100)
        bench.advance(50)
        bench.heartbeat.set_interval(5)
        self.assertAlmostEqual(bench.next_poll_after(), 0)

    def test_a_longer_interval_counts_at_once(self) -> None:
        """The pause that has begun grows with it."""
        bench = ready_bench(interval=10)
        bench.advance(3)
        bench.heartbeat.set_interval(60)
        self.assertAlmostEqual(bench.next_poll_after(), 57)

    def test_the_interval_changes_during_a_poll(self) -> None:
        """The pause behind the poll in flight is the new one."""
        bench = ready_bench()
        bench.next_poll_after()
        bench.heartbeat.set_interval(3)
        bench.answer(GOOD)
        self.assertAlmostEqual(bench.next_poll_after(), 3)

    def test_the_interval_changes_before_the_first_success(self) -> None:
        """The quick beats of the start stay quick."""
        bench = Bench()
        bench.heartbeat.start()
        bench.answer(BAD)
        bench.heartbeat.set_interval(60)
        self.assertAlmostEqual(bench.next_poll_after(), 0.01)

    def test_the_interval_changes_before_the_start(self) -> None:
        """Setting it is no way to start a heartbeat."""
        bench = Bench()
        bench.heartbeat.set_interval(3)
        self.assertEqual(bench.polls, [])
        bench.heartbeat.start()
        bench.answer(GOOD)
        self.assertAlmostEqual(bench.next_poll_after(), 3)


class CountingTests(SynchronousTestCase):
    """What follows from the answers."""

    def test_a_beat_tells_all_of_a_poll(self) -> None:
        """The wall clock's time, the duration and the words of the poll stand in the beat."""
        bench = ready_bench()
        self.assertEqual(bench.beats, [Beat(at=1_000_000, ok=True, seconds=0.001, text="200", failures=0)])

    def test_failures_before_the_first_success_have_no_consequence(self) -> None:
        """They are told and counted, but the start-up deadline judges them."""
        bench = Bench(tolerance=0)
        bench.poll = lambda: succeed(BAD)
        bench.heartbeat.start()
        for _ in range(20):
            bench.next_poll_after()
        self.assertEqual([beat.failures for beat in bench.beats], list(range(1, 22)))
        self.assertEqual((bench.given_up, bench.successes), ([], []))

    def test_the_first_success_is_told_once(self) -> None:
        """`first_success` means ready, which a worker becomes once."""
        bench = ready_bench()
        bench.next_poll_after()
        bench.answer(BAD)
        bench.next_poll_after()
        bench.answer(GOOD)
        self.assertEqual(bench.successes, [0.0])

    def test_gives_up_above_the_tolerance(self) -> None:
        """Two tolerable failures are told, the third ends it, and nothing is polled any more."""
        bench = ready_bench(tolerance=2)
        for _ in range(3):
            self.assertEqual(bench.given_up, [])
            bench.next_poll_after()
            bench.answer(BAD)
        self.assertEqual([beat.failures for beat in bench.beats], [0, 1, 2, 3])
        self.assertEqual(bench.given_up, bench.beats[-1:])
        self.assertEqual(bench.clock.getDelayedCalls(), [])

    def test_a_tolerance_of_none_gives_up_at_once(self) -> None:
        """With a tolerance of 0 the first failure is one too many."""
        bench = ready_bench(tolerance=0)
        bench.next_poll_after()
        bench.answer(BAD)
        self.assertEqual(len(bench.given_up), 1)

    def test_a_success_resets_the_count(self) -> None:
        """The original never did, so that rare failures killed a worker in the end."""
        bench = ready_bench(tolerance=1)
        for result in (BAD, GOOD) * 10:
            bench.next_poll_after()
            bench.answer(result)
        self.assertEqual(bench.given_up, [])
        self.assertEqual({beat.failures for beat in bench.beats}, {0, 1})

    def test_failures_of_the_start_do_not_count_afterwards(self) -> None:
        """The first success resets the count as any other does."""
        bench = Bench(tolerance=1)
        bench.heartbeat.start()
        for result in (BAD, BAD, BAD, GOOD):
            bench.answer(result)
            bench.next_poll_after()
        bench.answer(BAD)
        self.assertEqual(bench.given_up, [])

    @given(st.lists(st.booleans(), max_size=40), st.integers(0, 4))
    @settings(deadline=None, max_examples=150)
    def test_law_of_giving_up(self, outcomes: list[bool], tolerance: int) -> None:
        """It gives up at the first run of failures longer than the tolerance after a success, or never."""
        bench = Bench(tolerance=tolerance)
        bench.heartbeat.start()
        expected, in_a_row, seen_success = None, 0, False
        for number, ok in enumerate(outcomes):
            in_a_row = 0 if ok else in_a_row + 1
            seen_success = seen_success or ok
            if seen_success and in_a_row > tolerance:
                expected = number
                break
        for ok in outcomes:
            if bench.pending is None:
                break
            bench.answer(GOOD if ok else BAD)
            if bench.clock.getDelayedCalls():
                bench.next_poll_after()
        told = len(bench.beats) - 1 if bench.given_up else None
        self.assertEqual(told, expected)
        self.assertEqual(len(bench.given_up), 0 if expected is None else 1)
        bench.heartbeat.stop()
        self.assertEqual(bench.clock.getDelayedCalls(), [])


class RobustnessTests(SynchronousTestCase):
    """Nothing ends a heartbeat but `stop` and giving up."""

    def test_a_poll_that_raises_is_a_failure(self) -> None:
        """LoopingCall would stop for good at an exception; the heartbeat counts it."""
        bench = ready_bench()

        def broken() -> Deferred[PollResult]:
            raise ZeroDivisionError("no")

        bench.poll = broken
        bench.next_poll_after()
        bench.next_poll_after()
        self.assertEqual([beat.failures for beat in bench.beats], [0, 1, 2])
        self.assertEqual(bench.beats[-1].text, "the poll failed: ZeroDivisionError: no")

    def test_a_poll_that_fails_is_a_failure(self) -> None:
        """A Deferred that fails ends no loop either, and its duration is known."""
        bench = ready_bench()
        bench.next_poll_after()
        bench.advance(4)
        assert bench.pending is not None
        pending, bench.pending = bench.pending, None
        pending.errback(KeyError("x"))
        self.assertFalse(bench.beats[-1].ok)
        self.assertAlmostEqual(bench.beats[-1].seconds, 4)
        self.assertAlmostEqual(bench.next_poll_after(), 10)

    def test_callbacks_that_raise_are_logged_and_survived(self) -> None:
        """A fault in what is told costs neither the next callback nor the next beat."""
        bench = Bench(tolerance=0)

        calls: list[str] = []

        def raising(name: str) -> Callable[..., object]:
            def call(*_: object) -> None:
                calls.append(name)
                raise ZeroDivisionError

            return call

        heartbeat = Heartbeat(
            bench.clock,
            bench.pend,
            PollingSettings(failure_tolerance=0),
            told=raising("told"),
            first_success=raising("first"),
            gave_up=raising("gave up"),
        )
        heartbeat.start()
        bench.answer(GOOD)
        bench.advance(10)
        bench.answer(BAD)
        self.assertEqual(calls, ["told", "first", "told", "gave up"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 4)

    def test_polls_that_answer_at_once_do_not_recurse(self) -> None:
        """A thousand synchronous answers need no deeper stack than one."""
        bench = Bench(interval=0.1)
        bench.poll = lambda: succeed(GOOD)
        bench.heartbeat.start()
        for _ in range(2000):
            bench.advance(0.1)
        self.assertGreater(len(bench.polls), 1000)


class StopTests(SynchronousTestCase):
    """The end of a heartbeat."""

    def test_stops_in_a_pause(self) -> None:
        """No timer is left behind."""
        bench = ready_bench()
        bench.heartbeat.stop()
        self.assertEqual(bench.clock.getDelayedCalls(), [])

    def test_stops_between_pause_and_poll(self) -> None:
        """The turn in which the loop is about to call again is no gap."""
        bench = ready_bench()
        bench.clock.callLater(10, bench.heartbeat.stop)
        bench.advance(10)
        self.assertEqual(bench.clock.getDelayedCalls(), [])
        bench.advance(100)
        self.assertEqual(len(bench.polls), 1)

    def test_stops_in_a_poll(self) -> None:
        """The poll in flight is cancelled, and nobody is told of it."""
        bench = ready_bench()
        bench.next_poll_after()
        bench.heartbeat.stop()
        self.assertEqual(bench.cancelled, 1)
        self.assertEqual(len(bench.beats), 1)
        self.assertEqual(bench.clock.getDelayedCalls(), [])

    def test_a_cancelled_poll_may_still_answer(self) -> None:
        """A poll that answers its cancellation with a result is not heard any more."""
        bench = ready_bench()
        bench.poll = lambda: Deferred(lambda pending: pending.callback(BAD))
        bench.next_poll_after()
        bench.heartbeat.stop()
        self.assertEqual(len(bench.beats), 1)
        self.assertEqual(bench.clock.getDelayedCalls(), [])

    def test_stopping_twice_or_before_the_start_is_harmless(self) -> None:
        """The order of a shutdown need not know what runs."""
        bench = Bench()
        bench.heartbeat.stop()
        bench.heartbeat.start()
        self.assertEqual(bench.polls, [])
        bench = ready_bench()
        bench.heartbeat.stop()
        bench.heartbeat.stop()
        bench.heartbeat.set_interval(1)
        self.assertEqual(bench.clock.getDelayedCalls(), [])

    def test_stops_from_within_what_is_told(self) -> None:
        """A `told` that stops the heartbeat is the last thing that is called."""
        bench = Bench()
        bench.on_beat = bench.heartbeat.stop
        bench.heartbeat.start()
        bench.answer(GOOD)
        self.assertEqual(bench.successes, [])
        self.assertEqual(bench.clock.getDelayedCalls(), [])

    def test_stops_from_within_a_poll(self) -> None:
        """An application may end the worker from its own health route."""
        bench = Bench()

        def stopping() -> Deferred[PollResult]:
            bench.heartbeat.stop()
            return fail(ValueError("too late"))

        bench.poll = stopping
        bench.heartbeat.start()
        self.assertEqual(bench.beats, [])
        self.assertEqual(bench.clock.getDelayedCalls(), [])
