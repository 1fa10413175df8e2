"""Keeps a Python web server answering on one machine, and says at once, with the cause, when something went wrong.

What an application needs is here: `SessionAgent`, `ServerWorker`, `Monitor`, `ExitReason`, and the errors. Each is
imported when it is first used, so that a worker never loads the monitor's half, nor the monitor a worker's.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serverworker.monitor.handle import Monitor
    from serverworker.processes.agent import SessionAgent
    from serverworker.processes.server_worker import ServerWorker
    from serverworker.values.errors import (
        AlreadyLaunched,
        EmitError,
        EmitTimeout,
        ErrorRecord,
        FailedDispatch,
        LinkDestroyed,
        NotJSON,
        PeerLost,
        RemoteError,
        ServerWorkerError,
        UnhandledMessage,
        ValueTooLarge,
        WrongProcess,
    )
    from serverworker.values.reasons import ExitKind, ExitReason

__version__ = "0.1.0"

_ERRORS = "serverworker.values.errors"
_PLACES = {
    "Monitor": "serverworker.monitor.handle",
    "SessionAgent": "serverworker.processes.agent",
    "ServerWorker": "serverworker.processes.server_worker",
    "ExitKind": "serverworker.values.reasons",
    "ExitReason": "serverworker.values.reasons",
    "AlreadyLaunched": _ERRORS,
    "EmitError": _ERRORS,
    "EmitTimeout": _ERRORS,
    "ErrorRecord": _ERRORS,
    "FailedDispatch": _ERRORS,
    "LinkDestroyed": _ERRORS,
    "NotJSON": _ERRORS,
    "PeerLost": _ERRORS,
    "RemoteError": _ERRORS,
    "ServerWorkerError": _ERRORS,
    "UnhandledMessage": _ERRORS,
    "ValueTooLarge": _ERRORS,
    "WrongProcess": _ERRORS,
}

__all__ = [
    "AlreadyLaunched",
    "EmitError",
    "EmitTimeout",
    "ErrorRecord",
    "ExitKind",
    "ExitReason",
    "FailedDispatch",
    "LinkDestroyed",
    "Monitor",
    "NotJSON",
    "PeerLost",
    "RemoteError",
    "ServerWorker",
    "ServerWorkerError",
    "SessionAgent",
    "UnhandledMessage",
    "ValueTooLarge",
    "WrongProcess",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'serverworker' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
