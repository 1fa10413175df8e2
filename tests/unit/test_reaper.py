"""Which children are reaped and which are left, and what of a worker's is killed after it."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from pathlib import Path

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from serverworker.processes import reaper
from serverworker.processes.descendants import ProcessEntry
from serverworker.processes.reaper import (
    GRACE_SECONDS,
    SETTLE_SECONDS,
    Reaper,
    abandoned,
    any_zombie,
    child_pids,
    is_awaited,
    kill_abandoned,
)
from tests.unit.fake_proc import FakeProc

WORKER = 500
"""The id of a worker's session."""


class ReaperTests(SynchronousTestCase):
    """A /proc of files, a clock that is moved by hand, and a waitpid that writes down what it is asked for."""

    def setUp(self) -> None:
        self.proc = FakeProc(Path(self.mktemp()))
        self.clock = Clock()
        self.known: set[int] = set()
        self.awaited: set[int] = set()
        self.children: list[int] = []
        self.reaped: list[int] = []
        self.patch(os, "waitpid", self.waitpid)
        self.patch(reaper, "any_zombie", lambda: bool(self.children))
        self.patch(reaper, "child_pids", lambda proc: list(self.children))
        self.reaper = Reaper(
            self.clock, known=lambda: self.known, awaited=self.awaited.__contains__, proc=self.proc.path
        )

    def waitpid(self, pid: int, options: int) -> tuple[int, int]:
        self.assertEqual(options, os.WNOHANG)
        self.reaped.append(pid)
        self.children.remove(pid)
        return pid, 0

    def child(self, pid: int, session: int, state: str = "Z") -> None:
        self.proc.add(pid, session=session, parent=os.getpid(), state=state)
        self.children.append(pid)

    def look(self, seconds: float = SETTLE_SECONDS) -> list[int]:
        """What is reaped once a child has ended."""
        self.reaper.child_ended()
        self.clock.advance(seconds)
        reaped, self.reaped = self.reaped, []
        return reaped

    def test_orphan(self) -> None:
        """What a worker's session left behind is reaped, once whoever may wait for a child has had his time."""
        self.child(21, session=WORKER)
        self.child(22, session=WORKER, state="S")
        self.assertEqual(self.look(SETTLE_SECONDS / 2), [])
        self.assertEqual(self.look(SETTLE_SECONDS / 2), [21])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_many_signals(self) -> None:
        """However many signals come, one look follows."""
        for _ in range(100):
            self.reaper.child_ended()
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)

    def test_twisted_waits(self) -> None:
        """Workers, the guardian and commands are Twisted's to reap."""
        self.known = {21}
        self.child(21, session=21)
        self.child(22, session=WORKER)
        self.assertEqual(self.look(), [22])
        self.assertEqual(self.look(10.0), [])

    def test_own_session(self) -> None:
        """A child in the monitor's own session was started by an agent, which may ask for its status in a week."""
        self.child(21, session=os.getsid(0))
        self.assertEqual(self.look(1000.0), [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_leader(self) -> None:
        """The leader of a session may be an agent's as well: it is reaped after a while, if nobody's Popen has it."""
        self.child(21, session=21)
        self.assertEqual(self.look(), [])
        self.clock.advance(GRACE_SECONDS - 0.1)
        self.assertEqual(self.reaped, [])
        self.clock.pump([0.1, GRACE_SECONDS])
        self.assertEqual(self.reaped, [21])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_leader_that_is_awaited(self) -> None:
        """One that a Popen has is never reaped, and looked for in memory once."""
        self.awaited.add(21)
        self.child(21, session=21)
        self.assertEqual(self.look(10.0), [])
        self.clock.advance(GRACE_SECONDS)
        self.awaited.clear()
        self.assertEqual(self.look(10.0), [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_number_that_is_given_again(self) -> None:
        """What was found out of a process does not hold for the next one of its number."""
        self.awaited.add(21)
        self.child(21, session=21)
        self.look()
        self.clock.advance(GRACE_SECONDS)
        self.awaited.clear()
        self.proc.add(21, session=21, parent=os.getpid(), state="Z", started=200)
        self.assertEqual(self.look(), [])
        self.clock.pump([GRACE_SECONDS, GRACE_SECONDS])
        self.assertEqual(self.reaped, [21])

    def test_leader_that_somebody_takes(self) -> None:
        """Somebody was slow and has taken it after all: nothing is waited for any more."""
        self.child(21, session=21)
        self.look()
        self.children.clear()
        self.clock.advance(GRACE_SECONDS)
        self.assertEqual((self.reaped, self.clock.getDelayedCalls()), ([], []))

    def test_somebody_is_faster(self) -> None:
        """A child that is reaped in another thread in the same moment is no error; the others are reaped."""
        self.child(21, session=WORKER)
        self.child(22, session=WORKER)

        def waitpid(pid: int, options: int) -> tuple[int, int]:
            if pid == 21:
                self.children.remove(21)
                raise ChildProcessError
            return self.waitpid(pid, options)

        self.patch(os, "waitpid", waitpid)
        self.assertEqual(self.look(), [22])

    def test_no_descriptor(self) -> None:
        """Where /proc cannot be read it is said, and tried again."""
        self.child(21, session=WORKER)

        def read(pid: int, proc: str) -> ProcessEntry:
            raise OSError(24, "Too many open files")

        with_patch = self.patch(reaper, "read_process", read)
        self.assertEqual(self.look(), [])
        with_patch.restore()
        self.clock.advance(GRACE_SECONDS)
        self.assertEqual(self.reaped, [21])


class ChildrenTests(SynchronousTestCase):
    """What the system says of this process's real children."""

    def start(self) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", "import os; os.read(0, 1)"], stdin=subprocess.PIPE
        )
        assert child.stdin is not None
        self.addCleanup(child.wait)
        self.addCleanup(child.stdin.close)
        return child

    def test_children(self) -> None:
        """Children are found, with the kernel's own list and without."""
        child = self.start()
        self.assertIn(child.pid, child_pids())
        fake = FakeProc(Path(self.mktemp()))
        fake.add(21, session=1, parent=os.getpid())
        fake.add(22, session=1)
        self.assertEqual(child_pids(fake.path), [21])

    def test_zombie(self) -> None:
        """A zombie is seen, and still there for whoever waits for it."""
        child = self.start()
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        self.assertTrue(any_zombie())
        self.assertEqual(child.wait(), -signal.SIGKILL)

    def test_awaited(self) -> None:
        """A Popen that was not asked yet claims its child; one that was asked, or is gone, does not."""
        child = self.start()
        pid = child.pid
        self.assertTrue(is_awaited(pid))
        child.kill()
        child.wait()
        self.assertFalse(is_awaited(pid))
        gc.collect()
        self.assertFalse(is_awaited(os.getpid()))


class AbandonedTests(SynchronousTestCase):
    """What a worker that is gone has left below this process."""

    def setUp(self) -> None:
        self.proc = FakeProc(Path(self.mktemp()))
        self.proc.add(os.getpid(), session=1)

    def add(
        self, pid: int, *, worker: int, mark: str = "m", parent: int | None = None, state: str = "S"
    ) -> None:
        environ = f"PATH=/bin\0ODD\0SERVERWORKER_SESSION={mark}\0SERVERWORKER_WORKER={worker}\0"
        above = os.getpid() if parent is None else parent
        self.proc.add(pid, session=pid, parent=above, state=state, environ=environ.encode())

    def found(self, gone: int = 3) -> list[int]:
        entries = abandoned("m", lambda worker: worker == gone, self.proc.path)
        return sorted(entry.pid for entry in entries)

    def test_of_the_dead_worker(self) -> None:
        """Who was started by it, and those they started, with whatever environment; not those of the living ones."""
        self.add(21, worker=3)
        self.proc.add(22, session=22, parent=21)
        self.add(23, worker=4)
        self.assertEqual(self.found(), [21, 22])
        self.assertEqual(self.found(gone=5), [])

    def test_not_ours(self) -> None:
        """Not what has no mark, another session's, what is not below this process, and what has ended already."""
        self.proc.add(21, session=21, parent=os.getpid())
        self.add(22, worker=3, mark="n")
        self.add(23, worker=3, parent=1)
        self.add(24, worker=3, state="Z")
        self.proc.add(
            25, session=25, parent=os.getpid(), environ=b"SERVERWORKER_SESSION=m\0SERVERWORKER_WORKER=x\0"
        )
        self.proc.add(26, session=26, parent=os.getpid(), environ=b"SERVERWORKER_SESSION=m\0")
        self.assertEqual(self.found(), [])

    def test_killed(self) -> None:
        """All are killed, once each; one that is forked in the last moment as well."""
        self.add(21, worker=3)
        killed: list[tuple[int, int]] = []

        def kill(entry: ProcessEntry, number: int) -> bool:
            killed.append((entry.pid, number))
            if entry.pid == 21:
                self.add(22, worker=3)
            return True

        entries = kill_abandoned("m", lambda worker: worker == 3, proc=self.proc.path, kill=kill)
        self.assertEqual([entry.pid for entry in entries], [21, 22])
        self.assertEqual(killed, [(21, signal.SIGKILL), (22, signal.SIGKILL)])
