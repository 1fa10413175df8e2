"""What one worker prints: read from its two pipes, cut into lines, handed on, the last ones kept."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from serverworker.processes.output import LineSplitter, RecentLines
from serverworker.processes.output_pipe import OutputPipe
from serverworker.values.events import OutputLine
from serverworker.values.lines import OutputLines

_STREAMS = ("stdout", "stderr")


class WorkerOutput:
    """The output of one worker, from its first byte until the pipes are read empty."""

    def __init__(self, source: str, told: Callable[[OutputLines], object]) -> None:
        """`source`, such as ``worker 3``, says whose it is; `told` gets the lines as they come."""
        self._source = source
        self._told = told
        self._splitters = {stream: LineSplitter() for stream in _STREAMS}
        self._pipes: dict[str, OutputPipe] = {}
        self._recent = RecentLines()

    def open(self, reactor: Any, stdout: int, stderr: int) -> None:
        """Take the monitor's ends of both pipes over. Nothing is read before `resume`."""
        for stream, descriptor in zip(_STREAMS, (stdout, stderr), strict=True):
            self._pipes[stream] = OutputPipe(reactor, descriptor, partial(self._received, stream))

    def pause(self) -> None:
        """Read nothing for now: once the pipes are full, the worker waits in its next print."""
        for pipe in self._pipes.values():
            pipe.pause()

    def resume(self) -> None:
        """Read as it comes."""
        for pipe in self._pipes.values():
            pipe.resume()

    def finish(self) -> None:
        """Hand on what is left, a last line without its end included, and close the pipes.

        A process that the worker has started may hold them for its whole life: that one is not waited for.
        """
        for stream, splitter in self._splitters.items():
            if stream in self._pipes:
                self._pipes[stream].read_rest()
            last = splitter.flush()
            self._tell(stream, "\n".join(last), len(last))

    def last_lines(self) -> tuple[OutputLine, ...]:
        """The last ones, for a crash report: oldest first, 200 at most."""
        return self._recent.lines()

    def _received(self, stream: str, data: bytes) -> None:
        self._tell(stream, *self._splitters[stream].feed_together(data))

    def _tell(self, stream: str, text: str, count: int) -> None:
        if count:
            lines = OutputLines(source=self._source, stream=stream, text=text, count=count)
            self._recent.append(lines)
            self._told(lines)
