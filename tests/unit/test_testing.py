"""The public fakes: a session in memory behaves as a real one does, as far as it goes."""

from __future__ import annotations

from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import Site

from serverworker import (
    ExitKind,
    ExitReason,
    Monitor,
    ServerWorker,
    SessionAgent,
    UnhandledMessage,
    WrongProcess,
)
from serverworker.testing import FakeReactor, FakeSession, ShellResult
from serverworker.values import events
from serverworker.values.errors import BadCommand, ErrorRecord
from serverworker.values.settings import DrainSettings, PollingSettings, Settings, WorkersSettings
from tests.unit.accept_case import open_descriptors

ENDS = ExitReason(ExitKind.SESSION_END, text="enough")


class Wiki(SessionAgent):
    """An agent as an application would write it."""

    notes: list[Any] = []

    async def initialize_monitor(self, monitor: Monitor) -> str:
        monitor.on("backup", self.backup)
        monitor.add_console_command("pull", ["main|test"], lambda branch: f"pulled {branch}")
        return "the wiki's key"

    async def backup(self, args: Any) -> str:
        result = await self.monitor.exec(["tar", args["mode"]])
        if result.status != 0:
            raise RuntimeError(result.stderr)
        return result.stdout

    async def initialize_server_worker(self, worker: ServerWorker) -> None:
        worker.listen("server", Site(Resource()))
        worker.on("forget", lambda page: f"{self.worker.id} forgot {page}")
        worker.add_exit_handler(lambda reason: self.notes.append((worker.id, reason)))


class SessionTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.patch(Wiki, "notes", [])

    def session(self, **options: Any) -> FakeSession:
        session = FakeSession(**options)
        self.addCleanup(session.close)
        return session

    def wiki(self, **options: Any) -> FakeSession:
        return self.session(agent=Wiki, **options).start()


class AgentTests(SessionTestCase):
    """An agent in both of its processes."""

    def test_both_ways(self) -> None:
        """A worker's emit comes to the monitor's handlers, and the monitor's to the worker's."""
        session = self.wiki()
        session.shell = lambda command: ShellResult(status=0, stdout="full.zip", stderr="", seconds=1)
        self.assertEqual(session.wait(session.worker.emit("backup", {"mode": "full"})), ["full.zip"])
        self.assertEqual(session.shell_commands, [["tar", "full"]])
        self.assertEqual(session.told[-1], events.CommandFinished(command="tar full", status=0))
        session.wait(session.monitor.exec("true"))
        self.assertEqual(session.told[-1], events.CommandFinished(command="true", status=0))
        self.assertEqual(session.wait(session.monitor.emit("forget", "Home")), {1: ["1 forgot Home"]})
        self.assertRaises(UnhandledMessage, session.wait, session.worker.emit("bakcup"))

    def test_remote_error(self) -> None:
        """What fails over there is the remote error."""
        session = self.wiki()
        session.shell = lambda command: ShellResult(status=1, stdout="", stderr="disk full", seconds=1)
        failure = session.worker.emit("backup", {"mode": "full"})
        session.reactor.turn()
        self.assertEqual(self.failureResultOf(failure).getErrorMessage(), "RuntimeError: disk full")

    def test_listen(self) -> None:
        """What it listens with can be taken and asked; ports are those of the settings."""
        session = self.wiki()
        self.assertIsInstance(session.factories["server"], Site)
        self.assertEqual(session.worker.ports, {"server": "tcp:8080"})
        self.assertRaises(ValueError, session.worker.listen, "server", Site(Resource()))
        self.assertRaises(ValueError, session.worker.listen, "socket", Site(Resource()))

    def test_key(self) -> None:
        """The agent's own key authorises."""
        self.assertTrue(self.wiki().worker.authorizes("the wiki's key"))

    def test_console(self) -> None:
        """The agent's console commands, and the console's own, can be typed."""
        session = self.wiki()
        self.assertEqual(session.wait(session.type("pull main")), "pulled main")
        self.assertIn("1 of 1 serving", session.wait(session.type("status")))
        self.assertEqual(session.wait(session.type("restart clean")), "generation 2 serves")
        self.assertRaises(BadCommand, session.type, "pull nothing")

    def test_lifecycle(self) -> None:
        """Notifications are among the events."""
        session = self.wiki()
        session.worker.lifecycle_notification("building the index")
        session.reactor.turn()
        self.assertEqual(session.told[-1], events.Lifecycle(worker=1, text="building the index"))

    def test_two_agents_at_a_time(self) -> None:
        """Monitor and worker have an agent each, as in two processes."""
        session = self.wiki()
        agents: list[Any] = []

        class Asking(Wiki):
            def __init__(self) -> None:
                agents.append(self)

        session = self.session(agent=Asking).start()
        self.assertEqual(len(agents), 2)
        self.assertRaises(WrongProcess, lambda: agents[0].worker)
        self.assertIs(agents[1].worker, session.worker)


class EndTests(SessionTestCase):
    """How a worker ends, and the session."""

    def test_leave(self) -> None:
        """Exit handlers are given the reason; a worker that leaves unasked is followed."""
        session = self.wiki()
        crash = ExitReason(ExitKind.CRASH, ErrorRecord(type="builtins.OSError", message="no data base"))
        session.wait(session.leave(crash))
        self.assertEqual(Wiki.notes, [(1, crash)])
        self.assertEqual(session.worker.id, 2)
        (died,) = [event for event in session.told if isinstance(event, events.WorkerDied)]
        self.assertEqual(died.cause.text, "OSError: no data base")

    def test_restart(self) -> None:
        """On a restart the old worker's exit handlers are told so."""
        session = self.wiki()
        session.wait(session.monitor.restart())
        ((worker, reason),) = Wiki.notes
        self.assertEqual((worker, reason.kind), (1, ExitKind.RESTART))
        self.assertEqual(session.worker.generation, 2)

    def test_exit_handler_that_fails(self) -> None:
        """One that fails is told, and the exit goes on."""

        def work(worker: ServerWorker) -> None:
            def say_goodbye(reason: ExitReason) -> None:
                raise OSError("no network")

            worker.add_exit_handler(say_goodbye)

        session = self.session(application=work).start()
        session.wait(session.leave(ENDS))
        notes = [event.text for event in session.told if isinstance(event, events.Lifecycle)]
        self.assertIn("say_goodbye failed: no network; the exit goes on", notes[0])

    def test_kill_9(self) -> None:
        """A worker that is killed is followed, and its exit handlers know nothing of it."""
        session = self.wiki()
        session.process.end(by_signal=9)
        session.reactor.turn()
        self.assertEqual((session.worker.id, Wiki.notes), (2, []))

    def test_ended_process(self) -> None:
        """A process ends once, and takes no signal afterwards, as a real one does not."""
        session = self.wiki()
        process = session.process
        process.end(3)
        process.end(4)
        self.assertRaises(ProcessExitedAlready, process.signalProcess, 9)
        session.reactor.turn()
        (died,) = [event for event in session.told if isinstance(event, events.WorkerDied)]
        self.assertEqual(died.cause.exit_status, 3)

    def test_kill_session(self) -> None:
        """A worker that wants the session to end gets it, with its status."""
        session = self.wiki()
        session.worker.kill_session("no licence", error_code=3)
        session.reactor.pass_seconds(1)
        self.assertEqual(session.status, 3)
        ((_, reason),) = Wiki.notes
        self.assertEqual((reason.kind, reason.text), (ExitKind.SESSION_END, "worker 1: no licence"))

    def test_drain_hook(self) -> None:
        """What is to be done when a worker drains is done when it leaves, and not when it crashes."""
        drained: list[int] = []
        session = self.session(
            application=lambda worker: worker.on_drain(lambda: drained.append(worker.id))
        ).start()
        session.wait(session.leave(ExitReason(ExitKind.CRASH)))
        session.wait(session.monitor.restart())
        self.assertEqual(drained, [2])

    def test_unready(self) -> None:
        """It is called while the worker still serves, where the settings give load balancers time."""
        drained: list[int] = []
        session = self.session(
            application=lambda worker: worker.on_drain(lambda: drained.append(worker.id)),
            settings=Settings(workers=WorkersSettings(standby=0), drain=DrainSettings(unready_seconds=5)),
        ).start()
        session.monitor.kill_session("enough")
        session.reactor.pass_seconds(1)
        self.assertEqual((drained, session.worker.id), ([1], 1))
        session.reactor.pass_seconds(10)
        self.assertEqual((drained, session.status), ([1], 0))

    def test_statuses(self) -> None:
        """A crash ends with 1, and what was asked for with 0."""
        session = self.wiki()
        session.wait(session.leave(ExitReason(ExitKind.CRASH)))
        (died,) = [event for event in session.told if isinstance(event, events.WorkerDied)]
        self.assertEqual(died.cause.exit_status, 1)
        session.wait(session.monitor.restart())
        (exited,) = [event for event in session.told if isinstance(event, events.WorkerExited)]
        self.assertIn("exit status 0", exited.text)

    def test_close(self) -> None:
        """Closed, nothing is left: no descriptor, no current worker; to close it twice is no error."""
        before = open_descriptors()
        session = FakeSession(agent=Wiki, settings=Settings(workers=WorkersSettings(count=3, standby=2)))
        session.start()
        session.close()
        session.close()
        self.assertEqual(open_descriptors(), before)
        self.assertRaises(WrongProcess, ServerWorker.current)

    def test_close_without_start(self) -> None:
        """So is one that was never started."""
        before = open_descriptors()
        FakeSession(agent=Wiki).close()
        self.assertEqual(open_descriptors(), before)


class ApplicationTests(SessionTestCase):
    """Applications of each kind."""

    def test_resource(self) -> None:
        """A Resource is served."""
        page = Resource()
        session = self.session(application=page).start()
        site: Any = session.factories["server"]
        self.assertIs(site.resource, page)

    def test_service(self) -> None:
        """A service is started, and stopped; it finds its own worker as the current one."""
        done: list[Any] = []

        class Listening(Service):
            def startService(self) -> None:
                done.append(ServerWorker.current().id)

            def stopService(self) -> None:
                done.append("stopped")

        session = self.session(
            application=Listening, settings=Settings(workers=WorkersSettings(count=2, standby=0))
        ).start()
        self.assertEqual(done, [1, 2])
        session.monitor.kill_session("enough")
        session.reactor.pass_seconds(1)
        self.assertEqual(done[2:], ["stopped", "stopped"])

    def test_standby(self) -> None:
        """Who stands by is loaded; its `work` runs when it is promoted."""
        ran: list[int] = []
        session = self.session(
            application=lambda worker: ran.append(worker.id),
            settings=Settings(workers=WorkersSettings(standby=1)),
        ).start()
        self.assertEqual(ran, [1])
        session.process.end(by_signal=9)
        session.reactor.turn()
        self.assertEqual(ran, [1, 2])

    def test_cannot_be_loaded(self) -> None:
        """Who asks for a worker that is not there is told why."""
        session = self.session(application=42).start()
        error = self.assertRaises(AssertionError, lambda: session.worker)
        self.assertIn("is 42, of type int", str(error))
        self.assertEqual(session.status, 78)

    def test_not_started(self) -> None:
        """Before the start there is none either."""
        session = self.session(agent=Wiki)
        error = self.assertRaises(AssertionError, lambda: session.worker)
        self.assertEqual(str(error), "no worker serves: start the session first")

    def test_work_that_fails(self) -> None:
        """What `work` raises is the worker's crash."""

        def work(worker: ServerWorker) -> None:
            raise OSError("no data base")

        session = self.session(application=work).start()
        error = self.assertRaises(AssertionError, lambda: session.worker)
        self.assertIn("OSError: no data base", str(error))

    def test_settings(self) -> None:
        """A worker has the session's settings: its emits their deadline."""
        session = self.session(
            application=lambda worker: None, settings=Settings(polling=PollingSettings(interval_seconds=3))
        ).start()
        self.assertEqual(session.monitor.settings.polling.interval_seconds, 3)
        session.monitor.on("backup", lambda args: Deferred())
        answer = session.worker.emit("backup")
        session.reactor.pass_seconds(59)
        self.assertNoResult(answer)
        session.reactor.pass_seconds(2)
        self.failureResultOf(answer)


class WaitTests(SessionTestCase):
    """Waiting without time."""

    def test_nothing_comes(self) -> None:
        """An answer that does not come is an error of the test, not a hang."""
        error = self.assertRaises(AssertionError, self.session().wait, Deferred())
        self.assertIn("let time pass", str(error))

    def test_never_at_rest(self) -> None:
        """Nor is what goes on for ever without time."""
        reactor = FakeReactor()

        class Restless:
            def carry(self) -> bool:
                return True

        reactor._connections.append(Restless())  # type: ignore[arg-type]  # as far as it goes
        self.assertIn("never comes to rest", str(self.assertRaises(AssertionError, reactor.turn)))

    def test_each_at_its_time(self) -> None:
        """What is due meanwhile happens at its own time, in order, what it leads to included."""
        reactor = FakeReactor()
        notes: list[float] = []

        def again() -> None:
            notes.append(reactor.seconds())
            if len(notes) < 3:
                reactor.callLater(2, again)

        reactor.callLater(1, again)
        reactor.pass_seconds(10)
        self.assertEqual((notes, reactor.seconds()), ([1, 3, 5], 10))
