"""Taking the stacks of a worker: asked for by a signal, read from a pipe, with a deadline."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReactorFDSet, IReactorTime

from serverworker.processes.descendants import is_stopped
from serverworker.processes.output import read_available
from serverworker.processes.stacks import DUMP_SIGNAL

_QUIET_SECONDS = 0.05
"""A dump is whole when nothing has come for so long."""
_LONGEST_SECONDS = 1.0
"""A dump that has not begun by then does not come: the process is stopped, or in the kernel's hands."""
_CAP = 1024 * 1024


class IDumpReactor(IReactorFDSet, IReactorTime):
    """What is needed of a reactor: descriptors, and the time."""


class StackDump:
    """The monitor's end of the pipe that a worker's stacks are written to."""

    def __init__(self, reactor: Any, descriptor: int) -> None:
        """Takes the descriptor over, and closes it in `finish`."""
        self._reactor = reactor
        self._descriptor = descriptor
        self._data = b""

    def take(self, pid: int, then: Callable[[], None]) -> None:
        """Have the stacks of `pid` dumped, and call `then` once they are here, within a second."""
        if is_stopped(pid):
            then()  # a stopped process dumps nothing
            return
        try:
            os.kill(pid, DUMP_SIGNAL)
        except ProcessLookupError:
            then()
            return
        self._wait(self._reactor.seconds() + _LONGEST_SECONDS, len(self._data), len(self._data), then)

    def _wait(self, limit: float, start: int, seen: int, then: Callable[[], None]) -> None:
        def look() -> None:
            self._read()
            length = len(self._data)
            is_complete = length == seen and length > start
            if is_complete or self._reactor.seconds() >= limit:
                then()
            else:
                self._wait(limit, start, length, then)

        self._reactor.callLater(_QUIET_SECONDS, look)

    def _read(self) -> None:
        if self._descriptor >= 0 and len(self._data) < _CAP:
            self._data += read_available(self._descriptor)

    def finish(self) -> str:
        """What was dumped; the descriptor is closed."""
        self._read()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        return self._data.decode("utf-8", "replace")
