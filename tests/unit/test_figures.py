"""`Monitor.figures` and `Monitor.own_figures`: what workers are at, and what they and the monitor take."""

from __future__ import annotations

import os
from pathlib import Path

from attrs import asdict
from twisted.trial.unittest import SynchronousTestCase

from serverworker.monitor import figures
from serverworker.testing import FakeSession
from serverworker.values.causes import Beat, RequestInFlight
from serverworker.values.settings import Settings, WorkersSettings
from serverworker.wire import commands

BEAT = Beat(at=1.0, ok=True, seconds=0.25, text="200")


class FiguresTests(SynchronousTestCase):
    """Of a session whose processes are none."""

    def setUp(self) -> None:
        settings = Settings(workers=WorkersSettings(count=2, standby=0))
        self.session = FakeSession(settings=settings, application=lambda worker: None).start()
        self.addCleanup(self.session.close)
        self.process = self.session.spawner.processes[1]

    def test_all_workers(self) -> None:
        """Each worker has its figures, by id; one that has done nothing yet has zeros, and no ping and no beat."""
        first, second = self.session.monitor.figures()
        self.assertEqual((first.worker, second.worker), (1, 2))
        self.assertEqual(first.pid, self.process.pid)
        self.assertEqual(
            (first.connections, first.requests_started, first.requests_finished, first.in_flight),
            (0, 0, 0, 0),
        )
        self.assertEqual((first.requests, first.ping_seconds, first.last_beat), ((), None, None))

    def test_requests(self) -> None:
        """Requests and connections are those of the worker's board."""
        board = self.process.board
        board.connection_opened()
        board.end(board.begin(b"GET", b"/done"))
        board.begin(b"GET", b"/slow?secret")
        self.session.reactor.pass_seconds(0.5)
        found = self.session.monitor.figures()[0]
        self.assertEqual(
            (found.connections, found.requests_started, found.requests_finished, found.in_flight),
            (1, 2, 1, 1),
        )
        self.assertEqual(found.requests, (RequestInFlight(method="GET", path="/slow", age_seconds=0.5),))

    def test_in_flight_beyond_the_board(self) -> None:
        """Requests in flight are all counted, also where the board cannot name them all."""
        for _ in range(200):
            self.process.board.begin(b"GET", b"/slow")
        found = self.session.monitor.figures()[0]
        self.assertEqual((found.in_flight, len(found.requests)), (200, 128))

    def test_last_beat(self) -> None:
        """The last heartbeat, good or not."""
        bad = Beat(at=2.0, ok=False, seconds=5.0, text="no answer within 5 s", failures=1)
        for beat in (BEAT, bad):
            self.process.link.tell(commands.BeatTold, beat=asdict(beat))
            self.session.reactor.turn()
        self.assertEqual(self.session.monitor.figures()[0].last_beat, bad)

    def test_ping(self) -> None:
        """A worker that answers its ping at once is not late; one that does not is later and later."""
        self.session.reactor.pass_seconds(1.5)
        self.assertEqual(self.session.monitor.figures()[0].ping_seconds, 0.0)
        self.process.answers_pings = False
        self.session.reactor.pass_seconds(3)
        late, well = (found.ping_seconds for found in self.session.monitor.figures())
        assert late is not None
        self.assertTrue(2.0 <= late <= 3.0, late)
        self.assertEqual(well, 0.0)

    def test_who_is_gone(self) -> None:
        """A worker that is gone has no figures: nothing is read of a board that was given back."""
        self.session.monitor.set_workers(1)
        self.session.reactor.pass_seconds(5)
        self.assertEqual([each.worker for each in self.session.monitor.figures()], [1])


class ProcessTests(SynchronousTestCase):
    """What the system tells of a process."""

    def test_own(self) -> None:
        """The monitor's own figures are those of this process."""
        found = figures.monitor_figures()
        assert found.resident_bytes is not None and found.cpu_seconds is not None
        self.assertGreater(found.resident_bytes, 5_000_000)
        self.assertGreater(found.cpu_seconds, 0.01)

    def test_descriptors(self) -> None:
        """One more descriptor counts as one; the one that looks does not."""
        before = figures.monitor_figures().descriptors
        assert before is not None
        opened = os.open("/", os.O_RDONLY)
        self.addCleanup(os.close, opened)
        self.assertEqual(figures.monitor_figures().descriptors, before + 1)

    def test_no_look(self) -> None:
        """Where the system lets nobody look, figures are missing and nothing is raised."""

        def refuse(pid: int) -> None:
            raise OSError(24, "too many open files")

        self.patch(figures, "rss_bytes", refuse)
        self.patch(figures, "cpu_seconds", refuse)
        self.patch(figures, "_OWN_DESCRIPTORS", Path("/proc/no/such"))
        self.assertEqual(
            figures.monitor_figures(),
            figures.MonitorFigures(resident_bytes=None, cpu_seconds=None, descriptors=None),
        )
