"""What the unit tests of the drain share: a site that is tracked, and connections without a socket."""

from __future__ import annotations

import os
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from serverworker.processes.board import RequestBoard
from serverworker.processes.drain import Tracked, track

ADDRESS = IPv4Address("TCP", "192.0.2.1", 1000)
GET = b"GET /page HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Wire(StringTransport):
    """A reactor's transport as far as a drain knows it, without a socket."""

    protocol: Any = None
    left = 0
    """How often the writing half was closed."""
    aborted = False

    def loseWriteConnection(self) -> None:
        self.left += 1
        IHalfCloseableProtocol(self.protocol).writeConnectionLost()

    def loseConnection(self) -> None:
        super().loseConnection()
        if self.left:
            self.end()

    def abortConnection(self) -> None:
        self.aborted = True
        self.end(Failure(ConnectionAborted()))

    def unregisterProducer(self) -> None:
        self.producer = None  # unlike StringTransport's, the reactor's does not mind when there is none

    def connectionLost(self, reason: Failure) -> None:
        self.producer = None
        self.protocol.connectionLost(reason)

    def end(self, reason: Failure | None = None) -> None:
        """What the reactor does at the end of a connection."""
        self.connectionLost(reason or Failure(ConnectionDone()))

    def send(self, data: bytes) -> None:
        """What the reactor does when the client has sent something."""
        self.protocol.dataReceived(data)

    def client_closes(self) -> None:
        """What the reactor does at a client's FIN."""
        if IHalfCloseableProtocol.providedBy(self.protocol):
            self.protocol.readConnectionLost()
        else:
            self.end()


class Page(Resource):
    """Answers at once, or keeps the request for the test where the path says so."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Any] = []

    def render_GET(self, request: Any) -> Any:
        if request.path == b"/kept":
            self.kept.append(request)
            return NOT_DONE_YET
        return b"page"


class DrainTestCase(TestCase):
    """A site that is tracked, and connections without a socket."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.board, fd = RequestBoard.create(self.clock.seconds)
        os.close(fd)
        self.addCleanup(self.board.close)
        self.page = Page()
        self.site = Site(self.page, reactor=self.clock)
        self.tracked = self.track(self.site)

    def track(self, factory: Any) -> Tracked:
        factory.noisy = False
        return track(factory, self.board, self.clock)

    def connect(self, factory: Any = None) -> Wire:
        wire = Wire()
        protocol: Any = (factory or self.tracked.factory).buildProtocol(ADDRESS)
        wire.protocol = protocol
        protocol.makeConnection(wire)
        return wire

    def paths(self) -> list[str]:
        return [request.path for request in self.board.in_flight(self.clock.seconds())]
