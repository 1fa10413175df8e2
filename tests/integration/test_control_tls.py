"""The control port over TCP: TLS with the session key, or with clients' certificates."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.ssl import (
    Certificate,
    PrivateCertificate,
    optionsForClientTLS,
    trustRootFromCertificates,
)

from serverworker.control import Client, connect
from serverworker.values.errors import NotAllowed, PeerLost
from tests.integration.controlled import ControlledCase
from tests.integration.programs import own_environment
from tests.integration.sessions import LONG, TestSession
from tests.unit.certificates import Issued, issue


def configuration(folder: Path, **keys: str) -> str:
    """A configuration file with a table of the control port; answers its name."""
    path = folder / "serverworker.toml"
    path.write_text("[control]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items()))
    return str(path)


class TLSCase(ControlledCase):
    """Sessions whose control port is on TCP."""

    def setUp(self) -> None:
        self.authority = issue("the operators' authority")
        self.server = issue("localhost")

    def over_tls(self, folder: Path, **keys: str) -> TestSession:
        certificate = self.server.write(folder / "server.pem")
        file = configuration(folder, endpoint="tcp:0:interface=127.0.0.1", certificate=certificate, **keys)
        return self.controlled("--config", file, folder=folder)

    def number(self, session: TestSession) -> int:
        """The port's."""
        line = session.wait_for_line("the control port is tcp:")
        return int(line.split("control port is tcp:")[1].split(":")[0])

    def endpoint(self, session: TestSession, shown: Issued | None = None) -> Any:
        """To the port, by one who knows the server's certificate, and shows one."""
        own = (
            PrivateCertificate.loadPEM(shown.certificate_pem() + shown.key_pem())
            if shown is not None
            else None
        )
        trusted = trustRootFromCertificates([Certificate.loadPEM(self.server.certificate_pem().encode())])
        options = optionsForClientTLS("localhost", trustRoot=trusted, clientCertificate=own)
        return wrapClientTLS(options, HostnameEndpoint(reactor, b"127.0.0.1", self.number(session)))

    async def by_tls(
        self, session: TestSession, shown: Issued | None = None, key: str | None = None
    ) -> Client:
        client = await connect(reactor, self.endpoint(session, shown), key=key, timeout=LONG)

        def gone() -> Any:
            client.close()
            return client.lost()

        self.addCleanup(gone)
        return client


class KeyTests(TLSCase):
    """Without client certificates: the session key."""

    async def test_key(self) -> None:
        """The right one lets in; none, and a wrong one, do not, and the wrong one is told; bare TCP gets nothing."""
        session = self.over_tls(self.folder())
        key = (session.state_directory / "key").read_text().strip()
        text = await self.failure(self.by_tls(session), NotAllowed)
        self.assertIn("asks for the session key", text)
        text = await self.failure(self.by_tls(session, key=key[:-1]), NotAllowed)
        self.assertIn("a wrong session key", text)
        told = session.wait_for("LoginFailed")
        self.assertEqual((told["origin"], told["surface"], told["failures"]), ("127.0.0.1", "control", 1))
        self.assertNotIn(key[:-1], session.transcript())
        while (
            "too many wrong keys" not in text
        ):  # each makes the next wait longer, so that a busy machine gets there
            text = await self.failure(self.by_tls(session, key=key[:-1]), NotAllowed)
        client = None
        while client is None:
            try:
                client = await self.by_tls(session, key=key)
            except NotAllowed:
                continue
        await client.set_polling(7)
        action = session.wait_for("OperatorAction")
        self.assertEqual(action["who"], "the session key, 127.0.0.1")
        with socket.create_connection(("127.0.0.1", self.number(session)), timeout=LONG) as bare:
            bare.sendall(b"\x00\x04_ask\x00\x011\x00\x08_command\x00\x06Status\x00\x00")
            with self.assertRaises((ssl.SSLError, ConnectionError, ValueError)):
                while data := bare.recv(1000):
                    self.assertNotIn(b"status", data)
                raise ConnectionError("closed")


class CertificateTests(TLSCase):
    """With client certificates."""

    async def test_certificates(self) -> None:
        """One of the authority lets in, and its name stands in the audit; none, and another authority's, do not."""
        folder = self.folder()
        (folder / "ca.pem").write_text(self.authority.certificate_pem())
        session = self.over_tls(folder, client_authority=str(folder / "ca.pem"))
        client = await self.by_tls(session, issue("ada\nfake", self.authority))
        await client.set_polling(7)
        self.assertEqual(session.wait_for("OperatorAction")["who"], "adafake, 127.0.0.1")
        key = (session.state_directory / "key").read_text().strip()
        foreign = issue("eve", issue("the operators' authority"))
        expired = issue("bob", self.authority, days=(-9, -2))
        for shown in (None, foreign, expired, issue("self-made")):
            await self.failure(self.by_tls(session, shown, key), PeerLost)
        self.assertEqual((await client.status())["polling_interval_seconds"], 7)


class BadConfigurationTests(TLSCase):
    """What keeps a session from starting."""

    def run_with(self, **keys: str) -> tuple[int, str]:
        folder = self.folder()
        command = [
            sys.executable,
            "-c",
            "import sys; from twisted.scripts.twistd import run; sys.argv[0] = 'twistd'; sys.exit(run())",
            "-n",
            "--pidfile=",
            "serverworker",
            "--port=tcp:0:interface=127.0.0.1",
            f"--state-dir={folder}/state",
            f"--config={configuration(folder, **keys)}",
        ]
        done = subprocess.run(
            command,
            cwd=folder,
            env=own_environment({}),
            capture_output=True,
            text=True,
            timeout=LONG,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def test_refused(self) -> None:
        """A port in use ends with 69, what is wrong with a certificate, or missing, with 78; each says why."""
        folder = self.folder()
        good = self.server.write(folder / "good.pem")
        expired = issue("localhost", days=(-9, -2)).write(folder / "expired.pem")
        other = folder / "other.pem"
        other.write_text(issue("x").key_pem())
        with socket.create_server(("127.0.0.1", 0)) as taken:
            number = taken.getsockname()[1]
            cases: tuple[tuple[dict[str, str], int, str], ...] = (
                ({"certificate": good}, 69, "port 'control' cannot be bound"),
                ({}, 78, "over TCP needs TLS"),
                ({"certificate": expired}, 78, "has expired"),
                ({"certificate": good, "private_key": str(other)}, 78, "cannot be used together"),
            )
            for keys, status, text in cases:
                found, said = self.run_with(endpoint=f"tcp:{number}:interface=127.0.0.1", **keys)
                self.assertEqual((found, text in said), (status, True), said)
                self.assertNotIn("Traceback", said)
