"""No process can be started for a while (EAGAIN), as where a container has used up its `pids.max`."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from serverworker.processes.descendants import children_of
from serverworker.processes.fork_channel import FORK_SERVER
from tests.integration.faults.ground import Ground
from tests.integration.sessions import SessionTestCase, wait_until
from tests.system import SKIP


def new_group() -> Path | None:
    """An empty control group that limits processes, of version 1 or 2; None where none can be had."""
    for base in (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup")):
        group = base / f"serverworker-test-{os.getpid()}"
        with contextlib.suppress(OSError):
            group.mkdir()
            if (group / "pids.max").exists():
                return group
            group.rmdir()
    return None


def fork_servers(monitor: int) -> list[int]:
    """The children of a monitor that fork workers for it."""
    return [
        child.pid
        for child in children_of(monitor)
        if FORK_SERVER.encode() in Path("/proc", str(child.pid), "cmdline").read_bytes()
    ]


class ProcessLimitTests(SessionTestCase):
    """The monitor and its fork server alone are limited, so that no fault of the machine is made."""

    skip = SKIP

    def test_eagain(self) -> None:
        """The standby serves, the start is tried again until it succeeds, and nobody waits for it."""
        group = new_group()
        if group is None:  # a container's root may not be allowed to, and nothing else limits root
            self.skipTest("no control group that limits processes can be made here")
        ground = Ground(self.folder())
        self.addCleanup(self.remove, group)
        self.addCleanup(ground.close)
        for pid in (ground.monitor, *fork_servers(ground.monitor)):
            (group / "cgroup.procs").write_text(str(pid))
        (group / "pids.max").write_text((group / "pids.current").read_text())
        ground.tally.start()
        victim = ground.serving
        ground.signal(signal.SIGKILL, victim)
        failed = ground.session.wait_for(
            "WorkerDied", matching=lambda event: event["cause"]["kind"] == "spawn"
        )
        self.assertIn("Resource temporarily unavailable", failed["cause"]["text"])
        moment = time.monotonic()
        wait_until(lambda: ground.tally.answered_since(moment) > 20, "answers of the standby")
        (group / "pids.max").write_text("max")
        wait_until(ground.is_whole, "one that serves and one that stands by")
        self.assertEqual(ground.session.report_of(victim)["cause"]["signal"], "SIGKILL")
        ground.tally.stop()
        self.assertLessEqual(len(ground.tally.failures), 3, ground.tally.failures)

    def remove(self, group: Path) -> None:
        """Once nobody is in it."""
        wait_until(lambda: not (group / "cgroup.procs").read_text(), "the end of all in the group")
        group.rmdir()
