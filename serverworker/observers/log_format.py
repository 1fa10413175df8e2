"""How the log looks: as lines for people or as JSON lines.

A line for people is ``2026-11-24 08:07:17.123Z [worker 1] error: what happened``; further lines of the same
event, tracebacks among them, are indented. Each source has its colour on a terminal. Nothing that an event
contains reaches the terminal as a control character.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import time
from collections.abc import Mapping
from json.encoder import encode_basestring_ascii
from typing import Any, Protocol

from attrs import frozen
from twisted.logger import LogEvent, LogLevel, eventAsText, formatEvent

from serverworker.observers.log import NAMESPACE
from serverworker.values.event_json import utc
from serverworker.values.lines import ToldLines

_RESET = "\x1b[0m"
_DIM = "\x1b[2m"
_SOURCE_COLOURS = {"monitor": "\x1b[36m", "worker": "\x1b[32m", "exec": "\x1b[35m"}
_LEVEL_COLOURS = {"warn": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[1;31m"}
_NOT_FIELDS = frozenset(
    {"source", "sentence", "traceback", "message", "isError", "system", "time", "format", "why"}
)
"""Of an event: what stands in the line already, and what `twisted.python.log` adds to each of its own."""

# C0 without tab and newline, DEL, C1, and what turns the writing direction round (lines that read as others).
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
# The same in UTF-8, in parts that are looked for at the speed of memchr: 20 times as fast.
_CONTROL_BYTES = tuple(byte for byte in (*range(32), 0x7F) if byte not in b"\t\n")
_C1 = re.compile(rb"\xc2[\x80-\x9f]")
_TURNING = re.compile(rb"\xe2(?:\x80[\xaa-\xae]|\x81[\xa6-\xa9])")


class Form(Protocol):
    """A way to write the log."""

    def entry(self, event: LogEvent) -> str:
        """An event as whole lines; empty where it has nothing to say. May raise: an event may hold anything."""

    def lines(self, told: ToldLines) -> bytes:
        """What a worker printed, in UTF-8: each line as `entry` has it, but all at once, which is 100 times faster."""


@frozen
class TextForm:
    """Lines for people."""

    colour: bool = False

    def entry(self, event: LogEvent) -> str:
        """See `Form.entry`."""
        return _as_lines(event, self.colour)

    def lines(self, told: ToldLines) -> bytes:
        """See `Form.lines`."""
        data = told.lines.text.encode("utf-8", "backslashreplace")
        if _holds_control_characters(data):
            data = _CONTROL.sub(_escaped, data.decode()).encode()
        head = _head(told.at, told.lines.source, self.colour).encode()
        return b"%s%s\n" % (head, data.replace(b"\n", b"\n" + head))


@frozen
class JsonForm:
    """One JSON object a line: time, level, source, namespace, text, traceback, and the event's own fields."""

    def entry(self, event: LogEvent) -> str:
        """See `Form.entry`."""
        return _as_json(event)

    def lines(self, told: ToldLines) -> bytes:
        """See `Form.lines`."""
        lines = told.lines
        source, stream = encode_basestring_ascii(lines.source), encode_basestring_ascii(lines.stream)
        head = f'{{"time": "{utc(told.at)}", "level": "info", "source": {source}, "namespace": "{NAMESPACE}", "text": '
        middle = f', "fields": {{"stream": {stream}, "text": '
        made = []
        for sequence, text in enumerate(lines.text.split("\n"), told.sequence):
            quoted = encode_basestring_ascii(text)
            tail = f'"event": "OutputLine", "sequence": {sequence}}}}}\n'
            made.append(f"{head}{quoted}{middle}{quoted}, {tail}")
        return "".join(made).encode("ascii")


def _holds_control_characters(data: bytes) -> bool:
    """Whether there are any of `_CONTROL` in a text, given in UTF-8."""
    if any(byte in data for byte in _CONTROL_BYTES):
        return True
    return not data.isascii() and (_C1.search(data) or _TURNING.search(data)) is not None


def own_event(text: str) -> LogEvent:
    """An event of the log's own."""
    return {
        "log_level": LogLevel.warn,
        "log_namespace": __name__,
        "log_format": "{note}",
        "log_time": time.time(),
        "note": text,
    }


# --- the two forms ------------------------------------------------------------------------------------


def _source(event: LogEvent) -> str:
    """Who speaks: the monitor, unless one of the session's events says otherwise."""
    return str(event["source"]) if event.get("log_namespace") == NAMESPACE else "monitor"


def _level(event: LogEvent) -> str:
    level = event.get("log_level")
    return "info" if level is None else str(level.name)


def _as_lines(event: LogEvent, colour: bool) -> str:
    """The event's text, with what stands before it; empty where it has none."""
    text = eventAsText(event, includeTimestamp=False, includeSystem=False).strip("\n")
    if not text:
        return ""
    source, level = _source(event), _level(event)
    text = _CONTROL.sub(_escaped, text).replace("\n", "\n    ")
    head = _head(event.get("log_time") or time.time(), source, colour)
    if not colour:
        return f"{head}{'' if level == 'info' else level + ': '}{text}\n"
    if level == "info" and str(event.get("log_namespace")).startswith("twisted."):
        text = f"{_DIM}{text}{_RESET}"
    elif level in _LEVEL_COLOURS:
        text = f"{_LEVEL_COLOURS[level]}{level}:{_RESET} {text}"
    return f"{head}{text}\n"


def _head(at: float, source: str, colour: bool) -> str:
    """What stands in front of a line."""
    when = utc(at).replace("T", " ")
    if not colour:
        return f"{when} [{source}] "
    return f"{_DIM}{when}{_RESET} {_SOURCE_COLOURS[source.split(maxsplit=1)[0]]}[{source}]{_RESET} "


def _escaped(match: re.Match[str]) -> str:
    return match.group().encode("unicode_escape").decode()


def _as_json(event: LogEvent) -> str:
    """The event as one line of JSON; all of it is ASCII."""
    of_session = event.get("log_namespace") == NAMESPACE
    line = {
        "time": utc(event.get("log_time") or time.time()),
        "level": _level(event),
        "source": _source(event),
        "namespace": str(event.get("log_namespace")),
        "text": event["sentence"] if of_session else formatEvent(event),
    }
    if "log_failure" in event:
        line["traceback"] = event["log_failure"].getTraceback()
    elif of_session and event["traceback"]:
        line["traceback"] = event["traceback"]
    fields = {}
    for key, value in event.items():
        if not key.startswith("log_") and key not in _NOT_FIELDS:
            with contextlib.suppress(TypeError):
                fields[key] = _plain(value)
    return json.dumps(line | {"fields": fields}) + "\n"


def _plain(value: Any) -> Any:
    """The value as JSON has it. Raises TypeError where JSON has no such thing."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    raise TypeError(f"{type(value).__name__} is no JSON")
