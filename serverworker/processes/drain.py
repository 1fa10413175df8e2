"""A factory whose connections are counted and can be drained: the last step of a worker that is replaced."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    ILoggingContext,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
)
from twisted.internet.protocol import Protocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from serverworker.processes.access_log import AccessLog
from serverworker.processes.board import RequestBoard
from serverworker.processes.http_channel import HTTPConnection, HTTPRules, adopt

_log = Logger()

IDLE_SECONDS = 1.0
"""How long a connection must have waited for a next request before the end of a session closes it."""

ABORT_SECONDS = 1.0
"""How long a connection has at the deadline to write out what it holds, before it is reset."""


def track(
    factory: IProtocolFactory,
    board: RequestBoard,
    clock: IReactorTime,
    access: AccessLog | None = None,
    inner: IProtocolFactory | None = None,
) -> Tracked:
    """Serve a factory so that its connections are counted, put their requests on the board, and can be drained.

    Any factory will do, and none is changed. Requests are seen where the connection ends in a `twisted.web`
    HTTPChannel: a Site or another HTTPFactory, the application's own, or one in a wrapping factory (TLS, PROXY
    protocol). An HTTP/2 connection, which takes TLS, is counted, but its requests are not seen, and it is not
    drained: it ends by itself or at the deadline. `access` is told of the requests that were answered. `inner`: what
    is within TLS or another wrapper, for the worker's own heartbeat, which has no need of it.
    """
    return Tracked(factory, board, clock, access, inner)


class Tracked:
    """A factory that is served, its open connections, and the ways in which they end."""

    def __init__(
        self,
        factory: IProtocolFactory,
        board: RequestBoard,
        clock: IReactorTime,
        access: AccessLog | None,
        inner: IProtocolFactory | None = None,
    ) -> None:
        self._board = board
        self._clock = clock
        self._rules = HTTPRules(board=board, clock=clock, access=access)
        self._untracked_rules = HTTPRules(board=board, clock=clock, heartbeat=True)
        self._connections: set[_Connection] = set()
        self._waiting: list[Deferred[None]] = []
        self._is_closing_idle = False
        self._next_step: IDelayedCall | None = None
        self.factory: IProtocolFactory = _Entrance(factory, self._enter)
        """What is to be given each accepted connection. Its `doStop` is for when all are gone: it closes the log."""
        self.untracked_factory: IProtocolFactory = _Entrance(inner or factory, self._enter_untracked)
        """The same for connections that do not count, such as the worker's own heartbeat. They are neither waited
        for nor drained; their requests are on the board, so that a hang in the health route is seen there."""

    @property
    def open_connections(self) -> int:
        """How many there are, whatever they are at."""
        return len(self._connections)

    @property
    def in_flight(self) -> int:
        """How many HTTP requests are being read, their headers complete, or being answered."""
        return sum(1 for c in self._connections if c.http is not None and c.http.is_busy)

    def drain(self) -> None:
        """From now on HTTP connections end with their next answer; all else goes on.

        To be called when a successor serves. A connection that waits for its next request goes on waiting, and gets
        one more answer: to close it would lose the request that is on its way already.
        """
        self._rules.draining = True
        for connection in self._connections:
            if connection.http is not None:
                connection.http.drain()

    def close_idle(self) -> None:
        """Drain, and close the HTTP connections that wait for a next request. For when no successor answers."""
        self.drain()
        if not self._is_closing_idle:
            self._is_closing_idle = True
            self._close_what_is_idle()

    def abort(self) -> None:
        """Close every connection, whatever it is at; what has not closed after `ABORT_SECONDS` is reset.

        This is how websockets and event streams end. A half-written answer is cut short, never completed falsely.
        """
        self._cancel_next_step()
        for connection in tuple(self._connections):
            with _log.failuresHandled(
                "A connection did not close; it is reset within {seconds} s", seconds=ABORT_SECONDS
            ):
                connection.close()
        if self._connections:
            self._next_step = self._clock.callLater(ABORT_SECONDS, self._reset)

    def when_idle(self) -> Deferred[None]:
        """Fires when no connection is left. One that is being closed still counts; a heartbeat's does not."""
        idle: Deferred[None] = Deferred()
        if self._connections:
            self._waiting.append(idle)
        else:
            idle.callback(None)
        return idle

    def _enter(self, protocol: IProtocol, transport: Any) -> None:
        connection = _Connection(transport=transport, http=adopt(protocol, transport, self._rules))
        self._connections.add(connection)
        self._board.connection_opened()
        _call_at_end(transport, functools.partial(self._leave, connection))
        if self._is_closing_idle and self._next_step is None:
            self._close_what_is_idle()

    def _enter_untracked(self, protocol: IProtocol, transport: Any) -> None:
        http = adopt(protocol, transport, self._untracked_rules)
        if http is not None:
            _call_at_end(transport, http.end)

    def _leave(self, connection: _Connection) -> None:
        self._connections.discard(connection)
        if connection.http is not None:
            connection.http.end()
        self._board.connection_closed()
        if not self._connections:
            self._cancel_next_step()
            waiting, self._waiting = self._waiting, []
            for idle in waiting:
                idle.callback(None)

    def _close_what_is_idle(self, before: frozenset[_Connection] = frozenset()) -> None:
        """Close what was idle at the last look and still is; look again as long as there are connections."""
        self._next_step = None
        idle = frozenset(c for c in self._connections if c.http is not None and c.http.is_waiting)
        for connection in idle & before:
            connection.leave()
        if self._connections:
            self._next_step = self._clock.callLater(IDLE_SECONDS, self._close_what_is_idle, idle)

    def _reset(self) -> None:
        self._next_step = None
        for connection in tuple(self._connections):
            connection.transport.abortConnection()

    def _cancel_next_step(self) -> None:
        if self._next_step is not None:
            self._next_step.cancel()
            self._next_step = None


@frozen(kw_only=True, eq=False)
class _Connection:
    """One open connection, as the reactor and as `twisted.web` know it."""

    transport: Any
    http: HTTPConnection | None

    def leave(self) -> None:
        if self.http is not None:
            self.http.leave()

    def close(self) -> None:
        if self.http is not None and self.http.channel.transport is not None:
            self.http.close()  # takes its producer off first, which would keep the connection open
        else:
            self.transport.loseConnection()


@implementer(IProtocolFactory)
class _Entrance:
    """The user's factory, which tells `enter` of each connection before the user's protocol hears of it."""

    def __init__(self, factory: IProtocolFactory, enter: Callable[[IProtocol, Any], None]) -> None:
        self._factory = factory
        self._enter = enter

    def buildProtocol(self, addr: IAddress) -> IProtocol | None:
        protocol = self._factory.buildProtocol(addr)
        return None if protocol is None else _Doorman(protocol, self._enter)

    def doStart(self) -> None:
        self._factory.doStart()

    def doStop(self) -> None:
        self._factory.doStop()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._factory, name)

    def __repr__(self) -> str:
        return repr(self._factory)


class _Doorman(Protocol):
    """Stands at the door for the moment in which the connection is made, then leaves it to the user's protocol.

    So the protocol keeps the reactor's own transport, with all its interfaces, pays nothing for being tracked, and
    may be replaced (TLS, a websocket) as it always may.
    """

    def __init__(self, protocol: IProtocol, enter: Callable[[IProtocol, Any], None]) -> None:
        self._protocol = protocol
        self._enter = enter

    def makeConnection(self, transport: Any) -> None:
        transport.protocol = self._protocol
        self._enter(self._protocol, transport)
        self._protocol.makeConnection(transport)

    def logPrefix(self) -> str:
        if ILoggingContext.providedBy(self._protocol):
            return ILoggingContext(self._protocol).logPrefix()
        return type(self._protocol).__name__


def _call_at_end(transport: Any, call: Callable[[], None]) -> None:
    """Call once the reactor has given this transport up.

    The transport is asked, not the protocol: websockets (Twisted's own and Autobahn's) put another protocol in its
    place, or other methods on it, and the one that was there first never hears of the end.
    """
    original = transport.connectionLost
    ended = False

    def connection_lost(reason: Failure) -> None:
        nonlocal ended
        if ended:  # an abort that was planned already comes after the end as well
            return
        ended = True
        del transport.connectionLost
        try:
            original(reason)
        finally:
            call()

    transport.connectionLost = connection_lost
