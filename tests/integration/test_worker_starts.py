"""Workers that die while they start, or never become ready: reported, with back-off, while the port queues."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from tests.integration.doomed import output
from tests.integration.sessions import SessionTestCase, TestSession

SERVING = """
    from twisted.web.resource import Resource
    from twisted.web.server import Site

    class Hello(Resource):
        isLeaf = True

        def render_GET(self, request):
            return b"mended"

    def serve(worker):
        worker.listen("server", Site(Hello()))
    """

BACK_OFF = """
    [restart]
    initial_delay_seconds = 0.1
    maximum_delay_seconds = 0.4
    """

STARTUP_SECONDS = 3
"""Long enough for an interpreter on a busy machine to come to what is to be tested."""


class StartsTestCase(SessionTestCase):
    """Sessions of an application whose start fails until its author mends it."""

    def start(self, app: str, *arguments: str, configuration: str = BACK_OFF) -> TestSession:
        """Start one, of the module `mysite` with this source."""
        folder = self.folder(serving__py=SERVING, mysite__py=app, quick__toml=configuration)
        arguments = ("--app", "mysite:work", "--config", "quick.toml", "--standby", "0", *arguments)
        return self.session(*arguments, folder=folder)

    def death(self, session: TestSession, number: int) -> dict[str, Any]:
        """Wait for the nth death of the session."""
        return session.wait_for("WorkerDied", after=self._position(session, number))

    def _position(self, session: TestSession, number: int) -> int:
        position = 0
        for _ in range(number - 1):
            event = session.wait_for("WorkerDied", after=position)
            position = session.events.index(event) + 1
        return position


class CrashLoopTests(StartsTestCase):
    """A start that fails again and again."""

    def test_back_off(self) -> None:
        """`work` that raises: delays double up to the cap, the port queues meanwhile, and who waited is answered."""
        session = self.start(
            """
            from pathlib import Path
            from serving import serve

            def work(worker):
                if not Path("mended").exists():
                    raise LookupError("no data base called wiki")
                serve(worker)
            """
        )
        with session.connect() as waiting:
            waiting.sendall(b"GET / HTTP/1.0\r\n\r\n")
            steps = [self.death(session, number)["next_step"] for number in (1, 2, 3, 4, 5)]
            (session.folder / "mended").touch()
            self.assertTrue(waiting.makefile("rb").read().endswith(b"mended"))
        self.assertEqual(steps[0], "worker 2 is started now")
        for number, (step, longest) in enumerate(zip(steps[1:], (0.1, 0.2, 0.4, 0.4), strict=True), 2):
            head, tail = "a successor is started in ", f" s (death {number} in a row)"
            self.assertTrue(step.startswith(head) and step.endswith(tail), steps)
            # Up to a quarter is taken off by chance, and the text is rounded.
            delay = float(step.removeprefix(head).removesuffix(tail))
            self.assertTrue(longest * 0.75 - 0.051 <= delay <= longest + 0.051, steps)
        report = session.report_of(1)
        self.assertEqual((report["life"], report["cause"]["kind"]), ("activating", "exception"))
        self.assertEqual(report["cause"]["text"], "LookupError: no data base called wiki")
        self.assertIn('mysite.py", line 7, in work', report["cause"]["error"]["traceback"])
        self.assertEqual(session.get("/"), (200, b"mended"))
        self.assertEqual(len(session.reports()), 5)
        self.assertEqual(session.end(), 0)

    def test_delay_is_kept(self) -> None:
        """A process that ends while it imports is a death like any other; its successor waits as long as was told."""
        session = self.start(
            """
            import os
            print("last words", flush=True)
            os._exit(5)
            """,
            configuration="[restart]\ninitial_delay_seconds = 1\n",
        )
        self.assertTrue(self.death(session, 2)["next_step"].endswith(" (death 2 in a row)"))
        second, third = session.report_of(2), session.report_of(3)
        for report in (second, third):
            # It said nothing to the monitor: who knows what it was, and so the session goes on.
            self.assertEqual((report["life"], report["cause"]["kind"]), ("starting", "exit"))
            self.assertEqual(report["cause"]["text"], "it ended by itself with exit status 5")
            self.assertEqual(output(report), ["last words"])
        moments = [datetime.fromisoformat(report["at"]) for report in (second, third)]
        waited = (moments[1] - moments[0]).total_seconds() - third["uptime_seconds"]
        # 0.75 at least; a death is told only when its last words have been read, which may take its time.
        self.assertGreater(waited, 0.4)
        Path(session.folder, "mysite.py").write_text("from serving import serve as work")
        self.assertEqual(session.get("/"), (200, b"mended"))
        self.assertEqual(session.end(), 0)


class NeverReadyTests(StartsTestCase):
    """A start that comes to no end: after the start-up deadline it is a death, with every thread's stack."""

    def never_ready(self, app: str) -> TestSession:
        return self.start(app, "--startup-timeout", str(STARTUP_SECONDS), "--poll-timeout", "1")

    def test_never_ready(self) -> None:
        """A module that hangs, a `work` that waits for ever, a health route that answers 500, and nobody who listens."""
        hangs = self.never_ready(
            """
            import time

            def fetch_settings():
                time.sleep(3600)

            fetch_settings()
            """
        )
        waits = self.never_ready(
            """
            from twisted.internet.defer import Deferred

            def work(worker):
                return Deferred()
            """
        )
        answers_500 = self.never_ready(
            """
            from twisted.web.resource import Resource
            from twisted.web.server import Site

            class Broken(Resource):
                isLeaf = True

                def render_GET(self, request):
                    request.setResponseCode(500)
                    return b"no data base"

            def work(worker):
                worker.listen("server", Site(Broken()))
            """
        )
        deaf = self.never_ready("def work(worker): pass")
        report = hangs.report_of(1)
        self.assert_startup(report, "starting")
        self.assertIn("in fetch_settings", report["hung_at"])
        self.assertIn('mysite.py", line 5 in fetch_settings', report["stacks"])
        report = waits.report_of(1)
        self.assert_startup(report, "activating")
        self.assertIn("epollreactor.py", report["stacks"])
        self.assertEqual(report["beats"], [])
        report = answers_500.report_of(1)
        self.assert_startup(report, "activating", "; its health route came to: 500")
        self.assertEqual({(beat["ok"], beat["text"]) for beat in report["beats"]}, {(False, "500")})
        report = deaf.report_of(1)
        self.assert_startup(
            report, "activating", "; its health route came to: nothing listens on port 'server': .*"
        )
        self.assertIn("nothing listens on port 'server': call worker.listen", report["beats"][-1]["text"])
        for session in (hangs, waits, answers_500, deaf):
            died = session.wait_for("WorkerDied")
            self.assertEqual(died["next_step"], "worker 2 is started now")

    def assert_startup(self, report: dict[str, Any], life: str, tail: str = "") -> None:
        """The report is of a start that came to no end."""
        cause = report["cause"]
        self.assertEqual((cause["kind"], cause["signal"], report["life"]), ("startup", "SIGKILL", life))
        self.assertRegex(cause["text"], rf"^it was not ready within {STARTUP_SECONDS}\.\d s of {life}{tail}$")
        self.assertGreaterEqual(report["uptime_seconds"], STARTUP_SECONDS)
        self.assertIn("most recent call first", report["stacks"])
