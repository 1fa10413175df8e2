"""The monitor as process 1 of a PID namespace of its own, as in a container without an init."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

from tests.integration.driven import DrivenTestCase, ask
from tests.integration.sessions import TestSession, is_alive, wait_until
from tests.integration.test_left_behind import AGENT
from tests.system import SKIP

UNSHARE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")


def why_not() -> str | None:
    """What is missing for a PID namespace here; None where nothing is."""
    if os.geteuid() != 0:
        return "needs root, for a PID namespace"
    if shutil.which("unshare") is None:
        return "needs unshare, of Debian's package util-linux"
    tried = subprocess.run([*UNSHARE, "true"], capture_output=True, check=False, timeout=60)
    return f"no PID namespace can be had here: {tried.stderr.decode()}" if tried.returncode else None


class Pid1Tests(DrivenTestCase):
    """Signals that have no default action, and zombies that are nobody's."""

    skip = SKIP or why_not()

    def as_pid_1(self, *arguments: str) -> TestSession:
        session = self.driven(AGENT, *arguments, prefix=UNSHARE)
        self.assertEqual(session.wait_for("SessionStarted")["pid"], 1)
        return session

    def monitor(self, session: TestSession) -> int:
        """The pid of the monitor as it is known here, outside."""
        (pid,) = children(session.process.pid)
        return pid

    def signal(self, session: TestSession, number: int) -> None:
        os.kill(self.monitor(session), number)

    def test_sigterm(self) -> None:
        """SIGTERM, which process 1 would not even notice, drains and ends with 0; so does SIGINT."""
        for number in (signal.SIGTERM, signal.SIGINT):
            session = self.as_pid_1()
            workers = children(self.monitor(session))
            self.signal(session, number)
            self.assertEqual(session.exit_status(), 0)
            session.wait_for("WorkerDraining")
            self.assertEqual([pid for pid in workers if is_alive(pid)], [])

    def test_sigquit(self) -> None:
        """SIGQUIT ends the session without a drain."""
        session = self.as_pid_1("--drain-timeout", "600")
        with session.connect() as connection:
            connection.sendall(b"GET /never HTTP/1.0\r\n")
            self.signal(session, signal.SIGQUIT)
            self.assertEqual(session.exit_status(), 0)
        self.assertFalse(session.wait_for("SessionEnding")["graceful"])

    def test_sighup(self) -> None:
        """SIGHUP restarts."""
        session = self.as_pid_1()
        self.signal(session, signal.SIGHUP)
        session.wait_for("RestartCompleted")
        self.assertIsNone(session.process.poll())
        self.assertEqual(ask(session, ""), None)

    def test_foreign_zombies(self) -> None:
        """Orphans of all kinds that end are reaped: a worker's, a command's, and those of a stranger in the namespace."""
        session = self.as_pid_1()
        monitor = self.monitor(session)
        ask(session, "daemon")
        ask(session, "forked")
        ask(session, "monitor/command")
        enter = ["nsenter", "--target", str(monitor), "--pid", "--mount", "setsid", "sh", "-c"]
        subprocess.run([*enter, "sleep 600 < /dev/null > /dev/null 2>&1 &"], check=True, timeout=60)
        wait_until(lambda: len(named(monitor, "sleep")) == 4, "the adoption of four orphans")
        for pid in named(monitor, "sleep"):
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not named(monitor, "sleep"), "the end of four zombies")
        self.assertEqual(ask(session, ""), None)
        self.signal(session, signal.SIGTERM)
        self.assertEqual(session.exit_status(), 0)

    def test_status_of_a_child(self) -> None:
        """The exit status of the agent's own child is left for it here too."""
        session = self.as_pid_1()
        ask(session, "monitor/start_child")
        monitor = self.monitor(session)
        (child,) = named(monitor, "sleep")
        os.kill(child, signal.SIGKILL)
        ask(session, "daemon")
        wait_until(lambda: len(named(monitor, "sleep")) == 2, "the adoption of a daemon")
        (daemon,) = [pid for pid in named(monitor, "sleep") if pid != child]
        os.kill(daemon, signal.SIGKILL)
        wait_until(lambda: named(monitor, "sleep") == [child], "the end of the daemon")
        self.assertEqual(ask(session, "monitor/poll_child"), -signal.SIGKILL)


def children(pid: int) -> list[int]:
    """The children of a process, zombies among them."""
    try:
        lists = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return []
    return sorted(int(child) for each in lists for child in each.split())


def name_of(pid: int) -> str:
    """The kernel's short name of a process; empty where there is none."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def named(parent: int, name: str) -> list[int]:
    """The children of that name."""
    return [pid for pid in children(parent) if name_of(pid) == name]
