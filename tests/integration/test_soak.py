"""A short form of `benchmarks/soak.py`: no request fails in restarts, nor by kills but inside the killed process."""

from __future__ import annotations

import secrets
import sys

from benchmarks.soak import Outcome, chaos, soak
from tests.integration.sessions import SessionTestCase


class SoakTests(SessionTestCase):
    """New connections, kept ones, slow uploads and requests of 50 ms, all at once."""

    def assert_unnoticed(self, outcome: Outcome) -> None:
        """All kinds of clients were answered, and nothing failed that nothing excuses."""
        self.assertEqual(outcome.failures, [])
        self.assertEqual(outcome.deaths, 0)
        self.assertGreaterEqual(len(outcome.answered), 4, outcome.answered)

    def test_restarts(self) -> None:
        """Of restarts nobody but the operator hears."""
        outcome = soak(self.folder(), restarts=3)
        self.assert_unnoticed(outcome)
        self.assertEqual((outcome.restarts, outcome.failed_restarts, outcome.excused), (3, 0, []))

    def test_chaos(self) -> None:
        """Kills and restarts at random, by a new seed each time. A restart fails whose new worker is killed."""
        seed = secrets.randbelow(2**32)
        sys.stdout.write(f"seed {seed} ")
        outcome = chaos(self.folder(), 5, seed)
        self.assert_unnoticed(outcome)
        self.assertGreater(len(outcome.kills) + outcome.restarts, 0)
