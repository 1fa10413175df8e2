"""What a session in the monitor watches over: workers that hang or are worn, what they leave, and its own end."""

from __future__ import annotations

from typing import Any
from unittest import mock

from twisted.internet.defer import Deferred, succeed
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from serverworker.monitor import left_behind, shell_commands
from serverworker.monitor import session as session_module
from serverworker.monitor import watches as watches_module
from serverworker.monitor.session import Session
from serverworker.processes.guardian import MARK_VARIABLE
from serverworker.processes.shell import ShellResult
from serverworker.testing import FakeSession
from serverworker.values import events
from serverworker.values.causes import CauseKind
from serverworker.values.errors import ConfigurationError, NotDone, ValueTooLarge
from serverworker.values.settings import (
    DrainSettings,
    IpcSettings,
    LimitsSettings,
    Settings,
    WatchdogSettings,
    WorkersSettings,
)
from serverworker.values.state import Life
from tests.unit.accept_case import open_descriptors

ALONE = WorkersSettings(standby=0)


class RecordingGuardian:
    """Notes what it is told; there is one for a session."""

    made: list[RecordingGuardian]

    def __init__(self, reactor: Any) -> None:
        self.told: list[Any] = []
        self.environment = {MARK_VARIABLE: "a mark that nobody has"}
        self.made.append(self)

    def start(self, seconds: float) -> None:
        self.told.append(("start", seconds))

    def watch(self, pid: int) -> None:
        self.told.append(("watch", pid))

    def forget(self, pid: int) -> None:
        self.told.append(("forget", pid))

    def set_deadline(self, seconds: float) -> None:
        self.told.append(("deadline", seconds))

    def started_at(self, pid: int) -> int | None:
        return None

    def stop(self) -> Deferred[None]:
        self.told.append("stop")
        return succeed(None)


class WatchTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        RecordingGuardian.made = []
        self.patch(session_module, "Guardian", RecordingGuardian)
        self.left: list[Any] = []
        self.patch(left_behind, "kill_left", self.kill_left)

    def kill_left(self, *arguments: Any) -> list[Any]:
        return self.left

    def start(self, **settings: Any) -> FakeSession:
        self.session = FakeSession(
            settings=Settings(workers=ALONE, **settings), application=lambda worker: None
        )
        self.addCleanup(self.session.close)
        return self.session.start()

    @property
    def guarded(self) -> list[Any]:
        """What the guardian was told so far."""
        (guardian,) = RecordingGuardian.made
        return guardian.told

    def told(self, kind: type[events.Event]) -> list[Any]:
        return [event for event in self.session.told if isinstance(event, kind)]


class WorkerTests(WatchTestCase):
    """Workers that are ended though nobody asked."""

    def test_hang(self) -> None:
        """A worker that answers no ping is killed within the deadline and a second or two; others go on."""
        session = self.start()
        session.process.answers_pings = False
        session.reactor.pass_seconds(9)
        self.assertEqual(session.worker.id, 1)
        session.reactor.pass_seconds(5)
        self.assertEqual(session.worker.id, 2)
        (died,) = self.told(events.WorkerDied)
        self.assertEqual(died.cause.kind, CauseKind.HANG)
        self.assertIn("its reactor hangs: no answer to the ping for 1", died.cause.text)

    def test_stopped(self) -> None:
        """Of one that is stopped the report says so."""
        self.patch(watches_module, "is_stopped", lambda pid: True)
        session = self.start()
        session.process.answers_pings = False
        session.reactor.pass_seconds(14)
        (died,) = self.told(events.WorkerDied)
        self.assertIn("it is stopped (SIGSTOP): no answer", died.cause.text)

    def test_worn(self) -> None:
        """One that has reached a limit is replaced the gentle way: nobody dies."""
        session = self.start(limits=LimitsSettings(requests=10))
        session.reactor.pass_seconds(6)
        self.assertEqual(session.worker.id, 1)
        for _ in range(10):
            session.process.board.end(session.process.board.begin(b"GET", b"/"))
        session.reactor.pass_seconds(6)
        self.assertEqual(session.worker.id, 2)
        self.assertEqual(self.told(events.WorkerDied), [])
        self.assertEqual([event.worker for event in self.told(events.WorkerExited)], [1])

    def test_large_values(self) -> None:
        """A value over the session's own cap is refused, and the link lives on."""
        session = self.start(ipc=IpcSettings(maximum_bytes=1024))
        session.process.handlers.on("keep", len)
        (error,) = session.wait(session.monitor.emit("keep", "x" * 2000)).values()
        self.assertIsInstance(error, ValueTooLarge)
        self.assertEqual(session.wait(session.monitor.emit("keep", "x" * 1000)), {1: [1000]})


class GuardianTests(WatchTestCase):
    """What the guardian is told."""

    def test_workers(self) -> None:
        """The drain's deadline first; then of each process, when it is started and when it and its own are gone."""
        session = self.start(drain=DrainSettings(timeout_seconds=11))
        pid = session.process.pid
        self.assertEqual(self.guarded, [("start", 11), ("watch", pid)])
        self.assertIn(MARK_VARIABLE, session.process.recipe.environment)
        session.process.end(by_signal=9)
        session.reactor.turn()
        self.assertIn(("forget", pid), self.guarded)

    def test_what_a_worker_left(self) -> None:
        """What a dead worker has left running is killed, and told by pid and name."""

        class Entry:
            pid = 4711
            command = "sleep"

        session = self.start()
        pid = session.process.pid
        self.left = [Entry()]
        with capturedLogs() as logged:
            session.process.end(by_signal=9)
            session.reactor.turn()
        texts = [formatEvent(event) for event in logged]
        self.assertIn(f"worker process {pid} had left 4711 (sleep): killed", texts)

    def test_nothing_left(self) -> None:
        """Where it has left nothing, nothing is said."""
        session = self.start()
        with capturedLogs() as logged:
            session.process.end(by_signal=9)
            session.reactor.turn()
        self.assertEqual([formatEvent(event) for event in logged if "left" in str(formatEvent(event))], [])

    def test_no_thread(self) -> None:
        """Where no thread can be started, the death is told all the same, and what was left is looked for later."""
        session = self.start()
        pid = session.process.pid
        pool = session.reactor.getThreadPool()
        with mock.patch.object(type(pool), "callInThreadWithCallback", side_effect=RuntimeError("no thread")):
            session.process.end(by_signal=9)
            session.reactor.turn()
        self.assertEqual(len(self.told(events.WorkerDied)), 1)
        self.assertNotIn(("forget", pid), self.guarded)
        session.reactor.pass_seconds(1)
        self.assertIn(("forget", pid), self.guarded)

    def test_commands(self) -> None:
        """A command of the agent's is watched as long as it runs."""
        running: Deferred[ShellResult] = Deferred()

        def run(*arguments: Any, started: Any, **options: Any) -> Deferred[ShellResult]:
            started(2**22 + 99)
            return running

        self.patch(shell_commands, "run", run)
        session = self.start()
        result = Session.exec(session._session, "true", 5.0)
        self.assertEqual(self.guarded[-1], ("watch", 2**22 + 99))
        running.callback(ShellResult(status=0, stdout="", stderr="", seconds=0.1))
        self.successResultOf(result)
        self.assertEqual(self.guarded[-1], ("forget", 2**22 + 99))

    def test_end(self) -> None:
        """At the end what is still watched has no time any more, and the guardian's own end is waited for."""
        session = self.start()
        session.monitor.kill_session("enough")
        session.reactor.pass_seconds(5)
        stopped = self.guarded.index("stop")
        self.assertEqual(self.guarded[stopped - 1], ("deadline", 0))


class ConfigurationTests(WatchTestCase):
    """Options and file are read anew for a restart (how, is told in `test_configuration`)."""

    def start_with(self, *read: Settings | Exception) -> FakeSession:
        """Start a session, and have the next restarts read this."""
        session = self.start()
        given = list(read)

        def next_one() -> Settings:
            found = given.pop(0) if len(given) > 1 else given[0]
            if isinstance(found, Exception):
                raise found
            return found

        self.patch(session._session.configuration, "_read", next_one)
        self.patch(session._session.configuration, "_last_read", session.monitor.settings)
        return session

    def test_holds_when_it_serves(self) -> None:
        """When the new generation serves, all of it holds: the number of workers, the watch, the guardian's deadline."""
        session = self.start_with(
            Settings(
                workers=WorkersSettings(count=2, standby=0),
                watchdog=WatchdogSettings(timeout_seconds=2),
                drain=DrainSettings(timeout_seconds=7),
                limits=LimitsSettings(requests=10),
            )
        )
        session.wait(session.monitor.restart())
        session.reactor.turn()
        self.assertEqual(len(session.monitor.state.in_life(Life.SERVING)), 2)
        self.assertIn(("deadline", 7), self.guarded)
        session.reactor.pass_seconds(2)
        self.assertEqual(
            len(session.reactor.getDelayedCalls()), 2
        )  # the pings and the limits, of the new ones alone
        session.process.answers_pings = False
        session.reactor.pass_seconds(5)
        (died,) = self.told(events.WorkerDied)
        self.assertEqual(died.cause.kind, CauseKind.HANG)
        for _ in range(10):
            session.process.board.end(session.process.board.begin(b"GET", b"/"))
        session.reactor.pass_seconds(6)
        self.assertEqual(len(self.told(events.WorkerExited)), 2)  # the former generation's, and the worn one

    def test_taken_back_when_it_fails(self) -> None:
        """When it fails nothing of it holds, and the next restart tries it again."""
        session = self.start_with(Settings(workers=WorkersSettings(count=2, standby=0)))
        session.application = 42
        answer = session.monitor.restart()
        session.reactor.turn()
        self.failureResultOf(answer, NotDone)
        self.assertEqual(session.monitor.settings.workers.count, 1)
        self.assertEqual(session.monitor.state.policy.count, 1)
        session.application = lambda worker: None
        session.wait(session.monitor.restart())
        session.reactor.turn()
        self.assertEqual(len(session.monitor.state.in_life(Life.SERVING)), 2)

    def test_cannot_be_read(self) -> None:
        """What cannot be read restarts nothing, and the reason is told."""
        session = self.start_with(ConfigurationError("serverworker.toml: line 3: no such key"))
        failure = self.failureResultOf(session.monitor.restart(), NotDone)
        self.assertIn("nothing is restarted", failure.getErrorMessage())
        self.assertIn("line 3", failure.getErrorMessage())
        self.assertEqual(len(session.spawner.processes), 1)


class EndTests(WatchTestCase):
    """How a session ends."""

    def hanging_handler(self, *, graceful: bool) -> FakeSession:
        session = self.start(drain=DrainSettings(timeout_seconds=20))
        session.monitor.add_exit_handler(lambda reason: Deferred())
        session.monitor.kill_session("enough", graceful=graceful)
        return session

    def test_exit_handlers_have_the_drain(self) -> None:
        """The monitor's exit handlers have as long as the drain, and their last step's five seconds."""
        session = self.hanging_handler(graceful=True)
        session.reactor.pass_seconds(4)
        self.assertIsNone(session.status)
        session.reactor.pass_seconds(20)
        self.assertEqual(session.status, 0)
        self.flushLoggedErrors()

    def test_exit_handlers_in_a_hurry(self) -> None:
        """With force they have five seconds."""
        session = self.hanging_handler(graceful=False)
        session.reactor.pass_seconds(4.9)
        self.assertIsNone(session.status)
        session.reactor.pass_seconds(0.2)
        self.assertEqual(session.status, 0)
        (fault,) = self.told(events.Fault)
        self.assertIn("has not finished within 5 s", fault.error.message)
        self.flushLoggedErrors()

    def test_nothing_is_left(self) -> None:
        """Afterwards nothing ticks, no descriptor is open, and the process may have another session."""
        before = open_descriptors()
        session = self.start(limits=LimitsSettings(requests=10))
        session.monitor.kill_session("enough")
        session.reactor.pass_seconds(5)
        self.assertEqual(session.reactor.getDelayedCalls(), [])
        self.assertEqual(open_descriptors(), before)
        self.assertIsNone(session._session._role.role)

    def test_give_up(self) -> None:
        """A session that cannot begin ends with its reason in the log, and its status."""
        session = FakeSession()
        self.addCleanup(session.close)
        with capturedLogs() as logged:
            session._session.give_up(69, "another session runs here, pid 4711")
            session.reactor.turn()
        (event, *_) = logged
        self.assertEqual(
            (event["log_level"].name, formatEvent(event)), ("critical", "another session runs here, pid 4711")
        )
        self.assertEqual(session.status, 69)

    def test_given_up_and_asked_to_end(self) -> None:
        """Who asks for the end of a session that was given up changes nothing of its status."""
        session = FakeSession()
        self.addCleanup(session.close)
        session._session.give_up(78, "no such agent")
        session.monitor.kill_session("SIGTERM")
        session.reactor.pass_seconds(10)
        self.assertEqual(session.status, 78)
