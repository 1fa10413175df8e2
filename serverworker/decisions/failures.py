"""What a worker's failure leads to: beyond the worker itself, a failed restart or a session that can never start."""

from __future__ import annotations

from serverworker.decisions.life import Happening, Outcome, next_life
from serverworker.decisions.settle import begin_ending, drop_restart
from serverworker.decisions.turn import Turn
from serverworker.values.causes import Cause, CauseKind
from serverworker.values.exit_status import ExitStatus
from serverworker.values.state import Life, Phase, Worker


def worker_failed(
    turn: Turn,
    worker_id: int,
    happening: Happening,
    cause: Cause,
    *,
    dump: bool = False,
    hopeless: bool = False,
) -> Worker | None:
    """A worker failed while its process is there: note it, and kill it where the table says that it is dead.

    `hopeless`: another try would fail alike. Answers the worker, or None where the table says that this comes too
    late, or never should have come.
    """
    worker = turn.state.worker(worker_id)
    if worker is None:
        return None
    cell = next_life(worker.life, happening)
    if cell is Outcome.BREACH:
        break_off(turn, worker, happening)
    if isinstance(cell, Outcome):
        return None
    worker = turn.fail(worker, cause)
    if cell is Life.DEAD:
        worker = turn.kill(worker, cause.text, dump=dump)
    else:
        worker = turn.happen(worker, happening)
    after_failure(turn, worker, cause, hopeless=hopeless)
    return worker


def break_off(turn: Turn, worker: Worker, happening: Happening) -> None:
    """Kill a worker that says what no sane worker says now."""
    text = f"it broke the protocol: {happening.value}, while it was {worker.life.value}"
    cause = Cause(kind=CauseKind.LINK, text=text)
    worker = turn.kill(turn.fail(worker, cause), text)
    after_failure(turn, worker, cause)


def after_failure(turn: Turn, worker: Worker, cause: Cause, *, hopeless: bool = False) -> None:
    """Give up the restart that a failed worker was a candidate of, or the session whose first start cannot succeed."""
    restart = turn.state.restart
    if worker.leaving:
        return  # nobody counted on it any more
    _give_up_if_asked_to(turn)
    if restart is not None and worker.generation == restart.generation:
        drop_restart(turn, f"worker {worker.id} of generation {restart.generation}: {cause.text}", cause)
    elif hopeless and not turn.state.ever_loaded and turn.state.phase is Phase.RUNNING:
        begin_ending(turn, cause.text, ExitStatus.CONFIG, graceful=False)


def _give_up_if_asked_to(turn: Turn) -> None:
    policy, deaths = turn.state.policy, len(turn.state.death_times)
    if (
        policy.give_up_after is not None
        and deaths >= policy.give_up_after
        and turn.state.phase is Phase.RUNNING
    ):
        text = f"gave up: {deaths} deaths within {policy.give_up_window_seconds:g} s"
        begin_ending(turn, text, ExitStatus.SOFTWARE, graceful=True)


def end_overdue(turn: Turn) -> None:
    """Kill whoever has outlived its deadline."""
    for worker_id in [each.id for each in turn.state.workers if _overdue(each, turn.now)]:
        worker = turn.state.worker(worker_id)
        # The end of the one before may have changed this one: a dropped candidate has a new deadline.
        if worker is None or not _overdue(worker, turn.now):
            continue
        seconds = turn.now - worker.since
        if worker.life in (Life.STARTING, Life.ACTIVATING):
            text = f"it was not ready within {seconds:.1f} s of {worker.life.value}"
            if worker.last_failure:
                text += f"; its health route came to: {worker.last_failure}"
            cause = Cause(kind=CauseKind.STARTUP, text=text)
            worker_failed(turn, worker.id, Happening.OVERDUE, cause, dump=True)
        else:
            turn.kill(worker, f"it had not ended within {seconds:.1f} s")


def _overdue(worker: Worker, now: float) -> bool:
    return worker.deadline is not None and now >= worker.deadline
