"""A signal to every process of a session at once, in any order and at any moment: too long for the everyday tests."""

from __future__ import annotations

import os
import signal
import time

from tests.integration.sessions import is_alive, wait_until
from tests.integration.test_group_signals import (
    APPLICATION,
    BEFORE_THE_MONITOR_SECONDS,
    GroupSignalTestCase,
    monitor_last,
    processes_of,
    shuffled,
)
from tests.system import SKIP


class OrderTests(GroupSignalTestCase):
    """A request in flight, and each order."""

    skip = SKIP

    def test_orders(self) -> None:
        """The monitor first, as systemd has it; last, as a shutdown may have it; anywhere."""
        for order in (list, monitor_last, shuffled, shuffled):
            self.strike(signal.SIGTERM, order)
        self.strike(signal.SIGINT, monitor_last)


HANGING = """
    import time

    from serverworker import ServerWorker, SessionAgent
    from twisted.internet import reactor
    from twisted.web.resource import Resource

    class Root(Resource):
        isLeaf = True
        def render_GET(self, request):
            ServerWorker.current().emit("hang").addErrback(lambda failure: None)
            return b"done"

    class Agent(SessionAgent):
        async def initialize_monitor(self, monitor):
            monitor.on("hang", lambda args: reactor.callLater(0.2, self.hang))
        def hang(self):
            print("hangs", flush=True)
            time.sleep(6)

    root = Root()
    """


class HangTests(GroupSignalTestCase):
    """A monitor that does not turn meanwhile."""

    skip = SKIP

    def test_workers_end_without_its_word(self) -> None:
        """They wait two seconds for it, then drain and end; once it turns again, it knows that nobody has died."""
        session = self.session(
            "--app", "hanging:root", "--agent", "hanging:Agent", folder=self.folder(hanging__py=HANGING)
        )
        session.standby_ready_or_loaded()
        session.get("/")
        wait_until(lambda: "hangs" in session.transcript(), "the hang")
        pids = processes_of(session)
        for pid in monitor_last(pids):
            os.kill(pid, signal.SIGTERM)
        self.assertEqual(session.exit_status(), 0, session.transcript())
        self.assertNotIn("WorkerDied", [event["event"] for event in session.events], session.transcript())
        self.assertEqual(session.reports(), [])
        wait_until(lambda: not any(map(is_alive, pids)), "the end of all")


class MomentTests(GroupSignalTestCase):
    """Whatever is going on."""

    skip = SKIP

    def test_while_things_start(self) -> None:
        """From the first worker's start on: no death, no report, nothing left; the status is 0."""
        for event in ("WorkerSpawned", "WorkerLoaded", "ServerRunning", "RestartStarted", "WorkerDraining"):
            self.strike_at(event)

    def strike_at(self, event: str) -> None:
        """The monitor is the last, so that those who have no handler yet have died before it hears of it."""
        session = self.session(
            "--app", "slow:root", "--workers", "2", folder=self.folder(slow__py=APPLICATION)
        )
        if event in ("RestartStarted", "WorkerDraining"):
            session.serving(2)
            session.process.send_signal(signal.SIGHUP)
        session.wait_for(event)
        pids = processes_of(session)
        for pid in pids[1:]:
            os.kill(pid, signal.SIGTERM)
        time.sleep(BEFORE_THE_MONITOR_SECONDS)
        os.kill(session.process.pid, signal.SIGTERM)
        self.assertEqual(session.exit_status(), 0, session.transcript())
        died = [each for each in session.events if each["event"] == "WorkerDied"]
        self.assertEqual(died, [], session.transcript())
        self.assertEqual(session.reports(), [])
        wait_until(lambda: not any(map(is_alive, pids)), "the end of all")
