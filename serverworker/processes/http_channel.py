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
import types
from collections.abc import Callable
from typing import Any

from attrs import define
from twisted.internet.interfaces import IDelayedCall, IHalfCloseableProtocol, IProtocol, IReactorTime
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.http_headers import Headers
from zope.interface import implementer

from serverworker.processes.board import RequestBoard

LINGER_SECONDS = 2.0
"""How long a client may keep its half of a connection open after the server has closed the other."""


@define(kw_only=True)
class ChannelRules:
    """What the HTTP connections of one factory have in common. The one who made it may set `draining`."""

    board: RequestBoard
    clock: IReactorTime
    draining: bool = False


class TrackedChannel(HTTPChannel):
    """An HTTP connection that tells the board what it is at, and that can be drained.

    Made by `adopt` alone, of a channel that its own factory has built. In front of a subclass of `HTTPChannel` this
    one's methods come first, so that the application's own channel goes on as it was.
    """

    _rules: ChannelRules
    _begin: Callable[[bytes, bytes], int]
    _end: Callable[[int], None]
    _plain_transport: Any
    """The reactor's own transport. A channel that has another one is behind TLS or a proxy's protocol."""
    _ticket: int | None = None
    """The board's, of the request that is being read or answered. A channel is at one request at a time."""
    _is_last_answer = False
    _is_leaving = False

    # The first two run once for each request of a worker's life: every call in them is paid by every visitor.

    def allHeadersReceived(self) -> None:
        """A request's method and path are known: from here on it is on the board, so before any code of its own runs."""
        self._ticket = self._begin(self._command, self._path)
        super().allHeadersReceived()

    def requestDone(self, request: Any) -> None:
        """An answer is complete. What was sent on behind its request may be parsed, and begin, in here."""
        ticket = self._ticket
        if ticket is not None:
            self._ticket = None
            self._end(ticket)
        super().requestDone(request)

    def drain(self) -> None:
        """From now on the last answer that is asked for ends the connection."""
        # On the instance, so that an answer of a worker that does not drain does not pass through here.
        self.writeHeaders = self._write_headers_draining

    def _write_headers_draining(self, version: bytes, code: bytes, reason: bytes, headers: Any) -> None:
        """An answer begins: the latest moment at which it can be made the last one."""
        # 1xx is no answer yet, and 101 hands the connection over to another protocol.
        if code >= b"200" and not self._has_more_to_read():
            # Safe here and nowhere else: a channel that has not read its request yet would throw it away.
            self.persistent = False
            headers = _with_connection_close(headers)
        super().writeHeaders(version, code, reason, headers)

    def loseConnection(self) -> None:
        """Close; after the last answer of a draining connection only once the client has read it."""
        if self._is_last_answer:
            self._is_last_answer = False
            self.leave()
        else:
            super().loseConnection()

    def leave(self) -> None:
        """Close the connection after what is written, and let the client close its half first."""
        self._is_leaving = True
        if self.transport is self._plain_transport:
            Lingering(self.transport, self._rules.clock).begin()
        else:
            # TLS has no half-closed connections, and a close of its own.
            super().loseConnection()

    def release(self) -> None:
        """Take this connection's request off the board, if there is one: it was answered, or the client is gone."""
        ticket = self._ticket
        if ticket is not None:
            self._ticket = None
            self._rules.board.end(ticket)

    @property
    def is_busy(self) -> bool:
        """Whether a request is being read, its headers complete, or being answered."""
        return self._ticket is not None

    @property
    def is_waiting(self) -> bool:
        """Whether nothing at all has come of a next request."""
        return not (self._is_leaving or self.requests or self._has_more_to_read())

    def _has_more_to_read(self) -> bool:
        """Whether bytes have come that belong to no request yet: in the line buffer, behind it, or in the kernel."""
        return bool(self._buffer) or any(self._dataBuffer) or _has_unread(self.transport)


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


def adopt(protocol: IProtocol, transport: Any, rules: ChannelRules) -> TrackedChannel | None:
    """Make the HTTP connection that this protocol is, or is a wrapper of, a tracked one; None where it is none.

    The factory is left as it is: to replace its `protocol` would switch HTTP/2 off, would be seen by everyone who
    uses the factory, and would miss one with a `buildProtocol` of its own.
    """
    holder, channel = _find_channel(protocol)
    if channel is None:
        return None
    if type(channel) is HTTPChannel and hasattr(holder, "_channel"):
        # Twisted's own channel in Twisted's own switch between HTTP/1.1 and HTTP/2: nobody knows it yet, and a new
        # object is faster than one that has changed its class (CPython 3.11: 3 microseconds a request).
        tracked = TrackedChannel()
        for name, value in vars(channel).items():
            setattr(tracked, name, value)
        holder._channel = tracked
    else:
        channel.__class__ = _tracked_class(type(channel))
        tracked = channel
    tracked._rules = rules
    tracked._begin, tracked._end = rules.board.begin, rules.board.end
    tracked._plain_transport = transport
    if rules.draining:
        tracked.drain()
    return tracked


def _find_channel(protocol: Any) -> tuple[Any, Any]:
    """The HTTPChannel inside TLS or another wrapper, and inside Twisted's own switch to HTTP/2; first its holder."""
    holder = None
    while protocol is not None and not isinstance(protocol, HTTPChannel):
        holder = protocol
        protocol = getattr(holder, "wrappedProtocol", None) or getattr(holder, "_channel", None)
    return holder, protocol


@functools.cache
def _tracked_class(base: Any) -> type[TrackedChannel]:
    if base is HTTPChannel:
        return TrackedChannel
    if issubclass(base, TrackedChannel):
        return base  # a protocol that its factory has handed out before
    return types.new_class(base.__name__, (TrackedChannel, base))


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
