"""What was told lately: the last events and the last lines of output, for whoever looks or comes back."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Collection
from typing import Any

from attrs import frozen

from serverworker.values.event_json import event_json
from serverworker.values.events import Heartbeat, OutputLine, Told
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
        event = self._told.event
        # A line may come ten thousand times a second: it is measured without being written out.
        return len(event.text) if isinstance(event, OutputLine) else len(self.text)

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


@frozen(kw_only=True)
class Since:
    """What came after an event."""

    events: tuple[Kept, ...]
    """Oldest first."""
    upto: int
    """Up to this sequence there is no other; where to go on."""
    missed: bool
    """Whether some that came after it are kept no more."""


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
        self._lines = _Ring(lines, line_bytes)
        self._sequence = 0
        self._wakers: list[Callable[[], None]] = []

    @property
    def sequence(self) -> int:
        """That of the newest event."""
        return self._sequence

    def __call__(self, told: Told) -> None:
        """Keep an event."""
        self._sequence = told.sequence
        if isinstance(told.event, Heartbeat):
            return
        ring = self._lines if isinstance(told.event, OutputLine) else self._events
        ring.add(Kept(told))
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
        if not source:
            return tuple(list(self._lines.kept)[-limit:])
        found = [each for each in self._lines.kept if each.source == source]
        return tuple(found[-limit:])


def _by_sequence(kept: Kept) -> int:
    return kept.sequence
