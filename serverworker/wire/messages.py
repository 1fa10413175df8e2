r"""Emits and their answers as text: one JSON array a line, so that a bad one never spoils its neighbours.

::

    ["emit", 7, "backup", {"full": true}]
    ["results", 7, [3, "done"]]
    ["outcomes", 7, [[1, 3], [0, "builtins.OSError", "disk full", "Traceback …"]]]
    ["unhandled", 7, "bakup", ["backup", "delete"]]
    ["refused", 7, "ValueTooLarge", "what the handlers of 'backup' answered has 20,000,000 bytes …"]

The number is the emitter's own; each end counts for itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from attrs import frozen

from serverworker.values.errors import (
    EmitError,
    ErrorRecord,
    HandlerOutcome,
    NotJSON,
    RemoteError,
    ServerWorkerError,
    UnhandledMessage,
    ValueTooLarge,
)
from serverworker.wire.emits import EmitHandler, describe, results_of
from serverworker.wire.large import MAX_VALUE_BYTES, from_json, to_json

MAX_KNOWN_NAMES = 100
"""So many names go along with an `UnhandledMessage`."""

MAX_ERROR_CHARACTERS = 65_536
"""Of an error's message, and of its traceback. What was clipped says so."""

_HEAD = re.compile(rb'\["([a-z]{1,20})",([1-9][0-9]{0,18}),')
_REFUSALS: dict[str, type[EmitError]] = {"NotJSON": NotJSON, "ValueTooLarge": ValueTooLarge}


class Garbage(ServerWorkerError):
    """A line that is no message."""


@frozen
class Emit:
    """Somebody wants handlers to run."""

    number: int
    name: str
    args: Any


@frozen
class UnreadableEmit:
    """An emit whose value cannot be read, which its emitter should be told."""

    number: int
    error: EmitError


@frozen
class Answer:
    """What came of an emit: a list of results, or an error."""

    number: int
    results: list[Any]
    error: EmitError | None = None


def encode_emit(number: int, name: str, args: Any, limit: int = MAX_VALUE_BYTES) -> bytes:
    """An emit as a line, without its end.

    :raises NotJSON: `args` cannot be written as JSON.
    :raises ValueTooLarge: `args` has more than `limit` bytes of it.
    """
    try:
        value = to_json(args)
    except NotJSON as fault:
        raise NotJSON(f"the value of {name!r} cannot be written as JSON: {fault}") from fault
    if len(value) > limit:
        raise ValueTooLarge(f"the value of {name!r} {_size(len(value), limit)}")
    return b'["emit",%d,%b,%b]' % (number, to_json(name), value)


def encode_answer(
    number: int,
    name: str,
    handlers: Sequence[EmitHandler],
    outcomes: Sequence[HandlerOutcome],
    limit: int = MAX_VALUE_BYTES,
) -> bytes:
    """The outcomes as a line, without its end. A result that is no JSON becomes that handler's error.

    Never raises: results that are too large together become a refusal.
    """
    encoded = [_encode_outcome(handler, each) for handler, each in zip(handlers, outcomes, strict=True)]
    size = sum(len(part) + 1 for _, part in encoded) - 1  # with its commas
    if size > limit:
        text = f"what the handlers of {name!r} answered {_size(size, limit)}"
        return encode_refusal(number, ValueTooLarge(text))
    if all(well for well, _ in encoded):
        return b'["results",%d,[%b]]' % (number, b",".join(part for _, part in encoded))
    marked = (b"[1,%b]" % part if well else part for well, part in encoded)
    return b'["outcomes",%d,[%b]]' % (number, b",".join(marked))


def encode_unhandled(number: int, name: str, known: Sequence[str]) -> bytes:
    """That nobody handles `name`, and who is handled, as a line without its end."""
    return b'["unhandled",%d,%b,%b]' % (number, to_json(name), to_json(known[:MAX_KNOWN_NAMES]))


def encode_refusal(number: int, error: EmitError) -> bytes:
    """That an emit, or its answer, could not be carried, as a line without its end."""
    return b'["refused",%d,%b,%b]' % (number, to_json(type(error).__name__), to_json(str(error)))


def read(line: bytes) -> Emit | UnreadableEmit | Answer:
    """What a line says.

    :raises Garbage: it is no message.
    """
    try:
        said = from_json(line)
    except NotJSON as fault:
        return _unreadable(line, fault)
    if not (isinstance(said, list) and len(said) > 2 and isinstance(said[0], str)):
        raise Garbage("no message has this shape")
    reader = _READERS.get(said[0])
    number = said[1]
    if reader is None or not isinstance(number, int) or number < 1:
        raise Garbage("no message has such a kind or number")
    return reader(number, said[2:])


def _encode_outcome(handler: EmitHandler, outcome: HandlerOutcome) -> tuple[bool, bytes]:
    """True and the result, or False and the error."""
    error = outcome.error
    if error is None:
        try:
            return True, to_json(outcome.result)
        except NotJSON as fault:
            text = f"the result of {describe(handler)} cannot be written as JSON: {fault}"
            error = ErrorRecord.from_exception(NotJSON(text))
    message, trace = error.message, error.traceback
    if len(message) > MAX_ERROR_CHARACTERS:
        message = f"{message[:MAX_ERROR_CHARACTERS]}… ({len(message):,} characters)"
    if len(trace) > MAX_ERROR_CHARACTERS:
        trace = f"({len(trace):,} characters) …{trace[-MAX_ERROR_CHARACTERS:]}"  # its end says most
    return False, to_json([0, error.type, message, trace])


def _read_emit(number: int, rest: list[Any]) -> Emit:
    if len(rest) == 2 and isinstance(
        rest[0], str
    ):  # here and next not by `match`, which takes five times as long
        return Emit(number, rest[0], rest[1])
    raise Garbage("no emit has this shape")


def _read_results(number: int, rest: list[Any]) -> Answer:
    if len(rest) == 1 and isinstance(rest[0], list):
        return Answer(number, rest[0])
    raise Garbage("no results have this shape")


def _read_outcomes(number: int, rest: list[Any]) -> Answer:
    match rest:
        case [list(outcomes)]:
            try:
                return Answer(number, results_of([_read_outcome(each) for each in outcomes]))
            except RemoteError as error:
                return Answer(number, [], error)
    raise Garbage("no outcomes have this shape")


def _read_outcome(said: Any) -> HandlerOutcome:
    match said:
        case [1, result]:
            return HandlerOutcome(result=result)
        case [0, str(kind), str(message), str(trace)]:
            return HandlerOutcome(error=ErrorRecord(type=kind, message=message, traceback=trace))
    raise Garbage("no outcome has this shape")


def _read_unhandled(number: int, rest: list[Any]) -> Answer:
    match rest:
        case [str(name), list(known)] if all(isinstance(each, str) for each in known):
            return Answer(number, [], UnhandledMessage(name, known))
    raise Garbage("no unhandled message has this shape")


def _read_refusal(number: int, rest: list[Any]) -> Answer:
    match rest:
        case [str(kind), str(text)] if kind in _REFUSALS:
            return Answer(number, [], _REFUSALS[kind](text))
    raise Garbage("no refusal has this shape")


_READERS: dict[str, Callable[[int, list[Any]], Emit | Answer]] = {
    "emit": _read_emit,
    "results": _read_results,
    "outcomes": _read_outcomes,
    "unhandled": _read_unhandled,
    "refused": _read_refusal,
}


def _unreadable(line: bytes, fault: NotJSON) -> UnreadableEmit | Answer:
    """Who is to be told: what one interpreter can still write, another may find nested too deeply."""
    head = _HEAD.match(line)
    if head is None:
        raise Garbage(str(fault)) from fault
    number = int(head[2])
    if head[1] == b"emit":
        return UnreadableEmit(number, NotJSON(f"the value could not be read by the other process: {fault}"))
    return Answer(number, [], NotJSON(f"the answer cannot be read: {fault}"))


def _size(size: int, limit: int) -> str:
    return f"has {size:,} bytes as JSON; {limit:,} are allowed"
