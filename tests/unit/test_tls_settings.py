"""``[tls.NAME]``: how it is read, and what is said where it cannot be."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from serverworker.values.reading import combine, read
from serverworker.values.rules import InvalidSettings
from serverworker.values.settings import AppSettings, Settings
from serverworker.values.tls import KeyPair, PortTls, TlsSettings

PAIR = {"certificate": "site.pem", "private_key": "keys/site.key", "minimum_version": "1.3"}


class TlsSettingsTests(SynchronousTestCase):
    """`TlsSettings`."""

    def settings(self, tls: Any, **more: Any) -> Settings:
        """What a file in /etc/site with these tables comes to."""
        return combine(read({"tls": tls, **more}, label="file", folder="/etc/site"))

    def refused(self, tls: Any, **more: Any) -> str:
        return str(self.assertRaises(InvalidSettings, self.settings, tls, **more))

    def test_one_table_for_each_port(self) -> None:
        """Paths start at the file's folder; what is left out has its default."""
        made = self.settings(
            {"server": PAIR, "other": {"certificate": "/a.pem"}}, ports={"server": 1, "other": 2}
        )
        server, other = made.tls
        self.assertEqual(
            (server.name, server.certificate, server.key_file, server.minimum_version),
            ("server", "/etc/site/site.pem", "/etc/site/keys/site.key", "1.3"),
        )
        self.assertEqual((other.key_file, other.minimum_version), ("/a.pem", "1.2"))
        self.assertEqual(
            server.describe(),
            "certificate /etc/site/site.pem, private key /etc/site/keys/site.key, TLS 1.3 or later",
        )

    def test_json(self) -> None:
        """It survives JSON; no worker is told where the files are."""
        made = self.settings({"server": PAIR})
        self.assertEqual(Settings.from_json(made.as_json()), made)
        self.assertNotIn("tls", made.for_worker())

    def test_no_secret_shows(self) -> None:
        """What holds a key leaves it out of its repr."""
        pair = KeyPair(certificate="c", private_key="hush", subject="s", since=0.0, until=1.0)
        told = PortTls(certificate="c", private_key="hush", minimum_version="1.2")
        self.assertNotIn("hush", f"{pair!r}{told!r}")

    def test_mistakes(self) -> None:
        """Each is told with its key and with what is allowed."""
        for tls, text in [
            (
                {"certificate": "a"},
                "tls.certificate: must be a table for the port of that name, such as [tls.server]",
            ),
            ({"server": {}}, "tls.server.certificate: is missing: the PEM file"),
            ({"server": {"private_key": "a"}}, "tls.server.certificate: is missing"),
            (
                {"server": {**PAIR, "certificat": "a"}},
                "tls.server.certificat: there is no such key; did you mean",
            ),
            (
                {"server": {**PAIR, "minimum_version": "1.1"}},
                "tls.server.minimum_version: must be '1.2' or '1.3'",
            ),
            (
                {"server": {**PAIR, "certificate": 5}},
                "tls.server.certificate: must be the name of a file or folder",
            ),
            ({"sever": PAIR}, "tls.sever: there is no port of this name; did you mean 'server'?"),
            ({"a b": PAIR}, "tls.'a b': there is no port of this name"),
        ]:
            self.assertTrue(self.refused(tls).startswith(text), self.refused(tls))
        self.assertIn("must be a table, [tls], not 5", self.refused(5))

    def test_who_binds_by_itself(self) -> None:
        """Where the session does not accept, it cannot speak TLS, and who has to is said."""
        text = self.refused({"server": PAIR}, workers={"bind": False})
        self.assertTrue(text.startswith("tls.server: workers.bind is false"), text)
        text = self.refused({"server": PAIR}, app={"command": "node x {fd}"})
        self.assertTrue(text.startswith("tls.server: app.command takes the bare socket"), text)

    def test_in_code(self) -> None:
        """The classes hold the same rules."""
        error = self.assertRaises(InvalidSettings, TlsSettings, name="server")
        self.assertIn("tls.server.certificate: is missing", str(error))
        self.assertRaises(InvalidSettings, Settings, tls=(TlsSettings(name="x", certificate="a"),))

    def test_reload_of_a_program(self) -> None:
        """``--reload`` watches what Python imports: of a program of its own there is nothing to watch."""
        error = self.assertRaises(InvalidSettings, AppSettings, command="node x", reload=True)
        self.assertIn("app.reload: watches what Python modules the workers import", str(error))
