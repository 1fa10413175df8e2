"""The journal on disk, as it is read: every event of this session and of those before it, newest files first.

``journal.jsonl`` in the state directory is the file that is written; ``journal.jsonl.1`` is the one before it, and so
on. Each line is an event as `event_json` has it, with a key more: ``session``, which tells one session's numbers from
another's. ``audit.jsonl`` holds what operators did, in the same form.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from serverworker.values.event_json import utc
from serverworker.values.events import PreviousSession

JOURNAL_NAME = "journal.jsonl"
AUDIT_NAME = "audit.jsonl"

LONGEST_LINE = 512 * 1024
"""Bytes. Nothing of ours is longer: what is, is skipped."""
MOST_BYTES = 16 * 1024 * 1024
"""Of lines that one look keeps in memory, whatever its limit."""
_BLOCK = 64 * 1024
_SEARCHED_LINES = 20_000
"""So far back is looked for the beginning of the session before."""


def session_id(at: float, pid: int) -> str:
    """What a session is called in the journal: when it began, and its monitor's process."""
    return f"{utc(at)}/{pid}"


def journal_files(directory: Path, name: str = JOURNAL_NAME) -> Iterator[Path]:
    """The files, newest first. While somebody reads they may be renamed, to higher numbers alone."""
    yield directory / name
    number = 1
    while (path := rotated(directory / name, number)).exists():
        yield path
        number += 1


def rotated(path: Path, number: int) -> Path:
    """The name of the file that was closed `number` files ago."""
    return path.with_name(f"{path.name}.{number}")


def read_journal(
    directory: Path,
    since: float | None = None,
    limit: int = 1000,
    kinds: Collection[str] = (),
    name: str = JOURNAL_NAME,
) -> Iterator[dict[str, Any]]:
    """The newest `limit` events, oldest first; it reads the disk, so it belongs in a thread.

    `since`: seconds since the epoch, none that is older. `kinds`: names such as ``WorkerDied``; none means all. Lines
    that make no sense are skipped. Of very many very long lines fewer than `limit` are given: 16 MiB of them.
    Raises OSError where there is a file that cannot be read.
    """
    found: list[dict[str, Any]] = []
    size = 0
    for line, event in _backwards(directory, name, since, kinds):
        if kinds and event["event"] not in kinds:
            continue
        size += len(line)
        if len(found) >= limit or size > MOST_BYTES:
            break
        found.append(event)
    yield from reversed(found)


def previous_session(directory: Path, own: str) -> PreviousSession | None:
    """How the session before this one ended, as far as its journal tells; None where there was none.

    `own` is the id of this session, whose lines may stand behind it already. Raises as `read_journal`.
    """
    session, last_at, began, crashes = "", "", "", 0
    ended: dict[str, Any] | None = None
    for number, (_, event) in enumerate(_backwards(directory, JOURNAL_NAME)):
        if event["session"] == own:
            continue
        session, last_at = session or event["session"], last_at or event["at"]
        if event["session"] != session or number > _SEARCHED_LINES:
            break
        match event["event"]:
            case "WorkerDied":
                crashes += 1
            case "SessionEnded":
                ended = event["fields"]
            case "SessionStarted":
                began = event["at"]
                break
    if not session:
        return None
    return PreviousSession(
        session=session,
        began=began,
        ended=last_at,
        status=ended.get("status") if ended is not None else None,
        reason=str(ended.get("reason", "")) if ended is not None else "",
        crashes=crashes,
    )


def _backwards(
    directory: Path, name: str, since: float | None = None, kinds: Collection[str] = ()
) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Every event that is not older than `since`, newest first, and its line; of `kinds`, and perhaps a few others.

    Times are compared one by one, as a clock may have been set back; but a file that begins before `since` is the last.
    """
    # To look for a text costs a tenth of what it costs to parse a line.
    marks = [f'"event":"{kind}"'.encode() for kind in kinds]
    seen = set()
    for path in journal_files(directory, name):
        try:
            file = path.open("rb")
        except FileNotFoundError:  # not yet written, or removed meanwhile
            continue
        with file:
            identity = _identity(file)
            if identity in seen:  # it was renamed since we read it
                continue
            seen.add(identity)
            for line in lines_backwards(file):
                if marks and not any(mark in line for mark in marks):
                    continue
                event = parse(line)
                if event is not None and (since is None or moment(event["at"]) >= since):
                    yield line, event
            began = _first_time(file)
            if since is not None and began is not None and began < since:
                return


def _identity(file: IO[bytes]) -> tuple[int, int]:
    found = os.fstat(file.fileno())
    return found.st_dev, found.st_ino


def lines_backwards(file: IO[bytes]) -> Iterator[bytes]:
    """The lines of a file, last first, without their ends. One that is too long is left out, and so is an empty one."""
    file.seek(0, 2)
    position = file.tell()
    rest = b""
    too_long = False
    while position > 0:
        size = min(_BLOCK, position)
        position -= size
        file.seek(position)
        first, *lines = (file.read(size) + rest).split(b"\n")
        for line in reversed(lines):
            if line and not too_long:
                yield line
            too_long = False  # it ended here: it was the last of the block
        rest = first
        if len(rest) > LONGEST_LINE:
            rest, too_long = b"", True
    if rest and not too_long:
        yield rest


def parse(line: bytes) -> dict[str, Any] | None:
    """The event of a line; None where it is none: half written by a killed session, or written by somebody else."""
    try:
        event = json.loads(line)
        if isinstance(event["fields"], dict):
            moment(event["at"])
            texts = ("session", "event", "level", "source", "sentence")
            return event if all(isinstance(event[each], str) for each in texts) else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return None


def moment(at: str) -> float:
    """Seconds since the epoch of a time as `event_json` has it. Raises `ValueError` or `TypeError`."""
    return datetime.fromisoformat(at).astimezone(UTC).timestamp()


def first_time(path: Path) -> float | None:
    """When the first event of a file was told; None where it has none. Raises OSError."""
    with suppress(FileNotFoundError), path.open("rb") as file:
        return _first_time(file)
    return None


def _first_time(file: IO[bytes]) -> float | None:
    file.seek(0)
    event = parse(file.readline(LONGEST_LINE))
    return None if event is None else moment(event["at"])
