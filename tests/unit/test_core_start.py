"""The core: how a session starts, and how a worker comes to serve."""

from __future__ import annotations

from twisted.trial.unittest import TestCase

from serverworker.decisions import inputs
from serverworker.decisions.inputs import Activate, Finish, Kill, Serve, Spawn
from serverworker.decisions.session import next_wake
from serverworker.values import events
from serverworker.values.causes import CauseKind
from serverworker.values.state import Life, Phase
from tests.unit.core_world import CoreWorld, only, serving


class FirstStartTests(TestCase):
    """From nothing to a session that serves."""

    def test_only_who_serves_is_started_first(self) -> None:
        """A standby does not take processor time from the start of the worker that people wait for."""
        world = CoreWorld(count=1, standby=1)
        self.assertEqual((Spawn(worker=1, generation=1),), world.start().commands)
        self.assertEqual((Activate(worker=1),), world.load(1).commands)
        self.assertEqual((Serve(worker=1), Spawn(worker=2, generation=1)), world.ready(1).commands)

    def test_a_few_start_at_a_time(self) -> None:
        """Many workers start two by two, so that the machine is not taken by imports."""
        world = CoreWorld(count=5, standby=0)
        self.assertEqual(
            [1, 2], [spawn.worker for spawn in world.start().commands if isinstance(spawn, Spawn)]
        )
        self.assertEqual((Activate(worker=1), Spawn(worker=3, generation=1)), world.load(1).commands)
        self.assertEqual((Activate(worker=2), Spawn(worker=4, generation=1)), world.load(2).commands)

    def test_a_whole_session_waits_for_nothing(self) -> None:
        """With all in place no deadline is pending and no tick is wanted."""
        world = serving(count=2, standby=1)
        self.assertEqual({1: Life.SERVING, 2: Life.SERVING, 3: Life.LOADED}, world.lives())
        self.assertIsNone(next_wake(world.state, world.now))
        self.assertEqual((), world.pass_seconds(1e6))

    def test_what_is_told(self) -> None:
        """Spawned with its pid, loaded and ready with the time since then, and that the server runs: first time or not."""
        world = CoreWorld(count=2, standby=0)
        world.start()
        world.spawned(1)
        world.now += 2.0
        world.tell(inputs.Loaded(worker=1, needs_activation=True, application="wiki"))
        world.now += 3.0
        world.ready(1)
        world.bring_up(2)
        self.assertEqual(
            [
                events.WorkerSpawned(worker=1, generation=1, pid=101),
                events.WorkerLoaded(worker=1, generation=1, seconds=2.0),
                events.WorkerReady(worker=1, generation=1, seconds=5.0),
                events.ServerRunning(worker=1, generation=1, is_first_time=True),
            ],
            world.events[:4],
        )
        running = events.ServerRunning(worker=2, generation=1, is_first_time=False)
        self.assertEqual(running, world.events[-1])
        self.assertEqual("wiki", world.worker(1).application)


class StandbyTests(TestCase):
    """How far a standby is brought."""

    def test_what_has_to_be_started_stays_loaded(self) -> None:
        """`work()` and lifespans run at promotion, so that nothing happens twice."""
        world = serving(count=1, standby=1, needs_activation=True)
        self.assertIs(Life.LOADED, world.life(2))

    def test_what_has_nothing_to_start_is_made_ready(self) -> None:
        """A plain resource can be ready beforehand: a promotion is then one order."""
        world = serving(count=1, standby=2, needs_activation=False)
        self.assertEqual([Life.READY, Life.READY], [world.life(2), world.life(3)])

    def test_without_overlap_no_standby_is_activated(self) -> None:
        """Where the application must not run twice, a standby stays loaded whatever it needs."""
        world = serving(count=1, standby=1, overlap=False, needs_activation=False)
        self.assertIs(Life.LOADED, world.life(2))

    def test_none_is_wanted(self) -> None:
        """`--standby 0` starts none."""
        world = serving(count=1, standby=0)
        self.assertEqual({1: Life.SERVING}, world.lives())


class HopelessStartTests(TestCase):
    """The very first start, with an application that cannot be imported, found or configured."""

    def test_the_session_ends_with_78(self) -> None:
        """Nobody waits for a program that has never run: the operator is told at once."""
        world = CoreWorld(count=1, standby=1)
        world.start()
        self.assertEqual((Kill(worker=1),), world.load_failed(1).commands)
        self.assertIs(Phase.ENDING, world.state.phase)
        text = "the application cannot be loaded: ValueError: no such table"
        self.assertEqual((Finish(status=78, reason=text),), world.killed(1).commands)
        died = world.last_told(events.WorkerDied)
        self.assertEqual((CauseKind.LOAD, "starting"), (died.cause.kind, died.life))
        self.assertEqual("the session ends with status 78", died.next_step)
        self.assertEqual([events.SessionEnded(status=78, reason=text)], world.events[-1:])

    def test_the_others_are_killed(self) -> None:
        """Those that were still importing the same code are of no use, and were asked to go: no deaths."""
        world = CoreWorld(count=2, standby=0)
        world.start()
        world.spawned(2)
        self.assertEqual((Kill(worker=1), Kill(worker=2)), world.load_failed(1).commands)
        world.killed(1)
        world.killed(2)
        self.assertEqual(1, only(world.told(events.WorkerDied)).worker)
        self.assertEqual(2, only(world.told(events.WorkerExited)).worker)
        self.assertIs(Phase.ENDED, world.state.phase)

    def test_a_spawn_that_can_never_succeed(self) -> None:
        """No such interpreter, no such folder: configuration as well."""
        world = CoreWorld(count=1, standby=1)
        world.start()
        failed = inputs.SpawnFailed(worker=1, text="no such file: /opt/python", permanent=True)
        self.assertEqual((Finish(status=78, reason=failed.text),), world.tell(failed).commands)
        told = [type(event) for event in world.events]
        self.assertEqual([events.WorkerDied, events.SessionEnding, events.SessionEnded], told)

    def test_a_crash_at_the_first_start_is_a_crash(self) -> None:
        """A process that ends while it imports may do better the next time: back-off, and the session goes on."""
        world = CoreWorld(count=1, standby=0)
        world.start()
        world.spawned(1)
        self.assertEqual((Spawn(worker=2, generation=1),), world.exited(1, status=3).commands)
        self.assertEqual((), world.exited(2, status=3).commands)
        self.assertIs(Phase.RUNNING, world.state.phase)
        world.pass_seconds(1.0)
        self.assertEqual({3: Life.STARTING}, world.lives())

    def test_a_crash_in_work_at_the_first_start_is_a_crash(self) -> None:
        """The application was loaded; what it does then is not configuration."""
        world = CoreWorld(count=1, standby=0)
        world.start()
        world.load(1)
        self.assertEqual((Spawn(worker=2, generation=1),), world.crashed(1).commands)
        self.assertIs(Phase.RUNNING, world.state.phase)

    def test_once_loaded_a_failed_load_is_a_crash(self) -> None:
        """Code that broke on disk under a running session costs successors, not the session."""
        world = serving(count=1, standby=0)
        world.killed(1)
        self.assertEqual((Kill(worker=2),), world.load_failed(2).commands)
        world.killed(2)
        self.assertIs(Phase.RUNNING, world.state.phase)
        world.pass_seconds(60.0)
        self.assertEqual({3: Life.STARTING}, world.lives())


class StartDeadlineTests(TestCase):
    """No start takes for ever (W14)."""

    def test_a_worker_that_never_loads_is_killed(self) -> None:
        """After the start-up deadline, with its stacks dumped: the report says where the import hangs."""
        world = CoreWorld(count=1, standby=0, startup_seconds=60.0)
        world.start()
        world.spawned(1)
        self.assertEqual((), world.pass_seconds(59.0))
        ordered = world.pass_seconds(1.0)
        self.assertEqual((Kill(worker=1, dump=True), Spawn(worker=2, generation=1)), ordered)
        world.killed(1)
        died = world.last_told(events.WorkerDied)
        self.assertEqual((CauseKind.STARTUP, "SIGKILL"), (died.cause.kind, died.cause.signal))
        self.assertEqual("it was not ready within 60.0 s of starting", died.cause.text)
        self.assertEqual("worker 2 is started now", died.next_step)

    def test_a_worker_that_never_becomes_ready_is_killed(self) -> None:
        """Activation has the same time for itself."""
        world = CoreWorld(count=1, standby=0, startup_seconds=60.0)
        world.start()
        world.now += 50.0
        world.load(1)
        self.assertEqual((), world.pass_seconds(59.0))
        self.assertIn(Kill(worker=1, dump=True), world.pass_seconds(1.0))
        self.assertEqual(Life.ACTIVATING, world.worker(1).failed_in)

    def test_a_new_generation_has_a_time_of_its_own(self) -> None:
        """A restart with a longer start-up deadline needs it for the new workers; for a successor the old one holds."""
        world = serving(count=1, standby=0, startup_seconds=60.0)
        world.tell(inputs.AskRestart(mode="clean", asked_by="operator", startup_seconds=90.0))
        world.spawned(2)
        self.assertEqual((), world.pass_seconds(60.0))
        world.killed(1)
        world.spawned(3)
        self.assertEqual((), world.pass_seconds(29.0))
        self.assertIn(Kill(worker=2, dump=True), world.pass_seconds(1.0))
        self.assertNotIn(Kill(worker=3, dump=True), world.pass_seconds(29.0))
        self.assertIn(Kill(worker=3, dump=True), world.pass_seconds(1.0))

    def test_a_start_that_does_not_turn_is_no_hang(self) -> None:
        """A module of thirty seconds is imported without one turn of the reactor: the ping says nothing then."""
        world = CoreWorld(count=1, standby=0)
        world.start()
        world.spawned(1)
        self.assertEqual((), world.hung(1).commands)
        world.load(1)
        self.assertEqual((), world.hung(1).commands)
        self.assertIs(Life.ACTIVATING, world.life(1))

    def test_no_deadline_is_left_behind(self) -> None:
        """A worker that came up in time is not killed for it later."""
        world = serving(count=1, standby=1, startup_seconds=60.0)
        self.assertEqual((), world.pass_seconds(3600.0))


class SpawnFailureTests(TestCase):
    """A process that cannot be started at all."""

    def fail_spawn(self, world: CoreWorld, worker: int, *, permanent: bool = False) -> None:
        """Starting the worker's process fails."""
        world.tell(inputs.SpawnFailed(worker=worker, text="EAGAIN", permanent=permanent))

    def test_it_is_a_death_with_back_off(self) -> None:
        """The first try is repeated at once, the next ones wait."""
        world = CoreWorld(count=1, standby=0)
        world.start()
        self.fail_spawn(world, 1)
        self.assertEqual({2: Life.STARTING}, world.lives())
        self.fail_spawn(world, 2)
        self.assertEqual({}, world.lives())
        died = world.told(events.WorkerDied)
        self.assertEqual([1, 2], [each.worker for each in died])
        self.assertEqual([(CauseKind.SPAWN, None)] * 2, [(each.cause.kind, each.pid) for each in died])
        self.assertIn("a successor is started in 0.", died[1].next_step)
        world.pass_seconds(0.5)
        self.assertEqual({3: Life.STARTING}, world.lives())

    def test_a_machine_that_never_starts_anything_is_not_busy(self) -> None:
        """A hundred tries take longer than an hour, and the session comes back when the machine does."""
        world = serving(count=1, standby=1)
        world.killed(1)
        world.killed(2)
        begin = world.now
        for _ in range(100):
            for worker in tuple(world.lives()):
                self.fail_spawn(world, worker)
            world.pass_seconds(max(world.state.respawn_at - world.now, 0.0))
        self.assertGreater(world.now - begin, 3600.0)
        world.bring_up(world.state.workers[0].id)
        self.assertIn(Life.SERVING, world.lives().values())

    def test_a_permanent_failure_later_is_no_end(self) -> None:
        """An interpreter that is being replaced under a running session may be there again in a second."""
        world = serving(count=1, standby=0)
        world.killed(1)
        self.fail_spawn(world, 2, permanent=True)
        self.assertIs(Phase.RUNNING, world.state.phase)
        self.assertEqual("SIGKILL", world.told(events.WorkerDied)[0].cause.signal)

    def test_a_process_that_runs_cannot_fail_to_start(self) -> None:
        """A contradiction of the spawner's is not believed: the process is there, and would be forgotten."""
        world = serving(count=1, standby=0)
        self.fail_spawn(world, 1)
        self.assertEqual({1: Life.SERVING}, world.lives())
