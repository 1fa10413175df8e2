"""Calling what an application wrote, with a deadline."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred, TimeoutError, fail, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from serverworker.processes.awaiting import finished, record_of, within


class FinishedTests(SynchronousTestCase):
    """One Deferred for whatever a function is."""

    def test_kinds(self) -> None:
        """A plain result, a Deferred's and a coroutine's come alike."""

        async def coroutine(number: int) -> int:
            return number + 1

        for function in (lambda number: number + 1, lambda number: succeed(number + 1), coroutine):
            self.assertEqual(self.successResultOf(finished(function, 1)), 2)

    def test_errors(self) -> None:
        """So do errors, that of a call with the wrong arguments among them; nothing is raised."""

        async def coroutine() -> None:
            raise ValueError("in a coroutine")

        def plain() -> None:
            raise ValueError("at once")

        for function in (coroutine, plain, lambda: fail(ValueError("later"))):
            self.failureResultOf(finished(function), ValueError)
        self.failureResultOf(finished(plain, 1, 2), TypeError)

    def test_system_exit(self) -> None:
        """A call of sys.exit is a failure as any other: it does not end the caller."""

        def leaver() -> None:
            raise SystemExit(3)

        self.failureResultOf(finished(leaver), SystemExit)


class WithinTests(SynchronousTestCase):
    """A Deferred with a deadline."""

    def setUp(self) -> None:
        self.clock = Clock()

    def within(self, deferred: Deferred[Any]) -> Deferred[Any]:
        return within(self.clock, 2.5, "the backup", deferred)

    def assert_nothing_left(self) -> None:
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_in_time(self) -> None:
        """What comes in time is the answer, and no timer is left; also when it has come before."""
        self.assertEqual(self.successResultOf(self.within(succeed("done"))), "done")
        self.assert_nothing_left()
        slow: Deferred[str] = Deferred()
        answer = self.within(slow)
        self.clock.advance(2.4)
        self.assertNoResult(answer)
        slow.callback("done")
        self.assertEqual(self.successResultOf(answer), "done")
        self.assert_nothing_left()

    def test_failure_in_time(self) -> None:
        """A failure is passed on as it is."""
        self.failureResultOf(self.within(fail(ValueError("no"))), ValueError)
        self.assert_nothing_left()

    def test_too_late(self) -> None:
        """At the deadline the answer is an error that names what was waited for, and the Deferred is cancelled."""
        cancelled: list[Deferred[Any]] = []
        slow: Deferred[Any] = Deferred(cancelled.append)
        answer = self.within(slow)
        self.clock.advance(2.5)
        failure = self.failureResultOf(answer, TimeoutError)
        self.assertEqual(failure.getErrorMessage(), "the backup has not finished within 2.5 s")
        self.assertEqual(cancelled, [slow])
        self.assert_nothing_left()

    def test_takes_no_notice(self) -> None:
        """The answer comes at the deadline though the Deferred goes on; what it comes to later is nobody's."""
        stubborn: Deferred[None] = Deferred()

        async def goes_on() -> str:
            try:
                await stubborn
            except CancelledError:
                return await late
            return "never"

        late: Deferred[str] = Deferred()
        answer = self.within(Deferred.fromCoroutine(goes_on()))
        self.clock.advance(2.5)
        self.failureResultOf(answer, TimeoutError)
        late.errback(ValueError("far too late"))
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_cancelled(self) -> None:
        """To cancel the answer is to cancel the Deferred; neither timer nor error is left."""
        cancelled: list[Deferred[Any]] = []
        slow: Deferred[Any] = Deferred(cancelled.append)
        answer = self.within(slow)
        answer.cancel()
        self.failureResultOf(answer, CancelledError)
        self.assertEqual(cancelled, [slow])
        self.assert_nothing_left()

    def test_cancelled_but_goes_on(self) -> None:
        """A Deferred that outlives its being cancelled disturbs nobody when it ends."""
        late: Deferred[str] = Deferred()

        async def goes_on() -> str:
            try:
                await Deferred()
            except CancelledError:
                return await late
            return "never"

        answer = self.within(Deferred.fromCoroutine(goes_on()))
        answer.cancel()
        self.failureResultOf(answer, CancelledError)
        self.assert_nothing_left()
        late.callback("late")


class RecordTests(SynchronousTestCase):
    """The record of a failure."""

    def failure(self) -> Failure:
        try:
            raise KeyError("missing")
        except KeyError:
            return Failure()

    def test_traceback(self) -> None:
        """Class, message and traceback are kept."""
        record = record_of(self.failure())
        self.assertEqual((record.type, record.message), ("builtins.KeyError", "'missing'"))
        self.assertIn('raise KeyError("missing")', record.traceback)

    def test_cleaned(self) -> None:
        """A failure that has let go of its frames still tells where it was: by its own text."""
        failure = self.failure()
        failure.cleanFailure()
        assert failure.value is not None
        failure.value.__traceback__ = None
        record = record_of(failure)
        self.assertEqual(record.message, "'missing'")
        self.assertIn("test_awaiting.py", record.traceback)
