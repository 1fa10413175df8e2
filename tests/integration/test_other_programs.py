"""Plugins of twistd and programs under ``--command``, as a real session runs them: one of each here, more in tests/system."""

from __future__ import annotations

import signal
import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

from serverworker.processes.hosts import exec_shim
from tests.integration.sessions import LONG, SessionTestCase, is_alive, wait_until
from tests.integration.test_applications import free_port

SERVE = """
    import os, selectors, signal, socket, sys

    assert int(os.environ["LISTEN_PID"]) == os.getpid() == os.getpgid(0), "the shim has not set them"
    assert os.environ["LISTEN_FDNAMES"] == "server", os.environ
    listening = socket.socket(fileno=int(sys.argv[1]))
    listening.setblocking(True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("asked to end"))
    print("it runs", flush=True)
    while True:
        with listening.accept()[0] as connection:
            request = connection.recv(1000)
            if b"/exit" in request:
                sys.exit(7)
            body = b"%d" % os.getpid()
            connection.sendall(b"HTTP/1.0 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%s" % (len(body), body))
    """
"""A server in a few lines. It does nothing beside: not even a request at a time may hang."""


class ShimTests(SynchronousTestCase):
    """What stands in front of a program, in its process."""

    def run_shim(self, *words: str, **variables: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-E", exec_shim.__file__, *words],
            env={"PATH": "/usr/bin:/bin", **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LONG,
            check=False,
        )
        return done.returncode, done.stdout

    def test_for_whom(self) -> None:
        """The sockets are for the process itself; where none are promised, nothing is said."""
        script = ("/bin/sh", "sh", "-c", "echo $$ $LISTEN_PID")
        pid, told = self.run_shim(*script, LISTEN_FDS="1")[1].split()
        self.assertEqual(pid, told)
        self.assertEqual(len(self.run_shim(*script)[1].split()), 1)

    def test_signals(self) -> None:
        """Nothing is ignored: not what Python ignores, and so what it starts."""
        told = self.run_shim("/bin/grep", "grep", "SigIgn", "/proc/self/status")[1]
        # Without the C library's own, 32 and 33, which no program can set, and some that start others ignore.
        self.assertEqual(int(told.split()[1], 16) & ~(0b11 << 31), 0)

    def test_cannot_be_run(self) -> None:
        """What the system refuses is told on stderr, with a shell's own status for it."""
        self.assertEqual(
            self.run_shim(exec_shim.__file__, "x"),
            (126, f"{exec_shim.__file__} cannot be run: Permission denied\n"),
        )


class CommandTests(SessionTestCase):
    """A program of its own, which knows nothing of us."""

    def test_life(self) -> None:
        """It gets the socket, is polled, restarted, followed by the next where it dies, and ended with its worker."""
        folder = self.folder(serve__py=SERVE)
        session = self.session("--command", f"{sys.executable} serve.py {{fd}}", folder=folder)
        session.serving()
        session.wait_for("OutputLine", matching=lambda event: event["text"] == "it runs")
        first = int(session.get()[1])
        self.assertNotEqual(first, session.server_pid)

        session.standby_ready_or_loaded()
        worker = session.serving()[-1]["worker"]
        with session.connect() as connection:
            connection.sendall(b"GET /exit HTTP/1.0\r\n\r\n")
            self.assertEqual(connection.recv(1000), b"")
        report = session.report_of(worker)
        self.assertEqual(report["cause"]["kind"], "exit")
        self.assertIn("ended by itself with exit status 7", report["cause"]["text"])
        self.assertIn("it runs", str(report["output"]))
        second = int(session.get()[1])
        self.assertNotEqual(first, second)

        session.process.send_signal(signal.SIGHUP)
        session.wait_for("RestartCompleted")
        wait_until(lambda: not is_alive(second), "the end of the old program")
        third = int(session.get()[1])
        self.assertEqual(session.end(), 0)
        self.assertFalse(is_alive(third))
        self.assertEqual(len(session.reports()), 1)


class PluginTests(SessionTestCase):
    """A plugin of twistd's own."""

    def test_web(self) -> None:
        """`twistd web` serves a folder by the session's socket, and a restart serves on."""
        folder = self.folder(index__html="good")
        port = free_port()
        session = self.session(
            *("--", "web", "--listen", f"tcp:{port}", "--path", "."),
            folder=folder,
            port=f"tcp:{port}:interface=127.0.0.1",
        )
        session.serving()
        self.assertEqual(session.get("/index.html"), (200, b"good"))
        session.process.send_signal(signal.SIGHUP)
        session.wait_for("RestartCompleted")
        self.assertEqual(session.get("/index.html"), (200, b"good"))
        self.assertEqual((session.end(), session.reports()), (0, []))
