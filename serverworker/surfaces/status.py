"""The state of a session as `status` shows it: in words for people, and as JSON for programs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import attrs

from serverworker.monitor.figures import WorkerFigures
from serverworker.surfaces.desk import Desk
from serverworker.values.events import PreviousSession
from serverworker.values.sentences import sentence
from serverworker.values.state import Life, Phase, SessionState, Worker

SCHEMA = 1
"""Of `status_json`: a change that a script would misread raises it."""


RECENT_SECONDS = 0.1
"""How old the figures may be that `RecentStatus` shows."""


def describe(
    state: SessionState,
    ports: Sequence[str],
    polling_seconds: float,
    now: float,
    previous: PreviousSession | None = None,
) -> str:
    """Some lines: the session first, then a line for each worker, then how the session before ended if it was not well.

    `ports` are such as ``server=tcp:8080``; `now` is monotonic, in seconds.
    """
    where = ", ".join(port.replace("=", " on ", 1) for port in ports)
    lines = [f"{_headline(state, now)}; {where}; polls every {polling_seconds:g} s"]
    lines.extend(_worker(worker, now) for worker in state.workers)
    if previous is not None and previous.status != 0:
        lines.append(sentence(previous))
    return "\n".join(lines)


def _headline(state: SessionState, now: float) -> str:
    if state.phase is not Phase.RUNNING:
        assert state.ending is not None
        return f"ending: {state.ending.reason}"
    serving = sum(worker.serving_since is not None and worker.alive for worker in state.workers)
    parts = [f"generation {state.generation}: {serving} of {state.policy.count} serving"]
    if state.restart is not None:
        seconds = now - state.restart.started_at
        parts.append(f"generation {state.restart.generation} is being started for {duration(seconds)}")
    if state.replacing is not None:
        done = state.replacing.total - state.replacing.left
        parts.append(f"{done} of {state.replacing.total} old workers are gone")
    if state.respawn_at > now:
        parts.append(
            f"the next worker is started in {state.respawn_at - now:.1f} s "
            f"(death {state.deaths_in_a_row} in a row)"
        )
    return "; ".join(parts)


def _worker(worker: Worker, now: float) -> str:
    parts = [f"  worker {worker.id}: {worker.life.value} for {duration(now - worker.since)}"]
    if worker.pid:
        parts.append(f"pid {worker.pid}")
    parts.append(f"generation {worker.generation}")
    parts.append(f"up {duration(now - worker.spawned_at)}")
    if worker.failures:
        heartbeats = "heartbeat" if worker.failures == 1 else "heartbeats in a row"
        parts.append(f"{worker.failures} {heartbeats} failed")
    if worker.cause is not None:
        parts.append(worker.cause.text)
    elif worker.leaving:
        parts.append(worker.leaving)
    elif worker.application:
        parts.append(worker.application)
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Such as ``0.3 s``, ``12 s``, ``4 min 5 s``, ``3 h 2 min`` or ``2 d 5 h``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    for unit, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part} {smaller}"
    return f"{whole} s"


# --- for programs -----------------------------------------------------------------------------


def status_json(desk: Desk) -> dict[str, Any]:
    """The session now, in the shape that ``docs/reference/status.rst`` has; durations in seconds, sizes in bytes."""
    monitor, state, now = desk.monitor, desk.monitor.state, desk.monitor.seconds()
    figures = {each.worker: each for each in monitor.figures()}
    own = monitor.own_figures()
    restart, replacing, ending = state.restart, state.replacing, state.ending
    previous = monitor.previous_session
    return {
        "schema": SCHEMA,
        "session": desk.session,
        "pid": os.getpid(),
        "state_directory": str(desk.state_directory),
        "sequence": desk.history.sequence,
        "phase": state.phase.value,
        "generation": state.generation,
        "ports": list(monitor.ports),
        "polling_interval_seconds": monitor.settings.polling.interval_seconds,
        "count": state.policy.count,
        "standby": state.policy.standby,
        "serving": len(state.in_life(Life.SERVING)),
        "deaths_in_a_row": state.deaths_in_a_row,
        "next_start_in_seconds": max(state.respawn_at - now, 0.0),
        "restart": restart
        and {
            "generation": restart.generation,
            "mode": restart.mode,
            "asked_by": restart.asked_by,
            "seconds": now - restart.started_at,
        },
        "replacing": replacing and {"total": replacing.total, "replaced": replacing.total - replacing.left},
        "ending": ending and {"reason": ending.reason, "graceful": ending.graceful, "status": ending.status},
        "previous_session": previous and attrs.asdict(previous),
        "monitor": attrs.asdict(own),
        "workers": [_worker_json(worker, figures.get(worker.id), now) for worker in state.workers],
    }


class RecentStatus:
    """`status_json` for programs that ask often: made anew after every event, else ten times a second at most.

    Nine tenths of its cost are reads of /proc and of what workers note, which change all the time.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._of: tuple[Any, ...] = (-1, None, None)
        self._until = 0.0
        self._status: dict[str, Any] = {}

    def __call__(self) -> dict[str, Any]:
        """How the session is, as of a tenth of a second ago at most; nobody changes it."""
        desk, now = self._desk, self._desk.monitor.seconds()
        of = (desk.history.sequence, desk.monitor.state, desk.monitor.settings)
        same = of[0] == self._of[0] and of[1] is self._of[1] and of[2] is self._of[2]
        if not same or now >= self._until:
            self._of, self._until = of, now + RECENT_SECONDS
            self._status = status_json(desk)
        return self._status


def _worker_json(worker: Worker, figures: WorkerFigures | None, now: float) -> dict[str, Any]:
    return {
        "id": worker.id,
        "pid": worker.pid,
        "generation": worker.generation,
        "version": worker.version,
        "life": worker.life.value,
        "life_seconds": now - worker.since,
        "uptime_seconds": now - worker.spawned_at,
        "application": worker.application,
        "heartbeat_failures": worker.failures,
        "leaving": worker.leaving,
        "cause": worker.cause.text if worker.cause is not None else "",
        "figures": figures and attrs.asdict(figures),
    }
