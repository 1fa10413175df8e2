"""An engine under test: the real core, real links, and processes that are none."""

from __future__ import annotations

from typing import Any, TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from serverworker.decisions import inputs
from serverworker.monitor.engine import Engine
from serverworker.monitor.stream import EventStream
from serverworker.monitor.surroundings import Surroundings
from serverworker.processes.spawn import Recipe
from serverworker.testing import FakeReactor, FakeSpawner, FakeWorkerProcess
from serverworker.values.errors import ErrorRecord
from serverworker.values.events import Event, Told
from serverworker.values.state import Life, Policy
from serverworker.wire.emits import Handlers

ERROR = ErrorRecord(type="builtins.OSError", message="no data base")

_E = TypeVar("_E")


class EngineTestCase(SynchronousTestCase):
    """One engine; `begin` starts it."""

    def setUp(self) -> None:
        self.takeover_seconds = 0.0
        self.reactor = FakeReactor()
        self.spawner = FakeSpawner(self.reactor)
        self.handlers = Handlers()
        self.told: list[Event] = []
        self.joined: list[tuple[int, int]] = []
        self.watched: list[tuple[str, int]] = []
        self.finished: list[tuple[int, str]] = []
        self.recipes: list[int] = []
        self.recipe_error: Exception | None = None
        stream = EventStream(self.reactor.seconds)
        stream.observe(self.note)
        self.around = Surroundings(
            reactor=self.reactor,
            spawner=self.spawner,
            handlers=self.handlers,
            stream=stream,
            recipe=self.recipe,
            join_answer=self.join_answer,
            last_ports=lambda worker: [f"port of {worker}"],
            tolerance=lambda: 2,
            started=lambda pid: self.watched.append(("started", pid)),
            gone=lambda pid: self.watched.append(("gone", pid)),
            finished=lambda status, reason: self.finished.append((status, reason)),
        )
        self.addCleanup(self.close)

    def note(self, told: Told) -> None:
        self.told.append(told.event)

    def recipe(self, generation: int) -> Recipe:
        self.recipes.append(generation)
        if self.recipe_error is not None:
            raise self.recipe_error
        return Recipe(python="python", directory="/", environment={}, ports=(), shares=-1)

    def join_answer(self, worker: int, generation: int) -> Deferred[dict[str, Any]]:
        self.joined.append((worker, generation))
        return succeed({"settings": {"of": worker}, "generation": generation, "key": "the key"})

    def begin(self, **policy: Any) -> None:
        """Start a session, with one worker and no standby unless the policy says otherwise."""
        self.order_start(**policy)
        self.reactor.turn()

    def order_start(self, **policy: Any) -> None:
        """The same, up to the order to start the first worker."""
        self.engine = Engine(self.around, Policy(**{"standby": 0, **policy}), seed=1)
        self.engine.takeover_seconds = self.takeover_seconds
        self.engine.happened(inputs.Start())

    def close(self) -> None:
        """End every process, and start none, so that no descriptor is left."""
        spawner = self.around.spawner
        assert isinstance(spawner, FakeSpawner)
        spawner.error = OSError("the test is over")
        for process in spawner.processes.values():
            process.survives_kill = False
            process.end(by_signal=9)
        self.reactor.pass_seconds(2)
        for worker in tuple(self.engine._processes):
            self.engine._bury(worker)

    # --- what is to be seen ---------------------------------------------------------------------

    def process(self, worker: int) -> FakeWorkerProcess:
        return self.spawner.processes[worker]

    def orders(self, worker: int) -> list[str]:
        """The names of the orders that a worker got."""
        return [name for name, _ in self.process(worker).orders]

    def life(self, worker: int) -> Life | None:
        found = self.engine.state.worker(worker)
        return None if found is None else found.life

    def events(self, kind: type[_E]) -> list[_E]:
        return [event for event in self.told if isinstance(event, kind)]

    def event(self, kind: type[_E]) -> _E:
        """The one event of that kind."""
        (event,) = self.events(kind)
        return event

    # --- what happens ---------------------------------------------------------------------------

    def load(self, worker: int, *, needs_activation: bool = True) -> None:
        self.process(worker).load(needs_activation=needs_activation)
        self.reactor.turn()

    def bring_up(self, worker: int, *, needs_activation: bool = True) -> None:
        """It loads, is activated (a standby only where it needs none) and is ready."""
        self.load(worker, needs_activation=needs_activation)
        self.process(worker).ready()
        self.reactor.turn()

    def end(self, worker: int, status: int = 0, *, by_signal: int | None = None) -> None:
        self.process(worker).end(status, by_signal=by_signal)
        self.reactor.turn()
