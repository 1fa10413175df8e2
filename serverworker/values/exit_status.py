"""The exit statuses of a session, after sysexits.h."""

from __future__ import annotations

import enum


class ExitStatus(enum.IntEnum):
    """What the process that `twistd` or `twist` ran ends with."""

    OK = 0
    USAGE = 64
    """An option does not exist, or its value is of the wrong kind."""
    UNAVAILABLE = 69
    """A port cannot be bound, or another session holds the state directory."""
    SOFTWARE = 70
    """The session gave up, or the monitor itself had a fault."""
    CONFIG = 78
    """The configuration or the application cannot be used."""


def check_exit_status(status: int) -> None:
    """Hold a status against what a process can end with: the system keeps eight bits, so that 256 would read as 0.

    Raises `ValueError`.
    """
    if type(status) is not int or not 0 <= status <= 255:
        raise ValueError(f"an exit status is a whole number, 0 to 255, not {status!r}")
