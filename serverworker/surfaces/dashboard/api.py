"""What can be asked of the dashboard: the page, its JSON, and the commands."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from serverworker.surfaces import looking
from serverworker.surfaces.dashboard import guard
from serverworker.surfaces.dashboard.exchange import NOT_FOUND, Answer, Call, Refused, as_json, refusal
from serverworker.surfaces.dashboard.gate import Gate, Visitor, media_type
from serverworker.surfaces.dashboard.series import Series
from serverworker.surfaces.desk import Desk, Outcome
from serverworker.surfaces.operator_commands import Parsed, parse, parse_words, run, usages
from serverworker.surfaces.status import status_json
from serverworker.values.errors import BadCommand, NotAllowed, ServerWorkerError
from serverworker.values.event_json import utc

SHOWN = 200
_CRASHES = "/api/crashes/"
_FAULT = refusal(500, "the dashboard has a fault of its own; it stands in the log")


@frozen(kw_only=True)
class Follow:
    """An answer that does not end: the event stream, from behind an event on."""

    visitor: Visitor
    last_event_id: str


Reply = Answer | Follow
Route = Callable[[Call, Visitor], Any]
"""Answers a `Reply`, at once, by a Deferred or as a coroutine."""


class Api:
    """Answers calls, whatever carries them."""

    _log = Logger(namespace="serverworker.dashboard")

    def __init__(
        self,
        *,
        desk: Desk,
        gate: Gate,
        series: Series,
        names: Collection[str],
        pages: Mapping[str, Answer],
    ) -> None:
        """`names`: host names that it may be asked for by; `pages`: what anybody may have, by path."""
        self._desk = desk
        self._gate = gate
        self._series = series
        self._names = names
        self._pages = pages
        self._began = desk.monitor.seconds()
        self._looks: dict[str, Route] = {
            "/api/session": self._session,
            "/api/status": lambda call, visitor: as_json(self.snapshot()),
            "/api/crashes": lambda call, visitor: looking.read_crashes(desk).addCallback(as_json),
            "/api/events": self._events,
            "/api/logs": self._logs,
            "/api/series": lambda call, visitor: as_json(series.as_json()),
            "/api/stream": self._stream,
        }
        self._deeds: dict[str, Route] = {"/api/run": self._run, "/logout": gate.log_out}

    def answer(self, call: Call) -> Deferred[Reply]:
        """What there is to say to it; never fails."""
        answered: Deferred[Reply] = maybeDeferred(self._answer, call)
        return answered.addErrback(self._failed, call)

    def _failed(self, failure: Failure, call: Call) -> Answer:
        if isinstance(failure.value, Refused):
            return failure.value.answer
        if isinstance(failure.value, BadCommand | NotAllowed):
            return refusal(400, str(failure.value))
        if isinstance(failure.value, ServerWorkerError):
            return refusal(409, str(failure.value))
        self._log.failure("the dashboard cannot answer {path}; the session goes on", failure, path=call.path)
        return _FAULT

    def _answer(self, call: Call) -> Any:
        guard.check_host(call, self._names)
        if call.path in self._pages:
            _check_method(call, "GET", "HEAD")
            return self._pages[call.path]
        if call.path == "/login":
            _check_method(call, "POST")
            guard.check_origin(call)
            return self._gate.log_in(call)
        if not call.path.startswith("/api/") and call.path not in self._deeds:
            return NOT_FOUND
        guard.check_origin(call)
        visitor = self._gate.visitor(call)
        if call.path in self._deeds:
            _check_method(call, "POST")
            self._gate.check_deed(call, visitor)
            return self._deeds[call.path](call, visitor)
        look = self._looks.get(call.path)
        if look is None and call.path.startswith(_CRASHES):
            look = self._crash
        if look is None:
            return NOT_FOUND
        _check_method(call, "GET")
        return look(call, visitor)

    # --- looking --------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """The session now: `status_json`, how long it has been running, and what time it is here."""
        seconds = self._desk.monitor.seconds() - self._began
        return {**status_json(self._desk), "uptime_seconds": seconds, "at": utc(time.time())}

    def _session(self, call: Call, visitor: Visitor) -> Answer:
        """What the page needs once it is let in."""
        own = {command.usage for command in self._desk.agents}
        commands = [
            {"usage": usage, "help": text, "own": usage in own} for usage, text in usages(self._desk.agents)
        ]
        csrf = visitor.login.csrf if visitor.login is not None else None
        return as_json({"session": self._desk.session, "csrf": csrf, "commands": commands})

    async def _crash(self, call: Call, visitor: Visitor) -> Answer:
        try:
            report = await looking.read_crash(self._desk, call.path.removeprefix(_CRASHES))
        except BadCommand:  # there is none; its text names one that is
            return NOT_FOUND
        return as_json(report.as_dict())

    def _events(self, call: Call, visitor: Visitor) -> Deferred[Reply]:
        kinds = [looking.check_kind(each) for each in call.query.get("kinds", "").split(",") if each]
        since = call.query.get("since")
        found = looking.read_events(
            self._desk,
            since=None if since is None else _moment(since),
            kinds=kinds,
            limit=_number(call, "last"),
        )
        return found.addCallback(as_json)

    def _logs(self, call: Call, visitor: Visitor) -> Answer:
        worker = call.query.get("worker")
        source = "" if worker is None else f"worker {worker}"
        kept = self._desk.history.last_lines(_number(call, "last"), source)
        return as_json([each.as_json() for each in kept])

    def _stream(self, call: Call, visitor: Visitor) -> Follow:
        return Follow(visitor=visitor, last_event_id=call.headers.get("last-event-id", ""))

    # --- deeds ----------------------------------------------------------------------------------

    def _run(self, call: Call, visitor: Visitor) -> Deferred[Reply]:
        parsed = self._parsed(call, visitor)

        def done(outcome: Outcome) -> Answer:
            return as_json({"ok": True, "text": outcome.text, "data": outcome.data})

        def failed(failure: Failure) -> Answer:
            # An agent's own command may fail with anything: that is its outcome, and no fault of the dashboard's.
            code = 400 if isinstance(failure.value, BadCommand) else 409
            if not isinstance(failure.value, ServerWorkerError):
                self._log.failure(
                    "command {command!r} failed; the session goes on", failure, command=parsed.text
                )
            return refusal(code, failure.getErrorMessage())

        return run(parsed, self._desk, visitor.asker).addCallbacks(done, failed)

    def _parsed(self, call: Call, visitor: Visitor) -> Parsed:
        if media_type(call) != "application/json":
            raise Refused(415, "a command comes as application/json")
        try:
            asked = json.loads(call.body)
        except (ValueError, RecursionError):
            asked = None
        match asked:
            case {"words": [*words]} if all(isinstance(each, str) for each in words):
                return parse_words(words, self._desk, visitor.asker)
            case {"line": str(line)}:
                return parse(line, self._desk, visitor.asker)
        raise Refused(
            400,
            """the body is to be JSON such as {"words": ["restart", "clean"]} or {"line": "restart clean"}""",
        )


def _check_method(call: Call, *allowed: str) -> None:
    if call.method not in allowed:
        raise Refused(405, f"this takes {' or '.join(allowed)}", ("Allow", ", ".join(allowed)))


def _number(call: Call, name: str) -> int:
    text = call.query.get(name, str(SHOWN))
    if text.isascii() and text.isdecimal() and len(text) < 7 and 1 <= int(text) <= looking.MOST_SHOWN:
        return int(text)
    raise Refused(400, f"{name} is a whole number, 1 to {looking.MOST_SHOWN}")


def _moment(text: str) -> float:
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        raise Refused(400, "since is a time, such as 2026-11-24T08:00Z") from None
