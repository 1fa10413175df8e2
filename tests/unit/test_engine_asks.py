"""What is asked of the engine is answered, whatever comes of it."""

from __future__ import annotations

import signal

from serverworker.values import events
from serverworker.values.errors import NotDone
from serverworker.values.state import Life
from tests.unit.engine_case import ERROR, EngineTestCase


class AskTests(EngineTestCase):
    """What is asked of the session, and answered."""

    def test_restart(self) -> None:
        """A restart is answered when the new generation serves; the old worker is asked to leave, gently."""
        self.begin()
        self.bring_up(1)
        answer = self.engine.ask_restart("clean", "the test")
        self.reactor.turn()
        self.assertEqual(self.recipes, [1, 2])
        self.assertNoResult(answer)
        self.bring_up(2)
        self.assertEqual(self.successResultOf(answer), "generation 2 serves")
        name, arguments = self.process(1).orders[-1]
        self.assertEqual((name, arguments["kind"], arguments["drain"]), ("Leave", "restart", True))
        self.assertEqual((arguments["seconds"], arguments["last_ports"]), (30.0, ["port of 1"]))
        self.end(1)
        self.assertEqual(self.event(events.WorkerExited).worker, 1)

    def test_forced_restart(self) -> None:
        """A forced one does not wait for what the old worker is at."""
        self.begin()
        self.bring_up(1)
        answer = self.engine.ask_restart("force", "the test")
        self.reactor.turn()
        self.bring_up(2)
        self.successResultOf(answer)
        self.assertFalse(self.process(1).orders[-1][1]["drain"])

    def test_restart_that_fails(self) -> None:
        """One whose code cannot be loaded is answered with the reason, and the old worker serves on."""
        self.begin()
        self.bring_up(1)
        answer = self.engine.ask_restart("clean", "the test")
        self.reactor.turn()
        self.process(2).fail_to_load(ERROR)
        self.reactor.turn()
        failure = self.failureResultOf(answer, NotDone)
        self.assertIn("no data base", failure.getErrorMessage())
        self.assertEqual(self.life(1), Life.SERVING)

    def test_second_restart(self) -> None:
        """A second one meanwhile is refused at once; the first goes on."""
        self.begin()
        self.bring_up(1)
        first = self.engine.ask_restart("clean", "the test")
        second = self.engine.ask_restart("clean", "another")
        self.assertIn("is under way", self.failureResultOf(second, NotDone).getErrorMessage())
        self.reactor.turn()
        self.bring_up(2)
        self.successResultOf(first)

    def test_restart_is_given_up_by_the_end(self) -> None:
        """A restart that the session's end overtakes is answered too."""
        self.begin()
        self.bring_up(1)
        answer = self.engine.ask_restart("clean", "the test")
        self.engine.ask_end("enough", graceful=True, status=0)
        self.assertIn("the session ends", self.failureResultOf(answer, NotDone).getErrorMessage())

    def test_end(self) -> None:
        """Everybody is asked to leave; when all are gone it is answered, and the session is over, once."""
        self.begin(standby=1)
        self.bring_up(1)
        self.load(2)
        answer = self.engine.ask_end("enough", graceful=True, status=3)
        self.reactor.turn()
        pids = [self.process(worker).pid for worker in (1, 2)]
        for worker in (1, 2):
            name, arguments = self.process(worker).orders[-1]
            self.assertEqual((name, arguments["kind"], arguments["text"]), ("Leave", "session-end", "enough"))
            self.assertNoResult(answer)
            self.end(worker)
        self.assertEqual(self.successResultOf(answer), "the session has ended: enough")
        self.assertEqual([pid for what, pid in self.watched if what == "gone"], pids)
        self.reactor.pass_seconds(1000)
        self.assertEqual(self.finished, [(3, "enough")])
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_unready(self) -> None:
        """Where load balancers are to look away first, workers are told so, serve on, and leave later."""
        self.begin(unready_seconds=5.0)
        self.bring_up(1)
        self.engine.ask_end("enough", graceful=True, status=0)
        self.reactor.pass_seconds(4)
        self.assertEqual(self.orders(1)[2:], ["Unready"])
        self.reactor.pass_seconds(2)
        self.assertEqual(self.orders(1)[2:], ["Unready", "Leave"])

    def test_end_at_once(self) -> None:
        """Not graceful: everybody is killed, and nobody is asked."""
        self.begin()
        self.bring_up(1)
        answer = self.engine.ask_end("enough", graceful=False, status=0)
        self.reactor.turn()
        self.assertEqual(self.process(1).signals, [signal.SIGKILL])
        self.assertNotIn("Leave", self.orders(1))
        self.successResultOf(answer)
        self.assertEqual(self.finished, [(0, "enough")])

    def test_end_of_one_that_does_not_leave(self) -> None:
        """Who has not left at the deadline is killed."""
        self.begin(drain_seconds=20.0)
        self.bring_up(1)
        self.engine.ask_end("enough", graceful=True, status=0)
        self.reactor.pass_seconds(20)
        self.assertEqual(self.process(1).signals, [])
        self.reactor.pass_seconds(5)
        self.assertEqual(self.process(1).signals, [signal.SIGKILL])
        self.assertEqual(self.finished, [(0, "enough")])

    def test_end_of_one_that_nothing_ends(self) -> None:
        """The session ends though a process does not, even by SIGKILL: the kernel has it, and the guardian."""
        self.begin(drain_seconds=20.0)
        self.bring_up(1)
        self.process(1).survives_kill = True
        answer = self.engine.ask_end("enough", graceful=True, status=0)
        self.reactor.pass_seconds(40)
        self.successResultOf(answer)
        self.assertEqual(self.finished, [(0, "enough")])
        self.assertIn("still there", self.event(events.WorkerExited).text)

    def test_end_before_it_was_started(self) -> None:
        """A worker that is given up before its process is there is never started, and the session ends."""
        self.order_start()
        answer = self.engine.ask_end("enough", graceful=True, status=0)
        self.assertNoResult(answer)
        self.reactor.turn()
        self.successResultOf(answer)
        self.assertEqual(self.spawner.processes, {})
        self.assertEqual(self.recipes, [])
        self.assertEqual(self.finished, [(0, "enough")])

    def test_asked_after_the_end(self) -> None:
        """Who asks after the end is answered too."""
        self.begin()
        self.engine.ask_end("enough", graceful=False, status=0)
        self.reactor.turn()
        self.failureResultOf(self.engine.ask_restart("clean", "the test"), NotDone)
        again = self.engine.ask_end("enough", graceful=True, status=0)
        self.assertEqual(self.successResultOf(again), "the session has ended already")
