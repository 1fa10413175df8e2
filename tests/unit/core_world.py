"""A core under test with a clock that is moved by hand: what the tests of its rules are written with."""

from __future__ import annotations

from typing import Any, TypeVar

from serverworker.decisions import inputs
from serverworker.decisions.inputs import Command, Input
from serverworker.decisions.session import Step, next_wake, step
from serverworker.values.causes import CauseKind
from serverworker.values.errors import ErrorRecord
from serverworker.values.events import Event
from serverworker.values.state import Life, Policy, SessionState, Worker

ERROR = ErrorRecord(type="builtins.ValueError", message="no such table")

_T = TypeVar("_T")


class CoreWorld:
    """A session's state, its time, and all that it has ordered and told."""

    def __init__(self, *, seed: int = 1, **policy: Any) -> None:
        self.state = SessionState(policy=Policy(**policy), seed=seed)
        self.now = 1000.0
        self.commands: list[Command] = []
        self.events: list[Event] = []

    # --- what happens ---------------------------------------------------------------------------

    def tell(self, happened: Input) -> Step:
        """Give the core one input, now."""
        result = step(self.state, happened, self.now)
        self.state = result.state
        self.commands += result.commands
        self.events += result.events
        return result

    def pass_seconds(self, seconds: float) -> tuple[Command, ...]:
        """Let time pass, with a tick whenever the core wants one; answers all that it ordered meanwhile."""
        before, end = len(self.commands), self.now + seconds
        for _ in range(10_000):
            wake = next_wake(self.state, self.now)
            if wake is None or wake > end:
                break
            self.now = wake
            self.tell(inputs.Tick())
        else:
            raise AssertionError("the core wants to be woken again and again")
        self.now = end
        return tuple(self.commands[before:])

    def start(self) -> Step:
        """Begin the session."""
        return self.tell(inputs.Start())

    def spawned(self, worker: int) -> Step:
        """The worker's process runs; its pid is its id and 100."""
        return self.tell(inputs.Spawned(worker=worker, pid=100 + worker))

    def load(self, worker: int, *, needs_activation: bool = True) -> Step:
        """The worker's process runs and has built the application; answers the second step."""
        self.spawned(worker)
        loaded = inputs.Loaded(
            worker=worker, needs_activation=needs_activation, application="mysite.web:root"
        )
        return self.tell(loaded)

    def ready(self, worker: int) -> Step:
        """The worker's own health route has answered."""
        return self.tell(inputs.Ready(worker=worker))

    def bring_up(self, worker: int, *, needs_activation: bool = True) -> Step:
        """The worker is loaded, was activated and is ready; answers the last step."""
        result = self.load(worker, needs_activation=needs_activation)
        if self.life(worker) is Life.ACTIVATING:
            result = self.ready(worker)
        return result

    def exited(self, worker: int, status: int = 0) -> Step:
        """The worker's process ended by itself."""
        return self.tell(inputs.Exited(worker=worker, exit_status=status))

    def killed(self, worker: int, signal: str = "SIGKILL") -> Step:
        """A signal ended the worker's process."""
        return self.tell(inputs.Exited(worker=worker, signal=signal))

    def crashed(self, worker: int, *, kind: CauseKind = CauseKind.EXCEPTION) -> Step:
        """The worker tells of an error that nothing in it handled."""
        return self.tell(inputs.Crashed(worker=worker, error=ERROR, kind=kind))

    def terminated(self, worker: int) -> Step:
        """The worker tells that SIGTERM came from outside."""
        return self.tell(inputs.Terminated(worker=worker))

    def hung(self, worker: int) -> Step:
        """The worker did not answer the ping for ten seconds."""
        return self.tell(inputs.Hung(worker=worker, seconds=10.0))

    def link_lost(self, worker: int) -> Step:
        """The worker's link broke."""
        return self.tell(inputs.LinkLost(worker=worker, text="end of file"))

    def load_failed(self, worker: int) -> Step:
        """The worker's process runs and cannot build the application; answers the second step."""
        self.spawned(worker)
        return self.tell(inputs.LoadFailed(worker=worker, error=ERROR))

    def restart(self, mode: str = "clean", request: int | None = 7) -> Step:
        """An operator asks for a new generation."""
        return self.tell(inputs.AskRestart(mode=mode, asked_by="operator", request=request))

    def end(self, *, graceful: bool = True, status: int = 0, request: int | None = 9) -> Step:
        """An operator asks for the end."""
        return self.tell(inputs.AskEnd(reason="exit", graceful=graceful, status=status, request=request))

    def set_policy(self, **policy: Any) -> Step:
        """The figures change, to these and else the defaults."""
        return self.tell(inputs.NewPolicy(policy=Policy(**policy)))

    # --- what is to be seen ---------------------------------------------------------------------

    def worker(self, worker: int) -> Worker:
        """A worker that is still in the state."""
        found = self.state.worker(worker)
        if found is None:
            raise AssertionError(f"worker {worker} is gone")
        return found

    def life(self, worker: int) -> Life | None:
        """A worker's life; None once it is gone."""
        found = self.state.worker(worker)
        return None if found is None else found.life

    def lives(self) -> dict[int, Life]:
        """Every worker's life."""
        return {worker.id: worker.life for worker in self.state.workers}

    def ordered(self, kind: type[_T]) -> list[_T]:
        """All commands of one kind so far."""
        return [command for command in self.commands if isinstance(command, kind)]

    def told(self, kind: type[_T]) -> list[_T]:
        """All events of one kind so far."""
        return [event for event in self.events if isinstance(event, kind)]

    def last_told(self, kind: type[_T]) -> _T:
        """The latest event of one kind."""
        return self.told(kind)[-1]


def serving(*, needs_activation: bool = True, **policy: Any) -> CoreWorld:
    """A whole session, ten seconds old: the first `count` workers serve, the others stand by; its records are empty."""
    world = CoreWorld(**policy)
    world.start()
    for worker in range(1, world.state.policy.count + world.state.policy.standby + 1):
        world.bring_up(worker, needs_activation=needs_activation)
    world.now += 10.0
    world.commands.clear()
    world.events.clear()
    return world


def only(items: tuple[_T, ...] | list[_T]) -> _T:
    """The one item that there is."""
    if len(items) != 1:
        raise AssertionError(f"not one but {len(items)}: {items}")
    return items[0]
