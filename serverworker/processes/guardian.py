"""The monitor's side of the guardian: starts it, tells it what to watch, starts it again when it dies.

The guardian itself, and what it does when the monitor is gone, stand in `guardian_child.py`.
"""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import IDelayedCall, IProcessTransport, IReactorProcess, IReactorTime
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from serverworker.processes import guardian_child
from serverworker.processes.descendants import read_process

CHILD = str(Path(guardian_child.__file__).resolve())
"""The program that the guardian process runs."""

MARK_VARIABLE = "SERVERWORKER_SESSION"
"""In the environment of all that the monitor starts, so that it is found whatever became of its parents."""

FIRST_DELAY_SECONDS = 1.0
LONGEST_DELAY_SECONDS = 60.0
"""Before a dead guardian is followed by the next: doubled each time, reset once one has lived for the longest."""

STOP_MARGIN_SECONDS = 5.0
"""What a stopping guardian gets beyond its own deadlines before it is killed itself."""


class IGuardianReactor(IReactorProcess, IReactorTime):
    """What a guardian needs of a reactor: starting a process, and the time."""


class Guardian:
    """Keeps one guardian process beside the monitor, and knows all that it was told.

    Nothing here raises for the system's sake: a guardian that cannot be started is logged and tried again.
    """

    _log = Logger()

    def __init__(self, reactor: IGuardianReactor, *, python: str = sys.executable) -> None:
        self._reactor = reactor
        self._python = python
        self._mark = secrets.token_hex(16)  # no secret: it only has to be no other session's
        self._deadline = 0.0
        self._watched: dict[int, int] = {}
        self._pipe: int | None = None
        self._transport: IProcessTransport | None = None
        self._born = 0.0
        self._delay = FIRST_DELAY_SECONDS
        self._timer: IDelayedCall | None = None
        self._stopping = False
        self._waiting: list[Deferred[None]] = []

    @property
    def pid(self) -> int | None:
        """The guardian's own process id; None while there is none."""
        return None if self._transport is None else self._transport.pid

    @property
    def environment(self) -> dict[str, str]:
        """To be added to the environment of every process that the monitor starts.

        With it the guardian finds those as well that it was not told of in time, and those that left both their session
        and their parents (a daemon that an application started).
        """
        return {MARK_VARIABLE: self._mark}

    def start(self, drain_seconds: float) -> None:
        """Starts the guardian. `drain_seconds`: how long workers may go on once the monitor is gone."""
        self._deadline = drain_seconds
        self._spawn()

    def watch(self, pid: int) -> None:
        """Tells of a process that was just spawned: call this in the same turn, before it can be reaped."""
        try:
            entry = read_process(pid)
        except OSError:
            started = 0  # no descriptor left to read it with: the guardian reads it
        else:
            if entry is None:
                return
            started = entry.started
        self._watched[pid] = started
        self._tell(f"watch {pid} {started}")

    def forget(self, pid: int) -> None:
        """Tells that a process is gone, and all of its session."""
        if self._watched.pop(pid, None) is not None:
            self._tell(f"forget {pid}")

    def started_at(self, pid: int) -> int | None:
        """When a watched process started, in ticks since the machine's boot, as `kill_session` takes it; or None."""
        return self._watched.get(pid) or None

    def set_deadline(self, seconds: float) -> None:
        """Changes how long workers may go on once the monitor is gone. With 0 they are killed at once then."""
        self._deadline = seconds
        self._tell(f"deadline {seconds:f}")

    def stop(self) -> Deferred[None]:
        """Lets the guardian do its duty and end; fires when it has ended, and with it all that it watched.

        That takes up to the deadline where something watched goes on: see `set_deadline`.
        """
        self._stopping = True
        self._close_pipe()
        if self._transport is None:
            self._cancel_timer()
            return succeed(None)
        if not self._waiting:
            patience = self._deadline + guardian_child.KILLING_SECONDS + STOP_MARGIN_SECONDS
            self._timer = self._reactor.callLater(patience, self._kill)
        stopped: Deferred[None] = Deferred()
        self._waiting.append(stopped)
        return stopped

    def _spawn(self) -> None:
        self._timer = None
        self._born = self._reactor.seconds()
        try:
            self._start_process()
        except OSError as error:
            self._close_pipe()
            self._again(f"could not be started: {error}")

    def _start_process(self) -> None:
        """Starts the process with nothing but the pipe. It may be dead, and `_ended` called, before this returns."""
        reading, self._pipe = os.pipe()
        try:
            # Written to without the reactor: a worker must be known before the turn that spawned it is over.
            os.set_blocking(self._pipe, False)
            # Before it lives: from its first moment on it knows what to do when the monitor is killed.
            self._write(f"deadline {self._deadline:f}")
            self._write(f"mark {MARK_VARIABLE}={self._mark}")
            for pid, started in self._watched.items():
                self._write(f"watch {pid} {started}")
            nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            try:
                self._reactor.spawnProcess(
                    _GuardianProcess(self),
                    self._python,
                    [self._python, "-I", "-S", "-E", CHILD],
                    env=_environment(),
                    childFDs={0: reading, 1: nowhere, 2: nowhere},
                )
            finally:
                os.close(nowhere)
        finally:
            os.close(reading)

    def _lives(self, transport: IProcessTransport) -> None:
        self._transport = transport
        self._log.debug("the guardian runs, pid {pid}", pid=transport.pid)

    def _ended(self, reason: Failure) -> None:
        self._transport = None
        self._close_pipe()
        self._cancel_timer()
        if not self._stopping:
            if self._reactor.seconds() - self._born >= LONGEST_DELAY_SECONDS:
                self._delay = FIRST_DELAY_SECONDS
            self._again(f"ended: {reason.getErrorMessage()}")
        waiting, self._waiting = self._waiting, []
        for stopped in waiting:
            stopped.callback(None)

    def _again(self, what: str) -> None:
        """Plans the next try, and says so."""
        self._log.warn(
            "the guardian {what}. The next one is started in {delay:g} s; until then a kill -9 of the monitor "
            "could leave stopped or hung workers behind",
            what=what,
            delay=self._delay,
        )
        self._timer = self._reactor.callLater(self._delay, self._spawn)
        self._delay = min(self._delay * 2, LONGEST_DELAY_SECONDS)

    def _tell(self, line: str) -> None:
        if self._transport is None:
            return  # the next guardian is told everything before it lives
        try:
            self._write(line)
        except BrokenPipeError:
            return  # it is dead; `_ended` follows
        except BlockingIOError:
            self._log.warn("the guardian does not read what it is told (stopped?): it is killed and replaced")
            self._kill()

    def _write(self, line: str) -> None:
        if self._pipe is not None:
            os.write(self._pipe, line.encode() + b"\n")  # whole or not at all: shorter than PIPE_BUF

    def _kill(self) -> None:
        self._timer = None
        if self._transport is not None:
            try:
                self._transport.signalProcess("KILL")
            except ProcessExitedAlready:
                return  # `_ended` follows

    def _close_pipe(self) -> None:
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            os.close(pipe)

    def _cancel_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()


class _GuardianProcess(ProcessProtocol):
    """Reports the guardian's life and death. It has no pipe of Twisted's, so its end is one moment."""

    def __init__(self, guardian: Guardian) -> None:
        self._guardian = guardian

    def connectionMade(self) -> None:
        assert self.transport is not None
        self._guardian._lives(self.transport)

    def processEnded(self, reason: Failure) -> None:
        self._guardian._ended(reason)


def _environment() -> dict[str, str]:
    """Next to nothing: no mark, no secret, only what a Python built with shared libraries may need to start."""
    return {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
