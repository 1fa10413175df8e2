"""The console: plain lines on the terminal that the monitor runs on."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReactorFDSet, IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from serverworker.monitor.console_commands import ConsoleCommands
from serverworker.monitor.handle import Monitor
from serverworker.processes.awaiting import record_of
from serverworker.processes.output import LineSplitter
from serverworker.surfaces.operator_commands import BadCommand, Parsed, parse, run
from serverworker.values.errors import ServerWorkerError


@implementer(IReadDescriptor)
class Console:
    """Reads lines, runs what they mean one at a time, and says what came of it."""

    _log = Logger(namespace="serverworker.console")

    def __init__(
        self,
        *,
        reactor: IReactorFDSet,
        monitor: Monitor,
        agents: ConsoleCommands,
        write: Callable[[str], Any],
    ) -> None:
        """`write` shows a text to the operator."""
        self._reactor = reactor
        self._monitor = monitor
        self._agents = agents
        self._write = write
        self._busy: Parsed | None = None
        self._splitter = LineSplitter()
        self._descriptor = -1

    # --- lines ----------------------------------------------------------------------------------

    def line_received(self, line: str) -> None:
        """One line of the operator's. Whatever comes of it, the console goes on."""
        if not line.strip():
            return
        try:
            parsed = parse(line, self._monitor, self._agents)
        except BadCommand as error:
            self._write(f"{error}\n")
            return
        if self._busy is not None and not parsed.at_any_time:
            self._write(f"busy with {self._busy.text!r}: wait for its end\n")
            return
        if not parsed.at_any_time:
            self._busy = parsed
        run(parsed).addBoth(self._show, parsed)

    def _show(self, result: Any, parsed: Parsed) -> None:
        if self._busy is parsed:
            self._busy = None
        if not isinstance(result, Failure):
            self._write(f"{'done' if result is None else result}\n")
        elif isinstance(result.value, ServerWorkerError):
            self._write(f"{parsed.text!r} failed: {result.getErrorMessage()}\n")
        else:
            self._write(f"{parsed.text!r} failed: {record_of(result)}\n")
            self._log.failure("console command {command!r}", result, command=parsed.text)

    # --- the terminal ---------------------------------------------------------------------------

    def attach(self, terminal: int) -> None:
        """Read from the terminal that `terminal` is a descriptor of.

        It is opened anew: to make the descriptor itself non-blocking would make it so for the shell as well, and for
        everything that the monitor prints there.
        """
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        self._descriptor = os.open(os.ttyname(terminal), flags)
        self._reactor.addReader(self)

    def detach(self) -> None:
        """Read no more."""
        if self._descriptor >= 0:
            self._reactor.removeReader(self)
            os.close(self._descriptor)
            self._descriptor = -1

    def fileno(self) -> int:
        """The terminal's descriptor."""
        return self._descriptor

    def logPrefix(self) -> str:
        """What Twisted calls this in its log."""
        return "console"

    def doRead(self) -> None:
        """The operator has typed a line."""
        try:
            data = os.read(self._descriptor, 65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""  # the terminal is gone
        if not data:
            self.detach()
            return
        for line in self._splitter.feed(data):
            self.line_received(line)

    def connectionLost(self, reason: Failure) -> None:
        """The reactor lets go of it."""
        self.detach()
