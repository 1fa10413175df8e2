"""The access log: one line for each request that a site of the workers has answered."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from urllib.parse import unquote_to_bytes

from attrs import frozen
from twisted.logger import Logger

from serverworker.processes.appended_file import AppendedFile
from serverworker.values.event_json import utc
from serverworker.values.settings import OutputSettings

CLIENT_LEFT = 499
"""The status of a request whose client left before its answer began, as nginx has it."""
RETRY_SECONDS = 1.0
"""So long nothing is written after the file could not be: what comes meanwhile is lost, and counted."""

# Quotes and backslashes, and all that is not printable ASCII.
_UNSAFE = re.compile(rb"[^ !#-\[\]-~]")
_UNSAFE_IN_WORD = re.compile(rb"[^!#-\[\]-~]")
_HIDDEN = b"[session-key]"
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@frozen(kw_only=True)
class Access:
    """One request and its answer. What the client sent is as it came: it may hold anything."""

    at: float
    """When it was answered; seconds since the epoch."""
    client: str
    method: bytes
    target: bytes | None
    """The path, with its query."""
    protocol: bytes
    status: int
    size: int
    """Bytes of the answer's body."""
    seconds: float
    """From the request's head to the end of the answer."""
    referer: bytes | None
    agent: bytes | None


Form = Callable[[Access], bytes]
"""Makes a line, without its end."""


def common(access: Access) -> bytes:
    """Apache's common format. The user is never known; what the client sent cannot end the line or a field."""
    return b'%s - - %s "%s %s %s" %d %s' % (
        access.client.encode("ascii", "backslashreplace"),
        _moment(int(access.at)),
        _escaped(access.method, _UNSAFE_IN_WORD),
        _escaped(access.target, _UNSAFE_IN_WORD),
        _escaped(access.protocol, _UNSAFE_IN_WORD),
        access.status,
        b"%d" % access.size if access.size else b"-",
    )


def combined(access: Access) -> bytes:
    """Apache's combined format: the common one, the page that led here, and the client's program."""
    return b'%s "%s" "%s"' % (common(access), _escaped(access.referer), _escaped(access.agent))


def as_json(access: Access) -> bytes:
    """One object, in ASCII."""
    line = {
        "time": utc(access.at),
        "client": access.client,
        "method": _text(access.method),
        "target": _text(access.target),
        "protocol": _text(access.protocol),
        "status": access.status,
        "bytes": access.size,
        "seconds": round(access.seconds, 6),
        "referer": _text(access.referer),
        "user_agent": _text(access.agent),
    }
    return json.dumps(line).encode("ascii")


FORMS: dict[str, Form] = {"common": common, "combined": combined, "json": as_json}


def _escaped(value: bytes | None, unsafe: re.Pattern[bytes] = _UNSAFE) -> bytes:
    return unsafe.sub(_hexadecimal, value) if value else b"-"


def _hexadecimal(match: re.Match[bytes]) -> bytes:
    return b"\\x%02x" % match.group()[0]


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "backslashreplace")


@lru_cache(maxsize=1)
def _moment(second: int) -> bytes:
    """Apache's way to write a time, in UTC; made once a second. `strftime` would take the month from a language."""
    at = datetime.fromtimestamp(second, UTC)
    return f"[{at:%d}/{_MONTHS[at.month - 1]}/{at:%Y:%H:%M:%S} +0000]".encode("ascii")


class AccessLog:
    """Is told of each request that was answered; called by the HTTP connections."""

    _log = Logger(namespace="serverworker.worker")

    def __init__(
        self,
        form: Form,
        write: Callable[[bytes], object],
        *,
        key: str = "",
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """`write` gets each line, its end included. `key` is the session's: it stands in no line."""
        self._form = form
        self._write = write
        self._key = key.encode("utf-8", "backslashreplace")
        self._wall_clock = wall_clock

    def __call__(self, request: Any, seconds: float) -> None:
        """Write the line of a twisted.web request that took so long. Never raises: a request may be anybody's class."""
        try:
            headers = request.requestHeaders
            self.answered(
                client=getattr(request.getClientAddress(), "host", None) or "-",  # a unix socket's has none
                method=request.method,
                target=request.uri,
                protocol=request.clientproto,
                status=request.code,
                size=request.sentLength,
                seconds=seconds,
                referer=next(iter(headers.getRawHeaders(b"referer", ())), None),
                agent=next(iter(headers.getRawHeaders(b"user-agent", ())), None),
            )
        except Exception:  # of whatever class the request is: the answer must not suffer for its line
            self._log.failure("a line of the access log is lost")

    def answered(
        self,
        *,
        client: str,
        method: bytes,
        target: bytes | None,
        protocol: bytes,
        status: int,
        size: int,
        seconds: float,
        referer: bytes | None,
        agent: bytes | None,
    ) -> None:
        """Write the line of a request that was answered just now; see `Access` for what is what."""
        access = Access(
            at=self._wall_clock(),
            client=client,
            method=method,
            target=self._without_key(target),
            protocol=protocol,
            status=status,
            size=size,
            seconds=seconds,
            referer=self._without_key(referer),
            agent=self._without_key(agent),
        )
        self._write(self._form(access) + b"\n")

    def left(self, channel: Any, seconds: float) -> None:
        """Write the line of the request that a channel was at when its connection ended."""
        for request in channel.requests[:1]:
            if not request.startedWriting:
                request.code = CLIENT_LEFT
            if hasattr(channel, "_command"):  # its body had not come yet: the channel alone knows what it was
                request.method, request.uri = channel._command, channel._path
                request.clientproto = channel._version
            self(request, seconds)

    def _without_key(self, value: bytes | None) -> bytes | None:
        if not value or not self._key:
            return value
        if self._key in value:
            return value.replace(self._key, _HIDDEN)
        return _HIDDEN if b"%" in value and self._key in unquote_to_bytes(value) else value


class FileLines:
    """Appends lines to a file that all workers share; each is one write, so that none is torn."""

    _log = Logger(namespace="serverworker.worker")

    def __init__(self, file: AppendedFile, seconds: Callable[[], float] = time.monotonic) -> None:
        self._file = file
        self._seconds = seconds
        self._lost = 0
        self._retry_at = 0.0

    def __call__(self, line: bytes) -> None:
        """Append a line. Never raises: a full disk is no reason to fail a request."""
        if self._lost and self._seconds() < self._retry_at:
            self._lost += 1
            return
        try:
            written = self._file.write(line)
            if written < len(line):  # the disk is full: the next attempt says so
                self._file.write(line, written)
        except OSError as error:
            if not self._lost:
                self._log.error(
                    "the access log {path} cannot be written: {error}; tried again every {seconds:g} s",
                    path=self._file.path,
                    error=error,
                    seconds=RETRY_SECONDS,
                )
            self._lost += 1
            self._retry_at = self._seconds() + RETRY_SECONDS
            return
        if self._lost:
            self._log.warn(
                "the access log {path} is written again; {lost} lines before this one are lost",
                path=self._file.path,
                lost=self._lost,
            )
            self._lost = 0


def to_stdout(line: bytes) -> None:
    """Write a line among what else the worker prints; nowhere if nobody is there to read it."""
    with suppress(OSError):
        while line:
            line = line[os.write(1, line) :]


def access_log_for(output: OutputSettings, key: str) -> AccessLog | None:
    """The access log of the configuration; None where it wants none."""
    if output.access_log is None:
        return None
    path = output.access_log_file
    write = to_stdout if path is None else FileLines(AppendedFile(path))
    return AccessLog(FORMS[output.access_log], write, key=key)
