"""The console: plain lines on the terminal that the monitor runs on."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReactorFDSet, IReactorTime, IReadDescriptor
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure
from zope.interface import implementer

from serverworker.processes.awaiting import record_of
from serverworker.processes.output import LineSplitter
from serverworker.surfaces.desk import Asker, Desk, Outcome
from serverworker.surfaces.operator_commands import Parsed, parse, run
from serverworker.values.errors import BadCommand, ServerWorkerError

_BACKGROUND_SECONDS = 1.0
"""How often a monitor in the background looks whether the terminal is its own again (``fg``)."""


_ASKER = Asker(who="the console", surface="console")


class IConsoleReactor(IReactorFDSet, IReactorTime):
    """What the console needs of a reactor."""


@implementer(IReadDescriptor)
class Console:
    """Reads lines, runs what they mean one at a time, and says what came of it."""

    _log = Logger(namespace="serverworker.console")

    def __init__(
        self,
        *,
        reactor: IConsoleReactor,
        desk: Desk,
        write: Callable[[str], Any],
    ) -> None:
        """`write` shows a text to the operator."""
        self._reactor = reactor
        self._desk = desk
        self._write = write
        self._busy: Parsed | None = None
        self._splitter = LineSplitter()
        self._descriptor = -1
        self._pause: IDelayedCall | None = None

    # --- lines ----------------------------------------------------------------------------------

    def line_received(self, line: str) -> None:
        """One line of the operator's. Whatever comes of it, the console goes on."""
        if not line.strip():
            return
        try:
            parsed = parse(line, self._desk, _ASKER)
        except BadCommand as error:
            self._say(str(error))
            return
        if self._busy is not None and not parsed.at_any_time:
            self._say(f"busy with {self._busy.text!r}: wait for its end")
            return
        if not parsed.at_any_time:
            self._busy = parsed
        run(parsed, self._desk, _ASKER).addBoth(self._show, parsed)

    def _show(self, result: Outcome | Failure, parsed: Parsed) -> None:
        if self._busy is parsed:
            self._busy = None
        if not isinstance(result, Failure):
            self._say(result.text)
        elif isinstance(result.value, BadCommand):
            self._say(str(result.value))
        elif isinstance(result.value, ServerWorkerError):
            self._say(f"{parsed.text!r} failed: {result.getErrorMessage()}")
        else:
            self._say(f"{parsed.text!r} failed: {record_of(result)}")
            text = "console command {command!r} failed; the session goes on"
            self._log.failure(text, result, LogLevel.error, command=parsed.text)

    def _say(self, text: str) -> None:
        with suppress(OSError):  # the terminal is gone, which the next read tells as well
            self._write(f"{text}\n")

    # --- the terminal ---------------------------------------------------------------------------

    def attach(self, terminal: int) -> None:
        """Read from the terminal that `terminal` is a descriptor of.

        It is opened anew: to make the descriptor itself non-blocking would make it so for the shell as well, and for
        everything that the monitor prints there. Where it cannot be opened (inside another mount namespace it has no
        name), there is no console, and the session goes on without.
        """
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        try:
            self._descriptor = os.open(os.ttyname(terminal), flags)
        except OSError as error:
            self._log.warn("no console: the terminal cannot be opened: {error}", error=error)
            return
        self._reactor.addReader(self)

    def detach(self) -> None:
        """Read no more."""
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
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
            data = self._read()
        except BlockingIOError:
            return
        except OSError:
            if self._is_in_background():
                self._reactor.removeReader(self)
                self._pause = self._reactor.callLater(_BACKGROUND_SECONDS, self._go_on)
                return
            data = b""  # the terminal is gone
        if not data:
            self.detach()
            return
        for line in self._splitter.feed(data):
            self.line_received(line)

    def _read(self) -> bytes:
        # With the signal let through, the kernel would stop the whole monitor for reading in the background, as soon
        # as somebody types into the shell that started it with `&`.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTIN})
        try:
            return os.read(self._descriptor, 65536)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _is_in_background(self) -> bool:
        try:
            return os.tcgetpgrp(self._descriptor) != os.getpgrp()
        except OSError:  # it is gone, or it is nobody's controlling terminal
            return False

    def _go_on(self) -> None:
        self._pause = None
        self._reactor.addReader(self)

    def connectionLost(self, reason: Failure) -> None:
        """The reactor lets go of it."""
        self.detach()
