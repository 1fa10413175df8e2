"""The one ordered stream of events, and those who watch it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from twisted.logger import Logger

from serverworker.values.errors import ErrorRecord
from serverworker.values.events import Event, Fault, Told

Observer = Callable[[Told], None]
"""Is told of every event, in order. What it raises is reported, and harms nobody."""


class EventStream:
    """Numbers events, and tells each observer of each, whatever the others do."""

    _log = Logger(namespace="serverworker.events")

    def __init__(self, wall_clock: Callable[[], float] = time.time) -> None:
        """`wall_clock` answers seconds since the epoch."""
        self._wall_clock = wall_clock
        self._observers: list[Observer] = []
        self._waiting: deque[Told] = deque()
        self._telling = False
        self._sequence = 0

    def observe(self, observer: Observer) -> Callable[[], None]:
        """Have an observer told from now on; answers a function that ends it."""
        self._observers.append(observer)

        def end() -> None:
            if observer in self._observers:
                self._observers.remove(observer)

        return end

    def publish(self, event: Event) -> None:
        """Tell all observers. An event that an observer publishes meanwhile comes after this one, for everybody."""
        self._sequence += 1
        self._waiting.append(Told(sequence=self._sequence, at=self._wall_clock(), event=event))
        if self._telling:
            return
        self._telling = True
        try:
            while self._waiting:
                self._tell_all(self._waiting.popleft())
        finally:
            self._telling = False

    def _tell_all(self, told: Told) -> None:
        for observer in tuple(self._observers):
            try:
                observer(told)
            except Exception as error:
                self._failed(observer, told, error)

    def _failed(self, observer: Observer, told: Told, error: Exception) -> None:
        name = getattr(observer, "__qualname__", type(observer).__name__)
        self._log.failure(
            "observer {name} failed at {event}; the session goes on", name=name, event=told.name
        )
        # A fault that was told of a fault would be told for ever.
        if not isinstance(told.event, Fault):
            self.publish(Fault(where=f"observer {name}", error=ErrorRecord.from_exception(error)))
