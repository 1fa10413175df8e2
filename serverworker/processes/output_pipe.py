"""The monitor's end of a pipe that a worker prints into: read as it comes, or left alone for a while."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from serverworker.processes.output import read_available

READ_BYTES = 65536
"""So much is read at once, which is all that a pipe holds: Twisted's own reader takes an eighth of it."""


GATHER_SECONDS = 0.001
"""So long it is left alone after what was there has been read: to be woken for each line of many costs both sides."""


@implementer(IReadDescriptor)
class OutputPipe:
    """Reads a pipe that does not block, and hands on what comes. While it is paused, whoever fills the pipe waits."""

    def __init__(self, reactor: Any, descriptor: int, received: Callable[[bytes], object]) -> None:
        """Takes the descriptor over; reads nothing before `resume`."""
        self._reactor = reactor
        self._descriptor = descriptor
        self._received = received
        self._gathering: IDelayedCall | None = None
        self._paused = True

    def resume(self) -> None:
        """Read from now on."""
        self._paused = False
        if self._descriptor >= 0 and self._gathering is None:
            self._reactor.addReader(self)

    def pause(self) -> None:
        """Read no more for now."""
        self._paused = True
        if self._descriptor >= 0:
            self._reactor.removeReader(self)

    def read_rest(self) -> None:
        """Hand on what is in it, without waiting for more, and close it."""
        if self._descriptor >= 0:
            data = read_available(self._descriptor)
            self.close()
            if data:
                self._received(data)

    def close(self) -> None:
        """Let go of it. Whoever writes into it from now on fails."""
        if self._descriptor >= 0:
            self._reactor.removeReader(self)
            os.close(self._descriptor)
            self._descriptor = -1
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None

    # --- what the reactor calls -----------------------------------------------------------------

    def fileno(self) -> int:
        """The descriptor, or -1."""
        return self._descriptor

    def logPrefix(self) -> str:
        """Nothing that is logged here is an application's."""
        return "output"

    def doRead(self) -> None:
        """Take what there is, once: others want to be read as well."""
        try:
            data = os.read(self._descriptor, READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        if len(data) < READ_BYTES // 2:  # else somebody writes faster than this is read
            self._reactor.removeReader(self)
            self._gathering = self._reactor.callLater(GATHER_SECONDS, self._gathered)
        self._received(data)

    def _gathered(self) -> None:
        self._gathering = None
        if not self._paused:
            self.resume()

    def connectionLost(self, reason: Failure) -> None:
        """The reactor has given it up."""
        self.close()
