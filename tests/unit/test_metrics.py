"""What is counted for Prometheus, and how it is told."""

from __future__ import annotations

import re
import sys

from attrs import asdict, evolve
from prometheus_client.parser import text_string_to_metric_families
from twisted.trial.unittest import SynchronousTestCase

from serverworker.monitor import figures
from serverworker.observers.metric_families import FAMILIES, Exposed, Look, exposition
from serverworker.observers.metrics import HEARTBEAT_BUCKETS, RECOVERY_BUCKETS, Counts, Histogram, Metrics
from serverworker.testing import FakeSession
from serverworker.values import causes, events
from serverworker.values.errors import ErrorRecord
from serverworker.values.settings import AppSettings, Settings, WorkersSettings
from serverworker.wire import commands


class MetricsTestCase(SynchronousTestCase):
    """A session of fakes, watched."""

    workers = WorkersSettings(count=2, standby=0)

    def setUp(self) -> None:
        settings = Settings(app=AppSettings(version="2.4.1"), workers=self.workers)
        self.session = FakeSession(settings=settings, application=lambda worker: None)
        self.addCleanup(self.session.close)
        self.counts = Counts()
        self.metrics = Metrics(self.session.monitor, self.counts, lambda: 1000.0)
        self.session.monitor.subscribe(self.metrics)
        self.session.start()

    def values(self, name: str) -> dict[tuple[str, ...], float]:
        """Every value of a metric, by the values of its labels, in order of the labels' names."""
        _, text = exposition(Look.at(self.metrics))
        return {
            tuple(sample.labels[label] for label in sorted(sample.labels)): sample.value
            for family in text_string_to_metric_families(text.decode())
            for sample in family.samples
            if sample.name == name
        }

    def value(self, name: str, *labels: str) -> float:
        """One value."""
        return self.values(name)[labels]

    def kill(self, worker: int) -> None:
        self.session.spawner.processes[worker].end(by_signal=9)
        self.session.reactor.turn()


class CountTests(MetricsTestCase):
    """What happens is counted."""

    def test_crashes(self) -> None:
        """By cause; all causes are there from the beginning, so that a first one is seen as an increase."""
        before = self.values("serverworker_crashes_total")
        self.assertEqual(set(before), {(kind.value,) for kind in causes.CauseKind})
        self.assertEqual(sum(before.values()), 0)
        self.kill(1)
        after = self.values("serverworker_crashes_total")
        self.assertEqual((after["signal",], sum(after.values())), (1, 1))

    def test_restarts(self) -> None:
        """By mode and outcome."""
        self.session.wait(self.session.monitor.restart("force"))
        self.assertEqual(self.value("serverworker_restarts_total", "force", "completed"), 1)
        self.assertEqual(sum(self.values("serverworker_restarts_total").values()), 1)
        self.assertEqual(self.value("serverworker_generation"), 2)

    def test_failed_restart(self) -> None:
        """One that came to nothing is counted as such, and the generation is the old one."""
        failed = self.session.monitor.restart()
        failed.addErrback(lambda _: None)
        self.session.reactor.callLater(0, lambda: None)
        while 3 not in self.session.spawner.processes:
            self.session.reactor.advance(0.1)
        self.session.spawner.processes[3].end(1)
        self.session.reactor.turn()
        self.assertEqual(self.value("serverworker_restarts_total", "clean", "failed"), 1)
        self.assertEqual(self.value("serverworker_generation"), 1)

    def test_heartbeats(self) -> None:
        """How long they took, by outcome."""
        process = self.session.spawner.processes[1]
        for ok, seconds in ((True, 0.002), (True, 0.3), (False, 5.0)):
            beat = causes.Beat(at=50.0, ok=ok, seconds=seconds, text="")
            process.link.tell(commands.BeatTold, beat=asdict(beat))
        self.session.reactor.turn()
        self.assertEqual(self.value("serverworker_heartbeat_seconds_count", "ok"), 2)
        self.assertEqual(self.value("serverworker_heartbeat_seconds_sum", "failed"), 5.0)
        buckets = self.values("serverworker_heartbeat_seconds_bucket")
        self.assertEqual([buckets[bound, "ok"] for bound in ("0.001", "0.0025", "0.25", "0.5")], [0, 1, 1, 2])
        self.assertEqual(self.value("serverworker_worker_heartbeat_timestamp_seconds", "1"), 50.0)

    def test_others(self) -> None:
        """Faults, lines that were dropped, and those who did not get in."""
        tell = self.session._session.stream.publish
        error = ErrorRecord(type="builtins.OSError", message="no")
        tell(events.Fault(where="a hook", error=error))
        tell(events.OutputDropped(origin="worker 1", lines=4711, sink="the terminal"))
        tell(events.LoginFailed(origin="192.0.2.7", surface="control", text="a wrong key", failures=1))
        self.assertEqual(self.value("serverworker_faults_total"), 1)
        self.assertEqual(self.value("serverworker_output_lines_dropped_total"), 4711)
        self.assertEqual(
            self.values("serverworker_failed_logins_total"), {("control",): 1, ("dashboard",): 0}
        )

    def test_counts(self) -> None:
        """What others count is asked of them."""
        self.counts.dropped["journal"] = lambda: 7
        self.counts.pending = lambda: 3
        self.assertEqual(self.value("serverworker_events_dropped_total", "journal"), 7)
        self.assertEqual(self.value("serverworker_notifications_pending"), 3)


class RecoveryTests(MetricsTestCase):
    """From the death of a worker that served until as many serve as are wanted."""

    workers = WorkersSettings(count=1, standby=1)

    def recoveries(self) -> tuple[float, float]:
        name = "serverworker_recovery_seconds"
        return self.value(f"{name}_count"), self.value(f"{name}_sum")

    def test_with_a_standby(self) -> None:
        """A standby serves at once."""
        self.kill(1)
        self.assertEqual(self.recoveries(), (1, 0.0))

    def test_without(self) -> None:
        """Without one it takes as long as a start does; the death of who only stood by needs no recovery."""
        self.session.spawner.error = OSError("no memory")
        self.kill(2)
        self.assertEqual(self.recoveries()[0], 0)
        self.kill(1)
        self.session.reactor.pass_seconds(0.25)
        self.assertEqual(self.recoveries()[0], 0)
        self.session.spawner.error = None
        self.session.reactor.pass_seconds(30)
        count, seconds = self.recoveries()
        self.assertEqual(count, 1)
        self.assertTrue(0.25 <= seconds <= 30, seconds)

    def test_hang(self) -> None:
        """A hang counts from when it is known, although the death is told when the successor serves long since."""
        process = self.session.spawner.processes[1]
        process.answers_pings, process.survives_kill = False, True
        self.session.reactor.pass_seconds(20)
        self.assertEqual(self.recoveries(), (1, 0.0))
        process.end(by_signal=9)
        self.session.reactor.pass_seconds(20)
        self.assertEqual(self.value("serverworker_crashes_total", "hang"), 1)
        self.assertEqual(self.recoveries(), (1, 0.0))
        self.assertEqual((self.metrics._failed, self.metrics._recovered), ({}, set()))

    def test_restart(self) -> None:
        """A restart is no recovery."""
        self.session.wait(self.session.monitor.restart())
        self.session.reactor.pass_seconds(5)
        self.assertEqual(self.recoveries()[0], 0)
        self.assertEqual((self.metrics._failed, self.metrics._recovered), ({}, set()))


class RecoveriesTests(MetricsTestCase):
    """Of several workers, none of which has a standby."""

    def kill_both(self) -> None:
        """The first a second before the second; there is no memory for successors."""
        self.session.spawner.error = OSError("no memory")
        for worker in (1, 2):
            self.kill(worker)
            self.session.reactor.pass_seconds(1)

    def recoveries(self) -> tuple[float, float]:
        return self.metrics.recovery.buckets()[-1][1], self.metrics.recovery.sum

    def test_one_after_the_other(self) -> None:
        """Each that has died counts, from its own death until all serve again."""
        self.kill_both()
        died = self.session.reactor.seconds() - 2
        self.session.spawner.error = None
        times: list[float] = []
        self.session.monitor.on_server_running(lambda _: times.append(self.session.reactor.seconds()))
        self.session.reactor.pass_seconds(60)
        self.assertEqual(len(times), 2)
        count, seconds = self.recoveries()
        self.assertEqual(count, 2)
        self.assertAlmostEqual(seconds, 2 * (times[-1] - died) - 1)

    def test_fewer_are_wanted(self) -> None:
        """Who is not wanted any more needs no successor: it does not count for ever."""
        self.session.spawner.error = OSError("no memory")
        self.kill(1)
        self.session.monitor.set_workers(1)
        beat = causes.Beat(at=50.0, ok=True, seconds=0.1, text="200")
        self.session.spawner.processes[2].link.tell(commands.BeatTold, beat=asdict(beat))
        self.session.reactor.turn()
        self.session.reactor.pass_seconds(1000)
        self.session.spawner.error = None
        self.session.monitor.set_workers(2)
        self.session.reactor.pass_seconds(100)
        count, seconds = self.recoveries()
        self.assertEqual(count, 1)
        self.assertLess(seconds, 1)


class WorkerTests(MetricsTestCase):
    """What workers are at."""

    def test_states(self) -> None:
        """Workers by state: every state there is, whether anybody is in it or not."""
        states = self.values("serverworker_workers")
        self.assertEqual((states["serving",], sum(states.values()), len(states)), (2, 2, 7))
        self.assertEqual(self.value("serverworker_workers_wanted"), 2)
        self.assertEqual(self.values("serverworker_application_info"), {("2.4.1",): 1})

    def test_requests(self) -> None:
        """The session's count never falls, whoever dies; a worker's own goes with it."""
        boards = [self.session.spawner.processes[worker].board for worker in (1, 2)]
        for number, board in enumerate(boards, 1):
            board.connection_opened()
            for _ in range(number):
                board.end(board.begin(b"GET", b"/"))
        boards[1].begin(b"GET", b"/slow")
        self.assertEqual(self.value("serverworker_requests_total"), 3)
        self.assertEqual(self.values("serverworker_worker_requests_total"), {("1",): 1, ("2",): 2})
        self.assertEqual(self.values("serverworker_worker_requests_in_flight"), {("1",): 0, ("2",): 1})
        self.assertEqual(self.values("serverworker_worker_connections"), {("1",): 1, ("2",): 1})
        self.kill(2)
        self.assertEqual(self.value("serverworker_requests_total"), 3)
        self.assertEqual(self.values("serverworker_worker_requests_total"), {("1",): 1, ("3",): 0})

    def test_series_end(self) -> None:
        """However many workers come and go, there are series of those alone that are there."""
        for worker in range(1, 20):
            self.kill(worker)
            self.session.reactor.pass_seconds(120)
        text = exposition(Look.at(self.metrics))[1].decode()
        self.assertEqual(set(re.findall(r'worker="(\d+)"', text)), {"20", "21"})

    def test_unknown(self) -> None:
        """What is not known is left out."""
        self.assertEqual(self.values("serverworker_worker_ping_seconds"), {})
        self.session.reactor.pass_seconds(1.5)
        self.assertEqual(self.values("serverworker_worker_ping_seconds"), {("1",): 0.0, ("2",): 0.0})


class ToldTests(MetricsTestCase):
    """How it is told."""

    def test_every_family(self) -> None:
        """Each is there, with the type and the labels that the table says; its name follows the rules."""
        self.counts.dropped["journal"] = lambda: 0
        self.patch(figures, "rss_bytes", lambda pid: 2**20)  # the fake workers' process ids are nobody's
        self.patch(figures, "cpu_seconds", lambda pid: 1.0)
        self.session.reactor.pass_seconds(1.5)
        process = self.session.spawner.processes[1]
        process.link.tell(commands.BeatTold, beat=asdict(causes.Beat(at=1.0, ok=True, seconds=1.0, text="")))
        self.session.reactor.turn()
        content_type, text = exposition(Look.at(self.metrics))
        self.assertEqual(content_type, "text/plain; version=0.0.4; charset=utf-8")
        told = {family.name: family for family in text_string_to_metric_families(text.decode())}
        self.assertEqual(len(told), len(FAMILIES))
        for family in FAMILIES:
            found = told[family.name.removesuffix("_total")]
            self.assertEqual((found.type, found.documentation), (family.kind, family.help))
            self.assertEqual(family.name.endswith("_total"), family.kind == "counter")
            labels = set(found.samples[0].labels) - {"le"}
            self.assertEqual(labels, set(family.labels), family.name)

    def test_version_of_a_stranger(self) -> None:
        """A version is an application's own text, and cannot break the format."""
        look = Look.at(self.metrics)
        strange = evolve(look.state.workers[0], version='a"b\\c\nd')
        _, text = exposition(evolve(look, state=evolve(look.state, workers=(strange,))))
        self.assertIn('{version="a\\"b\\\\c\\nd"}', text.decode())

    def test_once_a_second(self) -> None:
        """However often somebody asks, it is looked up once a second."""
        exposed = Exposed(self.metrics)
        first = exposed()
        self.kill(1)
        self.assertIs(exposed(), first)
        self.session.reactor.pass_seconds(1)
        self.assertIn(b'crashes_total{cause="signal"} 1.0', exposed()[1])

    def test_without_the_package(self) -> None:
        """Without prometheus-client it is an ImportError, for the surface to answer."""
        self.addCleanup(sys.modules.update, {"prometheus_client": sys.modules["prometheus_client"]})
        sys.modules["prometheus_client"] = None  # type: ignore[assignment]  # "there is none", to Python
        self.assertRaises(ImportError, exposition, Look.at(self.metrics))


class HistogramTests(SynchronousTestCase):
    """`Histogram`."""

    def test_bounds(self) -> None:
        """A value on a bound is below it; each bucket holds the ones before; the last holds all."""
        histogram = Histogram((0.1, 1.0))
        for seconds in (0.05, 0.1, 0.5, 7.0):
            histogram.observe(seconds)
        self.assertEqual(histogram.buckets(), [("0.1", 2), ("1.0", 3), ("+Inf", 4)])
        self.assertAlmostEqual(histogram.sum, 7.65)

    def test_any(self) -> None:
        """All tables have bounds that ascend."""
        for bounds in (RECOVERY_BUCKETS, HEARTBEAT_BUCKETS):
            self.assertEqual(list(bounds), sorted(set(bounds)))
