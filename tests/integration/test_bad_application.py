"""Applications and agents that cannot be used: their author is told why, and the session ends where it must."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

from tests.integration.refusals import TWIST, TWISTD, RefusalTestCase
from tests.integration.sessions import TestSession

FILES = {
    "broken__py": """
        from inner import connect
        """,
    "inner__py": """
        def connect():
            raise ConnectionError("no data base at 5432")

        connect()
        """,
    "leaver__py": """
        import sys
        sys.exit("not today")
        """,
    "things__py": """
        from twisted.web.resource import Resource

        class Plain:
            pass

        class Needy(Resource):
            def __init__(self, database):
                super().__init__()

        root_page = Plain()
        """,
    "agents__py": """
        from pathlib import Path

        from twisted.web.resource import Resource
        from twisted.web.server import Site

        from serverworker import SessionAgent

        class Plain:
            pass

        class Needy(SessionAgent):
            def __init__(self, database):
                self.database = database

        class Forgetful(SessionAgent):
            def initialize_monitor(self, monitor):
                monitor.on("before", lambda args: "set up")
                self.open_mail()

            def open_mail(self):
                raise LookupError("no mail server")

            async def initialize_server_worker(self, worker):
                self.found = await worker.emit("before")
                worker.listen("server", Site(Telling(self)))

        class Telling(Resource):
            isLeaf = True

            def __init__(self, agent):
                super().__init__()
                self.agent = agent

            def render_GET(self, request):
                return " ".join(self.agent.found).encode()

        class Rotting(Forgetful):
            def initialize_monitor(self, monitor):
                monitor.on("before", lambda args: "set up")

            async def initialize_server_worker(self, worker):
                await super().initialize_server_worker(worker)
                if Path("rotten").exists():
                    raise LookupError("no data base called wiki")
        """,
}

THEIRS = ("site-packages", "serverworker/", "importlib", "runpy")
"""What has no place in a traceback that is shortened to what is the application's."""


class BadStartTestCase(RefusalTestCase):
    """Sessions in a folder with all of `FILES`."""

    def start(self, *arguments: str, **options: Any) -> TestSession:
        """Start one."""
        return self.session(*arguments, folder=self.folder(**FILES), **options)

    def ends_at_first_start(self, session: TestSession) -> dict[str, Any]:
        """See it end with 78 because its first worker cannot load; answers the cause in that worker's report."""
        self.ends(session, 78)
        ended = session.wait_for("SessionEnded")
        (report,) = session.reports()
        cause: dict[str, Any] = report["cause"]
        self.assertEqual(
            (ended["status"], ended["reason"], report["life"], cause["kind"], report["next_step"]),
            (78, cause["text"], "starting", "load", "the session ends with status 78"),
        )
        return cause

    def assert_theirs(self, traceback: str, *places: str) -> None:
        """It shows these places, in this order, and nobody else's frames."""
        found = [line.strip() for line in traceback.splitlines() if line.strip().startswith("File ")]
        self.assertEqual(len(found), len(places), traceback)
        for line, place in zip(found, places, strict=True):
            self.assertIn(place, line)
        self.assertEqual([text for text in THEIRS if text in traceback], [], traceback)


class ApplicationTests(BadStartTestCase):
    """`--app` names what cannot be run: the first start fails, so the session ends with 78."""

    def test_module_that_raises(self) -> None:
        """A module that raises is told with its own traceback, without our frames and the import machinery's."""
        session = self.start("--app", "broken:root")
        cause = self.ends_at_first_start(session)
        self.assertEqual(
            cause["text"],
            "the application cannot be loaded: --app broken:root: importing broken failed: "
            "ConnectionError: no data base at 5432",
        )
        traceback = cause["error"]["traceback"]
        self.assert_theirs(
            traceback, 'broken.py", line 2', 'inner.py", line 5', 'inner.py", line 3, in connect'
        )
        self.assertTrue(traceback.endswith("ConnectionError: no data base at 5432"), traceback)
        died = session.wait_for("WorkerDied")
        self.assertEqual(died["cause"]["error"]["traceback"], traceback)

    def test_no_module(self) -> None:
        """A module that is not there is told with the place that was searched; by `twist` too."""
        session = self.start("--app", "nowhere.web:root", runner=TWIST)
        cause = self.ends_at_first_start(session)
        self.assertIn(
            f"--app nowhere.web:root: there is no module 'nowhere'; looked in {session.folder}", cause["text"]
        )
        self.assertEqual(cause["error"]["traceback"], "")

    def test_module_that_exits(self) -> None:
        """A module that calls sys.exit ends no worker in silence: it is told as any other failure to import."""
        cause = self.ends_at_first_start(self.start("--app", "leaver:root"))
        self.assertIn("importing leaver failed: SystemExit: not today", cause["text"])
        self.assert_theirs(cause["error"]["traceback"], 'leaver.py", line 3')

    def test_no_attribute(self) -> None:
        """An attribute that is missing is told with the nearest one that is there."""
        cause = self.ends_at_first_start(self.start("--app", "things:rot_page"))
        self.assertIn("things has no attribute 'rot_page'; did you mean 'root_page'?", cause["text"])

    def test_no_known_kind(self) -> None:
        """What is none of the kinds of applications is told with all that it may be."""
        instance, plain, needy = (
            self.start("--app", f"things:{name}") for name in ("root_page", "Plain", "Needy")
        )
        may_be = "it may be a twisted.web Resource"
        text = self.ends_at_first_start(instance)["text"]
        self.assertIn("--app things:root_page is <things.Plain object", text)
        self.assertIn(may_be, text)
        text = self.ends_at_first_start(plain)["text"]
        self.assertIn("--app things:Plain is the class Plain; ", text)
        self.assertIn(may_be, text)
        text = self.ends_at_first_start(needy)["text"]
        self.assertIn("the class Needy cannot be made without arguments: TypeError: ", text)


class AgentTests(BadStartTestCase):
    """`--agent` names what is no agent, or one that fails."""

    def test_not_imported(self) -> None:
        """An agent that cannot be imported ends the session with 78 before a worker is started, with the cause."""
        sessions = [
            self.start("--agent", "broken:Agent", runner=runner, port=port)
            for runner, port in ((TWISTD, "unix:a.sock"), (TWIST, "tcp:0"))
        ]
        for session in sessions:
            text = self.ends(session, 78)
            self.assertIn("--agent broken:Agent: importing broken failed:\nTraceback", text)
            self.assertIn("\nConnectionError: no data base at 5432\n", text)
            self.assertEqual(session.events, [])
            traceback = text[text.index("Traceback") :].partition("\nMain loop")[0]
            self.assert_theirs(traceback, "broken.py", 'inner.py", line 5', 'inner.py", line 3')
        # What was made for the session is gone with it: the socket's file, and the lock.
        self.assertFalse(Path(sessions[0].folder, "a.sock").exists())

    def test_no_agent(self) -> None:
        """So does what is no agent, or cannot be made."""
        sessions = [self.start("--agent", f"agents:{name}") for name in ("Plain", "Needy", "Forgetfull")]
        plain, needy, missing = (self.ends(session, 78) for session in sessions)
        self.assertIn("it must be a subclass of serverworker.SessionAgent", plain)
        self.assertIn("--agent agents:Needy cannot be made without arguments:\nTypeError: ", needy)
        self.assertIn("agents has no attribute 'Forgetfull'; did you mean 'Forgetful'?", missing)

    def test_monitor_half_fails(self) -> None:
        """`initialize_monitor` that raises is reported, and the session goes on with what it had set up."""
        session = self.start("--agent", "agents:Forgetful")
        session.serving()
        fault = session.wait_for("Fault")
        self.assertEqual(fault["where"], "the agent's initialize_monitor")
        self.assertEqual(fault["next_step"], "the session goes on with what it had set up")
        self.assertEqual(fault["error"]["message"], "no mail server")
        self.assertIn("in open_mail", fault["error"]["traceback"])
        self.assertEqual(session.get("/"), (200, b"set up"))
        self.assertEqual(session.end(), 0)

    def test_worker_half_fails(self) -> None:
        """`initialize_server_worker` that raises ends the session with 78 at the first start."""
        folder = self.folder(rotten="", **FILES)
        cause = self.ends_at_first_start(self.session("--agent", "agents:Rotting", folder=folder))
        self.assertEqual(
            cause["text"], "the application cannot be loaded: LookupError: no data base called wiki"
        )
        self.assert_theirs(cause["error"]["traceback"], "in initialize_server_worker")

    def test_worker_half_fails_later(self) -> None:
        """Later the same is a bad deploy: it is reported and dropped, and the old workers go on."""
        session = self.start("--agent", "agents:Rotting")
        session.serving()
        # What stands by has loaded the code that is still good; one that is started later would rot as well.
        session.standby_ready()
        pid = session.server_pid
        Path(session.folder, "rotten").touch()
        session.process.send_signal(signal.SIGHUP)
        failed = session.wait_for("RestartFailed")
        self.assertIn("no data base called wiki", failed["text"])
        session.report_of(session.wait_for("WorkerDied")["worker"])
        self.assertEqual(session.get("/"), (200, b"set up"))
        self.assertEqual((session.server_pid, len(session.reports())), (pid, 1))
        self.assertEqual(session.end(), 0)
