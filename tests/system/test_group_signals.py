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
