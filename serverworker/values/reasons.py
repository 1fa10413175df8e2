"""Why a worker or a session ends, as an exit handler is told."""

from __future__ import annotations

import enum

from attrs import frozen

from serverworker.values.errors import ErrorRecord


class ExitKind(enum.Enum):
    """The three ways to end. The original told them as an Error, `true` and `false`."""

    CRASH = "crash"
    SESSION_END = "session-end"
    RESTART = "restart"


@frozen
class ExitReason:
    """What an exit handler is given: why this process ends."""

    kind: ExitKind
    error: ErrorRecord | None = None
    """The error of a crash; None otherwise."""
    text: str = ""
    """The reason in words, where somebody gave one."""
