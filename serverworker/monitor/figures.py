"""Figures of a session at one moment: what each worker is at, and what it and the monitor take of the machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from attrs import frozen

from serverworker.monitor.engine import Engine
from serverworker.monitor.worker_process import WorkerProcess
from serverworker.processes.descendants import cpu_seconds, rss_bytes
from serverworker.values.causes import Beat, RequestInFlight

_OWN_DESCRIPTORS = Path("/proc/self/fd")


@frozen(kw_only=True)
class WorkerFigures:
    """What one worker is at, and what it takes. Counts begin with its process; heartbeats are among its requests."""

    worker: int
    pid: int | None
    connections: int
    """How many are open."""
    requests_started: int
    requests_finished: int
    in_flight: int
    """Requests that have begun and not ended."""
    requests: tuple[RequestInFlight, ...]
    """Those in flight, oldest first; of more than 128 the newest."""
    resident_bytes: int | None
    """Of its own process, not of processes that it started; None where the system does not tell."""
    cpu_seconds: float | None
    """Processor time of its own process since it was started; None where the system does not tell."""
    ping_seconds: float | None
    """How late its reactor is: what the last ping took, or as long as the present one waits if that is longer.

    None before the first answer, and while it starts.
    """
    last_beat: Beat | None
    """Its last heartbeat, good or not; None before the first."""


@frozen(kw_only=True)
class MonitorFigures:
    """What the monitor's own process takes. None where the system does not tell."""

    resident_bytes: int | None
    cpu_seconds: float | None
    """Processor time since it was started."""
    descriptors: int | None
    """How many it has open."""


def all_figures(engine: Engine, ping_seconds: Callable[[int], float | None]) -> tuple[WorkerFigures, ...]:
    """The figures of every worker that is there; `ping_seconds(worker)` is `Pinger.seconds`."""
    return tuple(worker_figures(process, ping_seconds(process.id)) for process in _processes(engine))


def requests_finished(engine: Engine) -> int:
    """How many requests all workers of a session have finished, those that are gone included."""
    return engine.former_requests + sum(each.counters().requests_finished for each in _processes(engine))


def _processes(engine: Engine) -> Iterator[WorkerProcess]:
    for worker in engine.state.workers:
        process = engine.process(worker.id)
        if process is not None:
            yield process


def worker_figures(process: WorkerProcess, ping_seconds: float | None) -> WorkerFigures:
    """The figures of a worker that is there."""
    counters = process.counters()
    return WorkerFigures(
        worker=process.id,
        pid=process.pid,
        connections=counters.open_connections,
        requests_started=counters.requests_started,
        requests_finished=counters.requests_finished,
        in_flight=counters.requests_started - counters.requests_finished,
        requests=process.requests(),
        resident_bytes=_resident(process.pid),
        cpu_seconds=_cpu(process.pid),
        ping_seconds=ping_seconds,
        last_beat=process.last_beat(),
    )


def monitor_figures() -> MonitorFigures:
    """The figures of this process."""
    pid = os.getpid()
    return MonitorFigures(resident_bytes=_resident(pid), cpu_seconds=_cpu(pid), descriptors=_descriptors())


# A process without a free descriptor cannot look into /proc: the figure is missing, and nothing else is.


def _resident(pid: int | None) -> int | None:
    with suppress(OSError):
        return None if pid is None else rss_bytes(pid)
    return None


def _cpu(pid: int | None) -> float | None:
    with suppress(OSError):
        return None if pid is None else cpu_seconds(pid)
    return None


def _descriptors() -> int | None:
    with suppress(OSError):
        return len(list(_OWN_DESCRIPTORS.iterdir())) - 1  # the one that looks is not counted
    return None
