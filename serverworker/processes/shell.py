"""Commands of the agent's (`exec` of the original): run without blocking, told line by line, ended in time.

A command leads a session of its own, so that it is ended as a whole, and ^C on the monitor's terminal does not
reach it. `reactor.spawnProcess` cannot do that without a terminal: setsid(1) in front of the command is one more
program that may be missing and hides the command's own "not found", a Python child costs 20 ms, and /bin/sh has no
word for it. `subprocess.Popen(start_new_session=True)` has: it forks by vfork, so that the monitor's size does not
count, changes the directory too, closes every other descriptor, returns once the command is there, and raises what
kept it from starting. Only its waiting blocks, and that is left to the reactor, which reaps this child as its own.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from attrs import frozen
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IReactorFDSet, IReactorTime, IReadDescriptor
from twisted.internet.process import registerReapProcessHandler, unregisterReapProcessHandler
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from serverworker.processes.exit_statuses import take_status
from serverworker.processes.output import LineSplitter, read_available
from serverworker.values.errors import ServerWorkerError
from serverworker.values.events import OutputLine

KEPT_BYTES = 1024 * 1024
"""So much of each stream's end stands in the result; every line is told in any case."""
KILL_GRACE_SECONDS = 5.0
"""How long after SIGKILL the result waits for the end of a process that the kernel keeps."""
_CHUNK = 16 * 1024  # at a wake-up: a command that prints without end leaves the reactor its turns
_SHOWN = 200  # characters of a command in an error

_log = Logger(namespace="serverworker.exec")


class IShellReactor(IReactorTime, IReactorFDSet):
    """What of a reactor is needed. It must be the one whose process reaps children on SIGCHLD."""


@frozen(kw_only=True)
class ShellResult:
    """What a command came to."""

    status: int
    """Its exit status, or minus the number of the signal that ended it."""
    stdout: str
    """The last MiB."""
    stderr: str
    """The last MiB."""
    seconds: float
    """How long it ran."""
    timed_out: bool = False
    """It was killed at the deadline (and told as ended 5 s later even where the kernel still kept it)."""
    truncated: bool = False
    """A stream was longer than what stands here."""


def run(
    reactor: IShellReactor,
    command: str | Sequence[str],
    told: Callable[[OutputLine], None],
    timeout_seconds: float,
    directory: str | None = None,
    environment: Mapping[str, str] | None = None,
    started: Callable[[int], None] | None = None,
) -> Deferred[ShellResult]:
    """Run a command and tell what it prints; nothing is written to its stdin.

    A text is run by ``/bin/sh -c``, a sequence as it is, without a shell. `environment` is the whole of the
    command's environment; None: the monitor's own. `started` is given the process id, which is also that of its
    session and its group.

    The result comes when the command itself has ended, with all that it has printed; a process that it left in
    the background lives on, and can print no more. At the deadline the command and its group are killed and the
    result says so; cancelling kills them too. Any exit status is a result, not an error.

    Fails with `ServerWorkerError` where the command cannot be started, with the reason.
    """
    if not 0 < timeout_seconds < math.inf:
        return fail(ServerWorkerError(f"a command needs a deadline of more than 0 s, not {timeout_seconds}"))
    running = _Running(reactor, told)
    try:
        running.start(command, directory, environment)
    except (OSError, ValueError, TypeError, subprocess.SubprocessError) as error:
        running.abandon()
        return fail(ServerWorkerError(_cannot_run(command, error)))
    if started is not None:
        with _log.failuresHandled("nobody could be told of command {pid}; it runs on", pid=running.pid):
            started(running.pid)
    return running.watch(timeout_seconds)


def _cannot_run(command: str | Sequence[str], error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        reason = error.strerror + (f": {error.filename!r}" if error.filename else "")
    else:
        reason = str(error)
    shown = repr(command)
    if len(shown) > _SHOWN:
        shown = shown[:_SHOWN] + "…"
    return f"the command {shown} cannot be run: {reason}; nothing was started"


class _Tail:
    """The last bytes of a stream."""

    def __init__(self) -> None:
        self._parts: deque[bytes] = deque()
        self._bytes = 0
        self.truncated = False

    def append(self, data: bytes) -> None:
        self._parts.append(data)
        self._bytes += len(data)
        self.truncated = self.truncated or self._bytes > KEPT_BYTES
        while self._bytes - len(self._parts[0]) >= KEPT_BYTES:
            self._bytes -= len(self._parts.popleft())

    def text(self) -> str:
        return b"".join(self._parts)[-KEPT_BYTES:].decode("utf-8", "replace")


@implementer(IReadDescriptor)
class _Stream:
    """The reading end of one of the command's pipes."""

    def __init__(self, reactor: IShellReactor, name: str, told: Callable[[OutputLine], None]) -> None:
        self._reactor = reactor
        self._name = name
        self._told = told
        self._splitter = LineSplitter()
        self.tail = _Tail()
        self._fd, self._write_end = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._fd, False)

    @property
    def write_end(self) -> int:
        """The command's end, ours until `hand_over`."""
        return self._write_end

    def hand_over(self) -> None:
        """The command has its end of its own now: without this the pipe would never end."""
        if self._write_end >= 0:
            os.close(self._write_end)
            self._write_end = -1

    def logPrefix(self) -> str:
        return f"exec {self._name}"

    def fileno(self) -> int:
        return self._fd

    def doRead(self) -> None:
        """Take what one read gives; at the end of the pipe, close it."""
        try:
            data = os.read(self._fd, _CHUNK)
        except BlockingIOError:
            return
        if data:
            self._take(data)
        else:
            self.finish()

    def connectionLost(self, reason: Failure) -> None:
        """Nobody has the other end any more."""
        self.finish()

    def finish(self) -> None:
        """Take what is still in the pipe, waiting for nothing, and close it. Twice is no error."""
        if self._fd < 0:
            return
        self._take(read_available(self._fd, cap=KEPT_BYTES))
        self._tell(self._splitter.flush())
        self.close()

    def close(self) -> None:
        """Let go of the pipe."""
        if self._fd >= 0:
            self._reactor.removeReader(self)
            os.close(self._fd)
            self._fd = -1

    def _take(self, data: bytes) -> None:
        if data:
            self.tail.append(data)
            self._tell(self._splitter.feed(data))

    def _tell(self, lines: list[str]) -> None:
        for line in lines:
            with _log.failuresHandled("a line that a command printed could not be told"):
                self._told(OutputLine(source="exec", stream=self._name, text=line))


class _Running:
    """One command, from its start to its result. The reactor's reaper calls the two methods in camelCase."""

    pid = 0

    def __init__(self, reactor: IShellReactor, told: Callable[[OutputLine], None]) -> None:
        self._reactor = reactor
        self._told = told
        self._began = reactor.seconds()
        self._streams: list[_Stream] = []
        self._timer: IDelayedCall | None = None
        self._timed_out = False
        self._ended = False
        self._result: Deferred[ShellResult] | None = None

    def start(
        self, command: str | Sequence[str], directory: str | None, environment: Mapping[str, str] | None
    ) -> None:
        """Start the process. Raises what kept it from starting; then `abandon` is due."""
        argv = ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)
        if not argv:
            raise ValueError("it is empty")
        for name in ("stdout", "stderr"):
            self._streams.append(_Stream(self._reactor, name, self._told))
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=self._streams[0].write_end,
            stderr=self._streams[1].write_end,
            cwd=directory,
            env=environment,
            start_new_session=True,
        )
        # Any status will do: Popen, which asks for the true one when it is forgotten, must not take it from the
        # reactor.
        process.returncode = 0
        self.pid = process.pid
        for stream in self._streams:
            stream.hand_over()

    def abandon(self) -> None:
        """Nothing was started, or nobody wants to hear of it any more."""
        for stream in self._streams:
            stream.hand_over()
            stream.close()

    def watch(self, timeout_seconds: float) -> Deferred[ShellResult]:
        """Listen to the process until it ends."""
        result: Deferred[ShellResult] = Deferred(self._cancel)
        self._result = result
        for stream in self._streams:
            self._reactor.addReader(stream)
        self._timer = self._reactor.callLater(timeout_seconds, self._overdue)
        registerReapProcessHandler(self.pid, self)  # which calls `processEnded` at once if it has ended
        return result

    def reapProcess(self) -> None:
        """A child of this process has ended: this one?"""
        status = take_status(self.pid, "command")
        if status is not None:
            unregisterReapProcessHandler(self.pid, self)
            self.processEnded(status)

    def processEnded(self, status: int) -> None:
        """It has ended, with this status of waitpid(2)."""
        self._ended = True
        self._settle(os.waitstatus_to_exitcode(status))

    def _overdue(self) -> None:
        self._timed_out = True
        self._timer = self._reactor.callLater(KILL_GRACE_SECONDS, self._settle, -signal.SIGKILL)
        self._kill()

    def _cancel(self, result: Deferred[ShellResult]) -> None:
        self._result = None
        self._stop_timer()
        self._kill()
        self.abandon()

    def _kill(self) -> None:
        # Never after its end: the number may be another's by then. Not permitted where it changed its user.
        if not self._ended:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def _settle(self, status: int) -> None:
        self._stop_timer()
        result, self._result = self._result, None
        if result is None:
            return
        seconds = self._reactor.seconds() - self._began
        for stream in self._streams:
            stream.finish()
        stdout, stderr = (stream.tail for stream in self._streams)
        result.callback(
            ShellResult(
                status=int(status),
                stdout=stdout.text(),
                stderr=stderr.text(),
                seconds=seconds,
                timed_out=self._timed_out,
                truncated=stdout.truncated or stderr.truncated,
            )
        )

    def _stop_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
