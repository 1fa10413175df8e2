"""uvicorn's own protocols, with what a worker adds: they are counted, bounded, and drained without losing a request.

Every name of uvicorn's that is not in its documentation is used in this module alone. tests/system/test_asgi_names.py
says which those are, and fails where a new version has them no more.

How a connection is drained is told in `http_channel`, and is the same here. While nothing is drained, a request runs
through uvicorn's code alone.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

from serverworker.processes.http_channel import LINGER_SECONDS

CLOSE_HEADER = (b"connection", b"close")

FRAMING_BYTES = 65536
"""What a request's head, a chunk's extension or the trailers may have. h11 knows a bound, httptools none."""

H11_PIECE_BYTES = 16384
"""h11 looks at its bound when it wants more: it is given what was read in pieces, and goes past the bound by one."""

Application = Callable[[Any, Any, Any], Any]


class AsgiConnection:
    """One open connection: its transport, and the protocol that it has now."""

    __slots__ = ("closed", "framing_bytes", "leaving", "protocol", "state", "transport")

    def __init__(self, transport: Any, protocol: Any, closed: Callable[[], object]) -> None:
        self.transport = transport
        self.protocol = protocol
        self.closed = closed
        """To be called when it has ended."""
        self.state = protocol.server_state
        self.leaving: LastTransport | None = None
        """What its protocol writes to once it is drained; a websocket never does."""
        self.framing_bytes = 0
        """How many bytes have come, under httptools, since a head was complete or a piece of a body came."""

    @property
    def is_http(self) -> bool:
        """Whether it is no websocket."""
        return hasattr(self.protocol, "cycle")

    @property
    def is_waiting(self) -> bool:
        """Whether it waits for a next request, of which nothing at all has come."""
        if not self.is_http or self.transport.is_closing():
            return False
        cycle = self.protocol.cycle
        return (cycle is None or cycle.response_complete) and not self.has_more_to_read()

    def has_more_to_read(self) -> bool:
        """Whether bytes of a request have come that is not the one being answered."""
        protocol = self.protocol
        if getattr(protocol, "pipeline", None):
            return True
        if hasattr(protocol, "conn"):  # h11, which keeps what it has not looked at
            more = bool(protocol.conn.trailing_data[0])
        else:  # httptools, which begins a new scope with the first byte
            cycle = protocol.cycle
            more = protocol.scope is not (None if cycle is None else cycle.scope)
        return more or _has_unread(self.transport)

    def drain(self) -> None:
        """From now on the last answer that is asked for ends the connection."""
        if self.leaving is not None or not self.is_http:
            return
        from uvicorn.server import ServerState

        protocol = self.protocol
        self.leaving = protocol.transport = LastTransport(self.transport, protocol)
        headers = LastHeaders(self.state.default_headers, self)
        state = ServerState()
        state.connections, state.tasks = self.state.connections, self.state.tasks
        state.default_headers = headers
        protocol.server_state = state
        for cycle in self._unanswered():
            cycle.transport = self.leaving
            if not cycle.response_started:
                cycle.default_headers = headers

    def _unanswered(self) -> Iterator[Any]:
        if self.protocol.cycle is not None and not self.protocol.cycle.response_complete:
            yield self.protocol.cycle
        for cycle, _ in getattr(self.protocol, "pipeline", ()):
            yield cycle

    def undrain(self) -> None:
        """It becomes a websocket: that has the connection to itself again."""
        if self.leaving is not None:
            self.leaving = None
            self.protocol.transport = self.transport

    def leave(self) -> None:
        """Close it after what is written, and let the client close its half first."""
        self.drain()
        if self.leaving is not None:
            self.leaving.close()

    def close(self) -> None:
        """Close it after what is written; a websocket says 1012, that the service restarts."""
        if self.is_http:
            self.transport.close()
        else:
            self.protocol.shutdown()

    def abort(self) -> None:
        """Reset it."""
        self.transport.abort()


class LastHeaders(list[tuple[bytes, bytes]]):
    """The headers that uvicorn puts before an answer's own, at the moment when it begins.

    That is the latest at which it can be said that it is the last one.
    """

    def __init__(self, headers: list[tuple[bytes, bytes]], connection: AsgiConnection) -> None:
        super().__init__(headers)
        self._connection = connection

    def __add__(self, headers: Any) -> Any:
        last = () if self._connection.has_more_to_read() else (CLOSE_HEADER,)
        return [*self, *last, *headers]


class LastTransport:
    """A transport whose `close` closes the writing half alone, and reads on until the client has closed its own."""

    def __init__(self, transport: Any, protocol: Any) -> None:
        self._transport = transport
        self._protocol = protocol
        self._is_leaving = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """As of a transport."""
        return self._is_leaving or bool(self._transport.is_closing())

    def write(self, data: bytes) -> None:
        """As of a transport; what an application sends after `close` is dropped."""
        if not self._is_leaving:
            self._transport.write(data)

    def close(self) -> None:
        """Close it after what is written."""
        if self._is_leaving:
            return
        self._is_leaving = True
        # TLS closes by a handshake of its own, and knows no half-closed connection.
        if self._transport.is_closing() or not self._transport.can_write_eof():
            self._transport.close()
        else:
            _Lingering(self._transport, self._protocol).begin()


class _Lingering(asyncio.Protocol):
    """Stands in for a protocol whose last bytes are written, until the client has closed its half.

    What the client still sends is read and dropped: unread, it would turn the close into a reset.
    """

    def __init__(self, transport: Any, protocol: Any) -> None:
        self._transport = transport
        self._protocol = protocol
        self._deadline: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Take the connection over, and close its writing half behind what is written."""
        self._transport.set_protocol(self)
        self._transport.write_eof()
        self._transport.resume_reading()
        self._wait()

    def _wait(self) -> None:
        self._deadline = self._protocol.loop.call_later(LINGER_SECONDS, self._look)

    def _look(self) -> None:
        if self._transport.get_write_buffer_size():
            self._wait()  # the client's time begins when it has taken all
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over; the protocol that was there before is told."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._protocol.connection_lost(exc)


def _bounded(http: Any) -> Any:
    """A subclass of uvicorn's HTTP protocol class that keeps no more than its bound of what is no body.

    Its instances have their `AsgiConnection` as `connection`.
    """
    return _bounded_httptools(http) if hasattr(http, "on_headers_complete") else _bounded_h11(http)


def _bounded_httptools(http: Any) -> Any:
    # Called as functions: this runs at every request, and super() is slower.
    received, headed, embodied = http.data_received, http.on_headers_complete, http.on_body

    class BoundedHttptools(http):  # type: ignore[misc] # the base is found at run time
        def data_received(self, data: bytes) -> None:
            connection = self.connection
            connection.framing_bytes += len(data)
            received(self, data)
            if connection.framing_bytes > FRAMING_BYTES and not self.transport.is_closing():
                message = "A request's head or framing is too long."
                self.logger.warning(message)
                self.send_400_response(message)
            _wait_for_head(self)

        def on_headers_complete(self) -> None:
            connection = self.connection
            # It may have been a body of the same read that was counted.
            if connection.framing_bytes > FRAMING_BYTES and self.head_bytes() > FRAMING_BYTES:
                raise ValueError("the head is too long")  # to uvicorn it is a bad request
            connection.framing_bytes = 0
            headed(self)

        def on_body(self, body: bytes) -> None:
            self.connection.framing_bytes = 0
            embodied(self, body)

        def head_bytes(self) -> int:
            return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    return BoundedHttptools


def _bounded_h11(http: Any) -> Any:
    class BoundedH11(http):  # type: ignore[misc] # the base is found at run time
        def data_received(self, data: bytes) -> None:
            for start in range(0, len(data), H11_PIECE_BYTES):
                if self.transport.is_closing() or self.connection.protocol is not self:
                    return  # refused, or a websocket, before which uvicorn drops what came too early
                super().data_received(data[start : start + H11_PIECE_BYTES])
            _wait_for_head(self)

    return BoundedH11


def _wait_for_head(protocol: Any) -> None:
    """Of a head a part has come: the rest has the time of a connection on which nothing comes; uvicorn's timer is off."""
    cycle = protocol.cycle
    if (
        (cycle is None or cycle.response_complete)
        and protocol.timeout_keep_alive_task is None
        and protocol.connection.protocol is protocol  # no websocket by now
        and not protocol.transport.is_closing()
    ):
        protocol.timeout_keep_alive_task = protocol.loop.call_later(
            protocol.timeout_keep_alive, protocol.timeout_keep_alive_handler
        )


def _refusing(http: Any) -> Any:
    """A subclass of a bounded class whose answer to a bad request reaches its client, and never stands inside another."""

    class Refusing(http):  # type: ignore[misc] # the base is found at run time
        def send_400_response(self, msg: str) -> None:
            # It would stand in the middle of an answer, or in the place of another.
            if getattr(self, "pipeline", None):
                self.connection.close()
                return
            self.connection.drain()  # bytes left unread would reset the connection, and the answer with it
            cycle = self.cycle
            is_owed = cycle is not None and not cycle.response_complete
            if is_owed and (cycle.response_started or not cycle.more_body):
                self.transport.close()
            else:
                super().send_400_response(msg)

    return Refusing


def _tracked_websocket(websocket: Any, left: Callable[[AsgiConnection], object]) -> Any:
    """A subclass of uvicorn's websocket class that tells of its end; None where there is no such class."""
    if websocket is None:
        return None

    class TrackedWebsocket(websocket):  # type: ignore[misc] # the base is found at run time
        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            left(self.connection)

    return TrackedWebsocket


def tracked_protocols(
    http: Any,
    websocket: Any,
    *,
    entered: Callable[[AsgiConnection], object],
    left: Callable[[AsgiConnection], object],
) -> Any:
    """A subclass of uvicorn's HTTP protocol class that tells of each connection's beginning and end.

    Its instances are made with what is to be called at the end, `closed`. A websocket is the same connection still.
    """
    tracked_websocket = _tracked_websocket(websocket, left)

    class TrackedHTTP(_refusing(_bounded(http))):  # type: ignore[misc] # the base is found at run time
        def __init__(self, *, closed: Callable[[], object], **arguments: Any) -> None:
            super().__init__(**arguments)
            # What it is to call at first. One attribute alone: past 30 in an object, CPython 3.11 stores all in a
            # slower way, and uvicorn has 28.
            self.connection: Any = closed

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            # As after an answer: whoever sends nothing is not kept for ever.
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
            self.connection = AsgiConnection(transport, self, self.connection)
            if tracked_websocket is not None:
                self.ws_protocol_class = self.make_websocket
            entered(self.connection)

        def make_websocket(self, **arguments: Any) -> Any:
            made = tracked_websocket(**{**arguments, "server_state": self.connection.state})
            made.connection, self.connection.protocol = self.connection, made
            return made

        def handle_websocket_upgrade(self, *event: Any) -> None:
            self.connection.undrain()
            super().handle_websocket_upgrade(*event)

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            left(self.connection)

    return TrackedHTTP


def untracked_protocol(http: Any, application: Application) -> Any:
    """A subclass of uvicorn's HTTP protocol class for the worker's own polls: a socketpair, and nobody waits for it.

    It says to be a connection of this machine by TCP: an application that asks for its client would fail otherwise.
    """

    class UntrackedHTTP(http):  # type: ignore[misc] # the base is found at run time
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.app = application
            self.client = self.server = ("127.0.0.1", 80)

    return UntrackedHTTP


def _has_unread(transport: Any) -> bool:
    """Whether the client's bytes wait in the kernel. False where that cannot be told: behind TLS, or closed."""
    if transport.get_extra_info("sslcontext") is not None:
        return False
    try:
        # The event loop's own socket object lends its number, but cannot be read.
        with socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as same:
            return bool(same.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except (OSError, AttributeError):
        return False
