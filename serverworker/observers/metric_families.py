"""Every metric there is: its name, what it tells, and where its values come from; told in Prometheus' text format."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from attrs import field, frozen

from serverworker import __version__
from serverworker.monitor.figures import MonitorFigures, WorkerFigures
from serverworker.observers.metrics import BEATS, MODES, OUTCOMES, SURFACES, Histogram, Metrics
from serverworker.values.causes import CauseKind
from serverworker.values.state import Life, SessionState

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""The format that every Prometheus reads. Later ones add what none of these metrics has."""
KEPT_SECONDS = 1.0
"""How long what was looked up is good for whoever asks."""


@frozen(kw_only=True)
class Look:
    """What is told at one moment: looked up once for all metrics."""

    metrics: Metrics
    state: SessionState
    workers: tuple[WorkerFigures, ...]
    own: MonitorFigures
    requests_finished: int

    @classmethod
    def at(cls, metrics: Metrics) -> Look:
        """Now."""
        monitor = metrics.monitor
        return cls(
            metrics=metrics,
            state=monitor.state,
            workers=monitor.figures(),
            own=monitor.own_figures(),
            requests_finished=monitor.requests_finished(),
        )


Samples = Iterable[tuple[tuple[str, ...], "float | Histogram | None"]]
"""The values of the labels, and the value; None: it is not known, and left out."""


@frozen
class Family:
    """One metric."""

    name: str
    kind: str
    """``gauge``, ``counter`` or ``histogram``."""
    help: str
    samples: Callable[[Look], Samples]
    labels: tuple[str, ...] = field(default=(), kw_only=True)
    """None of them is anything that a client chose, and a worker's are gone when it is."""


def _one(value: Callable[[Look], float | Histogram | None]) -> Callable[[Look], Samples]:
    return lambda look: [((), value(look))]


def _each_worker(value: Callable[[WorkerFigures], float | None]) -> Callable[[Look], Samples]:
    return lambda look: [((str(each.worker),), value(each)) for each in look.workers]


def _by_life(look: Look) -> Samples:
    return [((life.value,), len(look.state.in_life(life))) for life in Life]


def _version(look: Look) -> Samples:
    serving = look.state.in_life(Life.SERVING, generation=look.state.generation)
    return [((each.version,), 1.0) for each in serving[:1]]


def _restarts(look: Look) -> Samples:
    return [((mode, outcome), look.metrics.restarts[mode, outcome]) for mode in MODES for outcome in OUTCOMES]


def _last_beat(figures: WorkerFigures) -> float | None:
    return None if figures.last_beat is None else figures.last_beat.at


_WORKER = ("worker",)

FAMILIES = (
    Family(
        "serverworker_build_info",
        "gauge",
        "Always 1; the versions of serverworker and of the monitor's Python.",
        lambda look: [((__version__, platform.python_version()), 1.0)],
        labels=("version", "python_version"),
    ),
    Family(
        "serverworker_application_info",
        "gauge",
        "Always 1; what the code that serves is called, by the application or by [app] version.",
        _version,
        labels=("version",),
    ),
    Family(
        "serverworker_session_start_time_seconds",
        "gauge",
        "When the session began, since the epoch.",
        _one(lambda look: look.metrics.started_at),
    ),
    Family(
        "serverworker_generation",
        "gauge",
        "The generation that serves: a restart that succeeds has the next one.",
        _one(lambda look: look.state.generation),
    ),
    Family(
        "serverworker_workers",
        "gauge",
        "Workers by where they are in their life.",
        _by_life,
        labels=("state",),
    ),
    Family(
        "serverworker_workers_wanted",
        "gauge",
        "How many workers are to serve.",
        _one(lambda look: look.state.policy.count),
    ),
    Family(
        "serverworker_restarts_total",
        "counter",
        "Restarts that are over, by mode and by what came of them.",
        _restarts,
        labels=("mode", "outcome"),
    ),
    Family(
        "serverworker_crashes_total",
        "counter",
        "Workers that died and nobody had asked for it, by cause.",
        lambda look: [((kind.value,), look.metrics.crashes[kind]) for kind in CauseKind],
        labels=("cause",),
    ),
    Family(
        "serverworker_recovery_seconds",
        "histogram",
        "From when the monitor knows that a worker that served has failed, until as many serve again as are wanted.",
        _one(lambda look: look.metrics.recovery),
    ),
    Family(
        "serverworker_heartbeat_seconds",
        "histogram",
        "What polls of the workers' own health routes took, by outcome.",
        lambda look: [((outcome,), look.metrics.heartbeats[outcome]) for outcome in BEATS],
        labels=("outcome",),
    ),
    Family(
        "serverworker_requests_total",
        "counter",
        "Requests that workers have finished, heartbeats included.",
        _one(lambda look: look.requests_finished),
    ),
    Family(
        "serverworker_worker_requests_total",
        "counter",
        "Requests that a worker has finished, heartbeats included.",
        _each_worker(lambda figures: figures.requests_finished),
        labels=_WORKER,
    ),
    Family(
        "serverworker_worker_requests_in_flight",
        "gauge",
        "Requests that a worker is at.",
        _each_worker(lambda figures: figures.in_flight),
        labels=_WORKER,
    ),
    Family(
        "serverworker_worker_connections",
        "gauge",
        "Open connections of a worker.",
        _each_worker(lambda figures: figures.connections),
        labels=_WORKER,
    ),
    Family(
        "serverworker_worker_ping_seconds",
        "gauge",
        "How late a worker's reactor is: what its last answer to the monitor's ping took, or has taken so far.",
        _each_worker(lambda figures: figures.ping_seconds),
        labels=_WORKER,
    ),
    Family(
        "serverworker_worker_heartbeat_timestamp_seconds",
        "gauge",
        "When a worker last polled its own health route, well or not, since the epoch.",
        _each_worker(_last_beat),
        labels=_WORKER,
    ),
    Family(
        "serverworker_worker_resident_memory_bytes",
        "gauge",
        "Resident memory of a worker's own process.",
        _each_worker(lambda figures: figures.resident_bytes),
        labels=_WORKER,
    ),
    Family(
        "serverworker_worker_cpu_seconds_total",
        "counter",
        "Processor time of a worker's own process.",
        _each_worker(lambda figures: figures.cpu_seconds),
        labels=_WORKER,
    ),
    Family(
        "serverworker_monitor_resident_memory_bytes",
        "gauge",
        "Resident memory of the monitor.",
        _one(lambda look: look.own.resident_bytes),
    ),
    Family(
        "serverworker_monitor_cpu_seconds_total",
        "counter",
        "Processor time of the monitor.",
        _one(lambda look: look.own.cpu_seconds),
    ),
    Family(
        "serverworker_monitor_open_descriptors",
        "gauge",
        "Descriptors that the monitor has open.",
        _one(lambda look: look.own.descriptors),
    ),
    Family(
        "serverworker_faults_total",
        "counter",
        "Things that failed and must not hurt the session: hooks, observers, surfaces. The log tells each.",
        _one(lambda look: look.metrics.faults),
    ),
    Family(
        "serverworker_events_dropped_total",
        "counter",
        "Events that are missing where they should be kept, such as in the journal.",
        lambda look: [((name,), count()) for name, count in look.metrics.counts.dropped.items()],
        labels=("keeper",),
    ),
    Family(
        "serverworker_output_lines_dropped_total",
        "counter",
        "Lines that workers printed and that are missing in a log which could not take them.",
        _one(lambda look: look.metrics.lines_dropped),
    ),
    Family(
        "serverworker_notifications_pending",
        "gauge",
        "Notifications that wait to be delivered.",
        _one(lambda look: look.metrics.counts.pending()),
    ),
    Family(
        "serverworker_failed_logins_total",
        "counter",
        "Attempts to get in without the session key, by surface.",
        lambda look: [((surface,), look.metrics.failed_logins[surface]) for surface in SURFACES],
        labels=("surface",),
    ),
)
"""In the order in which they are told."""


def exposition(look: Look) -> tuple[str, bytes]:
    """The content type, and all metrics in Prometheus' text format. Raises ImportError without prometheus-client."""
    from prometheus_client import CollectorRegistry, generate_latest

    registry: Any = CollectorRegistry()
    registry.register(_Collector(look))
    return CONTENT_TYPE, generate_latest(registry)


class _Collector:
    """What prometheus-client asks for metrics."""

    def __init__(self, look: Look) -> None:
        self._look = look

    def describe(self) -> list[Any]:
        """Nothing: there is one collector, so no name can be there twice."""
        return []

    def collect(self) -> Iterator[Any]:
        """Each metric."""
        from prometheus_client import core

        kinds: dict[str, Any] = {
            "gauge": core.GaugeMetricFamily,
            "counter": core.CounterMetricFamily,
            "histogram": core.HistogramMetricFamily,
        }
        for family in FAMILIES:
            made = kinds[family.kind](family.name, family.help, labels=family.labels)
            for labels, value in family.samples(self._look):
                if isinstance(value, Histogram):
                    made.add_metric(labels, buckets=value.buckets(), sum_value=value.sum)
                elif value is not None:
                    made.add_metric(labels, float(value))
            yield made


class Exposed:
    """Tells the metrics, looked up anew at most once a second: however often somebody asks, it costs the same."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._told: tuple[str, bytes] | None = None
        self._told_at = 0.0

    def __call__(self) -> tuple[str, bytes]:
        """As `exposition`."""
        now = self._metrics.monitor.seconds()
        if self._told is None or now - self._told_at >= KEPT_SECONDS:
            self._told, self._told_at = exposition(Look.at(self._metrics)), now
        return self._told
