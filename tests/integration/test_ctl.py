"""`serverworkerctl` as a process of its own, against a real session."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.integration.programs import own_environment
from tests.integration.sessions import LONG, SessionTestCase, TestSession
from tests.integration.terminal import Terminal

APPLICATION = """
    from twisted.web.resource import Resource

    class Root(Resource):
        isLeaf = True

        def render_GET(self, request):
            if request.path != b"/":  # a heartbeat's
                print("hello", request.path.decode())
            return b"fine"
"""

AGENT = """
    from serverworker import SessionAgent

    class Agent(SessionAgent):
        async def initialize_monitor(self, monitor):
            monitor.add_console_command("backup", ["full|quick"], lambda mode: f"{mode} backup", "zip the pages")
            monitor.on("count", lambda args: args["n"] + 1)
"""


class CtlTestCase(SessionTestCase):
    def ctl(self, *arguments: str, more: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        return subprocess.run(
            [sys.executable, "-m", "serverworker.ctl", *arguments],
            env=own_environment(more or {}),
            capture_output=True,
            text=True,
            timeout=LONG,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def of(self, session: TestSession, *words: str) -> subprocess.CompletedProcess[str]:
        return self.ctl("--state-dir", str(session.state_directory), *words)

    def fine(self, session: TestSession, *words: str) -> str:
        """What it prints where it succeeds."""
        done = self.of(session, *words)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return done.stdout

    def refused(self, status: int, session: TestSession, *words: str) -> str:
        """What it says where it fails with this status."""
        done = self.of(session, *words)
        self.assertEqual((done.returncode, done.stdout), (status, ""))
        return done.stderr

    def open(self, terminal: Terminal, *arguments: str, home: Path) -> subprocess.Popen[bytes]:
        """Start it on a terminal of its own."""
        process = subprocess.Popen(
            [sys.executable, "-m", "serverworker.ctl", *arguments],
            env=own_environment({"TERM": "xterm", "XDG_STATE_HOME": str(home)}),
            stdin=terminal.descriptor,
            stdout=terminal.descriptor,
            stderr=terminal.descriptor,
            start_new_session=True,
        )
        self.addCleanup(process.wait, LONG)
        self.addCleanup(process.kill)
        return process


class CommandTests(CtlTestCase):
    """Its commands, each with its answer and its exit status."""

    def test_all(self) -> None:
        """One session through all of them: what works, what is refused, and what the audit has of it."""
        folder = self.folder(mysite__py=APPLICATION, agent__py=AGENT)
        session = self.session("--app", "mysite:Root", "--agent", "agent:Agent", folder=folder)
        session.serving()
        self.assertIn("generation 1: 1 of 1 serving", self.fine(session, "status"))
        status = json.loads(self.fine(session, "status", "--json"))
        self.assertEqual((status["schema"], status["phase"], status["serving"]), (1, "running", 1))
        self.assertIn("backup full|quick", self.fine(session, "help"))
        self.assertEqual(self.fine(session, "backup", "quick"), "quick backup\n")
        self.assertEqual(self.fine(session, "emit", "count", '{"n": 2}', "to", "monitor"), "monitor: [3]\n")
        session.get("/page")
        session.wait_for("OutputLine", matching=lambda event: event["text"] == "hello /page")
        self.assertIn("hello /page", self.fine(session, "logs"))
        lines = json.loads(self.fine(session, "logs", "--json", "--last", "1"))
        self.assertEqual((len(lines), lines[0]["event"]), (1, "OutputLine"))
        self.assertEqual(self.fine(session, "crashes"), "no worker has died unasked\n")
        self.assertEqual(self.fine(session, "set", "polling", "5"), "every worker polls itself every 5 s\n")
        self.assertEqual(self.fine(session, "restart", "clean"), "generation 2 serves\n")
        self.assertEqual(
            json.loads(self.fine(session, "--json", "restart", "force")), {"text": "generation 3 serves"}
        )
        self.crash(session)
        self.refusals(session)
        done = [(each["action"], each["ok"]) for each in session.events if each["event"] == "OperatorAction"]
        self.assertIn(("restart clean", True), done)
        self.assertIn(("set workers 0", False), done)
        self.assertIn("the session has ended", self.fine(session, "exit", "clean"))
        self.assertEqual(session.process.wait(LONG), 0)
        self.assertIn("no session runs", self.refused(69, session, "status"))

    def refusals(self, session: TestSession) -> None:
        self.assertIn("did you mean 'restart'?", self.refused(64, session, "restrat"))
        self.assertIn("usage: exit clean|force", self.refused(64, session, "exit"))
        self.assertIn("1 to 1000, not 0", self.refused(1, session, "set", "workers", "0"))
        self.assertIn("nobody handles 'nothing'", self.refused(1, session, "emit", "nothing"))
        done = self.of(session, "--json", "set", "workers", "0")
        self.assertEqual(json.loads(done.stdout)["error"]["type"], "ConfigurationError")
        (session.folder / "mysite.py").write_text("syntax error(")
        self.assertIn("SyntaxError", self.refused(1, session, "restart", "clean"))
        (session.folder / "mysite.py").write_text("class Root: pass")

    def crash(self, session: TestSession) -> None:
        died = len(session.events)
        os.kill(json.loads(self.fine(session, "status", "--json"))["workers"][0]["pid"], signal.SIGKILL)
        session.wait_for("CrashReportWritten", after=died)
        session.wait_for("ServerRunning", after=died)
        self.assertIn("killed by SIGKILL", self.fine(session, "crashes"))
        self.assertIn("cause     signal: killed by SIGKILL", self.fine(session, "crashes", "last"))
        report = json.loads(self.fine(session, "crashes", "last", "--json"))
        self.assertEqual(report["cause"]["signal"], "SIGKILL")
        found = json.loads(self.fine(session, "events", "--json", "--kind", "WorkerDied", "--since", "5m"))
        self.assertIn("killed by SIGKILL", [each["fields"]["cause"]["text"] for each in found])

    def test_found_by_itself(self) -> None:
        """A session in its usual place needs no --state-dir; with none there, it says what to do."""
        home = self.folder()
        environment = {"XDG_STATE_HOME": str(home), "XDG_RUNTIME_DIR": ""}
        none = self.ctl("status", more=environment)
        self.assertEqual(none.returncode, 69)
        self.assertIn("start one with `twistd serverworker --port 8080`", none.stderr)


class FollowTests(CtlTestCase):
    """``--follow``, ``--watch`` and the shell."""

    def test_events(self) -> None:
        """What comes is printed as it comes; ^C ends it with 0, the end of the session with 69."""
        session = self.session()
        session.serving()
        arguments = [
            "--state-dir",
            str(session.state_directory),
            "events",
            "--follow",
            "--kind",
            "PollingChanged",
        ]
        for how in ("interrupt", "exit"):
            process = subprocess.Popen(
                [sys.executable, "-u", "-m", "serverworker.ctl", *arguments],
                env=own_environment({}),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            self.addCleanup(process.kill)
            assert process.stdout is not None
            # It may not have subscribed yet when the first is told: then that is among what there was.
            self.fine(session, "set", "polling", "7")
            self.assertIn("heartbeats come every 7 s", process.stdout.readline())
            if how == "interrupt":
                process.send_signal(signal.SIGINT)
            else:
                self.fine(session, "exit", "force")
            _, error = process.communicate(timeout=LONG)
            if how == "exit":
                self.assertEqual(process.returncode, 69)
                self.assertIn("the session is gone", error)
            else:
                self.assertEqual((process.returncode, error), (0, ""))

    def test_logs(self) -> None:
        """Every line is printed once, whether it was there before or comes later."""
        session = self.session("--app", "mysite:Root", folder=self.folder(mysite__py=APPLICATION))
        session.serving()
        for number in range(3):
            session.get(f"/{number}")
        follow = (sys.executable, "-u", "-m", "serverworker.ctl")
        process = subprocess.Popen(
            [*follow, "--state-dir", str(session.state_directory), "logs", "--follow", "--last", "3"],
            env=own_environment({}),
            stdout=subprocess.PIPE,
            text=True,
        )
        self.addCleanup(process.wait, LONG)
        self.addCleanup(process.kill)
        assert process.stdout is not None
        self.addCleanup(process.stdout.close)
        before = [process.stdout.readline().split()[-1] for _ in range(3)]
        for number in range(3, 6):
            session.get(f"/{number}")
        after = [process.stdout.readline().split()[-1] for _ in range(3)]
        self.assertEqual(before + after, [f"/{number}" for number in range(6)])

    def test_watch(self) -> None:
        """A table that keeps up with the session."""
        session = self.session()
        session.serving()
        terminal = Terminal()
        self.addCleanup(terminal.close)
        process = self.open(
            terminal, "--state-dir", str(session.state_directory), "status", "--watch", home=self.folder()
        )
        terminal.output.wait_for("generation 1: 1 of 1 serve")
        self.fine(session, "set", "workers", "2")
        terminal.output.wait_for("2 of 2 serve")
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(LONG), 0)

    def test_shell(self) -> None:
        """Commands one after the other, completed and remembered; a bad one does not end it, nor does the session's end."""
        session = self.session()
        session.serving()
        terminal, home = Terminal(), self.folder()
        self.addCleanup(terminal.close)
        process = self.open(terminal, "--state-dir", str(session.state_directory), home=home)
        terminal.output.wait_for("Tab completes")
        terminal.press("stat\t")
        terminal.output.wait_for("status")
        terminal.press("\r")
        terminal.output.wait_for("1 of 1 serving")
        terminal.press("restrat\r")
        terminal.output.wait_for("did you mean 'restart'")
        terminal.press("exit clean\r")
        terminal.output.wait_for("the session has ended")
        self.assertEqual(session.process.wait(LONG), 0)
        terminal.press("status\r")
        error = terminal.output.wait_for("error: no session runs")
        # ^D means something else to a terminal that no prompt has taken over.
        terminal.output.wait_for("serverworker>", after=error.end())
        terminal.press(chr(4))
        self.assertEqual(process.wait(LONG), 0)
        history = home / "serverworker" / "ctl_history"
        self.assertIn("exit clean", history.read_text())
        self.assertEqual(history.stat().st_mode & 0o777, 0o600)
