"""Leaving the processor to others, as a courtesy."""

from __future__ import annotations

import errno
import time

from twisted.trial.unittest import SynchronousTestCase

from serverworker.processes.give_way import GIVE_WAY_SECONDS, give_way


class GiveWayTests(SynchronousTestCase):
    """It sleeps for a moment, and no more."""

    def test_sleep(self) -> None:
        """A millisecond."""
        slept: list[float] = []
        self.patch(time, "sleep", slept.append)
        give_way()
        self.assertEqual(slept, [GIVE_WAY_SECONDS])

    def test_refused(self) -> None:
        """A system that refuses to sleep, as libfaketime does, harms nothing."""

        def sleep(seconds: float) -> None:
            raise OSError(errno.EINVAL, "Invalid argument")

        self.patch(time, "sleep", sleep)
        give_way()
