"""Brings the spool to what is wanted of it: in a thread, one file after the other, for as long as the disk says no."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from serverworker.observers.notifications.spool import Found, Spool
from serverworker.processes.awaiting import record_of, within
from serverworker.values.events import Fault

DISK_SECONDS = 10.0
"""How long the disk may take for one file before it counts as failed."""
LONGEST_DELAY_SECONDS = 60.0
"""Between two attempts at a disk that fails. The first comes after a second, each after twice the delay before."""

InThread = Callable[[Callable[[], Any]], Deferred[Any]]
"""Runs a function outside the reactor's thread, as `deferToThreadPool` does."""


class SpoolWriter:
    """Writes and removes files of the spool. Nobody has to wait for the disk, and what it refuses stays wanted."""

    def __init__(
        self, clock: IReactorTime, spool: Spool, in_thread: InThread, publish: Callable[[Fault], object]
    ) -> None:
        """`publish` is told when the disk begins to fail: once, and not for each attempt."""
        self._clock = clock
        self._spool = spool
        self._in_thread = in_thread
        self._publish = publish
        self._wanted: dict[str, bytes | None] = {}
        self._tried: dict[str, list[Deferred[None]]] = {}
        self._busy = False
        self._failures = 0
        self._retry: IDelayedCall | None = None
        self._closed: Deferred[None] | None = None

    @property
    def unwritten(self) -> tuple[str, ...]:
        """The names of files that are wanted and not written yet."""
        return tuple(name for name, content in self._wanted.items() if content is not None)

    def load(self) -> Deferred[Found]:
        """What the spool holds; fails where it cannot be read."""
        return self._bounded(self._spool.load)

    def want(self, name: str, content: bytes | None) -> Deferred[None]:
        """Have a file hold this, or with None be gone. Fires when that was tried once; never fails.

        While the disk is known to fail it fires at once, and the file is tried again with all others. Only a removal is
        tried all the same: a full disk takes it, and what is delivered must not be sent again by the next session.
        """
        self._wanted[name] = content
        if self._retry is not None:
            if content is not None:
                return succeed(None)
            self._retry.cancel()
            self._retry = None
        tried: Deferred[None] = Deferred()
        self._tried.setdefault(name, []).append(tried)
        self._go_on()
        return tried

    def close(self) -> Deferred[None]:
        """Try once more what is still wanted; fires when all is done, or the disk has failed again."""
        closed: Deferred[None] = Deferred()
        self._closed = closed
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self._go_on()
        return closed

    def _go_on(self) -> None:
        if self._busy or self._retry is not None:
            return
        if not self._wanted:
            self._finish()
            return
        self._busy = True
        removals = (each for each, content in self._wanted.items() if content is None)
        name = next(removals, None) or next(iter(self._wanted))
        content = self._wanted[name]
        put = self._bounded(partial(self._spool.put, name, content))
        put.addCallbacks(self._done, self._failed, callbackArgs=(name, content))

    def _bounded(self, call: Callable[[], Any]) -> Deferred[Any]:
        return within(self._clock, DISK_SECONDS, "the disk", maybeDeferred(self._in_thread, call))

    def _done(self, _: object, name: str, content: bytes | None) -> None:
        self._busy = False
        if (
            content is not None or len(self._wanted) == 1
        ):  # a removal alone does not say that the disk has room
            self._failures = 0
        if self._wanted.get(name) is content:  # else it was wanted otherwise meanwhile
            self._wanted.pop(name, None)
            self._answer(name)
        self._go_on()

    def _failed(self, failure: Failure) -> None:
        self._busy = False
        self._failures += 1
        delay = min(2.0 ** min(self._failures - 1, 10), LONGEST_DELAY_SECONDS)
        if self._closed is None:
            self._retry = self._clock.callLater(delay, self._try_again)
        if self._failures == 1:
            self._publish(
                Fault(
                    where=f"the notifications' spool, {self._spool.directory}",
                    error=record_of(failure),
                    next_step="messages are kept in memory, and go out all the same; "
                    f"it is tried again in {delay:g} s, then ever less often",
                )
            )
        for name in tuple(self._tried):
            self._answer(name)
        if self._closed is not None:
            self._finish()

    def _try_again(self) -> None:
        self._retry = None
        self._go_on()

    def _answer(self, name: str) -> None:
        for tried in self._tried.pop(name, []):
            tried.callback(None)

    def _finish(self) -> None:
        closed, self._closed = self._closed, None
        if closed is not None:
            closed.callback(None)
