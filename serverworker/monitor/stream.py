"""The one ordered stream of events, and those who watch it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.logger import Logger

from serverworker.values.errors import ErrorRecord
from serverworker.values.events import Event, Fault, Told
from serverworker.values.lines import OutputLines, ToldLines

Observer = Callable[[Told], None]
"""Is told of every event, in order. What it raises is reported, and harms nobody."""
LinesObserver = Callable[[ToldLines], None]
"""Is told of what workers print, many lines at once."""


def ignore_lines(told: ToldLines) -> None:
    """For `EventStream.observe`: what workers print is nothing to this observer."""


class EventStream:
    """Numbers events, and tells each observer of each, whatever the others do."""

    _log = Logger(namespace="serverworker.events")

    def __init__(self, wall_clock: Callable[[], float] = time.time) -> None:
        """`wall_clock` answers seconds since the epoch."""
        self._wall_clock = wall_clock
        self._observers: list[tuple[Observer, LinesObserver | None]] = []
        self._waiting: deque[Told | ToldLines] = deque()
        self._telling = False
        self._sequence = 0

    def observe(self, observer: Observer, lines: LinesObserver | None = None) -> Callable[[], None]:
        """Have an observer told from now on; answers a function that ends it.

        What workers print is told to `lines`, as it came; where that is None, to the observer line by line, which
        costs it half a microsecond for each.
        """
        entry = (observer, lines)
        self._observers.append(entry)

        def end() -> None:
            if entry in self._observers:
                self._observers.remove(entry)

        return end

    def publish(self, event: Event) -> None:
        """Tell all observers. An event that an observer publishes meanwhile comes after this one, for everybody."""
        self._sequence += 1
        self._tell(Told(sequence=self._sequence, at=self._wall_clock(), event=event))

    def publish_lines(self, lines: OutputLines) -> None:
        """Tell all observers what a worker printed. Each line has its number, as if it were published by itself."""
        first = self._sequence + 1
        self._sequence += lines.count
        self._tell(ToldLines(sequence=first, at=self._wall_clock(), lines=lines))

    def _tell(self, told: Told | ToldLines) -> None:
        self._waiting.append(told)
        if self._telling:
            return
        self._telling = True
        try:
            while self._waiting:
                self._tell_all(self._waiting.popleft())
        finally:
            self._telling = False

    def _tell_all(self, told: Told | ToldLines) -> None:
        each: tuple[Told, ...] = ()
        for observer, lines in tuple(self._observers):
            if isinstance(told, Told):
                self._tell_one(observer, told)
            elif lines is not None:
                self._tell_one(lines, told)
            else:
                each = each or tuple(told)  # taken apart once, for all who want that
                for one in each:
                    if (observer, lines) not in self._observers:
                        break  # it has heard enough
                    self._tell_one(observer, one)

    def _tell_one(self, observer: Callable[[Any], None], told: Told | ToldLines) -> None:
        try:
            observer(told)
        except Exception as error:
            self._failed(observer, told, error)

    def _failed(self, observer: Callable[[Any], None], told: Told | ToldLines, error: Exception) -> None:
        name = getattr(observer, "__qualname__", type(observer).__name__)
        what = told.name if isinstance(told, Told) else "OutputLine"
        self._log.failure("observer {name} failed at {event}; the session goes on", name=name, event=what)
        # A fault that was told of a fault would be told for ever.
        if isinstance(told, ToldLines) or not isinstance(told.event, Fault):
            self.publish(Fault(where=f"observer {name}", error=ErrorRecord.from_exception(error)))
