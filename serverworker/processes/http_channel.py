"""HTTP connections that put their requests on the board, and that can be drained without losing one.

How `twisted.web` is drained: every answer that is begun from then on, and that is the last one asked for so far, says
``Connection: close``. After it the server closes its half of the connection alone, and reads on until the client has
closed its own: a connection that is closed while bytes of the client are still to be read, or on their way, is reset,
and the reset takes the answer with it. A connection that waits for its next request is left alone, since that request
may be on its way already (RFC 9112, section 9.6).
"""

from __future__ import annotations

import functools
import socket
from typing import Any

from attrs import define
from twisted.internet.interfaces import IDelayedCall, IHalfCloseableProtocol, IProtocol, IReactorTime
from twisted.internet.protocol import Protocol
from twisted.protocols.policies import ProtocolWrapper, TimeoutMixin
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, _GenericHTTPChannelProtocol
from twisted.web.http_headers import Headers
from zope.interface import implementer

from serverworker.processes.access_log import AccessLog
from serverworker.processes.board import RequestBoard

LINGER_SECONDS = 2.0
"""How long a client may keep its half of a connection open after the server has closed the other."""

MOST_DIGITS = 18
"""Of a body's length: longer than any body. Past some thousand digits Python reads no number."""


@define(kw_only=True)
class HTTPRules:
    """What the HTTP connections of one factory have in common."""

    board: RequestBoard
    clock: IReactorTime
    access: AccessLog | None = None
    """Is told of each request that was answered."""
    draining: bool = False
    """Of the connections to come; each one that is there is told by `HTTPConnection.drain`."""
    heartbeat: bool = False
    """They are the worker's own, which asks itself whether it answers."""


class HTTPConnection:
    """What is known of one HTTP connection, and how it is drained.

    It stands beside its channel, whose class may be the application's own, with a use of its own for any name.
    """

    __slots__ = (
        *(
            "_is_leaving",
            "_rules",
            "_timer",
            "_timer_due",
            "began",
            "channel",
            "due",
            "note_begin",
            "note_end",
        ),
        *("now", "ticket"),
    )

    def __init__(self, channel: HTTPChannel, rules: HTTPRules) -> None:
        self.channel = channel
        self.note_begin = rules.board.begin
        self.note_end = rules.board.end
        self.now = rules.clock.seconds
        self.ticket: int | None = None
        """The board's, of the request that is being read or answered. A channel is at one request at a time."""
        self.began = 0.0
        """When that request's head was complete; kept only where there is an access log."""
        self.due: float | None = None
        """When the client has been silent for too long; None while nothing is waited for."""
        self._rules = rules
        self._is_leaving = False
        self._timer: IDelayedCall | None = None
        self._timer_due = 0.0

    @property
    def is_heartbeat(self) -> bool:
        """Whether the worker itself is the client, by its heartbeat. No visitor can pass for it."""
        return self._rules.heartbeat

    @property
    def is_busy(self) -> bool:
        """Whether a request is being read, its headers complete, or being answered."""
        return self.ticket is not None

    @property
    def is_waiting(self) -> bool:
        """Whether nothing at all has come of a next request."""
        return not (self._is_leaving or self.channel.requests or self._has_more_to_read())

    def release(self) -> None:
        """Take the request off the board, if there is one: it was answered, or the client is gone."""
        ticket, self.ticket = self.ticket, None
        if ticket is not None:
            self.note_end(ticket)

    def end(self) -> None:
        """The connection is over: take its request off the board, and let go of the channel."""
        access = self._rules.access
        if self.ticket is not None and access is not None:
            access.left(self.channel, self.now() - self.began)
        self.release()
        self._stop_timer()
        for name in ("writeHeaders", "loseConnection"):
            vars(self.channel).pop(name, None)  # whoever still calls it gets Twisted's own again
        del self.channel  # without this cycle both are freed at once, and not by the garbage collector

    def log(self, request: Any) -> None:
        """Have the line of a request that was answered written."""
        assert self._rules.access is not None
        self._rules.access(request, self.now() - self.began)

    def wait(self, seconds: float) -> None:
        """The client is to send something within so long a time, from now.

        The timer is not touched at each request, as Twisted's own would be: when it comes, it looks whether it is due.
        That is what the board and the rest of this take, and more.
        """
        self.due = due = self.now() + seconds
        if self._timer is None or self._timer_due > due:
            self._stop_timer()
            self._start_timer(due, seconds)

    def _start_timer(self, due: float, seconds: float) -> None:
        self._timer_due = due
        self._timer = self._rules.clock.callLater(seconds, self._look)

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _look(self) -> None:
        self._timer = None
        if self.due is None:
            return
        left = self.due - self.now()
        if left > 0:
            self._start_timer(self.due, left)
        else:
            self.due = None
            self.channel.timeoutConnection()

    def drain(self) -> None:
        """From now on the last answer that is asked for ends the connection."""
        # On the channel itself, so that the answers of a worker that does not drain pay nothing for this.
        self.channel.writeHeaders = self._write_headers  # type: ignore[method-assign]
        self.channel.loseConnection = self._lose_connection  # type: ignore[method-assign]

    def leave(self) -> None:
        """Close the connection after what is written, and let the client close its half first."""
        self._is_leaving = True
        transport: Any = self.channel.transport
        if isinstance(transport, ProtocolWrapper):
            self.close()  # TLS closes by a handshake of its own, and knows no half-closed connection
        else:
            Lingering(transport, self._rules.clock).begin()

    def close(self) -> None:
        """Close the connection after what is written."""
        type(self.channel).loseConnection(self.channel)

    def _write_headers(self, version: bytes, code: bytes, reason: bytes, headers: Any) -> None:
        """An answer begins: the latest moment at which it can be made the last one."""
        # 1xx is no answer yet, and 101 hands the connection over to another protocol.
        if code >= b"200" and not self._has_more_to_read():
            # Safe here and nowhere else: a channel that has not read its request yet would throw it away.
            self.channel.persistent = False
            headers = _with_connection_close(headers)
        type(self.channel).writeHeaders(self.channel, version, code, reason, headers)

    def _lose_connection(self) -> None:
        if self.channel.requests:
            self.close()  # in the middle of one: the application, or Twisted, has had enough
        else:
            self.leave()

    def _has_more_to_read(self) -> bool:
        """Whether bytes have come that belong to no request yet: in the line buffer, behind it, or in the kernel."""
        channel = self.channel
        return bool(channel._buffer) or any(channel._dataBuffer) or _has_unread(channel.transport)


@implementer(IHalfCloseableProtocol)
class Lingering(Protocol):
    """Stands in for a protocol whose last bytes are written, until the client has taken them and closed its half.

    What the client still sends is read and dropped: unread, it would turn the close into a reset.
    """

    def __init__(self, transport: Any, clock: IReactorTime) -> None:
        self.transport = transport
        self._original: IProtocol = transport.protocol
        self._clock = clock
        self._deadline: IDelayedCall | None = None

    def begin(self) -> None:
        """Take the connection over, and close its writing half behind what is written."""
        transport: Any = self.transport
        transport.protocol = self
        transport.unregisterProducer()  # a producer would be asked for more instead
        transport.loseWriteConnection()
        transport.resumeProducing()

    def dataReceived(self, data: bytes) -> None:
        """Drop it."""

    def writeConnectionLost(self) -> None:
        """All is with the kernel, and the writing half is closed: from now on the client has its time."""
        transport: Any = self.transport
        self._deadline = self._clock.callLater(LINGER_SECONDS, transport.loseConnection)

    def readConnectionLost(self) -> None:
        """The client has closed its half: nothing can come any more that would cause a reset."""
        transport: Any = self.transport
        transport.loseConnection()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]  # Twisted's own has a default
        """It is over; the protocol that was there before is told."""
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._original.connectionLost(reason)


def adopt(protocol: IProtocol, transport: Any, rules: HTTPRules) -> HTTPConnection | None:
    """Make the HTTP connection that this protocol is, or is a wrapper of, a tracked one; None where it is none.

    The factory is left as it is: to replace its `protocol` would switch HTTP/2 off, would be seen by everyone who
    uses the factory, and would miss one with a `buildProtocol` of its own.
    """
    switch, channel = _find_channel(protocol)
    if channel is None:
        return None
    if switch is not None and type(channel) is HTTPChannel:
        # Twisted has just made it and nobody knows it yet. A new object is faster than one that has changed its
        # class (CPython 3.11: 3 microseconds a request).
        tracked = _tracked_class(HTTPChannel, rules.access is not None)()
        for name, value in vars(channel).items():
            setattr(tracked, name, value)
        switch._channel = tracked
        if switch is protocol:
            # Directly on the reactor's transport there is no TLS, so no HTTP/2 that could be switched to: the
            # detour would cost more than all the tracking.
            transport.protocol = tracked
    else:
        base: Any = type(channel)
        channel.__class__ = _tracked_class(base, rules.access is not None)
        tracked = channel
    tracked._serverworker = connection = HTTPConnection(tracked, rules)
    if rules.draining:
        connection.drain()
    return connection


def _find_channel(protocol: Any) -> tuple[Any, Any]:
    """The HTTPChannel inside TLS or another wrapper, or None; first Twisted's own switch to HTTP/2 around it, or None."""
    while isinstance(protocol, ProtocolWrapper):
        protocol = protocol.wrappedProtocol
    if isinstance(protocol, _GenericHTTPChannelProtocol):
        return protocol, protocol._channel
    return None, protocol if isinstance(protocol, HTTPChannel) else None


@functools.cache
def _tracked_class(base: Any, has_access_log: bool) -> Any:
    """A subclass of this HTTPChannel class that tells the board what it is at, and the access log what it has done.

    Its methods run once for each request of a worker's life, so every look-up and call in them is paid by every
    visitor: hence no `super`, and one attribute alone (past 30 in an object, CPython 3.11 stores all in a slower way).
    """
    all_headers_received = base.allHeadersReceived
    request_done = base.requestDone

    def allHeadersReceived(channel: Any) -> None:
        # Method and path are known: the request is on the board before any code of its own runs.
        connection = channel._serverworker
        connection.ticket = connection.note_begin(channel._command, channel._path)
        all_headers_received(channel)

    def requestDone(channel: Any, request: Any) -> None:
        # The answer is complete. What was sent on behind its request may be parsed, and begin, in here.
        connection = channel._serverworker
        ticket = connection.ticket
        if ticket is not None:
            connection.ticket = None
            connection.note_end(ticket)
        request_done(channel, request)

    def logged_all_headers_received(channel: Any) -> None:
        connection = channel._serverworker
        connection.began = connection.now()
        allHeadersReceived(channel)

    def logged_request_done(channel: Any, request: Any) -> None:
        channel._serverworker.log(request)
        requestDone(channel, request)

    def setTimeout(channel: Any, period: float | None) -> float | None:
        before: float | None = channel.timeOut
        channel.timeOut = period
        if period is None:
            channel._serverworker.due = None
        else:
            channel._serverworker.wait(period)
        return before

    def resetTimeout(channel: Any) -> None:
        connection = channel._serverworker
        if connection.due is not None and channel.timeOut is not None:
            connection.due = connection.now() + channel.timeOut

    methods: dict[str, Any] = {"allHeadersReceived": allHeadersReceived, "requestDone": requestDone}
    if has_access_log:
        methods = {"allHeadersReceived": logged_all_headers_received, "requestDone": logged_request_done}
    methods["_maybeChooseTransferDecoder"] = _stricter(base._maybeChooseTransferDecoder)
    if _has_twisteds_timer(base):
        methods |= {"setTimeout": setTimeout, "resetTimeout": resetTimeout}
    return type(base)(base.__name__, (base,), methods)


def _stricter(choose_decoder: Any) -> Any:
    """How a channel finds out where a body ends, without what Twisted reads amiss.

    "identity", which is no coding any more, is to it a request without a body, so that a proxy that sees one would be
    outwitted (RFC 9112, section 6.3, wants 400); and a length that Python refuses to read is an exception.
    """

    def choose(channel: Any, header: bytes, data: bytes) -> Any:
        if (header == b"Transfer-Encoding" and data.lower() != b"chunked") or (
            header == b"Content-Length" and len(data) > MOST_DIGITS
        ):
            return channel._failChooseTransferDecoder()
        return choose_decoder(channel, header, data)

    return choose


def _has_twisteds_timer(kind: Any) -> bool:
    """Whether a channel class times its clients out as Twisted does; one that has its own way keeps it."""
    return (
        kind.setTimeout is TimeoutMixin.setTimeout
        and kind.resetTimeout is TimeoutMixin.resetTimeout
        and kind.callLater is TimeoutMixin.callLater
    )


def _with_connection_close(headers: Any) -> Any:
    """The same headers, saying that no further request is answered on this connection."""
    if isinstance(headers, Headers):
        headers.setRawHeaders(b"Connection", [b"close"])
        return headers
    return [*headers, (b"Connection", b"close")]  # Twisted still takes pairs


def _has_unread(transport: Any) -> bool:
    """Whether the client's bytes wait in the kernel. False where that cannot be told: behind TLS, or closed."""
    try:
        handle = transport.getHandle()
        return isinstance(handle, socket.socket) and bool(
            handle.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        )
    except (OSError, AttributeError):
        return False
