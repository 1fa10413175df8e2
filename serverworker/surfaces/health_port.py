"""The health endpoint's HTTP: one small request on each connection, within a few seconds, and nothing else.

Whoever is on the network may connect to it, so each connection is bounded in bytes and time, and so is their number. One
request each, since pipelined ones would make the monitor hold all their answers at once.
"""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.interfaces import IAddress, IDelayedCall
from twisted.internet.protocol import Factory, connectionDone
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, Request

from serverworker.processes.accept import AcceptReader
from serverworker.processes.sockets import describe_bound, release
from serverworker.surfaces.health import HealthAnswers

MOST_CONNECTIONS = 100
"""One more, and the oldest is closed: probes come through, whoever holds connections open."""
CONNECTION_SECONDS = 10.0
"""From its beginning to its end, however slowly somebody writes or reads."""
MOST_BYTES = 8 * 1024
"""Of a request."""
MOST_HEADERS = 50


class HealthPort(Factory):
    """Listens, and answers."""

    noisy = False

    def __init__(self, reactor: Any, bound: socket.socket, answers: HealthAnswers) -> None:
        """`bound` listens; it is closed by `close`."""
        self.reactor = reactor
        self.answers = answers
        self._bound = bound
        self._channels: dict[_Channel, None] = {}
        self._reader: AcceptReader | None = None

    @property
    def address(self) -> str:
        """Where it listens, such as ``tcp:9002``."""
        return describe_bound(self._bound)

    def start(self) -> None:
        """Listen from now on."""
        # Not Twisted's own port: that gives the file of a unix socket the mode 0666.
        self._reader = AcceptReader(self.reactor, self._bound, self)
        self._reader.start()

    def close(self) -> None:
        """Listen no more, and let go of everybody."""
        if self._reader is None:
            return
        self._reader.stop()
        self._reader = None
        release(self._bound)
        for channel in tuple(self._channels):
            channel.abort()

    def buildProtocol(self, addr: IAddress | None) -> HTTPChannel:
        """One more connection."""
        if len(self._channels) >= MOST_CONNECTIONS:
            next(iter(self._channels)).abort()
        channel = _Channel(self)
        self._channels[channel] = None
        return channel

    def gone(self, channel: _Channel) -> None:
        """One connection less."""
        self._channels.pop(channel, None)

    def log(self, request: Request) -> None:
        """What twisted.web tells of each request: probes come every few seconds, so there is no access log."""


class _Request(Request):
    def process(self) -> None:
        port: Any = self.channel.factory
        answer = port.answers.answer(self.method.decode("latin-1"), self.path.decode("latin-1"))
        self.setResponseCode(answer.status)
        for name, value in (
            ("Content-Type", answer.content_type),
            ("Content-Length", str(len(answer.body))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            ("Connection", "close"),
        ):
            self.setHeader(name, value)
        if answer.status == 405:
            self.setHeader("Allow", "GET, HEAD")
        if self.method != b"HEAD":
            self.write(answer.body)
        self.finish()


class _Channel(HTTPChannel):
    MAX_LENGTH = MOST_BYTES

    def __init__(self, port: HealthPort) -> None:
        super().__init__()
        self.factory = port
        self.requestFactory = _Request
        self.timeOut = None  # it has a deadline instead, which no byte moves
        self.maxHeaders = MOST_HEADERS
        self.totalHeadersSize = MOST_BYTES
        self._port = port
        self._deadline: IDelayedCall | None = None

    def connectionMade(self) -> None:
        super().connectionMade()
        self._deadline = self._port.reactor.callLater(CONNECTION_SECONDS, self.abort)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._port.gone(self)
        super().connectionLost(reason)

    def abort(self) -> None:
        """Close it at once."""
        self._port.gone(self)
        transport: Any = self.transport
        if transport is not None:
            transport.abortConnection()

    def checkPersistence(self, request: Request, version: bytes) -> bool:
        """Never: see the module."""
        return False

    def allHeadersReceived(self) -> None:
        if self.length == 0:
            super().allHeadersReceived()
            return
        # Before `100 Continue`, and before a byte of it is kept.
        transport: Any = self.transport
        transport.write(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        self.loseConnection()
