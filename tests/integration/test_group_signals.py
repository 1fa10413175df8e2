"""A signal to every process of a session at once, as systemd sends it with ``KillMode=control-group``."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.integration.sessions import LONG, SessionTestCase, TestSession, is_alive, wait_until

APPLICATION = """
    from twisted.internet import reactor
    from twisted.web.resource import Resource
    from twisted.web.server import NOT_DONE_YET

    class Slow(Resource):
        def render_GET(self, request):
            print("at it", flush=True)
            reactor.callLater(0.7, self.finish, request)
            return NOT_DONE_YET
        def finish(self, request):
            request.write(b"done")
            request.finish()

    root = Resource()
    root.putChild(b"slow", Slow())
    """

BEFORE_THE_MONITOR_SECONDS = 0.1
"""More than it takes from a signal to a worker until the monitor has heard of it."""


def processes_of(session: TestSession) -> list[int]:
    """The monitor, and all that it has started: workers, standbys, those that are starting, the guardian."""
    found = [session.process.pid]
    for pid in found:
        for path in Path(f"/proc/{pid}/task").glob("*/children"):
            found += map(int, path.read_text().split())
    return found


def monitor_last(pids: list[int]) -> list[int]:
    """Every other process before the monitor."""
    return [*pids[1:], pids[0]]


def shuffled(pids: list[int]) -> list[int]:
    """Any order."""
    return random.sample(pids, len(pids))


class GroupSignalTestCase(SessionTestCase):
    """A session with a request in flight, all of which is sent a signal."""

    def strike(self, number: int, order: Callable[[list[int]], list[int]]) -> None:
        """The request in flight is answered, the status is 0, nothing is reported, nothing is left."""
        session = self.session("--app", "slow:root", folder=self.folder(slow__py=APPLICATION))
        session.standby_ready_or_loaded()
        answers: list[tuple[int, bytes]] = []
        asking = threading.Thread(target=lambda: answers.append(session.get("/slow")), daemon=True)
        asking.start()
        session.wait_for("OutputLine", matching=lambda event: "at it" in event["text"])
        pids = processes_of(session)
        for pid in order(pids):
            if pid == session.process.pid:
                time.sleep(BEFORE_THE_MONITOR_SECONDS)  # so that it hears of the others' first
            os.kill(pid, number)
        self.assertEqual(session.exit_status(), 0, session.transcript())
        asking.join(LONG)
        self.assertEqual(answers, [(200, b"done")], session.transcript())
        told = [event["event"] for event in session.events]
        self.assertNotIn("WorkerDied", told, session.transcript())
        self.assertEqual(session.reports(), [])
        wait_until(lambda: not any(map(is_alive, pids)), "the end of all")


class GroupSignalTests(GroupSignalTestCase):
    """Two of the orders; tests/system/test_group_signals.py tries them all, and while things are moving."""

    def test_sigterm(self) -> None:
        """SIGTERM, the monitor last: what the workers say of it comes first, and is no death."""
        self.strike(signal.SIGTERM, monitor_last)

    def test_sigint(self) -> None:
        """SIGINT, in any order."""
        self.strike(signal.SIGINT, shuffled)


EARLY = """
import os, signal
from twisted.internet import reactor
from serverworker.processes import entry

def told():
    print("told")
    reactor.stop()

reactor.callWhenRunning(os.kill, os.getpid(), signal.SIGTERM)
entry._take_signals(reactor, told)
reactor.callLater(30, os._exit, 3)
reactor.run()
"""


class EarlySignalTests(SynchronousTestCase):
    """SIGTERM in the moment in which a worker's reactor begins to run."""

    def test_before_the_handler(self) -> None:
        """It waits for our handler: Twisted's would end the reactor, and the worker that has just joined with 1."""
        done = subprocess.run(
            [sys.executable, "-c", EARLY], capture_output=True, text=True, timeout=LONG, check=False
        )
        self.assertEqual((done.returncode, done.stdout), (0, "told\n"), done.stderr)
