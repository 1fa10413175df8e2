"""Sessions that must not start, or must end at once: what the operator is told, and what the shell is."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.integration.sessions import SessionTestCase, TestSession, is_alive

TWISTD = ("twistd", "-n", "--pidfile=")
DAEMON = ("twistd", "--pidfile=session.pid")
TWIST = ("twist",)
RUNNERS = (TWISTD, DAEMON, TWIST)
"""Every way of running the plugin: in the foreground, as a daemon, and by the other program."""


def said(session: TestSession) -> str:
    """What the operator read: the texts of the log that are no event of ours, and what was printed beside it."""
    return "\n".join(map(_text, session.lines))


def _text(line: str) -> str:
    try:
        return str(json.loads(line)["text"])
    except (ValueError, TypeError, KeyError):
        return line


class RefusalTestCase(SessionTestCase):
    """Starts sessions that end by themselves."""

    def ends(self, session: TestSession, status: int) -> str:
        """See a session end with this status and leave no process; answers what it said."""
        self.assertEqual(session.exit_status(), status, session.transcript())
        spawned = [event["pid"] for event in session.events if event["event"] == "WorkerSpawned"]
        self.assertEqual([pid for pid in spawned if is_alive(pid)], [])
        return said(session)

    def refused(self, status: int, *arguments: str, **options: Any) -> str:
        """Start a session, and see it end."""
        return self.ends(self.session(*arguments, **options), status)

    def never_begun(
        self,
        status: int,
        *arguments: str,
        folder: Path | None = None,
        runners: Iterable[tuple[str, ...]] = (TWISTD,),
        **options: Any,
    ) -> str:
        """The same, of one that must end before anything was made or started; alike by each of the `runners`."""
        folder = folder or self.folder()
        before = sorted(path.name for path in folder.iterdir())
        sessions = [self.session(*arguments, folder=folder, runner=runner, **options) for runner in runners]
        texts = {self.ends(session, status) for session in sessions}
        self.assertEqual(sorted(path.name for path in folder.iterdir()), before)
        self.assertEqual(len(texts), 1, texts)
        text = texts.pop()
        self.assertNotIn("Traceback", text)
        return text

    def assert_lines(self, text: str, *lines: str) -> None:
        """Each of these stands in the text as a line of its own, apart from the space around it."""
        found = [line.strip() for line in text.splitlines()]
        self.assertEqual([line for line in lines if line not in found], [], text)
