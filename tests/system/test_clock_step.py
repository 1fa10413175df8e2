"""The wall clock stepped by a day, as by a first answer of NTP: with libfaketime in the monitor and in every worker."""

from __future__ import annotations

import os
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.integration.sessions import SessionTestCase, TestSession, wait_until
from tests.system import SKIP

LIBRARY = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))), None)

CONFIGURATION = """
[polling]
route = "/heartbeat"
interval_seconds = 0.1
[watchdog]
interval_seconds = 0.1
timeout_seconds = 5
[limits]
lifetime_seconds = 3600
"""


class ClockStepTests(SessionTestCase):
    """Nothing that is timed heeds the wall clock; what is written down does."""

    skip = SKIP or (None if LIBRARY else "needs libfaketime, of Debian's package faketime")

    def test_a_day_on_and_back(self) -> None:
        """No heartbeat fails, nobody is replaced and no request is lost; a report written then has the new date."""
        folder = self.folder(serverworker__toml=CONFIGURATION)
        clock = folder / "clock"
        clock.write_text("+0")
        session = self.session(
            "--config",
            "serverworker.toml",
            folder=folder,
            environment={
                "LD_PRELOAD": str(LIBRARY),
                "FAKETIME_TIMESTAMP_FILE": str(clock),
                "FAKETIME_NO_CACHE": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            },
        )
        session.serving()
        session.standby_ready()
        with self.clients(session, "/heartbeat") as clients:
            for step in ("+1d", "-1d", "+0", "+1d"):
                self.set(clock, step)
                clients.wait_for_answers(300)
            self.assertEqual(self.told(session), [])
            first = session.serving()[0]["worker"]
            os.kill(session.pid_of(first), signal.SIGKILL)
            report = session.report_of(first)
            clients.wait_for_answers(100)
        ahead = datetime.fromisoformat(report["at"]) - datetime.now(UTC)
        self.assertLess(abs(ahead - timedelta(days=1)), timedelta(minutes=5))
        self.assertLess(report["uptime_seconds"], 600)
        wait_until(lambda: len(session.serving()) == 2, "the successor")
        # Four clients: each may have had a request inside the killed process.
        self.assertLessEqual(len(clients.failures), 4, clients.failures)
        self.assertEqual(session.end(), 0)

    def set(self, clock: Path, step: str) -> None:
        """In one step: it is read at every call."""
        fresh = clock.with_name("fresh")
        fresh.write_text(step)
        fresh.rename(clock)

    def told(self, session: TestSession) -> list[str]:
        """What nobody may have been told so far."""
        names = ("WorkerDied", "WorkerDraining", "WorkerExited", "HeartbeatFailed", "Fault")
        return [str(event) for event in session.events if event["event"] in names]
