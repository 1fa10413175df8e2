"""The ports that the monitor has bound, and how long each socket lives."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from serverworker.monitor.ports import Ports
from serverworker.processes.sockets import bind
from serverworker.values.errors import ConfigurationError, PortUnavailable
from serverworker.values.ports import PortSettings, parse_port
from tests.unit.accept_case import open_descriptors

ANYWHERE = "tcp:0:interface=127.0.0.1"


class PortsTests(SynchronousTestCase):
    """One TCP port and one unix socket."""

    def setUp(self) -> None:
        self.path = (
            f"/tmp/serverworker-test-{os.getpid()}.socket"  # mktemp's are longer than a socket's path may be
        )
        self.addCleanup(Path(self.path).unlink, missing_ok=True)
        self.server = bind(parse_port("server", ANYWHERE))
        self.unix = bind(parse_port("socket", f"unix:{self.path}"))
        self.ports = Ports({"server": self.server, "socket": self.unix})
        self.addCleanup(self.ports.close)

    def connects(self, address: tuple[str, int]) -> bool:
        try:
            socket.create_connection(address).close()
        except ConnectionRefusedError:
            return False
        return True

    def test_own_names(self) -> None:
        """Those that systemd listens on as well are not the session's to close."""
        ports = Ports({"server": self.server, "socket": self.unix}, activated=["socket"])
        self.assertEqual(ports.own_names(ports.bound()), ["server"])

    def test_bound(self) -> None:
        """Each port with its name, its socket, and the address that it really has."""
        number = self.server.getsockname()[1]
        bound = self.ports.bound()
        self.assertEqual([port.name for port in bound], ["server", "socket"])
        self.assertIs(bound[0].socket, self.server)
        self.assertEqual(bound[0].description, f"tcp:{number}:interface=127.0.0.1")
        self.assertEqual(
            self.ports.described(),
            (f"server=tcp:{number}:interface=127.0.0.1", f"socket=unix:{self.path}"),
        )

    def test_change(self) -> None:
        """A new address is bound at once; the former one is open until it is closed as well."""
        former = self.server.getsockname()
        settings = self.ports.change("server", ANYWHERE)
        self.assertEqual(settings.describe(), ANYWHERE)
        changed = self.ports.bound()[0].socket
        self.assertTrue(self.connects(changed.getsockname()))
        self.assertTrue(self.connects(former))
        self.ports.close_former()
        self.assertFalse(self.connects(former))
        self.assertTrue(self.connects(changed.getsockname()))

    def test_former_that_is_needed(self) -> None:
        """A former socket that workers may yet be started with stays, of several those alone."""
        self.ports.change("server", ANYWHERE)
        second = self.ports.bound()[0].socket
        self.ports.change("server", ANYWHERE)
        self.ports.close_former([self.server])
        self.assertEqual(second.fileno(), -1)
        self.assertNotEqual(self.server.fileno(), -1)
        self.ports.close_former([])
        self.assertEqual(self.server.fileno(), -1)

    def test_number_in_place_of_an_address(self) -> None:
        """A bare number is a TCP port, as in the configuration."""
        with socket.create_server(("127.0.0.1", 0)) as found:
            number = found.getsockname()[1]
        self.assertEqual(self.ports.change("server", number).describe(), f"tcp:{number}")

    def settings(self) -> list[PortSettings]:
        """As the configuration has them now."""
        return [parse_port(port.name, port.description) for port in self.ports.bound()]

    def test_replace(self) -> None:
        """Of other ports only those that differ are bound; who is missing becomes former, and so does who moved."""
        current = self.settings()
        self.ports.replace([parse_port("server", ANYWHERE), parse_port("more", ANYWHERE)], current)
        self.assertEqual([port.name for port in self.ports.bound()], ["server", "more"])
        self.assertIsNot(self.ports.bound()[0].socket, self.server)
        self.ports.close_former()
        self.assertEqual((self.server.fileno(), self.unix.fileno()), (-1, -1))

    def test_replace_by_the_same(self) -> None:
        """A port that stays is the same socket."""
        current = self.settings()
        self.ports.replace([current[0]], current)
        self.assertEqual([port.socket for port in self.ports.bound()], [self.server])
        self.ports.close_former()
        self.assertNotEqual(self.server.fileno(), -1)

    def test_replace_refused(self) -> None:
        """Where one cannot be bound nothing changes, and those that were bound are closed again."""
        current = self.settings()
        before = open_descriptors()
        ports = [parse_port("server", ANYWHERE), parse_port("socket", "unix:/nowhere/at/all")]
        self.assertRaises(PortUnavailable, self.ports.replace, ports, current)
        self.assertEqual([port.socket for port in self.ports.bound()], [self.server, self.unix])
        self.assertEqual(open_descriptors(), before)

    def test_take_back(self) -> None:
        """Taken back, the former ones are the present ones again, and what was bound meanwhile is closed."""
        self.ports.replace([parse_port("server", ANYWHERE)], self.settings())
        made = self.ports.bound()[0].socket
        self.ports.take_back()
        self.assertEqual([port.socket for port in self.ports.bound()], [self.server, self.unix])
        self.ports.close_former()
        self.assertEqual(made.fileno(), -1)
        self.assertNotIn(-1, (self.server.fileno(), self.unix.fileno()))
        self.ports.take_back()
        self.assertEqual([port.socket for port in self.ports.bound()], [self.server, self.unix])

    def test_refused(self) -> None:
        """What cannot be had changes nothing: no such port, no such address, one that is taken."""
        taken = f"tcp:{self.server.getsockname()[1]}:interface=127.0.0.1"
        for name, address, kind, words in (
            ("sever", 8081, ConfigurationError, "there is no port 'sever'; did you mean 'server'?"),
            ("server", "tpc:81", ConfigurationError, "there is no kind of port 'tpc'"),
            ("server", -1, ConfigurationError, "0 to 65535"),
            ("server", taken, PortUnavailable, taken),
            ("socket", "unix:/nowhere/at/all", PortUnavailable, "/nowhere/at/all"),
        ):
            error = self.assertRaises(kind, self.ports.change, name, address)
            self.assertIn(words, str(error))
        self.assertEqual([port.socket for port in self.ports.bound()], [self.server, self.unix])
        self.ports.close_former()
        self.assertNotEqual(self.server.fileno(), -1)

    def test_file(self) -> None:
        """The file of a unix socket goes with it, when it is former or at the end; another's in its place stays."""
        other = f"{self.path}-b"
        self.addCleanup(Path(other).unlink, missing_ok=True)
        self.ports.change("socket", f"unix:{other}")
        self.assertTrue(Path(self.path).exists())
        self.ports.close_former()
        self.assertFalse(Path(self.path).exists())
        Path(other).unlink()
        Path(other).write_text("somebody else's")
        self.ports.close()
        self.assertEqual(Path(other).read_text(), "somebody else's")

    def test_close(self) -> None:
        """At the end all are closed, former ones too; a second time is no error."""
        self.ports.change("server", ANYWHERE)
        second = self.ports.bound()[0].socket
        self.ports.close()
        self.ports.close()
        self.assertEqual([each.fileno() for each in (self.server, second, self.unix)], [-1, -1, -1])
        self.assertFalse(Path(self.path).exists())
