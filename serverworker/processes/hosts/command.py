"""Programs of any kind (``--command``) that take their socket from their parent, such as gunicorn or a Node server."""

from __future__ import annotations

import os
import signal
import socket
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IStreamClientEndpoint

from serverworker.processes.descendants import is_stopped
from serverworker.processes.health import public_endpoint
from serverworker.processes.hosts.command_line import Places, find_program, split
from serverworker.processes.hosts.interface import Host
from serverworker.processes.hosts.program import Program
from serverworker.processes.own_answer import AcceptedBy, OwnAnswerEndpoint
from serverworker.processes.stacks import DUMP_SIGNAL
from serverworker.values.causes import CauseKind
from serverworker.values.errors import ApplicationError, ErrorRecord
from serverworker.values.ports import PortSettings, parse_port
from serverworker.values.reasons import ExitKind, ExitReason

if TYPE_CHECKING:
    from serverworker.processes.server_worker import ServerWorker

VERDICT_SECONDS = 0.5
"""After an end that a SIGTERM may have brought, for so long the monitor may say that the whole session was sent it."""
_LONGEST_SHOWN = 60


class CommandHost(Host):
    """A program that this worker starts, watches and ends; the worker itself serves nothing.

    It is started when the worker is promoted. From then on it accepts, ready or not: the socket is the session's own.
    """

    needs_activation = True

    def __init__(self, command: str) -> None:
        self._given = split(command)
        name = os.path.basename(self._given[0])  # noqa: PTH119 - a word, and no path of ours
        self.description = f"command {command}"
        self._short = command if len(command) <= _LONGEST_SHOWN else f"{name} …"
        self._words: list[str] = []
        self._path = ""
        self._program: Program | None = None
        self._endpoint: OwnAnswerEndpoint | None = None
        self._leaving = False
        self._worker: ServerWorker | None = None

    def register(self, worker: ServerWorker) -> None:
        """Fill in the placeholders, and find the program. Raises `ApplicationError`."""
        ports = {name: parse_port(name, text) for name, text in worker.ports.items()}
        self._words = Places(ports=ports, bind=bool(worker.sockets)).fill(self._given)
        self._path = find_program(self._words[0], os.environ.get("PATH", os.defpath))
        self._worker = worker
        self._poll_at(ports["server"])

        def end(reason: ExitReason) -> Deferred[None] | None:
            return self._end(reason)

        end.__qualname__ = f"(the end of {self._short})"
        worker.add_exit_handler(end)

    async def activate(self, worker: ServerWorker) -> None:
        """Start the program."""
        self._program = Program(worker.reactor, self._path, self._words, self._ended)
        try:
            self._program.start(worker.sockets)
        except OSError as error:
            raise ApplicationError(f"--command: {self._path} cannot be started: {error}") from error

    def health_endpoint(self) -> IStreamClientEndpoint | None:
        """The public port, as often as it takes until this very program accepts."""
        return self._endpoint

    # --- the poll -------------------------------------------------------------------------------

    def _poll_at(self, port: PortSettings) -> None:
        assert self._worker is not None
        reactor = self._worker.reactor
        self._endpoint = OwnAnswerEndpoint(
            reactor, public_endpoint(reactor, port), self._accepted_by, self._why_nobody_accepts
        )

    def _accepted_by(self, connection: socket.socket) -> AcceptedBy:
        return AcceptedBy.NOBODY if self._program is None else self._program.has_accepted(connection)

    def _why_nobody_accepts(self) -> str:
        program = self._program
        if program is None or program.pid is None:
            return "the program does not run"
        if is_stopped(program.pid):
            return f"the program (pid {program.pid}) is stopped (SIGSTOP): it accepts nothing"
        if self._endpoint is not None and self._endpoint.has_been_own:
            return f"the program (pid {program.pid}) does not accept any more: it hangs, or has stopped listening"
        return (
            f"{self._short} (pid {program.pid}) accepts nothing on the port 'server': it has to take its listening "
            "socket, as descriptor {fd} of the command or by LISTEN_FDS, and may not bind the port itself"
        )

    # --- the end --------------------------------------------------------------------------------

    def _ended(self, status: int) -> None:
        """The program is gone. Who is meant by a SIGTERM shows in a moment; anything else nobody asked for."""
        assert self._worker is not None
        if self._leaving:
            return
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        code = os.WEXITSTATUS(status) if not number else 0
        if number == signal.SIGTERM or (not number and code in (0, 128 + signal.SIGTERM)):
            self._worker.reactor.callLater(VERDICT_SECONDS, self._break, number, code)
        else:
            self._break(number, code)

    def _break(self, number: int, code: int) -> None:
        if self._leaving:
            return
        how = f"was killed by {_name_of(number)}" if number else f"ended by itself with exit status {code}"
        text = f"{self._short} {how}"
        if self._endpoint is not None and not self._endpoint.has_been_own:
            text += ", before it had accepted a connection"
            if not any("{fd" in word for word in self._given):
                text += (
                    "; where it says that the address is in use, it binds the port itself, and has to take the socket "
                    "instead: descriptor {fd} of the command, or LISTEN_FDS"
                )
        kind = CauseKind.SIGNAL if number else CauseKind.EXIT
        self.broken(ErrorRecord(type="serverworker.CommandEnded", message=text), kind)

    def _end(self, reason: ExitReason) -> Deferred[None] | None:
        """As an exit handler: beside the others, for as long as the drain may take; then it is killed."""
        self._leaving = True
        if reason.kind is ExitKind.CRASH:
            # What would be dumped are this process's stacks, which say nothing of the program.
            signal.signal(DUMP_SIGNAL, signal.SIG_IGN)
        if self._program is None or not self._program.runs:
            return None
        if reason.kind is ExitKind.CRASH:
            self._program.kill()
            return self._program.when_gone()
        return self._program.terminate()


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
