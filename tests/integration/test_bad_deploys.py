"""A bad deploy never takes over: the old workers go on, and the report says what is wrong with the new code."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from tests.integration.sessions import SessionTestCase, TestSession

GOOD = """
from twisted.web.resource import Resource
from twisted.web.server import Site

class Root(Resource):
    isLeaf = True

    def render_GET(self, request):
        return b"good"

def work(worker):
    worker.listen("server", Site(Root()))
"""

CONFIGURATION = """
[app]
resource = "deployed:work"
[polling]
route = "/"
timeout_seconds = 1
[startup]
timeout_seconds = {startup}
"""

DEPLOYS = {
    "syntax": ("def work(worker)\n    pass\n", "SyntaxError", "load"),
    "import": ("import nothing_of_that_name\n", "No module named 'nothing_of_that_name'", "load"),
    "attribute": ("def wrok(worker): pass\n", "did you mean 'wrok'?", "load"),
    "work": ("def work(worker):\n    raise RuntimeError('no such table')\n", "no such table", "exception"),
    "exit": ("import os\nos._exit(5)\n", "exit status 5", "exit"),
    "never ready": ("def work(worker):\n    print('I listen later')\n", "was not ready within", "startup"),
    "500": (GOOD.replace('return b"good"', "1 / 0"), "was not ready within", "startup"),
    "hang": ("import time\ndef work(worker):\n    time.sleep(3600)\n", "in work", "startup"),
}
"""New code, what the report has to say of it, and the kind of its cause."""


STARTUP_SECONDS = {"never ready": 1, "500": 1, "hang": 5}
"""Those that come to no end by themselves. The last one has to have begun, on however busy a machine."""


class BadDeployTests(SessionTestCase):
    """Each kind of broken code, deployed at noon under clients."""

    def begin(self) -> TestSession:
        """A session that serves good code."""
        self.path = self.folder(deployed__py=GOOD, serverworker__toml=CONFIGURATION.format(startup=60))
        session = self.session("--config", "serverworker.toml", folder=self.path)
        session.serving()
        session.standby_ready_or_loaded()
        return session

    def deploy(self, session: TestSession, code: str, startup: int = 60) -> None:
        """Put new code in place, and ask for a restart; `startup` is the deadline of the new workers' start."""
        (self.path / "serverworker.toml").write_text(CONFIGURATION.format(startup=startup))
        (self.path / "deployed.py").write_text(code)
        session.process.send_signal(signal.SIGHUP)

    def test_each(self) -> None:
        """It is dropped and reported, no request fails meanwhile, and the next good one takes over."""
        session = self.begin()
        with self.clients(session) as clients:
            for name, (code, says, kind) in DEPLOYS.items():
                after = len(session.events)
                self.deploy(session, code, startup=STARTUP_SECONDS.get(name, 60))
                failed = session.wait_for("RestartFailed", after=after)
                self.assertEqual(kind, failed["cause"]["kind"], name)
                died = session.wait_for("WorkerDied", after=after)
                self.assertIn("goes on", died["next_step"], name)
                report = session.report_of(died["worker"])
                self.assertIn(says, json.dumps(report), name)
                clients.wait_for_answers(10)
            after = len(session.events)
            self.deploy(session, GOOD.replace("good", "better"))
            session.wait_for("RestartCompleted", after=after)
            session.wait_for("RestartProgress", after=after)
            clients.wait_for_answers(10)
            self.assertEqual((200, b"better"), session.get("/"))
        self.assertEqual([], clients.failures)

    def test_a_switched_link(self) -> None:
        """`current` is switched to a new release: a death before the restart is followed by the old release."""
        path = self.folder()
        for name in ("one", "two"):
            (path / name).mkdir()
            (path / name / "deployed.py").write_text(GOOD.replace("good", name))
        current = path / "current"
        current.symlink_to("one")
        text = CONFIGURATION.format(startup=60).replace("[app]", '[app]\ndirectory = "current"')
        (path / "serverworker.toml").write_text(text)
        session = self.session("--config", "serverworker.toml", folder=path)
        session.serving()
        self.assertEqual((200, b"one"), session.get("/"))
        session.standby_ready_or_loaded()
        self.switch(current, "two")
        worker = session.serving()[0]["worker"]
        os.kill(session.pid_of(worker), signal.SIGKILL)
        session.serving(2)
        self.assertEqual((200, b"one"), session.get("/"))
        session.process.send_signal(signal.SIGHUP)
        session.wait_for("RestartCompleted")
        session.wait_for("RestartProgress")
        self.assertEqual((200, b"two"), session.get("/"))

    def switch(self, link: Path, to: str) -> None:
        """As a deploy does it, in one step."""
        fresh = link.with_name("fresh")
        fresh.symlink_to(to)
        fresh.rename(link)
