"""What a worker said last is in its report, and its report is on disk as a whole or not at all."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from serverworker.monitor.crash_store import list_reports, load
from serverworker.processes.output import CONTINUES
from tests.integration.doomed import DOOMED, QUICK, DoomedTestCase, output
from tests.integration.sessions import LONG, TestSession


class LastWordsTests(DoomedTestCase):
    """A worker prints, and is killed at once: nothing of what the report has room for is lost."""

    def test_whole(self) -> None:
        """More lines than are kept, the last without an end; an overlong line; bytes that are no text; the log."""
        session = self.doomed()
        report = self.crash(session, "says_much")
        kept = [f"line {number} {'.' * 40}" for number in range(801, 1000)]
        self.assertEqual(output(report), [*kept, "no line end"])
        report = self.crash(session, "says_a_long_line")
        self.assertEqual(output(report), ["x" * 65536 + CONTINUES, "x" * (100_000 - 65536), "the end"])
        report = self.crash(session, "says_junk")
        before_newline, after = bytes(range(10)), bytes(range(11, 256))
        self.assertEqual(
            sorted((line["stream"], line["text"]) for line in report["output"]),
            sorted(
                [
                    ("stderr", "on the other stream"),
                    ("stdout", before_newline.decode()),
                    ("stdout", after.decode("utf-8", "replace")),
                    ("stdout", "\u0436\u0443\u043a"),
                    ("stdout", ""),
                    ("stdout", "\N{REPLACEMENT CHARACTER}"),
                ]
            ),
        )
        report = self.crash(session, "says_by_log")
        self.assertEqual(output(report), ["error: 0 bytes are free", "and so it ends"])
        for report in session.reports():
            self.assertEqual((report["cause"]["kind"], report["cause"]["signal"]), ("signal", "SIGKILL"))

    def test_not_shown(self) -> None:
        """They are in the report too where the log is not to show what workers print."""
        session = self.doomed("--standby", "0", "--show-output", "false")
        report = self.crash(session, "says_a_long_line")
        self.assertEqual(output(report)[-1], "the end")
        self.assertEqual([event for event in session.events if event["event"] == "OutputLine"], [])


KILLED = ("--app", "doomed:work", "--config", "quick.toml", "--standby", "0")
"""The arguments of the sessions that are killed."""


class KilledBehindTests(DoomedTestCase):
    """The monitor is killed with SIGKILL right behind the death of a worker."""

    def kill_behind(self, session: TestSession, crashes: Path, seconds: float | None) -> None:
        """Have the worker die; the monitor is killed so many seconds later, or (None) when it begins to write."""
        session.serving()
        before = _names(crashes)
        with session.connect() as connection:
            connection.sendall(b"GET /says_much HTTP/1.0\r\n\r\n")
            while connection.recv(1000):
                pass
        if seconds is not None:
            time.sleep(seconds)
        else:
            deadline = time.monotonic() + LONG
            while _names(crashes) == before and time.monotonic() < deadline:
                pass  # without a pause: the moment is to be met
        os.kill(session.process.pid, signal.SIGKILL)
        session.process.wait()

    def test_never_half(self) -> None:
        """Its report is there as a whole, or not there: at every moment that was tried, and never twice."""
        moments = (None, 0.0, None, 0.003, None, 0.01, None, 0.03, None, None)
        # By turns in two folders, so that the next session starts while one is killed.
        folders = [self.folder(doomed__py=DOOMED, quick__toml=QUICK) for _ in range(2)]
        sessions = [self.session(*KILLED, folder=folder) for folder in folders]
        for number, seconds in enumerate(moments):
            session, folder = sessions[number], folders[number % 2]
            crashes = folder / "state" / "crashes"
            before = len(list_reports(crashes))
            self.kill_behind(session, crashes, seconds)
            sessions.append(self.session(*KILLED, folder=folder))
            reports = list_reports(crashes)
            self.assertIn(len(reports) - before, (0, 1), f"round {number}")
            for report in map(load, reports):
                self.assertEqual(len(report.death.output), 200)
                self.assertEqual(report.death.output[-1].text, "no line end")
                self.assertTrue(report.death.next_step)
        # The last two were not killed: a session removes what one before it had half written.
        for session, folder in zip(sessions[-2:], folders, strict=True):
            session.serving()
            names = _names(folder / "state" / "crashes")
            self.assertEqual([name for name in names if not name.endswith(".json")], [])
            self.assertEqual(session.end(), 0)


def _names(folder: Path) -> list[str]:
    """What is in a folder; nothing where there is none."""
    try:
        return os.listdir(folder)  # noqa: PTH208 - races the monitor: `iterdir` makes a Path of each
    except FileNotFoundError:
        return []
