"""The laws of the core: what holds after every step, whatever happened, and is checked after each."""

from __future__ import annotations

from collections import Counter

from serverworker.decisions.inputs import Activate, Answer, AskEnd, AskRestart, Finish, Input, Spawn, Tick
from serverworker.decisions.session import Step, next_wake, step
from serverworker.decisions.turn import GRACE_SECONDS, KILL_AGAIN_SECONDS
from serverworker.values import events
from serverworker.values.state import Life, Phase, SessionState, Worker

WAITS_FOREVER = (Life.LOADED, Life.READY, Life.SERVING)
PHASES = list(Phase)


class Broken(AssertionError):
    """A law does not hold."""


def law(holds: bool, text: str) -> None:
    """Raise `Broken` unless it holds."""
    if not holds:
        raise Broken(text)


class Laws:
    """Watches one session, step by step."""

    def __init__(self) -> None:
        self.happened: Counter[str] = Counter()
        """How often each input, command and event was seen."""
        self.unanswered: set[int] = set()
        """The requests without an answer."""
        self._restarting: int | None = None
        self._running_told = 0
        self._longest = self._longest_delay = 0.0
        """The longest life with a deadline, and the longest back-off, that any policy so far allows."""

    def check(self, before: SessionState, happened: Input, result: Step, now: float) -> None:
        """Hold a step against every law."""
        self.happened[type(happened).__name__] += 1
        self.happened.update(type(each).__name__ for each in (*result.commands, *result.events))
        state = result.state
        self._check_order(before, result)
        self._check_waits(state, now)
        self._check_telling(before, result)
        self._check_answers(happened, result)
        self._check_restart_told(result)
        if state.phase is Phase.RUNNING:
            _check_limits(state)
            _check_served(state, now)
            _check_activation(state, result)
            _check_nobody_leaves_a_gap(before, state)
        elif state.phase is Phase.ENDING:
            assert state.ending is not None
            untold = [worker for worker in state.workers if worker.alive]
            waits = now < state.ending.drain_at and all(each.life is Life.SERVING for each in untold)
            law(not untold or waits, "the session ends, and somebody was not told")
        if state is before:
            return  # an input that changed nothing was a second look itself
        again = step(state, Tick(), now)
        law(again == Step(state, (), ()), f"a second look finds more to do: {again.commands} {again.events}")

    # --- the state by itself --------------------------------------------------------------------

    def _check_order(self, before: SessionState, result: Step) -> None:
        state = result.state
        ids = [worker.id for worker in state.workers]
        law(ids == sorted(set(ids)), f"ids do not ascend: {ids}")
        law(not ids or ids[-1] <= state.last_worker, "a worker has an id that was not given out")
        law(PHASES.index(before.phase) <= PHASES.index(state.phase), "the session went back")
        law(before.generation <= state.generation <= state.last_generation, "the generation went back")
        spawned = [command.worker for command in result.commands if isinstance(command, Spawn)]
        fresh = list(range(before.last_worker + 1, state.last_worker + 1))
        law(spawned == fresh, f"{spawned} are started, but the ids given out are {fresh}")

    def _check_waits(self, state: SessionState, now: float) -> None:
        """Whatever is waited for has a deadline, no later than the policies so far allow, and somebody is woken."""
        policy = state.policy
        longest = max(policy.startup_seconds, policy.drain_seconds + GRACE_SECONDS, 7.0)
        self._longest = max(self._longest, longest)
        self._longest_delay = max(self._longest_delay, policy.maximum_delay_seconds)
        wake = next_wake(state, now)
        law(wake is None or wake >= now, "a wake-up in the past")
        for worker in state.workers:
            if worker.deadline is None:
                law(worker.life in WAITS_FOREVER, f"worker {worker.id} may be {worker.life.value} for ever")
            else:
                law(
                    worker.life not in WAITS_FOREVER,
                    f"worker {worker.id} has a deadline while {worker.life.value}",
                )
                law(now < worker.deadline <= now + self._longest, f"a deadline of {worker.deadline - now} s")
                law(wake is not None and wake <= worker.deadline, f"nobody is woken for worker {worker.id}")
        law(state.respawn_at <= now + self._longest_delay, f"a back-off of {state.respawn_at - now} s")
        if state.respawn_at > now and state.phase is not Phase.ENDED:
            law(wake is not None and wake <= state.respawn_at, "nobody is woken for the successor")
        if state.phase is Phase.ENDING:
            assert state.ending is not None
            if now < state.ending.drain_at:
                law(wake is not None and wake <= state.ending.drain_at, "nobody is woken for the drain")
            latest = state.ending.deadline + KILL_AGAIN_SECONDS
            law(wake is not None and now < latest, "the end has no end")
        law(
            (state.phase is Phase.ENDED) == (state.ending is not None and not state.workers),
            "the end and its work",
        )
        if state.replacing is not None:
            old = [each for each in state.workers if each.serving_since is not None]
            left = [each for each in old if each.generation < state.replacing.generation]
            law(len(left) == state.replacing.left > 0, f"{state.replacing} but {len(left)} are left")

    # --- what is told ---------------------------------------------------------------------------

    def _check_telling(self, before: SessionState, result: Step) -> None:
        """Every end is told in the step in which the worker goes, once, and for what it was."""
        kept = {worker.id for worker in result.state.workers}
        gone = {worker.id: worker for worker in before.workers if worker.id not in kept}
        told: list[int] = []
        restart = result.state.restart
        for event in result.events:
            if isinstance(event, events.WorkerDied):
                law(bool(event.next_step), "a death without a next step")
                law(event.worker in gone, f"the death of worker {event.worker} is told, who is there")
                candidate = restart is not None and event.generation == restart.generation
                law(
                    not candidate or bool(gone[event.worker].leaving),
                    "a candidate died, and the restart goes on",
                )
                told.append(event.worker)
            elif isinstance(event, events.WorkerExited):
                law(bool(event.reason), f"worker {event.worker} was asked by nobody")
                told.append(event.worker)
            elif isinstance(event, events.ServerRunning):
                law(event.is_first_time == (self._running_told == 0), "not the first time, or not the only")
                self._running_told += 1
        law(sorted(told) == sorted(gone), f"{sorted(gone)} are gone, {sorted(told)} are told")
        ends = [each for each in result.events if isinstance(each, events.SessionEnded)]
        finishes = [each for each in result.commands if isinstance(each, Finish)]
        ended = before.phase is not Phase.ENDED and result.state.phase is Phase.ENDED
        law(len(ends) == len(finishes) == int(ended), "the end is told once, when it comes")
        law(not ends or result.events[-1] is ends[0], "something is told after the end")

    def _check_answers(self, happened: Input, result: Step) -> None:
        """Who asks is answered once, and nobody who did not ask."""
        if isinstance(happened, AskRestart | AskEnd) and happened.request is not None:
            self.unanswered.add(happened.request)
        for command in result.commands:
            if isinstance(command, Answer):
                law(
                    command.request in self.unanswered,
                    f"request {command.request} is answered twice, or was never made",
                )
                self.unanswered.remove(command.request)
        state = result.state
        waiting = set(state.requests) if state.phase is not Phase.ENDED else set()
        if state.restart is not None and state.restart.request is not None:
            waiting.add(state.restart.request)
        law(self.unanswered == waiting, f"{self.unanswered} wait for an answer, {waiting} will get one")

    def _check_restart_told(self, result: Step) -> None:
        """Every restart that is told to have started is told to have ended, once."""
        for event in result.events:
            if isinstance(event, events.RestartStarted):
                law(self._restarting is None, "two restarts at once")
                self._restarting = event.generation
            elif isinstance(event, events.RestartCompleted | events.RestartFailed):
                law(self._restarting == event.generation, "the end of a restart that is not under way")
                self._restarting = None
        restart = result.state.restart
        law(
            self._restarting == (None if restart is None else restart.generation),
            "a restart that nobody was told of",
        )


# --- a session that runs ---------------------------------------------------------------------------


def _check_limits(state: SessionState) -> None:
    """Processes that serve or may yet serve: count + standby, and beside them count candidates of one restart.

    Where one who serves is to be replaced there is one standby at least. So never more than 2 * count + standby in all
    (or 1 for a standby of 0); those that drain or are dead come to it, each with its deadline.
    """
    policy, restart = state.policy, state.restart
    worn = any(worker.worn and worker.life is Life.SERVING for worker in state.workers)
    standby = max(policy.standby, 1 if worn and policy.overlap else 0)
    alive = [worker for worker in state.workers if worker.alive]
    own = [worker for worker in alive if worker.generation == state.generation]
    law(len(own) <= policy.count + standby, f"{len(own)} workers of generation {state.generation}")
    others = [worker for worker in alive if worker.generation != state.generation]
    if others:
        law(restart is not None and not restart.taking_over, f"a second generation stays: {others}")
        assert restart is not None
        law(
            all(each.generation == restart.generation for each in others),
            f"a third generation stays: {others}",
        )
        law(len(others) <= policy.count, f"{len(others)} candidates")
    for workers in (own, others):
        starting = [worker for worker in workers if worker.life is Life.STARTING]
        law(len(starting) <= policy.starting_at_once, f"{len(starting)} start at once")
    replaced = [worker for worker in state.workers if worker.worn and worker.leaving == worker.worn]
    law(len(replaced) <= 1, f"{len(replaced)} are replaced at once for their limits")
    if not policy.overlap:
        running = [worker for worker in own if worker.activated]
        law(len(running) <= policy.count, f"{len(running)} run where {policy.count} may")
    for worker in state.in_life(Life.SERVING):
        law(worker.generation == state.generation, f"worker {worker.id} of another generation serves")


def _check_served(state: SessionState, now: float) -> None:
    """Where workers are missing, somebody is on the way, or the next start is planned; nobody able stands idle."""
    count, generation = state.policy.count, state.generation
    serving = len(state.in_life(Life.SERVING, generation=generation))
    law(serving <= count, f"{serving} serve, {count} are wanted")
    if serving == count:
        return
    law(not state.in_life(Life.READY, generation=generation), "a ready worker is not let serve")
    loaded = state.in_life(Life.LOADED, generation=generation)
    activating = state.in_life(Life.ACTIVATING, generation=generation)
    if loaded and serving + len(activating) < count:
        law(bool(_running(state)) and not state.policy.overlap, "a loaded worker is not activated")
    coming = len(loaded) + len(activating) + len(state.in_life(Life.STARTING, generation=generation))
    starting_all = len(state.in_life(Life.STARTING, generation=generation)) >= state.policy.starting_at_once
    planned = state.respawn_at > now or starting_all
    law(
        serving + coming >= count or planned,
        f"{serving} of {count} serve, {coming} come, and nothing is planned",
    )


def _check_activation(state: SessionState, result: Step) -> None:
    """With ``overlap = false`` no application is started beside one that may still run."""
    if state.policy.overlap or not any(isinstance(command, Activate) for command in result.commands):
        return
    running = _running(state)
    law(len(running) <= state.policy.count, f"{len(running)} applications run at once")
    law(all(worker.generation == state.generation for worker in running), "old and new code run at once")


def _running(state: SessionState) -> list[Worker]:
    return [worker for worker in state.workers if worker.activated]


def _check_nobody_leaves_a_gap(before: SessionState, state: SessionState) -> None:
    """With overlap nobody who serves is asked to leave before enough others serve: a restart costs nothing."""
    served = {worker.id for worker in before.in_life(Life.SERVING)}
    sent_away = [worker.id for worker in state.workers if worker.leaving and worker.id in served]
    if sent_away and state.policy.overlap:
        serving = len(state.in_life(Life.SERVING))
        law(serving >= state.policy.count, f"{sent_away} are asked to leave, and {serving} serve")
