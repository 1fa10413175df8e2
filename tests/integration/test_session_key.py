"""The session key: who has it, whom it lets in, and all the places where it does not stand."""

from __future__ import annotations

import json
import stat
from pathlib import Path

from tests.integration.driven import DrivenTestCase, ask


class KeyTests(DrivenTestCase):
    """The session key (M3, M12)."""

    AGENT = """
        class Agent(Driven):
            async def initialize_monitor(self, monitor):
                await super().initialize_monitor(monitor)
                return {answer!r}

            def authorizes(self):
                key = open("state/key").read().strip()
                return [self.worker.authorizes(each) for each in (key, key.encode(), key[:-1], "", "ż", key.upper())]

            async def look(self):
                return (await self.monitor.exec("cat /proc/self/environ /proc/self/cmdline")).stdout

            def crash(self):
                self.worker.reactor.callLater(0, self.explode)

            def explode(self):
                raise RuntimeError("the fuse was short")
        """

    def test_made(self) -> None:
        """Without a key of the agent's one is made: 256 bits, in a file that its user alone can read."""
        session = self.driven(self.AGENT.format(answer=None))
        file = session.state_directory / "key"
        self.assertRegex(file.read_text(), r"^[0-9a-f]{64}\n$")
        self.assertEqual(stat.S_IMODE(file.stat().st_mode), 0o600)
        self.assertEqual(ask(session, "authorizes"), [True, True, False, False, False, False])

    def test_own(self) -> None:
        """The agent's own key holds, for the administrator, who reads the file, too; and it stands nowhere else."""
        key = "a-key-of-0ne's-own"
        session = self.driven(self.AGENT.format(answer=key))
        self.assertEqual((session.state_directory / "key").read_text(), f"{key}\n")
        self.assertEqual(ask(session, "authorizes"), [True, True, False, False, False, False])
        self.assertNotIn(key, ask(session, "monitor/look"))
        session.standby_ready()
        pids = [session.process.pid, *children(session.process.pid)]
        self.assertGreaterEqual(len(pids), 4)  # the guardian, a worker, a standby
        for pid in pids:
            for name in ("environ", "cmdline"):
                self.assertNotIn(key.encode(), Path(f"/proc/{pid}/{name}").read_bytes())
        ask(session, "crash")
        report = json.dumps(session.report_of(1))
        self.assertIn("the fuse was short", report)
        self.assertEqual(session.end(), 0)
        self.assertNotIn(key, report)
        self.assertNotIn(key, session.transcript())
        holders = [
            path for path in session.state_directory.rglob("*") if path.is_file() and key in path.read_text()
        ]
        self.assertEqual(holders, [session.state_directory / "key"])


def children(pid: int) -> list[int]:
    """The processes that a process has started and that are still there."""
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
