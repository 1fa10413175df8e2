"""Workers that are no processes: the other implementation of `Spawner`, for tests.

`serverworker.testing` makes it public. Nothing of a session loads this module.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from attrs import asdict
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import ConnectionDone, ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.interfaces import IProcessProtocol
from twisted.internet.task import Clock
from twisted.protocols.amp import CommandLocator
from twisted.python.failure import Failure

from serverworker.processes.board import RequestBoard
from serverworker.processes.output_pipe import GATHER_SECONDS
from serverworker.processes.spawn import Ends, Recipe
from serverworker.values.causes import CauseKind
from serverworker.values.errors import ErrorRecord
from serverworker.wire import commands
from serverworker.wire.emits import Handlers
from serverworker.wire.link import Link, adopt

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
            moved = [connection.carry() for connection in tuple(self._connections)]
            if not any(moved):
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

    def adoptStreamConnection(self, descriptor: int, family: int, factory: Any) -> _Connection:
        """One end of a socket pair, or of an accepted connection."""
        end = socket.socket(fileno=os.dup(descriptor))
        connection = _Connection(end, factory.buildProtocol(None), self._connections.remove)
        self._connections.append(connection)
        connection.protocol.makeConnection(connection)
        return connection

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
    """A transport on one end of a connection."""

    def __init__(self, end: socket.socket, protocol: Any, gone: Callable[[_Connection], None]) -> None:
        end.setblocking(False)
        self._end = end
        self.protocol = protocol
        self._gone = gone
        self._unsent = bytearray()
        self._closing = False

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
            self.protocol.dataReceived(data)
        else:
            self.connectionLost(Failure(ConnectionDone()))
        return True

    def connectionLost(self, reason: Failure) -> None:
        self._end.close()
        self._gone(self)
        self.protocol.connectionLost(reason)

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
        self,
        *,
        reactor: FakeReactor,
        recipe: Recipe,
        worker_id: int,
        protocol: IProcessProtocol,
        board: RequestBoard,
        pipes: dict[int, tuple[int, int]],
    ) -> None:
        self.id = worker_id
        self.recipe = recipe
        self.reactor = reactor
        self.pid: int | None = _FIRST_PID + worker_id
        self.orders: list[tuple[str, dict[str, Any]]] = []
        """What the monitor has ordered, such as ``("Leave", {"kind": "restart", …})``."""
        self.signals: list[int] = []
        """What was sent to it."""
        self.answers_pings = True
        self.survives_kill = False
        """As in the kernel's hands: even SIGKILL does not end it."""
        self.board = board
        """Its end of the request board: ``process.board.begin(b"GET", b"/page")``."""
        self.handlers = Handlers()
        self.link = Link(reactor, self, self.handlers, peer="the monitor")
        self._protocol: Any = protocol
        self._pipes = pipes

    def join(self) -> Deferred[dict[str, Any]]:
        """Say the first words; answers what the monitor tells a worker."""
        words = {"version": commands.PROTOCOL_VERSION, "worker": self.id, "pid": self.pid}
        return self.link.ask(commands.Join, _ANSWER_SECONDS, **words)

    def load(self, *, needs_activation: bool = True, application: str = "a fake", version: str = "") -> None:
        """Tell that the application is built."""
        self.link.tell(
            commands.Loaded, needs_activation=needs_activation, application=application, version=version
        )

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

    def printed(self, text: str, descriptor: int = 1, *, unread: bool = False) -> None:
        """Print a text, on stdout (1) or stderr (2); the monitor reads it at once, unless it is to be left `unread`.

        Raises `BlockingIOError` where a real worker would wait: the monitor does not read, and the pipe is full.
        """
        data = text.encode()
        reading, writing = self._pipes[descriptor]
        if not unread and all(reader.fileno() != reading for reader in self.reactor.readers):
            self.reactor.pass_seconds(GATHER_SECONDS)  # after a read it looks away for so long
        while data:
            data = data[os.write(writing, data) :]
            for reader in tuple(self.reactor.readers):
                if reader.fileno() == reading and not unread:
                    reader.doRead()

    def end(self, status: int = 0, *, by_signal: int | None = None) -> None:
        """The process is gone: with an exit status, or by a signal. Once."""
        if self.pid is not None:
            self.pid = None
            self.link.close()
            self.board.close()
            for _, writing in self._pipes.values():
                os.close(writing)
            word = status << 8 if by_signal is None else by_signal
            ended = ProcessDone(0) if word == 0 else ProcessTerminated(status or None, by_signal, word)
            self._protocol.processExited(Failure(ended))

    # What the monitor does to it.

    def signalProcess(self, number: int) -> None:
        """A signal. SIGKILL ends it in the next turn."""
        if self.pid is None:
            raise ProcessExitedAlready
        self.signals.append(number)
        if number == signal.SIGKILL and not self.survives_kill:
            self.reactor.callLater(0, self.end, by_signal=signal.SIGKILL)

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

    @commands.Unready.responder
    def _unready(self) -> dict[str, Any]:
        return self.ordered("Unready")

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
        board, its_board = RequestBoard.create(self._reactor.seconds)
        pipes = {descriptor: os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK) for descriptor in (1, 2)}
        process = self._make(
            reactor=self._reactor,
            recipe=recipe,
            worker_id=worker_id,
            protocol=protocol,
            board=RequestBoard.attach(its_board, self._reactor.seconds),
            pipes=pipes,
        )
        self.processes[worker_id] = process
        channel, its_channel = socket.socketpair()
        adopt(process.link, self._reactor, its_channel.detach())  # type: ignore[arg-type]  # of a reactor, all that counts
        stacks, its_stacks = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.close(its_stacks)
        return Ends(
            transport=process,
            channel=channel,
            stdout=pipes[1][0],
            stderr=pipes[2][0],
            stacks=stacks,
            board=board,
        )
