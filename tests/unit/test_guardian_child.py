"""Tests of the guardian's own program, on a /proc made of files and with a clock that is turned by hand."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from serverworker.processes import descendants, guardian_child
from serverworker.processes.descendants import ProcessEntry
from serverworker.processes.guardian_child import Watch, clear_up
from tests.unit.fake_proc import FakeProc


class WatchTests(TestCase):
    """What the guardian process understands, and whom it takes for its own."""

    def setUp(self) -> None:
        self.proc = FakeProc(Path(self.mktemp()))
        self.watch = Watch()

    def hear(self, *lines: bytes) -> None:
        for line in lines:
            self.watch.hear(line, self.proc.path)

    def left(self) -> set[int]:
        return {entry.pid for entry in self.watch.left(self.proc.path)}

    def test_lines(self) -> None:
        """Each kind of line is taken in; the last deadline counts."""
        self.hear(
            b"deadline 30.000000",
            b"mark A=b c",
            b"watch 10 100",
            b"watch 11 101",
            b"forget 10",
            b"deadline 2",
        )
        self.assertEqual(self.watch.deadline_seconds, 2.0)
        self.assertEqual(self.watch.mark, b"A=b c")
        self.assertEqual(self.watch.started, {11: 101})

    def test_nonsense(self) -> None:
        """What it does not understand changes nothing."""
        self.hear(b"watch 10 100")
        self.hear(
            b"",
            b"watch",
            b"watch 12",
            b"watch 1 2 3",
            b"watch x y",
            b"forget",
            b"deadline soon",
            b"\xff",
            b"new 1",
        )
        self.assertEqual(self.watch.started, {10: 100})
        self.assertEqual(self.watch.deadline_seconds, 0.0)

    def test_start_unknown(self) -> None:
        """Where the monitor could not read the start, the guardian does; nobody under that pid is nobody."""
        self.proc.add(10, session=3, started=77)
        self.hear(b"watch 10 0", b"watch 11 0")
        self.assertEqual(self.watch.started, {10: 77})

    def test_session(self) -> None:
        """A worker, its session, and its offspring in other sessions are its own; the dead and strangers are not."""
        self.proc.add(10, session=10)
        self.proc.add(11, session=10)
        self.proc.add(12, session=12, parent=11)
        self.proc.add(13, session=10, state="Z")
        self.proc.add(20, session=20)
        self.hear(b"watch 10 100")
        self.assertEqual(self.left(), {10, 11, 12})

    def test_reused(self) -> None:
        """A stranger who got a watched pid after its process was gone is left alone."""
        self.proc.add(10, session=10, started=500)
        self.hear(b"watch 10 100")
        self.assertEqual(self.left(), set())

    def test_mark(self) -> None:
        """What bears the mark is its own, told or not."""
        self.proc.add(30, session=30, environ=b"A=1\0S=abc\0")
        self.proc.add(31, session=31, environ=b"S=abcd\0")
        self.hear(b"mark S=abc")
        self.assertEqual(self.left(), {30})

    def test_not_itself(self) -> None:
        """The guardian never counts itself."""
        self.proc.add(os.getpid(), session=10, environ=b"S=abc\0")
        self.hear(b"mark S=abc")
        self.assertEqual(self.left(), set())

    def test_lines_of_a_pipe(self) -> None:
        """Lines arrive whole however they are cut; one that was not finished is dropped at the end."""
        reading, writing = os.pipe()
        self.addCleanup(os.close, reading)
        found = guardian_child.lines(reading)
        os.write(writing, b"one\ntw")
        self.assertEqual(next(found), b"one")
        os.write(writing, b"o\nthree\nfou")
        self.assertEqual([next(found), next(found)], [b"two", b"three"])
        os.close(writing)
        self.assertEqual(list(found), [])


class ClearUpTests(TestCase):
    """What the guardian does when the pipe has ended, and when."""

    def setUp(self) -> None:
        self.proc = FakeProc(Path(self.mktemp()))
        self.watch = Watch()
        self.watch.deadline_seconds = 5.0
        self.clock = Clock()
        self.signals: list[tuple[float, int, int]] = []
        self.looks: list[float] = []
        self.obeys = True

    def kill(self, entry: ProcessEntry, number: int) -> bool:
        self.signals.append((self.clock.seconds(), entry.pid, number))
        if number == signal.SIGKILL and self.obeys:
            self.proc.remove(entry.pid)
        if number == signal.SIGCONT:
            self.proc.add(entry.pid, session=entry.session, state="S")
        return True

    def sleep(self, seconds: float) -> None:
        self.looks.append(self.clock.seconds())
        self.clock.advance(seconds)

    def clear_up(self) -> list[ProcessEntry]:
        return clear_up(
            self.watch, proc=self.proc.path, kill=self.kill, now=self.clock.seconds, sleep=self.sleep
        )

    def add(self, pid: int, state: str = "S") -> None:
        self.proc.add(pid, session=pid, state=state)
        self.watch.hear(b"watch %d 100" % pid)

    def test_nobody(self) -> None:
        """With nobody to wait for it ends at once, after a second look."""
        self.assertEqual(self.clear_up(), [])
        self.assertEqual(self.signals, [])
        self.assertLess(self.clock.seconds(), 0.1)

    def test_drained(self) -> None:
        """It ends soon after the last one has, and signals nobody."""
        self.add(10)
        self.clock.callLater(1.0, self.proc.remove, 10)
        self.assertEqual(self.clear_up(), [])
        self.assertEqual(self.signals, [])
        self.assertLess(self.clock.seconds(), 2.0)

    def test_deadline(self) -> None:
        """What is left at the deadline is killed then: not before, and not a step later."""
        self.add(10)
        self.add(11)
        self.clear_up()
        self.assertEqual(sorted(pid for _, pid, _ in self.signals), [10, 11])
        self.assertEqual({number for _, _, number in self.signals}, {signal.SIGKILL})
        for at, _, _ in self.signals:
            self.assertAlmostEqual(at, 5.0)

    def test_no_patience(self) -> None:
        """A deadline of 0 kills at once, the stopped as well."""
        self.watch.deadline_seconds = 0.0
        self.add(10, state="T")
        self.clear_up()
        self.assertEqual(self.signals, [(0.0, 10, signal.SIGKILL)])

    def test_stopped(self) -> None:
        """A stopped one is woken at once, so that it can drain; the others are left to it."""
        self.add(10, state="T")
        self.add(11)
        self.clear_up()
        self.assertEqual(self.signals[0], (0.0, 10, signal.SIGCONT))
        self.assertEqual(len(self.signals), 3)

    def test_late_comer(self) -> None:
        """One that shows up after an empty look (it was being started) is waited for and killed as well."""
        self.clock.callLater(guardian_child.FIRST_STEP_SECONDS / 2, self.add, 10)
        self.clear_up()
        self.assertEqual([pid for _, pid, _ in self.signals], [10])

    def test_will_not_go(self) -> None:
        """One that not even SIGKILL ends is given up in the end, and named."""
        self.obeys = False
        self.add(10)
        self.assertEqual([entry.pid for entry in self.clear_up()], [10])
        self.assertApproximates(self.clock.seconds(), 5.0 + guardian_child.KILLING_SECONDS, 0.1)

    def test_few_looks(self) -> None:
        """A drain of 30 seconds costs few looks through /proc."""
        self.watch.deadline_seconds = 30.0
        self.add(10)
        self.clear_up()
        self.assertLess(len(self.looks), 150)

    def test_no_descriptors(self) -> None:
        """While /proc cannot be read it stays, and does its duty once it can."""
        real = descendants.processes

        def processes(proc: str) -> list[ProcessEntry]:
            if self.clock.seconds() < 7:
                raise OSError(24, "too many open files")
            return real(proc)

        self.patch(descendants, "processes", processes)
        self.add(10)
        self.clear_up()
        self.assertEqual([pid for _, pid, _ in self.signals], [10])
        self.assertGreaterEqual(self.signals[0][0], 7)
