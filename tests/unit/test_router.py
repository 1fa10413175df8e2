"""The emit router: every emit ends, and leaves nothing behind."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from serverworker.values.errors import (
    EmitTimeout,
    FailedDispatch,
    LinkDestroyed,
    NotJSON,
    PeerLost,
    RemoteError,
    UnhandledMessage,
    ValueTooLarge,
)
from serverworker.wire.large import MAX_VALUE_BYTES
from serverworker.wire.router import EMIT_COST_BYTES, IN_FLIGHT_BYTES
from tests.unit.router_pair import LARGE, RouterTestCase


class EmitTests(RouterTestCase):
    """What an emit comes to."""

    def test_results(self) -> None:
        """One result for each handler, in the order of registration; nothing is left."""
        self.pair.theirs.on("add", lambda args: args["a"] + args["b"])
        self.pair.theirs.on("add", lambda args: None)
        answer = self.router.emit("add", {"a": 1, "b": 2})
        self.assertNoResult(answer)
        self.pair.turn()
        self.assertEqual(self.successResultOf(answer), [3, None])
        self.assert_nothing_left()

    def test_no_value(self) -> None:
        """Without a value, handlers get None."""
        self.pair.theirs.on("note", lambda args: [args])
        answer = self.router.emit("note")
        self.pair.turn()
        self.assertEqual(self.successResultOf(answer), [[None]])

    def test_both_ways(self) -> None:
        """Either process emits; the numbers of one do not disturb the other's."""
        self.pair.theirs.on("name", lambda args: "theirs")
        self.pair.handlers.on("name", lambda args: "ours")
        answers = [self.router.emit("name"), self.pair.their_router.emit("name")]
        self.pair.turn()
        self.assertEqual([self.successResultOf(each) for each in answers], [["theirs"], ["ours"]])
        self.assert_nothing_left()

    def test_within_a_handler(self) -> None:
        """A handler may emit back and wait for it."""

        async def ask_back(args: Any) -> Any:
            return ["you said", *(await self.pair.their_router.emit("what"))]

        self.pair.theirs.on("question", ask_back)
        self.pair.handlers.on("what", lambda args: "this")
        answer = self.router.emit("question")
        self.pair.turn()
        self.assertEqual(self.successResultOf(answer), [["you said", "this"]])
        self.assert_nothing_left()

    def test_order_of_answers(self) -> None:
        """A slow handler holds nobody up but its own emitter."""
        slow: Deferred[str] = Deferred()
        self.pair.theirs.on("slow", lambda args: slow)
        self.pair.theirs.on("fast", lambda args: "fast")
        first, second = self.router.emit("slow"), self.router.emit("fast")
        self.pair.turn()
        self.assertEqual(self.successResultOf(second), ["fast"])
        self.assertNoResult(first)
        slow.callback("slow")
        self.pair.turn()
        self.assertEqual(self.successResultOf(first), ["slow"])
        self.assert_nothing_left()

    def test_unhandled(self) -> None:
        """A name that nobody handles fails with its own class, and the nearest name."""
        self.pair.theirs.on("backup", str)
        answer = self.router.emit("bakup")
        self.pair.turn()
        error = self.failed(answer, UnhandledMessage)
        self.assertEqual(str(error), "nobody handles 'bakup'; did you mean 'backup'?")
        self.assert_nothing_left()

    def test_handler_fails(self) -> None:
        """The emitter gets the remote type, message and traceback, and what the others came to."""

        def fail(args: Any) -> None:
            raise ValueError("no such board")

        self.pair.theirs.on("delete", fail)
        self.pair.theirs.on("delete", lambda args: "deleted")
        answer = self.router.emit("delete", "b")
        self.pair.turn()
        error = self.failed(answer, RemoteError)
        self.assertEqual((error.record.type, error.record.message), ("builtins.ValueError", "no such board"))
        self.assertIn("in fail", error.remote_traceback)
        self.assertEqual(error.outcomes[1].result, "deleted")
        self.assert_nothing_left()

    def test_result_is_no_json(self) -> None:
        """A result that nobody can encode is an error that names the handler; its neighbours live."""

        def wrong(args: Any) -> Any:
            return object()

        self.pair.theirs.on("wrong", wrong)
        self.pair.theirs.on("right", lambda args: "right")
        answers = [self.router.emit("wrong"), self.router.emit("right")]
        self.pair.turn()
        error = self.failed(answers[0], RemoteError)
        self.assertIn("test_result_is_no_json.<locals>.wrong cannot be written as JSON", str(error))
        self.assertEqual(self.successResultOf(answers[1]), ["right"])
        self.assert_nothing_left()

    def test_result_too_large(self) -> None:
        """Too large a result is its own error at the emitter."""
        self.pair.theirs.on("big", lambda args: "x" * MAX_VALUE_BYTES)
        answer = self.router.emit("big")
        self.pair.turn()
        self.assertIn("are allowed", str(self.failed(answer, ValueTooLarge)))
        self.assert_nothing_left()

    def test_refused_at_once(self) -> None:
        """A value, name or timeout that cannot be sent fails at once, is not sent, and costs no number."""
        for name, args, timeout, kind, text in [
            ("n", float("nan"), 60, NotJSON, "the value of 'n' cannot be written"),
            ("n", {1, 2}, 60, NotJSON, "type set"),
            ("n", "x" * MAX_VALUE_BYTES, 60, ValueTooLarge, "are allowed"),
            ("", 1, 60, ValueError, "1 to 255 characters, not 0"),
            (7, 1, 60, TypeError, "name must be text, not int"),
            ("n", 1, 0, ValueError, "timeout must be a positive, finite number of seconds, not 0"),
            ("n", 1, -0.5, ValueError, "not -0.5"),
            ("n", 1, float("inf"), ValueError, "not inf"),
            ("n", 1, float("nan"), ValueError, "not nan"),
            ("n", 1, None, TypeError, "timeout must be a number of seconds, not None"),
            ("n", 1, "5", TypeError, "not '5'"),
            ("n", 1, True, TypeError, "not True"),
        ]:
            bad: Any = (name, args, timeout)
            self.assertIn(text, str(self.failed(self.router.emit(*bad), kind)))
        self.pair.turn()
        self.assertEqual(self.pair.batches, [])
        self.assert_nothing_left()

    def test_too_deep_to_read(self) -> None:
        """A value that the other process cannot read comes back as an error, and hurts no neighbour."""
        self.pair.theirs.on("n", lambda args: args)
        answers = [self.router.emit("n", 1), self.router.emit("n", 2), self.router.emit("n", 3)]
        self.router._small[2] = b'["emit",2,"n",' + b"[" * 60_000
        self.pair.turn()
        self.assertIn("could not be read by the other process", str(self.failed(answers[1], NotJSON)))
        self.assertEqual([self.successResultOf(answers[0]), self.successResultOf(answers[2])], [[1], [3]])
        self.assert_nothing_left()


class EndTests(RouterTestCase):
    """Emits that get no answer."""

    def setUp(self) -> None:
        super().setUp()
        self.hanging: list[Deferred[Any]] = []
        self.pair.theirs.on("hang", self.hang)

    def hang(self, args: Any) -> Deferred[Any]:
        self.hanging.append(Deferred())
        return self.hanging[-1]

    def test_timeout(self) -> None:
        """Without an answer in time the emit fails; one that comes too late is dropped without a warning."""
        answer = self.router.emit("hang", timeout=2.5)
        self.pair.turn()
        self.pair.clock.advance(2.4)
        self.assertNoResult(answer)
        self.pair.clock.advance(0.1)
        self.assertEqual(
            str(self.failed(answer, EmitTimeout)),
            "no answer to 'hang' from worker 3 within 2.5 s; its handlers may still be running",
        )
        self.assert_nothing_left()
        self.hanging[0].callback("at last")
        self.pair.turn()
        self.assertEqual(self.log, ["debug an answer from worker 3 came too late"])
        self.assert_nothing_left()

    def test_default_timeout(self) -> None:
        """It is 60 seconds."""
        answer = self.router.emit("hang")
        self.pair.clock.advance(59)
        self.assertNoResult(answer)
        self.pair.clock.advance(1)
        self.failed(answer, EmitTimeout)

    def test_timeout_unsent(self) -> None:
        """What could not be sent in time says so, and is never sent."""
        self.router.pauseProducing()
        answers = [self.router.emit("hang", timeout=1), self.router.emit("hang", LARGE, timeout=1)]
        self.assertEqual(self.router.unsent, 2)
        self.pair.clock.advance(1)
        for answer in answers:
            self.assertIn("it was never sent", str(self.failed(answer, EmitTimeout)))
        self.router.resumeProducing()
        self.pair.turn()
        self.assertEqual(self.pair.batches, [])
        self.assert_nothing_left()

    def test_cancel(self) -> None:
        """A cancelled emit leaves nothing: if it was not sent it never is, else its answer is dropped."""
        early, late = self.router.emit("hang", 1), self.router.emit("hang", 2)
        early.cancel()
        self.pair.turn()
        self.assertNotIn(b"1]", self.pair.batches[0])
        late.cancel()
        for answer in (early, late):
            self.failed(answer, CancelledError)
        self.assert_nothing_left()
        self.hanging[0].callback("at last")
        self.pair.turn()
        self.assert_nothing_left()

    def test_add_timeout(self) -> None:
        """Twisted's own `addTimeout` on the Deferred works as on any other."""
        answer = self.router.emit("hang")
        answer.addTimeout(1, self.pair.clock)
        self.pair.clock.advance(1)
        self.assertTrue(self.failureResultOf(answer))
        self.assert_nothing_left()

    def test_end(self) -> None:
        """At the end every pending emit fails with its own exception of the given kind, unsent ones too."""
        answers = [self.router.emit("hang"), self.router.emit("hang")]
        self.pair.turn()
        answers += [self.router.emit("hang"), self.router.emit("hang", LARGE)]
        self.router.end(PeerLost, "worker 3 ended")
        errors = [self.failed(answer, PeerLost) for answer in answers]
        self.assertEqual({str(error) for error in errors}, {"'hang' has no answer: worker 3 ended"})
        self.assertEqual(len({id(error) for error in errors}), 4)
        self.pair.turn()
        self.assertEqual(len(self.pair.batches), 1)
        self.assert_nothing_left()

    def test_after_the_end(self) -> None:
        """Later emits fail at once and say why; a second end changes nothing."""
        self.router.end(LinkDestroyed, "this process closed the link to worker 3")
        self.router.end(PeerLost, "worker 3 ended")
        error = self.failed(self.router.emit("hang"), FailedDispatch)
        self.assertEqual(str(error), "'hang' was not sent: this process closed the link to worker 3")
        self.pair.turn()
        self.assert_nothing_left()

    def test_callbacks_at_the_end(self) -> None:
        """Errbacks may cancel other emits, emit again, or end the router again."""
        answers: list[Deferred[Any]] = []
        again: list[Deferred[list[Any]]] = []

        def errback(failure: Failure) -> None:
            answers[1].cancel()
            again.append(self.router.emit("hang"))
            self.router.end(LinkDestroyed, "again")

        answers += [self.router.emit("hang").addErrback(errback), self.router.emit("hang")]
        self.router.end(PeerLost, "worker 3 ended")
        self.failed(answers[1], CancelledError)
        self.failed(again[0], FailedDispatch)
        self.assert_nothing_left()

    def test_end_in_a_callback(self) -> None:
        """Whoever ends the router in an answer's callback, or in a handler, ends the rest of the batch."""
        ran: list[str] = []
        self.pair.handlers.on("back", ran.append)
        first = self.router.emit("hang").addCallback(lambda _: self.router.end(LinkDestroyed, "enough"))
        second = self.router.emit("hang")
        self.router.batch_received(b'["results",1,[1]]\n["results",2,[2]]\n["emit",1,"back",3]')
        self.successResultOf(first)
        self.failed(second, LinkDestroyed)
        self.assertEqual(ran, [])
        self.pair.turn()
        self.assert_nothing_left()

    def test_emitter_gone(self) -> None:
        """A handler that outlives its emitter's process runs to its end; its result is dropped in silence."""
        answer = self.router.emit("hang")
        self.pair.turn()
        self.pair.their_router.end(PeerLost, "the monitor ended")
        self.hanging[0].callback("for nobody")
        self.router.end(PeerLost, "gone")
        self.failed(answer, PeerLost)
        self.pair.turn()
        self.assertEqual(self.log, [])
        self.assert_nothing_left()

    def test_unsent_answers(self) -> None:
        """Answers that were not sent at the end are not kept."""
        self.pair.theirs.on("echo", lambda args: args)
        self.pair.their_router.pauseProducing()
        answers = [self.router.emit("echo", 1), self.router.emit("echo", LARGE)]
        self.pair.turn()
        self.assertEqual(self.pair.their_router.unsent, 2)
        self.pair.their_router.end(PeerLost, "the monitor ended")
        self.router.end(PeerLost, "gone")
        for answer in answers:
            self.failed(answer, PeerLost)
        self.assert_nothing_left()

    def test_bound(self) -> None:
        """What may wait for answers is bounded: over it an emit is refused, until others have ended."""
        size = IN_FLIGHT_BYTES // 4
        self.router._in_flight_bytes = IN_FLIGHT_BYTES - 2 * EMIT_COST_BYTES
        answer = self.router.emit("hang")
        error = self.failed(self.router.emit("hang", "x" * 2000), FailedDispatch)
        self.assertEqual(
            str(error), "'hang' was not sent: 1 emits already wait for an answer from worker 3; is it stuck?"
        )
        self.router._in_flight_bytes -= size
        answers = [answer, self.router.emit("hang", "x" * 2000)]
        self.router.end(PeerLost, "gone")
        for each in answers:
            self.failed(each, PeerLost)
        self.assertEqual(self.router._in_flight_bytes, IN_FLIGHT_BYTES - 2 * EMIT_COST_BYTES - size)
