"""The core: limits of a worker's life, giving up, and the time before the drain at the session's end."""

from __future__ import annotations

from twisted.trial.unittest import TestCase

from serverworker.decisions import inputs
from serverworker.decisions.inputs import Activate, Finish, Kill, Leave, Serve, Spawn, Unready
from serverworker.decisions.session import Step
from serverworker.values import events
from serverworker.values.causes import CauseKind
from serverworker.values.state import Life, Phase
from tests.unit.core_world import CoreWorld, serving


def wear(world: CoreWorld, worker: int) -> Step:
    """The worker has reached a limit."""
    return world.tell(inputs.Worn(worker=worker, text="it has answered 1000 requests"))


def leave(worker: int) -> Leave:
    """The order to a worker that has reached it."""
    text = "it has answered 1000 requests"
    return Leave(worker=worker, kind="restart", text=text, seconds=30.0)


class WornTests(TestCase):
    """A worker has reached a limit: it is replaced, and nobody waits."""

    def test_the_standby_takes_its_place(self) -> None:
        """The standby serves first, then the worn one drains, and a new standby is started."""
        world = serving(count=1, standby=1, needs_activation=False)
        self.assertEqual((Serve(worker=2), leave(1), Spawn(worker=3, generation=1)), wear(world, 1).commands)

    def test_a_loaded_standby_is_activated_first(self) -> None:
        """One that has something to start does so while the worn one still serves."""
        world = serving(count=1, standby=1)
        self.assertEqual((Activate(worker=2),), wear(world, 1).commands)
        self.assertEqual((Serve(worker=2), leave(1), Spawn(worker=3, generation=1)), world.ready(2).commands)

    def test_without_standbys_one_is_started(self) -> None:
        """A successor is started beside it, and it serves until that one is ready."""
        world = serving(count=1, standby=0)
        self.assertEqual((Spawn(worker=2, generation=1),), wear(world, 1).commands)
        self.assertEqual((Activate(worker=2),), world.load(2).commands)
        self.assertEqual((Serve(worker=2), leave(1)), world.ready(2).commands)

    def test_one_at_a_time(self) -> None:
        """Two that have reached theirs are replaced one after the other."""
        world = serving(count=2, standby=1, needs_activation=False)
        wear(world, 1)
        self.assertEqual((), wear(world, 2).commands)
        world.bring_up(4, needs_activation=False)
        self.assertEqual([leave(1)], world.ordered(Leave))
        self.assertIn(leave(2), world.exited(1).commands)

    def test_it_dies_before(self) -> None:
        """If it dies meanwhile, that is a death as any other, and the next one's turn comes."""
        world = serving(count=1, standby=0)
        wear(world, 1)
        world.killed(1)
        self.assertEqual(CauseKind.SIGNAL, world.told(events.WorkerDied)[0].cause.kind)
        world.bring_up(2)
        self.assertIs(Life.SERVING, world.life(2))
        self.assertEqual([], world.ordered(Leave))

    def test_what_must_not_run_twice_leaves_first(self) -> None:
        """Without overlap the standby is activated when the worn one is gone."""
        world = serving(count=1, standby=1, overlap=False)
        self.assertEqual((leave(1),), wear(world, 1).commands)
        self.assertIn(Activate(worker=2), world.exited(1).commands)

    def test_during_a_restart(self) -> None:
        """A restart replaces all of them: nothing is done beside it."""
        world = serving(count=1, standby=1, needs_activation=False)
        world.restart()
        self.assertEqual((), wear(world, 1).commands)

    def test_it_is_no_death(self) -> None:
        """It is told as an end that was asked for, and delays nothing."""
        world = serving(count=1, standby=1, needs_activation=False)
        wear(world, 1)
        world.exited(1)
        self.assertEqual([], world.told(events.WorkerDied))
        self.assertEqual("it has answered 1000 requests", world.told(events.WorkerExited)[0].reason)
        self.assertEqual(0, world.state.deaths_in_a_row)


class GiveUpTests(TestCase):
    """Some want a session to end rather than to try for ever."""

    def test_after_so_many_deaths(self) -> None:
        """The third death within the window ends the session with status 70."""
        world = serving(count=1, standby=0, give_up_after=3, give_up_window_seconds=100.0)
        for _ in range(3):
            self.assertIs(Phase.RUNNING, world.state.phase)
            world.killed(world.state.last_worker)
            world.pass_seconds(5.0)
        self.assertEqual([Finish(status=70, reason="gave up: 3 deaths within 100 s")], world.ordered(Finish))

    def test_the_window_moves(self) -> None:
        """Deaths that are older than the window do not count."""
        world = serving(count=1, standby=0, give_up_after=3, give_up_window_seconds=100.0)
        for _ in range(10):
            world.killed(world.state.last_worker)
            world.pass_seconds(60.0)
            world.bring_up(world.state.last_worker)
        self.assertIs(Phase.RUNNING, world.state.phase)

    def test_a_promoted_standby_counts(self) -> None:
        """One that was there before the last death, takes over and dies a while later, is a death in the row."""
        world = serving(count=1, standby=1, needs_activation=False, give_up_after=2)
        world.killed(1)
        world.pass_seconds(5.0)
        self.assertIs(Life.SERVING, world.life(2))
        world.killed(2)
        self.assertEqual(2, world.state.deaths_in_a_row)
        self.assertIs(Phase.ENDING, world.state.phase)

    def test_never_unless_asked_to(self) -> None:
        """By default it backs off to the cap and stays."""
        world = serving(count=1, standby=0)
        for _ in range(50):
            world.killed(world.state.last_worker)
            world.pass_seconds(61.0)
        self.assertIs(Phase.RUNNING, world.state.phase)


class UnreadyTests(TestCase):
    """A load balancer is to look away before the session drains."""

    def test_serves_on_and_then_drains(self) -> None:
        """Who serves is told that the end is near, serves for the time set, and drains only then; others end now."""
        world = serving(count=1, standby=1, unready_seconds=5.0)
        self.assertEqual([Unready(worker=1)], [c for c in world.end().commands if isinstance(c, Unready)])
        self.assertIs(Life.SERVING, world.life(1))
        self.assertEqual([2], [order.worker for order in world.ordered(Leave)])
        world.exited(2)
        world.pass_seconds(4.9)
        self.assertIs(Life.SERVING, world.life(1))
        world.pass_seconds(0.1)
        self.assertEqual([2, 1], [order.worker for order in world.ordered(Leave)])
        self.assertIs(Life.DRAINING, world.life(1))

    def test_a_second_wish_does_not_wait(self) -> None:
        """A forced end kills at once, in that time too."""
        world = serving(count=1, standby=0, unready_seconds=5.0)
        world.end()
        self.assertEqual((Kill(worker=1),), world.end(graceful=False, request=10).commands)

    def test_nobody_serves(self) -> None:
        """Where nobody serves there is nothing to wait for."""
        world = CoreWorld(unready_seconds=5.0)
        world.start()
        world.end()
        world.killed(1)
        self.assertEqual([0], [each.status for each in world.ordered(Finish)])
