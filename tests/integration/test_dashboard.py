"""The dashboard of a real session, over real sockets: its door, its stream, its end."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.integration.receivers import make_certificate
from tests.integration.sessions import LONG, SessionTestCase, TestSession, wait_until

ENDPOINT = "tcp:0:interface=127.0.0.1"


class DashboardSession:
    """A session with a dashboard, and a way to talk to it."""

    def __init__(self, session: TestSession, tls: ssl.SSLContext | None = None) -> None:
        self.session = session
        self._tls = tls
        line = session.wait_for_line("the dashboard is http")
        found = re.search(r"https?://[\d.]+:(\d+)/", line)
        assert found is not None, line
        self.port = int(found[1])

    @property
    def key(self) -> str:
        return (self.session.state_directory / "key").read_text().strip()

    def connect(self) -> socket.socket:
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=LONG)
        return plain if self._tls is None else self._tls.wrap_socket(plain, server_hostname="127.0.0.1")

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, Any]:
        """Status, JSON and headers of one answer; ``_`` in a header's name stands for a hyphen."""
        connection: Any = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LONG)
        connection.sock = self.connect()
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, path, body=body, headers=given)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read()), answer.headers
        finally:
            connection.close()

    def run(self, *words: str) -> tuple[int, Any]:
        """Run a command as a program does."""
        body = json.dumps({"words": words})
        headers = {"Authorization": f"Bearer {self.key}", "Content_Type": "application/json"}
        code, answer, _ = self.ask("POST", "/api/run", body, **headers)
        return code, answer

    def log_in(self) -> Any:
        """A cookie."""
        form = {"Content_Type": "application/x-www-form-urlencoded"}
        code, answer, headers = self.ask("POST", "/login", f"key={self.key}", **form)
        assert code == 200, answer
        return headers["Set-Cookie"]

    def follow(self, last_event_id: str = "") -> socket.socket:
        """The event stream, as a connection that has been asked for it."""
        connection = self.connect()
        lines = ["GET /api/stream HTTP/1.1", "Host: localhost", f"Authorization: Bearer {self.key}"]
        if last_event_id:
            lines.append(f"Last-Event-ID: {last_event_id}")
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        return connection


def messages(connection: socket.socket) -> Iterator[tuple[str, Any, str]]:
    """Name, value and id of each message of a stream, until it ends."""
    with connection.makefile("rb") as file:
        fields: dict[str, str] = {}
        for raw in file:
            line = raw.decode().rstrip("\r\n")
            name, colon, value = line.partition(": ")
            if colon:
                fields[name] = value
            elif not line and "event" in fields:
                yield fields["event"], json.loads(fields["data"]), fields.get("id", "")
                fields = {}


def events(connection: socket.socket) -> Iterator[tuple[dict[str, Any], str]]:
    """Each event of a stream, and where to go on behind its message."""
    for name, value, place in messages(connection):
        for event in value if name == "told" else ():
            yield event, place


class DashboardTests(SessionTestCase):
    """One session."""

    def started(self, *arguments: str, folder: Path | None = None, tls: Any = None) -> DashboardSession:
        session = self.session("--dashboard", ENDPOINT, *arguments, folder=folder)
        session.serving()
        session.standby_ready()
        return DashboardSession(session, tls)

    def test_a_death_is_told(self) -> None:
        """The stream tells it, and who comes back with its place is told what came meanwhile, each once."""
        dashboard = self.started()
        with contextlib.closing(dashboard.follow()) as stream:
            os.kill(dashboard.session.server_pid, signal.SIGKILL)
            place = next(place for event, place in events(stream) if event["event"] == "CrashReportWritten")
        dashboard.run("set", "polling", "7")
        seen = int(place.rpartition(":")[2])
        with contextlib.closing(dashboard.follow(place)) as stream:
            for event, _ in events(stream):
                self.assertGreater(event["sequence"], seen)
                seen = event["sequence"]
                if event["event"] == "PollingChanged":
                    break
        _, reports, _ = dashboard.ask("GET", "/api/crashes", Authorization=f"Bearer {dashboard.key}")
        self.assertEqual(["signal"], [report["cause"] for report in reports])

    def test_the_door(self) -> None:
        """A wrong key, no key and a strange name get nothing; a login does, and its audit says from where."""
        dashboard = self.started()
        self.assertEqual(401, dashboard.ask("GET", "/api/status")[0])
        self.assertEqual(421, dashboard.ask("GET", "/api/status", Host="evil.example")[0])
        self.assertEqual(401, dashboard.ask("GET", "/api/status", Authorization="Bearer no")[0])
        dashboard.session.wait_for("LoginFailed", matching=lambda event: event["origin"] == "127.0.0.1")
        wait_until(
            lambda: dashboard.ask("GET", "/api/status", Authorization=f"Bearer {dashboard.key}")[0] == 200,
            "the key",
        )
        cookie = dashboard.log_in().partition(";")[0]
        code, status, _ = dashboard.ask("GET", "/api/status", Cookie=cookie)
        self.assertEqual((200, "running"), (code, status["phase"]))
        self.assertEqual(403, dashboard.ask("POST", "/api/run", "{}", Cookie=cookie)[0])
        told = dashboard.session.wait_for("OperatorAction")
        self.assertEqual(("session key, 127.0.0.1", "log in"), (told["who"], told["action"]))
        self.assertNotIn(dashboard.key, dashboard.session.transcript())

    def test_the_end(self) -> None:
        """Who ends the session gets the answer, and who follows it the last event; then the port is closed."""
        dashboard = self.started()
        with contextlib.closing(dashboard.follow()) as stream:
            code, answer = dashboard.run("exit", "clean")
            self.assertEqual((200, True), (code, answer["ok"]), answer)
            names = [event["event"] for event, _ in events(stream)]
        self.assertIn("SessionEnding", names)
        self.assertEqual(0, dashboard.session.exit_status())
        self.assertRaises(ConnectionRefusedError, dashboard.connect)

    def test_tls(self) -> None:
        """With a certificate it is https alone, and the cookie is for nothing else."""
        folder = self.folder()
        certificate = make_certificate(folder, "127.0.0.1")
        (folder / "serverworker.toml").write_text(f'[dashboard]\ncertificate = "{certificate}"\n')
        trusting = ssl.create_default_context(cafile=str(certificate))
        dashboard = self.started("--config", "serverworker.toml", folder=folder, tls=trusting)
        cookie = dashboard.log_in()
        self.assertTrue(cookie.startswith("__Host-serverworker="), cookie)
        self.assertIn("; Secure", cookie)
        with contextlib.closing(dashboard.follow()) as stream:
            self.assertEqual("hello", next(messages(stream))[0])
        with socket.create_connection(("127.0.0.1", dashboard.port), timeout=LONG) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            self.assertNotIn(b"HTTP", plain.recv(100))

    def test_idle_connections(self) -> None:
        """Whoever opens many and asks nothing keeps nobody out, and costs no more than the limit of them."""
        dashboard = self.started()
        descriptors = Path(f"/proc/{dashboard.session.process.pid}/fd")
        before = len(list(descriptors.iterdir()))
        with contextlib.ExitStack() as idle:
            for number in range(400):
                connection = idle.enter_context(contextlib.closing(dashboard.connect()))
                with contextlib.suppress(OSError):  # it was closed already
                    connection.sendall(b"GET / HTTP/1.1\r\nX: " if number % 2 else b"\x16\x03\x01")
            code, _, _ = dashboard.ask("GET", "/api/status", Authorization=f"Bearer {dashboard.key}")
            self.assertEqual(200, code)
            self.assertLess(len(list(descriptors.iterdir())), before + 210)
        wait_until(lambda: len(list(descriptors.iterdir())) < before + 10, "the end of them all")

    def test_a_stream_that_nobody_reads(self) -> None:
        """It costs the monitor no memory, whatever workers print; it is told what it has missed when it reads again."""
        folder = self.folder(
            loud__py="""
                from twisted.web.resource import Resource

                class Loud(Resource):
                    isLeaf = True

                    def render_GET(self, request):
                        for number in range(20_000 if request.path == b"/loud" else 0):
                            print(number, "x" * 500)
                        return b"ok"

                loud = Loud()
            """
        )
        dashboard = self.started("--app", "loud:loud", folder=folder)
        monitor = dashboard.session.process.pid
        with contextlib.closing(dashboard.follow()) as stream:
            dashboard.session.get("/loud")  # the history is full from now on
            before = resident_mib(monitor)
            for _ in range(3):
                dashboard.session.get("/loud")
            self.assertLess(resident_mib(monitor) - before, 8)
            dashboard.run("set", "polling", "7")
            missed = False
            for name, value, _ in messages(stream):
                missed = missed or name == "missed"
                if name == "told" and any(event["event"] == "PollingChanged" for event in value):
                    break
            self.assertTrue(missed)


def resident_mib(pid: int) -> int:
    """What a process takes of the memory."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) // 1024
