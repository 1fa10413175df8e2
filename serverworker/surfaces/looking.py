"""What an operator can look at: status, events, crash reports, output."""

from __future__ import annotations

import getopt
import json
import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from serverworker.monitor.crash_store import CrashReport, list_reports, load
from serverworker.processes.state_directory import CRASHES_NAME
from serverworker.surfaces.crash_text import crash_text
from serverworker.surfaces.desk import Asker, Desk, Outcome
from serverworker.surfaces.status import describe, status_json
from serverworker.values.errors import BadCommand, nearest
from serverworker.values.event_json import utc
from serverworker.values.events import EVENT_NAMES

SHOWN = 50
MOST_SHOWN = 10_000
MOST_BYTES = 8 * 1024 * 1024
"""Of events in one answer, as JSON: far more than anybody reads, and what the control port can carry."""
_AGO = re.compile(r"(\d{1,9})(s|m|h|d)?")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, None: 1}


def status(desk: Desk, asker: Asker, arguments: Sequence[str]) -> Outcome:
    """``status``."""
    if arguments:
        raise BadCommand(f"status takes no arguments, not {' '.join(arguments)!r}")
    monitor = desk.monitor
    seconds = monitor.settings.polling.interval_seconds
    text = describe(
        monitor.state, monitor.ports, seconds, monitor.seconds(), previous=monitor.previous_session
    )
    return Outcome(text=text, data=status_json(desk))


def events(desk: Desk, asker: Asker, arguments: Sequence[str]) -> Deferred[Outcome]:
    """``events [--since WHEN] [--kind NAME] [--last N]``: from the journal, so of earlier sessions too."""
    options = _options("events", ["since=", "kind=", "last="], arguments)
    kinds = (check_kind(options["kind"]),) if "kind" in options else ()
    since = _moment(options["since"]) if "since" in options else None
    limit = _number("--last", options.get("last", str(MOST_SHOWN if since is not None else SHOWN)))
    return read_events(desk, since=since, kinds=kinds, limit=limit).addCallback(_events_shown)


def read_events(
    desk: Desk, *, since: float | None, kinds: Sequence[str], limit: int
) -> Deferred[list[dict[str, Any]]]:
    """The newest events of the journal, oldest first. `since`: seconds since the epoch."""
    return desk.in_thread(partial(_from_journal, desk.state_directory, since, kinds, limit))


def _from_journal(
    folder: Path, since: float | None, kinds: Sequence[str], limit: int
) -> list[dict[str, Any]]:
    from serverworker.monitor.journal_files import read_journal

    found: list[dict[str, Any]] = []
    size = 0
    for event in reversed(list(read_journal(folder, since=since, limit=limit, kinds=kinds))):
        size += len(json.dumps(event))
        if size > MOST_BYTES and found:
            break
        found.append(event)
    return found[::-1]


def _events_shown(found: list[dict[str, Any]]) -> Outcome:
    lines = [event_line(event) for event in found]
    return Outcome(text="\n".join(lines) or "nothing has been told", data=found)


def event_line(event: dict[str, Any]) -> str:
    """An event of `event_json` in one line, or a few where its sentence has several."""
    level = "" if event["level"] in ("info", "debug") else f"{event['level']}: "
    return f"{event['at'].replace('T', ' ')} [{event['source']}] {level}{event['sentence']}"


def check_kind(name: str) -> str:
    """The name of an event again. Raises `BadCommand` where there is none of that name."""
    if name not in EVENT_NAMES:
        raise BadCommand(f"there is no event {name!r}{nearest(name, EVENT_NAMES)}")
    return name


def logs(desk: Desk, asker: Asker, arguments: Sequence[str]) -> Outcome:
    """``logs [--worker ID] [--last N]``: the last lines of output, oldest first."""
    options = _options("logs", ["worker=", "last="], arguments)
    worker = options.get("worker")
    if worker is not None and not (worker.isascii() and worker.isdecimal()):
        raise BadCommand(f"--worker takes the id of a worker, not {worker!r}")
    limit = _number("--last", options.get("last", str(SHOWN)))
    kept = desk.history.last_lines(limit, f"worker {worker}" if worker else "")
    found = [each.as_json() for each in kept]
    lines = [log_line(event) for event in found]
    return Outcome(text="\n".join(lines) or "nothing has been printed", data=found)


def log_line(event: dict[str, Any]) -> str:
    """A line of output, with when and by whom."""
    return f"{event['at'].replace('T', ' ')} [{event['source']}] {event['fields']['text']}"


# --- crashes ----------------------------------------------------------------------------------


def crashes(desk: Desk, asker: Asker, arguments: Sequence[str]) -> Deferred[Outcome]:
    """``crashes``: one line for each report, newest first; ``crashes ID`` or ``crashes last``: that one, whole."""
    if len(arguments) > 1:
        raise BadCommand("usage: crashes [ID], such as: crashes, or: crashes last")
    if arguments:
        return read_crash(desk, arguments[0]).addCallback(_crash_shown)
    return read_crashes(desk).addCallback(_crashes_shown)


def read_crashes(desk: Desk) -> Deferred[list[dict[str, Any]]]:
    """A summary of each report, newest first: ``{id, at, worker, generation, cause, text, hung_at, next_step}``."""
    return desk.in_thread(partial(_summaries, desk.state_directory / CRASHES_NAME))


def read_crash(desk: Desk, name: str) -> Deferred[CrashReport]:
    """One report, by its id or ``last``. Fails with `BadCommand` where there is none of that id."""
    return desk.in_thread(partial(_one, desk.state_directory / CRASHES_NAME, name))


def _summaries(folder: Path) -> list[dict[str, Any]]:
    return [_summary(path) for path in reversed(list_reports(folder))]


def _summary(path: Path) -> dict[str, Any]:
    try:
        report = load(path)
    except Exception as error:  # one that was half written by a full disk must not hide the others
        return {"id": path.stem, "at": "", "error": str(error)}
    death = report.death
    return {
        "id": path.stem,
        "at": utc(report.at),
        "worker": death.worker,
        "generation": death.generation,
        "cause": death.cause.kind.value,
        "text": death.cause.text,
        "hung_at": death.hung_at,
        "next_step": death.next_step,
    }


def _one(folder: Path, name: str) -> CrashReport:
    # Chosen among the files that are there: the name never becomes part of a path.
    paths = list_reports(folder)
    if not paths:
        raise BadCommand("there is no crash report: no worker has died unasked")
    if name == "last":
        return load(paths[-1])
    for path in paths:
        if path.stem == name:
            return load(path)
    raise BadCommand(f"there is no crash report {name!r}{nearest(name, [path.stem for path in paths])}")


def _crashes_shown(found: list[dict[str, Any]]) -> Outcome:
    if not found:
        return Outcome(text="no worker has died unasked", data=[])
    lines = [
        f"{each['id']}  unreadable: {each['error']}" if "error" in each else _crash_line(each)
        for each in found
    ]
    return Outcome(text="\n".join([*lines, "`crashes ID`, or `crashes last`, shows one whole"]), data=found)


def _crash_line(each: dict[str, Any]) -> str:
    hung = f", at {each['hung_at']}" if each["hung_at"] else ""
    return f"{each['id']}  worker {each['worker']}, generation {each['generation']}: {each['text']}{hung}"


def _crash_shown(report: CrashReport) -> Outcome:
    return Outcome(text=crash_text(report), data=report.as_dict())


# --- arguments --------------------------------------------------------------------------------


def _options(name: str, allowed: list[str], arguments: Sequence[str]) -> dict[str, str]:
    words = ", ".join(f"--{each.rstrip('=')}" for each in allowed)
    try:
        pairs, rest = getopt.gnu_getopt(list(arguments), "", allowed)
    except getopt.GetoptError as error:
        raise BadCommand(f"{name}: {error}; allowed: {words}") from error
    if rest:
        raise BadCommand(f"{name} takes {words}, not {' '.join(rest)!r}")
    return {option.removeprefix("--"): value for option, value in pairs}


def _number(option: str, text: str) -> int:
    if text.isascii() and text.isdecimal() and len(text) < 7 and 1 <= int(text) <= MOST_SHOWN:
        return int(text)
    raise BadCommand(f"{option} takes a whole number, 1 to {MOST_SHOWN}, not {text!r}")


def _moment(text: str) -> float:
    """Seconds since the epoch: an ISO time (UTC unless it says otherwise), or how long ago, such as ``90s`` or ``2h``."""
    ago = _AGO.fullmatch(text)
    if ago is not None:
        return time.time() - int(ago[1]) * _UNITS[ago[2]]
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise BadCommand(
            f"{text!r} is no time, such as 2026-11-24T08:00, nor how long ago, such as 90s, 15m, 2h or 3d"
        ) from None
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
