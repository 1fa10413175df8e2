"""The event stream (server-sent events): what the open pages are told.

Its messages, each with JSON behind ``data:``::

    hello     {session}: which session this is
    told      [event, …] as `event_json` has them, lines of output among them; the id is ``session:sequence``
    missed    {}: some that came between are kept no more
    status    the session now, as ``/api/status`` has it
    sample    the newest of ``/api/series``

A browser that reconnects says with ``Last-Event-ID`` where it was, and goes on there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from serverworker.monitor.history import History, Kept, oldest_that_fit
from serverworker.surfaces.dashboard.exchange import Refused
from serverworker.surfaces.dashboard.logins import Login
from serverworker.surfaces.dashboard.series import Series

MOST_STREAMS = 100
GATHER_SECONDS = 0.1
"""How long events are gathered for one message."""
BATCH_EVENTS = 500
BATCH_BYTES = 256 * 1024
"""Of one message; a single event may be larger."""
FIRST_EVENTS = 300
"""So many events, and as many lines of output, somebody is told who comes for the first time."""
TICK_SECONDS = 1.0
"""A status is told at most so often."""
FIGURES_SECONDS = 5.0
"""And at least so often, as its figures change without an event."""
SILENCE_SECONDS = 15.0
"""After so long without a message a comment is sent: proxies, and both ends, see that the connection lives."""
STALLED_SECONDS = 60.0
"""Who does not read for so long is let go of."""
RETRY_MILLISECONDS = 1000


class Pipe(Protocol):
    """Where a stream goes."""

    def begin(self) -> None:
        """Send the head of the answer."""

    def write(self, data: bytes) -> None:
        """Send more."""

    def finish(self) -> None:
        """It is complete."""

    def abort(self) -> None:
        """Let go of whoever is there."""

    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None:
        """Tell the producer when the other end does not keep up."""

    def unregisterProducer(self) -> None:
        """Tell it no more."""


class Streams:
    """All streams of a dashboard. What is told to all is made once, at most once a second."""

    _log = Logger(namespace="serverworker.dashboard")

    def __init__(
        self,
        *,
        clock: IReactorTime,
        history: History,
        session: str,
        series: Series,
        snapshot: Callable[[], Any],
        lasts: Callable[[Login], bool],
    ) -> None:
        """`snapshot` answers the status as JSON values; `lasts`, whether a login has not ended."""
        self.clock = clock
        self.history = history
        self.session = session
        self._series = series
        self._snapshot = snapshot
        self._lasts = lasts
        self._streams: set[Stream] = set()
        self._timer: IDelayedCall | None = None
        self._told_sequence = -1
        self._told_at = 0.0
        self._told_samples = 0
        self.status = b""
        """The newest status, as a message."""

    def open(self, pipe: Pipe, login: Login | None, last_event_id: str) -> Stream:
        """Tell somebody from now on. Raises `Refused` where there are too many already."""
        if len(self._streams) >= MOST_STREAMS:
            raise Refused(503, f"{MOST_STREAMS} pages follow the session already")
        if not self._streams:
            self._told_samples = self._series.taken
            self._timer = self.clock.callLater(TICK_SECONDS, self._tick)
        self._make_status()
        stream = Stream(self, pipe, login, _position(last_event_id, self.session))
        self._streams.add(stream)
        stream.begin()
        return stream

    def gone(self, stream: Stream) -> None:
        """One less."""
        self._streams.discard(stream)
        if not self._streams and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def close(self) -> None:
        """End them all, after the last that there is to tell."""
        for stream in tuple(self._streams):
            stream.end()

    def _tick(self) -> None:
        self._timer = self.clock.callLater(TICK_SECONDS, self._tick)
        now = self.clock.seconds()
        for stream in tuple(self._streams):
            if stream.login is not None and not self._lasts(stream.login):
                stream.end()
            elif stream.is_stalled(now):
                stream.abort()
        changed = self.history.sequence != self._told_sequence
        news = changed or now - self._told_at >= FIGURES_SECONDS
        if news:
            self._make_status()
        sample = self._new_sample()
        for stream in tuple(self._streams):
            stream.tick(now, news=news, sample=sample)

    def _make_status(self) -> None:
        self._told_sequence, self._told_at = self.history.sequence, self.clock.seconds()
        with self._log.failuresHandled("the pages show an old status: there is none to tell"):
            self.status = message("status", self._snapshot())

    def _new_sample(self) -> bytes:
        if self._series.taken == self._told_samples:
            return b""
        self._told_samples = self._series.taken
        return message("sample", self._series.samples[-1].as_json())


@implementer(IPushProducer)
class Stream:
    """What one page is told: a place in the history, so that whoever is slow costs no memory, but may miss some."""

    def __init__(self, streams: Streams, pipe: Pipe, login: Login | None, upto: int | None) -> None:
        """`upto`: what it has been told already; None: nothing."""
        self.login = login
        self._streams = streams
        self._history = streams.history
        self._pipe = pipe
        self._upto = upto
        self._wrote_at = 0.0
        self._stalled_at: float | None = None
        self._missed_status = False
        self._gathering: IDelayedCall | None = None
        self._unwatch: Callable[[], None] | None = None

    def begin(self) -> None:
        """Send what there is, and follow from there."""
        self._pipe.begin()
        self._pipe.registerProducer(self, True)
        hello = message("hello", {"session": self._streams.session})
        self._write(b"retry: %d\n\n" % RETRY_MILLISECONDS + hello + self._streams.status)
        if self._upto is None:
            self._upto = self._history.sequence
            self._write(self._told(_newest_that_fit(self._recent())))
        self._unwatch = self._history.watch(self._wake)
        self._wake()

    def _recent(self) -> Sequence[Kept]:
        both = (*self._history.last_events(FIRST_EVENTS), *self._history.last_lines(FIRST_EVENTS))
        return sorted(both, key=lambda kept: kept.sequence)

    # --- events ---------------------------------------------------------------------------------

    def _wake(self) -> None:
        if self._gathering is None and self._stalled_at is None:
            self._gathering = self._streams.clock.callLater(GATHER_SECONDS, self._send)

    def _send(self) -> None:
        self._gathering = None
        assert self._upto is not None
        since = self._history.since(self._upto, output=True, limit=BATCH_EVENTS)
        some = oldest_that_fit(since.events, BATCH_BYTES)
        self._upto = since.upto if len(some) == len(since.events) else some[-1].sequence
        if since.missed:
            self._write(message("missed", {}))
        if some:
            self._write(self._told(some))
        if self._upto < self._history.sequence:
            self._wake()

    def _told(self, some: Sequence[Kept]) -> bytes:
        text = ",".join(kept.text for kept in some)
        return _message("told", f"[{text}]", f"{self._streams.session}:{self._upto}")

    # --- figures --------------------------------------------------------------------------------

    def tick(self, now: float, *, news: bool, sample: bytes) -> None:
        """A second has passed; `news`: there is another status than before."""
        if self._stalled_at is not None:
            self._missed_status = self._missed_status or news
            return
        if news or self._missed_status:
            self._missed_status = False
            self._write(self._streams.status)
        if sample:
            self._write(sample)
        if now - self._wrote_at >= SILENCE_SECONDS:
            self._write(b": still here\n\n")

    def is_stalled(self, now: float) -> bool:
        """Whether the other end has not read for too long."""
        return self._stalled_at is not None and now - self._stalled_at >= STALLED_SECONDS

    def _write(self, data: bytes) -> None:
        self._wrote_at = self._streams.clock.seconds()
        self._pipe.write(data)

    # --- the other end --------------------------------------------------------------------------

    def pauseProducing(self) -> None:
        """It does not keep up."""
        self._stalled_at = self._streams.clock.seconds()
        self._forget_call()

    def resumeProducing(self) -> None:
        """It has read."""
        self._stalled_at = None
        if self._unwatch is not None:
            self._wake()

    def stopProducing(self) -> None:
        """It is gone."""
        self._leave()

    def end(self) -> None:
        """Tell the last, and no more."""
        if self._stalled_at is not None:
            self.abort()
            return
        self._forget_call()
        self._send()
        self._leave()
        self._pipe.unregisterProducer()
        self._pipe.finish()

    def abort(self) -> None:
        """Let go of it at once."""
        self._leave()
        self._pipe.abort()

    def _leave(self) -> None:
        self._forget_call()
        if self._unwatch is not None:
            self._unwatch()
            self._unwatch = None
        self._streams.gone(self)

    def _forget_call(self) -> None:
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None


def message(name: str, value: Any) -> bytes:
    """One message, of JSON values."""
    return _message(name, json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def _message(name: str, text: str, id: str = "") -> bytes:
    # JSON has no line break outside its strings, and writes those inside as \n.
    head = f"id: {id}\n" if id else ""
    return f"{head}event: {name}\ndata: {text}\n\n".encode("utf-8", "replace")


def _position(last_event_id: str, session: str) -> int | None:
    """The sequence in an id of this session's; None for any other."""
    own, _, sequence = last_event_id.rpartition(":")
    if own == session and sequence.isascii() and sequence.isdecimal() and len(sequence) < 18:
        return int(sequence)
    return None


def _newest_that_fit(events: Sequence[Kept]) -> Sequence[Kept]:
    return oldest_that_fit(events[::-1], BATCH_BYTES)[::-1]
