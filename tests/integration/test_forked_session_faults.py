"""What becomes of a session whose fork server is killed, hangs or is out of date; and that none outlives its session."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import hyperlink

from tests.integration.sessions import TestSession, is_alive, wait_until
from tests.integration.test_forked_session import ForkedSessionTestCase, fork_servers, is_forked, is_ours


class ForkServerFaultTests(ForkedSessionTestCase):
    """A worker comes, whatever becomes of the fork server."""

    def assert_replaced(self, session: TestSession, former: int) -> None:
        """What serves next is an interpreter, and a later one is forked by another fork server."""
        self.assertFalse(is_forked(self.successor_of(session, session.server_pid)))
        wait_until(lambda: not is_alive(former), "the end of the former fork server")
        wait_until(lambda: bool(fork_servers(session.process.pid)), "another fork server")
        self.until_forked(session)
        (server,) = fork_servers(session.process.pid)
        self.assertNotEqual(server, former)
        self.assertFalse(is_ours(server))
        self.assertEqual(session.get()[0], 200)

    def test_killed(self) -> None:
        """After its death the next worker is an interpreter, and the log tells of it."""
        session = self.begin()
        (server,) = fork_servers(session.process.pid)
        os.kill(server, signal.SIGKILL)
        session.wait_for_line("the fork server has ended")
        self.assert_replaced(session, server)

    def test_hung(self) -> None:
        """One that does not answer is given up and killed, while clients are served."""
        session = self.begin()
        (server,) = fork_servers(session.process.pid)
        os.kill(server, signal.SIGSTOP)
        standby = next(pid for pid in self.workers(session) if pid != session.server_pid)
        with self.clients(session) as clients:
            clients.wait_for_answers(10)
            successor = self.successor_of(session, standby)
            clients.wait_for_answers(10)
        self.assertEqual(clients.failures, [])
        self.assertFalse(is_forked(successor))
        session.wait_for_line("the fork server is replaced: it does not answer")
        wait_until(lambda: not is_alive(server), "the end of the one that hung")
        self.until_forked(session)
        self.assertNotIn(server, fork_servers(session.process.pid))

    def test_changed_framework(self) -> None:
        """A restart after an upgrade has nothing of what was imported before, and says why."""
        folder = self.folder()
        shutil.copytree(Path(hyperlink.__file__).parent, folder / "hyperlink")
        session = self.begin(path=str(folder))
        (server,) = fork_servers(session.process.pid)
        self.assertTrue(all(is_forked(pid) for pid in self.workers(session)))
        changed = folder / "hyperlink" / "_url.py"
        changed.write_text(changed.read_text() + "\n# upgraded\n")
        before = len(session.events)
        session.process.send_signal(signal.SIGHUP)
        session.wait_for_line(f"the fork server is replaced: {changed} has changed since it was imported")
        spawned = session.wait_for("WorkerSpawned", after=before)
        session.wait_for("ServerRunning", after=before)
        self.assertFalse(is_forked(spawned["pid"]))
        wait_until(lambda: not is_alive(server), "the end of the one that is out of date")
        self.assertEqual(session.get()[0], 200)
        self.until_forked(session)


class EndTests(ForkedSessionTestCase):
    """Nothing is left of a session that has ended, however it has."""

    def assert_nothing_left(self, number: int, *, stopped: bool = False) -> TestSession:
        session = self.begin()
        (server,) = fork_servers(session.process.pid)
        self.addCleanup(self.kill_if, server)
        all_of_it = [server, *self.workers(session)]
        self.assertEqual(len(all_of_it), 3)
        if stopped:
            os.kill(server, signal.SIGSTOP)
        session.end(number)
        wait_until(lambda: not any(map(is_alive, all_of_it)), f"the end of {all_of_it}")
        return session

    def kill_if(self, server: int) -> None:
        """Where a test has failed: it would hang there for ever."""
        if is_alive(server):
            os.kill(server, signal.SIGKILL)

    def test_end(self) -> None:
        """SIGTERM ends the fork server with the rest, and the exit status is good."""
        self.assertEqual(self.assert_nothing_left(signal.SIGTERM).process.returncode, 0)

    def test_end_while_stopped(self) -> None:
        """One that was stopped neither stays nor delays the end."""
        session = self.assert_nothing_left(signal.SIGTERM, stopped=True)
        self.assertEqual(session.process.returncode, 0)

    def test_killed_monitor(self) -> None:
        """After the monitor was killed nothing of it stays."""
        self.assert_nothing_left(signal.SIGKILL)

    def test_killed_monitor_while_stopped(self) -> None:
        """The guardian ends a fork server that was stopped, and so cannot see that its monitor is gone."""
        self.assert_nothing_left(signal.SIGKILL, stopped=True)
