"""Writes a crash report (`crash_store`) for each death that nobody asked for."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from serverworker.monitor.crash_store import CrashReport, list_reports
from serverworker.processes.state_directory import PART_SUFFIX, own_folder, write_whole
from serverworker.values.errors import ErrorRecord
from serverworker.values.events import CrashReportWritten, Fault, Told, WorkerDied

KEPT_REPORTS = 200
"""So many files are kept; the oldest go."""
WAITING_REPORTS = 32
"""So many are kept in memory while they cannot be written: at half a MiB each, at most 16 MiB."""
LONGEST_DELAY_SECONDS = 60.0
"""Between two attempts at writing. The first comes after a second, each after twice the delay before."""


class CrashReports:
    """The observer that writes a report of each `WorkerDied`.

    Writing waits for the disk, so it happens in a thread, one report at a time and in order: neither a restart
    nor any other event waits for it. A report that cannot be written (a full disk) is told as a `Fault`, kept in
    memory and tried again, ever less often, for as long as the session lives; only where too many wait, or the
    session ends, is one given up, and then its content goes to the log.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        directory: Path,
        told_back: Callable[[CrashReportWritten | Fault], None],
        in_thread: Callable[[Callable[[], Path]], Deferred[Path]],
        *,
        session_pid: int | None = None,
        kept: int = KEPT_REPORTS,
    ) -> None:
        """Take over a folder of reports; what a killed session had half written there is removed.

        Args:
            clock: for the delays between attempts.
            directory: of the reports; made when the first one is written.
            told_back: is told what came of each report, in the reactor's thread.
            in_thread: runs a function outside the reactor's thread, as `deferToThreadPool` does.
            session_pid: of the monitor; None: this process.
            kept: how many reports stay on disk.
        """
        self._clock = clock
        self._directory = directory
        self._told_back = told_back
        self._in_thread = in_thread
        self._session_pid = os.getpid() if session_pid is None else session_pid
        self._kept = kept
        self._waiting: deque[CrashReport] = deque()
        self._writing: CrashReport | None = None
        self._failures = 0
        self._retry: IDelayedCall | None = None
        self._draining = False
        self._drained: list[Deferred[None]] = []
        with contextlib.suppress(OSError):
            for leftover in directory.glob(f".*{PART_SUFFIX}"):
                leftover.unlink()

    def __call__(self, told: Told) -> None:
        """Note a death, and return at once."""
        if isinstance(told.event, WorkerDied):
            self._waiting.append(
                CrashReport(
                    at=told.at, sequence=told.sequence, session_pid=self._session_pid, death=told.event
                )
            )
            if len(self._waiting) > WAITING_REPORTS:
                self._give_up(self._waiting.popleft(), f"{WAITING_REPORTS} younger ones wait for the disk")
            self._go_on()

    def drain(self) -> Deferred[None]:
        """Fires when nothing waits any more: what the disk does not take at one more attempt goes to the log.

        Cancelling it, as `addTimeout` does, sends everything that is still waiting to the log.
        """
        self._draining = True
        drained: Deferred[None] = Deferred(self._stop_waiting)
        self._drained.append(drained)
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self._go_on()
        return drained

    def _go_on(self) -> None:
        """Write the next report, unless one is being written or the disk is to be left alone for now."""
        if self._writing is not None or self._retry is not None:
            return
        if self._waiting:
            self._writing = report = self._waiting.popleft()
            written = maybeDeferred(self._in_thread, partial(_write, self._directory, report, self._kept))
            written.addCallbacks(self._written, self._failed)
            return
        drained, self._drained = self._drained, []
        for each in drained:
            each.callback(None)

    def _written(self, path: Path) -> None:
        report, self._writing = self._writing, None
        self._failures = 0
        if report is not None:
            self._tell(CrashReportWritten(worker=report.death.worker, path=str(path)))
        self._go_on()

    def _failed(self, failure: Failure) -> None:
        report, self._writing = self._writing, None
        if report is None:  # given up while the disk was thinking
            return
        assert failure.value is not None
        error = ErrorRecord.from_exception(failure.value)
        if self._draining:
            self._give_up(report, str(error))
            self._go_on()
            return
        delay = min(2.0**self._failures, LONGEST_DELAY_SECONDS)
        self._failures += 1
        self._waiting.appendleft(report)
        self._retry = self._clock.callLater(delay, self._try_again)
        if self._failures == 1:  # once for each time that the disk fails, not for each attempt
            next_step = f"it is kept in memory and tried again in {delay:g} s, then ever less often"
            self._tell(Fault(where=_where(report), error=error, next_step=next_step))

    def _try_again(self) -> None:
        self._retry = None
        self._go_on()

    def _give_up(self, report: CrashReport, reason: str) -> None:
        self._log.error(
            "the report of worker {worker}'s death is given up ({reason}); it would have said:\n{report}",
            worker=report.death.worker,
            reason=reason,
            report=report.as_json(),
        )
        error = ErrorRecord(type="serverworker.CrashReportLost", message=reason)
        self._tell(
            Fault(where=_where(report), error=error, next_step="it is given up; the log has its content")
        )

    def _stop_waiting(self, drained: Deferred[None]) -> None:
        self._drained.remove(drained)
        unfinished = [self._writing] if self._writing is not None else []
        self._writing = None
        for report in (*unfinished, *self._waiting):
            self._give_up(report, "the session ended before it was written")
        self._waiting.clear()

    def _tell(self, event: CrashReportWritten | Fault) -> None:
        with self._log.failuresHandled("what came of a crash report could not be told: {event}", event=event):
            self._told_back(event)


def _where(report: CrashReport) -> str:
    return f"the report of worker {report.death.worker}'s death"


def _write(directory: Path, report: CrashReport, kept: int) -> Path:
    """In a thread: write the report, then remove the oldest ones that are too many."""
    own_folder(directory)
    path = directory / report.file_name
    write_whole(path, report.as_json().encode())
    with contextlib.suppress(OSError):  # the report is there: that is what counts
        for old in list_reports(directory)[:-kept]:
            old.unlink()
    return path
