"""What a service manager hears from a real session, through the test's own NOTIFY_SOCKET."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import tempfile
import time
from pathlib import Path

from tests.integration.sessions import LONG, SessionTestCase, TestSession

APPLICATION = """
    import os
    from twisted.web.resource import Resource

    class Root(Resource):
        isLeaf = True

        def render_GET(self, request):
            return " ".join(name for name in os.environ if name.startswith(("NOTIFY", "WATCHDOG"))).encode()
    """


class NotifyTests(SessionTestCase):
    """From READY=1 to STOPPING=1."""

    def setUp(self) -> None:
        folder = Path(tempfile.mkdtemp(prefix="sw-"))  # a unix socket needs a short path
        self.addCleanup(shutil.rmtree, folder)
        self.path = folder / "notify"
        self.receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(self.receiver.close)
        self.receiver.bind(str(self.path))
        self.heard: list[str] = []

    def told(self, *options: str, **variables: str) -> TestSession:
        folder = self.folder(shop__py=APPLICATION)
        environment = {"NOTIFY_SOCKET": str(self.path), **variables}
        return self.session("--app", "shop:Root", *options, folder=folder, environment=environment)

    def hear(self, line: str) -> str:
        """Listen until a message with a line that begins so; answers the message."""
        deadline = time.monotonic() + LONG
        while (left := deadline - time.monotonic()) > 0:
            self.receiver.settimeout(left)
            with contextlib.suppress(TimeoutError):
                message = self.receiver.recv(5000).decode()
                self.heard.append(message)
                if any(each.startswith(line) for each in message.split("\n")):
                    return message
        raise AssertionError(f"waited in vain for {line}; heard {self.heard}")

    def status(self) -> str:
        """The latest that was heard."""
        lines = [line for message in self.heard for line in message.split("\n") if line.startswith("STATUS=")]
        return lines[-1]

    def test_a_life(self) -> None:
        """Ready when somebody serves, reloading while a restart runs, stopping at the end, and words all the way."""
        session = self.told()
        self.hear("EXTEND_TIMEOUT_USEC=")
        self.hear("READY=1")
        self.assertEqual(self.status(), "STATUS=serving 1 of 1, generation 1")
        self.assertEqual(session.get("/"), (200, b""))
        before = time.monotonic()
        session.process.send_signal(signal.SIGHUP)
        reloading = dict(line.split("=", 1) for line in self.hear("RELOADING=1").split("\n"))
        self.assertGreaterEqual(int(reloading["MONOTONIC_USEC"]) / 1e6, before)
        self.assertIn("restarting to generation 2", self.status())
        self.hear("READY=1")
        self.assertIn("generation 2", self.status())
        self.assertEqual(session.get("/"), (200, b""))
        session.process.send_signal(signal.SIGTERM)
        self.hear("STOPPING=1")
        self.hear("STATUS=ending (SIGTERM), workers left: 0")
        self.assertEqual(session.exit_status(), 0)

    def test_failed_reload(self) -> None:
        """A bad deploy ends the reload as well, and the status says why."""
        session = self.told()
        self.hear("READY=1")
        (session.folder / "shop.py").write_text("syntax error")
        session.process.send_signal(signal.SIGHUP)
        self.hear("RELOADING=1")
        self.hear("READY=1")
        self.assertRegex(self.status(), "STATUS=.*the restart to generation 2 failed: .*SyntaxError")
        self.assertEqual(session.get("/"), (200, b""))

    def test_watchdog(self) -> None:
        """A watchdog is fed while a worker serves, and while there is only a crash loop under back-off."""
        session = self.told("--standby", "0", WATCHDOG_USEC="400000")
        self.hear("READY=1")
        for _ in range(3):
            self.hear("WATCHDOG=1")
        (session.folder / "shop.py").write_text("import os; os._exit(3)")
        os.kill(session.server_pid, signal.SIGKILL)
        self.hear("STATUS=serving 0 of 1, generation 1; a worker is started in")
        for _ in range(3):
            self.hear("WATCHDOG=1")
        self.assertIsNone(session.process.poll())

    def test_watchdog_of_another(self) -> None:
        """A watchdog that is meant for another process is not fed."""
        self.told(WATCHDOG_USEC="100000", WATCHDOG_PID="1")
        self.hear("READY=1")
        self.assertEqual([message for message in self.heard if "WATCHDOG" in message], [])

    def test_nowhere(self) -> None:
        """A NOTIFY_SOCKET that points nowhere is told once and harms nothing."""
        session = self.told(NOTIFY_SOCKET="/nowhere/at/all")
        session.serving()
        fault = session.wait_for("Fault")
        self.assertIn("NOTIFY_SOCKET=/nowhere/at/all", fault["where"])
        self.assertEqual(session.get("/"), (200, b""))
        session.process.send_signal(signal.SIGHUP)
        session.wait_for("RestartCompleted")
        self.assertEqual(session.end(), 0)
        self.assertEqual(len([event for event in session.events if event["event"] == "Fault"]), 1)
