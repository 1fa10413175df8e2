"""A dashboard over a session that only notes what is asked of it, with a clock of its own."""

from __future__ import annotations

import json
from typing import Any

from attrs import evolve
from twisted.internet.defer import maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from serverworker.monitor.console_commands import ConsoleCommands
from serverworker.monitor.session import OWN_COMMANDS
from serverworker.surfaces.dashboard.api import Api
from serverworker.surfaces.dashboard.exchange import Answer, Call
from serverworker.surfaces.dashboard.gate import Gate
from serverworker.surfaces.dashboard.pages import read_pages
from serverworker.surfaces.dashboard.series import Series
from serverworker.surfaces.dashboard.streams import Streams
from serverworker.surfaces.session_key import KeyCheck
from serverworker.values.events import Event, OutputLine, PollingChanged, Told
from tests.unit.test_operator_commands import RecordingMonitor, desk_of

KEY = "k" * 64
FORM = "application/x-www-form-urlencoded"
JSON = "application/json"


class DashboardCase(SynchronousTestCase):
    """All but the connection."""

    secure = False

    def setUp(self) -> None:
        self.clock = Clock()
        self.monitor: Any = RecordingMonitor()
        self.agents = ConsoleCommands(OWN_COMMANDS)
        self.published: list[Event] = []
        self.desk = evolve(
            desk_of(self.monitor, self.agents, self.published),
            in_thread=maybeDeferred,
        )
        keys = KeyCheck(self.clock, lambda: KEY, self.published.append)
        self.gate = Gate(clock=self.clock, keys=keys, publish=self.published.append, secure=self.secure)
        self.series = Series(self.clock, self.monitor.figures, wall_clock=self.clock.seconds)
        self.api = Api(
            desk=self.desk,
            gate=self.gate,
            series=self.series,
            names=frozenset({"ops.example.org"}),
            pages=read_pages(),
        )
        self.streams = Streams(
            clock=self.clock,
            history=self.desk.history,
            session=self.desk.session,
            series=self.series,
            snapshot=self.api.snapshot,
            lasts=self.gate.logins.lasts,
        )
        self.sequence = 0

    def call(self, method: str, path: str, body: Any = b"", **headers: str) -> Call:
        """A request; ``_`` in a header's name stands for a hyphen, and a body of JSON values is written as such."""
        given = {"host": "localhost:9001"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        if not isinstance(body, bytes):
            given.setdefault("content-type", JSON)
            body = json.dumps(body).encode()
        path, _, query = path.partition("?")
        pairs = dict(part.split("=", 1) for part in query.split("&")) if query else {}
        return Call(
            method=method,
            path=path,
            query=pairs,
            headers=given,
            body=body,
            origin="192.0.2.7",
            here="192.0.2.1",
        )

    def ask(self, method: str, path: str, body: Any = b"", **headers: str) -> Answer:
        """What is answered at once."""
        reply = self.successResultOf(self.api.answer(self.call(method, path, body, **headers)))
        assert isinstance(reply, Answer)
        return reply

    def by_key(self, method: str, path: str, body: Any = b"", **headers: str) -> Answer:
        """As a program asks."""
        return self.ask(method, path, body, authorization=f"Bearer {KEY}", **headers)

    def log_in(self) -> tuple[str, str]:
        """The cookie as a browser sends it, and the CSRF token."""
        answer = self.ask("POST", "/login", f"key={KEY}".encode(), content_type=FORM)
        self.assertEqual(200, answer.code, answer.body)
        cookie = dict(answer.headers)["Set-Cookie"].partition(";")[0]
        return cookie, value_of(self.ask("GET", "/api/session", cookie=cookie))["csrf"]

    def tell(self, event: Event) -> None:
        """Have the history keep an event."""
        self.sequence += 1
        self.desk.history(Told(sequence=self.sequence, at=float(self.sequence), event=event))

    def change(self, number: int = 1) -> None:
        """Some events."""
        for _ in range(number):
            self.tell(PollingChanged(seconds=5.0))

    def print(self, text: str) -> None:
        """A line of output."""
        self.tell(OutputLine(source="worker 1", stream="stdout", text=text))


def value_of(answer: Answer) -> Any:
    """What an answer of JSON says."""
    return json.loads(answer.body)
