"""The status as JSON, and that its reference tells all of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from serverworker.testing import FakeSession
from serverworker.values.events import PreviousSession

REFERENCE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "status.rst"


class StatusTests(SynchronousTestCase):
    """`status_json`."""

    def status(self) -> dict[str, Any]:
        session = FakeSession().start()
        self.addCleanup(session.close)
        return session.status_json()

    def test_is_json(self) -> None:
        """It can be written as JSON, with the worker that serves in it."""
        status = json.loads(json.dumps(self.status()))
        self.assertEqual((status["schema"], status["serving"], status["phase"]), (1, 1, "running"))
        self.assertEqual(status["workers"][0]["life"], "serving")

    def test_previous_session(self) -> None:
        """How the session before ended is there for programs; for people it is, where it did not end well."""
        session = FakeSession().start()
        self.addCleanup(session.close)
        self.assertIsNone(session.status_json()["previous_session"])
        for status in (None, 70, 0):
            previous = PreviousSession(
                session="2026-11-24T08:00:00.000Z/9",
                began="",
                ended="2026-11-24T09:00:00.000Z",
                status=status,
                reason="",
                crashes=2,
            )
            session._session.stream.publish(previous)
            told = json.loads(json.dumps(session.status_json()["previous_session"]))
            self.assertEqual((told["status"], told["crashes"]), (status, 2))
            shown = session.wait(session.type("status"))
            self.assertEqual("the session before this one" in str(shown), status != 0)

    def test_reference(self) -> None:
        """Its reference names all keys, and no others."""
        if not REFERENCE.exists():
            raise SkipTest("the wheel's tests run without the documentation")
        session, worker = REFERENCE.read_text().split("Of a worker:")
        keys = [
            set(re.findall(r"``(\w+)``", "".join(re.findall(r"\* - (.*)", part))))
            for part in (session, worker)
        ]
        status = self.status()
        self.assertEqual(keys[0], set(status))
        self.assertEqual(keys[1], set(status["workers"][0]))
