"""Writes events to a journal on disk (`journal_files` says in which form), so that nobody has to have been watching."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from serverworker.observers.journal_file import JournalFile
from serverworker.processes.awaiting import record_of
from serverworker.values.event_json import event_json
from serverworker.values.events import (
    Event,
    Fault,
    Heartbeat,
    JournalResumed,
    LoginFailed,
    OperatorAction,
    OutputLine,
    Told,
    WorkerDied,
)

WAITING_EVENTS = 2000
"""So many are kept in memory while the disk does not take them; then the oldest go."""
LONGEST_TEXT = 8 * 1024
"""Characters. What is longer is cut in its middle: so no line is longer than who reads it takes."""
LONGEST_DELAY_SECONDS = 60.0
"""Between two attempts at writing. The first comes after a second, each after twice the delay before."""
_BATCH = 200


def for_journal(event: Event) -> bool:
    """Whether the journal has it: all but output, which has logs of its own, and heartbeats, which would fill it."""
    return not isinstance(event, OutputLine | Heartbeat)


def for_audit(event: Event) -> bool:
    """Whether the audit log has it: what operators did, and who did not get in."""
    return isinstance(event, OperatorAction | LoginFailed)


class Journal:
    """The observer that writes one journal.

    It writes in a thread, many events at once where many come, and in order: no event waits for the disk. What the
    disk does not take is told as a `Fault` once, kept in memory up to a bound and tried again, ever less often; when it
    is taken, or is given up, `JournalResumed` says how many events are missing.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        file: JournalFile,
        told_back: Callable[[Event], None],
        in_thread: Callable[[Callable[[], Any]], Deferred[Any]],
        *,
        session: str,
        wants: Callable[[Event], bool] = for_journal,
        waiting: int = WAITING_EVENTS,
    ) -> None:
        """`session` is its id (`session_id`); `in_thread` runs a function outside the reactor's thread."""
        self._clock = clock
        self._file = file
        self._told_back = told_back
        self._in_thread = in_thread
        self._session = session
        self._wants = wants
        self._limit = waiting
        self._waiting: deque[Told] = deque()
        self._writing = 0
        self._retry: IDelayedCall | None = None
        self._failures = 0
        self._missing = 0
        self._dropped = 0
        self._draining = False
        self._drained: list[Deferred[None]] = []

    def __call__(self, told: Told) -> None:
        """Note an event, and return at once."""
        if not self._wants(told.event):
            return
        self._waiting.append(_without_output(told))
        while len(self._waiting) - self._writing > self._limit:
            del self._waiting[self._writing]  # behind those that are being written just now
            self._lose(1)
        self._go_on()

    @property
    def dropped(self) -> int:
        """How many events of this session are not in it."""
        return self._dropped

    def drain(self) -> Deferred[None]:
        """Fires when all is written that the disk takes; afterwards nothing is retried.

        Cancelling it gives up what is still waiting.
        """
        self._draining = True
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        drained: Deferred[None] = Deferred(self._stop_waiting)
        self._drained.append(drained)
        self._go_on()
        return drained

    def _go_on(self) -> None:
        if self._writing or self._retry is not None:
            return
        if self._waiting:
            batch = tuple(islice(self._waiting, _BATCH))
            self._writing = len(batch)
            written = maybeDeferred(self._in_thread, partial(_write, self._file, self._session, batch))
            written.addCallbacks(self._written, self._failed)
            return
        drained, self._drained = self._drained, []
        for each in drained:
            each.callback(None)

    def _written(self, _: object) -> None:
        self._take_written()
        if self._failures:
            missing, self._missing, self._failures = self._missing, 0, 0
            self._tell(JournalResumed(path=str(self._file.path), missing=missing))
        self._go_on()

    def _take_written(self) -> None:
        for _ in range(
            min(self._writing, len(self._waiting))
        ):  # none are left where it was given up meanwhile
            self._waiting.popleft()
        self._writing = 0

    def _failed(self, failure: Failure) -> None:
        self._writing = 0
        if self._draining:
            self._give_up(failure.getErrorMessage())
            self._go_on()
            return
        delay = min(2.0**self._failures, LONGEST_DELAY_SECONDS)
        self._failures += 1
        self._retry = self._clock.callLater(delay, self._try_again)
        if self._failures == 1:  # once for each time that the disk fails, not for each attempt
            next_step = f"up to {self._limit} events are kept in memory, and it is tried again in {delay:g} s, then ever less often"
            self._tell(Fault(where=str(self._file.path), error=record_of(failure), next_step=next_step))

    def _try_again(self) -> None:
        self._retry = None
        self._go_on()

    def _lose(self, number: int) -> None:
        self._missing += number
        self._dropped += number

    def _give_up(self, reason: str) -> None:
        self._lose(len(self._waiting))
        if self._missing == 0:
            return
        self._waiting.clear()
        self._writing = 0
        self._log.error(
            "{missing} events are missing in {path}, and the session ends: {reason}",
            missing=self._missing,
            path=str(self._file.path),
            reason=reason,
        )

    def _stop_waiting(self, drained: Deferred[None]) -> None:
        self._drained.remove(drained)
        self._give_up("they were not written in time")

    def _tell(self, event: Event) -> None:
        with self._log.failuresHandled("what came of a journal could not be told: {event}", event=event):
            self._told_back(event)


def _without_output(told: Told) -> Told:
    """The event without what is large and stands in the crash report."""
    if not isinstance(told.event, WorkerDied):
        return told
    return evolve(told, event=evolve(told.event, output=(), beats=(), stacks=""))


def _write(file: JournalFile, session: str, batch: Sequence[Told]) -> None:
    """In a thread."""
    file.append(b"".join(line_of(session, told) for told in batch))


def line_of(session: str, told: Told) -> bytes:
    """An event as it stands in a journal."""
    content = {"session": session, **_cut(event_json(told))}
    # ASCII: half a character, as a worker may have in the name of a file, could not be written otherwise.
    return json.dumps(content, separators=(",", ":"), default=str).encode("ascii") + b"\n"


def _cut(value: Any) -> Any:
    """The same value, with its long texts cut."""
    match value:
        case str() if len(value) > LONGEST_TEXT:
            half = LONGEST_TEXT // 2
            return f"{value[:half]} … ({len(value) - LONGEST_TEXT} characters are left out) … {value[-half:]}"
        case dict():
            return {key: _cut(each) for key, each in value.items()}
        case list() | tuple():
            return [_cut(each) for each in value]
    return value
