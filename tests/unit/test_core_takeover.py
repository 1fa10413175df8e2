"""The core: restarts of what must not run twice (`overlap = false`)."""

from __future__ import annotations

from twisted.trial.unittest import TestCase

from serverworker.decisions.inputs import Activate, Answer, Kill, Leave, Serve, Spawn
from serverworker.decisions.session import next_wake
from serverworker.values import events
from serverworker.values.state import Life
from tests.unit.core_world import only, serving


class NoOverlapTests(TestCase):
    """`overlap = false`: the application must not run twice."""

    def test_step_by_step(self) -> None:
        """Load beside, then the old one leaves, and only when it is gone the new one is activated."""
        world = serving(count=1, standby=1, overlap=False)
        self.assertEqual((Spawn(worker=3, generation=2),), world.restart().commands)
        leaves = tuple(
            Leave(worker=old, kind="restart", text="generation 2 takes over", seconds=30.0) for old in (1, 2)
        )
        self.assertEqual(leaves, world.load(3).commands)
        self.assertEqual((), world.exited(2).commands)
        self.assertEqual((), world.pass_seconds(20.0))
        self.assertEqual((Activate(worker=3),), world.exited(1).commands)
        answer = Answer(request=7, ok=True, text="generation 2 serves")
        self.assertEqual((Serve(worker=3), answer, Spawn(worker=4, generation=2)), world.ready(3).commands)
        only(world.told(events.RestartCompleted))

    def test_told(self) -> None:
        """The event of its start says that the old ones do not go on until the new ones are ready."""
        world = serving(count=1, standby=0, overlap=False)
        world.restart()
        self.assertFalse(only(world.told(events.RestartStarted)).overlap)

    def test_an_old_worker_that_does_not_leave_is_killed(self) -> None:
        """The port's queue waits no longer than the drain deadline and its grace."""
        world = serving(count=1, standby=0, overlap=False)
        world.restart()
        world.load(2)
        self.assertEqual((Kill(worker=1),), world.pass_seconds(32.0))
        self.assertEqual((Activate(worker=2),), world.killed(1).commands)

    def test_nobody_of_the_old_code_is_started_meanwhile(self) -> None:
        """The old generation is on its way out: a successor of its own would keep it for good."""
        world = serving(count=1, standby=0, overlap=False)
        world.restart()
        world.load(2)
        world.exited(1)
        self.assertEqual([2], [spawn.worker for spawn in world.ordered(Spawn)])

    def test_old_and_new_code_never_run_together(self) -> None:
        """With two workers the first of the new waits for the last of the old."""
        world = serving(count=2, standby=0, overlap=False)
        world.restart()
        world.load(3)
        world.load(4)
        self.assertEqual((), world.exited(1).commands)
        self.assertEqual((Activate(worker=3), Activate(worker=4)), world.exited(2).commands)

    def test_a_failure_to_load_is_dropped(self) -> None:
        """Up to there promise 4 holds: the old one has not been asked for anything."""
        world = serving(count=1, standby=0, overlap=False)
        world.restart()
        world.load_failed(2)
        self.assertEqual({1: Life.SERVING, 2: Life.DEAD}, world.lives())
        self.assertFalse(only(world.ordered(Answer)).ok)

    def test_a_failure_after_the_old_have_left(self) -> None:
        """There is no way back: the restart has failed, says so, and the new code is started again, with back-off."""
        world = serving(count=1, standby=0, overlap=False)
        world.restart()
        world.load(2)
        world.exited(1)
        world.crashed(2)
        answer = only(world.ordered(Answer))
        self.assertFalse(answer.ok)
        self.assertIn(
            "the old workers had been told to leave, so that the new generation goes on", answer.text
        )
        only(world.told(events.RestartFailed))
        self.assertEqual({2: Life.DRAINING, 3: Life.STARTING}, world.lives())
        self.assertEqual((2, 1), (world.worker(3).generation, world.state.deaths_in_a_row))
        world.load(3)
        self.assertEqual((Activate(worker=3),), world.exited(2, status=1).commands)

    def test_the_deploy_that_mends_it_is_not_refused(self) -> None:
        """A takeover that failed is over: the next restart may begin at once."""
        world = serving(count=1, standby=0, overlap=False)
        world.restart()
        world.load(2)
        world.exited(1)
        world.crashed(2)
        world.restart(request=8)
        candidate = only(world.state.in_life(Life.STARTING, generation=3))
        world.load(candidate.id)
        world.exited(2, status=1)
        self.assertEqual(3, world.state.generation)
        for old in world.state.in_life(Life.DEAD):
            world.killed(old.id)
        world.ready(candidate.id)
        self.assertIn(Answer(request=8, ok=True, text="generation 3 serves"), world.commands)

    def test_a_dead_standby_does_not_hold_up_the_takeover(self) -> None:
        """What was never activated does not run: only what may still run is waited for."""
        world = serving(count=1, standby=1, overlap=False)
        world.restart()
        world.load(3)
        self.assertEqual((Activate(worker=3),), world.exited(1).commands)
        self.assertIs(Life.DRAINING, world.life(2))

    def test_everything_has_a_deadline(self) -> None:
        """Wherever the takeover is stuck, somebody is woken for it."""
        world = serving(count=1, standby=0, overlap=False)
        world.restart()
        self.assertIsNotNone(next_wake(world.state, world.now))
        world.load(2)
        self.assertIsNotNone(next_wake(world.state, world.now))
        world.exited(1)
        self.assertIsNotNone(next_wake(world.state, world.now))
