"""Metrics as Prometheus' own checker sees them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess

from tests.integration.sessions import LONG
from tests.integration.test_monitoring import MonitoringTestCase
from tests.system import SKIP


class PromtoolTests(MonitoringTestCase):
    """`promtool check metrics`, of Debian's package prometheus."""

    skip = SKIP or (None if shutil.which("promtool") else "needs promtool, of Debian's package prometheus")

    def test_clean(self) -> None:
        """It finds nothing to say: not of a session that begins, nor of one that has crashed and restarted."""
        session = self.begin()
        session.wait_for("SessionStarted")
        self.assert_clean()
        self.let_load()
        session.serving()
        os.kill(session.server_pid, signal.SIGKILL)
        session.serving(2)
        session.process.send_signal(signal.SIGHUP)
        session.wait_for("RestartCompleted")
        self.wait_for_metric("serverworker_generation", 2)
        self.assert_clean()

    def assert_clean(self) -> None:
        done = subprocess.run(
            ["promtool", "check", "metrics"],
            input=self.ask("/metrics")[1],
            capture_output=True,
            text=True,
            timeout=LONG,
            check=False,
        )
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""))
