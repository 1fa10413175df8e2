"""What can be asked of the dashboard, and what is said of what cannot."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred

from serverworker.monitor.crash_store import CrashReport
from serverworker.surfaces.dashboard.api import Follow
from serverworker.values.causes import Cause, CauseKind
from serverworker.values.errors import NotDone
from serverworker.values.events import OperatorAction, WorkerDied
from tests.unit.dashboard_case import KEY, DashboardCase, value_of


class LookingTests(DashboardCase):
    """The page and the JSON."""

    def test_the_page(self) -> None:
        """Anybody has it, and what it loads; it holds nothing of the session's."""
        page = self.ask("GET", "/")
        self.assertEqual((200, "text/html; charset=utf-8"), (page.code, page.content_type))
        for name, kind in (
            ("app.js", "text/javascript"),
            ("style.css", "text/css"),
            ("icon.svg", "image/svg+xml"),
        ):
            self.assertIn(f"/{name}".encode(), page.body)
            self.assertEqual(kind, self.ask("GET", f"/{name}").content_type.partition(";")[0])
        self.assertEqual(200, self.ask("HEAD", "/").code)

    def test_nothing_there(self) -> None:
        """One answer for whatever is not there, files beside the page's among them."""
        paths = (
            "/favicon.ico",
            "/index.html",
            "/../key",
            "/static/app.js",
            "/%2e%2e/key",
            "//",
            "/app.js/",
            "/api",
        )
        self.assertEqual({404}, {self.ask("GET", path).code for path in paths})
        self.assertEqual(
            {404}, {self.by_key("GET", path).code for path in ("/api/nothing", "/api/", "/api/run/x")}
        )

    def test_methods(self) -> None:
        """Looking is GET, doing is POST, and nothing else is anything; a path says what it takes."""
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "get", "X"):
            self.assertEqual(405, self.ask(method, "/").code, method)
            self.assertEqual(405, self.by_key(method, "/api/status").code, method)
        for method in ("GET", "HEAD", "PUT"):
            answer = self.by_key(method, "/api/run", {"words": ["restart", "clean"]})
            self.assertEqual((405, "POST"), (answer.code, dict(answer.headers)["Allow"]))
        self.assertEqual([], self.monitor.asked)

    def test_the_session(self) -> None:
        """Which session it is, and what can be run; a program needs no token and gets none."""
        self.agents.add("pull", [], lambda: None, "fetch the code")
        about = value_of(self.by_key("GET", "/api/session"))
        self.assertEqual(("s", None), (about["session"], about["csrf"]))
        self.assertIn({"usage": "pull", "help": "fetch the code", "own": True}, about["commands"])
        self.assertIn("restart clean|force", [each["usage"] for each in about["commands"] if not each["own"]])

    def test_the_status(self) -> None:
        """The one that `serverworkerctl` shows, with the time here and since when."""
        self.monitor.seconds = lambda: 1060.0
        status = value_of(self.by_key("GET", "/api/status"))
        self.assertEqual((1, "running", 60.0), (status["schema"], status["phase"], status["uptime_seconds"]))
        self.assertRegex(status["at"], r"^\d{4}-.*Z$")

    def test_output(self) -> None:
        """The newest lines, of one worker or of all."""
        self.print("<b>one</b>")
        self.print("two")
        self.assertEqual(
            ["two"], [each["fields"]["text"] for each in value_of(self.by_key("GET", "/api/logs?last=1"))]
        )
        self.assertEqual([], value_of(self.by_key("GET", "/api/logs?worker=2")))
        for bad in ("0", "x", "10001", "-1", "1e3", "٣"):
            self.assertEqual(400, self.by_key("GET", f"/api/logs?last={bad}").code, bad)

    def test_bad_questions_for_events(self) -> None:
        """A kind or a time that is none is named, with the nearest that exists."""
        answer = self.by_key("GET", "/api/events?kinds=WorkerDeid")
        self.assertEqual(400, answer.code)
        self.assertIn("WorkerDied", value_of(answer)["text"])
        self.assertEqual(400, self.by_key("GET", "/api/events?since=yesterday").code)

    def test_a_fault(self) -> None:
        """What goes wrong here is logged, and tells whoever asked nothing of it."""
        self.monitor.figures = lambda: 1 / 0
        answer = self.by_key("GET", "/api/status")
        self.assertEqual(500, answer.code)
        self.assertNotIn(b"division", answer.body)
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))

    def test_the_stream(self) -> None:
        """It is for who was let in, and says from where."""
        call = self.call("GET", "/api/stream", authorization=f"Bearer {KEY}", last_event_id="s:7")
        follow = self.successResultOf(self.api.answer(call))
        assert isinstance(follow, Follow)
        self.assertEqual(("s:7", None), (follow.last_event_id, follow.visitor.login))
        self.assertEqual(405, self.by_key("HEAD", "/api/stream").code)


class CrashTests(DashboardCase):
    """Crash reports, whose ids never become paths."""

    def setUp(self) -> None:
        super().setUp()
        folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder)
        (folder / "crashes").mkdir()
        (folder / "key").write_text(json.dumps({"schema": 1}))
        cause = Cause(kind=CauseKind.EXCEPTION, text="<script>alert(1)</script>")
        death = WorkerDied(
            worker=3,
            generation=1,
            pid=7,
            life="serving",
            cause=cause,
            uptime_seconds=1.0,
            next_step="another one starts",
        )
        report = CrashReport(at=1000.0, sequence=5, session_pid=1, death=death)
        (folder / "crashes" / report.file_name).write_text(report.as_json())
        self.report_id = report.file_name.removesuffix(".json")
        self.api._desk = evolve(self.desk, state_directory=folder)

    def test_one(self) -> None:
        """By its id, or the last."""
        for name in (self.report_id, "last"):
            report = value_of(self.by_key("GET", f"/api/crashes/{name}"))
            self.assertEqual((3, "<script>alert(1)</script>"), (report["worker"], report["cause"]["text"]))

    def test_traversal(self) -> None:
        """Whatever else stands there is no report, and the answer is that of any path that is not there."""
        for name in (
            "../key",
            "..%2fkey",
            "%2e%2e/key",
            "",
            ".",
            "..",
            f"{self.report_id}.json",
            f"./{self.report_id}",
            "\x00",
            "a" * 5000,
        ):
            answer = self.by_key("GET", f"/api/crashes/{name}")
            self.assertEqual((404, "there is nothing here"), (answer.code, value_of(answer)["text"]), name)


class DeedTests(DashboardCase):
    """Commands."""

    def run_line(self, body: Any, **headers: str) -> tuple[int, Any]:
        answer = self.by_key("POST", "/api/run", body, **headers)
        return answer.code, value_of(answer)

    def test_words_and_lines(self) -> None:
        """Both are what the console would understand, and both are told with who asked."""
        code, done = self.run_line({"words": ["restart", "clean"]})
        self.assertEqual((200, {"ok": True, "text": "generation 2 serves", "data": None}), (code, done))
        self.run_line({"line": "set workers 3"})
        who = "session key, 192.0.2.7"
        self.assertEqual([("restart", "clean", who), ("workers", 3)], self.monitor.asked)
        told = [each for each in self.published if isinstance(each, OperatorAction)]
        self.assertEqual(["restart clean", "set workers 3"], [each.action for each in told])
        self.assertEqual({(who, "dashboard")}, {(each.who, each.surface) for each in told})

    def test_bad_commands(self) -> None:
        """They say what is allowed, and the nearest that exists."""
        bodies: list[Any] = [{"words": ["restrat"]}, {"line": "restart now"}, {"line": "'"}, {"words": []}]
        for body in bodies:
            code, answer = self.run_line(body)
            self.assertEqual((400, False), (code, answer["ok"]), body)
        self.assertIn("restart", self.run_line({"words": ["restrat"]})[1]["text"])

    def test_a_bad_value(self) -> None:
        """One that the session refuses is a failure, and told as one."""
        code, answer = self.run_line({"line": "set polling 0"})
        self.assertEqual((409, False), (code, answer["ok"]))

    def test_bad_bodies(self) -> None:
        """What is no such JSON, or is said to be something else."""
        for body in (
            b"",
            b"{",
            b"\xff",
            b"[1]",
            b'{"words": [1]}',
            b'{"words": "restart"}',
            b"[" * 60000,
            b'{"line": 3}',
        ):
            answer = self.by_key("POST", "/api/run", body, content_type="application/json")
            self.assertEqual(400, answer.code, body[:20])
        plain = self.by_key("POST", "/api/run", b'{"words": ["restart", "clean"]}', content_type="text/plain")
        self.assertEqual((415, []), (plain.code, self.monitor.asked))

    def test_a_failed_restart(self) -> None:
        """Whoever asked is told when it has failed, and why."""
        waiting: Deferred[str] = Deferred()
        self.monitor.restart = lambda mode, asked_by: waiting
        call = self.call("POST", "/api/run", {"words": ["restart", "clean"]}, authorization=f"Bearer {KEY}")
        answered = self.api.answer(call)
        self.assertNoResult(answered)
        waiting.errback(NotDone("generation 2 is dropped: SyntaxError"))
        answer: Any = self.successResultOf(answered)
        self.assertEqual(
            (409, "generation 2 is dropped: SyntaxError"), (answer.code, value_of(answer)["text"])
        )

    def test_a_command_with_a_bug(self) -> None:
        """An agent's own command that raises is a failure that is told and logged, and no fault of the dashboard's."""

        def pull() -> None:
            raise ValueError("no such branch")

        self.agents.add("pull", [], pull)
        code, answer = self.run_line({"words": ["pull"]})
        self.assertEqual((409, "no such branch"), (code, answer["text"]))
        self.flushLoggedErrors(ValueError)
