"""Exit handlers: all run, at the same time, within a deadline, once (row W4 of the original)."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred, TimeoutError, ensureDeferred
from twisted.internet.task import Clock, deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from serverworker.processes.exit_handlers import ExitHandlers
from serverworker.values.errors import ErrorRecord
from serverworker.values.reasons import ExitKind, ExitReason

RESTART = ExitReason(ExitKind.RESTART, text="generation 2 takes over")


class ExitHandlersTests(SynchronousTestCase):
    """What becomes of each handler, and of the exit."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.failures: list[tuple[str, Failure]] = []
        self.calls: list[Any] = []
        self.handlers = ExitHandlers(self.clock, lambda name, failure: self.failures.append((name, failure)))

    def run_all(self, reason: ExitReason = RESTART) -> Deferred[None]:
        return ensureDeferred(self.handlers.run(reason, 5.0))

    def assert_nothing_left(self) -> None:
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_none(self) -> None:
        """Without handlers the exit goes on at once."""
        self.assertIsNone(self.successResultOf(self.run_all()))

    def test_reason(self) -> None:
        """Each is given the reason: a crash has its error, a restart and the session's end their text."""
        error = ErrorRecord(type="builtins.ValueError", message="no")
        for reason in (RESTART, ExitReason(ExitKind.CRASH, error), ExitReason(ExitKind.SESSION_END)):
            handlers = ExitHandlers(self.clock, lambda name, failure: None)
            handlers.add(self.calls.append)
            self.successResultOf(ensureDeferred(handlers.run(reason, 5.0)))
            self.assertIs(self.calls.pop(), reason)

    def test_kinds(self) -> None:
        """A handler may be plain, return a Deferred, or be a coroutine function; all are waited for."""
        deferred: Deferred[None] = Deferred()

        async def coroutine(reason: ExitReason) -> None:
            await deferLater(self.clock, 3, self.calls.append, "coroutine")

        self.handlers.add(lambda reason: self.calls.append("plain"))
        self.handlers.add(lambda reason: deferred)
        self.handlers.add(coroutine)
        done = self.run_all()
        self.assertEqual(self.calls, ["plain"])
        deferred.callback(None)
        self.assertNoResult(done)
        self.clock.advance(3)
        self.successResultOf(done)
        self.assertEqual(self.calls, ["plain", "coroutine"])
        self.assertEqual(self.failures, [])
        self.assert_nothing_left()

    def test_at_the_same_time(self) -> None:
        """Nobody waits for another: three handlers of four seconds take four seconds."""
        for _ in range(3):
            self.handlers.add(lambda reason: deferLater(self.clock, 4))
        done = self.run_all()
        self.clock.advance(4)
        self.successResultOf(done)

    def test_one_that_raises(self) -> None:
        """A handler that raises, in whatever way, is reported by name, and the others run."""

        def plain(reason: ExitReason) -> None:
            raise ValueError("at once")

        async def coroutine(reason: ExitReason) -> None:
            raise KeyError("later")

        def leaver(reason: ExitReason) -> None:
            raise SystemExit(3)

        for handler in (plain, coroutine, leaver, self.calls.append):
            self.handlers.add(handler)
        self.successResultOf(self.run_all())
        self.assertEqual(self.calls, [RESTART])
        names = [name.rpartition(".")[2] for name, _ in self.failures]
        self.assertEqual(names, ["plain", "coroutine", "leaver"])
        self.assertEqual([failure.type for _, failure in self.failures], [ValueError, KeyError, SystemExit])

    def test_one_that_hangs(self) -> None:
        """A handler that is not done at the deadline is cancelled and reported, and the exit goes on."""

        async def stuck(reason: ExitReason) -> None:
            try:
                await Deferred()
            except CancelledError:
                self.calls.append("cancelled")
                raise

        self.handlers.add(stuck)
        self.handlers.add(lambda reason: deferLater(self.clock, 1))
        done = self.run_all()
        self.clock.advance(4.9)
        self.assertNoResult(done)
        self.clock.advance(0.1)
        self.successResultOf(done)
        self.assertEqual(self.calls, ["cancelled"])
        ((name, failure),) = self.failures
        self.assertIn("stuck", name)
        self.assertIsInstance(failure.value, TimeoutError)
        self.assertRegex(failure.getErrorMessage(), r"^exit handler .*stuck has not finished within 5 s$")
        self.assert_nothing_left()

    def test_once(self) -> None:
        """A process ends once: a second run, for a worse reason too, calls nobody again."""
        self.handlers.add(self.calls.append)
        self.successResultOf(self.run_all())
        self.successResultOf(self.run_all(ExitReason(ExitKind.CRASH)))
        self.assertEqual(self.calls, [RESTART])

    def test_crash_meanwhile(self) -> None:
        """A crash while handlers run waits for them: it does not cut short what the others are at."""
        self.handlers.add(lambda reason: deferLater(self.clock, 3, self.calls.append, "saved"))
        self.run_all()
        self.clock.advance(1)
        crash = self.run_all(ExitReason(ExitKind.CRASH))
        self.assertNoResult(crash)
        self.clock.advance(2)
        self.successResultOf(crash)
        self.assertEqual(self.calls, ["saved"])
        self.assert_nothing_left()

    def test_crash_does_not_wait_for_ever(self) -> None:
        """It waits for no longer than its own deadline; what it waited for ends later without a sound."""
        self.handlers.add(lambda reason: deferLater(self.clock, 20))
        leaving = ensureDeferred(self.handlers.run(RESTART, 30.0))
        crash = self.run_all(ExitReason(ExitKind.CRASH))
        self.clock.advance(5)
        self.successResultOf(crash)
        self.assertNoResult(leaving)
        self.clock.advance(15)
        self.successResultOf(leaving)
        self.assert_nothing_left()

    def test_not_callable(self) -> None:
        """What cannot be called is refused when it is added, not when the process ends."""
        error = self.assertRaises(TypeError, self.handlers.add, "tell_clients")
        self.assertIn("'tell_clients'", str(error))

    def test_without_a_name(self) -> None:
        """A callable without a name of its own is told by its repr."""

        class Callable:
            def __call__(self, reason: ExitReason) -> None:
                raise ValueError

            def __repr__(self) -> str:
                return "<the cleaner>"

        self.handlers.add(Callable())
        self.successResultOf(self.run_all())
        self.assertEqual([name for name, _ in self.failures], ["exit handler <the cleaner>"])
