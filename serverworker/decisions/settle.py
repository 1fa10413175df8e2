"""The rules that bring what is towards what is wanted. They run after every input, whatever it was."""

from __future__ import annotations

from attrs import evolve

from serverworker.decisions.inputs import Answer, Finish, Unready
from serverworker.decisions.turn import GRACE_SECONDS, KILL_AGAIN_SECONDS, Turn
from serverworker.values import events
from serverworker.values.causes import Cause
from serverworker.values.state import Ending, Life, Phase, Replacing, Restart, SessionState, Worker


def settle(turn: Turn) -> None:
    """Apply every rule once, in an order in which no rule undoes or needs a later one."""
    if turn.state.phase is Phase.RUNNING:
        _settle_restart(turn)
        _promote(turn)
        _complete_takeover(turn)
        _replace_worn(turn)
        _end_surplus(turn)
        _start_successors(turn)
    if turn.state.phase is Phase.ENDING:
        _settle_ending(turn)


# --- the generation that serves --------------------------------------------------------------------


def _promote(turn: Turn) -> None:
    """Let ready workers serve where some are missing; activate loaded ones where no ready one is left."""
    state = turn.state
    policy, generation = state.policy, state.generation
    missing = policy.count - len(state.in_life(Life.SERVING, generation=generation))
    for worker in state.in_life(Life.READY, generation=generation)[: max(missing, 0)]:
        turn.serve(worker)
        missing -= 1
    missing -= len(state.in_life(Life.ACTIVATING, generation=generation))
    for worker in state.in_life(Life.LOADED, generation=generation):
        free = policy.overlap and not worker.needs_activation
        if free or (missing > 0 and _may_activate(turn.state)):
            turn.activate(worker)
            missing -= 1


def _may_activate(state: SessionState) -> bool:
    """Whether one more application may run: with ``overlap = false`` only when the former ones are gone."""
    if state.policy.overlap:
        return True
    running = [worker for worker in state.workers if worker.activated]
    foreign = any(worker.generation != state.generation for worker in running)
    return len(running) < state.policy.count and not foreign


def _worn(state: SessionState) -> Worker | None:
    """The worker that is to be replaced next: one at a time, and none while a restart replaces all."""
    if state.restart is not None or any(each.worn and not each.alive for each in state.workers):
        return None
    serving = state.in_life(Life.SERVING, generation=state.generation)
    if len(serving) < state.policy.count:
        return None
    return next((worker for worker in serving if worker.worn), None)


def _replace_worn(turn: Turn) -> None:
    """Let a ready worker take the place of one that has reached a limit; what must not run twice leaves first."""
    state, worn = turn.state, _worn(turn.state)
    if worn is None:
        return
    generation = state.generation
    ready = state.in_life(Life.READY, generation=generation)
    loaded = state.in_life(Life.LOADED, generation=generation)
    if ready:
        turn.serve(ready[0])
        turn.leave(worn, "restart", worn.worn)
    elif not state.policy.overlap:
        if loaded or not state.policy.standby:
            turn.leave(worn, "restart", worn.worn)
    elif loaded and not state.in_life(Life.ACTIVATING, generation=generation):
        turn.activate(loaded[0])


def _standbys(state: SessionState) -> int:
    """How many are to wait: one at least where somebody is to be replaced beside the one who serves."""
    return max(state.policy.standby, 1 if state.policy.overlap and _worn(state) else 0)


def _end_surplus(turn: Turn) -> None:
    """Ask whoever is too many to leave: the worn and the youngest who serve, the least advanced who wait."""
    state = turn.state
    policy, generation = state.policy, state.generation
    serving = sorted(state.in_life(Life.SERVING, generation=generation), key=lambda worker: bool(worker.worn))
    for worker in serving[policy.count :]:
        turn.leave(worker, "restart", "fewer workers are wanted")
    missing = max(policy.count - len(serving), 0)
    activated = state.in_life(Life.READY, generation=generation)
    activated += state.in_life(Life.ACTIVATING, generation=generation)
    unactivated = state.in_life(Life.LOADED, generation=generation)
    unactivated += state.in_life(Life.STARTING, generation=generation)
    # What must not run twice does not stand by activated either.
    standby = _standbys(turn.state)  # those who were just asked to leave need nobody beside them
    room = missing + (standby if policy.overlap else 0)
    kept = len(activated[:room])
    for worker in activated[room:] + unactivated[missing + standby - kept :]:
        turn.leave(worker, "restart", "fewer standbys are wanted")


def _start_successors(turn: Turn) -> None:
    """Start what is missing: who serves first, standbys once there are enough who do, and none during a restart."""
    state = turn.state
    generation = state.generation
    alive = [worker for worker in state.workers if worker.alive and worker.generation == generation]
    wanted = state.policy.count
    serving = len(state.in_life(Life.SERVING, generation=generation))
    if serving >= state.policy.count and state.restart is None:
        wanted += _standbys(state)
    _spawn(turn, generation, wanted - len(alive))


def _spawn(turn: Turn, generation: int, number: int) -> None:
    state = turn.state
    if generation == state.generation and turn.now < state.respawn_at:
        return
    room = state.policy.starting_at_once - len(state.in_life(Life.STARTING, generation=generation))
    for _ in range(min(number, room)):
        turn.spawn(generation)


# --- a restart -------------------------------------------------------------------------------------


def _settle_restart(turn: Turn) -> None:
    """Bring the candidates as far as they may come beside the old workers, then let them take over."""
    restart = turn.state.restart
    if restart is None or restart.taking_over:
        return
    state, generation = turn.state, restart.generation
    wanted = state.policy.count
    # One whose link broke is one of them until its exit tells why: no other is started in its place.
    candidates = [each for each in state.workers if each.generation == generation and not each.leaving]
    for surplus in candidates[wanted:]:
        turn.leave(surplus, "restart", "fewer workers are wanted", drain=False)
    _spawn(turn, generation, wanted - len(candidates))
    if state.policy.overlap:
        for worker in turn.state.in_life(Life.LOADED, generation=generation):
            turn.activate(worker)
        if len(turn.state.in_life(Life.READY, generation=generation)) >= wanted:
            _switch(turn, restart)
            _complete(turn, restart)
    elif len(turn.state.in_life(Life.LOADED, Life.READY, generation=generation)) >= wanted:
        _switch(turn, restart)
        turn.change(restart=evolve(restart, taking_over=True))


def _switch(turn: Turn, restart: Restart) -> None:
    """The candidates become the generation that serves; the old workers leave."""
    old = [
        worker
        for worker in turn.state.workers
        if worker.serving_since is not None and worker.generation < restart.generation
    ]
    turn.change(
        generation=restart.generation,
        deaths_in_a_row=0,
        counted_at=None,
        respawn_at=0.0,
        replacing=Replacing(generation=restart.generation, total=len(old), left=len(old)) if old else None,
    )
    if turn.state.policy.overlap:
        _promote(turn)
    for worker in turn.state.workers:
        if worker.generation != restart.generation:
            text = f"generation {restart.generation} takes over"
            turn.leave(worker, "restart", text, drain=restart.mode != "force")


def _complete_takeover(turn: Turn) -> None:
    """With ``overlap = false`` a restart is complete when the candidates serve."""
    state, restart = turn.state, turn.state.restart
    if restart is None or not restart.taking_over:
        return
    if len(state.in_life(Life.SERVING, generation=restart.generation)) >= state.policy.count:
        _complete(turn, restart)


def _complete(turn: Turn, restart: Restart) -> None:
    turn.change(restart=None)
    turn.tell(events.RestartCompleted(generation=restart.generation, seconds=turn.now - restart.started_at))
    if restart.request is not None:
        turn.order(Answer(request=restart.request, ok=True, text=f"generation {restart.generation} serves"))


def drop_restart(turn: Turn, text: str, cause: Cause | None = None) -> None:
    """Give a restart up: its candidates end, the old workers go on.

    Past the point of no return (``overlap = false``, the old workers were told to leave) the candidates go on as the
    session's own workers, with back-off; the restart has failed all the same.
    """
    restart = turn.state.restart
    if restart is None:
        return
    turn.change(restart=None)
    if restart.taking_over:
        text += "; the old workers had been told to leave, so that the new generation goes on"
    else:
        for worker in turn.state.workers:
            if worker.generation == restart.generation:
                turn.leave(worker, "restart", f"generation {restart.generation} is dropped", drain=False)
    turn.tell(events.RestartFailed(generation=restart.generation, text=text, cause=cause))
    if restart.request is not None:
        turn.order(Answer(request=restart.request, ok=False, text=text))


def count_replaced(turn: Turn, gone: Worker) -> None:
    """Note that an old worker has ended after a restart."""
    replacing = turn.state.replacing
    if replacing is None or gone.generation >= replacing.generation or gone.serving_since is None:
        return
    replacing = evolve(replacing, left=replacing.left - 1)
    turn.change(replacing=replacing if replacing.left > 0 else None)
    turn.tell(
        events.RestartProgress(
            generation=replacing.generation, replaced=replacing.total - replacing.left, total=replacing.total
        )
    )


# --- the end of the session ------------------------------------------------------------------------


def begin_ending(turn: Turn, reason: str, status: int, *, graceful: bool) -> None:
    """Decide the end; a second wish can only make it faster."""
    # A worker's reason to leave is never empty: it is what says that it was asked.
    reason = reason or "no reason was given"
    policy = turn.state.policy
    serving = turn.state.in_life(Life.SERVING)
    drain_at = turn.now + (policy.unready_seconds if graceful and serving else 0.0)
    deadline = drain_at + (policy.drain_seconds if graceful else 0.0) + GRACE_SECONDS
    ending = turn.state.ending
    if ending is None:
        drop_restart(turn, f"the session ends: {reason}")
        turn.change(
            phase=Phase.ENDING,
            ending=Ending(
                reason=reason, graceful=graceful, status=status, drain_at=drain_at, deadline=deadline
            ),
        )
        if drain_at > turn.now:
            for worker in serving:
                turn.order(Unready(worker=worker.id))
        turn.tell(events.SessionEnding(reason=reason, graceful=graceful, status=status))
    elif ending.graceful and not graceful:
        turn.change(ending=evolve(ending, graceful=False, deadline=min(ending.deadline, deadline)))
        turn.tell(events.SessionEnding(reason=reason, graceful=False, status=ending.status))


def last_moment(ending: Ending) -> float:
    """When the session is over, whoever is still there."""
    return ending.deadline + KILL_AGAIN_SECONDS


def _settle_ending(turn: Turn) -> None:
    ending = turn.state.ending
    assert ending is not None
    for worker in turn.state.workers:
        if ending.graceful and turn.now < ending.drain_at and worker.life is Life.SERVING:
            continue
        if ending.graceful and turn.now < ending.deadline:
            turn.leave(worker, "session-end", ending.reason)
        elif worker.life is not Life.DEAD:
            turn.kill(evolve(worker, leaving=worker.leaving or ending.reason), "the session ends now")
    if turn.now < last_moment(ending):
        return
    # A process that even SIGKILL does not end is in the kernel's hands; the guardian and init have it then.
    for worker in turn.state.workers:
        turn.remove(worker)
        count_replaced(turn, worker)
        if worker.cause is not None:
            turn.died.append(worker)
        else:
            text = f"it is still there, {turn.now - worker.since:.1f} s after SIGKILL"
            pid, reason = worker.pid or 0, worker.leaving
            turn.tell(events.WorkerExited(worker=worker.id, pid=pid, reason=reason, text=text))


def finish(turn: Turn) -> None:
    """End the session when nobody is left. It is the last that is told, after the last worker's own end."""
    state, ending = turn.state, turn.state.ending
    if ending is None or state.workers:
        return
    turn.change(phase=Phase.ENDED)
    for request in state.requests:
        turn.order(Answer(request=request, ok=True, text=f"the session has ended: {ending.reason}"))
    turn.tell(events.SessionEnded(status=ending.status, reason=ending.reason))
    turn.order(Finish(status=ending.status, reason=ending.reason))
