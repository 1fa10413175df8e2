"""Exit handlers: what an application wants done before its process ends."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from serverworker.processes.awaiting import finished, within
from serverworker.values.reasons import ExitReason

ExitHandler = Callable[[ExitReason], Any]
"""Plain, or returning a Deferred, or a coroutine function."""


class ExitHandlers:
    """The exit handlers of one process. They run once, all at the same time."""

    def __init__(
        self, clock: IReactorTime, failed: Callable[[str, Failure], None], kind: str = "exit handler"
    ) -> None:
        """`failed` is told which handler raised or outlived the deadline, such as ``exit handler save``, and how."""
        self._clock = clock
        self._kind = kind
        self._failed = failed
        self._handlers: list[ExitHandler] = []
        self._begun = False
        self._over = False
        self._waiting: list[Deferred[None]] = []

    def add(self, handler: ExitHandler) -> None:
        """Have `handler(reason)` called when this process ends."""
        if not callable(handler):
            raise TypeError(f"an exit handler is a callable that takes an ExitReason, not {handler!r}")
        self._handlers.append(handler)

    async def run(self, reason: ExitReason, seconds: float) -> None:
        """Run all; one that raises, or is not done after `seconds`, is reported and stops nothing.

        A process ends once: a second call runs nothing. It waits until the first is over, though for no more than its
        own `seconds`, so that a crash in one handler does not cut the others short.
        """
        if self._begun:
            await self._wait(seconds)
            return
        self._begun = True
        runs = []
        for handler in self._handlers:
            name = f"{self._kind} {getattr(handler, '__qualname__', repr(handler))}"
            run = within(self._clock, seconds, name, finished(handler, reason))
            run.addErrback(self._tell, name)
            runs.append(run)
        await DeferredList(runs)
        self._over = True
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(None)

    async def _wait(self, seconds: float) -> None:
        if not self._over:
            over: Deferred[None] = Deferred()
            self._waiting.append(over)
            with suppress(TimeoutError):
                await within(self._clock, seconds, "the exit", over)

    def _tell(self, failure: Failure, name: str) -> None:
        self._failed(name, failure)
