"""The core: the end of a session, asked for once or twice, at any moment, and always within its deadline."""

from __future__ import annotations

from twisted.trial.unittest import TestCase

from serverworker.decisions import inputs
from serverworker.decisions.inputs import Answer, Finish, Kill, Leave, Spawn
from serverworker.decisions.session import next_wake
from serverworker.values import events
from serverworker.values.causes import CauseKind
from serverworker.values.state import Life, Phase
from tests.unit.core_world import CoreWorld, only, serving

ENDED = Answer(request=9, ok=True, text="the session has ended: exit")


def leave(worker: int) -> Leave:
    """The order to leave at a session's graceful end."""
    return Leave(worker=worker, kind="session-end", text="exit", seconds=30.0)


class GracefulEndTests(TestCase):
    """`exit clean`, SIGTERM."""

    def test_everybody_is_asked_to_leave(self) -> None:
        """Those who serve and those who stand by run their exit handlers and drain."""
        world = serving(count=1, standby=1)
        self.assertEqual((leave(1), leave(2)), world.end().commands)
        self.assertIs(Phase.ENDING, world.state.phase)
        self.assertEqual((), world.exited(2).commands)
        self.assertEqual((ENDED, Finish(status=0, reason="exit")), world.exited(1).commands)
        self.assertIs(Phase.ENDED, world.state.phase)
        self.assertEqual([], world.told(events.WorkerDied))

    def test_it_is_told(self) -> None:
        """First that it ends, then each worker's end, and last of all that it has ended."""
        world = serving(count=1, standby=0)
        world.end(status=3)
        world.exited(1)
        self.assertEqual(
            [
                events.SessionEnding(reason="exit", graceful=True, status=3),
                events.WorkerDraining(worker=1, reason="exit"),
                events.WorkerExited(worker=1, pid=101, reason="exit", text="exit status 0"),
                events.SessionEnded(status=3, reason="exit"),
            ],
            world.events,
        )

    def test_who_has_not_loaded_is_killed(self) -> None:
        """It has nothing to finish."""
        world = CoreWorld(count=1, standby=0)
        world.start()
        self.assertEqual((Kill(worker=1),), world.end().commands)
        world.killed(1)
        self.assertEqual(1, only(world.told(events.WorkerExited)).worker)

    def test_who_does_not_leave_is_killed(self) -> None:
        """Two seconds after the drain deadline; what was asked for and takes too long is no death."""
        world = serving(count=1, standby=0)
        world.end()
        self.assertEqual((), world.pass_seconds(31.9))
        self.assertEqual((Kill(worker=1),), world.pass_seconds(0.1))
        world.killed(1)
        self.assertEqual([], world.told(events.WorkerDied))
        self.assertEqual(Finish(status=0, reason="exit"), world.commands[-1])

    def test_a_process_that_even_sigkill_does_not_end(self) -> None:
        """It is given up five seconds later, told, and the session ends all the same."""
        world = serving(count=1, standby=0)
        world.end()
        world.pass_seconds(36.9)
        self.assertIs(Phase.ENDING, world.state.phase)
        world.pass_seconds(0.1)
        self.assertIs(Phase.ENDED, world.state.phase)
        exited = only(world.told(events.WorkerExited))
        self.assertEqual("it is still there, 5.0 s after SIGKILL", exited.text)
        self.assertIsInstance(world.events[-1], events.SessionEnded)
        self.assertEqual((), world.killed(1).commands)

    def test_one_that_was_being_replaced(self) -> None:
        """Progress comes to its end with it."""
        world = serving(count=1, standby=0)
        world.restart()
        world.bring_up(2)
        world.end(graceful=False)
        world.killed(2)
        world.pass_seconds(7.0)
        self.assertIs(Phase.ENDED, world.state.phase)
        self.assertIsNone(world.state.replacing)

    def test_a_crash_that_even_sigkill_does_not_end(self) -> None:
        """Its cause is not lost with it."""
        world = serving(count=1, standby=0)
        world.hung(1)
        world.end(graceful=False)
        world.pass_seconds(7.0)
        self.assertIs(CauseKind.HANG, only(world.told(events.WorkerDied)).cause.kind)
        self.assertIsInstance(world.events[-1], events.SessionEnded)

    def test_waiting_for_the_last_does_not_spin(self) -> None:
        """Between the deadline and the end the core is woken a handful of times, not without pause."""
        world = serving(count=3, standby=1)
        world.end()
        ticks = 0
        while (wake := next_wake(world.state, world.now)) is not None:
            world.now = wake
            world.tell(inputs.Tick())
            ticks += 1
            self.assertLess(ticks, 10)

    def test_nothing_is_started_any_more(self) -> None:
        """A death while the session ends has no successor, and back-off wakes nobody into a start."""
        world = serving(count=2, standby=0)
        world.end()
        world.killed(1)
        world.pass_seconds(20.0)
        self.assertEqual([], world.ordered(Spawn))
        self.assertEqual("the session ends with status 0", world.last_told(events.WorkerDied).next_step)

    def test_a_crash_at_the_end_is_told(self) -> None:
        """Before the end itself is told."""
        world = serving(count=1, standby=0)
        world.end()
        world.crashed(1)
        world.exited(1, status=1)
        kinds = [type(event) for event in world.events[-2:]]
        self.assertEqual([events.WorkerDied, events.SessionEnded], kinds)

    def test_with_nobody_there_it_ends_at_once(self) -> None:
        """While a back-off runs there is nobody to wait for."""
        world = serving(count=1, standby=0)
        for worker in (1, 2, 3):
            world.killed(worker)
        self.assertEqual((ENDED, Finish(status=0, reason="exit")), world.end().commands)

    def test_a_worker_that_was_crashing_keeps_its_own_deadline(self) -> None:
        """It is not asked a second time, and does not hold up the end."""
        world = serving(count=1, standby=0)
        world.killed(1)
        world.bring_up(2)
        world.crashed(2)
        world.commands.clear()
        world.end()
        self.assertNotIn(leave(2), world.commands)
        self.assertIn(Kill(worker=2), world.pass_seconds(7.0))


class ForcedEndTests(TestCase):
    """`exit force`, and the second wish."""

    def test_everybody_is_killed(self) -> None:
        """At once; nobody asked is a death."""
        world = serving(count=1, standby=1)
        self.assertEqual((Kill(worker=1), Kill(worker=2)), world.end(graceful=False, status=1).commands)
        world.killed(1)
        self.assertEqual(Finish(status=1, reason="exit"), world.killed(2).commands[-1])
        self.assertEqual([], world.told(events.WorkerDied))
        self.assertEqual("killed by SIGKILL (the session ends now)", world.told(events.WorkerExited)[0].text)

    def test_it_is_over_within_seven_seconds(self) -> None:
        """Whatever the processes do."""
        world = serving(count=2, standby=0)
        world.end(graceful=False)
        world.pass_seconds(7.0)
        self.assertIs(Phase.ENDED, world.state.phase)

    def test_a_second_wish_makes_it_faster(self) -> None:
        """A second SIGTERM kills who was draining; the first one's status stays."""
        world = serving(count=1, standby=0)
        world.end(status=3)
        world.now += 1.0
        self.assertEqual((Kill(worker=1),), world.end(graceful=False, status=4, request=10).commands)
        answers = (ENDED, Answer(request=10, ok=True, text="the session has ended: exit"))
        self.assertEqual((*answers, Finish(status=3, reason="exit")), world.killed(1).commands)
        self.assertEqual([True, False], [each.graceful for each in world.told(events.SessionEnding)])

    def test_a_second_wish_never_makes_it_slower(self) -> None:
        """Another graceful wish, or one after a forced one, moves no deadline; it is answered with the others."""
        world = serving(count=1, standby=0)
        world.end()
        world.now += 20.0
        self.assertEqual((), world.end(request=10).commands)
        self.assertEqual((Kill(worker=1),), world.pass_seconds(12.0))
        world.killed(1)
        self.assertEqual([9, 10], [answer.request for answer in world.ordered(Answer)])
        only(world.told(events.SessionEnding))

    def test_a_forced_wish_near_the_end_does_not_put_it_off(self) -> None:
        """The deadline of the graceful end stays where it is nearer."""
        world = serving(count=1, standby=0)
        world.end()
        world.pass_seconds(31.0)
        world.end(graceful=False)
        world.pass_seconds(6.0)
        self.assertIs(Phase.ENDED, world.state.phase)


class UntimelyEndTests(TestCase):
    """An end in the middle of something else."""

    def test_in_the_middle_of_a_restart(self) -> None:
        """The restart has failed, because the session ends; candidates and old workers all go."""
        world = serving(count=1, standby=0)
        world.restart()
        world.load(2)
        world.commands.clear()
        world.end()
        self.assertEqual(
            Answer(request=7, ok=False, text="the session ends: exit"), only(world.ordered(Answer))
        )
        self.assertEqual("the session ends: exit", only(world.told(events.RestartFailed)).text)
        self.assertEqual({1: Life.DRAINING, 2: Life.DRAINING}, world.lives())
        world.exited(2)
        self.assertIn(Finish(status=0, reason="exit"), world.exited(1).commands)

    def test_in_the_middle_of_a_takeover(self) -> None:
        """Without overlap: nobody new is activated, the restart is answered, all go."""
        world = serving(count=1, standby=0, overlap=False)
        world.restart()
        world.load(2)
        world.end()
        self.assertFalse(world.ordered(Answer)[0].ok)
        world.exited(1)
        self.assertIs(Life.DRAINING, world.life(2))
        self.assertIn(Finish(status=0, reason="exit"), world.exited(2).commands)

    def test_while_old_workers_drain(self) -> None:
        """They are not asked twice; their own deadline, or the session's if it is nearer, ends them."""
        world = serving(count=1, standby=0)
        world.restart()
        world.bring_up(2)
        world.commands.clear()
        world.end()
        self.assertEqual([leave(2)], world.ordered(Leave))

    def test_without_a_reason(self) -> None:
        """A worker that was asked to leave without a word was asked all the same: its end is no death."""
        world = serving(count=1, standby=0)
        world.tell(inputs.AskEnd(reason="", graceful=True, status=0))
        world.exited(1)
        self.assertEqual([], world.told(events.WorkerDied))
        self.assertEqual("no reason was given", only(world.told(events.SessionEnded)).reason)

    def test_after_the_end(self) -> None:
        """Who asks again is answered at once; everything else changes nothing."""
        world = serving(count=1, standby=0)
        world.end()
        world.exited(1)
        before = world.state
        told = Answer(request=11, ok=True, text="the session has ended already")
        self.assertEqual((told,), world.end(request=11).commands)
        self.assertEqual((), world.end(request=None).commands)
        for happened in (
            world.start,
            lambda: world.killed(1),
            lambda: world.spawned(5),
            lambda: world.tell(inputs.Tick()),
        ):
            self.assertEqual(((), ()), happened()[1:])
        self.assertEqual(before, world.state)
        self.assertIsNone(next_wake(world.state, world.now))

    def test_a_worker_asks_for_it(self) -> None:
        """`kill_session` from a worker: a reason, a status, and nobody who waits for an answer (W5)."""
        world = serving(count=1, standby=0)
        world.end(graceful=False, status=1, request=None)
        self.assertEqual((Finish(status=1, reason="exit"),), world.killed(1).commands)
