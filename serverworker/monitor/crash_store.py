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

import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import attrs
from attrs import frozen

from serverworker.values.causes import Beat, Cause, CauseKind, RequestInFlight
from serverworker.values.errors import ErrorRecord, ServerWorkerError
from serverworker.values.event_json import utc
from serverworker.values.events import OutputLine, WorkerDied

SCHEMA = 1

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
        return json.dumps(self.as_dict(), indent=1) + "\n"

    def as_dict(self) -> dict[str, Any]:
        """The file's content."""
        content = attrs.asdict(self.death, value_serializer=_plain)
        for beat in content["beats"]:
            beat["at"] = utc(beat["at"])
        head = {
            "schema": SCHEMA,
            "at": utc(self.at),
            "sequence": self.sequence,
            "session_pid": self.session_pid,
        }
        return head | content

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
