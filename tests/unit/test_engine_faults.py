"""What goes wrong in the monitor: no process can be started, a deed fails, the core itself has a fault."""

from __future__ import annotations

import errno
import os
import signal
from typing import Any

from serverworker.decisions import inputs
from serverworker.monitor import engine as engine_module
from serverworker.monitor import worker_process
from serverworker.values import events
from serverworker.values.causes import CauseKind
from serverworker.values.errors import ConfigurationError, NotDone
from serverworker.values.state import Life, Phase
from tests.unit.accept_case import open_descriptors
from tests.unit.engine_case import EngineTestCase


class SpawnFailureTests(EngineTestCase):
    """A process cannot be started."""

    def fail_to_spawn(self, error: Exception) -> None:
        self.spawner.error = error
        self.begin()

    def test_for_now(self) -> None:
        """What the system lacks now is tried again, later and later, until it works."""
        self.fail_to_spawn(OSError(errno.EAGAIN, "Resource temporarily unavailable"))
        self.reactor.pass_seconds(5)
        deaths = self.events(events.WorkerDied)
        self.assertGreater(len(deaths), 2)
        self.assertEqual({died.cause.kind for died in deaths}, {CauseKind.SPAWN})
        self.assertIn("the process cannot be started: [Errno 11] Resource temp", deaths[0].cause.text)
        self.assertIsNone(deaths[0].pid)
        self.spawner.error = None
        self.reactor.pass_seconds(60)
        (worker,) = self.spawner.processes
        self.bring_up(worker)
        self.assertEqual(self.life(worker), Life.SERVING)

    def test_for_good(self) -> None:
        """At the very first start, what will never be there ends the session with 78."""
        for error in (
            FileNotFoundError(errno.ENOENT, "No such file", "/nowhere/python"),
            PermissionError(errno.EACCES, "Permission denied", "/root/python"),
        ):
            self.fail_to_spawn(error)
            ((status, reason),) = self.finished
            self.assertEqual(status, 78)
            self.assertIn(str(error), reason)
            self.finished.clear()

    def test_no_recipe(self) -> None:
        """So does a folder or an interpreter that is not there."""
        self.recipe_error = ConfigurationError("app.directory: '/nowhere' is no folder")
        self.begin()
        self.assertEqual(
            self.finished, [(78, "the process cannot be started: app.directory: '/nowhere' is no folder")]
        )

    def test_no_recipe_for_a_restart(self) -> None:
        """Of a later generation it is a bad deploy: dropped, and the old worker serves on."""
        self.begin()
        self.bring_up(1)
        self.recipe_error = ConfigurationError("app.directory: '/nowhere' is no folder")
        answer = self.engine.ask_restart("clean", "the test")
        self.reactor.turn()
        self.assertIn("'/nowhere' is no folder", self.failureResultOf(answer, NotDone).getErrorMessage())
        self.assertEqual(self.life(1), Life.SERVING)

    def test_unforeseen(self) -> None:
        """Any other error is a failure to start as well: logged with its traceback, and never a hole in the count."""
        self.begin()
        self.bring_up(1)
        self.spawner.error = RuntimeError("a bug")
        self.end(1, 1)
        self.assertEqual(self.life(2), None)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.spawner.error = None
        self.reactor.pass_seconds(60)
        self.assertEqual(len(self.engine.state.workers), 1)

    def test_no_descriptor_for_the_link(self) -> None:
        """A process that no link can be made to is killed, leaves no descriptor behind, and is tried again."""

        def adopt(link: Any, reactor: Any, descriptor: int) -> None:
            os.close(descriptor)  # as the real one does in any case
            raise OSError(errno.EMFILE, "Too many open files")

        before = open_descriptors()
        self.begin()
        self.bring_up(1)
        undo = self.patch(worker_process, "adopt", adopt)
        self.end(1, 1)
        self.assertEqual(self.process(2).signals, [signal.SIGKILL])
        self.assertIsNone(self.life(2))
        self.assertEqual(open_descriptors(), before)
        undo.restore()
        self.reactor.pass_seconds(60)
        self.assertEqual(self.life(3), Life.STARTING)


class DeedTests(EngineTestCase):
    """A deed of the monitor's fails."""

    def test_is_told(self) -> None:
        """It is told as a fault; what else was decided is done, and the session goes on."""
        self.begin(count=2)
        self.bring_up(1)
        self.bring_up(2)
        process = self.engine.process(1)
        assert process is not None

        def broken(*arguments: Any, **options: Any) -> None:
            raise RuntimeError("a bug")

        self.patch(process, "order", broken)
        self.engine.ask_end("enough", graceful=True, status=0)
        self.reactor.turn()
        fault = self.event(events.Fault)
        self.assertEqual((fault.where, fault.error.message), ("the monitor, at Leave", "a bug"))
        self.assertEqual(self.orders(2)[-1], "Leave")
        self.end(2)
        self.reactor.pass_seconds(60)
        self.assertEqual(self.process(1).signals, [signal.SIGKILL])
        self.assertEqual(self.finished, [(0, "enough")])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_last_words(self) -> None:
        """A death whose last words cannot be read is told all the same."""
        self.begin()
        self.bring_up(1)
        process = self.engine.process(1)
        assert process is not None
        last_words = process.last_words

        def broken() -> None:
            last_words()
            raise RuntimeError("a bug")

        self.patch(process, "last_words", broken)
        self.end(1, by_signal=signal.SIGKILL)
        self.assertEqual(self.event(events.WorkerDied).cause.signal, "SIGKILL")
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertEqual(self.life(2), Life.STARTING)


class OwnFaultTests(EngineTestCase):
    """The core has a fault: it is reported, the workers drain, the session ends with 70."""

    def setUp(self) -> None:
        super().setUp()
        self.begin(standby=1, drain_seconds=20.0)
        self.bring_up(1)
        self.load(2)

    def break_core(self) -> None:
        def broken(*arguments: Any) -> None:
            raise KeyError("a bug")

        self.patch(engine_module, "step", broken)
        self.engine.happened(inputs.Tick())
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        self.reactor.turn()

    def test_reported(self) -> None:
        """The report says where, what, and what happens next; observers are told that the session ends."""
        self.break_core()
        fault = self.event(events.Fault)
        self.assertEqual(fault.where, "the monitor's core, at Tick")
        self.assertEqual(fault.error.message, "'a bug'")
        self.assertEqual(
            fault.next_step,
            "the workers have 20 s to finish what they are at, then the session ends with 70",
        )
        self.assertEqual(self.event(events.SessionEnding).status, 70)
        self.assertEqual(self.finished, [])

    def test_everybody_leaves(self) -> None:
        """All workers are asked to leave; when the last is gone the session is over."""
        self.break_core()
        pids = [self.process(worker).pid for worker in (1, 2)]
        for worker in (1, 2):
            name, arguments = self.process(worker).orders[-1]
            self.assertEqual(
                (name, arguments["seconds"], arguments["text"]),
                ("Leave", 20.0, "the monitor has a fault of its own"),
            )
            self.assertEqual(self.finished, [])
            self.end(worker)
        self.assertEqual(self.finished, [(70, "the monitor has a fault of its own")])
        self.assertEqual([pid for what, pid in self.watched if what == "gone"], pids)
        self.assertEqual(self.event(events.SessionEnded).status, 70)
        self.reactor.pass_seconds(1000)
        self.assertEqual(len(self.finished), 1)

    def test_who_does_not_leave(self) -> None:
        """Whoever has not left at the deadline is killed."""
        self.break_core()
        self.end(1)
        self.reactor.pass_seconds(21)
        self.assertEqual(self.process(2).signals, [])
        self.reactor.pass_seconds(2)
        self.assertEqual(self.process(2).signals, [signal.SIGKILL])
        self.assertEqual([status for status, _ in self.finished], [70])

    def test_who_survives_that(self) -> None:
        """The monitor ends though a process does not."""
        self.process(2).survives_kill = True
        self.break_core()
        self.end(1)
        self.reactor.pass_seconds(100)
        self.assertEqual([status for status, _ in self.finished], [70])

    def test_asked_meanwhile(self) -> None:
        """Nobody who has asked, or asks now, waits for ever; who asks for the end at once gets it."""
        restart = self.engine.ask_restart("clean", "the test")
        self.break_core()
        later = self.engine.ask_restart("clean", "the test")
        end = self.engine.ask_end("enough", graceful=True, status=0)
        for answer in (restart, later, end):
            text = self.failureResultOf(answer, NotDone).getErrorMessage()
            self.assertEqual(text, "the monitor has a fault of its own: the session ends with status 70")
        self.assertEqual(self.process(1).signals, [])
        at_once = self.engine.ask_end("now", graceful=False, status=0)
        self.failureResultOf(at_once, NotDone)
        self.reactor.turn()
        self.assertEqual(self.process(1).signals, [signal.SIGKILL])
        self.assertEqual([status for status, _ in self.finished], [70])

    def test_who_asked_at_that_moment(self) -> None:
        """The one whose wish met the fault is answered as well."""

        def broken(*arguments: Any) -> None:
            raise KeyError("a bug")

        self.patch(engine_module, "step", broken)
        answer = self.engine.ask_end("enough", graceful=True, status=0)
        self.failureResultOf(answer, NotDone)
        self.flushLoggedErrors(KeyError)

    def test_nothing_is_started_any_more(self) -> None:
        """A start that was ordered before the fault does not happen after it."""
        self.process(2).end(by_signal=signal.SIGKILL)
        self.assertEqual(self.engine.state.last_worker, 3)
        self.break_core()
        self.assertEqual(sorted(self.spawner.processes), [1, 2])

    def test_state_stays_as_it_was(self) -> None:
        """What is shown is the last state that could be trusted."""
        self.break_core()
        self.engine.happened(inputs.Ready(worker=2))
        self.assertEqual(self.engine.state.phase, Phase.RUNNING)
        self.assertEqual(self.life(2), Life.LOADED)


class NobodyThereTests(EngineTestCase):
    """The core has a fault before any process is there."""

    def test_ends_at_once(self) -> None:
        """The session is over at once, with 70."""

        def broken(*arguments: Any) -> None:
            raise KeyError("a bug")

        self.patch(engine_module, "step", broken)
        self.begin()
        self.assertEqual(self.finished, [(70, "the monitor has a fault of its own")])
        self.flushLoggedErrors(KeyError)
