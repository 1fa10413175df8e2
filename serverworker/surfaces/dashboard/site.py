"""HTTP, as little of it as a dashboard needs, and bounded in everything: it carries calls to the `Api` and back."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any
from urllib.parse import parse_qs

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IDelayedCall
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, Request, datetimeToString

from serverworker.surfaces.dashboard.api import Follow, Reply
from serverworker.surfaces.dashboard.exchange import Answer, Call, Refused, refusal
from serverworker.surfaces.dashboard.guard import ANSWER_HEADERS
from serverworker.surfaces.dashboard.streams import Stream, Streams

MOST_CONNECTIONS = 200
REQUEST_SECONDS = 30.0
"""How long a request may take to arrive, from when one could: also how long a connection may be idle."""
CLOSE_SECONDS = 5.0
"""How long a client may take with the last that is sent to it."""
MOST_BODY_BYTES = 64 * 1024
MOST_HEADERS = 100
_MOST_FIELDS = 20

Answering = Callable[[Call], "Deferred[Reply]"]


class DashboardRequest(Request):
    """One request; its body is kept in memory, and never large."""

    channel: DashboardChannel

    def __init__(self, channel: DashboardChannel, queued: object = False) -> None:
        super().__init__(channel, queued)
        self._gone = False
        self._refused = False
        self._stream: Stream | None = None
        self._body = BytesIO()

    # --- what comes -----------------------------------------------------------------------------

    def gotLength(self, length: int | None) -> None:
        """The headers are there. Twisted would make a file for a long body."""
        self.content = self._body = BytesIO()
        if length is not None and length > MOST_BODY_BYTES:
            self._refuse()

    def handleContentChunk(self, data: bytes) -> None:
        """A piece of the body."""
        if not self._refused and self._body.tell() + len(data) > MOST_BODY_BYTES:
            self._refuse()
        if not self._refused:
            self._body.write(data)

    def _refuse(self) -> None:
        self._refused = True
        transport: Any = self.channel.transport
        transport.write(b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        self.channel.loseConnection()

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """It is whole. Twisted would read forms of any kind, files among them."""
        if self._refused:
            return
        self.method, self.uri, self.clientproto = command, path, version
        self.path = path.partition(b"?")[0]
        try:
            call = self._call()
        except ValueError:  # too many fields
            self._answer(refusal(400, "the address cannot be read"))
            return
        self.channel.owner.answer(call).addCallback(self._reply).addErrback(self._failed)

    def _call(self) -> Call:
        query = parse_qs(
            self.uri.partition(b"?")[2].decode("latin-1"), keep_blank_values=True, max_num_fields=_MOST_FIELDS
        )
        return Call(
            method=self.method.decode("latin-1"),
            path=self.path.decode("latin-1"),
            query={name: values[-1] for name, values in query.items()},
            headers={
                name.decode("latin-1").lower(): b", ".join(values).decode("latin-1")
                for name, values in self.requestHeaders.getAllRawHeaders()
            },
            body=self._body.getvalue(),
            origin=getattr(self.client, "host", "a local socket"),
            here=getattr(self.host, "host", ""),
        )

    # --- what goes ------------------------------------------------------------------------------

    def _reply(self, reply: Reply) -> None:
        if self._gone:
            return
        if isinstance(reply, Answer):
            self._answer(reply)
        else:
            self._follow(reply)

    def _failed(self, failure: Failure) -> None:
        self._log.failure("an answer of the dashboard is lost; the session goes on", failure)
        self.abort()

    def _follow(self, reply: Follow) -> None:
        try:
            self._stream = self.channel.owner.streams.open(self, reply.visitor.login, reply.last_event_id)
        except Refused as refused:
            self._answer(refused.answer)

    def begin(self) -> None:
        """The head of an event stream."""
        # A proxy is not to gather what it is told.
        self._head(200, "text/event-stream; charset=utf-8", (("X-Accel-Buffering", "no"),))

    def _head(self, code: int, content_type: str, headers: tuple[tuple[str, str], ...]) -> None:
        self.setResponseCode(code)
        content = ("Content-Type", content_type), ("Date", datetimeToString().decode("ascii"))
        for name, value in (*ANSWER_HEADERS, *content, *headers):
            self.responseHeaders.addRawHeader(name.encode("ascii"), value.encode("utf-8"))

    def _answer(self, answer: Answer) -> None:
        self._head(answer.code, answer.content_type, answer.headers)
        self.setHeader(b"Content-Length", b"%d" % len(answer.body))
        self.write(answer.body)
        self.finish()

    def abort(self) -> None:
        """Let go of whoever is there."""
        if not self._gone:
            self.channel.abort()

    def connectionLost(self, reason: Failure) -> None:
        """Whoever asked is gone; what was asked for goes on."""
        self._gone = True
        if self._stream is not None:
            self._stream.stopProducing()
        super().connectionLost(reason)


class DashboardChannel(HTTPChannel):
    """One connection. It is closed when no whole request comes in time, however much of one does."""

    requestFactory: Any = DashboardRequest
    maxHeaders = MOST_HEADERS
    timeOut = None  # ours is the deadline, which no trickle of bytes puts off
    owner: DashboardFactory  # Twisted would ask a `factory` to log each request

    def connectionMade(self) -> None:
        """Somebody is there."""
        self._deadline: IDelayedCall | None = None
        super().connectionMade()
        if self.owner.connected(self):
            self._wait()
        else:
            self.abort()

    def _wait(self) -> None:
        self._stop_waiting()
        self._deadline = self.owner.clock.callLater(REQUEST_SECONDS, self._late)
        self.owner.waits(self)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self.owner.waits_no_more(self)

    def _late(self) -> None:
        self._deadline = None
        self.leave()

    def allContentReceived(self) -> None:
        """A request is whole."""
        self._stop_waiting()
        super().allContentReceived()

    def requestDone(self, request: Request) -> None:
        """It is answered."""
        self._wait()
        super().requestDone(request)

    def leave(self) -> None:
        """Close it after what is written, which the client has a moment to take."""
        self._stop_waiting()
        self._deadline = self.owner.clock.callLater(CLOSE_SECONDS, self._abort_late)
        self.loseConnection()

    def _abort_late(self) -> None:
        self._deadline = None
        self.abort()

    def abort(self) -> None:
        """Close it at once."""
        transport: Any = self.transport
        transport.abortConnection()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]  # Twisted's own has a default
        """It is over."""
        self._stop_waiting()
        super().connectionLost(reason)
        self.owner.disconnected(self)


class DashboardFactory(Factory):
    """Makes a channel of each connection, and keeps their number down."""

    noisy = False
    _log = Logger(namespace="serverworker.dashboard")

    def __init__(self, clock: Any, answer: Answering, streams: Streams) -> None:
        self.clock = clock
        self.answer = answer
        self.streams = streams
        self._channels: set[DashboardChannel] = set()
        self._waiting: dict[DashboardChannel, None] = {}
        """Those on which nothing is asked, in the order in which that began."""
        self._turned_away = 0
        self._closed: Deferred[None] | None = None

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """One more."""
        channel = DashboardChannel()
        channel.owner = self
        channel.callLater = self.clock.callLater  # type: ignore[method-assign]  # Twisted's own way to give it a clock
        return channel

    def connected(self, channel: DashboardChannel) -> bool:
        """Whether there is room for it.

        Where there is none, the one goes that has been waiting longest for a request: whoever opens connections and
        leaves them idle keeps nobody out.
        """
        if self._closed is not None:
            return False
        if len(self._channels) >= MOST_CONNECTIONS:
            self._tell_full()
            if not self._waiting:
                return False
            next(iter(self._waiting)).abort()
        self._channels.add(channel)
        return True

    def waits(self, channel: DashboardChannel) -> None:
        """Nothing is asked on it for now."""
        self._waiting[channel] = None

    def waits_no_more(self, channel: DashboardChannel) -> None:
        """Something is, or it ends."""
        self._waiting.pop(channel, None)

    def _tell_full(self) -> None:
        self._turned_away += 1
        if self._turned_away & (self._turned_away - 1) == 0:  # said at the first, second, fourth, eighth…
            self._log.warn(
                "the dashboard has {most} connections, so one that was idle is closed ({count} so far)",
                most=MOST_CONNECTIONS,
                count=self._turned_away,
            )

    def disconnected(self, channel: DashboardChannel) -> None:
        """One less."""
        self._channels.discard(channel)
        if not self._channels and self._closed is not None and not self._closed.called:
            self._closed.callback(None)

    def close(self) -> Deferred[None]:
        """Close them all after what is being answered; fires when they are gone, a few seconds later at most."""
        closed = self._closed = Deferred()
        self.streams.close()
        for channel in tuple(self._channels):
            if channel.requests:
                channel.persistent = 0  # its answer, which is under way, is the last
            else:
                channel.leave()
        if not self._channels:
            closed.callback(None)
            return closed
        deadline = self.clock.callLater(CLOSE_SECONDS / 2, self._abort)

        def done(result: None) -> None:
            if deadline.active():
                deadline.cancel()

        return closed.addCallback(done)

    def _abort(self) -> None:
        for channel in tuple(self._channels):
            channel.abort()
