"""The core: restarts, with overlap and without, and the bad deploys that never take over."""

from __future__ import annotations

from twisted.trial.unittest import TestCase

from serverworker.decisions import inputs
from serverworker.decisions.inputs import Activate, Answer, Kill, Leave, Serve, Spawn
from serverworker.decisions.turn import CRASH_EXIT_SECONDS
from serverworker.values import events
from serverworker.values.causes import CauseKind
from serverworker.values.state import Life, Replacing
from tests.unit.core_world import ERROR, CoreWorld, only, serving

TAKEN_OVER = "generation 2 takes over"


class OverlapTests(TestCase):
    """The usual restart: ready first, then serve, then drain the old."""

    def test_step_by_step(self) -> None:
        """Start beside, load, activate, ready; only then serve, and only then ask the old ones to leave."""
        world = serving(count=1, standby=1)
        self.assertEqual((Spawn(worker=3, generation=2),), world.restart().commands)
        self.assertEqual((Activate(worker=3),), world.load(3).commands)
        self.assertEqual({1: Life.SERVING, 2: Life.LOADED, 3: Life.ACTIVATING}, world.lives())
        self.assertEqual(
            (
                Serve(worker=3),
                Leave(worker=1, kind="restart", text=TAKEN_OVER, seconds=30.0),
                Leave(worker=2, kind="restart", text=TAKEN_OVER, seconds=30.0),
                Answer(request=7, ok=True, text="generation 2 serves"),
                Spawn(worker=4, generation=2),
            ),
            world.ready(3).commands,
        )
        self.assertEqual(2, world.state.generation)

    def test_it_is_told(self) -> None:
        """Who asked and how; that it is complete and how long it took; and how far the old ones are gone."""
        world = serving(count=2, standby=0)
        world.restart("force")
        world.load(3)
        world.load(4)
        world.now += 5.0
        world.ready(3)
        world.ready(4)
        world.exited(1)
        world.exited(2)
        kinds = (events.RestartStarted, events.RestartCompleted, events.RestartFailed, events.RestartProgress)
        self.assertEqual(
            [
                events.RestartStarted(generation=2, mode="force", asked_by="operator"),
                events.RestartCompleted(generation=2, seconds=5.0),
                events.RestartProgress(generation=2, replaced=1, total=2),
                events.RestartProgress(generation=2, replaced=2, total=2),
            ],
            [event for event in world.events if isinstance(event, kinds)],
        )
        self.assertIsNone(world.state.replacing)

    def test_nobody_takes_over_before_all_can(self) -> None:
        """With many workers the new generation serves when all of it is ready: two versions never share the port."""
        world = serving(count=2, standby=0)
        world.restart()
        world.bring_up(3)
        self.assertEqual({1: Life.SERVING, 2: Life.SERVING, 3: Life.READY, 4: Life.STARTING}, world.lives())
        world.bring_up(4)
        self.assertEqual(
            [Life.DRAINING, Life.DRAINING, Life.SERVING, Life.SERVING], list(world.lives().values())
        )

    def test_force_skips_the_drain_and_never_the_readiness(self) -> None:
        """The old ones get the time of their exit handlers, once the new ones are ready."""
        world = serving(count=1, standby=0)
        world.restart("force")
        world.load(2)
        self.assertEqual([], world.ordered(Leave))
        world.ready(2)
        self.assertEqual(
            Leave(worker=1, kind="restart", text=TAKEN_OVER, seconds=CRASH_EXIT_SECONDS, drain=False),
            only(world.ordered(Leave)),
        )

    def test_the_old_are_gone_by_their_deadline(self) -> None:
        """Two seconds after the drain's own end they are killed; that was asked for, so that it is no death."""
        world = serving(count=1, standby=0)
        world.restart()
        world.bring_up(2)
        self.assertEqual((), world.pass_seconds(31.9))
        self.assertEqual((Kill(worker=1),), world.pass_seconds(0.1))
        world.killed(1)
        self.assertEqual([], world.told(events.WorkerDied))
        exited = only(world.told(events.WorkerExited))
        self.assertEqual((1, 101, TAKEN_OVER), (exited.worker, exited.pid, exited.reason))
        self.assertEqual("killed by SIGKILL (it had not ended within 32.0 s)", exited.text)

    def test_an_old_worker_that_leaves_well(self) -> None:
        """Its end is told as one that was asked for."""
        world = serving(count=1, standby=0)
        world.restart()
        world.bring_up(2)
        self.assertEqual(
            [events.WorkerDraining(worker=1, reason=TAKEN_OVER)], world.told(events.WorkerDraining)
        )
        world.exited(1)
        self.assertEqual("exit status 0", only(world.told(events.WorkerExited)).text)
        self.assertEqual([], world.told(events.WorkerDied))

    def test_an_old_worker_that_crashes_while_it_drains(self) -> None:
        """That was not asked for: a death like any other, with a shorter deadline, and no successor."""
        world = serving(count=1, standby=0)
        world.restart()
        world.bring_up(2)
        self.assertEqual((), world.crashed(1).commands)
        self.assertEqual((Kill(worker=1),), world.pass_seconds(7.0))
        world.killed(1)
        died = only(world.told(events.WorkerDied))
        self.assertEqual((CauseKind.EXCEPTION, "draining"), (died.cause.kind, died.life))
        self.assertEqual("nothing: it was leaving", died.next_step)
        self.assertEqual({2: Life.SERVING}, world.lives())
        self.assertEqual(0, world.state.deaths_in_a_row)

    def test_an_old_worker_that_exits_with_an_error(self) -> None:
        """Another status than 0, or a signal that is not ours, on the way out is told as a death."""
        world = serving(count=2, standby=0)
        world.restart()
        world.bring_up(3)
        world.bring_up(4)
        world.exited(1, status=1)
        world.killed(2, "SIGSEGV")
        self.assertEqual([1, 2], [died.worker for died in world.told(events.WorkerDied)])
        self.assertIsNone(world.state.replacing, "they are replaced all the same")

    def test_a_hang_while_draining(self) -> None:
        """It is killed with its stacks dumped, and told: a drain that hangs is worth a report."""
        world = serving(count=1, standby=0)
        world.restart()
        world.bring_up(2)
        self.assertEqual((Kill(worker=1, dump=True),), world.hung(1).commands)
        world.killed(1)
        self.assertIs(CauseKind.HANG, only(world.told(events.WorkerDied)).cause.kind)

    def test_the_old_generation_is_kept_up_meanwhile(self) -> None:
        """A death of the old code during the restart is answered as ever, whatever the candidates do."""
        world = serving(count=2, standby=0)
        world.restart()
        self.assertEqual([3, 4], [spawn.worker for spawn in world.ordered(Spawn)])
        self.assertEqual((Spawn(worker=5, generation=1),), world.killed(1).commands)

    def test_no_standby_is_started_meanwhile(self) -> None:
        """A standby of code that is about to leave is a waste: the restart comes first."""
        world = serving(count=1, standby=1)
        world.restart()
        self.assertEqual((), world.killed(2).commands)
        world.bring_up(3)
        self.assertEqual({1: Life.DRAINING, 3: Life.SERVING, 4: Life.STARTING}, world.lives())

    def test_a_restart_of_a_session_that_does_not_serve(self) -> None:
        """The deploy that mends a crash loop does not wait for its back-off."""
        world = serving(count=1, standby=0)
        for worker in (1, 2, 3, 4, 5):
            world.killed(worker)
            world.pass_seconds(world.state.respawn_at - world.now if worker < 5 else 0.0)
        self.assertEqual({}, world.lives())
        world.restart()
        self.assertEqual({6: Life.STARTING}, world.lives())
        world.bring_up(6)
        self.assertEqual({6: Life.SERVING}, world.lives())

    def test_workers_that_never_served_are_not_replaced(self) -> None:
        """Progress counts those who had served, dying ones included, and comes to its end."""
        world = serving(count=2, standby=1)
        world.hung(1)
        world.restart()
        for worker in world.state.in_life(Life.STARTING, generation=2):
            world.bring_up(worker.id)
        self.assertEqual(Replacing(generation=2, total=2, left=2), world.state.replacing)
        world.exited(3)
        world.killed(1)
        self.assertEqual(Replacing(generation=2, total=2, left=1), world.state.replacing)
        world.exited(2)
        self.assertIsNone(world.state.replacing)


class SecondWishTests(TestCase):
    """A restart while one runs, or while the session ends."""

    def test_a_second_restart_is_refused(self) -> None:
        """The answer says which one runs, whose it is and for how long."""
        world = serving(count=1, standby=0)
        world.restart(request=7)
        world.now += 4.0
        text = "a restart to generation 2, asked for by operator, is under way for 4.0 s: wait for its end"
        self.assertEqual((Answer(request=8, ok=False, text=text),), world.restart(request=8).commands)
        world.bring_up(2)
        self.assertIn(Answer(request=7, ok=True, text="generation 2 serves"), world.commands)

    def test_while_the_old_drain_another_may_begin(self) -> None:
        """A restart is over when the new generation serves; the next one need not wait for the slowest client."""
        world = serving(count=1, standby=0)
        world.restart()
        world.bring_up(2)
        world.restart()
        world.bring_up(3)
        self.assertEqual({1: Life.DRAINING, 2: Life.DRAINING, 3: Life.SERVING}, world.lives())
        self.assertEqual(Replacing(generation=3, total=2, left=2), world.state.replacing)

    def test_while_the_session_ends(self) -> None:
        """There is nothing left to restart."""
        world = serving(count=1, standby=0)
        world.end()
        text = "the session is ending: it cannot be restarted any more"
        self.assertEqual((Answer(request=7, ok=False, text=text),), world.restart().commands)
        world.exited(1)
        self.assertEqual((Answer(request=8, ok=False, text=text),), world.restart(request=8).commands)

    def test_without_a_request_nobody_is_answered(self) -> None:
        """SIGHUP waits for no answer."""
        world = serving(count=1, standby=0)
        world.restart(request=None)
        self.assertEqual((), world.restart(request=None).commands)
        world.load_failed(2)
        self.assertEqual([], world.ordered(Answer))


class BadDeployTests(TestCase):
    """New code that cannot do its work is dropped, and the old goes on (promise 4)."""

    def dropped(self, world: CoreWorld, why: str) -> None:
        """The restart to generation 2 has failed, was answered and told, and the old generation is as it was."""
        self.assertIsNone(world.state.restart)
        self.assertEqual(1, world.state.generation)
        answer = only(world.ordered(Answer))
        self.assertEqual((7, False), (answer.request, answer.ok))
        self.assertIn(why, answer.text)
        failed = only(world.told(events.RestartFailed))
        self.assertEqual((2, answer.text), (failed.generation, failed.text))
        self.assertIs(Life.SERVING, world.life(1))
        self.assertEqual((), world.state.in_life(Life.STARTING, Life.LOADED, Life.READY, generation=2))

    def test_a_syntax_error(self) -> None:
        """The code cannot be loaded: dropped, with the error in answer and event."""
        world = serving(count=1, standby=0)
        world.restart()
        world.load_failed(2)
        self.dropped(
            world, "worker 2 of generation 2: the application cannot be loaded: ValueError: no such table"
        )
        cause = only(world.told(events.RestartFailed)).cause
        assert cause is not None
        self.assertEqual(ERROR, cause.error)
        world.killed(2)
        step = only(world.told(events.WorkerDied)).next_step
        self.assertEqual("generation 2 is dropped; generation 1 goes on", step)

    def test_an_exception_in_work(self) -> None:
        """It loads, and fails when it is started; it ends itself, with its exit handlers."""
        world = serving(count=1, standby=0)
        world.restart()
        world.load(2)
        world.crashed(2)
        self.dropped(world, "no such table")
        self.assertEqual({1: Life.SERVING, 2: Life.DRAINING}, world.lives())

    def test_a_process_that_exits(self) -> None:
        """A candidate that is gone, whatever its status."""
        world = serving(count=1, standby=0)
        world.restart()
        world.spawned(2)
        world.exited(2)
        self.dropped(world, "it ended by itself with exit status 0")

    def test_a_process_that_exits_link_first(self) -> None:
        """The answer names the exit and not the broken link; until then no other candidate is started."""
        world = serving(count=1, standby=0)
        world.restart()
        world.spawned(2)
        self.assertEqual((), world.link_lost(2).commands)
        self.assertEqual([], world.ordered(Answer))
        world.killed(2, "SIGSEGV")
        self.dropped(world, "killed by SIGSEGV")

    def test_a_link_that_breaks_and_no_exit(self) -> None:
        """The candidate is killed after a second, and then the broken link is why."""
        world = serving(count=1, standby=0)
        world.restart()
        world.load(2)
        world.link_lost(2)
        self.assertEqual((Kill(worker=2),), world.pass_seconds(1.0))
        world.killed(2)
        self.dropped(world, "its link to the monitor broke")

    def test_one_that_never_becomes_ready(self) -> None:
        """A health route that answers 500, or never: the start-up deadline drops it."""
        world = serving(count=1, standby=0)
        world.restart()
        world.load(2)
        world.pass_seconds(60.0)
        self.dropped(world, "it was not ready within 60.0 s of activating")

    def test_one_that_never_loads(self) -> None:
        """An import that hangs."""
        world = serving(count=1, standby=0)
        world.restart()
        world.spawned(2)
        world.pass_seconds(60.0)
        self.dropped(world, "it was not ready within 60.0 s of starting")

    def test_one_that_cannot_be_started(self) -> None:
        """No such folder: dropped, and the session does not end for it."""
        world = serving(count=1, standby=0)
        world.restart()
        world.tell(inputs.SpawnFailed(worker=2, text="no such folder", permanent=True))
        self.dropped(world, "no such folder")

    def test_one_that_breaks_the_protocol(self) -> None:
        """A candidate that lies is dropped at once, not replaced by another."""
        world = serving(count=1, standby=0)
        world.restart()
        world.load(2)
        self.assertNotIn(Spawn(worker=3, generation=2), world.load(2).commands)
        self.dropped(world, "it broke the protocol")

    def test_one_that_hangs_while_it_waits_for_the_others(self) -> None:
        """A ready candidate is under the ping like everybody."""
        world = serving(count=2, standby=0)
        world.restart()
        world.bring_up(3)
        world.hung(3)
        self.dropped(world, "its reactor hangs")

    def test_its_sound_siblings_leave(self) -> None:
        """Those that had come further run their exit handlers; those that had not are killed; none is a death."""
        world = serving(count=3, standby=0)
        world.restart()
        world.bring_up(4)
        world.load(5)
        world.commands.clear()
        world.load_failed(6)
        text = "generation 2 is dropped"
        for worker in (4, 5):
            leave = Leave(worker=worker, kind="restart", text=text, seconds=CRASH_EXIT_SECONDS, drain=False)
            self.assertIn(leave, world.commands)
        self.dropped(world, "cannot be loaded")
        for worker in (4, 5):
            world.exited(worker)
        self.assertEqual([], world.told(events.WorkerDied))

    def test_two_that_are_overdue_in_one_moment(self) -> None:
        """The first one's deadline drops the restart; the second is asked to go, and is nobody's second failure."""
        world = serving(count=2, standby=0)
        world.restart()
        for worker in (3, 4):
            world.load(worker)
        world.pass_seconds(60.0)
        self.dropped(world, "worker 3")
        self.assertNotIn(Kill(worker=4), world.commands)
        world.killed(3)
        world.exited(4)
        self.assertEqual(3, only(world.told(events.WorkerDied)).worker)
        self.assertEqual(4, only(world.told(events.WorkerExited)).worker)

    def test_the_next_restart_has_a_number_of_its_own(self) -> None:
        """A dropped generation's number is used up, so that reports stay unambiguous."""
        world = serving(count=1, standby=0)
        world.restart()
        world.load_failed(2)
        self.assertEqual((Spawn(worker=3, generation=3),), world.restart().commands)
        world.bring_up(3)
        self.assertEqual(3, world.state.generation)

    def test_the_standby_that_was_not_started_follows(self) -> None:
        """What the restart put off is done once it has failed."""
        world = serving(count=1, standby=1)
        world.restart()
        world.killed(2)
        world.load_failed(3)
        self.assertIn(Spawn(worker=4, generation=1), world.commands)
