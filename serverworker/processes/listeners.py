"""What a worker listens with: the session's ports, the factories that serve them, and when it accepts."""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Mapping
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IProtocolFactory

from serverworker.processes.accept import AcceptReader
from serverworker.processes.access_log import AccessLog
from serverworker.processes.board import RequestBoard
from serverworker.processes.drain import Tracked, track
from serverworker.processes.shares import Shares
from serverworker.processes.site_log import spare_unseen_lines
from serverworker.processes.taker import Taker
from serverworker.values.errors import nearest
from serverworker.values.tls import PortTls


@frozen(kw_only=True)
class Port:
    """A port as the monitor handed it over: bound and listening."""

    name: str
    description: str
    """As the operator wrote it, such as ``tcp:8080``."""
    socket: socket.socket


@frozen(kw_only=True)
class _Listener:
    port: Port
    tracked: Tracked | Taker
    reader: AcceptReader
    close: Callable[[], object]
    """Tells what serves it that it is over."""


class Listeners:
    """The ports of a worker, with what serves them."""

    def __init__(
        self,
        *,
        reactor: Any,
        board: RequestBoard,
        ports: Mapping[str, Port],
        bind: bool,
        shares: Shares | None = None,
        configured: Mapping[str, str] | None = None,
        access: AccessLog | None = None,
        tls: Mapping[str, PortTls] | None = None,
    ) -> None:
        """`configured`: the addresses, by name, for an application that binds by itself and so is handed no ports.

        `access` is told of the HTTP requests that were answered; `tls` is for those ports that speak it, by name.
        """
        self._reactor = reactor
        self._board = board
        self._shares = shares
        self._ports = ports
        self._bind = bind
        self._configured = configured or {}
        self._access = access
        self._tls = dict(tls or {})
        self._exchange: dict[str, Callable[[PortTls], None]] = {}
        """What has a port that is listened on serve another certificate."""
        self.factories: dict[str, IProtocolFactory] = {}
        """What is listened with, by the port's name, as it was given."""
        self._listeners: dict[str, _Listener] = {}
        self._accepting = False
        self._draining = False

    @property
    def addresses(self) -> dict[str, str]:
        """Name to address."""
        if not self._bind:
            return dict(self._configured)
        return {name: port.description for name, port in self._ports.items()}

    def speaks_tls(self, name: str) -> bool:
        """Whether the port of that name does."""
        return name in self._tls

    @property
    def sockets(self) -> dict[str, socket.socket]:
        """Name to listening socket; none with ``bind = false``."""
        return {name: port.socket for name, port in self._ports.items()} if self._bind else {}

    def listen(self, name: str, factory: IProtocolFactory) -> None:
        """Serve a port; see `ServerWorker.listen`. A host of ours may give a `Taker`, which needs no reactor."""
        if not self._bind:
            raise ValueError(
                f"cannot listen on {name!r}: the configuration says bind = false, so the application binds by itself"
            )
        if name not in self._ports:
            raise ValueError(f"the session has no port {name!r}{nearest(name, list(self._ports))}")
        if name in self.factories:
            raise ValueError(f"port {name!r} is listened on already, by {self.factories[name]!r:.200}")
        if not (isinstance(factory, Taker) or callable(getattr(factory, "buildProtocol", None))):
            raise TypeError(
                f"port {name!r} is served by a protocol factory, such as twisted.web.server.Site(resource), "
                f"not by {factory!r:.200}"
            )
        self._serve(self._ports[name], factory)
        self.factories[name] = factory

    def _serve(self, port: Port, factory: IProtocolFactory) -> None:
        tracked: Tracked | Taker
        served: IProtocolFactory | Taker
        if isinstance(factory, Taker):
            tracked = served = factory
            self._secure(port.name, factory)
            factory.begin(self._board, self._access)
            close: Callable[[], object] = factory.end
        else:
            spare_unseen_lines(factory)
            outer = self._behind_tls(port.name, factory)
            tracked = track(outer, self._board, self._reactor, self._access, inner=factory)
            served = tracked.factory
            served.doStart()
            close = served.doStop
        reader = AcceptReader(self._reactor, port.socket, served, self._shares)
        self._listeners[port.name] = _Listener(port=port, tracked=tracked, reader=reader, close=close)
        if self._draining:
            tracked.drain()
        elif self._accepting:
            reader.start()

    def _behind_tls(self, name: str, factory: IProtocolFactory) -> IProtocolFactory:
        if name not in self._tls:
            return factory
        from serverworker.processes.tls import Certified, behind_tls  # OpenSSL, for those alone who need it

        certified = Certified(self._tls[name], factory)
        self._exchange[name] = certified.use
        return behind_tls(factory, certified, self._reactor)

    def _secure(self, name: str, taker: Taker) -> None:
        if name in self._tls:
            from serverworker.processes.tls import ssl_context

            def use(tls: PortTls) -> None:
                # A new one: OpenSSL keeps one certificate of each kind, so an RSA one would stay beside its EC successor.
                taker.tls = ssl_context(tls)

            use(self._tls[name])
            self._exchange[name] = use

    def use_tls(self, tls: Mapping[str, PortTls]) -> None:
        """Have new connections served with these certificates, by the port's name; those that are open keep theirs."""
        for name in tls.keys() & self._tls.keys():
            self._tls[name] = tls[name]
            if name in self._exchange:
                self._exchange[name](tls[name])

    def heartbeat_factory(self, name: str) -> IProtocolFactory | None:
        """What serves that port, for the worker's own polls; None while nothing does."""
        listener = self._listeners.get(name)
        tracked = None if listener is None else listener.tracked
        return tracked.untracked_factory if isinstance(tracked, Tracked) else None

    def accept(self) -> None:
        """Accept on every port, from now on."""
        self._accepting = True
        for listener in self._listeners.values():
            listener.reader.start()

    def stop_accepting(self) -> None:
        """Accept no more. What waits in the queues is left to the siblings."""
        self._accepting = False
        for listener in self._listeners.values():
            listener.reader.stop()

    def drain(self, last_ports: Collection[str] = ()) -> None:
        """Accept no more, and give every connection its last answer.

        `last_ports`: names of those on which nobody will accept any more. What waits in their queues is served here,
        then they are closed in every process that has them, so that clients are refused, not kept waiting.
        """
        for name in last_ports:
            if self._accepting and name in self._listeners:
                self._listeners[name].reader.accept_the_last()
        self.stop_accepting()
        self._draining = True
        for listener in self._listeners.values():
            listener.tracked.drain()

    @property
    def open_connections(self) -> int:
        """How many there are, on all ports."""
        return sum(listener.tracked.open_connections for listener in self._listeners.values())

    def close_idle(self) -> None:
        """Close the connections that wait for a next request: nobody will answer it."""
        for listener in self._listeners.values():
            listener.tracked.close_idle()

    def when_gone(self) -> Deferred[Any]:
        """Fires when no connection is left."""
        # Consumed: whoever stops waiting at the deadline cancels them all, and that is no error of theirs.
        return DeferredList(
            [listener.tracked.when_idle() for listener in self._listeners.values()], consumeErrors=True
        )

    def abort(self) -> None:
        """Close what is left, whatever it is at."""
        for listener in self._listeners.values():
            listener.tracked.abort()

    def close(self) -> None:
        """Tell the factories that it is over."""
        for listener in self._listeners.values():
            listener.close()
