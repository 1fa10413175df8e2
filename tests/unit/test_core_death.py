"""The core: how workers die, who takes over, and what is told of it."""

from __future__ import annotations

from twisted.trial.unittest import TestCase

from serverworker.decisions import inputs
from serverworker.decisions.inputs import Activate, DumpStacks, Kill, Serve, Spawn
from serverworker.values import events
from serverworker.values.causes import CauseKind
from serverworker.values.state import Life
from tests.unit.core_world import ERROR, only, serving


class SuccessorTests(TestCase):
    """Who takes over, and when."""

    def test_a_ready_standby_serves_at_once(self) -> None:
        """In the step of the death: the standby's order first, then the start of the next standby."""
        world = serving(count=1, standby=1, needs_activation=False)
        self.assertEqual((Serve(worker=2), Spawn(worker=3, generation=1)), world.killed(1).commands)

    def test_a_loaded_standby_is_activated_at_once(self) -> None:
        """The next standby is started as soon as this one serves: until then the processor is its own."""
        world = serving(count=1, standby=1)
        self.assertEqual((Activate(worker=2),), world.killed(1).commands)
        self.assertEqual((Serve(worker=2), Spawn(worker=3, generation=1)), world.ready(2).commands)

    def test_without_a_standby_a_successor_starts_at_once(self) -> None:
        """The first death is answered without any delay (M4)."""
        world = serving(count=1, standby=0)
        self.assertEqual((Spawn(worker=2, generation=1),), world.killed(1).commands)

    def test_a_standby_takes_over_even_under_back_off(self) -> None:
        """Only starts are delayed: who is there already takes over whatever was before."""
        world = serving(count=1, standby=2, needs_activation=False)
        self.assertEqual((Serve(worker=2), Spawn(worker=4, generation=1)), world.killed(1).commands)
        world.killed(4)
        world.pass_seconds(0.0)
        self.assertEqual({2: Life.SERVING, 3: Life.READY}, world.lives())
        self.assertEqual((Serve(worker=3),), world.killed(2).commands)
        world.pass_seconds(1.0)
        self.assertEqual([Life.SERVING, Life.STARTING, Life.STARTING], list(world.lives().values()))

    def test_all_at_once(self) -> None:
        """Both workers and the standby die: as many starts as may run at a time, at once."""
        world = serving(count=2, standby=1)
        for worker in (1, 2, 3):
            world.killed(worker)
        self.assertEqual([4, 5], [worker for worker, life in world.lives().items() if life is Life.STARTING])
        world.bring_up(4)
        world.bring_up(5)
        world.bring_up(6)
        self.assertEqual({4: Life.SERVING, 5: Life.SERVING, 6: Life.LOADED}, world.lives())

    def test_a_standby_that_dies_is_replaced(self) -> None:
        """It served nobody, and still its death is told, and another stands by."""
        world = serving(count=1, standby=1)
        self.assertEqual((Spawn(worker=3, generation=1),), world.killed(2).commands)
        self.assertEqual("loaded", world.last_told(events.WorkerDied).life)

    def test_a_death_while_it_is_being_promoted(self) -> None:
        """The next one starts; nobody waits for an activation that will never end."""
        world = serving(count=1, standby=1)
        world.killed(1)
        world.now += 0.1
        self.assertEqual((Spawn(worker=3, generation=1),), world.killed(2).commands)
        self.assertEqual("activating", world.last_told(events.WorkerDied).life)

    def test_without_overlap_the_standby_waits_for_the_dead(self) -> None:
        """A worker that runs its exit handlers still runs: the other is activated when the process is gone."""
        world = serving(count=1, standby=1, overlap=False)
        self.assertEqual((), world.crashed(1).commands)
        self.assertEqual((Activate(worker=2),), world.exited(1, status=1).commands)
        step = world.last_told(events.WorkerDied).next_step
        self.assertEqual("worker 2, which is loaded, takes over as soon as it can", step)


class CauseTests(TestCase):
    """Every death that nobody asked for is told once, with its cause."""

    def test_a_signal(self) -> None:
        """Which signal, whether a core was dumped, how long it ran, and in what life it was."""
        world = serving(count=1, standby=1)
        world.now += 12.0
        world.tell(inputs.Exited(worker=1, signal="SIGSEGV", core_dumped=True))
        died = only(world.told(events.WorkerDied))
        self.assertEqual("killed by SIGSEGV, core dumped", died.cause.text)
        self.assertEqual((CauseKind.SIGNAL, "SIGSEGV"), (died.cause.kind, died.cause.signal))
        self.assertEqual(
            (1, 1, 101, "serving", 22.0),
            (died.worker, died.generation, died.pid, died.life, died.uptime_seconds),
        )
        self.assertEqual("worker 2 takes over now", died.next_step)

    def test_an_exit_is_a_death_whatever_its_status(self) -> None:
        """A worker that ends unasked has died, with status 0 too."""
        world = serving(count=2, standby=0)
        world.exited(1, status=0)
        world.exited(2, status=3)
        causes = [died.cause for died in world.told(events.WorkerDied)]
        self.assertEqual(
            [(CauseKind.EXIT, 0), (CauseKind.EXIT, 3)], [(each.kind, each.exit_status) for each in causes]
        )
        self.assertEqual("it ended by itself with exit status 0", causes[0].text)

    def test_a_crash(self) -> None:
        """Others take over when it tells of the error; its death is told at its exit, with error and status."""
        world = serving(count=1, standby=1)
        self.assertEqual((Activate(worker=2),), world.crashed(1).commands)
        self.assertIs(Life.DRAINING, world.life(1))
        self.assertEqual([], world.told(events.WorkerDied))
        world.ready(2)
        world.exited(1, status=1)
        died = only(world.told(events.WorkerDied))
        self.assertEqual(
            (CauseKind.EXCEPTION, ERROR, 1), (died.cause.kind, died.cause.error, died.cause.exit_status)
        )
        self.assertEqual(("serving", "worker 2 takes over now"), (died.life, died.next_step))

    def test_a_crash_whose_exit_handlers_never_end(self) -> None:
        """They have five seconds and two of grace, then SIGKILL; the crash stays the cause."""
        world = serving(count=1, standby=0)
        world.crashed(1)
        self.assertNotIn(Kill(worker=1), world.pass_seconds(6.9))
        self.assertIn(Kill(worker=1), world.pass_seconds(0.1))
        world.killed(1)
        died = only(world.told(events.WorkerDied))
        self.assertEqual((CauseKind.EXCEPTION, "SIGKILL"), (died.cause.kind, died.cause.signal))

    def test_failed_heartbeats(self) -> None:
        """More failures than are tolerated end a worker as a crash does (W15), and its stacks are dumped first."""
        world = serving(count=1, standby=1)
        self.assertEqual(
            (DumpStacks(worker=1), Activate(worker=2)), world.crashed(1, kind=CauseKind.HEARTBEAT).commands
        )
        world.exited(1, status=1)
        self.assertIs(CauseKind.HEARTBEAT, world.last_told(events.WorkerDied).cause.kind)

    def test_a_hang(self) -> None:
        """Its stacks are dumped, then it is killed without being asked; the standby comes first in time."""
        world = serving(count=1, standby=1)
        self.assertEqual((Kill(worker=1, dump=True), Activate(worker=2)), world.hung(1).commands)
        world.killed(1)
        died = only(world.told(events.WorkerDied))
        self.assertIs(CauseKind.HANG, died.cause.kind)
        self.assertEqual("its reactor hangs: no answer to the ping for 10.0 s", died.cause.text)

    def test_a_stopped_process(self) -> None:
        """SIGSTOP looks like a hang and is named."""
        world = serving(count=1, standby=1)
        world.tell(inputs.Hung(worker=1, seconds=10.0, stopped=True))
        world.killed(1)
        self.assertIn("it is stopped (SIGSTOP)", world.last_told(events.WorkerDied).cause.text)

    def test_a_hang_in_an_exit_handler(self) -> None:
        """A worker that crashed and then blocks is killed at once; the crash stays the cause, told once."""
        world = serving(count=1, standby=0)
        world.crashed(1)
        self.assertEqual((Kill(worker=1, dump=True),), world.hung(1).commands)
        world.killed(1)
        self.assertIs(CauseKind.EXCEPTION, only(world.told(events.WorkerDied)).cause.kind)

    def test_a_kill_that_does_not_work_is_repeated(self) -> None:
        """A process in the kernel's hands may ignore a SIGKILL for a while; others took over long ago."""
        world = serving(count=1, standby=1)
        world.hung(1)
        kills = [each for each in world.pass_seconds(20.0) if each == Kill(worker=1)]
        self.assertEqual(4, len(kills))
        world.killed(1)
        only(world.told(events.WorkerDied))


class LinkTests(TestCase):
    """The link to a worker breaks."""

    def test_others_take_over_at_once(self) -> None:
        """Whatever the reason is: who cannot be reached cannot be kept."""
        world = serving(count=1, standby=1)
        self.assertEqual((Activate(worker=2),), world.link_lost(1).commands)
        self.assertIs(Life.DEAD, world.life(1))

    def test_a_death_that_broke_the_link_is_the_cause(self) -> None:
        """The kernel closes a dying process's descriptors first: end of file, and SIGSEGV a moment later."""
        world = serving(count=1, standby=1)
        world.link_lost(1)
        world.pass_seconds(0.01)
        world.killed(1, "SIGSEGV")
        died = only(world.told(events.WorkerDied))
        self.assertEqual((CauseKind.SIGNAL, "killed by SIGSEGV"), (died.cause.kind, died.cause.text))
        self.assertEqual(("serving", "worker 2 takes over now"), (died.life, died.next_step))
        self.assertEqual([], world.ordered(Kill))

    def test_a_process_that_stays_is_killed(self) -> None:
        """After a second the broken link is the cause itself."""
        world = serving(count=1, standby=1)
        world.link_lost(1)
        self.assertIn(Kill(worker=1), world.pass_seconds(1.0))
        world.killed(1)
        died = only(world.told(events.WorkerDied))
        self.assertEqual((CauseKind.LINK, "SIGKILL"), (died.cause.kind, died.cause.signal))
        self.assertEqual("its link to the monitor broke: end of file", died.cause.text)

    def test_a_worker_that_is_ending_closes_its_link(self) -> None:
        """On its way out, after a crash or because it was asked: that is no failure of its own."""
        world = serving(count=2, standby=0)
        world.crashed(1)
        world.link_lost(1)
        world.exited(1, status=1)
        self.assertIs(CauseKind.EXCEPTION, only(world.told(events.WorkerDied)).cause.kind)
        world.bring_up(3)
        world.set_policy(count=1, standby=0)
        self.assertIs(Life.DRAINING, world.life(3))
        world.link_lost(3)
        world.exited(3)
        self.assertEqual(3, only(world.told(events.WorkerExited)).worker)

    def test_it_counts_once(self) -> None:
        """A broken link and the exit behind it are one death."""
        world = serving(count=1, standby=1)
        world.link_lost(1)
        world.killed(1)
        self.assertEqual(1, world.state.deaths_in_a_row)


class BreachTests(TestCase):
    """A worker says what no sane worker says."""

    def test_it_is_killed_and_that_is_a_death(self) -> None:
        """A second Loaded from a serving worker: its memory is not to be trusted."""
        world = serving(count=1, standby=1)
        self.assertEqual((Kill(worker=1), Activate(worker=2)), world.load(1).commands)
        world.killed(1)
        died = only(world.told(events.WorkerDied))
        self.assertEqual("it broke the protocol: it has loaded, while it was serving", died.cause.text)
        self.assertIs(CauseKind.LINK, died.cause.kind)

    def test_ready_before_it_was_activated(self) -> None:
        """What was not started cannot be ready."""
        world = serving(count=1, standby=1)
        self.assertIn(Kill(worker=2), world.ready(2).commands)

    def test_a_failed_load_after_the_load(self) -> None:
        """What was built was built."""
        world = serving(count=1, standby=1)
        world.tell(inputs.LoadFailed(worker=1, error=ERROR))
        world.killed(1)
        self.assertIn("it cannot load, while it was serving", world.last_told(events.WorkerDied).cause.text)


class LateTests(TestCase):
    """What comes from workers that are gone, or as good as gone."""

    def test_the_gone_say_nothing(self) -> None:
        """Messages of a worker that is not in the state any more, or never was, change nothing."""
        world = serving(count=1, standby=0)
        world.killed(1)
        before = world.state
        for worker in (1, 77):
            world.load(worker)
            world.ready(worker)
            world.crashed(worker)
            world.hung(worker)
            world.link_lost(worker)
            world.load_failed(worker)
            world.exited(worker)
            world.tell(inputs.BeatTold(worker=worker, failures=1, text="500", tolerance=2))
            world.tell(inputs.SpawnFailed(worker=worker, text="EAGAIN", permanent=True))
        self.assertEqual(before, world.state)
        only(world.told(events.WorkerDied))

    def test_the_dead_say_nothing_new(self) -> None:
        """A killed worker's last messages are no second cause and no breach."""
        world = serving(count=1, standby=1)
        world.hung(1)
        for happened in (world.crashed, world.link_lost, world.hung, world.ready):
            self.assertEqual((), happened(1).commands)
        world.killed(1)
        self.assertIs(CauseKind.HANG, only(world.told(events.WorkerDied)).cause.kind)

    def test_the_draining_make_no_progress(self) -> None:
        """A worker that was asked to leave while it activated may still tell that it is ready."""
        world = serving(count=1, standby=1)
        world.killed(1)
        world.end()
        self.assertIs(Life.DRAINING, world.life(2))
        self.assertEqual((), world.ready(2).commands)


class HeartbeatTests(TestCase):
    """What is told of heartbeats; the tolerance is the worker's own."""

    def beat(self, failures: int) -> inputs.BeatTold:
        """Worker 1's beat."""
        return inputs.BeatTold(worker=1, failures=failures, text="500", tolerance=2)

    def test_failures_and_recovery(self) -> None:
        """Each failure is told, the first success after failures too, and further ones are nobody's news."""
        world = serving(count=1, standby=0)
        for failures in (0, 1, 2, 0, 0):
            self.assertEqual((), world.tell(self.beat(failures)).commands)
        self.assertEqual(
            [
                events.HeartbeatFailed(worker=1, failures=1, tolerance=2, text="500"),
                events.HeartbeatFailed(worker=1, failures=2, tolerance=2, text="500"),
                events.HeartbeatRecovered(worker=1, failures=2),
            ],
            world.events,
        )
        self.assertEqual(0, world.worker(1).failures)


class NextStepTests(TestCase):
    """Every failure says what happens next and when, in words for the operator."""

    def steps(self, *, standby: int, deaths: int) -> list[str]:
        """What was said at each death in a row."""
        world = serving(count=1, standby=standby, needs_activation=False)
        for _ in range(deaths):
            alive = [worker.id for worker in world.state.workers if worker.alive]
            world.killed(alive[0])
            if world.state.respawn_at > world.now:
                world.pass_seconds(world.state.respawn_at - world.now)
        return [died.next_step for died in world.told(events.WorkerDied)]

    def test_with_a_standby(self) -> None:
        """Who takes over and who is started."""
        self.assertEqual(
            ["worker 2 takes over now; worker 3 is started now"], self.steps(standby=1, deaths=1)
        )

    def test_in_a_row(self) -> None:
        """First a start at once, then when, and the how manieth it is."""
        first, second, third = self.steps(standby=0, deaths=3)
        self.assertEqual("worker 2 is started now", first)
        self.assertRegex(second, r"^a successor is started in 0\.[45] s \(death 2 in a row\)$")
        self.assertRegex(third, r"^a successor is started in (0\.[89]|1\.0) s \(death 3 in a row\)$")

    def test_while_somebody_is_on_the_way(self) -> None:
        """A death that orders nothing names who will come."""
        world = serving(count=1, standby=1)
        world.killed(1)
        world.ready(2)
        world.crashed(2)
        world.exited(2, status=1)
        self.assertEqual({3: Life.STARTING}, world.lives())
        step = world.last_told(events.WorkerDied).next_step
        self.assertEqual("worker 3, which is starting, takes over as soon as it can", step)
