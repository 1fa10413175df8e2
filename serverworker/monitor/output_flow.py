"""Back-pressure: where what workers print cannot be taken away, they wait in their next print, and not for long."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall

from serverworker.values.events import OutputDropped

PATIENCE_SECONDS = 5.0
"""So long a worker waits for a sink at most. From then on lines are dropped, until the sink has room again."""


class Sink(Protocol):
    """Somewhere that the log goes: a terminal, a pipe, a file."""

    name: str
    """Such as ``the log file /var/log/site.log``."""

    @property
    def is_full(self) -> bool:
        """Whether more waits for it than is to be kept in memory."""

    def when_room(self, call: Callable[[], None]) -> None:
        """Have `call()` called once, in whatever thread, when there is room again."""

    def give_up(self) -> None:
        """Drop what workers print, and count it, until there is room again."""

    def take_dropped(self) -> Mapping[str, int]:
        """How many lines were dropped since this was last asked, by source."""


class Tap(Protocol):
    """Where output comes from."""

    def pause(self) -> None:
        """Let none come."""

    def resume(self) -> None:
        """Let it come."""


class OutputFlow:
    """Stops reading what workers print while a sink is full; when its patience is over it goes on without that sink.

    A slow sink slows the workers down to its own speed so, and a stuck one costs lines, but no worker its life:
    a ping or a heartbeat that fails for it would be the log's fault and not the worker's.
    """

    def __init__(
        self,
        reactor: Any,
        publish: Callable[[OutputDropped], None],
        patience: Callable[[], float] = lambda: PATIENCE_SECONDS,
    ) -> None:
        """`patience` answers how many seconds a sink has: fewer where a worker that waits so long would seem to hang."""
        self._reactor = reactor
        self._publish = publish
        self._seconds = patience
        self._sinks: list[Sink] = []
        self._taps: set[Tap] = set()
        self._patience: dict[str, IDelayedCall | None] = {}
        """By the name of a sink that is full; None: it has been given up."""
        self._paused = False

    def watch(self, sink: Sink) -> None:
        """Have a regard for this sink, too."""
        self._sinks.append(sink)

    def add(self, tap: Tap) -> None:
        """Output comes from here as well, as soon as every sink has room."""
        self._taps.add(tap)
        if not self._paused:
            tap.resume()

    def remove(self, tap: Tap) -> None:
        """None comes from there any more."""
        self._taps.discard(tap)

    def printed(self) -> None:
        """Something has just been told to the sinks: look whether they have room for more."""
        for sink in self._sinks:
            if sink.name not in self._patience and sink.is_full:
                give_up = self._reactor.callLater(self._seconds(), self._give_up, sink)
                self._patience[sink.name] = give_up
                # By way of the reactor: it is the sink's own thread that finds out.
                sink.when_room(partial(self._reactor.callFromThread, self._has_room, sink))
                self._settle()

    def close(self) -> None:
        """No worker is there any more: say what was dropped, and wait for nothing."""
        for call in self._patience.values():
            if call is not None:
                call.cancel()
        self._patience.clear()
        for sink in self._sinks:
            self._tell_dropped(sink)
        self._sinks.clear()
        self._settle()

    def _give_up(self, sink: Sink) -> None:
        self._patience[sink.name] = None
        sink.give_up()
        self._settle()

    def _has_room(self, sink: Sink) -> None:
        if sink.name not in self._patience:  # all is over
            return
        call = self._patience.pop(sink.name)
        if call is not None:
            call.cancel()
        self._tell_dropped(sink)
        self._settle()

    def _tell_dropped(self, sink: Sink) -> None:
        for source, lines in sink.take_dropped().items():
            self._publish(OutputDropped(origin=source, lines=lines, sink=sink.name))

    def _settle(self) -> None:
        """Read, or do not, as the sinks have it now."""
        paused = any(call is not None for call in self._patience.values())
        if paused == self._paused:
            return
        self._paused = paused
        for tap in tuple(self._taps):
            if paused:
                tap.pause()
            else:
                tap.resume()
