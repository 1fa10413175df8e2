"""Of what a death is told: why it came, the last heartbeats, the requests in flight."""

from __future__ import annotations

import enum

from attrs import frozen

from serverworker.values.errors import ErrorRecord


class CauseKind(enum.Enum):
    """How a worker came to its end when nobody had asked for it."""

    EXCEPTION = "exception"
    """An exception that nothing in the worker handled."""
    EXIT = "exit"
    """The process ended by itself, whatever its status."""
    SIGNAL = "signal"
    """A signal from outside, or a fault such as SIGSEGV."""
    HEARTBEAT = "heartbeat"
    """Its own health route failed more often in a row than is tolerated."""
    STARTUP = "startup"
    """It was not ready within the start-up deadline."""
    LOAD = "load"
    """The application could not be imported or built."""
    HANG = "hang"
    """Its reactor did not answer the monitor's ping."""
    LINK = "link"
    """Its link to the monitor broke while the process lived."""
    SPAWN = "spawn"
    """The process could not be started at all."""


@frozen(kw_only=True)
class Cause:
    """Why a worker died."""

    kind: CauseKind
    text: str
    """One line for the operator."""
    error: ErrorRecord | None = None
    exit_status: int | None = None
    signal: str | None = None
    """Such as ``SIGKILL``."""


@frozen(kw_only=True)
class Beat:
    """One answer of a worker's own health route, or the lack of one."""

    at: float
    """Wall clock, seconds since the epoch."""
    ok: bool
    seconds: float
    """How long the poll took."""
    text: str
    """Such as ``200``, ``500``, or ``no answer within 5 s``."""
    failures: int = 0
    """Failures in a row, this one included."""


@frozen(kw_only=True)
class RequestInFlight:
    """A request that a worker was at."""

    method: str
    path: str
    """Without its query string, which may hold secrets."""
    age_seconds: float
