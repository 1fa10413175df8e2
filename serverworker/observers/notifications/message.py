"""What a message says: alone it suffices for an operator at night."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import evolve, field, fields, frozen

from serverworker.monitor.crash_store import CrashReport
from serverworker.observers.notifications.causes import fingerprint
from serverworker.processes.state_directory import CRASHES_NAME
from serverworker.values.causes import Cause
from serverworker.values.errors import ErrorRecord
from serverworker.values.event_json import event_json, utc
from serverworker.values.events import Told, WorkerDied
from serverworker.values.sentences import sentence
from serverworker.values.state import SessionState

LONGEST_SUBJECT = 160
LONGEST_BODY = 60_000
_LONGEST_PART = 8000
_LONGEST_LINE = 400
_SHOWN_LINES = 40
_SHOWN_REQUESTS = 20
_INDENT = "    "

# C0 without tab and newline, DEL, C1, what turns the writing direction round, and halves of characters, which UTF-8
# and JSON readers refuse.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@frozen(kw_only=True)
class Whereabouts:
    """Which session speaks."""

    host: str
    pid: int
    session: str
    """Tells this session's messages from all others'."""
    ports: tuple[str, ...]
    """Each as ``name=address``."""
    state_directory: str
    version: str = ""
    """Of the application, where it is known."""

    @property
    def name(self) -> str:
        """The host and the port that is called ``server``, such as ``web1:8080``."""
        for port in self.ports:
            name, _, address = port.partition("=")
            if name == "server":
                kind, _, rest = address.partition(":")
                return f"{self.host}:{rest.partition(':')[0] if kind.startswith('tcp') else rest}"
        return self.host


@frozen(kw_only=True)
class Message:
    """What is to be told, whatever way it goes."""

    id: str
    """The same for every attempt, and no other message's."""
    at: float
    """When it happened, in seconds since the epoch."""
    event: str
    """The name of the event's class; empty where the message sums several up."""
    cause: str
    """See `causes.fingerprint`."""
    host: str
    subject: str
    body: str = field(repr=False)
    details: Mapping[str, Any] = field(repr=False)
    """The event in the shape of `event_json`, its long parts cut; empty where there is no single one."""
    count: int = 1
    """How many events it tells of."""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Message:
        """The message that `attrs.asdict` gave; raises ValueError, KeyError or TypeError where it is none."""
        types: dict[str, Any] = {"at": (int, float), "count": int, "details": dict}
        for each in fields(cls):
            if not isinstance(data[each.name], types.get(each.name, str)):
                raise TypeError(f"{each.name} is of the wrong type")
        return cls(**data)


def clean(text: str, longest: int | None = None) -> str:
    """The text with what is not safe to show written out; past `longest` its middle is cut out and that said."""
    if longest is not None and len(text) > longest:
        tail = longest * 3 // 4  # of a traceback, as of output, the end says more
        text = f"{text[: longest - tail]}\n[… {len(text) - longest} characters cut …]\n{text[-tail:]}"
    return _UNSAFE.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def one_line(text: str, longest: int) -> str:
    """The text safe to show and in one line, cut at its end."""
    text = " ".join(clean(text[: longest + 1]).split())
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def compose(told: Told, where: Whereabouts, state: SessionState) -> Message:
    """The message of one event."""
    event = told.event
    words = sentence(event)
    headline = (
        f"worker {event.worker} died while {event.life}: {event.cause.text}"
        if isinstance(event, WorkerDied)
        else words
    )
    facts = [
        ("When", f"{utc(told.at)}, as event {told.sequence} of its session"),
        ("Where", f"{where.host}, {', '.join(where.ports)}; monitor with pid {where.pid}"),
        ("State", f"in {where.state_directory}"),
    ]
    if where.version:
        facts.append(("Version", where.version))
    if isinstance(event, WorkerDied):
        facts += _facts_of_death(told, event, where)
    facts.append(("Now", now_words(state)))
    parts = [clean(words, _LONGEST_PART), "\n".join(f"{name + ':':<11}{clean(text)}" for name, text in facts)]
    parts += _parts_of(event)
    return Message(
        id=f"{utc(told.at).translate(_COMPACT)}-{where.session}-{told.sequence}",
        at=told.at,
        event=told.name,
        cause=fingerprint(event),
        host=where.host,
        subject=one_line(f"[{where.name}] {headline}", LONGEST_SUBJECT),
        body=clean("\n\n".join(parts), LONGEST_BODY) + "\n",
        details=_bounded(event_json(told)),
    )


_COMPACT = str.maketrans("", "", "-:.")


def repeated(last: Message, count: int, first_at: float, last_at: float) -> Message:
    """One message for `count` more events of a cause that was told before; `last` is that of the last one."""
    times = "once more" if count == 1 else f"{count} more times"
    span = f"at {utc(last_at)}" if count == 1 else f"first at {utc(first_at)}, last at {utc(last_at)}"
    return evolve(
        last,
        subject=f"{last.subject} (seen {times})",
        body=f"Seen {times} since the last message about it: {span}. The last time:\n\n{last.body}",
        count=count,
    )


@frozen(kw_only=True)
class Tally:
    """How often something was not told of by itself."""

    subject: str
    count: int
    first_at: float
    last_at: float


def summed_up(tallies: Sequence[Tally], others: int, budget: int, where: Whereabouts, at: float) -> Message:
    """One message for all that was held back; `others` is how many more there were than `tallies` tell of."""
    count = sum(tally.count for tally in tallies) + others
    lines = [
        f"{tally.count} × {tally.subject}\n{_INDENT}first at {utc(tally.first_at)}, last at {utc(tally.last_at)}"
        for tally in sorted(tallies, key=lambda tally: -tally.count)
    ]
    if others:
        lines.append(f"{others} × other causes")
    noun = "notification was" if count == 1 else "notifications were"
    head = (
        f"{count} more {noun} held back, since {budget} messages an hour are enough (notify.budget_per_hour):"
    )
    return Message(
        id=f"{utc(at).translate(_COMPACT)}-{where.session}-summary",
        at=at,
        event="",
        cause="held back",
        host=where.host,
        subject=f"[{where.name}] {count} more {noun} held back",
        body="\n\n".join([head, *lines, f"Now: {where.host}, {', '.join(where.ports)}"]) + "\n",
        details={},
        count=count,
    )


def with_key(key: str, where: Whereabouts, at: float) -> Message:
    """The message that has the session key in it; it must never be written to disk."""
    return Message(
        id=f"{utc(at).translate(_COMPACT)}-{where.session}-key",
        at=at,
        event="",
        cause="key",
        host=where.host,
        subject=f"[{where.name}] the key of the new session",
        body=(
            f"The session on {where.host} ({', '.join(where.ports)}) runs, with pid {where.pid}.\n"
            f"Its key, which lets whoever has it steer the session until it ends:\n\n{_INDENT}{key}\n\n"
            f"It is in {where.state_directory}/key too. It was mailed as notify.key_at_start is true.\n"
        ),
        details={},
    )


def now_words(state: SessionState) -> str:
    """How the session's workers are, in a line."""
    lives = Counter(worker.life.value for worker in state.workers)
    words = ", ".join(f"{count} {life}" for life, count in lives.items()) or "none"
    return f"workers: {words}; the session is {state.phase.value}"


def _facts_of_death(told: Told, death: WorkerDied, where: Whereabouts) -> list[tuple[str, str]]:
    report = CrashReport(at=told.at, sequence=told.sequence, session_pid=where.pid, death=death)
    pid = "no process" if death.pid is None else f"pid {death.pid}"
    facts = [
        (
            "Worker",
            f"{death.worker} ({pid}, generation {death.generation}), {death.life}, {death.uptime_seconds:.1f} s old",
        ),
        ("Cause", f"{death.cause.kind.value}: {one_line(death.cause.text, _LONGEST_LINE)}"),
        ("Next", death.next_step),
        ("Report", str(Path(where.state_directory, CRASHES_NAME, report.file_name))),
    ]
    if death.hung_at:
        facts.insert(2, ("Hung at", one_line(death.hung_at, _LONGEST_LINE)))
    return facts


def _parts_of(event: object) -> list[str]:
    """What an event has to show beyond its sentence, each part with its heading."""
    parts = []
    cause = getattr(event, "cause", None)
    error = cause.error if isinstance(cause, Cause) else getattr(event, "error", None)
    if isinstance(error, ErrorRecord) and error.traceback:
        parts.append(_part("Traceback", error.traceback.splitlines()))
    if isinstance(event, WorkerDied):
        requests = [
            f"{request.method} {one_line(request.path, _LONGEST_LINE)}, for {request.age_seconds:.1f} s"
            for request in event.requests[:_SHOWN_REQUESTS]
        ]
        if len(event.requests) > _SHOWN_REQUESTS:
            requests.append(f"and {len(event.requests) - _SHOWN_REQUESTS} more")
        lines = [
            f"{line.stream}: {line.text[:_LONGEST_LINE]}{'…' if len(line.text) > _LONGEST_LINE else ''}"
            for line in event.output[-_SHOWN_LINES:]
        ]
        parts.append(_part("Requests in flight", requests or ["none"]))
        parts.append(_part("Last output", lines or ["none"]))
        if event.stacks:
            parts.append(_part("Stacks", event.stacks[-4 * _LONGEST_PART :].splitlines()))
    return parts


def _part(title: str, lines: Sequence[str]) -> str:
    text = clean("\n".join(lines), _LONGEST_PART)
    return "\n".join([f"{title}:", *(f"{_INDENT}{line}" for line in text.split("\n"))])


def _bounded(value: Any, longest: int = _LONGEST_PART) -> Any:
    """JSON values with their texts cut and safe to show, and of each array the last part."""
    if isinstance(value, str):
        return clean(value, longest)
    if isinstance(value, Mapping):
        return {str(key): _bounded(each, longest) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_bounded(each, _LONGEST_LINE) for each in value[-_SHOWN_LINES:]]
    return value
