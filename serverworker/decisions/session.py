"""The core: `step(state, input, now) → (state, commands, events)`. It decides everything, and does nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from attrs import evolve

from serverworker.decisions import inputs
from serverworker.decisions.failures import after_failure, break_off, end_overdue, worker_failed
from serverworker.decisions.inputs import Answer, Command, DumpStacks, Input
from serverworker.decisions.life import Happening, Outcome, next_life
from serverworker.decisions.settle import begin_ending, count_replaced, finish, last_moment, settle
from serverworker.decisions.telling import tell_failures
from serverworker.decisions.termination import (
    end_terminated,
    excuse,
    hold,
    judged_at,
    may_be_meant_for_all,
)
from serverworker.decisions.turn import CRASH_EXIT_SECONDS, GRACE_SECONDS, LINK_SECONDS, Turn
from serverworker.values import events
from serverworker.values.causes import Cause, CauseKind
from serverworker.values.events import Event
from serverworker.values.state import Life, Phase, Restart, SessionState, Worker


class Step(NamedTuple):
    """What one input leads to."""

    state: SessionState
    commands: tuple[Command, ...]
    events: tuple[Event, ...]


def step(state: SessionState, happened: Input, now: float) -> Step:
    """The next state, what is to be done, and what is to be told. `now` is monotonic, in seconds."""
    turn = Turn(state, now)
    if state.phase is Phase.ENDED:
        _answer_too_late(turn, happened)
    else:
        _RESPONSES[type(happened)](turn, happened)
        end_terminated(turn)
        end_overdue(turn)
        settle(turn)
        tell_failures(turn)
        finish(turn)
    return Step(turn.state, tuple(turn.commands), tuple(turn.events))


def next_wake(state: SessionState, now: float) -> float | None:
    """The time at which the core wants a `Tick`, or None if it waits for nothing but inputs."""
    if state.phase is Phase.ENDED:
        return None
    times = [worker.deadline for worker in state.workers if worker.deadline is not None]
    times += judged_at(state)
    if state.respawn_at > now:
        times.append(state.respawn_at)
    if state.ending is not None:
        # The deadline itself has done its work once it is over: to name it again would be to spin.
        drain_at, deadline = state.ending.drain_at, state.ending.deadline
        times.append(
            drain_at if now < drain_at else deadline if now < deadline else last_moment(state.ending)
        )
    return max(min(times), now) if times else None


# --- what each input means -------------------------------------------------------------------------


def _start(turn: Turn, happened: inputs.Start) -> None:
    """Nothing to note: the rules start the first workers."""


def _spawned(turn: Turn, happened: inputs.Spawned) -> None:
    worker = turn.state.worker(happened.worker)
    if worker is not None:
        turn.put(evolve(worker, pid=happened.pid))
        turn.tell(events.WorkerSpawned(worker=worker.id, generation=worker.generation, pid=happened.pid))


def _spawn_failed(turn: Turn, happened: inputs.SpawnFailed) -> None:
    worker = turn.state.worker(happened.worker)
    if worker is None or worker.pid is not None:
        return
    worker = turn.fail(worker, Cause(kind=CauseKind.SPAWN, text=happened.text))
    assert worker.cause is not None
    turn.remove(worker)
    count_replaced(turn, worker)
    turn.died.append(worker)
    after_failure(turn, worker, worker.cause, hopeless=happened.permanent)


def _progress(turn: Turn, worker_id: int, happening: Happening) -> Worker | None:
    """Move a worker that tells how far it is; None where it tells nothing new, or lies."""
    worker = turn.state.worker(worker_id)
    if worker is None:
        return None
    cell = next_life(worker.life, happening)
    if cell is Outcome.BREACH:
        break_off(turn, worker, happening)
    return turn.happen(worker, happening) if isinstance(cell, Life) else None


def _loaded(turn: Turn, happened: inputs.Loaded) -> None:
    worker = _progress(turn, happened.worker, Happening.LOADED)
    if worker is None:
        return
    worker = turn.put(
        evolve(
            worker,
            needs_activation=happened.needs_activation,
            application=happened.application,
            version=happened.version,
        )
    )
    turn.change(ever_loaded=True)
    seconds = turn.now - worker.spawned_at
    turn.tell(
        events.WorkerLoaded(
            worker=worker.id, generation=worker.generation, seconds=seconds, version=worker.version
        )
    )


def _load_failed(turn: Turn, happened: inputs.LoadFailed) -> None:
    error = happened.error
    # Ours speaks for itself; its class would tell the operator nothing.
    what = error.message if error.type.endswith(".ApplicationError") else str(error)
    text = f"the application cannot be loaded: {what}"
    cause = Cause(kind=CauseKind.LOAD, text=text, error=happened.error)
    worker_failed(turn, happened.worker, Happening.LOAD_FAILED, cause, hopeless=True)


def _ready(turn: Turn, happened: inputs.Ready) -> None:
    worker = _progress(turn, happened.worker, Happening.READY)
    if worker is None:
        return
    turn.put(evolve(worker, ready_at=turn.now))
    seconds = turn.now - worker.spawned_at
    turn.tell(events.WorkerReady(worker=worker.id, generation=worker.generation, seconds=seconds))


def _beat_told(turn: Turn, happened: inputs.BeatTold) -> None:
    worker = turn.state.worker(happened.worker)
    if worker is None:
        return
    if happened.failures and worker.ready_at is None:
        # Of no consequence yet: the start-up deadline judges, and tells what the last one came to.
        turn.put(evolve(worker, last_failure=happened.text))
        return
    if happened.failures:
        turn.tell(
            events.HeartbeatFailed(
                worker=worker.id,
                failures=happened.failures,
                tolerance=happened.tolerance,
                text=happened.text,
            )
        )
    elif worker.failures:
        turn.tell(events.HeartbeatRecovered(worker=worker.id, failures=worker.failures))
    if happened.failures != worker.failures:
        turn.put(evolve(worker, failures=happened.failures))


def _crashed(turn: Turn, happened: inputs.Crashed) -> None:
    cause = Cause(kind=happened.kind, text=str(happened.error), error=happened.error)
    worker = worker_failed(turn, happened.worker, Happening.CRASHED, cause)
    if worker is None:
        return
    # One that was leaving had until the end of its drain; as a crash it has no longer than any other.
    limit = turn.now + GRACE_SECONDS + CRASH_EXIT_SECONDS
    turn.put(evolve(worker, deadline=limit if worker.deadline is None else min(worker.deadline, limit)))
    if happened.kind is CauseKind.HEARTBEAT:
        turn.order(DumpStacks(worker=worker.id))


def _terminated(turn: Turn, happened: inputs.Terminated) -> None:
    """Note when: a moment later it shows whether the session's end was meant (`end_terminated`)."""
    worker = turn.state.worker(happened.worker)
    if worker is not None and worker.alive and worker.terminated_at is None:
        turn.put(evolve(worker, terminated_at=turn.now))


def _worn(turn: Turn, happened: inputs.Worn) -> None:
    worker = turn.state.worker(happened.worker)
    if worker is not None and worker.life is Life.SERVING and not worker.worn:
        turn.put(evolve(worker, worn=happened.text))


def _hung(turn: Turn, happened: inputs.Hung) -> None:
    what = "it is stopped (SIGSTOP)" if happened.stopped else "its reactor hangs"
    text = f"{what}: no answer to the ping for {happened.seconds:.1f} s"
    worker_failed(turn, happened.worker, Happening.HUNG, Cause(kind=CauseKind.HANG, text=text), dump=True)


def _link_lost(turn: Turn, happened: inputs.LinkLost) -> None:
    """It is as good as dead, so others take over now; why, its exit tells in a moment, or else it is killed."""
    worker = turn.state.worker(happened.worker)
    if worker is None or next_life(worker.life, Happening.LINK_LOST) is not Life.DEAD:
        return
    text = f"its link to the monitor broke: {happened.text}"
    worker = turn.happen(turn.fail(worker, Cause(kind=CauseKind.LINK, text=text)), Happening.LINK_LOST)
    turn.put(evolve(worker, deadline=turn.now + LINK_SECONDS))


def _exited(turn: Turn, happened: inputs.Exited) -> None:
    worker = turn.state.worker(happened.worker)
    if worker is None or worker.gone_at is not None:
        return
    told, ending = _cause_of_exit(happened), turn.state.ending
    asked = bool(worker.leaving) and (bool(worker.killed) or happened.exit_status == 0)
    if may_be_meant_for_all(worker, told.signal):
        if ending is not None:
            worker, asked = evolve(worker, cause=None, leaving=worker.leaving or ending.reason), True
        elif not worker.leaving:
            hold(turn, worker, told)
            return
    if worker.cause is None and not asked:
        worker = turn.fail(worker, told)
    elif worker.cause is not None:
        worker = evolve(worker, cause=_final_cause(worker, worker.cause, told))
    turn.remove(worker)
    count_replaced(turn, worker)
    if worker.cause is None:
        how = f"exit status {told.exit_status}" if told.signal is None else told.text
        text = f"{how} ({worker.killed})" if worker.killed else how
        reason = worker.leaving
        turn.tell(events.WorkerExited(worker=worker.id, pid=worker.pid or 0, reason=reason, text=text))
        return
    turn.died.append(worker)
    after_failure(turn, worker, worker.cause)


def _final_cause(worker: Worker, cause: Cause, told: Cause) -> Cause:
    """The cause that was known before the exit, completed by it; a mere broken link gives way to what broke it."""
    if cause.kind is CauseKind.LINK and not worker.killed:
        return told
    return evolve(cause, exit_status=told.exit_status, signal=told.signal)


def _cause_of_exit(happened: inputs.Exited) -> Cause:
    core = ", core dumped" if happened.core_dumped else ""
    if happened.signal is not None:
        return Cause(kind=CauseKind.SIGNAL, text=f"killed by {happened.signal}{core}", signal=happened.signal)
    text = f"it ended by itself with exit status {happened.exit_status}"
    return Cause(kind=CauseKind.EXIT, text=text, exit_status=happened.exit_status)


def _ask_restart(turn: Turn, happened: inputs.AskRestart) -> None:
    state = turn.state
    refusal = ""
    if state.phase is not Phase.RUNNING:
        refusal = "the session is ending: it cannot be restarted any more"
    elif state.restart is not None:
        refusal = (
            f"a restart to generation {state.restart.generation}, asked for by {state.restart.asked_by}, "
            f"is under way for {turn.now - state.restart.started_at:.1f} s: wait for its end"
        )
    if refusal:
        if happened.request is not None:
            turn.order(Answer(request=happened.request, ok=False, text=refusal))
        return
    generation = state.last_generation + 1
    turn.change(
        last_generation=generation,
        restart=Restart(
            generation=generation,
            mode=happened.mode,
            asked_by=happened.asked_by,
            request=happened.request,
            started_at=turn.now,
            startup_seconds=happened.startup_seconds or state.policy.startup_seconds,
        ),
    )
    turn.tell(
        events.RestartStarted(
            generation=generation,
            mode=happened.mode,
            asked_by=happened.asked_by,
            overlap=turn.state.policy.overlap,
        )
    )


def _ask_end(turn: Turn, happened: inputs.AskEnd) -> None:
    if happened.request is not None:
        turn.change(requests=(*turn.state.requests, happened.request))
    begin_ending(turn, happened.reason, happened.status, graceful=happened.graceful)
    assert turn.state.ending is not None
    excuse(turn, turn.state.ending.reason)


def _answer_too_late(turn: Turn, happened: Input) -> None:
    """Nobody who asks is left without an answer, not even after the end."""
    if isinstance(happened, inputs.AskRestart):
        _ask_restart(turn, happened)
    elif isinstance(happened, inputs.AskEnd) and happened.request is not None:
        turn.order(Answer(request=happened.request, ok=True, text="the session has ended already"))


def _new_policy(turn: Turn, happened: inputs.NewPolicy) -> None:
    turn.change(policy=happened.policy)


def _tick(turn: Turn, happened: inputs.Tick) -> None:
    """Nothing to note: deadlines and rules look at the clock themselves."""


_RESPONSES: dict[type[Any], Callable[[Turn, Any], None]] = {
    inputs.Start: _start,
    inputs.Spawned: _spawned,
    inputs.SpawnFailed: _spawn_failed,
    inputs.Loaded: _loaded,
    inputs.LoadFailed: _load_failed,
    inputs.Ready: _ready,
    inputs.BeatTold: _beat_told,
    inputs.Crashed: _crashed,
    inputs.Terminated: _terminated,
    inputs.Worn: _worn,
    inputs.Hung: _hung,
    inputs.LinkLost: _link_lost,
    inputs.Exited: _exited,
    inputs.AskRestart: _ask_restart,
    inputs.AskEnd: _ask_end,
    inputs.NewPolicy: _new_policy,
    inputs.Tick: _tick,
}
