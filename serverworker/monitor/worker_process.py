"""One worker process as the monitor holds it: the process, its link, its output, its request board."""

from __future__ import annotations

import os
import signal
from collections import deque
from contextlib import suppress
from typing import Any, Protocol

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.protocols.amp import CommandLocator
from twisted.python.failure import Failure

from serverworker.decisions import inputs
from serverworker.monitor.stack_dump import StackDump
from serverworker.monitor.worker_output import WorkerOutput
from serverworker.processes.board import NO_COUNTERS, BoardCounters
from serverworker.processes.spawn import Ends, Recipe, Spawner
from serverworker.values.causes import Beat, CauseKind, RequestInFlight
from serverworker.values.errors import EmitError, ErrorRecord
from serverworker.values.events import OutputLine
from serverworker.values.lines import OutputLines
from serverworker.wire import commands
from serverworker.wire.emits import Handlers
from serverworker.wire.link import Link, adopt

_ASK_SECONDS = 30.0
"""How long a worker may take to acknowledge an order; the ping sees earlier that it hangs."""
_PING_SECONDS = 24 * 3600.0
"""The pinger judges by its own clock; a ping has a deadline of its own only because every wait has one."""
_CHANNEL_SECONDS = 1.0
"""How long the channel of a process that is gone is read to its end."""
_KEPT_BEATS = 20


class Owner(Protocol):
    """Who is told of what a worker says and does."""

    def happened(self, happened: inputs.Input) -> None:
        """An input for the core."""

    def join_answer(self, worker_id: int) -> Deferred[dict[str, Any]]:
        """What a worker that joins is told: its settings, its generation, the session key."""

    def beaten(self, worker_id: int, beat: Beat) -> None:
        """A heartbeat."""

    def printed(self, lines: OutputLines) -> None:
        """Lines of output."""

    def noted(self, worker_id: int, text: str) -> None:
        """A lifecycle notification."""

    def asked_to_end(self, worker_id: int, reason: str, graceful: bool, status: int) -> None:
        """The worker wants the session to end."""


@frozen(kw_only=True)
class LastWords:
    """What a worker left behind."""

    output: tuple[OutputLine, ...]
    beats: tuple[Beat, ...]
    requests: tuple[RequestInFlight, ...]
    requests_finished: int
    stacks: str


class WorkerProcess(CommandLocator):
    """A worker process, from its spawning until it is reaped and its pipes are read empty."""

    def __init__(self, *, reactor: Any, worker_id: int, owner: Owner, handlers: Handlers) -> None:
        self.id = worker_id
        self.pid: int | None = None
        self._reactor = reactor
        self._owner = owner
        source = f"worker {worker_id}"
        self.output = WorkerOutput(source, owner.printed)
        """What it prints. It is read once somebody resumes it."""
        self._beats: deque[Beat] = deque(maxlen=_KEPT_BEATS)
        self._ends: Ends | None = None
        self._exited: inputs.Exited | None = None
        self._dump: StackDump | None = None
        self._keeps_program = False
        self._awaits_program = False
        """Whether it has started a program that has not answered yet: its own stacks do not say what takes so long."""
        self.link = Link(reactor, self, handlers, peer=source, on_lost=self._lost)

    # --- the process ----------------------------------------------------------------------------

    def spawn(self, spawner: Spawner, recipe: Recipe) -> int | None:
        """Start it; answers its pid, or None if it has ended already. Raises `OSError` where it cannot be started."""
        ends = spawner.spawn(recipe, self.id, _Process(self))
        try:
            adopt(self.link, self._reactor, ends.channel.detach())
        except BaseException:  # no descriptor is left: a worker that nobody can speak to is none
            with suppress(ProcessExitedAlready):
                ends.transport.signalProcess(signal.SIGKILL)
            ends.close()
            raise
        self._ends, self.pid = ends, ends.transport.pid
        self._keeps_program = recipe.keeps_program
        self._dump = StackDump(self._reactor, ends.stacks)
        self.output.open(self._reactor, ends.stdout, ends.stderr)
        return self.pid

    def spawned(self) -> None:
        """Go on with what came while the process was being started: it may be over already."""
        if self._exited is not None:
            self._owner.happened(self._exited)

    def kill(self, *, dump: bool = False) -> None:
        """SIGKILL; with `dump`, every thread's stack first, where they can tell anything."""
        dump = dump and not self._awaits_program
        if dump and self._dump is not None and self.pid is not None and self._exited is None:
            self._dump.take(self.pid, self._kill_now)
        else:
            self._kill_now()

    def dump_stacks(self) -> None:
        """Have every thread's stack dumped; the worker goes on."""
        if self._dump is not None and self.pid is not None and self._exited is None:
            self._dump.take(self.pid, lambda: None)

    def _kill_now(self) -> None:
        if self._ends is None or self._exited is not None:
            return
        with suppress(ProcessExitedAlready):  # then its exit is on its way to us
            self._ends.transport.signalProcess(signal.SIGKILL)

    def exited(self, reason: Failure) -> None:
        """The process is gone; its pipes may still hold output, and somebody else may hold its pipes."""
        ended: Any = reason.value  # ProcessDone or ProcessTerminated
        self._exited = _exit_of(self.id, ended.status)
        if self.pid is not None:
            self._owner.happened(self._exited)

    def last_words(self) -> LastWords:
        """Read empty what a dead worker left, and give everything back."""
        self.output.finish()
        requests, counters, stacks = self.requests(), self.counters(), ""
        if self._ends is not None:
            self._ends.board.close()
        if self._dump is not None:
            stacks = self._dump.finish()
        # What it said last may lie in the channel unread, the answers to emits among it. It ends by itself, unless a
        # process that the worker started holds it.
        self._reactor.callLater(_CHANNEL_SECONDS, self.link.close)
        return LastWords(
            output=self.output.last_lines(),
            beats=tuple(self._beats),
            requests=requests,
            requests_finished=counters.requests_finished,
            stacks=stacks,
        )

    def counters(self) -> BoardCounters:
        """How many requests it has begun and finished, and its open connections; all zero before it is started."""
        return NO_COUNTERS if self._ends is None else self._ends.board.counters()

    def last_beat(self) -> Beat | None:
        """Its last heartbeat."""
        return self._beats[-1] if self._beats else None

    def requests(self) -> tuple[RequestInFlight, ...]:
        """What it is at now."""
        return () if self._ends is None else self._ends.board.in_flight(self._reactor.seconds())

    # --- the link -------------------------------------------------------------------------------

    def order(self, command: Any, **arguments: Any) -> None:
        """Send an order. A worker that cannot even acknowledge it is as good as lost."""

        def failed(failure: Failure) -> None:
            self._link_lost(f"{command.__name__} came to nothing: {failure.getErrorMessage()}")

        if command is commands.Activate:
            self._awaits_program = self._keeps_program
        self.link.ask(command, _ASK_SECONDS, **arguments).addErrback(failed)

    def use_certificates(self, tls: dict[str, Any]) -> None:
        """Have new connections served with these; a worker that cannot is told of, and serves with what it had."""

        def failed(failure: Failure) -> None:
            # All else is the end of the link, which is somebody else's news.
            if failure.check(commands.CommandFailed):
                self._owner.noted(self.id, f"the new certificate is not served: {failure.getErrorMessage()}")

        self.link.ask(commands.UseCertificates, _ASK_SECONDS, tls=tls).addErrback(failed)

    def ping(self) -> Deferred[Any]:
        """Ask whether its reactor turns."""
        return self.link.ask(commands.Ping, _PING_SECONDS)

    def _lost(self, reason: EmitError) -> None:
        self._link_lost(str(reason))

    def _link_lost(self, text: str) -> None:
        if self._exited is None:
            self._owner.happened(inputs.LinkLost(worker=self.id, text=text))

    @commands.Join.responder
    def join(self, version: int, worker: int, pid: int) -> Any:
        """A worker's first words."""
        if version != commands.PROTOCOL_VERSION or worker != self.id:
            raise commands.CommandFailed(
                f"worker {worker} speaks version {version} of the protocol, this monitor speaks "
                f"{commands.PROTOCOL_VERSION} to worker {self.id}: install the same serverworker for both"
            )
        return self._owner.join_answer(self.id)

    @commands.Loaded.responder
    def loaded(self, needs_activation: bool, application: str, version: str) -> dict[str, Any]:
        """The application is built."""
        self._owner.happened(
            inputs.Loaded(
                worker=self.id, needs_activation=needs_activation, application=application, version=version
            )
        )
        return {}

    @commands.LoadFailed.responder
    def load_failed(self, error: Any) -> dict[str, Any]:
        """It cannot be."""
        self._owner.happened(inputs.LoadFailed(worker=self.id, error=ErrorRecord(**error)))
        return {}

    @commands.Ready.responder
    def ready(self, seconds: float) -> dict[str, Any]:
        """Its health route has answered."""
        self._awaits_program = False
        self._owner.happened(inputs.Ready(worker=self.id))
        return {}

    @commands.BeatTold.responder
    def beat_told(self, beat: Any) -> dict[str, Any]:
        """It has polled its health route."""
        told = Beat(**beat)
        self._beats.append(told)
        self._owner.beaten(self.id, told)
        return {}

    @commands.CrashDetected.responder
    def crash_detected(self, error: Any, kind: str) -> dict[str, Any]:
        """Something in it is broken; it runs its exit handlers and ends."""
        record = ErrorRecord(**error)
        self._owner.happened(inputs.Crashed(worker=self.id, error=record, kind=CauseKind(kind)))
        return {}

    @commands.Terminated.responder
    def terminated(self) -> dict[str, Any]:
        """SIGTERM came from outside. It goes on until it is told to leave."""
        self._owner.happened(inputs.Terminated(worker=self.id))
        return {}

    @commands.Note.responder
    def note(self, text: str) -> dict[str, Any]:
        """A lifecycle notification."""
        self._owner.noted(self.id, text)
        return {}

    @commands.KillSession.responder
    def kill_session(self, reason: str, graceful: bool, status: int) -> dict[str, Any]:
        """It wants the session to end."""
        self._owner.asked_to_end(self.id, reason, graceful, status)
        return {}


class _Process(ProcessProtocol):
    """Twisted's view of the process."""

    def __init__(self, worker: WorkerProcess) -> None:
        self._worker = worker

    def processExited(self, reason: Failure) -> None:
        self._worker.exited(reason)


def _exit_of(worker_id: int, status: int) -> inputs.Exited:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = f"signal {number}"
        return inputs.Exited(worker=worker_id, signal=name, core_dumped=os.WCOREDUMP(status))
    return inputs.Exited(worker=worker_id, exit_status=os.WEXITSTATUS(status))
