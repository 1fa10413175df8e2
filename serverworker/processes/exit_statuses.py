"""Taking the exit status of a child that the reactor has not spawned, but whose end it tells of."""

from __future__ import annotations

import os

from twisted.logger import Logger

UNKNOWN = 255 << 8
"""Exit status 255, as asyncio has it, where somebody else in this process has taken the true one."""

_log = Logger()


def take_status(pid: int, what: str) -> int | None:
    """The status of a child that has ended, as of waitpid(2); None while it runs. `what` it is, the log is told."""
    try:
        ended, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        _log.error("somebody else has taken the exit status of {what} {pid}: told as 255", what=what, pid=pid)
        return UNKNOWN
    return status if ended else None
