"""Every event on disk: in order, in files of bounded size, without anybody waiting for the disk."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, execute
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from serverworker.monitor.journal_files import read_journal
from serverworker.observers.journal import Journal, for_audit, line_of
from serverworker.observers.journal_file import JournalFile
from serverworker.values import causes, events
from serverworker.values.errors import ConfigurationError
from serverworker.values.events import Event, Told

NOON = 1_795_521_600.0
DAY = 86_400.0
FULL = OSError(28, "No space left on device")


class FileTests(SynchronousTestCase):
    """`JournalFile`."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir(mode=0o700)
        self.now = NOON
        self.file = self.make()

    def make(self, **options: Any) -> JournalFile:
        values = {"max_bytes": 1000, "max_seconds": 10 * DAY, "files": 3, **options}
        return JournalFile(path=self.folder / "journal.jsonl", wall_clock=lambda: self.now, **values)

    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())

    def content(self, number: int = 0) -> bytes:
        return (self.folder / (f"journal.jsonl.{number}" if number else "journal.jsonl")).read_bytes()

    def test_mode(self) -> None:
        """Nobody else may read it, whatever the umask, and whoever wrote it first."""
        self.addCleanup(os.umask, os.umask(0o777))
        self.file.append(b"one\n")
        self.assertEqual(stat.S_IMODE((self.folder / "journal.jsonl").stat().st_mode), 0o600)

    def test_half_a_line(self) -> None:
        """What a killed session left half written is ended, so that the next line is whole."""
        (self.folder / "journal.jsonl").write_bytes(b"one\ntw")
        self.file.append(b"three\n")
        self.file.append(b"four\n")
        self.assertEqual(self.content(), b"one\ntw\nthree\nfour\n")

    def test_size(self) -> None:
        """A file that would grow too large is closed first; of closed ones the newest are kept."""
        for number in range(6):
            self.file.append(b"%d" % number * 599 + b"\n")
        self.assertEqual(self.names(), [f"journal.jsonl{each}" for each in ("", ".1", ".2", ".3")])
        self.assertEqual([self.content(number)[:1] for number in range(4)], [b"5", b"4", b"3", b"2"])

    def test_large(self) -> None:
        """More than a file's size at once is written all the same, to one of its own."""
        self.file.append(b"one\n")
        self.file.append(b"2" * 5000 + b"\n")
        self.file.append(b"three\n")
        self.assertEqual((self.content(), self.content(2)), (b"three\n", b"one\n"))

    def test_no_closed_files(self) -> None:
        """Where none are to be kept, a new file takes the old one's place."""
        file = self.make(files=0)
        file.append(b"1" * 900 + b"\n")
        file.append(b"2" * 900 + b"\n")
        self.assertEqual((self.names(), self.content()[:1]), (["journal.jsonl"], b"2"))

    def test_age(self) -> None:
        """A file whose first event is old is closed; a closed one whose last event is old is removed."""
        path = self.folder / "journal.jsonl"
        self.file.append(line_of("s", Told(sequence=1, at=NOON, event=events.PollingChanged(seconds=3))))
        self.now += 9 * DAY
        self.file.append(b"later\n")
        os.utime(path, (self.now, self.now))
        self.assertEqual(self.names(), ["journal.jsonl"])
        self.now += 2 * DAY
        self.file.append(b"new\n")
        os.utime(path, (self.now, self.now))
        self.assertEqual(self.names(), ["journal.jsonl", "journal.jsonl.1"])
        self.now += 9 * DAY
        self.file.append(b"newer\n")
        self.assertEqual(self.names(), ["journal.jsonl"])

    def test_fewer(self) -> None:
        """After a change of the configuration those that are too many go."""
        for number in range(6):
            self.file.append(b"%d" % number * 599 + b"\n")
        self.make(files=1).append(b"x\n")
        self.assertEqual(self.names(), ["journal.jsonl", "journal.jsonl.1"])

    def test_removed(self) -> None:
        """A file, or a folder, that is removed meanwhile is made anew."""
        self.file.append(b"one\n")
        (self.folder / "journal.jsonl").unlink()
        self.folder.rmdir()
        self.file.append(b"two\n")
        self.assertEqual(self.content(), b"two\n")

    def test_full(self) -> None:
        """A disk that takes a part only is left without it: no line is there twice when it is tried again."""
        self.file.append(b"one\n")
        write = os.write
        calls: list[int] = []

        def half(descriptor: int, data: Any) -> int:
            calls.append(len(data))
            if len(calls) > 1:
                raise FULL
            return write(descriptor, data[:5])

        self.patch(os, "write", half)
        self.assertRaises(OSError, self.file.append, b"two, and more\n")
        self.assertEqual(self.content(), b"one\n")
        self.patch(os, "write", write)
        self.file.append(b"two\n")
        self.assertEqual(self.content(), b"one\ntwo\n")

    def test_link(self) -> None:
        """It never writes through a link that somebody has put there."""
        (self.folder / "elsewhere").write_text("")
        (self.folder / "journal.jsonl").symlink_to(self.folder / "elsewhere")
        self.assertRaises(OSError, self.file.append, b"one\n")
        self.folder.chmod(0o777)
        self.assertRaises(ConfigurationError, self.file.append, b"one\n")


class Disk:
    """Runs what is to run in a thread: at once, or when the test says so."""

    def __init__(self) -> None:
        self.slow = False
        self.error: Exception | None = None
        self.waiting: list[tuple[Callable[[], Any], Deferred[Any]]] = []
        self.calls = 0

    def in_thread(self, call: Callable[[], Any]) -> Deferred[Any]:
        self.calls += 1
        if not self.slow:
            return execute(self._run, call)
        done: Deferred[Any] = Deferred()
        self.waiting.append((call, done))
        return done

    def _run(self, call: Callable[[], Any]) -> Any:
        if self.error is not None:
            raise self.error
        return call()

    def turn(self) -> None:
        """What waits is done, and what comes of that waits anew."""
        waiting, self.waiting = self.waiting, []
        for call, done in waiting:
            try:
                done.callback(self._run(call))
            except Exception:
                done.errback(Failure())


class JournalTests(SynchronousTestCase):
    """`Journal`."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir(mode=0o700)
        self.clock = Clock()
        self.disk = Disk()
        self.back: list[Event] = []
        self.sequence = 0
        self.journal = self.make()

    def make(self, name: str = "journal.jsonl", **options: Any) -> Journal:
        file = JournalFile(
            path=self.folder / name, max_bytes=2**20, max_seconds=DAY, files=1, wall_clock=lambda: NOON
        )
        return Journal(
            self.clock, file, self.back.append, self.disk.in_thread, session="s", waiting=3, **options
        )

    def tell(self, event: Event | str, journal: Journal | None = None) -> None:
        if isinstance(event, str):
            event = events.Lifecycle(worker=1, text=event)
        self.sequence += 1
        (journal or self.journal)(Told(sequence=self.sequence, at=NOON, event=event))

    def texts(self) -> list[str]:
        return [each["fields"]["text"] for each in read_journal(self.folder)]

    def test_written(self) -> None:
        """Each event is there, but for output and heartbeats."""
        self.tell("one")
        self.tell(events.OutputLine(source="worker 1", stream="stdout", text="printed"))
        self.tell(events.Heartbeat(worker=1, beat=causes.Beat(at=1, ok=True, seconds=1, text="200")))
        self.tell("two")
        self.assertEqual(self.texts(), ["one", "two"])
        self.assertEqual([each["session"] for each in read_journal(self.folder)], ["s", "s"])
        self.assertEqual((self.back, self.clock.getDelayedCalls()), ([], []))

    def test_batches(self) -> None:
        """What comes while it writes is written at once afterwards, in order."""
        self.disk.slow = True
        for text in ("one", "two", "three"):
            self.tell(text)
        self.disk.turn()
        self.assertEqual(self.texts(), ["one"])
        self.disk.turn()
        self.assertEqual((self.texts(), self.disk.calls), (["one", "two", "three"], 2))

    def test_death(self) -> None:
        """A death is there without what its crash report has: output, heartbeats and stacks."""
        line = events.OutputLine(source="worker 1", stream="stdout", text="printed")
        self.tell(
            events.WorkerDied(
                worker=1,
                generation=1,
                pid=9,
                life="serving",
                cause=causes.Cause(kind=causes.CauseKind.HANG, text="no answer"),
                uptime_seconds=1.0,
                next_step="",
                output=(line,),
                stacks="Thread 1",
                hung_at="a.py, line 3, f",
            )
        )
        (event,) = read_journal(self.folder)
        self.assertEqual((event["fields"]["output"], event["fields"]["stacks"]), ([], ""))
        self.assertEqual(event["fields"]["hung_at"], "a.py, line 3, f")

    def test_long_text(self) -> None:
        """A long text is cut in its middle: its beginning and its end tell the most."""
        self.tell(f"begin{'x' * 100_000}end")
        (text,) = self.texts()
        self.assertTrue(text.startswith("beginx") and text.endswith("xend"), text[:20])
        self.assertIn(" … (91816 characters are left out) … ", text)

    def test_any_text(self) -> None:
        """Half a character, as the name of a file may have, is no reason to lose an event."""
        self.tell("caf\udce9")
        self.assertEqual(self.texts(), ["caf\udce9"])

    def test_full(self) -> None:
        """A full disk is told once; it is tried again ever less often; nothing that fits into memory is missing."""
        self.disk.error = FULL
        self.tell("one")
        self.tell("two")
        (fault,) = self.back
        assert isinstance(fault, events.Fault)
        self.assertEqual(fault.where, str(self.folder / "journal.jsonl"))
        self.assertIn("No space left", fault.error.message)
        self.assertIn("tried again in 1 s", fault.next_step)
        self.clock.pump([1, 2, 4])
        self.assertEqual((self.disk.calls, len(self.back)), (4, 1))
        self.disk.error = None
        self.clock.advance(8)
        self.assertEqual(self.texts(), ["one", "two"])
        self.assertEqual(
            self.back[1:], [events.JournalResumed(path=str(self.folder / "journal.jsonl"), missing=0)]
        )

    def test_longest_delay(self) -> None:
        """It is tried at least once a minute."""
        self.disk.error = FULL
        self.tell("one")
        self.clock.pump([61] * 20)
        before = self.disk.calls
        self.clock.advance(60)
        self.assertEqual(self.disk.calls, before + 1)

    def test_dropped(self) -> None:
        """Of more than memory is to hold the oldest go, and when all is well again it is said how many."""
        self.disk.error = FULL
        for number in range(5):
            self.tell(str(number))
        self.assertEqual(self.journal.dropped, 2)
        self.disk.error = None
        self.clock.advance(1)
        self.assertEqual(self.texts(), ["2", "3", "4"])
        self.assertEqual(
            self.back[1:], [events.JournalResumed(path=str(self.folder / "journal.jsonl"), missing=2)]
        )

    def test_dropped_while_writing(self) -> None:
        """What is being written just now is not dropped, and not written twice."""
        self.disk.slow = True
        for number in range(6):
            self.tell(str(number))
        self.assertEqual(self.journal.dropped, 2)
        self.disk.turn()
        self.disk.turn()
        self.assertEqual(self.texts(), ["0", "3", "4", "5"])

    def test_drain(self) -> None:
        """At the end all that waits is written."""
        self.disk.slow = True
        self.tell("one")
        self.tell("two")
        drained = self.journal.drain()
        self.disk.turn()
        self.assertNoResult(drained)
        self.disk.turn()
        self.successResultOf(drained)
        self.assertEqual(self.texts(), ["one", "two"])

    def test_drain_of_nothing(self) -> None:
        """There may be nothing to write."""
        self.successResultOf(self.journal.drain())

    def test_drain_with_a_full_disk(self) -> None:
        """A disk that does not take it at one more attempt is not waited for; how many are missing is logged."""
        self.disk.error = FULL
        self.tell("one")
        self.successResultOf(self.journal.drain())
        self.assertEqual((self.journal.dropped, self.clock.getDelayedCalls()), (1, []))

    def test_drain_too_slow(self) -> None:
        """Whoever waits for it may give up; what the thread still does harms nothing."""
        self.disk.slow = True
        self.tell("one")
        drained = self.journal.drain()
        drained.cancel()
        self.failureResultOf(drained)
        self.assertEqual(self.journal.dropped, 1)
        self.disk.turn()
        self.assertEqual(self.disk.waiting, [])

    def test_audit(self) -> None:
        """The audit log has what operators did and who did not get in, and nothing else."""
        audit = self.make("audit.jsonl", wants=for_audit)
        action = events.OperatorAction(
            who="the console", surface="console", action="exit", ok=True, outcome="done"
        )
        failed = events.LoginFailed(origin="192.0.2.7", surface="control", text="a wrong key", failures=1)
        for event in (action, events.Lifecycle(worker=1, text=""), failed):
            self.tell(event, audit)
        kinds = [each["event"] for each in read_journal(self.folder, name="audit.jsonl")]
        self.assertEqual(kinds, ["OperatorAction", "LoginFailed"])
