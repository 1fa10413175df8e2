"""What of a worker's log is shown."""

from __future__ import annotations

import io
from typing import Any

from twisted.logger import Logger, LogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from serverworker.processes.worker_log import WorkerLog


class BrokenStream(io.StringIO):
    """Nobody reads at its other end."""

    def write(self, text: str) -> int:
        raise BrokenPipeError


class WorkerLogTests(SynchronousTestCase):
    """The observer of a worker's log."""

    def setUp(self) -> None:
        self.stream = io.StringIO()
        self.publisher = LogPublisher(WorkerLog(self.stream))

    def logger(self, namespace: str = "mysite.web") -> Logger:
        return Logger(namespace, observer=self.publisher)

    def shown(self) -> list[str]:
        return self.stream.getvalue().splitlines()

    def test_application(self) -> None:
        """The application's entries are shown, each with its level where it is no mere information."""
        log = self.logger()
        log.info("{count} pages", count=3)
        log.warn("disk at {percent} %", percent=91)
        log.error("no mail server")
        log.debug("not of interest")
        self.assertEqual(self.shown(), ["3 pages", "warn: disk at 91 %", "error: no mail server"])

    def test_failure(self) -> None:
        """A failure is shown with its traceback."""
        try:
            raise LookupError("no such page")
        except LookupError:
            self.logger().failure("rendering failed", Failure())
        shown = self.shown()
        self.assertEqual((shown[0], shown[1]), ("rendering failed", "Traceback (most recent call last):"))
        self.assertEqual(shown[-1], "builtins.LookupError: no such page")

    def test_twisted(self) -> None:
        """Twisted's own notes are left out, the line for every request among them; its warnings are shown."""
        twisted = self.logger("twisted.web.http")
        twisted.info('"127.0.0.1" "GET / HTTP/1.1" 200')
        twisted.warn("could not write to the cache")
        self.logger().info("Starting factory {factory}", factory="Site")
        self.assertEqual(self.shown(), ["warn: could not write to the cache"])

    def test_nobody_reads(self) -> None:
        """Where nobody reads the lines nothing comes of it, no entry about an error of the log either."""
        events: list[object] = []
        keep: Any = events.append
        publisher = LogPublisher(WorkerLog(BrokenStream()), keep)
        Logger("mysite.web", observer=publisher).error("nobody hears this")
        self.assertEqual(len(events), 1)
