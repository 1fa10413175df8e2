"""Showing the session key: what lets in, and how slow guessing is."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from serverworker.surfaces.session_key import KEPT_ORIGINS, LONGEST_WAIT_SECONDS, KeyCheck
from serverworker.values.errors import NotAllowed
from serverworker.values.events import LoginFailed


class KeyCheckTests(SynchronousTestCase):
    """`KeyCheck`."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.key = "right"
        self.told: list[LoginFailed] = []
        self.keys = KeyCheck(self.clock, lambda: self.key, self.told.append)

    def refused(self, given: str, origin: str = "a") -> str:
        return str(self.assertRaises(NotAllowed, self.keys.check, given, origin, "control"))

    def test_key(self) -> None:
        """The key of now lets in, and no other: an agent may have set its own meanwhile."""
        self.keys.check("right", "a", "control")
        self.key = "another"
        self.assertIn("a wrong session key", self.refused("right"))

    def test_texts(self) -> None:
        """Neither the text nor the event holds the key, or what was shown."""
        for given in ("righ", "Right", "right ", "rightright", "\udcff", "x" * 100_000):
            self.clock.advance(LONGEST_WAIT_SECONDS)
            text = self.refused(given)
            for secret in ("right", given):
                self.assertNotIn(secret, text + repr(self.told[-1]))
        self.clock.advance(LONGEST_WAIT_SECONDS)
        self.assertIn("no session key", self.refused(""))

    def test_waits(self) -> None:
        """Each wrong one doubles the wait, to a minute; too early even the right one is not looked at, nor told."""
        for number in range(9):
            self.refused("wrong")
            self.clock.advance(min(2**number, LONGEST_WAIT_SECONDS) - 0.5)
            self.assertIn("try again in", self.refused("right"))
            self.clock.advance(0.5)
        self.assertEqual(len(self.told), 9)
        self.keys.check("right", "a", "control")
        self.refused("wrong")
        self.assertEqual(self.told[-1].failures, 1)  # who was let in is as new

    def test_others(self) -> None:
        """Who guesses keeps nobody else out."""
        self.refused("wrong", "a")
        self.keys.check("right", "b", "control")

    def test_memory(self) -> None:
        """Guessers are forgotten, oldest first, where there are too many."""
        for number in range(KEPT_ORIGINS + 500):
            self.refused("wrong", str(number))
        self.assertEqual(len(self.keys._guessers), KEPT_ORIGINS)

    def test_told(self) -> None:
        """Each wrong key is told with where it came from and which it was in a row."""
        self.refused("wrong")
        self.clock.advance(1)
        self.refused("wrong")
        self.assertEqual(
            [(told.origin, told.surface, told.failures) for told in self.told],
            [("a", "control", 1), ("a", "control", 2)],
        )
