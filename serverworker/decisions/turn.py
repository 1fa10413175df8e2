"""One step of the core under way: the state as it becomes, what is ordered, and what is told."""

from __future__ import annotations

from typing import Any

from attrs import evolve

from serverworker.decisions.backoff import draw, respawn_delay
from serverworker.decisions.inputs import Activate, Command, Kill, Leave, Serve, Spawn
from serverworker.decisions.life import Happening, Outcome, next_life
from serverworker.values import events
from serverworker.values.causes import Cause
from serverworker.values.events import Event
from serverworker.values.state import Life, Phase, SessionState, Worker

CRASH_EXIT_SECONDS = 5.0
"""How long a worker that fails may run its exit handlers."""
GRACE_SECONDS = 2.0
"""How much longer than a worker's own deadline the monitor waits before it kills."""
KILL_AGAIN_SECONDS = 5.0
"""How long after a SIGKILL the next one is sent: a process in the kernel's hands ends when it comes back."""
BLOW_SECONDS = 1.0
"""Workers that were there at a death and die within so long after it were struck by the same blow."""
LINK_SECONDS = 1.0
"""How long after its link broke a process may take to be gone: the kernel closes a dying process's descriptors before
it tells of the death, and that death has a better cause to tell than a broken link."""
TERM_SECONDS = 0.5
"""How long after a worker was sent SIGTERM its meaning is left open: whoever sends it to all processes of a session
(systemd with ``KillMode=control-group``) reaches some before the monitor, and then no worker has died."""


class Fault(Exception):
    """The core contradicts itself: the monitor reports it, drains and ends with 70."""


class Turn:
    """What one step changes. It lives as long as the step; nothing outside the core sees it."""

    def __init__(self, state: SessionState, now: float) -> None:
        self.state = state
        self.now = now
        self.commands: list[Command] = []
        self.events: list[Event] = []
        self.failed: list[int] = []
        """The workers that failed in this step; what is done about it is told once it is decided."""
        self.died: list[Worker] = []
        """The workers that are gone without having been asked, each to be told at the end of the step."""

    def change(self, **fields: Any) -> None:
        """Change the session's own fields."""
        self.state = evolve(self.state, **fields)

    def order(self, command: Command) -> None:
        """Add a command."""
        self.commands.append(command)

    def tell(self, event: Event) -> None:
        """Add an event."""
        self.events.append(event)

    def put(self, worker: Worker) -> Worker:
        """Put a worker's new value in the place of its old one."""
        self.change(workers=tuple(worker if each.id == worker.id else each for each in self.state.workers))
        return worker

    def remove(self, worker: Worker) -> None:
        """Take a worker out of the state."""
        self.change(workers=tuple(each for each in self.state.workers if each.id != worker.id))

    # --- a worker's life ------------------------------------------------------------------------

    def happen(self, worker: Worker, happening: Happening) -> Worker:
        """Move a worker to the life that the table says, with that life's own deadline.

        Raises `Fault` where the table has no life for it: who lets others' words in asks the table first.
        """
        cell = next_life(worker.life, happening)
        if isinstance(cell, Outcome):
            raise Fault(f"worker {worker.id} is {worker.life.value}, and yet {happening.value}")
        if cell is worker.life:
            return worker
        return self.put(
            evolve(worker, life=cell, since=self.now, deadline=self._deadline(cell, worker.generation))
        )

    def _deadline(self, life: Life, generation: int) -> float | None:
        if life in (Life.STARTING, Life.ACTIVATING):
            restart = self.state.restart
            if restart is not None and restart.generation == generation:
                return self.now + restart.startup_seconds
            return self.now + self.state.policy.startup_seconds
        return None  # what drains or is dead has a deadline too: who decides the end decides how long it may take

    def spawn(self, generation: int) -> None:
        """Order a new worker."""
        worker = Worker(
            id=self.state.last_worker + 1,
            generation=generation,
            life=Life.STARTING,
            spawned_at=self.now,
            since=self.now,
            deadline=self._deadline(Life.STARTING, generation),
        )
        self.change(workers=(*self.state.workers, worker), last_worker=worker.id)
        self.order(Spawn(worker=worker.id, generation=generation))

    def activate(self, worker: Worker) -> None:
        """Order a loaded worker to start its application."""
        worker = self.happen(worker, Happening.ACTIVATE)
        self.put(evolve(worker, activated=True))
        self.order(Activate(worker=worker.id))

    def serve(self, worker: Worker) -> None:
        """Order a ready worker to accept."""
        worker = self.happen(worker, Happening.SERVE)
        self.put(evolve(worker, serving_since=self.now))
        self.order(Serve(worker=worker.id))
        self.tell(
            events.ServerRunning(
                worker=worker.id,
                generation=worker.generation,
                is_first_time=not self.state.ever_served,
                version=worker.version,
            )
        )
        self.change(ever_served=True)

    def leave(self, worker: Worker, kind: str, text: str, *, drain: bool = True) -> None:
        """Ask a worker to end; one that has not loaded has nothing to finish, and is killed."""
        if worker.leaving or not worker.alive:
            return
        worker = self.put(evolve(worker, leaving=text))
        if next_life(worker.life, Happening.LEAVE) is Life.DEAD:
            self.kill(worker, text)
            return
        seconds = self.state.policy.drain_seconds if drain else CRASH_EXIT_SECONDS
        served = worker.life is Life.SERVING
        worker = self.happen(worker, Happening.LEAVE)
        self.put(evolve(worker, deadline=self.now + seconds + GRACE_SECONDS))
        self.order(Leave(worker=worker.id, kind=kind, text=text, seconds=seconds, drain=drain))
        if served:
            self.tell(events.WorkerDraining(worker=worker.id, reason=text, drain=drain))

    def kill(self, worker: Worker, text: str, *, dump: bool = False) -> Worker:
        """Order a worker's process to be killed; again, where it was killed before and is still there."""
        if worker.life is not Life.DEAD:
            worker = self.happen(worker, Happening.KILL)
        worker = self.put(
            evolve(worker, killed=worker.killed or text, deadline=self.now + KILL_AGAIN_SECONDS)
        )
        self.order(Kill(worker=worker.id, dump=dump))
        return worker

    # --- failures -------------------------------------------------------------------------------

    def fail(self, worker: Worker, cause: Cause) -> Worker:
        """Note why a worker failed, and count it for the back-off. The first cause is the one that counts."""
        if worker.cause is not None:
            return worker
        if self._delays(worker):
            self._count_death(worker)
        self.failed.append(worker.id)
        return self.put(evolve(worker, cause=cause, failed_in=worker.life))

    def _delays(self, worker: Worker) -> bool:
        """Whether a worker's failure delays the next start: not where it was leaving, or is a mere candidate."""
        mine = worker.generation == self.state.generation
        return mine and not worker.leaving and self.state.phase is Phase.RUNNING

    def _count_death(self, worker: Worker) -> None:
        self._note_for_giving_up()
        state = self.state
        if self._was_stable(worker):
            deaths = 1
        elif state.counted_at is not None and self._same_blow(worker, state.counted_at):
            # Older than the death that was counted last: struck by the same blow, and nobody's successor. Without
            # this, eight workers that lose their data base in one second would be back after half a minute.
            return
        else:
            deaths = state.deaths_in_a_row + 1
        chance, seed = draw(state.seed)
        self.change(
            deaths_in_a_row=deaths,
            counted_at=self.now,
            respawn_at=self.now + respawn_delay(state.policy, deaths, chance),
            seed=seed,
        )

    def _same_blow(self, worker: Worker, counted_at: float) -> bool:
        return worker.spawned_at < counted_at and self.now - counted_at < BLOW_SECONDS

    def _note_for_giving_up(self) -> None:
        policy = self.state.policy
        if policy.give_up_after is not None:
            recent = [at for at in self.state.death_times if at > self.now - policy.give_up_window_seconds]
            self.change(death_times=(*recent, self.now))

    def _was_stable(self, worker: Worker) -> bool:
        """Whether it was ready, or stood by, for so long that its failure begins a new row."""
        since = worker.since if worker.life is Life.LOADED else worker.ready_at
        return since is not None and self.now - since >= self.state.policy.reset_after_seconds
