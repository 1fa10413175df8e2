"""Tests of `serverworker.processes.descendants`: on a /proc made of files, and on this process's own children."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import TestCase

from serverworker.processes import descendants
from serverworker.processes.descendants import ProcessEntry
from tests.unit.fake_proc import FakeProc, stat_line


class ParseTests(TestCase):
    """`parse_stat`."""

    @settings(deadline=None, max_examples=60)
    @given(
        command=st.binary(max_size=15),
        pid=st.integers(1, 2**22),
        session=st.integers(0, 2**22),
        started=st.integers(0, 2**60),
    )
    @example(command=b"a) S 1 (b c\n", pid=5, session=5, started=5)
    def test_any_command(self, command: bytes, pid: int, session: int, started: int) -> None:
        """A command may be any 15 bytes, parentheses, spaces and line ends included."""
        entry = descendants.parse_stat(stat_line(pid, command, "R", 7, 8, session, 3, started))
        assert entry is not None
        self.assertEqual((entry.pid, entry.session, entry.started), (pid, session, started))
        self.assertEqual((entry.parent, entry.group, entry.threads, entry.state), (7, 8, 3, "R"))
        self.assertEqual(entry.command, command.decode("utf-8", "replace"))
        self.assertEqual(entry.identity, (pid, started))

    @settings(deadline=None, max_examples=100)
    @given(text=st.binary(max_size=200))
    def test_any_bytes(self, text: bytes) -> None:
        """Whatever is read, nothing is raised."""
        descendants.parse_stat(text)

    def test_cut_short(self) -> None:
        """A line that ends before the start time is no entry."""
        whole = stat_line(5, b"a b) c", "S", 1, 5, 5, 1, 4711)
        for size in range(whole.rindex(b"4711")):
            self.assertIsNone(descendants.parse_stat(whole[:size]), whole[:size])

    def test_own_line(self) -> None:
        """The kernel's line of this process is understood."""
        entry = descendants.read_process(os.getpid())
        assert entry is not None
        self.assertEqual((entry.pid, entry.parent), (os.getpid(), os.getppid()))
        self.assertEqual((entry.group, entry.session), (os.getpgrp(), os.getsid(0)))
        self.assertIn(f"<process {os.getpid()} (", repr(entry))

    def test_gone(self) -> None:
        """A zombie is gone; one whose other threads run on is not."""
        states = {("Z", 1): True, ("X", 1): True, ("Z", 2): False, ("S", 1): False, ("T", 1): False}
        for (state, threads), gone in states.items():
            entry = descendants.parse_stat(stat_line(5, b"a", state, 1, 5, 5, threads, 1))
            assert entry is not None
            self.assertEqual(entry.is_gone, gone, (state, threads))


class LookTests(TestCase):
    """Questions to a /proc that is made of files."""

    def setUp(self) -> None:
        self.proc = FakeProc(Path(self.mktemp()))

    def test_session_members(self) -> None:
        """The living of a session, in any group; no zombie and no stranger."""
        self.proc.add(10, session=10)
        self.proc.add(11, session=10, parent=10)
        self.proc.add(12, session=10, parent=10, state="Z")
        self.proc.add(13, session=13, parent=10)
        found = descendants.session_members(10, proc=self.proc.path)
        self.assertEqual({entry.pid for entry in found}, {10, 11})

    def test_leader_gone(self) -> None:
        """What a dead leader left behind in its session is found by the leader's pid."""
        self.proc.add(11, session=10, started=120)
        found = descendants.session_members(10, started=100, proc=self.proc.path)
        self.assertEqual([entry.pid for entry in found], [11])

    def test_reused_number(self) -> None:
        """A stranger who got the pid, and those in the stranger's session, are none of ours."""
        self.proc.add(10, session=10, started=900)
        self.proc.add(11, session=10, started=901)
        self.assertEqual(descendants.session_members(10, started=100, proc=self.proc.path), [])

    def test_older_member(self) -> None:
        """Nothing in a session is older than its leader: such a one is of somebody else's session."""
        self.proc.add(11, session=10, started=50)
        self.assertEqual(descendants.session_members(10, started=100, proc=self.proc.path), [])

    def test_before_setsid(self) -> None:
        """A worker that has not called setsid yet counts when its start is known."""
        self.proc.add(10, session=3)
        found = descendants.session_members(10, started=100, proc=self.proc.path)
        self.assertEqual([entry.pid for entry in found], [10])
        self.assertEqual(descendants.session_members(10, proc=self.proc.path), [])

    def test_children_and_orphans(self) -> None:
        """Children are known by their parent; orphans are those that the parent did not start, zombies included."""
        self.proc.add(10, session=10, parent=5)
        self.proc.add(11, session=11, parent=5, state="Z")
        self.proc.add(12, session=12, parent=10)
        self.assertEqual({e.pid for e in descendants.children_of(5, self.proc.path)}, {10, 11})
        self.assertEqual([e.pid for e in descendants.orphans(5, {10}, self.proc.path)], [11])

    def test_offspring(self) -> None:
        """Offspring is found to any depth, whatever its session."""
        self.proc.add(10, session=10)
        self.proc.add(11, session=11, parent=10)
        self.proc.add(12, session=12, parent=11)
        self.proc.add(13, session=13, parent=1)
        entries = descendants.processes(self.proc.path)
        self.assertEqual(descendants.with_offspring(entries, {10}), {10, 11, 12})

    def test_has_variable(self) -> None:
        """A variable counts as a whole: neither a part of it, nor one whose value begins alike."""
        self.proc.add(10, session=10, environ=b"A=1\0MARK=abc\0B=2\0")
        for variable, there in {b"MARK=abc": True, b"MARK=ab": False, b"ARK=abc": False}.items():
            self.assertEqual(descendants.has_variable(10, variable, self.proc.path), there, variable)
        self.assertFalse(descendants.has_variable(99, b"MARK=abc", self.proc.path))

    def test_rss(self) -> None:
        """The resident size is in bytes; None for nobody, and for a text that is no size."""
        self.proc.add(10, session=10)
        self.assertEqual(descendants.rss_bytes(10, self.proc.path), 500 * os.sysconf("SC_PAGE_SIZE"))
        self.assertIsNone(descendants.rss_bytes(99, self.proc.path))
        (self.proc.root / "10" / "statm").write_text("")
        self.assertIsNone(descendants.rss_bytes(10, self.proc.path))

    def test_cpu_seconds(self) -> None:
        """The processor time in seconds, inside the kernel and outside; None where there is no process."""
        self.proc.add(10, session=10, command=b"a (b) c")
        self.assertEqual(descendants.cpu_seconds(10, self.proc.path), 3 / os.sysconf("SC_CLK_TCK"))
        self.assertIsNone(descendants.cpu_seconds(99, self.proc.path))
        (self.proc.root / "10" / "stat").write_text("10 (python) S 1")
        self.assertIsNone(descendants.cpu_seconds(10, self.proc.path))

    def test_nobody(self) -> None:
        """A pid that nobody has is no process, and is not stopped."""
        self.assertIsNone(descendants.read_process(99, self.proc.path))
        self.assertFalse(descendants.is_stopped(99, self.proc.path))


class KillSessionTests(TestCase):
    """`kill_session` on a /proc that is made of files."""

    def setUp(self) -> None:
        self.proc = FakeProc(Path(self.mktemp()))
        self.killed: list[tuple[int, int]] = []

    def kill(self, entry: ProcessEntry, number: int) -> bool:
        self.killed.append((entry.pid, number))
        return True

    def test_everyone_once(self) -> None:
        """Each member is killed once, although it is still listed for a while."""
        self.proc.add(1010, session=1010)
        self.proc.add(1011, session=1010)
        found = descendants.kill_session(1010, proc=self.proc.path, kill=self.kill)
        self.assertEqual(sorted(self.killed), [(1010, signal.SIGKILL), (1011, signal.SIGKILL)])
        self.assertEqual({entry.pid for entry in found}, {1010, 1011})

    def test_forked_meanwhile(self) -> None:
        """One that was forked between the look and the kill is found by the next look."""

        def kill(entry: ProcessEntry, number: int) -> bool:
            if entry.pid == 1010:
                self.proc.add(1012, session=1010, parent=1010)
            return self.kill(entry, number)

        self.proc.add(1010, session=1010)
        descendants.kill_session(1010, proc=self.proc.path, kill=kill)
        self.assertEqual([pid for pid, _ in self.killed], [1010, 1012])

    def test_endless_forks(self) -> None:
        """A session that grows whatever is done is given up after some rounds, not after for ever."""
        following = iter(range(2000, 4000))

        def kill(entry: ProcessEntry, number: int) -> bool:
            self.proc.add(next(following), session=1010)
            return self.kill(entry, number)

        self.proc.add(1010, session=1010)
        descendants.kill_session(1010, proc=self.proc.path, kill=kill)
        self.assertEqual(len(self.killed), descendants.KILL_ROUNDS)

    def test_stranger(self) -> None:
        """A stranger under the same number is left alone."""
        self.proc.add(1010, session=1010, started=900)
        self.assertEqual(descendants.kill_session(1010, started=100, proc=self.proc.path, kill=self.kill), [])
        self.assertEqual(self.killed, [])

    def test_own_session(self) -> None:
        """The caller's own session, and that of process 1, are refused."""
        for session in (0, 1, os.getsid(0)):
            self.assertRaises(ValueError, descendants.kill_session, session, proc=self.proc.path)

    def test_no_proc(self) -> None:
        """Without a readable /proc the leader's group is killed at least."""
        groups: list[tuple[int, int]] = []
        self.patch(os, "killpg", lambda group, number: groups.append((group, number)))
        self.assertEqual(descendants.kill_session(1010, proc=str(self.proc.root / "nowhere")), [])
        self.assertEqual(groups, [(1010, signal.SIGKILL)])


class RealProcessTests(TestCase):
    """What only the kernel can tell."""

    def start(self, program: str) -> subprocess.Popen[bytes]:
        """A child in a session of its own that has run `program` and then waits to be killed."""
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", f"import os\n{program}\nos.write(1, b'!')\nos.read(0, 1)"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert process.stdin is not None and process.stdout is not None
        self.addCleanup(process.stdin.close)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        self.assertEqual(process.stdout.read(1), b"!")
        return process

    def entry(self, pid: int) -> ProcessEntry:
        entry = descendants.read_process(pid)
        assert entry is not None
        return entry

    def wait_until(self, condition: Callable[[], object], what: str) -> None:
        """Waits for something that the kernel does in microseconds."""
        for _ in range(2_000_000):
            if condition():
                return
            os.sched_yield()
        self.fail(f"never came: {what}")

    def test_signal(self) -> None:
        """A signal reaches the process that is meant."""
        child = self.start("")
        self.assertTrue(descendants.signal_process(self.entry(child.pid), signal.SIGKILL))
        self.assertEqual(child.wait(), -signal.SIGKILL)

    def test_signal_stranger(self) -> None:
        """A process of the same pid that started at another moment is not signalled."""
        child = self.start("")
        entry = self.entry(child.pid)
        entry.started -= 1
        self.assertFalse(descendants.signal_process(entry, signal.SIGKILL))
        self.assertIsNone(child.poll())

    def test_signal_nobody(self) -> None:
        """A process that has been reaped is no error."""
        child = self.start("")
        entry = self.entry(child.pid)
        child.kill()
        child.wait()
        self.assertFalse(descendants.signal_process(entry, signal.SIGKILL))

    def test_old_kernel(self) -> None:
        """Where a pid cannot be held by a descriptor, the signal is sent all the same."""

        def refuse(pid: int) -> int:
            raise OSError(38, "not implemented")

        self.patch(os, "pidfd_open", refuse)
        child = self.start("")
        self.assertTrue(descendants.signal_process(self.entry(child.pid), signal.SIGKILL))
        self.assertEqual(child.wait(), -signal.SIGKILL)

    def test_stopped(self) -> None:
        """A stopped process is told from a running one."""
        child = self.start("")
        self.assertFalse(descendants.is_stopped(child.pid))
        child.send_signal(signal.SIGSTOP)
        self.wait_until(lambda: descendants.is_stopped(child.pid), "the child stops")

    def test_session_with_grandchild(self) -> None:
        """A grandchild in a process group of its own goes with its session."""
        child = self.start(
            "reading, _ = os.pipe()\nif not os.fork():\n    os.setpgid(0, 0)\n    os.read(reading, 1)"
        )
        self.wait_until(lambda: len(descendants.session_members(child.pid)) == 2, "the grandchild shows")
        found = descendants.kill_session(child.pid)
        self.assertEqual({entry.session for entry in found}, {child.pid})
        self.assertEqual(len(found), 2)
        child.wait()
        self.wait_until(lambda: not descendants.session_members(child.pid), "all are gone")

    def test_first_thread_gone(self) -> None:
        """A process whose first thread has ended while another runs on looks like a zombie, and is killed."""
        child = self.start(
            "import ctypes, threading\n"
            "def after():\n"
            "    while open('/proc/self/stat').read().rpartition(')')[2].split()[0] != 'Z':\n"
            "        os.sched_yield()\n"
            "    os.write(1, b'!')\n"
            "    os.read(0, 1)\n"
            "threading.Thread(target=after).start()\n"
            "ctypes.CDLL(None).syscall(60 if os.uname().machine == 'x86_64' else 93, 0)"
        )
        entry = self.entry(child.pid)
        self.assertEqual((entry.state, entry.is_gone), ("Z", False))
        self.assertEqual([e.pid for e in descendants.kill_session(child.pid)], [child.pid])
        self.assertEqual(child.wait(), -signal.SIGKILL)

    def test_subreaper(self) -> None:
        """Orphans of a subreaper's children become its own, in whatever session they are."""
        folder = Path(descendants.__file__).parent
        program = (
            f"import sys\nsys.path.append({str(folder)!r})\nimport descendants\ndescendants.set_subreaper()\n"
            "reading, writing = os.pipe()\n"
            "middle = os.fork()\n"
            "if not middle:\n"
            "    if not os.fork():\n"
            "        os.setsid()\n"
            "        os.write(writing, b'%d' % os.getpid())\n"
            "        os.read(0, 1)\n"
            "    os._exit(0)\n"
            "orphan = int(os.read(reading, 20))\n"
            "os.waitpid(middle, 0)\n"
            "found = descendants.orphans(os.getpid(), {middle})\n"
            "os.kill(orphan, 9)\n"
            "os.waitpid(orphan, 0)\n"
            "os.write(1, b'yes' if [entry.pid for entry in found] == [orphan] else repr(found).encode())"
        )
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", f"import os\n{program}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            timeout=30,
            check=True,
        )
        self.assertEqual(done.stdout, b"yes")
