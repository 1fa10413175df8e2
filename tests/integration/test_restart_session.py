"""Restarts under clients: what they notice, which is nothing, and what the new generation is."""

from __future__ import annotations

import http.client
import signal
import socket
import threading
from functools import partial
from typing import Any

from tests.integration.sessions import LONG, SessionTestCase, TestSession, wait_until
from tests.integration.terminal import Terminal

VERSIONS = """
    from twisted.internet import reactor
    from twisted.internet.task import deferLater
    from twisted.web.resource import Resource
    from twisted.web.server import NOT_DONE_YET

    from serverworker import ServerWorker

    VERSION = b"1"

    class Versions(Resource):
        isLeaf = True

        def render_GET(self, request):
            if request.path == b"/slow":
                request.write(b"begun, ")
                # Still under way when its worker stops accepting, however fast the successor is.
                ServerWorker.current().on_drain(lambda: deferLater(reactor, 0.1, self.finish, request))
                return NOT_DONE_YET
            return VERSION

        def finish(self, request):
            request.write(VERSION)
            request.finish()
    """


class KeepAlive:
    """A client that makes one request after the other, on one connection for as long as the server lets it."""

    def __init__(self, session: TestSession) -> None:
        self.versions: list[bytes] = []
        self.failures: list[str] = []
        self._session = session
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def has_seen(self, version: bytes) -> bool:
        """Whether that version was the last to answer."""
        return self.versions[-1:] == [version]

    def _run(self) -> None:
        while not self._stopping.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self._session.port(), timeout=LONG)
            closes = False
            while not closes and not self._stopping.is_set():
                try:
                    connection.request("GET", "/")
                    answer = connection.getresponse()
                    body = answer.read()
                except Exception as error:
                    self.failures.append(f"{type(error).__name__}: {error}")
                    break
                if answer.status != 200:
                    self.failures.append(f"status {answer.status}")
                self.versions.append(body)
                closes = answer.getheader("Connection") == "close"
            connection.close()

    def stop(self) -> None:
        """End after the request that is under way."""
        self._stopping.set()
        self._thread.join(LONG)


class RestartTests(SessionTestCase):
    """A clean restart costs nobody anything."""

    def begin(self, *arguments: str, **options: Any) -> TestSession:
        folder = self.folder(versions__py=VERSIONS)
        session = self.session("--app", "versions:Versions", *arguments, folder=folder, **options)
        session.serving()
        return session

    def write(self, session: TestSession, version: int) -> None:
        """Change the code in place."""
        text = (session.folder / "versions.py").read_text()
        (session.folder / "versions.py").write_text(text.replace(f'b"{version - 1}"', f'b"{version}"'))

    def test_clients(self) -> None:
        """SIGHUP restarts with the code as it is now: no client fails, on new connections and on kept ones."""
        session = self.begin("--workers", "2")
        session.serving(2)
        kept = KeepAlive(session)
        self.addCleanup(kept.stop)
        slow = [session.connect() for _ in range(4)]
        for connection in slow:
            self.addCleanup(connection.close)
            connection.sendall(b"GET /slow HTTP/1.0\r\n\r\n")
        with self.clients(session) as clients:
            for version in (2, 3):
                clients.wait_for_answers(20)
                self.write(session, version)
                position = len(session.events)
                session.process.send_signal(signal.SIGHUP)
                done = session.wait_for("RestartCompleted", after=position)
                self.assertEqual(done["generation"], version)
                wait_until(partial(kept.has_seen, b"%d" % version), "the new version")
            clients.wait_for_answers(20)
        kept.stop()
        self.assertEqual((clients.failures, kept.failures), ([], []))
        self.assertEqual(sorted(set(kept.versions)), [b"1", b"2", b"3"])
        for connection in slow:
            self.assertTrue(read_all(connection).endswith(b"begun, 1"))
        started = session.wait_for("RestartStarted")
        self.assertEqual((started["mode"], started["asked_by"]), ("clean", "SIGHUP"))
        self.assertEqual(session.reports(), [])

    def test_two_at_a_time(self) -> None:
        """A second SIGHUP during a restart is refused with a word, and the first one goes on."""
        session = self.begin("--standby", "0")
        session.process.send_signal(signal.SIGHUP)
        session.wait_for("RestartStarted")
        session.process.send_signal(signal.SIGHUP)
        self.assertIn("is under way for", session.wait_for_line("SIGHUP: "))
        self.assertEqual(session.wait_for("RestartCompleted")["generation"], 2)
        self.assertEqual(session.get("/"), (200, b"1"))

    def test_port_changes(self) -> None:
        """A port that changes under clients: what is under way on the old one is finished, the new one loses nothing."""
        terminal = Terminal()
        self.addCleanup(terminal.close)
        session = self.begin("--standby", "0", stdin=terminal.descriptor)
        slow = [session.connect() for _ in range(4)]
        for connection in slow:
            self.addCleanup(connection.close)
            connection.sendall(b"GET /slow HTTP/1.0\r\n\r\n")
            self.assertIn(b"200 OK", connection.recv(15))
        with socket.create_server(("127.0.0.1", 0)) as free:
            number = free.getsockname()[1]
        terminal.type(f"set port server tcp:{number}:interface=127.0.0.1 now")
        session.wait_for("PortChanged")
        # Bound at once, it queues until the new generation accepts.
        session.moved_to(number)
        with self.clients(session) as clients:
            session.wait_for("RestartCompleted")
            clients.wait_for_answers(20)
        self.assertEqual(clients.failures, [])
        for connection in slow:
            self.assertTrue(read_all(connection).endswith(b"begun, 1"))


def read_all(connection: socket.socket) -> bytes:
    """What comes until the end of a connection."""
    answer = b""
    while piece := connection.recv(1000):
        answer += piece
    return answer
