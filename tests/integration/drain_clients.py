"""What the tests of the drain share: raw clients, a site with pages of every kind, and both on real sockets."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol, IProtocolFactory
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock, deferLater
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site
from zope.interface import implementer

from serverworker.processes.board import RequestBoard
from serverworker.processes.drain import Tracked, track

reactor: Any = global_reactor

BIG = 3_000_000
TEN = b"0123456789"


def request(path: bytes, method: bytes = b"GET", *headers: bytes, version: bytes = b"HTTP/1.1") -> bytes:
    """A request's head, with the empty line behind it."""
    lines = [method + b" " + path + b" " + version, b"Host: localhost", *headers, b"", b""]
    return b"\r\n".join(lines)


class Client(Protocol):
    """A raw client that keeps what it received, and how the connection ended."""

    transport: Any

    def __init__(self) -> None:
        self.received = b""
        self.ended: Failure | None = None
        self._waits: list[tuple[Callable[[], bool], Deferred[None]]] = []

    def write(self, data: bytes) -> None:
        self.transport.write(data)

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self._look()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.ended = reason
        self._look()

    def answers(self) -> int:
        return self.received.count(b"HTTP/1.1 200 OK")

    def last_answers(self) -> int:
        return self.received.count(b"Connection: close")

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until this holds; asked whenever bytes come, and at the end."""
        if not condition():
            done: Deferred[None] = Deferred()
            self._waits.append((condition, done))
            await done

    async def end(self) -> None:
        """Wait for the end of the connection, which must be a FIN."""
        await self.until(lambda: self.ended is not None)
        assert self.ended is not None
        self.ended.trap(ConnectionDone)

    def _look(self) -> None:
        for wait in [wait for wait in self._waits if wait[0]()]:
            self._waits.remove(wait)
            wait[1].callback(None)


@implementer(IHalfCloseableProtocol)
class StubbornClient(Client):
    """One that notes the server's FIN, and keeps its own half open."""

    finished = False

    def readConnectionLost(self) -> None:
        self.finished = True
        self._look()

    def writeConnectionLost(self) -> None:
        """Its own doing."""


class Hello(Resource):
    isLeaf = True

    def render_GET(self, request: Request) -> bytes:
        return b"hello"

    def render_POST(self, request: Request) -> bytes:
        assert request.content is not None
        body: bytes = request.content.read()
        return b"got " + body


class Slow(Resource):
    """Answers when the test says so."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[Request] = []

    def render_GET(self, request: Request) -> int:
        self.waiting.append(request)
        return NOT_DONE_YET

    def answer(self) -> None:
        request = self.waiting.pop(0)
        request.write(b"slow")
        request.finish()


class Big(Resource):
    isLeaf = True

    def render_GET(self, request: Request) -> bytes:
        return b"x" * BIG


class Stream(Resource):
    """An event stream, which never ends by itself."""

    isLeaf = True

    def render_GET(self, request: Request) -> int:
        request.setHeader(b"Content-Type", b"text/event-stream")
        request.write(b"data: 1\n\n")
        return NOT_DONE_YET


class Upgrade(Resource):
    """Hands the connection over to another protocol, as Autobahn does."""

    isLeaf = True

    def render_GET(self, request: Request) -> int:
        channel: Any = request.channel
        transport, channel.transport = channel.transport, None
        transport.protocol = Echo()
        transport.protocol.makeConnection(transport)
        transport.write(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
        transport.resumeProducing()
        return NOT_DONE_YET


class Echo(Protocol):
    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)


class Lines(LineReceiver):
    def lineReceived(self, line: bytes) -> None:
        self.sendLine(b"you said " + line)


class SocketsTestCase(TestCase):
    """A site that is tracked, on a real port. The time of the drain is set by hand, so that no test waits for it."""

    timeout = 20

    def setUp(self) -> None:
        self.slow = Slow()
        root = Resource()
        for path, child in [
            (b"hello", Hello()),
            (b"slow", self.slow),
            (b"big", Big()),
            (b"stream", Stream()),
            (b"upgrade", Upgrade()),
        ]:
            root.putChild(path, child)
        self.root = root
        self.clock = Clock()
        self.board, fd = RequestBoard.create()
        self.addCleanup(self.board.close)
        self.addCleanup(socket.close, fd)
        site = Site(root)
        site.noisy = False
        self.tracked = self.serve(site)

    def serve(self, factory: IProtocolFactory) -> Tracked:
        """Track a factory, and listen with it; both end with the test."""
        tracked = track(factory, self.board, self.clock)
        self.listen(tracked.factory)
        return tracked

    def listen(self, factory: IProtocolFactory) -> None:
        self.port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(self.port.stopListening)

    async def connect(self, client: Client | None = None) -> Client:
        client = client or Client()
        before = self.tracked.open_connections
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.port.getHost().port)
        await connectProtocol(endpoint, client)
        await self.turn_until(lambda: self.tracked.open_connections > before)
        return client

    async def turn_until(self, condition: Callable[[], bool]) -> None:
        """Let the reactor turn until this holds; the test's own timeout is the deadline."""
        while not condition():
            await deferLater(reactor, 0.001)

    async def gone(self) -> None:
        """Every connection has ended, and left nothing behind."""
        await self.tracked.when_idle()
        self.assertEqual(self.tracked.open_connections, 0)
        self.assertEqual(self.tracked.in_flight, 0)
        self.assertEqual(self.board.in_flight(0), ())
        counters = self.board.counters()
        self.assertEqual(counters.requests_started, counters.requests_finished)
        self.assertEqual(counters.open_connections, 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def channels(self) -> list[Any]:
        return [connection.http for connection in self.tracked._connections]

    def is_waiting(self) -> bool:
        return all(http.is_waiting for http in self.channels())

    def has_sent_on(self) -> bool:
        return all(any(http.channel._dataBuffer) for http in self.channels())


class Given(Factory):
    """Hands out one protocol that is there already."""

    def __init__(self, protocol: Protocol) -> None:
        self.given = protocol

    def buildProtocol(self, addr: object) -> Protocol:
        return self.given


def reset(client: Client) -> None:
    """End the connection by an RST."""
    client.transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.transport.abortConnection()


def self_signed() -> bytes:
    """A key and a certificate for it, as PEM. Twisted's own way does not work with every pyOpenSSL."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
    certificate = builder.sign(key, hashes.SHA256())
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ) + certificate.public_bytes(serialization.Encoding.PEM)
