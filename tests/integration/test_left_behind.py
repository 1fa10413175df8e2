"""Daemons that a worker, or a command of the agent's, leaves behind: in sessions of their own, children of nobody."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from tests.integration.driven import DrivenTestCase, ask
from tests.integration.sessions import TestSession, is_alive, wait_until

AGENT = """
    import os, subprocess

    DAEMON = "setsid sh -c 'echo $$ > {0}.new; mv {0}.new {0}; exec sleep 600' < /dev/null > /dev/null 2>&1 &"

    class Agent(Driven):
        async def initialize_monitor(self, monitor):
            await super().initialize_monitor(monitor)
            self.monitor_handle = monitor
            self.child = None

        def daemon(self):
            subprocess.run(DAEMON.format("daemon"), shell=True, check=True)

        def forked(self):
            if os.fork() == 0:
                os.setsid()
                if os.fork():
                    os._exit(0)
                os.closerange(0, 100)
                with open("forked.new", "w") as file:
                    file.write(str(os.getpid()))
                os.rename("forked.new", "forked")
                os.execv("/bin/sleep", ["sleep", "600"])
            os.wait()

        async def command(self):
            await self.monitor_handle.exec(DAEMON.format("command"))

        def start_child(self):
            self.child = subprocess.Popen(["sleep", "600"], start_new_session=True)
            return self.child.pid

        def poll_child(self):
            return self.child.poll()
    """


class LeftBehindTests(DrivenTestCase):
    """What the monitor, their new parent, does with them."""

    def started(self, session: TestSession, file: str) -> int:
        """The pid that a daemon has written; it is killed after the test, whatever came of it."""
        path = session.folder / file
        wait_until(path.exists, f"a daemon's {file}")
        pid = int(path.read_text())
        self.addCleanup(subprocess.run, ["kill", "-9", str(pid)], stderr=subprocess.DEVNULL, check=False)
        wait_until(lambda: parent_of(pid) == session.process.pid, "the adoption of a daemon by the monitor")
        return pid

    def assert_reaped(self, pid: int) -> None:
        """Not even a zombie is left of it."""
        wait_until(lambda: not Path(f"/proc/{pid}").exists(), f"the end of {pid}")

    def test_of_a_dead_worker(self) -> None:
        """What a worker has left in sessions of its own lives as long as it, is killed after it, and is reaped."""
        session = self.driven(AGENT)
        ask(session, "daemon")
        ask(session, "forked")
        daemons = [self.started(session, name) for name in ("daemon", "forked")]
        first = session.serving()[-1]["worker"]
        standby = session.standby_ready()["worker"]
        os.kill(session.pid_of(standby), signal.SIGKILL)  # another worker's death is nothing to them
        session.report_of(standby)
        session.standby_ready()
        self.assertEqual([is_alive(pid) for pid in daemons], [True, True])
        os.kill(session.pid_of(first), signal.SIGKILL)
        for pid in daemons:
            self.assert_reaped(pid)
        session.wait_for_line("(sleep)")
        self.assertEqual(session.end(), 0)

    def test_after_a_restart(self) -> None:
        """So it is with a worker that was asked to leave."""
        session = self.driven(AGENT)
        ask(session, "daemon")
        pid = self.started(session, "daemon")
        session.process.send_signal(signal.SIGHUP)
        self.assert_reaped(pid)

    def test_of_a_command(self) -> None:
        """A daemon that a command of the agent's has started is nobody's to kill; when it ends it is reaped."""
        session = self.driven(AGENT)
        ask(session, "monitor/command")
        pid = self.started(session, "command")
        first = session.serving()[-1]["worker"]
        os.kill(session.pid_of(first), signal.SIGKILL)
        session.report_of(first)
        ask(session, "daemon")
        second = self.started(session, "daemon")
        os.kill(session.server_pid, signal.SIGKILL)
        self.assert_reaped(second)  # all that is to be killed has been looked for, twice
        self.assertTrue(is_alive(pid))
        os.kill(pid, signal.SIGKILL)
        self.assert_reaped(pid)
        self.assertEqual(session.end(), 0)

    def test_status_of_a_child(self) -> None:
        """The exit status of a child that the agent itself started is left for it, however late it asks."""
        session = self.driven(AGENT)
        pid = ask(session, "monitor/start_child")
        os.kill(pid, signal.SIGKILL)
        ask(session, "monitor/command")
        other = self.started(session, "command")
        os.kill(other, signal.SIGKILL)
        self.assert_reaped(other)  # a leader of a session as well, and it ended later
        self.assertTrue(Path(f"/proc/{pid}").exists())
        self.assertEqual(ask(session, "monitor/poll_child"), -signal.SIGKILL)
        self.assert_reaped(pid)


def parent_of(pid: int) -> int | None:
    """The parent's process id; None where there is no such process."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None
