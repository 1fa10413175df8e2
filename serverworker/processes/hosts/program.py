"""A program that a worker runs beside itself, with the session's sockets: started, watched, ended."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from serverworker.processes.descendants import processes, with_offspring
from serverworker.processes.hosts import exec_shim
from serverworker.processes.inheritance import FIRST_DESCRIPTOR, listen_environment
from serverworker.processes.own_answer import AcceptedBy
from serverworker.processes.sock_diag import far_inode
from serverworker.processes.socket_holders import holds

_SHIM = str(Path(exec_shim.__file__).resolve())


class Program:
    """One run of a program. Its output is this process's own; its children are in its process group."""

    _log = Logger(namespace="serverworker.worker")

    def __init__(self, reactor: Any, path: str, words: Sequence[str], ended: Callable[[int], object]) -> None:
        """`words` are its arguments, its own name first; `ended(status)` is told as by waitpid(2), once."""
        self._reactor = reactor
        self._path = path
        self._words = words
        self._ended = ended
        self._gone: list[Deferred[None]] = []
        self._cannot_tell = False
        self.pid: int | None = None
        """Also once it is gone; None before it is started."""
        self.runs = False
        """Whether it is there."""

    def start(self, sockets: Mapping[str, socket.socket]) -> None:
        """Start it, with these sockets as descriptors 3, 4, … Raises `OSError` where the system cannot."""
        environment = {**os.environ, **(listen_environment(list(sockets)) if sockets else {})}
        descriptors = {number: number for number in range(FIRST_DESCRIPTOR)}
        descriptors.update(enumerate((each.fileno() for each in sockets.values()), FIRST_DESCRIPTOR))
        # Without site-packages and variables it takes some 7 ms until it is the program.
        arguments = [sys.executable, "-I", "-S", "-E", _SHIM, self._path, *self._words]
        self.runs = True  # it may have ended before this returns
        try:
            transport = self._reactor.spawnProcess(
                _Exit(self._exited), sys.executable, arguments, env=environment, childFDs=descriptors
            )
        except OSError:
            self.runs = False
            raise
        self.pid = transport.pid

    def has_accepted(self, connection: socket.socket) -> AcceptedBy:
        """Whether this program, or a process of its own, has accepted what `connection` is this end of."""
        if self._cannot_tell:
            return AcceptedBy.OWN
        try:
            inode = far_inode(connection)
        except ConnectionError:
            return AcceptedBy.NOBODY
        except OSError as error:
            self._cannot_tell = True
            self._log.warn(
                "the kernel does not tell who accepts a connection ({error}): from now on the heartbeat takes the "
                "answer of whichever worker's program accepts",
                error=error,
            )
            return AcceptedBy.OWN
        if not inode:
            return AcceptedBy.NOBODY
        assert self.pid is not None
        if holds(self.pid, inode):
            return AcceptedBy.OWN
        family = with_offspring(processes(), [self.pid])
        return AcceptedBy.OWN if any(holds(pid, inode) for pid in family) else AcceptedBy.OTHER

    def terminate(self) -> Deferred[None]:
        """Ask it to finish and end, by SIGTERM; fires when it has ended. Who cancels that has it killed."""
        self._signal(signal.SIGTERM)
        return self.when_gone()

    def when_gone(self) -> Deferred[None]:
        """Fires when it is there no more. To be called while it runs; who cancels it has it killed."""
        gone: Deferred[None] = Deferred(lambda _: self.kill())
        self._gone.append(gone)
        return gone

    def kill(self) -> None:
        """SIGKILL, to all of its process group."""
        if self.pid is not None and self.runs:
            try:
                os.killpg(self.pid, signal.SIGKILL)
            except ProcessLookupError:  # it does not lead it yet: so young
                self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self.pid is not None and self.runs:  # until it is reaped the pid is nobody else's
            os.kill(self.pid, number)

    def _exited(self, status: int) -> None:
        self.runs = False
        gone, self._gone = self._gone, []
        for each in gone:
            if not each.called:
                each.callback(None)
        self._ended(status)


class _Exit(ProcessProtocol):
    """Twisted's view of it."""

    def __init__(self, exited: Callable[[int], None]) -> None:
        self._exited = exited

    def processExited(self, reason: Failure) -> None:
        ended: Any = reason.value  # ProcessDone or ProcessTerminated
        self._exited(ended.status)
