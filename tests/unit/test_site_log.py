"""Twisted's own line for each request: when it is made, and when not."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

from twisted.internet.protocol import Factory
from twisted.logger import LogPublisher, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http import HTTPFactory
from twisted.web.resource import Resource
from twisted.web.server import Site

from serverworker.processes.site_log import spare_unseen_lines
from serverworker.processes.uncaught import UncaughtErrors
from serverworker.processes.worker_log import WorkerLog


class SiteLogTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.made: list[object] = []
        self.moments: list[str] = []
        self.publisher: Any = LogPublisher(WorkerLog(io.StringIO()), UncaughtErrors(lambda record: None))

    def site(self, kind: type[Site] = Site) -> Any:
        """A site that is served, and whose lines are noted."""

        def line(timestamp: str, request: object) -> str:
            self.made.append(request)
            self.moments.append(timestamp)
            return "line"

        site: Any = kind(Resource(), logFormatter=line)
        site.doStart()
        self.addCleanup(site.doStop)
        spare_unseen_lines(site, self.publisher)
        return site

    def test_unseen(self) -> None:
        """While only we observe the log, no line is made."""
        self.site().log("request")
        self.assertEqual(self.made, [])

    def test_observed(self) -> None:
        """Whoever adds an observer of the log, at whatever time, gets its lines from then on."""
        site = self.site()
        self.publisher.addObserver(lambda event: None)
        site.log("request")
        self.assertEqual(self.made, ["request"])

    def test_file(self) -> None:
        """A site that has a log file of its own goes on writing to it."""
        site = self.site()
        site.logFile = io.StringIO()
        site.log("request")
        self.assertEqual((self.made, site.logFile.getvalue()), (["request"], "line\n"))

    def test_time_of_day(self) -> None:
        """Its lines have the time of day, although the reactor's clock in a worker is none."""
        site = self.site()
        site._logDateTime = "[01/Jan/1970:00:00:00 +0000]"
        site.logFile = io.StringIO()
        site.log("request")
        self.assertIn(f"/{datetime.now(UTC).year}:", self.moments[0])

    def test_own_way(self) -> None:
        """A site whose class logs in its own way is left alone, and so is what is no site."""

        class Own(Site):
            def log(self, request: Any) -> None:
                made.append(request)

        made = self.made
        self.site(Own).log("request")
        self.assertEqual(self.made, ["request"])
        factory = Factory()
        spare_unseen_lines(factory, self.publisher)
        self.assertEqual(vars(factory), {})

    def test_nobody_can_be_asked(self) -> None:
        """Where Twisted does not tell who observes, every line is made."""
        self.publisher = object()
        self.site().log("request")
        self.assertEqual(self.made, ["request"])

    def test_twisteds_names(self) -> None:
        """The names of Twisted's that this relies on are there."""
        self.assertIsInstance(globalLogPublisher._observers, list)
        self.assertTrue(callable(HTTPFactory.log))
