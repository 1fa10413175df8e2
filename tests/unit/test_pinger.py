"""Does it turn? The pinger tells who hangs, and never blames a worker for the monitor's own sleep."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from serverworker.monitor.pinger import Pinger
from serverworker.values.errors import PeerLost
from serverworker.values.settings import WatchdogSettings

TIMEOUT = 10.0


class Pinged:
    """A worker that answers when the test says so."""

    def __init__(self, number: int, *, answers: bool = True) -> None:
        self.id = number
        self.answers = answers
        self.pings = 0
        self.waiting: list[Deferred[None]] = []

    def ping(self) -> Deferred[None]:
        self.pings += 1
        answer: Deferred[None] = Deferred()
        self.waiting.append(answer)
        if self.answers:
            self.answer()
        return answer

    def answer(self) -> None:
        waiting, self.waiting = self.waiting, []
        for each in waiting:
            each.callback(None)


class PingerTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.workers: list[Pinged] = []
        self.hung: list[tuple[int, float]] = []
        self.pinger = self.make()

    def make(self) -> Pinger:
        return Pinger(
            clock=self.clock,
            settings=WatchdogSettings(interval_seconds=1.0, timeout_seconds=TIMEOUT),
            workers=self.pinged,
            hung=lambda worker, seconds: self.hung.append((worker, seconds)),
        )

    def pinged(self) -> Iterable[Pinged]:
        return list(self.workers)

    def worker(self, *, answers: bool = True) -> Pinged:
        worker = Pinged(len(self.workers) + 1, answers=answers)
        self.workers.append(worker)
        return worker

    def turn(self, seconds: float) -> None:
        """The monitor turns eight times a second for so long."""
        self.clock.pump([0.125] * round(seconds * 8))

    def sleep(self, seconds: float) -> None:
        """The monitor does not turn for so long: stopped, or out of processor time."""
        self.clock.advance(seconds)


class PingTests(PingerTestCase):
    """Who is asked, and when."""

    def test_interval(self) -> None:
        """All are asked once in an interval, by one timer; nobody before the first has passed."""
        first, second = self.worker(), self.worker()
        self.pinger.start()
        self.assertEqual((first.pings, len(self.clock.getDelayedCalls())), (0, 1))
        self.turn(5)
        self.assertEqual((first.pings, second.pings), (5, 5))
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.assertEqual(self.hung, [])

    def test_one_question_at_a_time(self) -> None:
        """Who has not answered yet is not asked again."""
        silent = self.worker(answers=False)
        self.pinger.start()
        self.turn(5)
        self.assertEqual(silent.pings, 1)

    def test_who_is_there(self) -> None:
        """Workers come and go; who has gone is forgotten, question and all."""
        gone = self.worker(answers=False)
        self.pinger.start()
        self.turn(5)
        self.workers.clear()
        self.turn(20)
        self.workers.append(gone)  # of the same number, as where it has been activated meanwhile
        self.turn(5)
        self.assertEqual(self.hung, [])
        self.assertEqual(gone.pings, 2)

    def test_stop(self) -> None:
        """Afterwards nobody is asked or judged; to stop what was not started is no error."""
        self.pinger.stop()
        worker = self.worker(answers=False)
        self.pinger.start()
        self.turn(2)
        self.pinger.stop()
        self.pinger.stop()
        self.turn(30)
        self.assertEqual((worker.pings, self.hung), (1, []))
        self.assertEqual(self.clock.getDelayedCalls(), [])


class LatenessTests(PingerTestCase):
    """How late a worker is."""

    def test_answer(self) -> None:
        """What the last answer took; nothing before the first, and of who is not asked."""
        worker = self.worker(answers=False)
        self.pinger.start()
        self.turn(1.5)
        self.assertIsNone(self.pinger.seconds(1))
        worker.answer()
        self.assertEqual(self.pinger.seconds(1), 0.5)
        self.assertIsNone(self.pinger.seconds(2))

    def test_no_answer(self) -> None:
        """Who owes an answer is as late as it owes it, once that is longer than its last answer took."""
        worker = self.worker(answers=False)
        self.pinger.start()
        self.turn(3)
        self.assertEqual(self.pinger.seconds(1), 2.0)  # the first one, overdue
        worker.answer()
        self.turn(1.125)  # asked again a moment ago: no news yet
        self.assertEqual(self.pinger.seconds(1), 2.0)
        self.turn(5)
        self.assertEqual(self.pinger.seconds(1), 5.125)

    def test_gone(self) -> None:
        """Who has gone is forgotten; a link that broke is no answer."""
        worker = self.worker(answers=False)
        self.pinger.start()
        self.turn(1.5)
        worker.waiting[0].errback(PeerLost("worker 1 has ended"))
        self.assertIsNone(self.pinger.seconds(1))
        worker.answers, worker.waiting = True, []
        self.turn(1)
        self.assertEqual(self.pinger.seconds(1), 0.0)
        self.workers.clear()
        self.turn(1)
        self.assertIsNone(self.pinger.seconds(1))


class HangTests(PingerTestCase):
    """Who hangs."""

    def test_hung(self) -> None:
        """Who has not answered within the deadline hangs, by the seconds that it was waited for."""
        self.worker(answers=False)
        self.pinger.start()
        self.turn(1 + TIMEOUT - 0.5)
        self.assertEqual(self.hung, [])
        self.turn(1)
        ((worker, seconds),) = self.hung
        self.assertEqual(worker, 1)
        self.assertEqual(seconds, TIMEOUT)

    def test_told_once(self) -> None:
        """It is told once; only one that should still be there after another whole deadline is told again."""
        worker = self.worker(answers=False)
        self.pinger.start()
        self.turn(1 + TIMEOUT + 5)
        self.assertEqual(len(self.hung), 1)
        self.turn(TIMEOUT)
        self.assertEqual(len(self.hung), 2)
        self.assertEqual(worker.pings, 3)

    def test_one_of_many(self) -> None:
        """The others answer for themselves alone."""
        self.worker()
        self.worker(answers=False)
        self.worker()
        self.pinger.start()
        self.turn(1 + TIMEOUT + 1)
        self.assertEqual([worker for worker, _ in self.hung], [2])

    def test_slow_is_not_hung(self) -> None:
        """One that takes nine seconds for each answer, for as long as it likes, is slow and no more."""
        slow = self.worker(answers=False)
        self.pinger.start()
        for _ in range(20):
            self.turn(TIMEOUT - 1)
            slow.answer()
        self.assertEqual(self.hung, [])

    def test_late_answer(self) -> None:
        """An answer in the last moment counts, and the deadline begins anew with it."""
        worker = self.worker(answers=False)
        self.pinger.start()
        self.turn(1 + TIMEOUT - 0.5)
        worker.answer()
        self.turn(TIMEOUT - 0.5)
        self.assertEqual(self.hung, [])
        self.turn(2)
        self.assertEqual(len(self.hung), 1)

    def test_from_the_last_answer(self) -> None:
        """The deadline counts from the last answer: who hangs from right behind it is told no later for that."""
        worker = self.worker()
        self.pinger.start()
        self.turn(5)
        worker.answers = False
        self.turn(TIMEOUT - 0.125)
        self.assertEqual(self.hung, [])
        self.turn(0.125)
        self.assertEqual(self.hung, [(1, TIMEOUT)])

    def test_jitter(self) -> None:
        """A timer that is always late by a little, and an answer that takes its moment, put no judgement off."""
        worker = self.worker(answers=False)
        self.pinger.start()
        for second in range(1, 2 + round(TIMEOUT)):
            self.assertEqual(self.hung, [])
            late = 0.05 - 0.004 * second
            self.clock.advance(second + late - self.clock.seconds())
            if second == 1:
                worker.answer()
        self.assertEqual(len(self.hung), 1)

    def test_broken_link(self) -> None:
        """A link that breaks is no hang: its loss is told by others."""

        class Lost(Pinged):
            def ping(self) -> Deferred[None]:
                self.pings += 1
                return fail(PeerLost("worker 1 ended"))

        self.workers.append(Lost(1))
        self.pinger.start()
        self.turn(3 * TIMEOUT)
        self.assertEqual(self.hung, [])

    def test_a_round_that_fails(self) -> None:
        """What goes wrong in one round is logged, and the next round comes: the watch does not end in silence."""
        faults = [RuntimeError("no workers now")]

        def workers() -> Iterable[Pinged]:
            if faults:
                raise faults.pop()
            return self.workers

        self.pinger = Pinger(
            clock=self.clock,
            settings=WatchdogSettings(interval_seconds=1.0, timeout_seconds=TIMEOUT),
            workers=workers,
            hung=lambda worker, seconds: self.hung.append((worker, seconds)),
        )
        self.worker(answers=False)
        self.pinger.start()
        self.turn(1)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.turn(2 + TIMEOUT)
        self.assertEqual(len(self.hung), 1)


class SleepTests(PingerTestCase):
    """Time in which the monitor itself did not turn counts against nobody."""

    def test_monitor_was_stopped(self) -> None:
        """After a minute's sleep of the monitor nobody hangs, though the answer could not be read yet."""
        worker = self.worker(answers=False)
        self.pinger.start()
        self.turn(1.5)
        self.sleep(60)
        self.assertEqual(self.hung, [])
        worker.answer()  # it lay in the socket all the time
        self.turn(3)
        self.assertEqual(self.hung, [])
        self.assertGreaterEqual(worker.pings, 2)

    def test_asleep_after_an_answer(self) -> None:
        """A sleep right behind a worker's answer counts no more than any other."""
        worker = self.worker()
        self.pinger.start()
        self.turn(1.5)
        worker.answers = False
        self.sleep(60)
        self.turn(TIMEOUT - 2)
        self.assertEqual(self.hung, [])

    def test_asleep_over_and_over(self) -> None:
        """Nor after many sleeps, each as long as the deadline, with hardly a turn between them."""
        self.worker(answers=False)
        self.pinger.start()
        self.turn(1)
        for _ in range(5):
            self.sleep(TIMEOUT)
            self.turn(0.125)
        self.assertEqual(self.hung, [])

    def test_hung_meanwhile(self) -> None:
        """A worker that hangs is found after the sleep: the time that the monitor did turn counts on."""
        self.worker(answers=False)
        self.pinger.start()
        self.turn(6)  # five seconds since the question
        self.sleep(60)
        self.turn(3)
        self.assertEqual(self.hung, [])
        self.turn(4)
        ((_, seconds),) = self.hung
        self.assertTrue(TIMEOUT <= seconds <= TIMEOUT + 1, seconds)

    @given(st.lists(st.floats(0.01, 30), max_size=60))
    @settings(deadline=None, max_examples=100)
    def test_never_too_early(self, steps: list[float]) -> None:
        """However the monitor turns and sleeps, nobody hangs before it has turned for about the deadline.

        In steps of at most an interval it turned; of a longer one it turned for an interval at most.
        """
        clock, hung = Clock(), []
        silent = Pinged(1, answers=False)
        pinger = Pinger(
            clock=clock,
            settings=WatchdogSettings(interval_seconds=1.0, timeout_seconds=TIMEOUT),
            workers=lambda: [silent],
            hung=lambda worker, seconds: hung.append(seconds),
        )
        pinger.start()
        turned = 0.0
        for step in steps:
            clock.advance(step)
            if hung:
                break
            turned += min(step, 1.0)
        pinger.stop()
        if hung:
            self.assertGreaterEqual(turned, TIMEOUT - 1.0)
