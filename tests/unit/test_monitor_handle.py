"""`Monitor`: what an agent, the console and every other surface have of the session."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.trial.unittest import SynchronousTestCase

from serverworker.testing import FakeSession
from serverworker.values import events
from serverworker.values.errors import (
    ConfigurationError,
    ErrorRecord,
    NotDone,
    NotJSON,
    PeerLost,
    RemoteError,
    UnhandledMessage,
)
from serverworker.values.reasons import ExitKind, ExitReason
from serverworker.values.settings import Settings, WorkersSettings
from serverworker.values.state import Life, Phase

CRASH = ExitReason(ExitKind.CRASH, ErrorRecord(type="builtins.OSError", message="no data base"))


class MonitorTestCase(SynchronousTestCase):
    workers = WorkersSettings(standby=0)

    def setUp(self) -> None:
        self.session = FakeSession(settings=Settings(workers=self.workers), application=lambda worker: None)
        self.addCleanup(self.session.close)
        self.monitor = self.session.monitor
        self.session.start()

    def told(self, kind: type[events.Event]) -> list[Any]:
        return [event for event in self.session.told if isinstance(event, kind)]

    def fault(self) -> events.Fault:
        (fault,) = self.told(events.Fault)
        assert isinstance(fault, events.Fault)
        return fault


class EmitTests(MonitorTestCase):
    """Emits to the workers."""

    workers = WorkersSettings(count=2, standby=1)

    def on_each(self, handler: Any) -> None:
        """Register it in every worker that is there."""
        for process in self.session.spawner.processes.values():
            process.handlers.on("forget", handler(process))

    def test_to_all(self) -> None:
        """To all that serve, answered by id; a worker that only stands by is not among them."""
        self.on_each(lambda process: lambda args: [process.id, args])
        self.assertEqual(len(self.session.spawner.processes), 3)
        self.assertEqual(
            self.session.wait(self.monitor.emit("forget", {"page": 1})),
            {1: [[1, {"page": 1}]], 2: [[2, {"page": 1}]]},
        )

    def test_to_all_with_failures(self) -> None:
        """What went wrong in one stands in its place: the answer as a whole never fails."""

        def handler(process: Any) -> Any:
            def handle(args: Any) -> str:
                if process.id == 2:
                    raise ValueError("no such page")
                return "forgotten"

            return handle

        self.on_each(handler)
        answer = self.session.wait(self.monitor.emit("forget"))
        self.assertEqual(answer[1], ["forgotten"])
        self.assertIsInstance(answer[2], RemoteError)
        self.assertEqual(answer[2].record.message, "no such page")

    def test_to_all_of_nothing(self) -> None:
        """A name that nobody handles, and a value that is no JSON, are each worker's error."""
        self.assertEqual(
            [type(each) for each in self.session.wait(self.monitor.emit("nothing")).values()],
            [UnhandledMessage, UnhandledMessage],
        )
        answer = self.session.wait(self.monitor.emit("forget", object()))
        self.assertEqual([type(each) for each in answer.values()], [NotJSON, NotJSON])

    def test_to_one(self) -> None:
        """To one by its id, whatever it is at: the list of its results, or the failure."""
        self.on_each(lambda process: lambda args: process.id)
        for worker in (1, 2, 3):
            self.assertEqual(self.session.wait(self.monitor.emit("forget", worker=worker)), [worker])
        self.assertRaises(UnhandledMessage, self.session.wait, self.monitor.emit("nothing", worker=1))

    def test_to_nobody(self) -> None:
        """An id that is no worker's fails at once, and names those that are."""
        failure = self.failureResultOf(self.monitor.emit("forget", worker=9), PeerLost)
        self.assertEqual(failure.getErrorMessage(), "there is no worker 9; allowed: 1, 2, 3")

    def test_to_one_that_dies(self) -> None:
        """A worker that dies before it answers is its emit's failure, and the others' answers come."""
        never: Deferred[Any] = Deferred()
        self.on_each(lambda process: lambda args: never if process.id == 2 else "here")
        answer = self.monitor.emit("forget")
        self.session.reactor.turn()
        self.session.spawner.processes[2].end(by_signal=9)
        answer = self.session.wait(answer)
        self.assertEqual(answer[1], ["here"])
        self.assertIsInstance(answer[2], PeerLost)

    def test_when_nobody_serves(self) -> None:
        """Without a worker that serves the answer is empty."""
        self.monitor.kill_session("enough", graceful=False)
        self.session.reactor.turn()
        self.assertEqual(self.session.wait(self.monitor.emit("forget")), {})

    def test_deadline(self) -> None:
        """The deadline is the session's, or the emit's own."""
        self.on_each(lambda process: lambda args: Deferred())
        own, usual = self.monitor.emit("forget", timeout=2, worker=1), self.monitor.emit("forget", worker=1)
        self.session.reactor.pass_seconds(3)
        self.assertIn("within 2 s", self.failureResultOf(own).getErrorMessage())
        self.assertNoResult(usual)
        self.session.reactor.pass_seconds(58)
        self.assertIn("within 60 s", self.failureResultOf(usual).getErrorMessage())


class HandlerTests(MonitorTestCase):
    """Handlers of the workers' emits."""

    def test_come_and_go(self) -> None:
        """`on`, `off` and `clear_message_listeners` do in the monitor what they do in a worker (row W7)."""

        def one(args: Any) -> int:
            return 1

        def two(args: Any) -> int:
            return 2

        for handler in (one, two, two):
            self.monitor.on("count", handler)
        self.assertEqual(self.session.wait(self.session.worker.emit("count")), [1, 2, 2])
        self.monitor.off("count", two)
        self.assertEqual(self.session.wait(self.session.worker.emit("count")), [1, 2])
        self.monitor.clear_message_listeners("count")
        self.assertRaises(UnhandledMessage, self.session.wait, self.session.worker.emit("count"))


class HookTests(MonitorTestCase):
    """Who is told of what, and what becomes of a hook that fails (row M5)."""

    def setUp(self) -> None:
        super().setUp()
        self.notes: list[Any] = []

    def test_crash_detected(self) -> None:
        """Every death that nobody asked for comes to the hook, and no other end does."""
        self.monitor.on_crash_detected(self.notes.append)
        self.session.wait(self.session.leave(CRASH))
        (died,) = self.notes
        self.assertEqual((died.worker, died.cause.text), (1, "OSError: no data base"))
        self.session.reactor.pass_seconds(10)
        self.monitor.kill_session("enough")
        self.session.reactor.pass_seconds(10)
        self.assertEqual(len(self.notes), 1)

    def test_server_running(self) -> None:
        """Every worker that begins to serve comes to the hook; only the very first is the first."""
        session = FakeSession(application=lambda worker: None)
        self.addCleanup(session.close)
        session.monitor.on_server_running(self.notes.append)
        session.start()
        session.process.end(by_signal=9)
        session.reactor.turn()
        self.assertEqual([(each.worker, each.is_first_time) for each in self.notes], [(1, True), (2, False)])

    def test_subscribe(self) -> None:
        """All events, or those of some kinds, with number and time; until it is ended."""
        kinds: list[str] = []
        self.monitor.subscribe(lambda told: kinds.append(told.name))
        end = self.monitor.subscribe(self.notes.append, events.Lifecycle, events.PollingChanged)
        self.session.worker.lifecycle_notification("one")
        self.session.reactor.turn()
        self.monitor.set_polling(3)
        end()
        self.monitor.set_polling(4)
        self.assertEqual(kinds, ["Lifecycle", "PollingChanged", "PollingChanged"])
        self.assertEqual([told.name for told in self.notes], ["Lifecycle", "PollingChanged"])
        self.assertEqual(self.notes[1].sequence, self.notes[0].sequence + 1)

    def test_one_that_fails(self) -> None:
        """A hook that fails, at once or later, is told by its own name, and the others are called."""

        def page_someone(died: events.WorkerDied) -> None:
            raise OSError("no network")

        async def page_later(died: events.WorkerDied) -> None:
            raise OSError("no network either")

        def leave(died: events.WorkerDied) -> None:
            raise SystemExit(3)

        for hook in (page_someone, page_later, leave, self.notes.append):
            self.monitor.on_crash_detected(hook)
        self.session.process.end(by_signal=9)
        self.session.reactor.turn()
        self.assertEqual(len(self.notes), 1)
        faults = self.told(events.Fault)
        names = [fault.where.rpartition(".")[2] for fault in faults]
        self.assertEqual(names, ["page_someone", "page_later", "leave"])
        self.assertEqual({fault.next_step for fault in faults}, {"the session goes on"})
        self.assertEqual(self.session.worker.id, 2)

    def test_one_that_always_fails(self) -> None:
        """A hook for everything that always fails is not told of its own failures for ever."""
        end = self.monitor.subscribe(lambda told: fail(OSError("no network")))
        self.monitor.set_polling(3)
        end()
        self.assertEqual(len(self.told(events.Fault)), 1)
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)

    def test_one_that_hangs(self) -> None:
        """A hook that never ends holds nobody up."""
        never: Deferred[None] = Deferred()
        self.monitor.on_crash_detected(lambda died: never)
        self.session.process.end(by_signal=9)
        self.session.reactor.turn()
        self.assertEqual(self.session.worker.id, 2)


class ExitHandlerTests(MonitorTestCase):
    """The monitor's own exit handlers."""

    def test_reason(self) -> None:
        """They are told the reason when the end begins, while the workers are still there."""
        notes: list[Any] = []

        def handler(reason: ExitReason) -> None:
            notes.append((reason, len(self.monitor.state.workers)))

        self.monitor.add_exit_handler(handler)
        self.monitor.kill_session("the licence has run out", error_code=3)
        self.session.reactor.pass_seconds(10)
        self.assertEqual(notes, [(ExitReason(ExitKind.SESSION_END, text="the licence has run out"), 1)])
        self.assertEqual(self.session.status, 3)

    def test_waits(self) -> None:
        """The process ends when they have, within the deadline."""
        slow: Deferred[None] = Deferred()
        self.monitor.add_exit_handler(lambda reason: slow)
        self.monitor.kill_session("enough")
        self.session.reactor.pass_seconds(2)
        self.assertEqual(self.monitor.state.phase, Phase.ENDED)
        self.assertIsNone(self.session.status)
        slow.callback(None)
        self.session.reactor.turn()
        self.assertEqual(self.session.status, 0)

    def test_one_that_fails(self) -> None:
        """One that fails is told, and the exit goes on."""

        def say_goodbye(reason: ExitReason) -> None:
            raise OSError("no network")

        self.monitor.add_exit_handler(say_goodbye)
        self.monitor.kill_session("enough")
        self.session.reactor.pass_seconds(2)
        self.assertIn("say_goodbye", self.fault().where)
        self.assertEqual(self.fault().next_step, "the exit goes on")
        self.assertEqual(self.session.status, 0)


class DeedTests(MonitorTestCase):
    """What the session is asked to do."""

    def test_state(self) -> None:
        """State, settings and time are there to be read."""
        self.assertEqual(self.monitor.state.in_life(Life.SERVING)[0].id, 1)
        self.assertEqual(self.monitor.settings.workers.count, 1)
        self.assertEqual(self.monitor.seconds(), self.session.reactor.seconds())

    def test_restart(self) -> None:
        """A restart is clean or force; anything else is refused at once."""
        self.assertEqual(self.session.wait(self.monitor.restart()), "generation 2 serves")
        self.assertEqual(
            self.session.wait(self.monitor.restart("force", asked_by="me")), "generation 3 serves"
        )
        started = self.told(events.RestartStarted)
        self.assertEqual(
            [(each.mode, each.asked_by) for each in started], [("clean", "the agent"), ("force", "me")]
        )
        error = self.assertRaises(ValueError, self.monitor.restart, "soft")
        self.assertEqual(str(error), "a restart is clean or force, not 'soft'")

    def test_restart_that_fails(self) -> None:
        """One that is dropped says why."""
        self.session.application = 42
        answer = self.monitor.restart()
        self.session.reactor.turn()
        self.assertIn("is 42, of type int", self.failureResultOf(answer, NotDone).getErrorMessage())
        self.assertEqual(self.session.worker.id, 1)

    def test_kill_session_with_a_wrong_status(self) -> None:
        """A status that no process can end with is refused at once, and the session goes on."""
        self.assertRaises(ValueError, self.monitor.kill_session, "enough", error_code=256)
        self.assertEqual(self.monitor.state.phase, Phase.RUNNING)

    def test_exec(self) -> None:
        """A command's result comes to whoever ran it; its end is an event."""
        answer = self.session.wait(self.monitor.exec(["tar", "-x"]))
        self.assertEqual(answer.status, 0)
        (finished,) = self.told(events.CommandFinished)
        self.assertEqual((finished.command, finished.status), ("tar -x", 0))

    def test_set_polling(self) -> None:
        """A new interval goes to every worker at once, and to those that come later (row W9)."""
        self.monitor.set_polling(3)
        self.session.reactor.turn()
        self.assertEqual(self.session.process.orders[-1], ("SetPolling", {"seconds": 3.0}))
        self.assertEqual(self.monitor.settings.polling.interval_seconds, 3.0)
        (changed,) = self.told(events.PollingChanged)
        self.assertEqual(changed.seconds, 3.0)

    def test_set_polling_out_of_range(self) -> None:
        """A value that cannot be is refused, with what is allowed, and nothing changes."""
        wrong: Any
        for wrong in (0, -1, float("nan"), 1e9, "3", None, True):
            error = self.assertRaises(ConfigurationError, self.monitor.set_polling, wrong)
            self.assertIn("polling.interval_seconds: must be a number of seconds", str(error))
        self.assertEqual(self.monitor.settings.polling.interval_seconds, 10.0)
        self.assertEqual(self.told(events.PollingChanged), [])

    def test_set_workers(self) -> None:
        """More are started, and fewer drained, the youngest first."""
        self.monitor.set_workers(3)
        self.session.reactor.turn()
        self.assertEqual([each.id for each in self.monitor.state.in_life(Life.SERVING)], [1, 2, 3])
        self.monitor.set_workers(1)
        self.session.reactor.turn()
        self.assertEqual([each.id for each in self.monitor.state.workers], [1])
        self.assertEqual(self.told(events.WorkerDied), [])
        self.assertEqual(self.monitor.settings.workers.count, 1)

    def test_set_workers_out_of_range(self) -> None:
        """Nobody is not enough; what is no whole number is refused too."""
        wrong: Any
        for wrong in (0, -1, 1.5, "2", True, 10**6):
            error = self.assertRaises(ConfigurationError, self.monitor.set_workers, wrong)
            self.assertIn("workers.count: must be a whole number", str(error))
        self.assertEqual(len(self.monitor.state.workers), 1)
