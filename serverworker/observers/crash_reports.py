"""Crash reports: for each death that nobody asked for one JSON file, which is there as a whole or not at all.

A file is one object. `load` reads it; a change that an old reader would misread raises ``schema``::

    schema          1
    at              when the death was told, ISO 8601, UTC, milliseconds
    sequence        the number of the event in its session
    session_pid     process id of the monitor
    worker, generation, pid         numbers; pid is null where no process could be started
    life            what it was at: starting, loaded, activating, ready, serving, draining
    cause           {kind, text, error: null or {type, message, traceback}, exit_status, signal}
    uptime_seconds
    next_step       what the monitor did about it
    output          its last lines, oldest first: [{source, stream, text}]
    beats           its last heartbeats: [{at, ok, seconds, text, failures}]
    requests        what it was at: [{method, path, age_seconds}]
    stacks          every thread's stack, where it was dumped; else empty
    hung_at         file, line and function of a hang; else empty
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections import deque
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import attrs
from attrs import frozen
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from serverworker.observers.log_format import utc
from serverworker.processes.state_directory import PART_SUFFIX, own_folder, write_whole
from serverworker.values.errors import ErrorRecord, ServerWorkerError
from serverworker.values.events import (
    Beat,
    Cause,
    CauseKind,
    CrashReportWritten,
    Fault,
    OutputLine,
    RequestInFlight,
    Told,
    WorkerDied,
)

SCHEMA = 1
KEPT_REPORTS = 200
"""So many files are kept; the oldest go."""
WAITING_REPORTS = 32
"""So many are kept in memory while they cannot be written: at half a MiB each, at most 16 MiB."""
LONGEST_DELAY_SECONDS = 60.0
"""Between two attempts at writing. The first comes after a second, each after twice the delay before."""

_NAME = re.compile(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d\.\d{3}Z-worker\d+-\d+\.json")


@frozen(kw_only=True)
class CrashReport:
    """A death, and where it stands in its session."""

    at: float
    """Seconds since the epoch."""
    sequence: int
    session_pid: int
    death: WorkerDied

    @property
    def file_name(self) -> str:
        """Sorts by time, and is no other report's: the sequence is unique in a session."""
        return f"{utc(self.at).replace(':', '-')}-worker{self.death.worker}-{self.sequence}.json"

    def as_json(self) -> str:
        """The file's text."""
        content = attrs.asdict(self.death, value_serializer=_plain)
        for beat in content["beats"]:
            beat["at"] = utc(beat["at"])
        head = {
            "schema": SCHEMA,
            "at": utc(self.at),
            "sequence": self.sequence,
            "session_pid": self.session_pid,
        }
        return json.dumps(head | content, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> CrashReport:
        """The report again. Raises ValueError, KeyError or TypeError where the text is no report."""
        content: dict[str, Any] = json.loads(text)
        if (schema := content.pop("schema")) != SCHEMA:
            raise ValueError(f"its schema is {schema}, and this version reads {SCHEMA}")
        at, sequence, session_pid = (content.pop(key) for key in ("at", "sequence", "session_pid"))
        cause = content.pop("cause")
        error = cause.pop("error")
        death = WorkerDied(
            cause=Cause(
                kind=CauseKind(cause.pop("kind")), error=ErrorRecord(**error) if error else None, **cause
            ),
            output=tuple(OutputLine(**line) for line in content.pop("output")),
            beats=tuple(Beat(at=_seconds(beat.pop("at")), **beat) for beat in content.pop("beats")),
            requests=tuple(RequestInFlight(**request) for request in content.pop("requests")),
            **content,
        )
        return cls(at=_seconds(at), sequence=sequence, session_pid=session_pid, death=death)


def _plain(instance: Any, attribute: Any, value: Any) -> Any:
    return value.value if isinstance(value, CauseKind) else value


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def list_reports(directory: Path) -> list[Path]:
    """The reports in a folder, oldest first; none where there is no such folder."""
    try:
        return sorted(path for path in directory.iterdir() if _NAME.fullmatch(path.name))
    except FileNotFoundError:
        return []


def load(path: Path) -> CrashReport:
    """Read a report.

    Raises:
        ServerWorkerError: it is not there, or is no report; the text says which and why.
    """
    try:
        return CrashReport.from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(ErrorRecord.from_exception(error))
        raise ServerWorkerError(f"the crash report {path} cannot be read: {reason}") from error


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
