"""Crash reports: what they say, and what happens when the disk does not take them. Real files, a fake clock."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from serverworker.monitor.crash_store import CrashReport, list_reports, load
from serverworker.observers.crash_reports import WAITING_REPORTS, CrashReports
from serverworker.values.causes import Beat, Cause, CauseKind, RequestInFlight
from serverworker.values.errors import ErrorRecord, ServerWorkerError
from serverworker.values.events import CrashReportWritten, Fault, Lifecycle, OutputLine, Told, WorkerDied

AT = 1795507637.123

DEATH = WorkerDied(
    worker=3,
    generation=2,
    pid=4711,
    life="serving",
    cause=Cause(
        kind=CauseKind.EXCEPTION,
        text="ValueError: no",
        error=ErrorRecord(type="builtins.ValueError", message="no", traceback="Traceback …"),
        exit_status=1,
    ),
    uptime_seconds=12.5,
    next_step="worker 4 takes over now",
    output=(OutputLine(source="worker 3", stream="stderr", text="last \x1b words \ud800 é"),),
    beats=(Beat(at=AT - 1, ok=False, seconds=0.5, text="500", failures=2),),
    requests=(RequestInFlight(method="GET", path="/x", age_seconds=1.5),),
    stacks="Thread 0x1\n",
    hung_at="app.py, line 3, render",
)

CONTENT = {
    "schema": 1,
    "at": "2026-11-24T08:07:17.123Z",
    "sequence": 5,
    "session_pid": 99,
    "worker": 3,
    "generation": 2,
    "pid": 4711,
    "life": "serving",
    "cause": {
        "kind": "exception",
        "text": "ValueError: no",
        "error": {"type": "builtins.ValueError", "message": "no", "traceback": "Traceback …"},
        "exit_status": 1,
        "signal": None,
    },
    "uptime_seconds": 12.5,
    "next_step": "worker 4 takes over now",
    "output": [{"source": "worker 3", "stream": "stderr", "text": "last \x1b words \ud800 é"}],
    "beats": [{"at": "2026-11-24T08:07:16.123Z", "ok": False, "seconds": 0.5, "text": "500", "failures": 2}],
    "requests": [{"method": "GET", "path": "/x", "age_seconds": 1.5}],
    "stacks": "Thread 0x1\n",
    "hung_at": "app.py, line 3, render",
}
"""What the documentation promises: a change here is a change for everybody who reads reports."""

moments = st.integers(0, 4_000_000_000_000).map(lambda milliseconds: milliseconds / 1000)
numbers = st.floats(0, 1e9)
causes = st.builds(
    Cause,
    kind=st.sampled_from(CauseKind),
    text=st.text(),
    error=st.none() | st.builds(ErrorRecord, type=st.text(), message=st.text(), traceback=st.text()),
    exit_status=st.none() | st.integers(0, 255),
    signal=st.none() | st.text(),
)
deaths = st.builds(
    WorkerDied,
    worker=st.integers(1),
    generation=st.integers(1),
    pid=st.none() | st.integers(1),
    life=st.text(),
    cause=causes,
    uptime_seconds=numbers,
    next_step=st.text(),
    output=st.lists(st.builds(OutputLine, source=st.text(), stream=st.text(), text=st.text())).map(tuple),
    beats=st.lists(
        st.builds(
            Beat, at=moments, ok=st.booleans(), seconds=numbers, text=st.text(), failures=st.integers(0)
        )
    ).map(tuple),
    requests=st.lists(st.builds(RequestInFlight, method=st.text(), path=st.text(), age_seconds=numbers)).map(
        tuple
    ),
    stacks=st.text(),
    hung_at=st.text(),
)


def report(death: WorkerDied = DEATH, at: float = AT, sequence: int = 5) -> CrashReport:
    return CrashReport(at=at, sequence=sequence, session_pid=99, death=death)


class FolderTestCase(SynchronousTestCase):
    """A test with a folder for reports, which is not there yet."""

    def setUp(self) -> None:
        above = Path(tempfile.mkdtemp(prefix="crashes"))
        self.addCleanup(shutil.rmtree, above)
        self.folder = above / "crashes"


class CrashReportTests(FolderTestCase):
    """What a report says."""

    def test_the_content_is_as_documented(self) -> None:
        """Key by key; and the text is ASCII, so that no terminal is hurt by reading it."""
        text = report().as_json()
        self.assertEqual(CONTENT, json.loads(text))
        self.assertEqual(list(CONTENT)[:4], list(json.loads(text))[:4])
        self.assertTrue(text.isascii())

    @settings(deadline=None, max_examples=50)
    @given(death=deaths, at=moments, sequence=st.integers(1))
    def test_what_is_written_is_what_is_read(self, death: WorkerDied, at: float, sequence: int) -> None:
        """Whatever the death was like, reading its report gives the same values again."""
        written = report(death, at, sequence)
        self.assertEqual(written, CrashReport.from_json(written.as_json()))

    def test_names_sort_by_time_and_are_never_the_same(self) -> None:
        """Two deaths in one millisecond differ in their sequence."""
        names = [
            report(at=at, sequence=sequence).file_name
            for at, sequence in ((AT, 9), (AT, 11), (AT + 0.001, 10), (AT + 100, 12), (AT + 1e8, 8))
        ]
        self.assertEqual("2026-11-24T08-07-17.123Z-worker3-9.json", names[0])
        self.assertEqual(5, len(set(names)))
        self.assertEqual(names[2:], sorted(names[2:]))
        self.assertLess(max(names[:2]), names[2])

    def test_only_whole_reports_are_listed(self) -> None:
        """Oldest first; neither what is half written nor other files; a missing folder has none."""
        self.assertEqual([], list_reports(self.folder))
        self.folder.mkdir()
        names = [report(at=AT + second).file_name for second in range(3)]
        for name in (*reversed(names), f".{names[0]}.part", "notes.txt", f"{names[0]}.bak"):
            (self.folder / name).touch()
        self.assertEqual([self.folder / name for name in names], list_reports(self.folder))

    def test_what_is_no_report_is_told_as_such(self) -> None:
        """Missing, not JSON, not an object, another schema, a key too few or too many: path and reason."""
        path = Path(self.mktemp())
        self.assertIn(
            f"{path} cannot be read: No such file", str(self.assertRaises(ServerWorkerError, load, path))
        )
        without = {key: value for key, value in CONTENT.items() if key != "life"}
        texts = ["", "[]", "{}", '{"schema": 2}', json.dumps(without), json.dumps(CONTENT | {"more": 1})]
        for text in texts:
            path.write_text(text)
            self.assertIn(f"{path} cannot be read", str(self.assertRaises(ServerWorkerError, load, path)))
        path.write_text('{"schema": 2}')
        self.assertIn("its schema is 2", str(self.assertRaises(ServerWorkerError, load, path)))


class CrashReportsTests(FolderTestCase):
    """The observer."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.told: list[CrashReportWritten | Fault] = []
        self.sequence = 0
        self.reports = self.make()

    def make(
        self, in_thread: Callable[[Callable[[], Path]], Deferred[Path]] = maybeDeferred, kept: int = 200
    ) -> CrashReports:
        return CrashReports(self.clock, self.folder, self.told.append, in_thread, session_pid=99, kept=kept)

    def die(self, worker: int = 3) -> None:
        """Tell the observer of a death, a second after the one before."""
        self.sequence += 1
        death = attrs.evolve(DEATH, worker=worker)
        self.reports(Told(sequence=self.sequence, at=AT + self.sequence, event=death))

    def full_disk(self) -> None:
        """Nothing can be written: where the folder should be there is a file."""
        self.folder.write_text("")

    def room_again(self) -> None:
        self.folder.unlink()

    def on_disk(self) -> list[int]:
        """The workers whose reports are on disk, oldest first."""
        return [load(path).death.worker for path in list_reports(self.folder)]

    def test_a_death_is_a_file_for_this_user_alone(self) -> None:
        """In a folder of mode 0700, with mode 0600; and its path is told."""
        self.die()
        (path,) = list_reports(self.folder)
        self.assertEqual([CrashReportWritten(worker=3, path=str(path))], self.told)
        self.assertEqual(report(at=AT + 1, sequence=1), load(path))
        self.assertEqual((0o700, 0o600), (self.folder.stat().st_mode & 0o777, path.stat().st_mode & 0o777))
        self.assertEqual([path], list(self.folder.iterdir()))

    def test_other_events_are_no_business_of_it(self) -> None:
        """Only a death makes a report."""
        self.reports(Told(sequence=1, at=AT, event=Lifecycle(worker=1, text="x")))
        self.assertFalse(self.folder.exists())

    def test_the_monitors_own_pid_stands_in_it(self) -> None:
        """Unless another one is given."""
        reports = CrashReports(self.clock, self.folder, self.told.append, maybeDeferred)
        reports(Told(sequence=1, at=AT, event=DEATH))
        self.assertNotEqual(99, load(list_reports(self.folder)[0]).session_pid)

    def test_nobody_waits_for_the_disk(self) -> None:
        """Telling a death returns at once; reports are written one after the other, in order."""
        jobs: list[tuple[Callable[[], Path], Deferred[Path]]] = []

        def later(job: Callable[[], Path]) -> Deferred[Path]:
            jobs.append((job, Deferred()))
            return jobs[-1][1]

        self.reports = self.make(later)
        self.die(1)
        self.die(2)
        self.assertEqual([], self.on_disk())
        for count in (1, 2):
            self.assertEqual(count, len(jobs))
            job, done = jobs[-1]
            done.callback(job())
        self.assertEqual([1, 2], self.on_disk())
        self.assertEqual(2, len(self.told))

    def test_the_oldest_go_when_there_are_too_many(self) -> None:
        """Disk space is bounded; what is no report of ours stays."""
        self.reports = self.make(kept=3)
        self.folder.mkdir(mode=0o700)
        (self.folder / "0000-notes").touch()
        for worker in range(1, 6):
            self.die(worker)
        self.assertEqual([3, 4, 5], self.on_disk())
        self.assertTrue((self.folder / "0000-notes").exists())

    def test_half_written_files_go_at_the_next_start(self) -> None:
        """What a killed monitor left behind is removed, and nothing else."""
        self.die()
        (self.folder / ".2026-11-24T08-07-17.123Z-worker3-1.json.part").touch()
        (self.folder / "other.part").touch()
        self.make()
        self.assertEqual(
            {list_reports(self.folder)[0].name, "other.part"}, {p.name for p in self.folder.iterdir()}
        )

    def test_a_report_that_cannot_be_written_is_told_kept_and_tried_again(self) -> None:
        """Told once, with what is done next; tried after 1, 2, 4 … seconds, up to a minute, for as long as it takes."""
        self.full_disk()
        self.die(1)
        self.die(2)
        (fault,) = self.told
        assert isinstance(fault, Fault)
        self.assertEqual("the report of worker 1's death", fault.where)
        self.assertIn("no directory", fault.error.message)
        self.assertEqual("it is kept in memory and tried again in 1 s, then ever less often", fault.next_step)
        for delay in (1, 2, 4, 8, 16, 32, 60, 60, 60):
            self.assertEqual([delay], [call.getTime() - self.clock.seconds() for call in self.clock.calls])
            self.clock.advance(delay)
        self.assertEqual(1, len(self.told))
        self.room_again()
        self.clock.advance(60)
        self.assertEqual([1, 2], self.on_disk())
        written = [event.worker for event in self.told if isinstance(event, CrashReportWritten)]
        self.assertEqual([1, 2], written)
        self.assertEqual([], self.clock.calls)

    def test_the_next_outage_is_told_anew(self) -> None:
        """And begins with a short delay again."""
        for _ in range(2):
            self.full_disk()
            self.die()
            self.room_again()
            self.clock.advance(1)
            shutil.rmtree(self.folder)
        self.assertEqual([Fault, CrashReportWritten] * 2, [type(event) for event in self.told])

    def test_memory_is_bounded(self) -> None:
        """Past the bound the oldest one is given up: told, with its content in the log."""
        self.full_disk()
        for worker in range(1, WAITING_REPORTS + 1):
            self.die(worker)
        self.assertEqual(1, len(self.told))
        with capturedLogs() as logged:
            self.die(WAITING_REPORTS + 1)
        (entry,) = logged
        text = formatEvent(entry)
        self.assertIn("the report of worker 1's death is given up (32 younger ones wait for the disk)", text)
        self.assertEqual(1, json.loads(entry["report"])["worker"])
        fault = self.told[-1]
        assert isinstance(fault, Fault)
        self.assertEqual("it is given up; the log has its content", fault.next_step)
        self.room_again()
        self.clock.advance(1)
        self.assertEqual(list(range(2, WAITING_REPORTS + 2)), self.on_disk())

    def test_draining_is_done_at_once_where_nothing_waits(self) -> None:
        """At the end of most sessions."""
        self.die()
        self.assertIsNone(self.successResultOf(self.reports.drain()))

    def test_draining_writes_what_waits_without_a_delay(self) -> None:
        """The disk gets one more chance for each report."""
        self.full_disk()
        self.die(1)
        self.die(2)
        self.room_again()
        self.successResultOf(self.reports.drain())
        self.assertEqual([1, 2], self.on_disk())
        self.assertEqual([], self.clock.calls)

    def test_draining_sends_what_the_disk_does_not_take_to_the_log(self) -> None:
        """No death is without its report somewhere, and the session does not wait."""
        self.full_disk()
        self.die(1)
        self.die(2)
        with capturedLogs() as logged:
            self.successResultOf(self.reports.drain())
            self.die(3)
        self.assertEqual([1, 2, 3], [json.loads(entry["report"])["worker"] for entry in logged])
        self.assertEqual([], self.clock.calls)

    def test_draining_waits_for_the_one_being_written(self) -> None:
        """And for those behind it."""
        jobs: list[Deferred[Path]] = []

        def later(job: Callable[[], Path]) -> Deferred[Path]:
            jobs.append(Deferred())
            return jobs[-1]

        self.reports = self.make(later)
        self.die(1)
        self.die(2)
        drained = self.reports.drain()
        jobs[0].callback(Path("x"))
        self.assertNoResult(drained)
        jobs[1].callback(Path("y"))
        self.successResultOf(drained)

    def test_a_disk_that_hangs_does_not_hold_the_end(self) -> None:
        """Cancelling, as a deadline does, logs all that waits; an answer that comes after all is no error."""
        hanging: Deferred[Path] = Deferred()
        self.reports = self.make(lambda job: hanging)
        self.die(1)
        self.die(2)
        drained = self.reports.drain()
        with capturedLogs() as logged:
            drained.cancel()
        self.failureResultOf(drained, CancelledError)
        self.assertEqual([1, 2], [json.loads(entry["report"])["worker"] for entry in logged])
        hanging.errback(OSError("after all"))
        self.successResultOf(hanging)
        self.assertEqual([Fault] * 2, [type(event) for event in self.told])

    def test_a_listener_that_fails_harms_nothing(self) -> None:
        """The next report is written all the same."""

        def broken(event: object) -> None:
            raise RuntimeError("no")

        self.reports = CrashReports(self.clock, self.folder, broken, maybeDeferred)
        self.die(1)
        self.die(2)
        self.assertEqual([1, 2], self.on_disk())
        self.assertEqual(2, len(self.flushLoggedErrors(RuntimeError)))
