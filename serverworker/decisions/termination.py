"""SIGTERM from outside: whether one worker was meant, which has died then, or the whole session, which ends in order.

systemd sends it to every process of a service (``KillMode=control-group``), a machine that is shut down to every
process there is. Some workers tell of it, and some that are starting die of it, before the monitor has its own.
"""

from __future__ import annotations

import math

from attrs import evolve

from serverworker.decisions.failures import after_failure, worker_failed
from serverworker.decisions.inputs import Leave
from serverworker.decisions.life import Happening
from serverworker.decisions.settle import count_replaced
from serverworker.decisions.turn import GRACE_SECONDS, TERM_SECONDS, Turn
from serverworker.values import events
from serverworker.values.causes import Cause, CauseKind
from serverworker.values.state import Life, Phase, SessionState, Worker

_SENT_TO_ALL = frozenset({"SIGTERM", "SIGINT"})
"""What a service manager, a terminal or a shutdown sends to all at once."""
_TEXT = "SIGTERM came from outside the session"


def may_be_meant_for_all(worker: Worker, signal: str | None) -> bool:
    """Whether a process that a signal has ended may have been sent it together with the monitor."""
    unexplained = worker.cause is None or worker.cause.kind is CauseKind.LINK
    return signal in _SENT_TO_ALL and unexplained and not worker.killed


def hold(turn: Turn, worker: Worker, cause: Cause) -> None:
    """Let others take over from a worker that is gone, and leave open for a moment what its end is to be called."""
    worker = turn.fail(worker, cause)
    if worker.life is not Life.DEAD:
        worker = turn.happen(worker, Happening.LINK_LOST)
    turn.put(evolve(worker, cause=cause, gone_at=turn.now, deadline=turn.now + TERM_SECONDS, activated=False))


def end_terminated(turn: Turn) -> None:
    """The moment is over, and nobody has asked for the session's end: who was sent SIGTERM was meant."""
    for worker_id in [each.id for each in turn.state.workers]:
        worker = turn.state.worker(worker_id)
        # The end of the one before may have changed this one: a dropped candidate leaves already.
        if worker is None:
            continue
        if worker.gone_at is not None and turn.now >= worker.gone_at + TERM_SECONDS:
            _bury(turn, worker)
        elif turn.state.phase is Phase.RUNNING and turn.now >= _judged_at(worker):
            _drain(turn, worker)


def _bury(turn: Turn, worker: Worker) -> None:
    assert worker.cause is not None
    turn.remove(worker)
    count_replaced(turn, worker)
    turn.died.append(worker)
    after_failure(turn, worker, worker.cause)


def _drain(turn: Turn, worker: Worker) -> None:
    seconds = turn.state.policy.drain_seconds
    failed = worker_failed(turn, worker.id, Happening.CRASHED, Cause(kind=CauseKind.SIGNAL, text=_TEXT))
    if failed is not None:
        turn.put(evolve(failed, deadline=turn.now + seconds + GRACE_SECONDS))
        turn.order(Leave(worker=worker.id, kind="restart", text=_TEXT, seconds=seconds))


def excuse(turn: Turn, reason: str) -> None:
    """The session's end was asked for, so that whoever is held was sent its signal together with the monitor."""
    for worker in turn.state.workers:
        if worker.gone_at is not None and worker.cause is not None:
            turn.remove(worker)
            count_replaced(turn, worker)
            turn.tell(
                events.WorkerExited(
                    worker=worker.id, pid=worker.pid or 0, reason=reason, text=worker.cause.text
                )
            )


def judged_at(state: SessionState) -> list[float]:
    """The times at which it shows what those who were sent SIGTERM, and go on, were sent it for."""
    if state.phase is not Phase.RUNNING:
        return []
    return [at for worker in state.workers if (at := _judged_at(worker)) < math.inf]


def _judged_at(worker: Worker) -> float:
    """Never, for who was sent none, or is on the way out already."""
    if worker.terminated_at is None or not worker.alive:
        return math.inf
    return worker.terminated_at + TERM_SECONDS
