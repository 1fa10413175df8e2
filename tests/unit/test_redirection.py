"""What an application asks the reactor to listen on goes to the session's sockets, where it is one of its ports."""

from __future__ import annotations

import socket
import tempfile
from pathlib import Path
from typing import Any, cast

from twisted.application.internet import TCPServer
from twisted.application.strports import service
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.posixbase import PosixReactorBase
from twisted.internet.protocol import Factory
from twisted.internet.ssl import CertificateOptions
from twisted.internet.testing import MemoryReactor
from twisted.trial.unittest import SynchronousTestCase

from serverworker.processes.hosts.redirection import Redirection, TakenPort
from serverworker.values.errors import ApplicationError

PORTS = {
    "server": "tcp:8080",
    "local": "tcp:4321:interface=127.0.0.1",
    "six": "tcp6:8081",
    "path": "unix:/run/site.sock",
}


class Reactor(MemoryReactor):
    """One whose TLS ends in `listenTCP`, as the real one's does."""

    listenSSL = PosixReactorBase.listenSSL


class Worker:
    """The part of a ServerWorker that is used here."""

    def __init__(self, reactor: Any) -> None:
        self.reactor = reactor
        self.ports = PORTS
        self.sockets: Any = dict.fromkeys(PORTS)
        self.listens: dict[str, Any] = {}
        self.notes: list[str] = []

    def listen(self, name: str, factory: Any) -> None:
        if name in self.listens:
            raise ValueError(f"port {name!r} is listened on already")
        self.listens[name] = factory

    def lifecycle_notification(self, text: str) -> None:
        self.notes.append(text)


class RedirectionTests(SynchronousTestCase):
    """Every way to listen ends in the reactor."""

    def setUp(self) -> None:
        self.reactor: Any = Reactor()
        self.worker = Worker(self.reactor)
        self.redirection = Redirection(cast(Any, self.worker), "the plugin web")
        self.redirection.install()
        self.factory = Factory()

    def left(self) -> int:
        return len(self.reactor.tcpServers) + len(self.reactor.unixServers)

    def assert_taken(self, name: str) -> None:
        self.assertEqual(self.worker.listens, {name: self.factory})
        self.assertEqual(self.redirection.taken, [name])
        self.assertEqual((self.left(), self.redirection.left, self.worker.notes), (0, [], []))
        self.redirection.check()

    def test_endpoint(self) -> None:
        """An endpoint on a port of the session is served by the worker."""
        made: Any = serverFromString(self.reactor, "tcp:8080")
        port = self.successResultOf(made.listen(self.factory))
        self.assertIsInstance(port, TakenPort)
        self.assert_taken("server")

    def test_service(self) -> None:
        """So is a service of strports, from its start to its stop."""
        made: Any = service("tcp:8080", self.factory, self.reactor)
        made.startService()
        self.assert_taken("server")
        self.successResultOf(made.stopService())

    def test_old_service(self) -> None:
        """And one that calls the reactor itself."""
        made = TCPServer(8080, self.factory, reactor=self.reactor)
        made.startService()
        self.assert_taken("server")
        made.stopService()

    def test_tls(self) -> None:
        """A port with TLS is served behind the plugin's own TLS."""
        context: Any = CertificateOptions()
        port = self.reactor.listenSSL(8080, self.factory, context)
        (served,) = self.worker.listens.values()
        self.assertIs(served.wrappedFactory, self.factory)
        self.assertEqual(port._type, "TLS")

    def test_unix(self) -> None:
        """A unix socket is known by its path, however it is written."""
        made: Any = serverFromString(self.reactor, "unix:/run/../run/site.sock")
        self.successResultOf(made.listen(self.factory))
        self.assert_taken("path")

    def test_interfaces(self) -> None:
        """What names no address, or all, or the session's own, means the session's port."""
        for interface in ("", "0.0.0.0", "127.0.0.1"):
            self.worker.listens.clear()
            self.redirection.taken.clear()
            self.reactor.listenTCP(4321, self.factory, interface=interface)
            self.assert_taken("local")

    def test_all_of_the_session(self) -> None:
        """One address where the session has all could not be bound beside it."""
        self.reactor.listenTCP(8080, self.factory, 50, "127.0.0.1")
        self.assert_taken("server")

    def test_six(self) -> None:
        """IPv6 is a port of its own."""
        self.reactor.listenTCP(8081, self.factory, interface="::")
        self.assert_taken("six")

    def test_left_alone(self) -> None:
        """Another number, address, family or path is bound by who wants it; what that costs is told."""
        self.reactor.listenTCP(9999, self.factory)
        self.reactor.listenTCP(4321, self.factory, 7, "10.0.0.1")
        self.reactor.listenTCP(8081, self.factory)
        self.reactor.listenTCP(4321, self.factory, interface="somewhere")
        self.reactor.listenUNIX("/run/other.sock", self.factory, mode=0o600)
        self.assertEqual(
            self.redirection.left,
            [
                "tcp:9999",
                "tcp:4321:interface=10.0.0.1",
                "tcp:8081",
                "tcp:4321:interface=somewhere",
                "unix:/run/other.sock",
            ],
        )
        self.assertEqual((self.left(), self.worker.listens), (5, {}))
        self.assertEqual(self.reactor.tcpServers[1][2:], (7, "10.0.0.1"))
        self.assertIn("the plugin web listens on tcp:9999 by itself", self.worker.notes[0])
        self.assertIn("overlap = false", self.worker.notes[0])

    def test_nothing_of_the_session(self) -> None:
        """Who listens elsewhere alone is told what the session has."""
        self.redirection.check()
        self.reactor.listenTCP(9999, self.factory)
        text = str(self.assertRaises(ApplicationError, self.redirection.check))
        self.assertIn(
            "the plugin web listens on tcp:9999, which is no port of the session (server=tcp:8080", text
        )

    def test_twice(self) -> None:
        """A port that is served already cannot be listened on, as the reactor would say it."""
        self.reactor.listenTCP(8080, self.factory)
        error = self.assertRaises(CannotListenError, self.reactor.listenTCP, 8080, self.factory)
        self.assertIn("listened on already", str(error))


class TakenPortTests(SynchronousTestCase):
    """It stands for the session's port."""

    def port(self, family: int, address: Any) -> TakenPort:
        listening = socket.socket(family)
        self.addCleanup(listening.close)
        listening.bind(address)
        port = TakenPort(listening, Factory())
        port.startListening()
        port.stopListening()
        return port

    def test_address(self) -> None:
        """The address is what the monitor has bound."""
        address: Any = self.port(socket.AF_INET, ("127.0.0.1", 0)).getHost()
        self.assertEqual((address.type, address.host), ("TCP", "127.0.0.1"))
        self.assertGreater(address.port, 0)

    def test_path(self) -> None:
        """Or its path."""
        with tempfile.TemporaryDirectory(prefix="taken-") as folder:
            path = str(Path(folder, "s"))
            address: Any = self.port(socket.AF_UNIX, path).getHost()
            self.assertEqual(address.name, path.encode())

    def test_six(self) -> None:
        """Or its IPv6 address."""
        try:
            address: Any = self.port(socket.AF_INET6, ("::1", 0)).getHost()
        except OSError as error:
            raise self.skipTest("no IPv6 on this machine") from error
        self.assertEqual(address.host, "::1")
