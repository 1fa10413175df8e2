"""Fakes for those who test an agent or an application, without processes and without waiting.

Faked is the far end: processes, ports and time. What lies between is the real thing: the links and all that crosses
them, handlers, exit handlers, events, the decisions of the session, `Monitor` and `ServerWorker`::

    class WikiTests(SynchronousTestCase):
        def test_backup(self) -> None:
            session = FakeSession(agent=Wiki).start()
            self.addCleanup(session.close)
            self.assertEqual(session.wait(session.worker.emit("backup", {"mode": "full"})), ["full.zip"])
            self.assertEqual(session.shell_commands[0][0], "tar")
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred, maybeDeferred
from twisted.internet.interfaces import IProtocolFactory
from twisted.python.failure import Failure

from serverworker.monitor.handle import Monitor
from serverworker.monitor.history import History
from serverworker.monitor.ports import Ports
from serverworker.monitor.session import Session
from serverworker.monitor.stream import EventStream
from serverworker.processes.agent import SessionAgent
from serverworker.processes.awaiting import record_of
from serverworker.processes.exit_handlers import ExitHandlers
from serverworker.processes.fake_spawner import FakeReactor, FakeSpawner, FakeWorkerProcess
from serverworker.processes.hosts.interface import Host
from serverworker.processes.hosts.resource import AgentHost, host_for
from serverworker.processes.listeners import Listeners, Port
from serverworker.processes.role import ProcessRole
from serverworker.processes.server_worker import ServerWorker
from serverworker.processes.shell import ShellResult
from serverworker.surfaces import operator_commands
from serverworker.surfaces.desk import Asker, Desk
from serverworker.surfaces.status import status_json
from serverworker.values.errors import ErrorRecord
from serverworker.values.events import CommandFinished, Event, WorkerDied
from serverworker.values.reasons import ExitKind, ExitReason
from serverworker.values.settings import Settings, WorkersSettings
from serverworker.values.state import Life
from serverworker.wire import commands

__all__ = ["FakeReactor", "FakeSession", "FakeSpawner", "FakeWorkerProcess", "ShellResult"]

_DRAIN_SECONDS = 30.0


class _NoListeners(Listeners):
    """Knows what is listened with, and accepts nothing."""

    def _serve(self, port: Port, factory: IProtocolFactory) -> None:
        """Nothing: no port is there."""


class _Worker(FakeWorkerProcess):
    """A process in which a real `ServerWorker` runs an application. Ready is what is activated: it polls nothing."""

    worker: ServerWorker | None = None

    def __init__(self, session: FakeSession, **process: Any) -> None:
        super().__init__(**process)
        self._session = session
        self._host: Host = AgentHost()
        self.listeners: Listeners | None = None
        self._exit_handlers = ExitHandlers(self.reactor, self._exit_handler_failed)
        self._drain_hooks = ExitHandlers(self.reactor, self._exit_handler_failed, "drain hook")
        self.reactor.callLater(0, self._run, self._load(), self._loading_failed)

    def _run(self, step: Any, failed: Callable[[Failure], Any]) -> Deferred[None]:
        ServerWorker._current = self.worker  # as if it were alone in its process
        return ensureDeferred(step).addErrback(failed)

    async def _load(self) -> None:
        told = await self.join()
        settings = Settings.from_json(told["settings"])
        nothing: Any = None
        configured = {port.name: port.describe() for port in settings.ports}
        self.listeners = _NoListeners(
            reactor=self.reactor,
            board=nothing,
            ports={
                name: Port(name=name, description=address, socket=nothing)
                for name, address in configured.items()
            },
            bind=settings.workers.bind,
            configured=configured,
        )
        self.worker = ServerWorker(
            worker_id=self.id,
            generation=told["generation"],
            reactor=self.reactor,
            link=self.link,
            handlers=self.handlers,
            listeners=self.listeners,
            exit_handlers=self._exit_handlers,
            drain_hooks=self._drain_hooks,
            emit_seconds=settings.ipc.timeout_seconds,
            session_key=told["key"],
            version=settings.app.version or "",
            role=ProcessRole(),
        )
        if self._session.application is not None:
            self._host = host_for(self._session.application, "(the test's)")
        self._host.register(self.worker)
        if self._session.agent is not None:
            await self._session.agent().launch(worker=self.worker)
        self.load(
            needs_activation=self._host.needs_activation,
            application=self._host.description,
            version=self.worker.version,
        )

    def _loading_failed(self, failure: Failure) -> None:
        self.fail_to_load(record_of(failure)).addCallback(lambda _: self.end(1))

    def ordered(self, order: str, **arguments: Any) -> dict[str, Any]:
        if order == "Activate":
            self._run(self._start(), self._broken)
        elif order == "Unready":
            self._run(self._drain_hooks.run(ExitReason(ExitKind.SESSION_END), _DRAIN_SECONDS), self._broken)
        elif order == "Leave":
            reason = ExitReason(ExitKind(arguments["kind"]), text=arguments["text"])
            self.leave(reason, arguments["seconds"])
        return super().ordered(order, **arguments)

    async def _start(self) -> None:
        assert self.worker is not None
        await self._host.activate(self.worker)
        self.ready()

    def _broken(self, failure: Failure) -> None:
        self.leave(ExitReason(ExitKind.CRASH, record_of(failure)))

    def leave(self, reason: ExitReason, seconds: float = 5.0) -> Deferred[None]:
        return self._run(self._exit(reason, seconds), self._broken)

    async def _exit(self, reason: ExitReason, seconds: float) -> None:
        crashed = reason.kind is ExitKind.CRASH
        if crashed:
            await self.crash(reason.error or ErrorRecord(type="builtins.Exception", message=reason.text))
        else:
            ensureDeferred(self._drain_hooks.run(reason, seconds))
        await self._exit_handlers.run(reason, seconds)
        if not crashed:
            await self._host.stop()
        self.end(1 if crashed else 0)

    def _exit_handler_failed(self, name: str, failure: Failure) -> None:
        text = f"{name} failed: {failure.getErrorMessage()}; the exit goes on"
        self.link.tell(commands.Note, text=text)


class _SessionWithoutShell(Session):
    fake: FakeSession

    def exec(self, command: str | Sequence[str], timeout: float) -> Deferred[ShellResult]:
        self.fake.shell_commands.append(command)
        text = command if isinstance(command, str) else " ".join(command)

        async def run() -> ShellResult:
            result: ShellResult = await maybeDeferred(self.fake.shell, command)
            self.stream.publish(CommandFinished(command=text, status=result.status))
            return result

        return ensureDeferred(run())


class FakeSession:
    """A whole session in one process: the monitor, its workers, and what they say to each other.

    The agent is given as a class, the application as what ``--app`` would name: a Resource, an IService, `work`. One
    worker serves and none stands by, unless `settings` say otherwise. No port is bound, but by `Monitor.set_port`.
    """

    def __init__(
        self,
        *,
        agent: type[SessionAgent] | None = None,
        application: Any = None,
        settings: Settings | None = None,
        key: str = "the session key of a test",
    ) -> None:
        self.agent = agent
        self.application = application
        self.reactor = FakeReactor()
        self.spawner = FakeSpawner(self.reactor, partial(_Worker, self))
        self.told: list[Event] = []
        """Every event so far."""
        self.shell: Callable[[Any], Any] = lambda command: ShellResult(
            status=0, stdout="", stderr="", seconds=0.0
        )
        """What stands for the shell: is given each command of `Monitor.exec`, and answers its `ShellResult`."""
        self.shell_commands: list[str | Sequence[str]] = []
        """What it was given so far."""
        self.status: int | None = None
        """The exit status, once the session has ended."""
        settings = settings or Settings(workers=WorkersSettings(standby=0))
        stream = EventStream(self.reactor.seconds)
        stream.observe(lambda told: self.told.append(told.event))
        self._session = _SessionWithoutShell(
            reactor=self.reactor,
            settings=settings,
            ports=Ports({port.name: _socket_of_nobody() for port in settings.ports}),
            stream=stream,
            environment={},
            key=key,
            seed=1,
            over=self._over,
            spawner=self.spawner,
            role=ProcessRole(),
        )
        self._session.fake = self
        history = History()
        stream.observe(history)
        self._desk = Desk(
            monitor=self._session.handle,
            agents=self._session.console_commands,
            history=history,
            publish=stream.publish,
            state_directory=Path("/nonexistent"),
            session="the session of a test",
            in_thread=maybeDeferred,
        )
        self._session.engine.takeover_seconds = 0.0  # what is asked for happens without time passing

    def _over(self, status: int) -> None:
        self.status = status

    def start(self) -> FakeSession:
        """Start the session; afterwards a worker serves, unless the application cannot be loaded or started."""
        self._session.start("", None if self.agent is None else self.agent())
        self.reactor.turn()
        return self

    def close(self) -> None:
        """End it, if it has not ended, and give everything back. To be called at the end of each test."""
        self.monitor.kill_session("the test is over", graceful=False)
        self.reactor.pass_seconds(60)
        ServerWorker._current = None

    @property
    def monitor(self) -> Monitor:
        """The real monitor."""
        return self._session.handle

    @property
    def worker(self) -> ServerWorker:
        """The real worker that serves, the first where there are several. Raises AssertionError where none does."""
        worker = self._serving().worker
        assert worker is not None
        return worker

    @property
    def process(self) -> FakeWorkerProcess:
        """That worker's process: `end(by_signal=9)` is what an operator's ``kill -9`` is."""
        return self._serving()

    @property
    def factories(self) -> Mapping[str, IProtocolFactory]:
        """What that worker listens with, by the port's name."""
        listeners = self._serving().listeners
        assert listeners is not None
        return listeners.factories

    def _serving(self) -> _Worker:
        for worker in self.monitor.state.in_life(Life.SERVING):
            process = self.spawner.processes[worker.id]
            assert isinstance(process, _Worker)
            return process
        causes = [event.cause.text for event in self.told if isinstance(event, WorkerDied)]
        raise AssertionError(f"no worker serves: {'; '.join(causes) or 'start the session first'}")

    def leave(self, reason: ExitReason) -> Deferred[None]:
        """Have that worker end for a reason of the test's, exit handlers first; fires when it is gone."""
        return self._serving().leave(reason)

    def type(self, line: str) -> Deferred[Any]:
        """Type a line into the console; answers what it shows. Raises `BadCommand` for what is no command."""
        asker = Asker(who="the console", surface="console")
        parsed = operator_commands.parse(line, self._desk, asker)
        return operator_commands.run(parsed, self._desk, asker).addCallback(lambda outcome: outcome.text)

    def status_json(self) -> dict[str, Any]:
        """The session's status, as programs get it."""
        return status_json(self._desk)

    def wait(self, answer: Deferred[Any]) -> Any:
        """What a Deferred comes to, or its exception raised, once all has happened that needs no time."""
        results: list[Any] = []
        answer.addBoth(results.append)
        self.reactor.turn()
        if not results:
            raise AssertionError("nothing happens any more, and no answer came: let time pass")
        if isinstance(results[0], Failure):
            results[0].raiseException()
        return results[0]


def _socket_of_nobody() -> socket.socket:
    """A socket with an address, at which nobody listens."""
    made = socket.socket()
    made.bind(("127.0.0.1", 0))
    return made
