"""The core: more workers and fewer, while it runs (`set workers N`)."""

from __future__ import annotations

from twisted.trial.unittest import TestCase

from serverworker.decisions import inputs
from serverworker.decisions.inputs import Activate, Kill, Leave, Serve, Spawn
from serverworker.values import events
from serverworker.values.state import Life
from tests.unit.core_world import CoreWorld, only, serving


def leave(worker: int, text: str) -> Leave:
    """The order to a worker that is one too many."""
    return Leave(worker=worker, kind="restart", text=text, seconds=30.0)


class UpTests(TestCase):
    """More workers."""

    def test_the_standby_serves_and_another_starts(self) -> None:
        """Who is there already is used first; then as many are started as are missing, two at a time."""
        world = serving(count=1, standby=1, needs_activation=False)
        self.assertEqual((Serve(worker=2), Spawn(worker=3, generation=1)), world.set_policy(count=3).commands)
        self.assertEqual(
            (Serve(worker=3), Spawn(worker=4, generation=1)),
            world.bring_up(3, needs_activation=False).commands,
        )
        world.bring_up(4, needs_activation=False)
        self.assertEqual([Life.SERVING] * 3 + [Life.READY], list(world.lives().values()))

    def test_more_standbys(self) -> None:
        """`standby` grows by itself as well."""
        world = serving(count=1, standby=0)
        self.assertEqual(
            [Spawn(worker=2, generation=1), Spawn(worker=3, generation=1)],
            list(world.set_policy(standby=2).commands),
        )

    def test_while_a_back_off_runs(self) -> None:
        """A wish for more is no way round the back-off."""
        world = serving(count=1, standby=0)
        for worker in (1, 2, 3):
            world.killed(worker)
        self.assertEqual((), world.set_policy(count=4, standby=0).commands)
        world.pass_seconds(1.0)
        self.assertEqual([Life.STARTING, Life.STARTING], list(world.lives().values()))

    def test_during_a_restart(self) -> None:
        """The new generation takes over with the new number."""
        world = serving(count=1, standby=0)
        world.restart()
        world.bring_up(2)
        world.restart()
        world.set_policy(count=2, standby=0)
        self.assertEqual(2, len(world.state.in_life(Life.STARTING, generation=3)))


class DownTests(TestCase):
    """Fewer workers."""

    def test_the_youngest_drain(self) -> None:
        """Going down is gentle: they leave, are not replaced, and their end is no death."""
        world = serving(count=3, standby=0)
        text = "fewer workers are wanted"
        self.assertEqual((leave(2, text), leave(3, text)), world.set_policy(count=1, standby=0).commands)
        world.exited(2)
        world.exited(3)
        self.assertEqual({1: Life.SERVING}, world.lives())
        self.assertEqual([text, text], [each.reason for each in world.told(events.WorkerExited)])

    def test_the_worn_leave_first(self) -> None:
        """One that was to be replaced anyway goes, and the one that was started to take its place goes with it."""
        world = serving(count=2, standby=0)
        world.tell(inputs.Worn(worker=1, text="it has served for a day"))
        self.assertEqual({1: Life.SERVING, 2: Life.SERVING, 3: Life.STARTING}, world.lives())
        ordered = world.set_policy(count=1, standby=0).commands
        self.assertEqual((leave(1, "fewer workers are wanted"), Kill(worker=3)), ordered)

    def test_a_standby_stays(self) -> None:
        """It is the servers that are too many."""
        world = serving(count=2, standby=1)
        world.set_policy(count=1, standby=1)
        self.assertEqual({1: Life.SERVING, 2: Life.DRAINING, 3: Life.LOADED}, world.lives())

    def test_fewer_standbys(self) -> None:
        """The least advanced go; who only starts is killed."""
        world = serving(count=1, standby=1)
        world.set_policy(standby=2)
        text = "fewer standbys are wanted"
        self.assertEqual((leave(2, text), Kill(worker=3)), world.set_policy(standby=0).commands)

    def test_before_any_serves(self) -> None:
        """Those that are furthest on their way are kept, so that the session serves no later."""
        world = CoreWorld(count=4, standby=0)
        world.start()
        world.load(2)
        self.assertEqual({1: Life.STARTING, 2: Life.ACTIVATING, 3: Life.STARTING}, world.lives())
        self.assertEqual((Kill(worker=1), Kill(worker=3)), world.set_policy(count=1, standby=0).commands)
        self.assertEqual((Serve(worker=2),), world.ready(2).commands)

    def test_down_and_up_again(self) -> None:
        """A worker that leaves does not come back; another takes its place."""
        world = serving(count=2, standby=0)
        world.set_policy(count=1, standby=0)
        self.assertEqual((Spawn(worker=3, generation=1),), world.set_policy(count=2, standby=0).commands)

    def test_candidates_of_a_restart(self) -> None:
        """A restart that started with more candidates than are wanted now sends some away, and completes."""
        world = serving(count=3, standby=0)
        world.restart()
        world.bring_up(4)
        world.load(5)
        world.set_policy(count=1, standby=0)
        self.assertEqual(3, world.worker(4).generation + 1)
        self.assertIs(Life.SERVING, world.life(4))
        self.assertTrue(all(worker.leaving for worker in world.state.workers if worker.id != 4))

    def test_a_candidate_that_is_not_wanted_any_more_fails_alone(self) -> None:
        """Its crash on the way out does not drop a restart that did not need it."""
        world = serving(count=3, standby=0)
        world.restart()
        for worker in (4, 5, 6):
            world.load(worker)
        world.set_policy(count=2, standby=0)
        self.assertIs(Life.DRAINING, world.life(6))
        world.crashed(6)
        world.exited(6, status=1)
        self.assertIsNotNone(world.state.restart)
        world.ready(4)
        world.ready(5)
        only(world.told(events.RestartCompleted))

    def test_what_must_not_run_twice_does_not_stand_by_activated(self) -> None:
        """Without overlap, one that was being activated when fewer were wanted leaves."""
        world = serving(count=1, standby=1, overlap=False)
        world.set_policy(count=2, standby=1, overlap=False)
        self.assertIs(Life.ACTIVATING, world.life(2))
        world.set_policy(count=1, standby=1, overlap=False)
        self.assertIs(Life.DRAINING, world.life(2))
        self.assertIn(Life.STARTING, world.lives().values())

    def test_the_loaded_standby_stays_in_its_place(self) -> None:
        """The one that leaves for that reason does not count as the standby that is wanted."""
        world = serving(count=1, standby=2, overlap=False)
        world.set_policy(count=2, standby=2, overlap=False)
        self.assertEqual({1: Life.SERVING, 2: Life.ACTIVATING, 3: Life.LOADED}, world.lives())
        world.set_policy(count=1, standby=1, overlap=False)
        self.assertEqual({1: Life.SERVING, 2: Life.DRAINING, 3: Life.LOADED}, world.lives())


class OverlapChangedTests(TestCase):
    """`overlap` is changed while something is under way: nothing gets stuck."""

    def test_off_during_a_restart(self) -> None:
        """Candidates that are ready already take over as they are."""
        world = serving(count=2, standby=0)
        world.restart()
        world.bring_up(3)
        world.load(4)
        world.set_policy(count=2, standby=0, overlap=False)
        self.assertEqual(1, world.state.generation)
        world.ready(4)
        self.assertEqual(2, world.state.generation)
        world.exited(1)
        world.exited(2)
        self.assertEqual({3: Life.SERVING, 4: Life.SERVING}, world.lives())
        only(world.told(events.RestartCompleted))

    def test_on_during_a_takeover(self) -> None:
        """The candidates need not wait for the old ones any more."""
        world = serving(count=1, standby=0, overlap=False)
        world.restart()
        world.load(2)
        self.assertEqual((Activate(worker=2),), world.set_policy(count=1, standby=0, overlap=True).commands)
        world.ready(2)
        only(world.told(events.RestartCompleted))

    def test_off_with_a_ready_standby(self) -> None:
        """It runs beside the one that serves, which it must not any more: it leaves, and a loaded one comes."""
        world = serving(count=1, standby=1, needs_activation=False)
        self.assertIs(Life.READY, world.life(2))
        world.set_policy(count=1, standby=1, overlap=False)
        self.assertEqual({1: Life.SERVING, 2: Life.DRAINING, 3: Life.STARTING}, world.lives())
        world.load(3, needs_activation=False)
        self.assertIs(Life.LOADED, world.life(3))
