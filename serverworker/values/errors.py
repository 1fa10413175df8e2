"""The errors that this package raises, and how an error crosses a process border."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from attrs import field, frozen


class ServerWorkerError(Exception):
    """The root of every error that this package raises on purpose."""


class WrongProcess(ServerWorkerError):
    """Something of the monitor was asked for in a worker, or the other way round."""


class AlreadyLaunched(ServerWorkerError):
    """A second worker, monitor or agent was started in one process."""


class ConfigurationError(ServerWorkerError):
    """The configuration cannot be used. Its text names the key, the value and what is allowed."""


class PortUnavailable(ServerWorkerError):
    """A port cannot be bound: it is in use, not permitted, or has no such address."""


class ApplicationError(ServerWorkerError):
    """The application cannot be imported, found or built. The text is for its author."""


class NotDone(ServerWorkerError):
    """What was asked for did not happen. The text says why, and what goes on."""


class BadCommand(ServerWorkerError):
    """A command that does not exist, or has wrong arguments. The text says what is allowed."""


class NotAllowed(ServerWorkerError):
    """Whoever asks has not shown the session key, or a wrong one."""


class EmitError(ServerWorkerError):
    """The root of every way in which an emit can fail."""


class UnhandledMessage(EmitError):
    """Nobody in the other process handles a message of this name."""

    def __init__(self, name: str, known: Sequence[str] = ()) -> None:
        super().__init__(f"nobody handles {name!r}{nearest(name, known)}")
        self.name = name
        self.known = tuple(known)


class NotJSON(EmitError):
    """An argument or a result cannot be written as JSON."""


class ValueTooLarge(EmitError):
    """An argument or a result is larger than the cap."""


class EmitTimeout(EmitError):
    """No answer came within the deadline. The handlers may still be running."""


class PeerLost(EmitError):
    """The other process ended, or its link broke, before it answered."""


class FailedDispatch(EmitError):
    """The link is closed: the message was not sent."""


class LinkDestroyed(EmitError):
    """The link was closed by this process while the answer was pending (`ManagerDestroyed`)."""


@frozen(kw_only=True)
class ErrorRecord:
    """An error as it crosses a process border or stands in a report."""

    type: str
    """The qualified name of its class, such as ``builtins.ValueError``."""
    message: str
    traceback: str = ""
    """As Python prints it; empty where there was none."""

    @classmethod
    def from_exception(cls, error: BaseException) -> ErrorRecord:
        """The record of a caught exception. Never raises, whatever the exception's own code does."""
        kind = type(error)
        name = f"{kind.__module__}.{kind.__qualname__}"
        try:
            text = "".join(traceback.format_exception(error))
        except Exception as fault:  # a broken __repr__ in a frame must not hide the crash itself
            text = f"(the traceback could not be formatted: {type(fault).__name__})"
        return cls(type=name, message=_safe_text(error), traceback=text)

    def __str__(self) -> str:
        """One line: the class and the message."""
        return f"{self.type.removeprefix('builtins.')}: {self.message}"


def _safe_text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as fault:
        return f"(its message could not be read: {type(fault).__name__})"


@frozen(kw_only=True)
class HandlerOutcome:
    """What one handler of an emit came to: its result, or its error."""

    result: Any = None
    error: ErrorRecord | None = None


class RemoteError(EmitError):
    """A handler in the other process failed. All of them ran; see `outcomes` for the others."""

    def __init__(self, record: ErrorRecord, outcomes: Sequence[HandlerOutcome] = ()) -> None:
        super().__init__(str(record))
        self.record = record
        self.outcomes = tuple(outcomes)

    @property
    def remote_traceback(self) -> str:
        """The traceback as the other process printed it."""
        return self.record.traceback


def nearest(name: str, known: Sequence[str]) -> str:
    """A tail for an error's text: the nearest known name, else all that is allowed, else nothing."""
    if not known:
        return ""
    close = get_close_matches(name, known, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; allowed: {', '.join(sorted(known))}"


@frozen
class Problem:
    """One thing that is wrong with a configuration, and what would be right."""

    key: str
    text: str = field()

    def __str__(self) -> str:
        return f"{self.key}: {self.text}"
