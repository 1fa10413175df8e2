"""Who handles an emit, and what comes of it."""

from __future__ import annotations

from functools import partial
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail, inlineCallbacks
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from serverworker.values.errors import ErrorRecord, HandlerOutcome, RemoteError, UnhandledMessage
from serverworker.wire.emits import Handlers, describe, results_of


def pair(number: int, args: Any) -> list[Any]:
    return [number, args]


class RegistryTests(SynchronousTestCase):
    """`Handlers.on`, `off`, `clear`."""

    def setUp(self) -> None:
        self.handlers = Handlers()

    def run_all(self, name: str = "note", args: Any = None) -> list[Any]:
        outcomes = self.successResultOf(self.handlers.dispatch(name, args))
        return results_of(outcomes)

    def test_order(self) -> None:
        """Results stand in the order of registration, whatever the name of the handler."""
        for number in (3, 1, 2):
            self.handlers.on("note", partial(pair, number))
        self.assertEqual(self.run_all(args="hello"), [[3, "hello"], [1, "hello"], [2, "hello"]])

    def test_twice(self) -> None:
        """A handler that is registered twice runs twice; `off` takes one registration away, the latest."""
        for handler in (str, repr, str, len):
            self.handlers.on("note", handler)
        self.assertEqual(self.run_all(args="a"), ["a", "'a'", "a", 1])
        self.handlers.off("note", str)
        self.assertEqual(self.run_all(args="a"), ["a", "'a'", 1])
        self.handlers.off("note", str)
        self.assertEqual(self.run_all(args="a"), ["'a'", 1])

    def test_bound_method(self) -> None:
        """A bound method is taken away by its equal."""
        self.handlers.on("note", self.bound)
        self.handlers.off("note", self.bound)
        self.assertEqual(self.handlers.names, ())

    def bound(self, args: Any) -> None:
        pass

    def test_off_unknown(self) -> None:
        """To take away what is not there does nothing."""
        self.handlers.off("note", str)
        self.handlers.on("note", str)
        self.handlers.off("note", repr)
        self.handlers.off("other", str)
        self.assertEqual(self.handlers.names, ("note",))

    def test_clear(self) -> None:
        """All handlers of one name go, and no others."""
        for name in ("note", "note", "other"):
            self.handlers.on(name, str)
        self.handlers.clear("note")
        self.handlers.clear("never")
        self.assertEqual(self.handlers.names, ("other",))

    def test_names(self) -> None:
        """The names that somebody handles come in the order of the alphabet."""
        for name in ("b", "c", "a"):
            self.handlers.on(name, str)
        self.assertEqual(self.handlers.names, ("a", "b", "c"))

    def test_object_names(self) -> None:
        """Names that every object has are names like others (they were not, in the original)."""
        error = self.failureResultOf(self.handlers.dispatch("__init__"), UnhandledMessage).value
        assert isinstance(error, UnhandledMessage)
        self.assertEqual(error.known, ())

    def test_unhandled(self) -> None:
        """A name that nobody handles is told, with the nearest one that somebody does."""
        self.handlers.on("backup", str)
        self.handlers.on("delete", str)
        error = self.failureResultOf(self.handlers.dispatch("bakcup"), UnhandledMessage).value
        self.assertEqual(str(error), "nobody handles 'bakcup'; did you mean 'backup'?")

    def test_refused(self) -> None:
        """A handler that cannot be called, or a name that is none, is refused at once, by name."""
        error = self.assertRaises(TypeError, self.handlers.on, "note", "str")
        self.assertEqual(str(error), "the handler of 'note' must be callable, not str")
        error = self.assertRaises(TypeError, self.handlers.on, b"note", str)
        self.assertEqual(str(error), "a message's name must be text, not bytes")
        self.assertRaises(ValueError, self.handlers.on, "", str)
        self.assertRaises(ValueError, self.handlers.on, "n" * 256, str)
        self.assertEqual(self.handlers.names, ())

    def test_changed_while_dispatching(self) -> None:
        """Handlers that come and go during a dispatch take part, or do not, from the next one on."""

        def change(args: Any) -> str:
            self.handlers.off("note", last)
            self.handlers.on("note", lambda args: "new")
            return "first"

        def last(args: Any) -> str:
            return "last"

        self.handlers.on("note", change)
        self.handlers.on("note", last)
        self.assertEqual(self.run_all(), ["first", "last"])
        self.handlers.off("note", change)
        self.assertEqual(self.run_all(), ["new"])


class DispatchTests(SynchronousTestCase):
    """`Handlers.dispatch`: all handlers run, at once, and each has an outcome."""

    def setUp(self) -> None:
        self.handlers = Handlers()

    def test_kinds(self) -> None:
        """Plain functions, Deferreds, coroutine functions and callable objects answer alike, all at once."""
        waiting: list[Deferred[str]] = [Deferred(), Deferred()]

        async def coroutine(args: str) -> str:
            return args + await waiting[1]

        @inlineCallbacks
        def generator(args: str) -> Any:
            yield None
            return args + "generator"

        self.handlers.on("note", lambda args: args + "plain")
        self.handlers.on("note", lambda args: waiting[0])
        self.handlers.on("note", coroutine)
        self.handlers.on("note", generator)
        self.handlers.on("note", partial(str.__add__, "partial "))
        done = self.handlers.dispatch("note", "a ")
        self.assertNoResult(done)
        waiting[1].callback("coroutine")
        self.assertNoResult(done)
        waiting[0].callback("deferred")
        outcomes = self.successResultOf(done)
        self.assertEqual(
            results_of(outcomes), ["a plain", "deferred", "a coroutine", "a generator", "partial a "]
        )

    def test_failures(self) -> None:
        """A handler that fails, at once or later, stops no other, and its traceback names its own line."""
        later: Deferred[None] = Deferred()

        def at_once(args: Any) -> None:
            raise ValueError("at once")

        async def in_time(args: Any) -> None:
            await later
            raise OSError("in time")

        def cleaned(args: Any) -> Deferred[None]:
            failing: Deferred[None] = Deferred()
            later.addCallback(lambda _: failing.errback(ZeroDivisionError("by hand")))
            return failing

        self.handlers.on("note", at_once)
        self.handlers.on("note", in_time)
        self.handlers.on("note", cleaned)
        self.handlers.on("note", lambda args: "well")
        done = self.handlers.dispatch("note")
        later.callback(None)
        outcomes = self.successResultOf(done)
        errors = [outcome.error for outcome in outcomes]
        self.assertEqual(
            [error and (error.type, error.message) for error in errors],
            [
                ("builtins.ValueError", "at once"),
                ("builtins.OSError", "in time"),
                ("builtins.ZeroDivisionError", "by hand"),
                None,
            ],
        )
        self.assertEqual(outcomes[3].result, "well")
        for error, line in zip(
            errors, ["in at_once", "in in_time", "ZeroDivisionError: by hand"], strict=False
        ):
            assert error is not None
            self.assertIn(line, error.traceback)

    def test_failed_failure(self) -> None:
        """A Failure that was cleaned has lost its exception's traceback, and is told with its own."""

        def handler(args: Any) -> Deferred[None]:
            try:
                raise LookupError("gone")
            except LookupError:
                failure = Failure()
            failure.cleanFailure()
            return fail(failure)

        self.handlers.on("note", handler)
        [outcome] = self.successResultOf(self.handlers.dispatch("note"))
        assert outcome.error is not None
        self.assertIn("in handler", outcome.error.traceback)

    def test_exit(self) -> None:
        """`sys.exit` and its kin in a handler are that handler's error and end no process."""
        for kind in (SystemExit, KeyboardInterrupt, GeneratorExit, CancelledError):

            def leave(args: Any, kind: type[BaseException] = kind) -> None:
                raise kind("now")

            self.handlers.clear("note")
            self.handlers.on("note", leave)
            [outcome] = self.successResultOf(self.handlers.dispatch("note"))
            assert outcome.error is not None
            self.assertTrue(outcome.error.type.endswith(kind.__name__))

    def test_results_of(self) -> None:
        """One failure fails the whole, with the record of the first and the outcomes of all."""
        record = ErrorRecord(type="builtins.OSError", message="disk full", traceback="Traceback …")
        outcomes = [
            HandlerOutcome(result=1),
            HandlerOutcome(error=record),
            HandlerOutcome(error=ErrorRecord(type="x.Y", message="")),
        ]
        error = self.assertRaises(RemoteError, results_of, outcomes)
        assert isinstance(error, RemoteError)
        self.assertEqual((str(error), error.remote_traceback), ("OSError: disk full", "Traceback …"))
        self.assertEqual((error.record, error.outcomes), (record, tuple(outcomes)))
        self.assertEqual(results_of(outcomes[:1]), [1])

    def test_describe(self) -> None:
        """A handler is named as its author wrote it, or by its kind."""
        self.assertEqual(describe(RegistryTests().bound), "RegistryTests.bound")
        self.assertEqual(describe(partial(str)), "a partial")
