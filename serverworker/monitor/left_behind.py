"""What a worker that is gone has left running is looked for, and killed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from serverworker.processes.guardian import MARK_VARIABLE, Guardian
from serverworker.processes.reaper import kill_left
from serverworker.values.state import SessionState

RETRY_SECONDS = 1.0
"""After this a thread that could not be started is tried again."""


class LeftBehind:
    """Told of each worker process that is gone. The guardian watches it until nothing is left of it."""

    _log = Logger(namespace="serverworker.monitor")

    def __init__(self, reactor: Any, guardian: Guardian, state: Callable[[], SessionState]) -> None:
        self._reactor = reactor
        self._guardian = guardian
        self._state = state

    def end(self, pid: int) -> None:
        """End what a process has left. In a thread: all of /proc is looked through."""
        state = self._state()
        living = {worker.id for worker in state.workers}
        kill = partial(
            kill_left,
            pid,
            self._guardian.started_at(pid),
            self._guardian.environment[MARK_VARIABLE],
            # A worker that is started meanwhile is not among the living that were counted here.
            lambda worker: worker <= state.last_worker and worker not in living,
        )
        try:
            gone = deferToThreadPool(self._reactor, self._reactor.getThreadPool(), kill)
        except RuntimeError:  # where no process can be started, no thread can either
            self._reactor.callLater(RETRY_SECONDS, self.end, pid)
            return

        def left(killed: list[Any]) -> None:
            if killed:
                what = ", ".join(f"{each.pid} ({each.command})" for each in killed)
                self._log.warn("worker process {pid} had left {what}: killed", pid=pid, what=what)

        gone.addCallbacks(left, lambda failure: self._log.failure("what {pid} left", failure, pid=pid))
        gone.addBoth(lambda _: self._guardian.forget(pid))
