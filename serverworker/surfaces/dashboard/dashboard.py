"""Joins the parts of the dashboard, and listens."""

from __future__ import annotations

import socket
from collections.abc import Collection
from typing import Any

from twisted.internet.defer import Deferred, succeed

from serverworker.processes.accept import AcceptReader
from serverworker.processes.sockets import describe_bound, release
from serverworker.surfaces.dashboard.api import Api
from serverworker.surfaces.dashboard.gate import Gate
from serverworker.surfaces.dashboard.guard import host_name
from serverworker.surfaces.dashboard.pages import read_pages
from serverworker.surfaces.dashboard.series import Series
from serverworker.surfaces.dashboard.site import DashboardFactory
from serverworker.surfaces.dashboard.streams import Streams
from serverworker.surfaces.desk import Desk
from serverworker.surfaces.session_key import KeyCheck


class Dashboard:
    """One page, its JSON and its event stream, on a socket that is bound already."""

    def __init__(
        self,
        *,
        reactor: Any,
        desk: Desk,
        keys: KeyCheck,
        bound: socket.socket,
        hosts: Collection[str] = (),
        tls: Any = None,
    ) -> None:
        """`hosts`: names that it may be asked for by, besides its own address; `tls`: `CertificateOptions`.

        Raises OSError where the page cannot be read.
        """
        self._reactor = reactor
        self._bound = bound
        self._tls = tls
        self._reader: AcceptReader | None = None
        self.series = Series(reactor, desk.monitor.figures)
        """To be told of every event."""
        gate = Gate(clock=reactor, keys=keys, publish=desk.publish, secure=tls is not None)
        api = Api(
            desk=desk,
            gate=gate,
            series=self.series,
            names=frozenset(map(host_name, hosts)) - {""},
            pages=read_pages(),
        )
        streams = Streams(
            clock=reactor,
            history=desk.history,
            session=desk.session,
            series=self.series,
            snapshot=api.snapshot,
            lasts=gate.logins.lasts,
        )
        self._factory = DashboardFactory(reactor, api.answer, streams)

    @property
    def address(self) -> str:
        """Where it is: for a browser, such as ``http://127.0.0.1:9001/``, or as the socket is written."""
        if self._bound.family == socket.AF_UNIX:
            return describe_bound(self._bound)
        host, number = self._bound.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        return f"{'http' if self._tls is None else 'https'}://{shown}:{number}/"

    def start(self) -> None:
        """Listen from now on."""
        factory: Any = self._factory
        if self._tls is not None:
            from twisted.protocols.tls import TLSMemoryBIOFactory

            factory = TLSMemoryBIOFactory(self._tls, False, self._factory)
        # Not Twisted's own port: that gives the file of a unix socket the mode 0666.
        self._reader = AcceptReader(self._reactor, self._bound, factory)
        self._reader.start()
        self.series.start()

    def close(self) -> Deferred[None]:
        """Listen no more, and let go of everybody after what is being answered."""
        if self._reader is None:
            return succeed(None)
        reader, self._reader = self._reader, None
        reader.stop()
        release(self._bound)
        self.series.stop()
        return self._factory.close()
