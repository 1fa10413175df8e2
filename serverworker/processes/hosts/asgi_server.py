"""The server of an ASGI application: uvicorn's protocols on connections that the worker has accepted."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from email.utils import formatdate
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from serverworker.processes.access_log import AccessLog
from serverworker.processes.board import RequestBoard
from serverworker.processes.drain import ABORT_SECONDS, IDLE_SECONDS
from serverworker.processes.hosts.asgi_noting import logged, noted
from serverworker.processes.hosts.asgi_protocols import (
    FRAMING_BYTES,
    Application,
    AsgiConnection,
    tracked_protocols,
    untracked_protocol,
)
from serverworker.processes.taker import Taker

KEEP_ALIVE_SECONDS = 60
"""How long a connection may wait for a request, as with `twisted.web`. Longer than proxies keep theirs, for the most
part: who closes first must not be the one that is sent requests."""

_log = Logger(namespace="serverworker.worker")


class AsgiServer(Taker):
    """Serves an ASGI application on one event loop, and can be drained."""

    def __init__(
        self, application: Application, app_state: dict[str, Any], loop: asyncio.AbstractEventLoop
    ) -> None:
        """`app_state` is the lifespan's, of which each request gets a copy."""
        self._application = application
        self._app_state = app_state
        self._loop = loop
        self._connections: set[AsgiConnection] = set()
        self._arriving: set[asyncio.Task[None]] = set()
        """Connections that were accepted, but have no protocol yet."""
        self._waiting: list[Deferred[None]] = []
        self._is_draining = False
        self._is_closing_idle = False
        self._next_step: asyncio.TimerHandle | None = None
        self._tick: asyncio.TimerHandle | None = None

    def begin(self, board: RequestBoard, access: AccessLog | None) -> None:
        """See `Taker.begin`."""
        from uvicorn.config import Config
        from uvicorn.server import ServerState

        self._board = board
        seen = noted(self._application, board)
        self._config = Config(
            seen if access is None else logged(seen, access, time.monotonic),
            interface="asgi3",
            lifespan="off",
            log_config=None,  # the application's own is left as it is
            access_log=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            h11_max_incomplete_event_size=FRAMING_BYTES,
        )
        self._config.load()
        self._state, self._untracked_state = ServerState(), ServerState()
        http = self._config.http_protocol_class
        self._tracked_http = tracked_protocols(
            http, self._config.ws_protocol_class, entered=self._enter, left=self._leave
        )
        self._untracked_http = untracked_protocol(http, seen)
        self._renew_headers()

    def take(self, connection: socket.socket, closed: Callable[[], object]) -> None:
        """See `Taker.take`."""
        make = partial(
            self._tracked_http,
            closed=closed,
            config=self._config,
            server_state=self._state,
            app_state=self._app_state,
            _loop=self._loop,
        )
        arriving = self._loop.create_task(self._connect(make, _own(connection), closed))
        self._arriving.add(arriving)
        arriving.add_done_callback(self._arrived)

    async def take_untracked(self, connection: socket.socket) -> None:
        """Serve a connection that is not counted, such as the worker's own heartbeat; it is detached."""
        make = partial(
            self._untracked_http,
            config=self._config,
            server_state=self._untracked_state,
            app_state=self._app_state,
            _loop=self._loop,
        )
        await self._loop.connect_accepted_socket(make, _own(connection))

    @property
    def open_connections(self) -> int:
        """See `Taker.open_connections`."""
        return len(self._connections) + len(self._arriving)

    def drain(self) -> None:
        """See `Taker.drain`."""
        self._is_draining = True
        for connection in self._connections:
            connection.drain()

    def close_idle(self) -> None:
        """See `Taker.close_idle`."""
        self.drain()
        if not self._is_closing_idle:
            self._is_closing_idle = True
            self._close_what_is_idle()

    def abort(self) -> None:
        """See `Taker.abort`. What is still at work for a request that long is cancelled."""
        self._cancel_next_step()
        for connection in tuple(self._connections):
            with _log.failuresHandled(
                "A connection did not close; it is reset within {seconds} s", seconds=ABORT_SECONDS
            ):
                connection.close()
        if not self._is_idle():
            self._next_step = self._loop.call_later(ABORT_SECONDS, self._reset)

    def when_idle(self) -> Deferred[None]:
        """See `Taker.when_idle`."""
        idle: Deferred[None] = Deferred()
        self._waiting.append(idle)
        self._look()
        return idle

    def end(self) -> None:
        """See `Taker.end`."""
        self._cancel_next_step()
        if self._tick is not None:
            self._tick.cancel()

    async def _connect(
        self, make: Callable[[], asyncio.Protocol], connection: socket.socket, closed: Callable[[], object]
    ) -> None:
        try:
            await self._loop.connect_accepted_socket(make, connection, ssl=self.tls)
        except Exception as error:  # of TLS, or the client has gone: nobody's fault here
            _log.debug("a connection ended before it was served: {error}", error=error)
            connection.close()
            closed()

    def _arrived(self, task: asyncio.Task[None]) -> None:
        self._arriving.discard(task)
        self._look()

    def _enter(self, connection: AsgiConnection) -> None:
        self._connections.add(connection)
        self._board.connection_opened()
        if self._is_draining:
            connection.drain()
        if self._is_closing_idle and self._next_step is None:
            self._close_what_is_idle()

    def _leave(self, connection: AsgiConnection) -> None:
        self._connections.discard(connection)
        self._board.connection_closed()
        connection.closed()
        if self._waiting:
            self._look()

    def _is_idle(self) -> bool:
        return not (self._connections or self._arriving or self._state.tasks)

    def _look(self, _: object = None) -> None:
        """Tell those who wait that nothing is open, once that is so."""
        if not self._waiting or self._connections or self._arriving:
            return
        if self._state.tasks:  # what goes on behind an answer that was given
            next(iter(self._state.tasks)).add_done_callback(self._look_soon)
            return
        self._cancel_next_step()
        waiting, self._waiting = self._waiting, []
        for idle in waiting:
            if not idle.called:
                idle.callback(None)

    def _look_soon(self, _: object) -> None:
        self._loop.call_soon(self._look)

    def _close_what_is_idle(self, before: frozenset[object] = frozenset()) -> None:
        """Close what was idle at the last look and still is; look again as long as there are connections."""
        self._next_step = None
        idle = frozenset(connection for connection in self._connections if connection.is_waiting)
        for connection in idle & before:
            connection.leave()
        # What still arrives waits for its client's part of the handshake of TLS.
        for task in self._arriving & before:
            task.cancel()
        if self._connections or self._arriving:
            seen: frozenset[object] = idle | self._arriving
            self._next_step = self._loop.call_later(IDLE_SECONDS, self._close_what_is_idle, seen)

    def _reset(self) -> None:
        self._next_step = None
        for connection in tuple(self._connections):
            connection.abort()
        for task in (*self._arriving, *self._state.tasks):
            task.cancel("the drain's deadline is over")

    def _cancel_next_step(self) -> None:
        if self._next_step is not None:
            self._next_step.cancel()
            self._next_step = None

    def _renew_headers(self) -> None:
        """Each second: what all answers have in common holds the time."""
        date = (b"date", formatdate(time.time(), usegmt=True).encode())
        headers = [date, *self._config.encoded_headers]
        self._state.default_headers = self._untracked_state.default_headers = headers
        self._tick = self._loop.call_later(1.0, self._renew_headers)


def _own(connection: socket.socket) -> socket.socket:
    """The same connection, as an object of our own."""
    family, kind, protocol = connection.family, connection.type, connection.proto
    return socket.socket(family, kind, protocol, fileno=connection.detach())
