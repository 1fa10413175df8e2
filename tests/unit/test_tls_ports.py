"""TLS in front of an application's factory: what is offered to clients, and a certificate that is exchanged."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from pathlib import Path
from typing import Any

from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import Site

from serverworker.processes.board import RequestBoard
from serverworker.processes.listeners import Listeners, Port
from serverworker.processes.tls import Certified, behind_tls, ssl_context
from serverworker.testing import FakeReactor
from serverworker.values.tls import PortTls
from tests.unit.certificates import Issued, issue
from tests.unit.test_taker import FakeTaker


def told_of(issued: Issued, version: str = "1.2") -> PortTls:
    """What a worker is told of a certificate."""
    return PortTls(
        certificate=issued.certificate_pem(), private_key=issued.key_pem(), minimum_version=version
    )


class Client:
    """A TLS client on no network."""

    def __init__(
        self, *, alpn: list[str] | None = None, most: ssl.TLSVersion | None = None, ciphers: str = "DEFAULT"
    ) -> None:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_ciphers(ciphers)
        if alpn:
            context.set_alpn_protocols(alpn)
        if most is not None:
            context.maximum_version = most
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing)

    def shake_hands(self, server: Any) -> None:
        """With a server that reads and writes bytes; raises `ssl.SSLError` where it refuses."""
        for _ in range(4):
            with contextlib.suppress(ssl.SSLWantReadError):
                self.tls.do_handshake()
            self._incoming.write(server(self._outgoing.read()))
        self.tls.do_handshake()

    @property
    def certificate(self) -> bytes:
        """The server's."""
        return self.tls.getpeercert(binary_form=True) or b""


def shake(context: ssl.SSLContext, client: Client) -> Client:
    """The client, once it has shaken hands with what serves by the context; raises `ssl.SSLError` where it does not."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    serving = context.wrap_bio(incoming, outgoing, server_side=True)

    def server(data: bytes) -> bytes:
        incoming.write(data)
        with contextlib.suppress(ssl.SSLWantReadError):
            serving.do_handshake()
        return outgoing.read()

    client.shake_hands(server)
    return client


class Transport(StringTransport):
    """Has what a site asks of TCP."""

    def setTcpNoDelay(self, enabled: bool) -> None:
        pass


class Speaking(Factory):
    """Has protocols of its own to choose from."""

    noisy = False
    protocol = Protocol


class CertifiedTests(SynchronousTestCase):
    """`Certified` before a factory."""

    def setUp(self) -> None:
        self.first, self.second = issue("first"), issue("second")

    def connect(self, certified: Certified, factory: Any, client: Client) -> None:
        transport = Transport()
        clock = Clock()
        protocol: Any = behind_tls(factory, certified, clock).buildProtocol(None)  # type: ignore[arg-type]
        protocol.makeConnection(transport)

        def server(data: bytes) -> bytes:
            if data:
                protocol.dataReceived(data)
            clock.advance(0)
            answer: bytes = transport.value()
            transport.clear()
            return answer

        client.shake_hands(server)

    def shake(self, certified: Certified, factory: Any, **client: Any) -> Client:
        made = Client(**client)
        self.connect(certified, factory, made)
        return made

    def test_http2_is_not_offered(self) -> None:
        """A site speaks HTTP/1.1 alone, whatever is installed and asked for: HTTP/2 is not drained."""
        site = Site(Resource(), reactor=Clock())
        self.patch(type(site), "acceptableProtocols", lambda self: [b"h2", b"http/1.1"])
        certified = Certified(told_of(self.first), site)
        self.assertEqual(
            self.shake(certified, site, alpn=["h2", "http/1.1"]).tls.selected_alpn_protocol(), "http/1.1"
        )
        self.assertIsNone(self.shake(certified, site, alpn=["h2"]).tls.selected_alpn_protocol())

    def test_no_choice(self) -> None:
        """A factory that has no protocols to choose from serves whatever is asked for."""
        factory = Speaking()
        client = self.shake(Certified(told_of(self.first), factory), factory, alpn=["http/1.1"])
        self.assertIsNone(client.tls.selected_alpn_protocol())

    def test_minimum_version(self) -> None:
        """A client that speaks less is refused; by default TLS 1.2 will do."""
        factory = Speaking()
        old = ssl.TLSVersion.TLSv1_2
        client = self.shake(Certified(told_of(self.first), factory), factory, most=old)
        self.assertEqual(client.tls.version(), "TLSv1.2")
        strict = Certified(told_of(self.first, "1.3"), factory)
        self.assertRaises(ssl.SSLError, self.shake, strict, factory, most=old)
        self.assertEqual(self.shake(strict, factory).tls.version(), "TLSv1.3")

    def test_exchange(self) -> None:
        """New connections get the new certificate, ALPN included."""
        site = Site(Resource(), reactor=Clock())
        certified = Certified(told_of(self.first), site)
        before = self.shake(certified, site).certificate
        certified.use(told_of(self.second))
        client = self.shake(certified, site, alpn=["http/1.1"])
        self.assertNotEqual(client.certificate, before)
        self.assertEqual(client.certificate, ssl.PEM_cert_to_DER_cert(self.second.certificate_pem()))
        self.assertEqual(client.tls.selected_alpn_protocol(), "http/1.1")


class ContextTests(SynchronousTestCase):
    """`ssl_context`, for servers on asyncio."""

    def test_served(self) -> None:
        """It serves what it is told; no file and no descriptor is left."""
        issued = issue("x")
        before = len(list(Path("/proc/self/fd").iterdir()))
        context = ssl_context(told_of(issued))
        self.assertEqual(len(list(Path("/proc/self/fd").iterdir())), before)
        self.assertEqual(
            shake(context, Client()).certificate, ssl.PEM_cert_to_DER_cert(issued.certificate_pem())
        )

    def test_versions(self) -> None:
        """The minimum holds here too, and HTTP/1.1 is what is offered."""
        context = ssl_context(told_of(issue("x"), "1.3"))
        self.assertRaises(ssl.SSLError, shake, context, Client(most=ssl.TLSVersion.TLSv1_2))
        client = shake(context, Client(alpn=["h2", "http/1.1"]))
        self.assertEqual((client.tls.version(), client.tls.selected_alpn_protocol()), ("TLSv1.3", "http/1.1"))


class ListenersTests(SynchronousTestCase):
    """What a worker listens with where a port speaks TLS."""

    def setUp(self) -> None:
        self.factory = Speaking()
        self.listen({"server": told_of(issue("first"))}, {"server": self.factory, "plain": self.factory})

    def listen(self, tls: dict[str, PortTls], factories: dict[str, Any]) -> None:
        reactor: Any = FakeReactor()
        board, descriptor = RequestBoard.create()
        os.close(descriptor)
        self.addCleanup(board.close)
        ports = {}
        for name in factories:
            listening = socket.create_server(("127.0.0.1", 0))
            self.addCleanup(listening.close)
            ports[name] = Port(name=name, description=f"tcp:{name}", socket=listening)
        self.listeners = Listeners(reactor=reactor, board=board, ports=ports, bind=True, tls=tls)
        for name, factory in factories.items():
            self.listeners.listen(name, factory)

    def served(self, name: str) -> str:
        entrance: Any = self.listeners._listeners[name].tracked
        return type(entrance.factory._factory).__name__

    def test_which_ports(self) -> None:
        """Those alone that are told of; the application's factory is known as it was given."""
        self.assertEqual((self.served("server"), self.served("plain")), ("TLSMemoryBIOFactory", "Speaking"))
        self.assertEqual([self.listeners.speaks_tls(name) for name in ("server", "plain")], [True, False])
        self.assertIs(self.listeners.factories["server"], self.factory)

    def test_heartbeat_is_plain(self) -> None:
        """A worker polls itself without TLS: no certificate's date and no handshake make a worker look dead."""
        made: Any = self.listeners.heartbeat_factory("server")
        self.assertIs(made._factory, self.factory)

    def test_exchange(self) -> None:
        """What is told later holds for the port that is listened on, and for one that will be."""
        second = told_of(issue("second"))
        used: list[PortTls] = []
        self.listeners._exchange["server"] = used.append
        self.listeners.use_tls({"server": second, "plain": second, "nowhere": second})
        self.assertEqual(used, [second])
        self.assertFalse(self.listeners.speaks_tls("plain"))

    def test_exchange_of_another_kind(self) -> None:
        """An RSA certificate whose successor is for an EC key is gone with it, for a server on asyncio too."""
        taker = FakeTaker()
        first, second = issue("first", is_rsa=True), issue("second")
        self.listen({"server": told_of(first)}, {"server": taker})
        old = {"most": ssl.TLSVersion.TLSv1_2, "ciphers": "ECDHE-RSA-AES128-GCM-SHA256"}
        assert taker.tls is not None
        served = shake(taker.tls, Client(**old)).certificate  # type: ignore[arg-type]
        self.assertEqual(served, ssl.PEM_cert_to_DER_cert(first.certificate_pem()))
        self.listeners.use_tls({"server": told_of(second)})
        self.assertRaises(ssl.SSLError, shake, taker.tls, Client(**old))  # type: ignore[arg-type]
        self.assertEqual(
            shake(taker.tls, Client()).certificate, ssl.PEM_cert_to_DER_cert(second.certificate_pem())
        )
