"""The AMP commands of the control port, for programs that speak AMP themselves.

`serverworker.control` is the client that knows them all. What each takes, answers and fails with stands at the command;
how a link begins and which errors there are, at `serverworker.wire.control`.
"""

from __future__ import annotations

from serverworker.wire.control import (
    CONTROL_VERSION,
    Authenticate,
    ControlCommand,
    Crash,
    Crashes,
    Emit,
    Events,
    Exit,
    Hello,
    Logs,
    Restart,
    Run,
    SetPolling,
    SetPort,
    SetWorkers,
    Status,
    Subscribe,
    Told,
    Unsubscribe,
    Usages,
)

__all__ = [
    "CONTROL_VERSION",
    "Authenticate",
    "ControlCommand",
    "Crash",
    "Crashes",
    "Emit",
    "Events",
    "Exit",
    "Hello",
    "Logs",
    "Restart",
    "Run",
    "SetPolling",
    "SetPort",
    "SetWorkers",
    "Status",
    "Subscribe",
    "Told",
    "Unsubscribe",
    "Usages",
]
