"""What was told lately: the last events and the last lines of output, for whoever looks or comes back."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Any

from attrs import frozen

from serverworker.values.event_json import event_json
from serverworker.values.events import Heartbeat, OutputLine, Told
from serverworker.values.lines import OutputLines, ToldLines
from serverworker.values.sentences import source_of

KEPT_EVENTS = 2000
KEPT_BYTES = 4 * 1024 * 1024
"""Of events, as JSON."""
KEPT_LINES = 5000
KEPT_LINE_BYTES = 2 * 1024 * 1024


class Kept:
    """One event, as it is kept."""

    __slots__ = ("_text", "_told")

    def __init__(self, told: Told) -> None:
        self._told = told
        self._text: str | None = None

    @property
    def sequence(self) -> int:
        """Its number in the session."""
        return self._told.sequence

    @property
    def name(self) -> str:
        """Such as ``WorkerDied``."""
        return self._told.name

    @property
    def source(self) -> str:
        """Such as ``worker 3``."""
        return source_of(self._told.event)

    @property
    def text(self) -> str:
        """`event_json` as text: made when somebody wants it, and once for all who do."""
        if self._text is None:
            self._text = json.dumps(event_json(self._told), ensure_ascii=False, separators=(",", ":"))
        return self._text

    def size(self) -> int:
        """About how much it takes, in bytes."""
        return len(self.text)

    def as_json(self) -> dict[str, Any]:
        """The event, as `event_json` has it."""
        return event_json(self._told)


class _Ring:
    """The newest of a kind, bounded in number and bytes; the newest of all is always kept."""

    def __init__(self, number: int, limit_bytes: int) -> None:
        self._number = number
        self._limit_bytes = limit_bytes
        self._bytes = 0
        self.kept: deque[Kept] = deque()
        self.gone = 0
        """The sequence of the last one that is kept no more; 0: all are."""

    def add(self, kept: Kept) -> None:
        self.kept.append(kept)
        self._bytes += kept.size()
        while len(self.kept) > 1 and (len(self.kept) > self._number or self._bytes > self._limit_bytes):
            oldest = self.kept.popleft()
            self._bytes -= oldest.size()
            self.gone = oldest.sequence

    def after(self, sequence: int) -> list[Kept]:
        found = []
        for kept in reversed(self.kept):  # who asks has mostly seen all but the newest
            if kept.sequence <= sequence:
                break
            found.append(kept)
        return found[::-1]


class _Lines:
    """The newest lines, as they were told: many at once. They are taken apart when somebody wants them."""

    def __init__(self, number: int, limit_bytes: int) -> None:
        self._number = number
        self._limit_bytes = limit_bytes
        self._told: deque[ToldLines] = deque()
        self._apart: dict[int, tuple[Kept, ...]] = {}
        self._count = 0
        self._bytes = 0
        self.gone = 0
        """As of `_Ring`."""

    def add(self, told: ToldLines) -> None:
        some = told.last(self._number)
        if some.lines.count < told.lines.count:
            self.gone = some.sequence - 1
        self._told.append(some)
        self._count += some.lines.count
        self._bytes += len(some.lines.text)
        while len(self._told) > 1 and (self._count > self._number or self._bytes > self._limit_bytes):
            oldest = self._told.popleft()
            self._apart.pop(oldest.sequence, None)
            self._count -= oldest.lines.count
            self._bytes -= len(oldest.lines.text)
            self.gone = max(self.gone, oldest.last_sequence)  # some of the newest may be gone, too

    def after(self, sequence: int) -> list[Kept]:
        found: list[Kept] = []
        for told in reversed(self._told):
            if told.last_sequence <= sequence:
                break
            found.extend(kept for kept in reversed(self._each(told)) if kept.sequence > sequence)
        return found[::-1]

    def last(self, limit: int, source: str) -> list[Kept]:
        found: list[Kept] = []
        for told in reversed(self._told):
            if len(found) >= limit:
                break
            if not source or told.lines.source == source:
                found.extend(reversed(self._each(told)))
        return found[:limit][::-1]

    def _each(self, told: ToldLines) -> tuple[Kept, ...]:
        # Once for all who follow the output: each of them may ask for the same lines.
        if told.sequence not in self._apart:
            self._apart[told.sequence] = tuple(map(Kept, told))
        return self._apart[told.sequence]


@frozen(kw_only=True)
class Since:
    """What came after an event."""

    events: tuple[Kept, ...]
    """Oldest first."""
    upto: int
    """Up to this sequence there is no other; where to go on."""
    missed: bool
    """Whether some that came after it are kept no more."""


def oldest_that_fit(events: Sequence[Kept], limit_bytes: int) -> Sequence[Kept]:
    """As many of them as have no more bytes of JSON than this, from the first on; one at least."""
    size = 0
    for number, kept in enumerate(events):
        size += len(kept.text)
        if size > limit_bytes and number:
            return events[:number]
    return events


class History:
    """The observer that keeps them, and wakes whoever waits for more.

    Heartbeats are not kept: they would push out what matters.
    """

    def __init__(
        self,
        *,
        events: int = KEPT_EVENTS,
        event_bytes: int = KEPT_BYTES,
        lines: int = KEPT_LINES,
        line_bytes: int = KEPT_LINE_BYTES,
    ) -> None:
        self._events = _Ring(events, event_bytes)
        self._lines = _Lines(lines, line_bytes)
        self._sequence = 0
        self._wakers: list[Callable[[], None]] = []

    @property
    def sequence(self) -> int:
        """That of the newest event."""
        return self._sequence

    def __call__(self, told: Told) -> None:
        """Keep an event."""
        event = told.event
        if isinstance(event, OutputLine):
            line = OutputLines(source=event.source, stream=event.stream, text=event.text, count=1)
            self.lines(ToldLines(sequence=told.sequence, at=told.at, lines=line))
            return
        self._sequence = told.sequence
        if isinstance(event, Heartbeat):
            return
        self._events.add(Kept(told))
        self._wake()

    def lines(self, told: ToldLines) -> None:
        """Keep what a worker has printed."""
        self._sequence = told.last_sequence
        self._lines.add(told)
        self._wake()

    def _wake(self) -> None:
        for wake in tuple(self._wakers):
            wake()

    def watch(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Have `wake()` called whenever something was kept; answers a function that ends it. It must not raise."""
        self._wakers.append(wake)

        def end() -> None:
            if wake in self._wakers:
                self._wakers.remove(wake)

        return end

    def since(
        self,
        sequence: int,
        *,
        kinds: Collection[str] = (),
        output: bool = False,
        limit: int = KEPT_EVENTS,
    ) -> Since:
        """The oldest `limit` events after `sequence`: of `kinds` (none: all), with the lines of output or without."""
        found = [each for each in self._events.after(sequence) if not kinds or each.name in kinds]
        gone = self._events.gone
        if output:
            found = sorted([*found, *self._lines.after(sequence)], key=_by_sequence)
            gone = max(gone, self._lines.gone)
        some = found[:limit]
        upto = some[-1].sequence if len(found) > limit else self._sequence
        return Since(events=tuple(some), upto=upto, missed=gone > sequence)

    def last_events(self, limit: int, kinds: Collection[str] = ()) -> tuple[Kept, ...]:
        """The newest, oldest first."""
        found = [each for each in self._events.kept if not kinds or each.name in kinds]
        return tuple(found[-limit:])

    def last_lines(self, limit: int, source: str = "") -> tuple[Kept, ...]:
        """The newest lines of output, oldest first; of one source, such as ``worker 3``, or of all."""
        return tuple(self._lines.last(limit, source))


def _by_sequence(kept: Kept) -> int:
    return kept.sequence
