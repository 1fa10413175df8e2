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

import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from attrs import asdict
from twisted.internet.defer import Deferred, ensureDeferred, maybeDeferred
from twisted.internet.error import ConnectionDone, ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.interfaces import IProcessProtocol, IProtocolFactory
from twisted.internet.task import Clock
from twisted.protocols.amp import CommandLocator
from twisted.python.failure import Failure

from serverworker.monitor.handle import Monitor
from serverworker.monitor.ports import Ports
from serverworker.monitor.session import Session
from serverworker.monitor.stream import EventStream
from serverworker.processes.agent import SessionAgent
from serverworker.processes.awaiting import record_of
from serverworker.processes.board import RequestBoard
from serverworker.processes.exit_handlers import ExitHandlers
from serverworker.processes.hosts import AgentHost, Host, host_for
from serverworker.processes.listeners import Listeners, Port
from serverworker.processes.role import ProcessRole
from serverworker.processes.server_worker import ServerWorker
from serverworker.processes.shell import ShellResult
from serverworker.processes.spawn import Ends, Recipe
from serverworker.surfaces import operator_commands
from serverworker.values.errors import ErrorRecord
from serverworker.values.events import CauseKind, CommandFinished, Event, WorkerDied
from serverworker.values.reasons import ExitKind, ExitReason
from serverworker.values.settings import Settings, WorkersSettings
from serverworker.values.state import Life
from serverworker.wire import commands
from serverworker.wire.emits import Handlers
from serverworker.wire.link import Link, adopt

__all__ = ["FakeReactor", "FakeSession", "FakeSpawner", "FakeWorkerProcess"]

_FIRST_PID = 2**22 + 1
"""More than the kernel ever gives: a signal to such a process reaches nobody."""
_ANSWER_SECONDS = 60.0


class FakeReactor(Clock):
    """Time that is moved by hand, and socket pairs that carry bytes when they are told to. It starts nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: list[Any] = []
        """What waits for a descriptor; it is never called by itself."""
        self._connections: list[_Connection] = []

    def turn(self) -> None:
        """Let all happen that needs no time."""
        for _ in range(100_000):
            self.advance(0)
            if not any([connection.carry() for connection in tuple(self._connections)]):
                return
        raise AssertionError("this never comes to rest: one thing leads to the next, and no time passes")

    def pass_seconds(self, seconds: float) -> None:
        """Let time pass, and everything happen at its time."""
        end = self.seconds() + seconds
        self.turn()
        while due := [call.getTime() for call in self.getDelayedCalls() if call.getTime() <= end]:
            self.advance(max(0.0, min(due) - self.seconds()))
            self.turn()
        self.advance(max(0.0, end - self.seconds()))

    # What else the session asks of a reactor.

    def adoptStreamConnection(self, descriptor: int, family: int, factory: Any) -> None:
        """One end of a socket pair."""
        end = socket.socket(fileno=os.dup(descriptor))
        self._connections.append(_Connection(end, factory.buildProtocol(None), self._connections.remove))

    def addReader(self, reader: Any) -> None:
        """Somebody waits for a descriptor."""
        self.readers.append(reader)

    def removeReader(self, reader: Any) -> None:
        """He no longer does."""
        if reader in self.readers:
            self.readers.remove(reader)

    def callFromThread(self, function: Callable[..., Any], *arguments: Any) -> None:
        """In the next turn."""
        self.callLater(0, function, *arguments)

    def getThreadPool(self) -> FakeReactor:  # noqa: N802 - IReactorThreads
        """A pool without threads: itself."""
        return self

    def callInThreadWithCallback(  # noqa: N802 - ThreadPool
        self, done: Callable[[bool, Any], Any], call: Callable[..., Any], *arguments: Any
    ) -> None:
        """Here and now."""
        maybeDeferred(call, *arguments).addCallbacks(partial(done, True), partial(done, False))

    def spawnProcess(self, *arguments: Any, **options: Any) -> None:
        """Nothing: the guardian of a fake session has nothing to guard."""


class _Connection:
    """A transport on one end of a socket pair."""

    def __init__(self, end: socket.socket, protocol: Any, gone: Callable[[_Connection], None]) -> None:
        end.setblocking(False)
        self._end = end
        self._protocol = protocol
        self._gone = gone
        self._unsent = bytearray()
        self._closing = False
        protocol.makeConnection(self)

    def carry(self) -> bool:
        """Send and receive what there is; answers whether anything was."""
        sent = 0
        with suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):  # the end is read in a moment
            sent = self._end.send(self._unsent) if self._unsent else 0
            del self._unsent[:sent]
        data = b""
        if not self._closing or self._unsent:
            try:
                data = self._end.recv(65536)
            except BlockingIOError:
                return sent > 0
            except OSError:
                self._closing = True
        if data:
            self._protocol.dataReceived(data)
        else:
            self._end.close()
            self._gone(self)
            self._protocol.connectionLost(Failure(ConnectionDone()))
        return True

    def write(self, data: bytes) -> None:
        self._unsent += data

    def loseConnection(self) -> None:
        self._closing = True

    def abortConnection(self) -> None:
        self._unsent.clear()
        self._closing = True

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """There is room for everything: nobody is ever paused."""

    def unregisterProducer(self) -> None:
        """See `registerProducer`."""


class FakeWorkerProcess(CommandLocator):
    """A worker's process as the monitor sees it: it says and does what the test lets it.

    What it has no method for it says by its link, such as ``process.link.tell(commands.Note, text="…")``.
    """

    def __init__(
        self, *, reactor: FakeReactor, recipe: Recipe, worker_id: int, protocol: IProcessProtocol
    ) -> None:
        self.id = worker_id
        self.recipe = recipe
        self.reactor = reactor
        self.pid: int | None = _FIRST_PID + worker_id
        self.pipes: dict[int, Any] = {}
        """As a process's transport in Twisted has them."""
        self.orders: list[tuple[str, dict[str, Any]]] = []
        """What the monitor has ordered, such as ``("Leave", {"kind": "restart", …})``."""
        self.signals: list[int] = []
        """What was sent to it."""
        self.answers_pings = True
        self.survives_kill = False
        """As in the kernel's hands: even SIGKILL does not end it."""
        self.handlers = Handlers()
        self.link = Link(reactor, self, self.handlers, peer="the monitor")
        self._protocol: Any = protocol

    def join(self) -> Deferred[dict[str, Any]]:
        """Say the first words; answers what the monitor tells a worker."""
        words = {"version": commands.PROTOCOL_VERSION, "worker": self.id, "pid": self.pid}
        return self.link.ask(commands.Join, _ANSWER_SECONDS, **words)

    def load(self, *, needs_activation: bool = True, application: str = "a fake") -> None:
        """Tell that the application is built."""
        self.link.tell(commands.Loaded, needs_activation=needs_activation, application=application)

    def fail_to_load(self, error: ErrorRecord) -> Deferred[None]:
        """Tell that it cannot be; fires when the monitor has taken note."""
        return self._say(commands.LoadFailed, error=asdict(error))

    def ready(self) -> None:
        """Tell that the health route has answered."""
        self.link.tell(commands.Ready, seconds=0.0)

    def crash(self, error: ErrorRecord, kind: CauseKind = CauseKind.EXCEPTION) -> Deferred[None]:
        """Tell of an error that nothing handled; fires when the monitor has taken note. The process goes on."""
        return self._say(commands.CrashDetected, error=asdict(error), kind=kind.value)

    def _say(self, command: Any, **arguments: Any) -> Deferred[None]:
        return self.link.ask(command, _ANSWER_SECONDS, **arguments).addBoth(lambda _: None)

    def printed(self, text: str, descriptor: int = 1) -> None:
        """Print a text, on stdout (1) or stderr (2)."""
        self._protocol.childDataReceived(descriptor, text.encode())

    def end(self, status: int = 0, *, by_signal: int | None = None) -> None:
        """The process is gone: with an exit status, or by a signal. Once."""
        if self.pid is not None:
            self.pid = None
            self.link.close()
            word = status << 8 if by_signal is None else by_signal
            ended = ProcessDone(0) if word == 0 else ProcessTerminated(status or None, by_signal, word)
            self._protocol.processExited(Failure(ended))

    # What the monitor does to it.

    def signalProcess(self, number: int) -> None:  # noqa: N802 - IProcessTransport
        """A signal. SIGKILL ends it in the next turn."""
        if self.pid is None:
            raise ProcessExitedAlready
        self.signals.append(number)
        if number == signal.SIGKILL and not self.survives_kill:
            self.reactor.callLater(0, self.end, by_signal=signal.SIGKILL)

    def loseConnection(self) -> None:
        """The monitor lets go of the pipes."""

    def ordered(self, order: str, **arguments: Any) -> dict[str, Any]:
        """Every order comes by here."""
        self.orders.append((order, arguments))
        return {}

    @commands.Ping.responder
    def _ping(self) -> Any:
        return {} if self.answers_pings else Deferred()

    @commands.Activate.responder
    def _activate(self) -> dict[str, Any]:
        return self.ordered("Activate")

    @commands.Serve.responder
    def _serve(self) -> dict[str, Any]:
        return self.ordered("Serve")

    @commands.Leave.responder
    def _leave(self, **arguments: Any) -> dict[str, Any]:
        return self.ordered("Leave", **arguments)

    @commands.SetPolling.responder
    def _set_polling(self, seconds: float) -> dict[str, Any]:
        return self.ordered("SetPolling", seconds=seconds)


class FakeSpawner:
    """Starts fake processes (`serverworker.processes.spawn.Spawner`), and keeps them."""

    def __init__(
        self, reactor: FakeReactor, make: Callable[..., FakeWorkerProcess] = FakeWorkerProcess
    ) -> None:
        self._reactor = reactor
        self._make = make
        self.processes: dict[int, FakeWorkerProcess] = {}
        """All that were ever started, by the worker's id."""
        self.error: Exception | None = None
        """Raised instead of starting anything, as long as it stands here."""

    def spawn(self, recipe: Recipe, worker_id: int, protocol: IProcessProtocol) -> Ends:
        """Start one."""
        if self.error is not None:
            raise self.error
        process = self._make(reactor=self._reactor, recipe=recipe, worker_id=worker_id, protocol=protocol)
        self.processes[worker_id] = process
        channel, its_channel = socket.socketpair()
        adopt(process.link, self._reactor, its_channel.detach())  # type: ignore[arg-type]  # of a reactor, all that counts
        stacks, its_stacks = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.close(its_stacks)
        board, its_board = RequestBoard.create()
        os.close(its_board)
        return Ends(transport=process, channel=channel, stacks=stacks, board=board)


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
        self.reactor.callLater(0, self._run, self._load(), self._loading_failed)

    def _run(self, step: Any, failed: Callable[[Failure], Any]) -> Deferred[None]:
        ServerWorker._current = self.worker  # as if it were alone in its process
        return ensureDeferred(step).addErrback(failed)

    async def _load(self) -> None:
        told = await self.join()
        settings = Settings.from_json(told["settings"])
        nothing: Any = None
        ports = {
            port.name: Port(name=port.name, description=port.describe(), socket=nothing)
            for port in settings.ports
        }
        self.listeners = _NoListeners(
            reactor=self.reactor, board=nothing, ports=ports, bind=settings.workers.bind
        )
        self.worker = ServerWorker(
            worker_id=self.id,
            generation=told["generation"],
            reactor=self.reactor,
            link=self.link,
            handlers=self.handlers,
            listeners=self.listeners,
            exit_handlers=self._exit_handlers,
            emit_seconds=settings.ipc.timeout_seconds,
            session_key=told["key"],
            role=ProcessRole(),
        )
        if self._session.application is not None:
            self._host = host_for(self._session.application, "(the test's)")
        self._host.register(self.worker)
        if self._session.agent is not None:
            await self._session.agent().launch(worker=self.worker)
        self.load(needs_activation=self._host.needs_activation, application=self._host.description)

    def _loading_failed(self, failure: Failure) -> None:
        self.fail_to_load(record_of(failure)).addCallback(lambda _: self.end(1))

    def ordered(self, order: str, **arguments: Any) -> dict[str, Any]:
        if order == "Activate":
            self._run(self._start(), self._broken)
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
        await self._exit_handlers.run(reason, seconds)
        if not crashed:
            await self._host.stop()
        self.end(1 if crashed else 0)

    def _exit_handler_failed(self, name: str, failure: Failure) -> None:
        text = f"exit handler {name} failed: {failure.getErrorMessage()}; the exit goes on"
        self.link.tell(commands.Note, text=text)


class _SessionWithoutShell(Session):
    fake: FakeSession

    def exec(self, command: str | Sequence[str], timeout: float) -> Deferred[ShellResult]:
        self.fake.shell_commands.append(command)
        text = command if isinstance(command, str) else " ".join(command)

        def done(result: ShellResult) -> ShellResult:
            self.stream.publish(CommandFinished(command=text, status=result.status))
            return result

        return maybeDeferred(self.fake.shell, command).addCallback(done)


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
        self.shell: Callable[[Any], ShellResult | Deferred[ShellResult]] = lambda command: ShellResult(
            status=0, stdout="", stderr="", seconds=0.0
        )
        """What stands for the shell: is given each command of `Monitor.exec`, and answers what it comes to."""
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
        return operator_commands.run(
            operator_commands.parse(line, self.monitor, self._session.console_commands)
        )

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
