"""Whose stacks the engine has dumped: those of a worker that hangs, or whose heartbeats failed."""

from __future__ import annotations

import os
import signal
from typing import Any

from attrs import evolve
from twisted.internet.interfaces import IProcessProtocol

from serverworker.decisions import inputs
from serverworker.processes.spawn import Ends, Recipe
from serverworker.processes.stacks import DUMP_SIGNAL
from serverworker.testing import FakeSpawner
from serverworker.values import events
from serverworker.values.causes import CauseKind
from tests.unit.engine_case import ERROR, EngineTestCase

DUMP = b"""\
Current thread 0x00007f0000000000 (most recent call first):
  File "/srv/wiki/pages.py", line 12 in show
  File "/usr/lib/python3.11/runpy.py", line 198 in _run_module_as_main
"""


class DumpTests(EngineTestCase):
    """The signal that asks for them goes to a process that is none, and is only noted."""

    def setUp(self) -> None:
        super().setUp()
        self.signals: list[Any] = []
        self.patch(os, "kill", lambda pid, number: self.signals.append((pid, number)))

    def test_hang(self) -> None:
        """One that hangs is killed once its stacks are here, and the report says where it hung."""

        class Dumping(FakeSpawner):
            def spawn(self, recipe: Recipe, worker_id: int, protocol: IProcessProtocol) -> Ends:
                ends = super().spawn(recipe, worker_id, protocol)
                os.close(ends.stacks)
                reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
                os.write(writing, DUMP)
                os.close(writing)
                return evolve(ends, stacks=reading)

        self.spawner = Dumping(self.reactor)
        self.around = evolve(self.around, spawner=self.spawner)
        self.begin()
        self.bring_up(1)
        pid = self.process(1).pid
        self.engine.happened(inputs.Hung(worker=1, seconds=10.0))
        self.assertEqual((self.signals, self.process(1).signals), ([(pid, DUMP_SIGNAL)], []))
        self.reactor.pass_seconds(2)
        self.assertEqual(self.process(1).signals, [signal.SIGKILL])
        died = self.event(events.WorkerDied)
        self.assertEqual(died.cause.kind, CauseKind.HANG)
        self.assertEqual(died.hung_at, "/srv/wiki/pages.py, line 12, in show")
        self.assertEqual(died.stacks, DUMP.decode())

    def test_failed_heartbeats(self) -> None:
        """One whose heartbeats failed has its stacks dumped, and ends by itself."""
        self.begin()
        self.bring_up(1)
        self.process(1).crash(ERROR, CauseKind.HEARTBEAT)
        self.reactor.turn()
        self.assertEqual(self.signals, [(self.process(1).pid, DUMP_SIGNAL)])
        self.assertEqual(self.process(1).signals, [])

    def activating(self, *, keeps_program: bool) -> None:
        """A worker that was told to start its application, and is not ready."""
        recipe = evolve(self.recipe(1), keeps_program=keeps_program)
        self.around = evolve(self.around, recipe=lambda generation: recipe)
        self.begin(startup_seconds=5.0)
        self.process(1).load()
        self.reactor.turn()
        self.assertIn("Activate", self.orders(1))

    def test_not_ready_in_time(self) -> None:
        """One whose application does not start has its stacks dumped."""
        self.activating(keeps_program=False)
        pid = self.process(1).pid
        self.reactor.pass_seconds(5)
        self.assertEqual(self.signals, [(pid, DUMP_SIGNAL)])

    def test_program_not_ready_in_time(self) -> None:
        """One whose program does not is killed without: its own stacks do not say why. Later they may."""
        self.activating(keeps_program=True)
        self.reactor.pass_seconds(5)
        self.assertEqual((self.signals, self.process(1).signals), ([], [signal.SIGKILL]))

    def test_no_dump(self) -> None:
        """One that is killed for no hang is not asked for its stacks."""
        self.begin()
        self.bring_up(1)
        self.engine.ask_end("enough", graceful=False, status=0)
        self.reactor.turn()
        self.assertEqual((self.signals, self.process(1).signals), ([], [signal.SIGKILL]))
