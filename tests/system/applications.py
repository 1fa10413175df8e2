"""What every framework is put through: the proofs that its application is kept alive as ours are."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import ClassVar

from tests.integration.sessions import SessionTestCase, TestSession, wait_until

AGENT = """
from pathlib import Path

from serverworker import SessionAgent

class Agent(SessionAgent):
    async def initialize_server_worker(self, worker):
        worker.add_exit_handler(lambda reason: Path("exits").open("a").write(f"{worker.id} {reason.kind.value}\\n"))
"""
"""A session agent beside the application, whose exit handler leaves a line."""

CONFIGURATION = """
[polling]
route = "/health"
interval_seconds = 0.5
timeout_seconds = 1
failure_tolerance = 1
[drain]
timeout_seconds = 10
"""


class ApplicationProof(SessionTestCase):
    """A mix-in: a framework's application in a session, and what it is put through.

    The application has these routes: ``/health`` and ``/``, whose answer ends in the word ``good``; ``/crash``, which
    ends the process with status 7; ``/hang``, which never answers and takes whatever answers with it, at a line that
    says ``HANGS HERE``; ``/stream``, which sends 30 pieces, the last one ``end``, in a second and a half; and
    ``/sicken``, after which ``/health`` of that worker answers 500.
    """

    options: ClassVar[tuple[str, ...]]
    """Those that name the application, such as ``("--wsgi", "shop:app")``."""
    module: ClassVar[str]
    """The file that a deploy replaces, such as ``shop.py``."""
    bad: ClassVar[str] = "import nothing_of_that_name\n"
    """Code that cannot be loaded, and whose error has that name in it."""
    hangs: ClassVar[int] = 1
    """How many requests of ``/hang`` it takes until nothing else is answered."""

    def files(self) -> dict[str, str]:
        """The application's files, by name."""
        raise NotImplementedError

    def prepare(self, folder: Path) -> None:
        """What else the application needs there, such as its database."""

    def begin(self, *more: str) -> TestSession:
        """A session with this application, an agent beside it, and a standby that waits."""
        folder = self.folder()
        for name, text in {**self.files(), "exit_agent.py": AGENT, "proof.toml": CONFIGURATION}.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        self.prepare(folder)
        options = ("--config", "proof.toml", "--agent", "exit_agent:Agent", *more)
        words = self.options
        session = self.session(*(options + words if "--" in words else words + options), folder=folder)
        session.serving()
        session.standby_ready_or_loaded()
        return session

    def exits(self, session: TestSession) -> list[list[str]]:
        """What the exit handlers have written: worker, kind."""
        path = session.folder / "exits"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def check_served(self, session: TestSession) -> None:
        """It answers, and its heartbeat is good."""
        status, body = session.get("/")
        self.assertEqual((200, b"good"), (status, body[-4:]))
        self.assertEqual([], session.reports())

    def check_crash(self, session: TestSession) -> None:
        """A worker that ends under a request costs that request alone; its status is in the report."""
        worker = session.serving()[-1]["worker"]
        with self.clients(session) as clients:
            clients.wait_for_answers(20)
            with self.assertRaises(OSError):
                self.ask_raw(session, "/crash")
            report = session.report_of(worker)
            session.wait_for("ServerRunning", matching=lambda event: event["worker"] > worker)
            clients.wait_for_answers(20)
        self.assertEqual(7, report["cause"]["exit_status"])
        self.assertIn("/crash", json.dumps(report))
        # Those who were inside the process at that moment are what a crash costs.
        self.assertLessEqual(len(clients.failures), 4)

    def ask_raw(self, session: TestSession, path: str) -> bytes:
        """One request, whose connection is expected to break: OSError where nothing at all comes."""
        with session.connect() as connection:
            connection.sendall(b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n" % path.encode())
            answer = connection.recv(1000)
        if not answer:
            raise ConnectionResetError("closed without an answer")
        return answer

    def check_hang(self, session: TestSession) -> None:
        """A worker whose application hangs is replaced, and the report names the line and the request."""
        worker = session.serving()[-1]["worker"]
        connections = [session.connect() for _ in range(self.hangs)]
        for connection in connections:
            self.addCleanup(connection.close)
            connection.sendall(b"GET /hang HTTP/1.1\r\nHost: a\r\n\r\n")
        report = session.report_of(worker)
        text = json.dumps(report)
        line = next(
            number
            for number, words in enumerate((session.folder / self.module).read_text().splitlines(), 1)
            if "HANGS HERE" in words
        )
        self.assertIn(f'{self.module}\\", line {line} in', text)
        self.assertIn("/hang", text)
        session.wait_for("ServerRunning", matching=lambda event: event["worker"] > worker)
        self.check_answers(session)

    def check_answers(self, session: TestSession) -> None:
        """It answers still."""
        self.assertEqual(200, session.get("/")[0])

    def check_restart_under_load(self, session: TestSession, restarts: int = 2) -> None:
        """No request fails, on new connections or kept ones."""
        with self.clients(session) as new, self.clients(session, keeps=True) as kept:
            for _ in range(restarts):
                after = len(session.events)
                session.process.send_signal(signal.SIGHUP)
                session.wait_for("RestartCompleted", after=after)
                for clients in (new, kept):
                    clients.wait_for_answers(20)
        self.assertEqual(([], []), (new.failures, kept.failures))
        self.assertEqual([], [event for event in session.events if event["event"] == "WorkerDied"])

    def check_bad_deploy(self, session: TestSession, module: str = "") -> None:
        """Broken code is dropped and reported while the old one goes on; the good one takes over again."""
        path = session.folder / (module or self.module)
        good = path.read_text()
        with self.clients(session) as clients:
            path.write_text(self.bad)
            after = len(session.events)
            session.process.send_signal(signal.SIGHUP)
            session.wait_for("RestartFailed", after=after)
            died = session.wait_for("WorkerDied", after=after)
            self.assertIn("nothing_of_that_name", json.dumps(session.report_of(died["worker"])))
            clients.wait_for_answers(20)
            path.write_text(good)
            after = len(session.events)
            session.process.send_signal(signal.SIGHUP)
            session.wait_for("RestartCompleted", after=after)
            clients.wait_for_answers(20)
        self.assertEqual([], clients.failures)

    def check_drain_with_stream(self, session: TestSession) -> None:
        """A stream that is open when its worker is to end comes to its own end, and the next one serves meanwhile."""
        pid = session.server_pid
        with session.connect() as connection:
            connection.sendall(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n")
            self.assertIn(b" 200 ", connection.recv(1000))
            after = len(session.events)
            session.process.send_signal(signal.SIGHUP)
            session.wait_for("RestartCompleted", after=after)
            self.check_answers(session)
            self.assertNotEqual(pid, session.server_pid)
            data = b""
            while b"end" not in data:
                piece = connection.recv(65536)
                self.assertTrue(piece, f"the stream was cut short behind {data[-200:]!r}")
                data += piece
        session.wait_for("WorkerExited", after=after)

    def check_exit_handlers(self, session: TestSession) -> None:
        """The handlers of the agent beside the application run, at a restart and at the session's end, which is 0."""
        worker = session.serving()[-1]["worker"]
        session.process.send_signal(signal.SIGHUP)
        wait_until(lambda: [str(worker), "restart"] in self.exits(session), "the exit handler of a restart")
        session.wait_for("ServerRunning", matching=lambda event: event["worker"] > worker)
        last = session.serving()[-1]["worker"]
        self.assertEqual(0, session.end())
        self.assertIn([str(last), "session-end"], self.exits(session))

    def check_heartbeat(self, session: TestSession) -> None:
        """A worker whose health route fails is replaced, though it answers all else; the report names the answer."""
        worker = session.serving()[-1]["worker"]
        with self.clients(session) as clients:
            self.assertEqual(200, session.get("/sicken")[0])
            report = session.report_of(worker)
            session.wait_for("ServerRunning", matching=lambda event: event["worker"] > worker)
            clients.wait_for_answers(20)
        self.assertEqual("heartbeat", report["cause"]["kind"])
        self.assertIn("500", report["cause"]["text"])
