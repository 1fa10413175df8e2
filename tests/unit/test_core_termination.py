"""The core: SIGTERM from outside, to one worker, or to every process of the session in any order."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import permutations

from twisted.trial.unittest import TestCase

from serverworker.decisions import inputs
from serverworker.decisions.inputs import Activate, Finish, Kill, Leave, Spawn
from serverworker.decisions.session import Step
from serverworker.values import events
from serverworker.values.causes import CauseKind
from serverworker.values.state import Life, Phase
from tests.unit.core_world import CoreWorld, only, serving

TEXT = "SIGTERM came from outside the session"


class OneWorkerTests(TestCase):
    """Nobody asks for the session's end: the worker was meant."""

    def test_it_serves_until_its_successor_is_called(self) -> None:
        """For half a second nothing is decided; then the standby takes over, and it drains by order."""
        world = serving(count=1, standby=1)
        self.assertEqual((), world.terminated(1).commands)
        self.assertEqual((), world.pass_seconds(0.4))
        self.assertIs(Life.SERVING, world.life(1))
        leave = Leave(worker=1, kind="restart", text=TEXT, seconds=30.0)
        commands = world.pass_seconds(0.2)
        self.assertEqual((leave, Activate(worker=2)), commands[:2])
        self.assertIs(Life.DRAINING, world.life(1))

    def test_it_is_a_death(self) -> None:
        """Told with its cause, and counted for the back-off."""
        world = serving(count=1, standby=1)
        world.terminated(1)
        world.pass_seconds(1.0)
        self.assertEqual(1, world.state.deaths_in_a_row)
        world.exited(1)
        died = only(world.told(events.WorkerDied))
        self.assertEqual(
            (CauseKind.SIGNAL, TEXT, 0), (died.cause.kind, died.cause.text, died.cause.exit_status)
        )

    def test_it_has_until_the_end_of_its_drain(self) -> None:
        """And is killed then."""
        world = serving(count=1, standby=0)
        world.terminated(1)
        world.pass_seconds(0.5)
        self.assertNotIn(Kill(worker=1), world.pass_seconds(31.9))
        self.assertIn(Kill(worker=1), world.pass_seconds(0.2))

    def test_told_twice(self) -> None:
        """The second one changes nothing."""
        world = serving(count=1, standby=0)
        world.terminated(1)
        world.pass_seconds(0.3)
        world.terminated(1)
        world.pass_seconds(0.3)
        self.assertEqual(1, len(world.ordered(Leave)))
        world.terminated(1)
        world.pass_seconds(1.0)
        self.assertEqual(1, len(world.ordered(Leave)))

    def test_it_dies_meanwhile(self) -> None:
        """Of what it may: that is told at once."""
        world = serving(count=1, standby=0)
        world.terminated(1)
        world.killed(1)
        self.assertEqual("killed by SIGKILL", only(world.told(events.WorkerDied)).cause.text)
        world.pass_seconds(1.0)
        self.assertEqual([], world.ordered(Leave))

    def test_one_that_dies_of_it(self) -> None:
        """Others take over at once; the death is told half a second later, once it is known to be one."""
        world = serving(count=1, standby=1)
        self.assertIn(Activate(worker=2), world.killed(1, "SIGTERM").commands)
        self.assertEqual([], world.told(events.WorkerDied))
        self.assertEqual(1, world.state.deaths_in_a_row)
        world.pass_seconds(0.5)
        died = only(world.told(events.WorkerDied))
        self.assertEqual("killed by SIGTERM", died.cause.text)
        self.assertEqual("worker 2 takes over now", died.next_step)
        self.assertIsNone(world.state.worker(1))
        self.assertEqual([], world.ordered(Kill))

    def test_a_candidate_that_dies_of_it(self) -> None:
        """The restart is given up, once, when it is known to be a death."""
        world = serving(count=2, standby=0)
        world.restart()
        world.spawned(3)
        world.killed(3, "SIGTERM")
        self.assertEqual([], world.told(events.RestartFailed))
        world.pass_seconds(0.5)
        only(world.told(events.RestartFailed))
        self.assertIsNone(world.state.restart)

    def test_what_must_not_run_twice(self) -> None:
        """A process that is gone runs nothing: its successor is activated while its end is still open."""
        world = serving(count=1, standby=1, overlap=False)
        self.assertIn(Activate(worker=2), world.killed(1, "SIGTERM").commands)

    def test_giving_up(self) -> None:
        """The last death that a session bears is one, and ends it with 70."""
        world = serving(count=2, standby=0, give_up_after=1)
        world.terminated(1)
        world.killed(2, "SIGTERM")
        world.pass_seconds(0.5)
        self.assertEqual(70, only(world.told(events.SessionEnding)).status)
        for command in world.ordered(Spawn):
            world.killed(command.worker)
        world.exited(1)
        world.pass_seconds(1.0)
        self.assertIs(Phase.ENDED, world.state.phase)
        self.assertEqual({1, 2}, {died.worker for died in world.told(events.WorkerDied)})


class WholeSessionTests(TestCase):
    """Every process is sent it, the monitor too."""

    def assert_nobody_died(self, world: CoreWorld) -> None:
        """It has ended with 0, without a death, and nothing was started that is not gone."""
        self.assertIs(Phase.ENDED, world.state.phase)
        self.assertEqual(Finish(status=0, reason="exit"), world.commands[-1])
        self.assertEqual([], world.told(events.WorkerDied))

    def test_any_order(self) -> None:
        """Serving, standby and starting worker and the monitor: whoever is reached first, nobody has died."""
        for order in permutations(("serving", "standby", "starting", "monitor")):
            world = serving(count=1, standby=2)
            world.killed(3)
            world.spawned(4)
            world.events.clear()
            deeds: dict[str, Callable[[], Step]] = {
                "serving": partial(world.terminated, 1),
                "standby": partial(world.terminated, 2),
                "starting": partial(world.killed, 4, "SIGTERM"),
                "monitor": world.end,
            }
            for name in order:
                deeds[name]()
                world.pass_seconds(0.1)
            spawned = [command.worker for command in world.ordered(Spawn) if command.worker > 4]
            for worker in spawned:
                world.killed(worker)
            self.assertIsNotNone(world.state.ending, order)
            for worker in (1, 2):
                self.assertIs(Life.DRAINING, world.life(worker), order)
                world.exited(worker)
            self.assert_nobody_died(world)
            self.assertEqual({1, 2, 4, *spawned}, {each.worker for each in world.told(events.WorkerExited)})

    def test_it_serves_on_while_load_balancers_look_away(self) -> None:
        """A worker's own SIGTERM does not cut short the time between the decision and the drain."""
        for first in ("worker", "monitor"):
            world = serving(count=1, standby=0, unready_seconds=5.0)
            deeds: list[Callable[[], Step]] = [partial(world.terminated, 1), world.end]
            for deed in deeds if first == "worker" else reversed(deeds):
                deed()
            world.pass_seconds(4.8)
            self.assertIs(Life.SERVING, world.life(1), first)
            world.pass_seconds(0.3)
            self.assertEqual("session-end", only(world.ordered(Leave)).kind)

    def test_the_exit_comes_after_the_link(self) -> None:
        """A process that dies of it breaks its link first; the end is asked for in between, or after both."""
        for ends_between in (True, False):
            world = serving(count=1, standby=0)
            world.link_lost(1)
            if ends_between:
                world.end()
                world.killed(1, "SIGTERM")
            else:
                world.killed(1, "SIGTERM")
                world.end()
            for command in world.ordered(Spawn):
                world.killed(command.worker)
            self.assert_nobody_died(world)

    def test_one_without_a_handler_dies_of_it_at_the_end(self) -> None:
        """An application that has put SIGTERM's default back: it was asked to leave, and did."""
        world = serving(count=1, standby=0)
        world.end()
        world.killed(1, "SIGTERM")
        self.assert_nobody_died(world)
        self.assertEqual("killed by SIGTERM", only(world.told(events.WorkerExited)).text)

    def test_sigint(self) -> None:
        """^C on a terminal reaches a worker that is in its first moments."""
        world = CoreWorld(count=1, standby=0)
        world.start()
        world.spawned(1)
        world.killed(1, "SIGINT")
        world.end()
        for command in world.ordered(Spawn)[1:]:
            world.killed(command.worker)
        self.assert_nobody_died(world)

    def test_a_crash_at_the_end_stays_one(self) -> None:
        """What fails while it drains, and what another signal ends, has died."""
        world = serving(count=2, standby=0)
        world.terminated(1)
        world.end()
        world.crashed(1)
        world.killed(1, "SIGTERM")
        world.killed(2, "SIGSEGV")
        self.assertEqual({1, 2}, {died.worker for died in world.told(events.WorkerDied)})

    def test_a_death_long_before_the_end(self) -> None:
        """Is one: the end explains only what came within half a second before it."""
        world = serving(count=1, standby=0)
        world.tell(inputs.Exited(worker=1, signal="SIGTERM"))
        world.pass_seconds(0.6)
        world.end()
        only(world.told(events.WorkerDied))
