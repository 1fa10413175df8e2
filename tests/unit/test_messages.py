"""Emits and their answers as text."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from serverworker.values.errors import (
    ErrorRecord,
    HandlerOutcome,
    NotJSON,
    RemoteError,
    UnhandledMessage,
    ValueTooLarge,
)
from serverworker.wire.large import MAX_VALUE_BYTES, to_json
from serverworker.wire.messages import (
    MAX_ERROR_CHARACTERS,
    Answer,
    Emit,
    Garbage,
    UnreadableEmit,
    encode_answer,
    encode_emit,
    encode_refusal,
    encode_unhandled,
    read,
)
from tests.unit.test_large import json_values, texts

KINDS = ["emit", "results", "outcomes", "unhandled", "refused"]

records = st.builds(ErrorRecord, type=texts, message=texts, traceback=texts)
outcomes_of_one = st.builds(HandlerOutcome, result=json_values) | st.builds(HandlerOutcome, error=records)


def answered(line: bytes) -> Answer:
    said = read(line)
    assert isinstance(said, Answer)
    return said


def handler(args: Any) -> Any:
    pass


class MessagesTests(SynchronousTestCase):
    """What is written is read."""

    @settings(deadline=None)
    @given(st.integers(1, 2**60), texts, json_values)
    def test_emit(self, number: int, name: str, args: Any) -> None:
        """An emit comes as it was sent, on one line."""
        line = encode_emit(number, name, args)
        self.assertEqual(read(line), Emit(number, name, args))
        self.assertNotIn(b"\n", line)

    @settings(deadline=None)
    @given(st.integers(1, 2**60), st.lists(outcomes_of_one, max_size=4))
    def test_answer(self, number: int, outcomes: list[HandlerOutcome]) -> None:
        """Results come as they are; with an error among them, the first one and all the others come."""
        answer = answered(encode_answer(number, "n", [handler] * len(outcomes), outcomes))
        errors = [outcome.error for outcome in outcomes if outcome.error is not None]
        self.assertEqual(answer.number, number)
        if errors:
            assert isinstance(answer.error, RemoteError)
            self.assertEqual((answer.error.record, answer.error.outcomes), (errors[0], tuple(outcomes)))
        else:
            self.assertEqual((answer.results, answer.error), ([each.result for each in outcomes], None))

    def test_unhandled(self) -> None:
        """The emitter is told what is handled, a hundred names at the most."""
        error = answered(encode_unhandled(7, "bakup", ["backup", "delete"])).error
        assert isinstance(error, UnhandledMessage)
        self.assertEqual((error.name, error.known), ("bakup", ("backup", "delete")))
        many = answered(encode_unhandled(7, "x", [str(number) for number in range(1000)])).error
        assert isinstance(many, UnhandledMessage)
        self.assertEqual(len(many.known), 100)

    def test_refusal(self) -> None:
        """An error that has to do with the value alone comes as its own class."""
        for error in (NotJSON("no"), ValueTooLarge("too much")):
            arrived = answered(encode_refusal(7, error)).error
            self.assertEqual((type(arrived), str(arrived)), (type(error), str(error)))

    def test_value_that_is_no_json(self) -> None:
        """The emitter learns which message cannot be written, and why."""
        error = self.assertRaises(NotJSON, encode_emit, 1, "backup", {"at": object()})
        self.assertEqual(
            str(error),
            "the value of 'backup' cannot be written as JSON: Object of type object is not JSON serializable",
        )

    def test_result_that_is_no_json(self) -> None:
        """Such a result is an error of the handler that returned it, by name; the others' results stand."""
        answer = answered(
            encode_answer(
                7, "n", [handler, handler], [HandlerOutcome(result=1), HandlerOutcome(result={1, 2})]
            )
        )
        assert isinstance(answer.error, RemoteError)
        self.assertEqual(answer.error.record.type, "serverworker.values.errors.NotJSON")
        self.assertEqual(
            answer.error.record.message,
            "the result of handler cannot be written as JSON: Object of type set is not JSON serializable",
        )
        self.assertEqual(answer.error.outcomes[0], HandlerOutcome(result=1))

    def test_largest(self) -> None:
        """A value of the cap's size goes; a byte more is refused, with both sizes."""
        largest = "x" * (MAX_VALUE_BYTES - 2)
        self.assertEqual(read(encode_emit(7, "n", largest)), Emit(7, "n", largest))
        error = self.assertRaises(ValueTooLarge, encode_emit, 7, "n", largest + "x")
        self.assertEqual(str(error), "the value of 'n' has 16,777,217 bytes as JSON; 16,777,216 are allowed")

    def test_answer_too_large(self) -> None:
        """Results that are too large, together too, become a refusal of their own class."""
        half = "x" * (MAX_VALUE_BYTES // 2)
        two = [HandlerOutcome(result=half)] * 2
        error = answered(encode_answer(7, "n", [handler] * 2, two)).error
        self.assertIsInstance(error, ValueTooLarge)
        self.assertIn("what the handlers of 'n' answered has 16,777,2", str(error))
        self.assertEqual(answered(encode_answer(7, "n", [handler], two[:1])).results, [half])

    def test_long_error(self) -> None:
        """An error of any length is carried: the start of its message, the end of its traceback."""
        record = ErrorRecord(type="x.Y", message="start" + "m" * 10**6, traceback="t" * 10**6 + "end")
        line = encode_answer(7, "n", [handler], [HandlerOutcome(error=record)])
        self.assertLess(len(line), 3 * MAX_ERROR_CHARACTERS)
        error = answered(line).error
        assert isinstance(error, RemoteError)
        self.assertTrue(error.record.message.startswith("startm"))
        self.assertTrue(error.record.message.endswith("m… (1,000,005 characters)"))
        self.assertTrue(error.record.traceback.startswith("(1,000,003 characters) …tt"))
        self.assertTrue(error.record.traceback.endswith("tend"))


class GarbageTests(SynchronousTestCase):
    """What is no message."""

    def test_shapes(self) -> None:
        """Every shape that is none is garbage, whatever it resembles."""
        for said in [
            None,
            7,
            "emit",
            [],
            ["emit"],
            {"emit": 7},
            ["emit", 7, "name"],
            ["emit", 7, "name", 1, 2],
            ["emit", "7", "name", 1],
            ["emit", 0, "name", 1],
            ["emit", -7, "name", 1],
            ["emit", 7.0, "name", 1],
            ["emit", 7, ["name"], 1],
            [["emit"], 7, "name", 1],
            ["admit", 7, "name", 1],
            ["results", 7],
            ["results", 7, {"0": 1}],
            ["results", 7, [], []],
            ["outcomes", 7, 1],
            ["outcomes", 7, [1]],
            ["outcomes", 7, [[2, 1]]],
            ["outcomes", 7, [[0, "x.Y", "message"]]],
            ["outcomes", 7, [[0, "x.Y", None, "trace"]]],
            ["unhandled", 7, "name", [1]],
            ["unhandled", 7, "name"],
            ["unhandled", 7, 7, []],
            ["refused", 7, "SystemExit", "now"],
            ["refused", 7, "NotJSON", 1],
        ]:
            self.assertRaises(Garbage, read, to_json(said))

    @settings(deadline=None)
    @given(
        st.binary()
        | json_values.map(to_json)
        | st.tuples(st.sampled_from(KINDS), json_values, json_values).map(to_json)
    )
    def test_any_line(self, line: bytes) -> None:
        """Whatever arrives, it is a message or Garbage."""
        try:
            said = read(line)
        except Garbage:
            return
        self.assertGreater(said.number, 0)

    def test_too_deep_to_read(self) -> None:
        """A value that only its writer could handle is an error at its emitter, never silence."""
        deep = b"[" * 200_000
        said = read(b'["emit",7,"n",' + deep)
        assert isinstance(said, UnreadableEmit)
        self.assertEqual(said.number, 7)
        self.assertIn("nested too deeply", str(said.error))
        answer = answered(b'["results",7,[' + deep)
        self.assertEqual(answer.number, 7)
        self.assertIsInstance(answer.error, NotJSON)
        self.assertIn("nested too deeply", str(answer.error))
