"""A session in the monitor: its agent, its settings, and what generations are started with."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from serverworker import Monitor, ServerWorker, SessionAgent
from serverworker.monitor import shell_commands
from serverworker.monitor.session import Session
from serverworker.processes.role import ProcessRole
from serverworker.processes.shell import ShellResult
from serverworker.testing import FakeSession
from serverworker.values import events
from serverworker.values.errors import (
    AlreadyLaunched,
    ConfigurationError,
    PortUnavailable,
    ServerWorkerError,
)
from serverworker.values.ports import PortSettings
from serverworker.values.settings import AppSettings, Settings, WorkersSettings

RESULT = ShellResult(status=2, stdout="", stderr="", seconds=0.1)


class SessionTestCase(SynchronousTestCase):
    def make(self, agent: type[SessionAgent] | None = None, **options: Any) -> FakeSession:
        self.session = FakeSession(agent=agent, application=lambda worker: None, **options)
        self.addCleanup(self.session.close)
        return self.session

    def told(self, kind: type[events.Event]) -> list[Any]:
        return [event for event in self.session.told if isinstance(event, kind)]

    def joined(self) -> bool:
        """Whether the worker has been told its settings."""
        return bool(self.told(events.WorkerLoaded))


class RoleTests(SessionTestCase):
    """One session in a process (row M1)."""

    def test_second(self) -> None:
        """A second one in the same process is refused; after the end of the first it is not."""
        role = ProcessRole()
        role.take("monitor")
        nothing: Any = None

        def make() -> None:
            Session(
                reactor=nothing,
                settings=Settings(),
                ports=nothing,
                stream=nothing,
                environment={},
                key="",
                seed=1,
                over=nothing,
                role=role,
            )

        self.assertRaises(AlreadyLaunched, make)


class VersionTests(SessionTestCase):
    """What surfaces call the code that is deployed."""

    def versions(self) -> tuple[Any, ...]:
        state = self.session.monitor.state.workers[0].version
        return state, self.told(events.WorkerLoaded)[0].version, self.told(events.ServerRunning)[0].version

    def test_said_by_the_application(self) -> None:
        """The application says it when it is loaded: the state has it, and those who are told of workers."""

        class Versioned(SessionAgent):
            async def initialize_server_worker(self, worker: ServerWorker) -> None:
                worker.version = "2.4.1"

        settings = Settings(app=AppSettings(version="unknown"), workers=WorkersSettings(standby=0))
        self.make(Versioned, settings=settings).start()
        self.assertEqual(self.versions(), ("2.4.1", "2.4.1", "2.4.1"))

    def test_configured(self) -> None:
        """Where it says nothing it is what the configuration says; where nobody does it is empty."""
        settings = Settings(app=AppSettings(version="2.4.0"), workers=WorkersSettings(standby=0))
        self.make(settings=settings).start()
        self.assertEqual(self.versions(), ("2.4.0", "2.4.0", "2.4.0"))
        self.session.close()
        self.make().start()
        self.assertEqual(self.versions(), ("", "", ""))


class AgentTests(SessionTestCase):
    """The agent's half in the monitor."""

    def test_started(self) -> None:
        """The start is told first: pid, ports and where the session keeps its things."""
        self.make().start()
        self.assertIsInstance(self.session.told[0], events.SessionStarted)

    def test_workers_wait(self) -> None:
        """Workers are started meanwhile, but told their settings only when the agent's handlers are there."""
        ready: Deferred[None] = Deferred()

        class Slow(SessionAgent):
            async def initialize_monitor(self, monitor: Monitor) -> None:
                await ready

        self.make(Slow).start()
        self.assertEqual(len(self.told(events.WorkerSpawned)), 1)
        self.assertFalse(self.joined())
        ready.callback(None)
        self.session.reactor.turn()
        self.assertTrue(self.joined())

    def test_too_slow(self) -> None:
        """After ten seconds the session goes on without what was not set up, and says so."""

        class Hangs(SessionAgent):
            async def initialize_monitor(self, monitor: Monitor) -> None:
                monitor.on("backup", lambda args: "done")
                await Deferred()

        self.make(Hangs).start()
        self.session.reactor.pass_seconds(11)
        self.assertTrue(self.joined())
        (fault,) = self.told(events.Fault)
        self.assertEqual(fault.where, "the agent's initialize_monitor")
        self.assertEqual(fault.error.message, "initialize_monitor has not finished within 10 s")
        self.assertEqual(fault.next_step, "the session goes on with what it had set up")
        self.assertEqual(self.session.wait(self.session.worker.emit("backup")), ["done"])

    def test_error(self) -> None:
        """What it raises is told, and harms nothing else."""

        class Broken(SessionAgent):
            def initialize_monitor(self, monitor: Monitor) -> Any:
                raise OSError("no network")

        self.make(Broken).start()
        self.assertTrue(self.joined())
        (fault,) = self.told(events.Fault)
        self.assertEqual(fault.error.message, "no network")
        self.assertIn("initialize_monitor", fault.error.traceback)

    keeping: Exception | None = None

    def key_for(self, answer: Any) -> None:
        class Keyed(SessionAgent):
            async def initialize_monitor(self, monitor: Monitor) -> Any:
                return answer

        self.kept: list[str] = []

        def keep(key: str) -> None:
            if self.keeping is not None:
                raise self.keeping
            self.kept.append(key)

        session = self.make(Keyed, key="made at random")
        start: Any = session._session.start
        self.patch(session._session, "start", lambda *arguments: start(*arguments, keep))
        session.start()

    def test_key(self) -> None:
        """The key that it answers is the session's, in every worker (row M12)."""
        self.key_for("its own")
        self.assertTrue(self.session.worker.authorizes("its own"))
        self.assertFalse(self.session.worker.authorizes("made at random"))
        self.assertEqual(self.kept, ["its own"])

    def test_no_key(self) -> None:
        """Without one, the key that was made at random holds."""
        self.key_for(None)
        self.assertTrue(self.session.worker.authorizes("made at random"))
        self.assertEqual(self.told(events.Fault), [])

    def test_wrong_key(self) -> None:
        """What is no text, or none that can be one line of a file, is no key; that is told, but not the key itself."""
        for answer in (42, "", "two\nlines", " a space", "\udcff"):
            self.key_for(answer)
            self.assertTrue(self.session.worker.authorizes("made at random"))
            (fault,) = self.told(events.Fault)
            self.assertIn(f"not this {type(answer).__name__}", fault.error.message)
            self.assertNotIn(repr(answer), str(fault.error))
            self.assertEqual(self.kept, [])

    def test_key_that_cannot_be_kept(self) -> None:
        """A key that its administrator could not find would let nobody in: the random one holds."""
        self.keeping = OSError("the disk is full")
        self.key_for("its own")
        self.assertTrue(self.session.worker.authorizes("made at random"))
        (fault,) = self.told(events.Fault)
        self.assertIn("the disk is full", fault.error.message)


class RecipeTests(SessionTestCase):
    """What workers are started with."""

    def socket_of(self, worker: int) -> socket.socket:
        return self.session.spawner.processes[worker].recipe.ports[0].socket

    def set_port(self, *, now: bool = False) -> Deferred[str]:
        return self.session.monitor.set_port("server", "tcp:0:interface=127.0.0.1", now=now)

    def test_one_for_each_generation(self) -> None:
        """A worker that dies is followed by one of the same recipe; a restart makes another."""
        session = self.make().start()
        session.process.end(by_signal=9)
        session.reactor.turn()
        session.wait(session.monitor.restart())
        recipes = [process.recipe for process in session.spawner.processes.values()]
        self.assertIs(recipes[0], recipes[1])
        self.assertIsNot(recipes[1], recipes[2])

    def test_port_at_the_next_restart(self) -> None:
        """A new address is bound at once, and used from the next restart on: successors have the former one (row M9)."""
        session = self.make().start()
        answer = self.set_port()
        self.assertIn("from the next restart on", self.successResultOf(answer))
        (changed,) = self.told(events.PortChanged)
        self.assertEqual(changed.name, "server")
        former = self.socket_of(1)
        session.process.end(by_signal=9)
        session.reactor.turn()
        self.assertIs(self.socket_of(2), former)
        self.assertNotEqual(former.fileno(), -1)
        session.wait(session.monitor.restart())
        self.assertIsNot(self.socket_of(3), former)
        self.assertEqual(former.fileno(), -1)
        self.assertNotEqual(self.socket_of(3).fileno(), -1)

    def test_port_now(self) -> None:
        """``now`` restarts at once, and answers when the new generation serves on it."""
        session = self.make().start()
        former = self.socket_of(1)
        self.assertEqual(session.wait(self.set_port(now=True)), "generation 2 serves")
        self.assertIsNot(self.socket_of(2), former)
        self.assertEqual(former.fileno(), -1)

    def test_port_with_a_restart_that_fails(self) -> None:
        """When the restart is dropped, the old generation keeps its socket, and so do its successors."""
        session = self.make().start()
        former = self.socket_of(1)
        session.application = 42
        answer = self.set_port(now=True)
        session.reactor.turn()
        self.failureResultOf(answer)
        session.application = lambda worker: None
        session.process.end(by_signal=9)
        session.reactor.pass_seconds(5)
        self.assertIs(self.socket_of(session.worker.id), former)
        self.assertNotEqual(former.fileno(), -1)

    def test_port_without_overlap(self) -> None:
        """Where the old generation ends before the new one is activated, the former socket lives as long."""
        workers = WorkersSettings(standby=0, overlap=False)
        session = self.make(settings=Settings(workers=workers)).start()
        former = self.socket_of(1)
        session.wait(self.set_port(now=True))
        self.assertEqual(session.worker.generation, 2)
        self.assertIsNot(self.socket_of(session.worker.id), former)
        self.assertEqual(former.fileno(), -1)

    def test_port_of_the_application(self) -> None:
        """With ``bind = false`` the port is the application's own, and only its configuration can change it."""
        self.make(settings=Settings(workers=WorkersSettings(bind=False))).start()
        self.assert_refused("server", 8081, ConfigurationError, "the application binds it by itself")
        self.assertEqual(self.session.worker.ports, {"server": "tcp:8080"})
        self.assertEqual(self.told(events.PortChanged), [])

    def test_settings_follow(self) -> None:
        """The settings say what was asked for, so that a worker of the next generation sees it."""
        session = self.make().start()
        self.successResultOf(self.set_port())
        self.assertEqual(session.monitor.settings.ports[0].describe(), "tcp:0:interface=127.0.0.1")
        session.wait(session.monitor.restart())
        self.assertEqual(session.worker.ports, {"server": "tcp:0:interface=127.0.0.1"})

    def assert_refused(self, name: str, address: Any, kind: type[Exception], words: str) -> None:
        failure = self.failureResultOf(self.session.monitor.set_port(name, address), kind)
        self.assertIn(words, failure.getErrorMessage())

    def test_port_refused(self) -> None:
        """No such port, no such address, an address in use: each says what is wrong, and nothing changes."""
        session = self.make().start()
        before = session.monitor.settings
        with socket.create_server(("127.0.0.1", 0)) as other:
            number = other.getsockname()[1]
            taken = f"tcp:{number}:interface=127.0.0.1"
            self.assert_refused("server", taken, PortUnavailable, str(number))
        self.assert_refused("sever", 8081, ConfigurationError, "no port 'sever'; did you mean 'server'?")
        self.assert_refused("server", "tpc:80", ConfigurationError, "did you mean 'tcp'?")
        self.assert_refused("server", 70_000, ConfigurationError, "0 to 65535")
        self.assertIs(session.monitor.settings, before)
        self.assertEqual(self.told(events.PortChanged), [])


class ExecTests(SessionTestCase):
    """Commands of the agent's (row M7). How a command is run is told in `test_shell`."""

    def exec(self, answer: Deferred[ShellResult]) -> Deferred[ShellResult]:
        """Have the real session run a command that comes to `answer`."""
        real = self.make()._session
        self.given: list[Any] = []

        def run(
            reactor: Any,
            command: str | Sequence[str],
            told: Any,
            timeout: float,
            *,
            environment: Any,
            started: Any,
        ) -> Deferred[ShellResult]:
            self.given.append((command, timeout))
            self.environment = environment
            started(2**22 + 99)
            told(events.OutputLine(source="exec", stream="stdout", text="a line"))
            return answer

        self.patch(shell_commands, "run", run)
        return Session.exec(real, ["tar", "-x"], 5.0)

    def test_result(self) -> None:
        """Lines are told, the end is told with its status, and the result comes to the agent, whatever the status."""
        result = self.successResultOf(self.exec(succeed(RESULT)))
        self.assertIs(result, RESULT)
        self.assertEqual(self.given, [(["tar", "-x"], 5.0)])
        self.assertEqual(len(self.told(events.OutputLine)), 1)
        self.assertIn("PATH", self.environment)
        (finished,) = self.told(events.CommandFinished)
        self.assertEqual((finished.command, finished.status), ("tar -x", 2))

    def test_environment(self) -> None:
        """A command is told nothing of what systemd tells the monitor alone."""
        self.patch(
            os, "environ", {"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "1", "LISTEN_FDS": "1", "HOME": "/"}
        )
        self.successResultOf(self.exec(succeed(RESULT)))
        self.assertEqual(self.environment, {"HOME": "/"})

    def test_cannot_be_started(self) -> None:
        """What cannot be started fails, and no end is told of it."""
        self.failureResultOf(self.exec(fail(ServerWorkerError("no such file"))), ServerWorkerError)
        self.assertEqual(self.told(events.CommandFinished), [])


class EndTests(SessionTestCase):
    """The end: one step after the other, none for ever, none that stops the next."""

    def end(self, *closers: Any) -> None:
        session = self.make()
        for close in closers:
            session._session.at_end(close)
        session.start()
        session.monitor.kill_session("enough", error_code=3)
        session.reactor.turn()

    def test_closers(self) -> None:
        """Each is waited for when the workers are gone; what was opened last is closed first."""
        first: Deferred[None] = Deferred()
        order: list[str] = []
        self.end(lambda: order.append("second"), lambda: first)
        self.assertEqual((order, self.session.status), ([], None))
        first.callback(None)
        self.session.reactor.turn()
        self.assertEqual((order, self.session.status), (["second"], 3))

    def test_one_that_fails(self) -> None:
        """One that fails stops neither the next nor the end."""
        order: list[str] = []

        def broken() -> None:
            raise OSError("disk full")

        self.end(lambda: order.append("second"), broken)
        self.assertEqual((order, self.session.status), (["second"], 3))
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)

    def test_one_that_hangs(self) -> None:
        """One that never ends has five seconds."""
        self.end(Deferred)
        self.session.reactor.pass_seconds(4.9)
        self.assertIsNone(self.session.status)
        self.session.reactor.pass_seconds(0.2)
        self.assertEqual(self.session.status, 3)
        self.assertEqual(len(self.flushLoggedErrors()), 1)

    def test_sockets(self) -> None:
        """Afterwards no port is held any more."""
        session = self.make(settings=Settings(ports=(PortSettings(name="server", kind="tcp", port=8080),)))
        session.start()
        bound = session.process.recipe.ports[0].socket
        session.monitor.kill_session("enough")
        session.reactor.pass_seconds(5)
        self.assertEqual(bound.fileno(), -1)
