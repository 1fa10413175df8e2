"""What makes two events the same trouble, so that one message tells of both."""

from __future__ import annotations

import hashlib
import re

from serverworker.values.causes import Cause
from serverworker.values.errors import ErrorRecord
from serverworker.values.events import Event, Fault, RestartFailed, WorkerDied
from serverworker.values.sentences import sentence

_NUMBER = re.compile(r"\d+")
_FRAME = re.compile(r'^  File ".*", line \d+.*$', re.MULTILINE)


def fingerprint(event: Event) -> str:
    """A short text that is the same for events of one cause: of a kind, from one line of the code.

    Numbers in sentences do not count: worker 3 that dies of what worker 2 has died of is a repeat.
    """
    match event:
        case WorkerDied():
            parts = [event.life, event.hung_at, *_of_cause(event.cause)]
        case RestartFailed(cause=Cause() as cause):
            parts = _of_cause(cause)
        case Fault():
            parts = [_without_numbers(event.where), *_of_error(event.error)]
        case _:
            parts = [_without_numbers(sentence(event))]
    text = "\0".join([type(event).__name__, *parts])
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:16]


def _of_cause(cause: Cause) -> list[str]:
    if cause.error is not None:
        return [cause.kind.value, *_of_error(cause.error)]
    return [cause.kind.value, cause.signal or "", str(cause.exit_status), _without_numbers(cause.text)]


def _of_error(error: ErrorRecord) -> list[str]:
    """Its class and where it was raised: its message may name what one request was at."""
    frames = _FRAME.findall(error.traceback)
    return [error.type, frames[-1] if frames else _without_numbers(error.message)]


def _without_numbers(text: str) -> str:
    return _NUMBER.sub("#", text)
