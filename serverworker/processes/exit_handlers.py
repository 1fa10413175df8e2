"""Exit handlers: what an application wants done before its process ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from serverworker.processes.awaiting import finished, within
from serverworker.values.reasons import ExitReason

ExitHandler = Callable[[ExitReason], Any]
"""Plain, or returning a Deferred, or a coroutine function."""


class ExitHandlers:
    """The exit handlers of one process. They run once, all at the same time."""

    def __init__(self, clock: IReactorTime, failed: Callable[[str, Failure], None]) -> None:
        """`failed` is told the name of a handler that raised or outlived the deadline, and the failure."""
        self._clock = clock
        self._failed = failed
        self._handlers: list[ExitHandler] = []
        self._ran = False

    def add(self, handler: ExitHandler) -> None:
        """Have `handler(reason)` called when this process ends."""
        if not callable(handler):
            raise TypeError(f"an exit handler is a callable that takes an ExitReason, not {handler!r}")
        self._handlers.append(handler)

    async def run(self, reason: ExitReason, seconds: float) -> None:
        """Run all; one that raises, or is not done after `seconds`, is reported and stops nothing.

        A second call does nothing: a process ends once (defect 24 of the original).
        """
        if self._ran:
            return
        self._ran = True
        runs = []
        for handler in self._handlers:
            name = getattr(handler, "__qualname__", repr(handler))
            run = within(self._clock, seconds, f"exit handler {name}", finished(handler, reason))
            run.addErrback(self._tell, name)
            runs.append(run)
        await DeferredList(runs)

    def _tell(self, failure: Failure, name: str) -> None:
        self._failed(name, failure)
