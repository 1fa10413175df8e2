"""Crash reports and the state directory under `kill -9`, with real processes, disks and threads."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any, cast

from attrs import evolve
from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock, deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.trial.unittest import TestCase

from serverworker.monitor.crash_store import list_reports, load
from serverworker.observers.crash_reports import CrashReports
from serverworker.processes.state_directory import StateDirectory, StateDirectoryInUse
from serverworker.values.causes import Cause, CauseKind
from serverworker.values.events import CrashReportWritten, Fault, OutputLine, Told, WorkerDied

KILLS = 20
ROOT = Path(__file__).resolve().parents[2]

DEATH = WorkerDied(
    worker=1,
    generation=1,
    pid=1,
    life="serving",
    cause=Cause(kind=CauseKind.SIGNAL, text="killed by SIGKILL", signal="SIGKILL"),
    uptime_seconds=1.0,
    next_step="worker 2 takes over now",
    output=tuple(OutputLine(source="worker 1", stream="stdout", text="x" * 1000) for _ in range(200)),
)
"""A death whose report has 200 kB, so that writing it takes a while."""


def write_for_ever(folder: Path, session: int) -> None:
    """Write reports until somebody ends this."""
    reports = CrashReports(
        Clock(), folder, lambda event: None, maybeDeferred, session_pid=session, kept=10_000
    )
    sequence = 0
    while True:
        sequence += 1
        reports(Told(sequence=sequence, at=time.time(), event=evolve(DEATH, worker=sequence)))


def kill_writers(folder: Path, seed: int) -> None:
    """Fork one writer after the other, and kill each at a random moment. Runs in a process of its own."""
    chance = random.Random(seed)  # noqa: S311 - moments, not secrets
    for session in range(1, KILLS + 1):
        pid = os.fork()
        if pid == 0:
            try:
                write_for_ever(folder, session)
            finally:
                os._exit(1)
        time.sleep(chance.uniform(0.001, 0.06))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, "a writer ended by itself"


def python(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    """A Python of ours that finds the package and this module."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.Popen([sys.executable, "-c", *arguments], env=environment, text=True, **options)


class DiskTestCase(TestCase):
    """A test with a folder."""

    timeout = 60

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="crashes"))
        self.addCleanup(shutil.rmtree, self.folder)


class KillTests(DiskTestCase):
    """A monitor that is killed while it writes."""

    def test_every_report_is_whole_or_not_there(self) -> None:
        """Twenty writers are killed at random moments: what is there reads as what was written, to the last line."""
        seed = random.SystemRandom().randrange(1_000_000)
        program = f"import sys; from pathlib import Path; from {__name__} import kill_writers as run; "
        with python(
            program + "run(Path(sys.argv[1]), int(sys.argv[2]))", str(self.folder), str(seed)
        ) as killer:
            self.assertEqual(0, killer.wait(50), f"seed {seed}")
        paths = list_reports(self.folder)
        sessions: dict[int, list[int]] = {}
        for path in paths:
            report = load(path)
            self.assertEqual(evolve(DEATH, worker=report.sequence), report.death, f"seed {seed}, {path}")
            self.assertEqual(report.file_name, path.name)
            sessions.setdefault(report.session_pid, []).append(report.sequence)
        # Writing is in order and ends with the kill, so each session's reports have no gap.
        self.assertEqual(
            {session: list(range(1, len(numbers) + 1)) for session, numbers in sessions.items()},
            {session: sorted(numbers) for session, numbers in sessions.items()},
        )
        self.assertGreater(len(paths), 0)
        CrashReports(Clock(), self.folder, lambda event: None, maybeDeferred)
        self.assertEqual({path.name for path in paths}, {path.name for path in self.folder.iterdir()})

    def test_a_killed_session_lets_go_of_its_state_directory(self) -> None:
        """Its lock ends with the process; while it lives the refusal names its pid, whatever children it has."""
        program = (
            "import subprocess, sys; from pathlib import Path; "
            "from serverworker.processes.state_directory import StateDirectory; "
            "held = StateDirectory.open(Path(sys.argv[1])); "
            "child = subprocess.Popen(['sleep', '60'], close_fds=False); "
            "print(child.pid, flush=True); sys.stdin.read()"
        )
        pipe = subprocess.PIPE
        with python(program, str(self.folder), stdin=pipe, stdout=pipe) as session:
            assert session.stdout is not None
            self.addCleanup(os.kill, int(session.stdout.readline()), signal.SIGKILL)
            error = self.assertRaises(StateDirectoryInUse, StateDirectory.open, self.folder)
            self.assertEqual(session.pid, error.pid)
            session.kill()
        StateDirectory.open(self.folder).close()


class ThreadTests(DiskTestCase):
    """With the reactor's own threads."""

    def setUp(self) -> Deferred[None]:  # type: ignore[override]  # trial waits for it
        super().setUp()
        return deferLater(cast(Any, reactor), 0)

    async def test_the_reactor_turns_while_the_disk_takes_its_time(self) -> None:
        """A report is written in a thread; what came of it is told in the reactor's own."""
        told: list[tuple[CrashReportWritten | Fault, bool]] = []
        main = threading.get_ident()
        gate = threading.Event()

        def slow(job: Any) -> Path:
            self.assertNotEqual(main, threading.get_ident())
            self.assertTrue(gate.wait(30))
            return cast(Path, job())

        threads = cast(Any, reactor)
        reports = CrashReports(
            threads,
            self.folder,
            lambda event: told.append((event, threading.get_ident() == main)),
            lambda job: deferToThreadPool(threads, threads.getThreadPool(), partial(slow, job)),
        )
        reports(Told(sequence=1, at=time.time(), event=DEATH))
        reports(Told(sequence=2, at=time.time(), event=DEATH))
        drained = reports.drain()
        await deferLater(threads, 0.05)
        self.assertEqual(([], []), (told, list_reports(self.folder)))
        gate.set()
        await drained
        self.assertEqual(
            [True, True], [isinstance(event, CrashReportWritten) and here for event, here in told]
        )
        self.assertEqual([1, 2], [load(path).sequence for path in list_reports(self.folder)])
