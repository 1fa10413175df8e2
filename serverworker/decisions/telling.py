"""What is said of failures, once all is decided: each death with what follows it, in words for the operator."""

from __future__ import annotations

from attrs import evolve

from serverworker.decisions.inputs import Activate, Serve, Spawn
from serverworker.decisions.turn import Turn
from serverworker.values import events
from serverworker.values.state import Life, Phase, SessionState, Worker


def tell_failures(turn: Turn) -> None:
    """Keep with each worker that failed what follows, and tell the deaths: before all else, as their cause is first."""
    for worker_id in turn.failed:
        worker = turn.state.worker(worker_id)
        if worker is not None:
            turn.put(evolve(worker, next_step=next_step(turn, worker)))
    turn.events[:0] = [_death(turn, worker) for worker in turn.died]


def _death(turn: Turn, worker: Worker) -> events.WorkerDied:
    assert worker.cause is not None
    return events.WorkerDied(
        worker=worker.id,
        generation=worker.generation,
        pid=worker.pid,
        life=(worker.failed_in or worker.life).value,
        cause=worker.cause,
        uptime_seconds=turn.now - worker.spawned_at,
        next_step=worker.next_step or next_step(turn, worker),
    )


def next_step(turn: Turn, worker: Worker) -> str:
    """What this step decided about a worker's failure."""
    state = turn.state
    if state.phase is not Phase.RUNNING:
        assert state.ending is not None
        return f"the session ends with status {state.ending.status}"
    if worker.leaving:
        return "nothing: it was leaving"
    if worker.generation > state.generation:
        return f"generation {worker.generation} is dropped; generation {state.generation} goes on"
    parts = _ordered(turn) or _coming(state)
    if state.respawn_at > turn.now:
        wait = state.respawn_at - turn.now
        parts.append(f"a successor is started in {wait:.1f} s (death {state.deaths_in_a_row} in a row)")
    return "; ".join(parts) or _what_else(state)


def _ordered(turn: Turn) -> list[str]:
    """What this step ordered."""
    parts = []
    for command in turn.commands:
        if isinstance(command, Serve | Activate):
            parts.append(f"worker {command.worker} takes over now")
        elif isinstance(command, Spawn):
            parts.append(f"worker {command.worker} is started now")
    return parts


def _coming(state: SessionState) -> list[str]:
    """Who was on the way already, where somebody is missing."""
    for life in () if _enough_serve(state) else (Life.ACTIVATING, Life.LOADED, Life.STARTING):
        coming = state.in_life(life, generation=state.generation)
        if coming:
            return [f"worker {coming[0].id}, which is {life.value}, takes over as soon as it can"]
    return []


def _what_else(state: SessionState) -> str:
    """What follows where nothing was ordered, nobody is on the way, and no time is set."""
    if _enough_serve(state):
        return "the others serve; a standby is started as soon as there is room for it"
    return "a successor is started as soon as there is room for it"


def _enough_serve(state: SessionState) -> bool:
    return len(state.in_life(Life.SERVING, generation=state.generation)) >= state.policy.count
