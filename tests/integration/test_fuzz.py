"""A short form of `benchmarks/fuzz.py`: hostile input to every port does nothing, and stops nothing."""

from __future__ import annotations

import secrets
import sys

from benchmarks.fuzz import fuzz
from tests.integration.sessions import SessionTestCase


class FuzzTests(SessionTestCase):
    """Garbage, half boxes, wrong arguments, rebinding, traversal, and connections that say nothing."""

    def test_attacks(self) -> None:
        """The session answers throughout, does nothing of it, and its memory stays in bounds; a new seed each time."""
        seed = secrets.randbelow(2**32)
        sys.stdout.write(f"seed {seed} ")
        outcome = fuzz(self.folder(), 3, seed)
        self.assertEqual(outcome.faults, [])
        self.assertGreater(outcome.attacks, 50)
        self.assertLess(outcome.growth, 0.3)
