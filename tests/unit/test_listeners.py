"""What a worker listens with, and when it accepts."""

from __future__ import annotations

import gc
import os
import socket
from typing import Any

from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource

from serverworker.processes.board import RequestBoard
from serverworker.processes.drain import Tracked
from serverworker.processes.listeners import Listeners, Port
from serverworker.testing import FakeReactor


class Counting(Factory):
    """Notes when it is started and stopped."""

    noisy = False
    protocol = Protocol

    def __init__(self) -> None:
        self.done: list[str] = []

    def startFactory(self) -> None:
        self.done.append("start")

    def stopFactory(self) -> None:
        self.done.append("stop")

    def __repr__(self) -> str:
        return "<the first factory>"


class ListenersTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = FakeReactor()
        self.board, descriptor = RequestBoard.create()
        os.close(descriptor)
        self.addCleanup(self.board.close)
        self.ports: dict[str, Port] = {}
        for name in ("server", "socket"):
            listening = socket.create_server(("127.0.0.1", 0))
            self.addCleanup(listening.close)
            self.ports[name] = Port(name=name, description=f"tcp:{name}", socket=listening)
        self.listeners = self.make()
        self.factory = Counting()

    def make(self, *, bind: bool = True, configured: dict[str, str] | None = None) -> Listeners:
        made = Listeners(
            reactor=self.reactor, board=self.board, ports=self.ports, bind=bind, configured=configured
        )
        self.addCleanup(made.stop_accepting)
        return made

    def accepting(self) -> list[str]:
        """The names of the ports that are accepted on."""
        readers = {reader.fileno() for reader in self.reactor.readers}
        return [name for name, port in self.ports.items() if port.socket.fileno() in readers]


class ListenTests(ListenersTestCase):
    """Which factory serves which port."""

    def test_addresses(self) -> None:
        """Every port of the session is there with its address, whether it is listened on or not."""
        self.assertEqual(self.listeners.addresses, {"server": "tcp:server", "socket": "tcp:socket"})

    def test_configured_addresses(self) -> None:
        """With ``bind = false`` no port is handed over: the addresses are those of the configuration."""
        configured = {"server": "tcp:8080"}
        self.assertEqual(self.make(bind=False, configured=configured).addresses, configured)
        self.assertEqual(self.make(bind=False).addresses, {})

    def test_sockets(self) -> None:
        """The sockets are there to be handed on; with ``bind = false`` none is."""
        self.assertEqual(self.listeners.sockets, {name: port.socket for name, port in self.ports.items()})
        self.assertEqual(self.make(bind=False).sockets, {})

    def test_factory(self) -> None:
        """A factory is started when it is given, as by a Port, and is known by the port's name."""
        self.listeners.listen("socket", self.factory)
        self.assertEqual(self.factory.done, ["start"])
        self.assertEqual(self.listeners.factories, {"socket": self.factory})

    def test_no_such_port(self) -> None:
        """A name that is no port of the session: the nearest, or all."""
        error = self.assertRaises(ValueError, self.listeners.listen, "sever", self.factory)
        self.assertEqual(str(error), "the session has no port 'sever'; did you mean 'server'?")
        error = self.assertRaises(ValueError, self.listeners.listen, "x", self.factory)
        self.assertEqual(str(error), "the session has no port 'x'; allowed: server, socket")

    def test_twice(self) -> None:
        """A port that is listened on already: by whom; the first goes on."""
        self.listeners.listen("server", self.factory)
        second = Counting()
        error = self.assertRaises(ValueError, self.listeners.listen, "server", second)
        self.assertEqual(str(error), "port 'server' is listened on already, by <the first factory>")
        self.assertEqual(second.done, [])
        self.assertIs(self.listeners.factories["server"], self.factory)

    def test_no_factory(self) -> None:
        """A bare Resource, or a Site's class, is told apart from a factory at once, and what it should be is said."""
        resource: Any = Resource()
        error = self.assertRaises(TypeError, self.listeners.listen, "server", resource)
        self.assertIn("twisted.web.server.Site(resource), not by <twisted.web.resource.Resource", str(error))
        self.listeners.listen("server", self.factory)

    def test_bind_false(self) -> None:
        """With ``bind = false`` the application binds by itself, and the error says where that stands."""
        listeners = self.make(bind=False)
        error = self.assertRaises(ValueError, listeners.listen, "server", self.factory)
        self.assertIn("the configuration says bind = false", str(error))
        self.assertEqual(self.factory.done, [])

    def test_a_factory_that_cannot_start(self) -> None:
        """What it raises comes to the application, and another may take the port."""

        class Broken(Counting):
            def startFactory(self) -> None:
                raise OSError("no data base")

        self.assertRaises(OSError, self.listeners.listen, "server", Broken())
        self.listeners.listen("server", self.factory)

    def test_heartbeat(self) -> None:
        """The heartbeat goes to what serves the port, once something does."""
        self.assertIsNone(self.listeners.heartbeat_factory("server"))
        self.listeners.listen("server", self.factory)
        made = self.listeners.heartbeat_factory("server")
        assert made is not None
        self.assertIsNotNone(made.buildProtocol(None))  # type: ignore[arg-type]  # a factory takes any address


class AcceptTests(ListenersTestCase):
    """When it accepts, and when it no longer does."""

    def test_nothing_before_it_serves(self) -> None:
        """A worker that stands by listens, and accepts nothing."""
        self.listeners.listen("server", self.factory)
        self.assertEqual(self.accepting(), [])

    def test_accept(self) -> None:
        """From the order on every port is accepted on, those that are listened on later too."""
        self.listeners.listen("server", self.factory)
        self.listeners.accept()
        self.assertEqual(self.accepting(), ["server"])
        self.listeners.listen("socket", Counting())
        self.assertEqual(self.accepting(), ["server", "socket"])

    def test_stop(self) -> None:
        """Afterwards on none."""
        self.listeners.listen("server", self.factory)
        self.listeners.accept()
        self.listeners.stop_accepting()
        self.listeners.listen("socket", Counting())
        self.assertEqual(self.accepting(), [])

    def test_drain(self) -> None:
        """A drain ends it as well, also for a port that is listened on meanwhile; nothing is closed."""
        self.listeners.listen("server", self.factory)
        self.listeners.accept()
        self.listeners.drain()
        self.listeners.listen("socket", Counting())
        self.assertEqual(self.accepting(), [])
        self.assertEqual(self.factory.done, ["start"])

    def test_last_ports(self) -> None:
        """A port that no successor has is closed for good, in every process; another one goes on queueing."""
        for name in ("server", "socket"):
            self.listeners.listen(name, Counting())
        self.listeners.accept()
        self.listeners.drain(["socket", "of nobody"])
        server, last = (self.ports[name].socket.getsockname() for name in ("server", "socket"))
        self.assertRaises(ConnectionRefusedError, socket.create_connection, last)
        socket.create_connection(server).close()
        self.assertEqual(self.accepting(), [])

    def test_last_ports_of_a_standby(self) -> None:
        """Who does not accept closes nothing: others still do."""
        self.listeners.listen("server", Counting())
        self.listeners.drain(["server"])
        socket.create_connection(self.ports["server"].socket.getsockname()).close()

    def test_what_is_drained(self) -> None:
        """Each port's connections are drained, a port's too that is listened on meanwhile, and their idle ones closed."""
        done: list[str] = []
        self.patch(Tracked, "drain", lambda tracked: done.append(f"drain {tracked.factory!r}"))
        self.patch(Tracked, "close_idle", lambda tracked: done.append(f"close {tracked.factory!r}"))
        self.listeners.listen("server", self.factory)
        self.listeners.drain()
        self.assertEqual(done, ["drain <the first factory>"])
        self.listeners.listen("socket", Counting())
        self.assertEqual(len(done), 2)
        self.listeners.close_idle()
        self.assertEqual(done[2:], ["close <the first factory>", "close <the first factory>"])

    def test_when_gone(self) -> None:
        """Without a connection all is gone at once; with one it is when that has ended."""
        self.listeners.listen("server", self.factory)
        self.successResultOf(self.listeners.when_gone())
        self.listeners.accept()
        (reader,) = self.reactor.readers
        with socket.create_connection(self.ports["server"].socket.getsockname()):
            reader.doRead()
            gone = self.listeners.when_gone()
            self.reactor.turn()
            self.assertNoResult(gone)
            self.assertEqual(self.board.counters().open_connections, 1)
        self.reactor.turn()
        self.successResultOf(gone)
        self.assertEqual(self.board.counters().open_connections, 0)

    def test_given_up(self) -> None:
        """Whoever waits no longer leaves no error behind that nobody handles."""
        self.listeners.listen("server", self.factory)
        self.listeners.accept()
        (reader,) = self.reactor.readers
        with socket.create_connection(self.ports["server"].socket.getsockname()):
            reader.doRead()
            gone = self.listeners.when_gone()
            gone.cancel()
            self.successResultOf(gone)
            self.listeners.abort()
            self.reactor.turn()
        del gone
        gc.collect()
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_abort(self) -> None:
        """Whoever is still connected at the deadline is disconnected."""
        self.listeners.listen("server", self.factory)
        self.listeners.accept()
        (reader,) = self.reactor.readers
        with socket.create_connection(self.ports["server"].socket.getsockname()) as client:
            reader.doRead()
            gone = self.listeners.when_gone()
            self.listeners.abort()
            self.reactor.turn()
            self.successResultOf(gone)
            self.assertEqual(client.recv(1), b"")

    def test_close(self) -> None:
        """At the end the factories are told that it is over."""
        self.listeners.listen("server", self.factory)
        self.listeners.abort()
        self.listeners.close()
        self.assertEqual(self.factory.done, ["start", "stop"])
