"""How the log looks: the observer that takes twistd's place, as lines for people or as JSON lines.

A line for people is ``2026-11-24 08:07:17.123Z [worker 1] error: what happened``; further lines of the same
event, tracebacks among them, are indented. Each source has its colour on a terminal. Nothing that an event
contains reaches the terminal as a control character.

Twisted's own events are shown too, dimmed: that the reactor starts and stops and a signal came is worth a line;
that some factory starts is not.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import math
import os
import re
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from twisted.logger import ILogObserver, LogEvent, LogLevel, eventAsText, formatEvent
from zope.interface import implementer

from serverworker.observers.log import NAMESPACE
from serverworker.values.event_json import utc

WAITING_BYTES = 1024 * 1024
"""So much is kept for a terminal or a pipe that nobody reads; what comes on top is dropped and counted."""
FLUSH_SECONDS = 2.0
"""So long the end of the process waits for what is still to be written."""

_RESET = "\x1b[0m"
_DIM = "\x1b[2m"
_SOURCE_COLOURS = {"monitor": "\x1b[36m", "worker": "\x1b[32m", "exec": "\x1b[35m"}
_LEVEL_COLOURS = {"warn": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[1;31m"}
_UNWANTED = ("Starting factory", "Stopping factory")
_LAST = ("Main loop terminated.", "Server Shut Down.")
"""Said by the reactor and by twistd at the very end; a signal that twistd sends itself may follow, and no atexit."""
_NOT_FIELDS = frozenset(
    {"source", "sentence", "traceback", "message", "isError", "system", "time", "format", "why"}
)
"""Of an event: what stands in the line already, and what `twisted.python.log` adds to each of its own."""

# C0 without tab and newline, DEL, C1, and what turns the writing direction round (lines that read as others).
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def choose_observer(
    parent_options: Mapping[str, Any] | None,
    log_format: str,
    stdout: TextIO,
    environ: Mapping[str, str],
) -> ILogObserver | None:
    """Our observer on `stdout`, or None where the operator's own choice of a log stands.

    `parent_options` are twistd's `ServerOptions` or twist's `TwistOptions`; None: there is no such program, and
    the log belongs to whoever runs the service. Under twistd the observer is to be set as the application's
    `ILogObserver` component; twist does not look there, and takes what `fileLogObserverFactory` in its options
    makes.

    Ours stands back for ``--logger``, ``--syslog``, ``--logfile`` (but not ``--logfile=-``), without
    ``--nodaemon``, since a daemon has no stdout; and under twist for ``--log-file`` and for a ``--log-format``
    other than its default.
    """
    if parent_options is None:
        return None
    lowest = LogLevel.info
    if "fileLogObserverFactory" in parent_options:
        usual = "text" if stdout.isatty() else "json"
        if parent_options["logFile"] is not stdout or parent_options["logFormat"] != usual:
            return None
        lowest = parent_options["logLevel"]
    elif not _twistd_would_write_to_stdout(parent_options):
        return None
    if log_format == "json":
        return json_observer(stdout, lowest)
    return terminal_observer(stdout, colour=stdout.isatty() and not environ.get("NO_COLOR"), lowest=lowest)


def _twistd_would_write_to_stdout(options: Mapping[str, Any]) -> bool:
    if options.get("logger") or options.get("syslog") or options.get("logfile") not in (None, "", "-"):
        return False
    return bool(options.get("nodaemon") or options.get("debug"))


def terminal_observer(stream: TextIO, colour: bool, lowest: LogLevel = LogLevel.info) -> ILogObserver:
    """Lines for people. `lowest`: the `LogLevel` below which nothing is shown."""
    return _Observer(Writer(stream), lambda event: _as_lines(event, colour), lowest)


def json_observer(stream: TextIO, lowest: LogLevel = LogLevel.info) -> ILogObserver:
    """One JSON object a line: time, level, source, namespace, text, traceback, and the event's own fields."""
    return _Observer(Writer(stream), _as_json, lowest)


@implementer(ILogObserver)
class _Observer:
    """Formats and writes; never raises into the logger, which would switch it off."""

    def __init__(self, writer: Writer, form: Callable[[LogEvent], str], lowest: LogLevel) -> None:
        self._writer = writer
        self._form = form
        self._lowest = lowest
        self._told_dropped = 0

    def __call__(self, event: LogEvent) -> None:
        try:
            text = "" if _is_unwanted(event, self._lowest) else self._form(event)
        except Exception as error:  # an event may hold anything
            text = self._form(_own_event(f"an event cannot be shown: {type(error).__name__}: {error}"))
        if text and self._writer.write(text) and self._writer.dropped > self._told_dropped:
            dropped, self._told_dropped = self._writer.dropped - self._told_dropped, self._writer.dropped
            self._writer.write(self._form(_own_event(f"{dropped} log lines before this one are lost")))
        if str(event.get("log_format")) in _LAST:
            self._writer.flush()


def _own_event(text: str) -> LogEvent:
    return {
        "log_level": LogLevel.warn,
        "log_namespace": __name__,
        "log_format": "{note}",
        "log_time": time.time(),
        "note": text,
    }


def _is_unwanted(event: LogEvent, lowest: LogLevel) -> bool:
    level = event.get("log_level")
    if level is not None and level < lowest:
        return True
    return level is LogLevel.info and str(event.get("log_format")).startswith(_UNWANTED)


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
    when = utc(event.get("log_time") or time.time()).replace("T", " ")
    if not colour:
        return f"{when} [{source}] {'' if level == 'info' else level + ': '}{text}\n"
    if level == "info" and str(event.get("log_namespace")).startswith("twisted."):
        text = f"{_DIM}{text}{_RESET}"
    elif level in _LEVEL_COLOURS:
        text = f"{_LEVEL_COLOURS[level]}{level}:{_RESET} {text}"
    return f"{_DIM}{when}{_RESET} {_SOURCE_COLOURS[source.split()[0]]}[{source}]{_RESET} {text}\n"


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


# --- writing ------------------------------------------------------------------------------------------


class Writer:
    """Writes to a stream without ever waiting for it, and never raises.

    A terminal that was stopped with ^S, or a pipe whose reader is stuck, blocks whoever writes to it; so where
    there is a real descriptor a thread of its own writes, and what waits for it is bounded. (To make the
    descriptor non-blocking is no way out: it would be so for everybody who shares the terminal.)
    """

    dropped = 0
    """How many texts were lost: nobody read in time, or the stream is closed or broken."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._encoding = getattr(stream, "encoding", None) or "utf-8"
        self._changed = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._bytes = 0  # of what waits and of what is being written
        self._thread: threading.Thread | None = None
        self._closed = False
        try:
            # Of our own: the number of a descriptor that somebody closes soon means another file.
            self._fd: int | None = os.dup(stream.fileno())
        except (AttributeError, OSError, ValueError):
            self._fd = None

    def write(self, text: str) -> bool:
        """Write a text, or have it written. False if it is lost already."""
        data = text.encode(self._encoding, "backslashreplace")
        if self._fd is None:
            return self._write_directly(data)
        with self._changed:
            if self._closed or self._bytes + len(data) > WAITING_BYTES:
                self.dropped += 1
                return False
            self._waiting.append(data)
            self._bytes += len(data)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, args=(self._fd,), name="log", daemon=True)
                self._thread.start()
                atexit.register(self.flush)
            self._changed.notify_all()
        return True

    def flush(self) -> None:
        """Wait until all is written, at most `FLUSH_SECONDS`."""
        with self._changed:
            self._changed.wait_for(lambda: not self._bytes, FLUSH_SECONDS)

    def close(self) -> None:
        """Write what is waiting, and let go of the stream."""
        self.flush()
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        atexit.unregister(self.flush)

    def _write_directly(self, data: bytes) -> bool:
        try:
            self._stream.write(data.decode(self._encoding))
            self._stream.flush()
        except Exception:  # whatever the stream is made of: the logger must not hear of it
            self.dropped += 1
            return False
        return True

    def _run(self, fd: int) -> None:
        while texts := self._take():
            data = b"".join(texts)
            lost = 0
            try:
                _write_all(fd, data)
            except OSError:
                lost = len(texts)
            with self._changed:
                self.dropped += lost
                self._bytes -= len(data)
                self._changed.notify_all()
        os.close(fd)

    def _take(self) -> list[bytes]:
        """All that waits, once there is something; nothing once the writer is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            texts = list(self._waiting)
            self._waiting.clear()
            return texts


def _write_all(fd: int, data: bytes) -> None:
    """Write to a descriptor, though it be non-blocking, until all is written. Raises OSError."""
    # Not through the stream: its buffer has a lock, which a thread that is stuck in it at the end of the process
    # would hold for ever.
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            ready = select.poll()
            ready.register(fd, select.POLLOUT)
            ready.poll()
