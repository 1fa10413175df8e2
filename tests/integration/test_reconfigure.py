"""A changed configuration: taken over by a restart, with nothing lost, or dropped with the generation that fails."""

from __future__ import annotations

import http.client
import os
import signal
import socket

from tests.integration.sessions import LONG, SessionTestCase, TestSession, wait_until

APPLICATION = """
import os
from twisted.web.resource import Resource

class Root(Resource):
    isLeaf = True

    def render_GET(self, request):
        return os.environ.get("GREETING", "none").encode()

class Broken(Resource):
    isLeaf = True

    def __init__(self):
        raise RuntimeError("no such table")
"""

CONFIGURATION = """
[app]
resource = "site_under_test:{resource}"
[app.environment]
GREETING = "{greeting}"
[ports]
server = "tcp:{port}:interface=127.0.0.1"
[workers]
count = {count}
[polling]
interval_seconds = {interval}
"""


def free_port() -> int:
    """A port that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ReconfigureTests(SessionTestCase):
    """The file is read anew at each restart."""

    def begin(self) -> TestSession:
        """A session that was started with a first configuration."""
        self.path = self.folder(site_under_test__py=APPLICATION)
        self.port_number = free_port()
        self.write()
        session = self.session("--config", "serverworker.toml", folder=self.path, port=None)
        session.serving()
        session.standby_ready()
        return session

    def write(
        self,
        *,
        resource: str = "Root",
        greeting: str = "one",
        count: int = 1,
        interval: str = "5",
        port: int = 0,
    ) -> None:
        """Write the configuration file."""
        text = CONFIGURATION.format(
            resource=resource,
            greeting=greeting,
            count=count,
            interval=interval,
            port=port or self.port_number,
        )
        (self.path / "serverworker.toml").write_text(text)

    def test_taken_over(self) -> None:
        """Environment, number of workers and polling of the new file hold after SIGHUP, and no request is lost."""
        session = self.begin()
        self.assertEqual((200, b"one"), session.get("/"))
        self.write(greeting="two", count=2, interval="0.2")
        with self.clients(session) as clients:
            clients.wait_for_answers(10)
            session.process.send_signal(signal.SIGHUP)
            session.wait_for("RestartCompleted")
            session.serving(3)
            session.wait_for("RestartProgress")  # until then the old worker may take a last connection
            clients.wait_for_answers(10)
        self.assertEqual([], clients.failures)
        self.assertEqual((200, b"two"), session.get("/"))

    def test_another_port(self) -> None:
        """The new generation serves on the new address; who waits at the former one is served, then it is closed."""
        session = self.begin()
        old = session.server_pid
        os.kill(old, signal.SIGSTOP)
        other = free_port()
        self.write(port=other)
        session.process.send_signal(signal.SIGHUP)
        session.wait_for("RestartCompleted")
        session.wait_for("WorkerDraining")
        waiting = []
        for _ in range(3):
            client = socket.create_connection(("127.0.0.1", self.port_number), timeout=LONG)
            self.addCleanup(client.close)
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            waiting.append(client)
        os.kill(old, signal.SIGCONT)
        for client in waiting:
            self.assertIn(b"200 OK", client.recv(1000))
        connection = http.client.HTTPConnection("127.0.0.1", other, timeout=LONG)
        self.addCleanup(connection.close)
        connection.request("GET", "/")
        self.assertEqual(b"one", connection.getresponse().read())

        def is_closed() -> bool:
            try:
                socket.create_connection(("127.0.0.1", self.port_number), timeout=LONG).close()
            except ConnectionRefusedError:
                return True
            return False

        wait_until(is_closed, "the end of the former port")

    def test_a_file_that_is_wrong(self) -> None:
        """Nothing is restarted: what is wrong is told, and the session goes on as it was."""
        session = self.begin()
        (self.path / "serverworker.toml").write_text("[wrokers]\ncount = 2\n")
        session.process.send_signal(signal.SIGHUP)
        line = session.wait_for_line("SIGHUP")
        self.assertIn("did you mean 'workers'?", line)
        self.assertEqual((200, b"one"), session.get("/"))
        self.assertEqual([], [event for event in session.events if event["event"] == "RestartStarted"])

    def test_dropped_with_its_generation(self) -> None:
        """Where the new generation fails, its configuration goes with it: a successor is one of the old kind."""
        session = self.begin()
        self.write(resource="Broken", greeting="two")
        session.process.send_signal(signal.SIGHUP)
        session.wait_for("RestartFailed")
        first = session.serving()[0]["worker"]
        os.kill(session.pid_of(first), signal.SIGKILL)
        session.serving(2)
        session.standby_ready()
        self.assertEqual((200, b"one"), session.get("/"))
        self.write(greeting="three")
        session.process.send_signal(signal.SIGHUP)
        session.wait_for("RestartCompleted")
        session.wait_for("RestartProgress")  # until then the old worker may take a last connection
        self.assertEqual((200, b"three"), session.get("/"))

    def test_what_cannot_be_changed(self) -> None:
        """Some of it holds for the life of a session, and it is said what to do."""
        session = self.begin()
        text = (self.path / "serverworker.toml").read_text()
        (self.path / "serverworker.toml").write_text(f"{text}\n[output]\nshow_server_output = false\n")
        session.process.send_signal(signal.SIGHUP)
        self.assertIn("output: cannot be changed while the session runs", session.wait_for_line("SIGHUP"))
