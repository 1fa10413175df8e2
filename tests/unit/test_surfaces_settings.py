"""``[control]``, ``[dashboard]`` and ``[health]``: what is refused, and what is said of it."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from serverworker.values.ports import parse_port
from serverworker.values.rules import InvalidSettings
from serverworker.values.surfaces import (
    ControlSettings,
    DashboardSettings,
    HealthSettings,
    absolute_endpoint,
    is_loopback,
    parse_endpoint,
)

BAD: tuple[object, ...] = (
    "",
    "9001x",
    "udp:9001",
    "tcp:99999",
    "tcp:1:interface=localhost",
    "unix:",
    70000,
    True,
    1.5,
    [],
)


class SettingsTests(SynchronousTestCase):
    """The tables."""

    def refused(self, kind: type[Any], **keys: Any) -> str:
        return str(self.assertRaises(InvalidSettings, kind, **keys))

    def test_control_tcp(self) -> None:
        """Over TCP the control port needs a certificate, on loopback as well."""
        for endpoint in ("tcp:9443", "tcp:9443:interface=127.0.0.1", "tcp6:9443:interface=::1"):
            text = self.refused(ControlSettings, endpoint=endpoint)
            self.assertIn("control.endpoint: over TCP needs TLS", text)
            self.assertIn("set control.certificate", text)
            ControlSettings(endpoint=endpoint, certificate="/a.pem")
            ControlSettings(endpoint=endpoint, certificate="/a.pem", client_authority="/ca.pem")

    def test_control_unix(self) -> None:
        """A unix socket takes no certificate, whether it is the default one or named."""
        for keys in (
            {"certificate": "/a.pem"},
            {"client_authority": "/a.pem"},
            {"endpoint": "unix:/run/a", "certificate": "/a.pem"},
        ):
            self.assertIn("is for TCP", self.refused(ControlSettings, **keys))
        ControlSettings(endpoint="unix:/run/a")

    def test_key_alone(self) -> None:
        """A private key belongs to a certificate."""
        for kind, table in ((ControlSettings, "control"), (DashboardSettings, "dashboard")):
            text = self.refused(kind, private_key="/key.pem")
            self.assertIn(f"{table}.private_key: belongs to a certificate: set {table}.certificate too", text)

    def test_dashboard(self) -> None:
        """Off loopback the dashboard needs a certificate."""
        for endpoint in (
            "tcp:9001",
            "tcp:9001:interface=192.0.2.1",
            "tcp6:9001",
            "tcp6:9001:interface=2001\\:db8\\:\\:1",
        ):
            text = self.refused(DashboardSettings, endpoint=endpoint)
            self.assertIn("dashboard.endpoint:", text)
            self.assertIn("without TLS", text)
            DashboardSettings(endpoint=endpoint, certificate="/a.pem")
        for endpoint in ("tcp:9001:interface=127.0.0.1", "tcp6:9001:interface=\\:\\:1", "unix:/run/page"):
            DashboardSettings(endpoint=endpoint)

    def test_health(self) -> None:
        """Health needs nothing: there is nothing in it that helps an attacker."""
        HealthSettings(endpoint="tcp:9002")

    def test_endpoints(self) -> None:
        """What is no address is refused with the key and what is allowed."""
        for kind, table in (
            (ControlSettings, "control"),
            (DashboardSettings, "dashboard"),
            (HealthSettings, "health"),
        ):
            for bad in BAD:
                text = self.refused(kind, endpoint=bad)
                self.assertTrue(text.startswith(f"{table}.endpoint: "), text)

    def test_modes(self) -> None:
        """A unix socket is this user's alone, unless its mode is given; an application's port is not changed by that."""
        self.assertEqual(parse_endpoint("unix:/run/a").mode, 0o600)
        self.assertEqual(parse_endpoint("unix:/run/a:mode=660").mode, 0o660)
        self.assertEqual(parse_endpoint("unix:/run/a:backlog=5").mode, 0o600)
        self.assertNotEqual(parse_port("server", "unix:/run/a").mode, 0o600)

    def test_absolute(self) -> None:
        """Taken from a folder it is the same endpoint, its mode included."""
        for mode, tail in ((0o600, ""), (0o600, ":mode=600"), (0o660, ":mode=660"), (0o666, ":mode=666")):
            port = parse_endpoint(absolute_endpoint(f"unix:a{tail}", "/srv"))
            self.assertEqual((port.path, port.mode), ("/srv/a", mode))

    def test_loopback(self) -> None:
        """Where another machine cannot come from."""
        for endpoint, loopback in (
            ("unix:/run/a", True),
            ("tcp:1:interface=127.0.0.1", True),
            ("tcp:1:interface=127.9.9.9", True),
            ("tcp6:1:interface=\\:\\:1", True),
            ("tcp:1", False),
            ("tcp:1:interface=0.0.0.0", False),
            ("tcp6:1", False),
            ("tcp:1:interface=10.0.0.1", False),
        ):
            self.assertEqual(is_loopback(parse_endpoint(endpoint)), loopback, endpoint)
