"""The monitor's side of the fork server: workers are forked where that comes to the same as a new interpreter."""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.interfaces import IProcessProtocol
from twisted.internet.process import registerReapProcessHandler, unregisterReapProcessHandler
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from serverworker.processes import fork_channel
from serverworker.processes.descendants import read_process
from serverworker.processes.exit_statuses import take_status
from serverworker.processes.fork_channel import FORK_SERVER
from serverworker.processes.spawn import Ends, InterpreterSpawner, Recipe, Start, connected

ANSWER_SECONDS = 1.0
"""A fork takes some milliseconds. A fork server that does not answer for so long is killed."""

FIRST_SECONDS = 2.0
"""The session's first worker is as soon forked as started anew, so it waits for the fork server; no later one does."""

AGAIN_SECONDS = 10.0
"""Between the starts of two fork servers."""

_READ_AT_START = ("PYTHON", "LD_", "GLIBC_", "MALLOC_", "LC_", "LANG", "OPENSSL_", "SSL_")
"""What the names of variables begin with that Python, the C library and OpenSSL read once, when a process starts."""


class ForkServerLost(Exception):
    """There is no fork server any more, or it is out of date. The text says why."""


class ForkedProcess:
    """A child of this process that the reactor has not spawned, as the transport of its protocol."""

    def __init__(self, pid: int, protocol: IProcessProtocol) -> None:
        self.pid: int | None = pid
        self._protocol = protocol
        protocol.makeConnection(self)  # type: ignore[arg-type]  # of IProcessTransport it has what we use
        registerReapProcessHandler(pid, self)

    def signalProcess(self, signal_id: int | str) -> None:
        """Send it a signal, by its number or as ``KILL``. Raises `ProcessExitedAlready`."""
        if self.pid is None:
            raise ProcessExitedAlready
        os.kill(self.pid, signal.Signals[f"SIG{signal_id}"] if isinstance(signal_id, str) else signal_id)

    def reapProcess(self) -> None:
        """Called by Twisted after each SIGCHLD."""
        status = None if self.pid is None else take_status(self.pid, "process")
        if status is not None:
            unregisterReapProcessHandler(self.pid, self)
            self.processEnded(status)

    def processEnded(self, status: int) -> None:
        """Called by Twisted where the process has ended before it could be registered."""
        self.pid = None
        good = os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0
        if good:
            error: Exception = ProcessDone(status)
        elif os.WIFSIGNALED(status):
            error = ProcessTerminated(None, os.WTERMSIG(status), status)
        else:
            error = ProcessTerminated(os.WEXITSTATUS(status), None, status)
        self._protocol.processExited(Failure(error))


class ForkServer(ProcessProtocol):
    """One fork server, as its parent sees it."""

    def __init__(self, channel: socket.socket) -> None:
        channel.settimeout(ANSWER_SECONDS)
        self._channel = channel
        self._loading = 0
        self.pid: int | None = None
        self.ended: str | None = None
        """How, where it has."""
        self.on_end: Callable[[], object] = lambda: None

    def connectionMade(self) -> None:
        """It runs."""
        assert self.transport is not None
        self.pid = self.transport.pid

    def preload(self, modules: Sequence[str]) -> None:
        """Have it import what its workers will need; `is_ready` says when it has."""
        self._loading += 1
        with suppress(OSError):  # it is gone, as the next question shows
            fork_channel.send(self._channel, {"preload": modules})

    def is_ready(self, seconds: float) -> bool:
        """Whether all is imported; waits for so long until it is."""
        if self.ended is not None:
            return False
        self._channel.settimeout(seconds)
        try:
            while self._loading:
                fork_channel.receive(self._channel)
                self._loading -= 1
        except (BlockingIOError, TimeoutError):
            return False
        except (EOFError, OSError):
            self._loading = 0
        finally:
            self._channel.settimeout(ANSWER_SECONDS)
        return True

    def fork(self, protocol: IProcessProtocol, worker: Start) -> ForkedProcess:
        """Have a worker forked.

        Raises `ForkServerLost`, where another way has to be taken, and OSError where the system can start no process.
        """
        wanted = {
            "arguments": worker.arguments,
            "environment": dict(worker.environment),
            "count": len(worker.descriptors),
        }
        try:
            fork_channel.send(self._channel, wanted, worker.descriptors)
            answer = fork_channel.receive(self._channel).content
        except (EOFError, OSError) as error:
            raise ForkServerLost(f"it does not answer: {error}") from error
        if "stale" in answer:
            raise ForkServerLost(f"{answer['stale']} has changed since it was imported")
        if "error" in answer:
            number = answer["error"] or errno.EAGAIN
            raise OSError(number, os.strerror(number))
        pid: int = answer["pid"]
        try:
            entry = read_process(pid)
        except OSError:  # no descriptor is left to look with, and the worker is there
            entry = None
        if entry is not None and entry.parent != os.getpid():
            # Nobody would see its death. Its channel is closed with the error, and with it it ends.
            raise ForkServerLost(f"what it forks is not adopted by this process, but by {entry.parent}")
        return ForkedProcess(pid, protocol)

    def end(self) -> None:
        """End it, whatever it is at: it has nothing to lose."""
        self._channel.close()
        if self.transport is not None:
            with suppress(ProcessExitedAlready):
                self.transport.signalProcess("KILL")

    def processExited(self, reason: Failure) -> None:
        """It has ended."""
        self.ended = reason.getErrorMessage()
        self._channel.close()
        self.on_end()


class ForkSpawner:
    """Forks workers, where the fork comes to the same; otherwise starts them as new interpreters."""

    _log = Logger(namespace="serverworker.monitor")

    def __init__(
        self,
        reactor: Any,
        *,
        environment: Mapping[str, str],
        preload: Sequence[str],
        watch: Callable[[int], None],
        forget: Callable[[int], None],
        first: ForkServer | None = None,
    ) -> None:
        """`environment` is the monitor's own, with the session's mark; `preload` what workers need beyond the common.

        The guardian is told the pid of each fork server. The `first` one is there already.
        """
        self._reactor = reactor
        self._interpreter = InterpreterSpawner(reactor)
        self._environment = environment
        self._preload = preload
        self._watch = watch
        self._forget = forget
        self._server: ForkServer | None = None
        self._not_before = 0.0
        self._patience = FIRST_SECONDS
        self._closed = False
        if first is not None:
            self._take(first)

    def spawn(self, recipe: Recipe, worker_id: int, protocol: IProcessProtocol) -> Ends:
        """See `Spawner.spawn`."""
        server = None
        if self._may_fork(recipe):
            server = self._ready_server()
        else:
            self._end_server()
        if server is not None:
            try:
                return connected(recipe, worker_id, partial(server.fork, protocol))
            except ForkServerLost as lost:
                self._log.info(
                    "the fork server is replaced: {why}. Worker {id} is started without it",
                    why=str(lost),
                    id=worker_id,
                )
                self._end_server()
                self._start()
        return self._interpreter.spawn(recipe, worker_id, protocol)

    def close(self) -> None:
        """End the fork server; no worker is to be started any more."""
        self._closed = True
        self._end_server()

    def _may_fork(self, recipe: Recipe) -> bool:
        """Whether a new interpreter would be no other than this one."""
        return recipe.python == sys.executable and _at_start(recipe.environment) == _at_start(
            self._environment
        )

    def _ready_server(self) -> ForkServer | None:
        if self._server is None or self._server.ended is not None:
            self._start()
        patience, self._patience = self._patience, 0.0
        return self._server if self._server is not None and self._server.is_ready(patience) else None

    def _start(self) -> None:
        """Start a fork server, if it is time for one. It is ready later."""
        if self._closed or self._reactor.seconds() < self._not_before:
            return
        self._not_before = self._reactor.seconds() + AGAIN_SECONDS
        try:
            self._take(start_fork_server(self._reactor, self._environment))
        except OSError as error:
            self._log.warn(
                "no fork server can be started ({error}): workers take longer to start", error=error
            )

    def _end_server(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.end()

    def _take(self, server: ForkServer) -> None:
        server.on_end = partial(self._ended, server)
        self._server = server
        if server.pid is not None:
            self._watch(server.pid)
        server.preload(self._preload)

    def _ended(self, server: ForkServer) -> None:
        if server.pid is not None:
            self._forget(server.pid)
        if server is self._server:
            self._server = None
            self._log.info("the fork server has ended: {how}", how=server.ended)


def start_fork_server(reactor: Any, environment: Mapping[str, str]) -> ForkServer:
    """Start one as a process of its own. Raises OSError where the system cannot."""
    ours, theirs = socket.socketpair()
    server = ForkServer(ours)
    nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        reactor.spawnProcess(
            server,
            sys.executable,
            [sys.executable, "-m", FORK_SERVER, "3"],
            env=dict(environment),
            childFDs={0: nowhere, 1: nowhere, 2: nowhere, 3: theirs.fileno()},
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
        os.close(nowhere)
    return server


def _at_start(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(_READ_AT_START)}
