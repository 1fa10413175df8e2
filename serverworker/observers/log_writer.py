"""Writing a log without ever waiting for it: what a terminal, a pipe or a disk does not take yet is kept, in bounds."""

from __future__ import annotations

import atexit
import os
import select
import threading
from collections import Counter, deque
from collections.abc import Callable
from typing import Protocol, TextIO

from attrs import frozen

FULL_BYTES = 1024 * 1024
"""From so many waiting bytes on workers are to wait, and after a while what they print is dropped and counted."""
ROOM_BYTES = FULL_BYTES * 3 // 4
"""Below so many they go on."""
OWN_BYTES = 1024 * 1024
"""Of what is no output of workers so much is kept; what comes on top is dropped and counted."""
FLUSH_SECONDS = 2.0
"""So long the end of the process waits for what is still to be written."""
LONGEST_DELAY_SECONDS = 30.0
"""Between two attempts at a disk that fails. The first comes after a second, each after twice the delay before."""

_SLICE_BYTES = 65536


class Target(Protocol):
    """Where the bytes go. Its methods are called in the writer's thread."""

    def write(self, data: bytes, start: int) -> int:
        """Take some of the data behind `start`, and answer how much that was; it may wait. Raises `OSError`."""

    def close(self) -> None:
        """Let go of it. It may be written to again."""


class StreamTarget:
    """A terminal or a pipe. To make it non-blocking is no way out: it would be so for everybody who shares it."""

    def __init__(self, fd: int) -> None:
        """Of our own: the number of a descriptor that somebody closes soon means another file."""
        self._fd = os.dup(fd)

    def write(self, data: bytes, start: int) -> int:
        """Write a part of it, though the descriptor be non-blocking."""
        some = memoryview(data)[start : start + _SLICE_BYTES]
        # Not through the stream: its buffer has a lock, which a thread that is stuck in it at the end of the process
        # would hold for ever. A slice at a time, so that it is seen that the reader is not stuck.
        while True:
            try:
                return os.write(self._fd, some)
            except BlockingIOError:
                ready = select.poll()
                ready.register(self._fd, select.POLLOUT)
                ready.poll()

    def close(self) -> None:
        """Close it."""
        os.close(self._fd)


@frozen
class _Text:
    """Something to write."""

    data: bytes
    source: str = ""
    """Who printed it; empty: it is the session's own."""
    lines: int = 1


class Writer:
    """Writes to a target in a thread of its own, and never raises.

    What the session says itself and what workers print are bounded apart, so that no worker can push out the news of
    its own death.
    """

    def __init__(
        self,
        target: Target,
        *,
        encoding: str = "utf-8",
        troubled: Callable[[OSError], None] | None = None,
    ) -> None:
        """`troubled`, called in the writer's thread: the target fails, once for each time; what waits is tried again.

        None: whoever stood at the other end is gone for good, and what is written is lost.
        """
        self.dropped = 0
        """How many of the session's own texts were lost."""
        self._target = target
        self._encoding = encoding.lower()
        self._troubled = troubled
        self._changed = threading.Condition()
        self._waiting: deque[_Text] = deque()
        self._bytes = 0  # of what waits and of what is being written
        self._own_bytes = 0
        self._thread: threading.Thread | None = None
        self._closed = False
        self._held = False
        self._dropping = False
        self._dropped_lines: Counter[str] = Counter()
        self._room: Callable[[], None] | None = None
        self._failures = 0

    def hold(self) -> None:
        """Write nothing before `release`: a thread does not live on in the process that twistd becomes as a daemon."""
        self._held = True

    def release(self) -> None:
        """Write from now on."""
        with self._changed:
            self._held = False
            self._start()

    def write(self, text: str) -> bool:
        """Have a text of the session's own written. False if it is lost already."""
        data = self._encoded(text)
        with self._changed:
            if self._closed or self._own_bytes + len(data) > OWN_BYTES:
                self.dropped += 1
                return False
            self._own_bytes += len(data)
            self._add(_Text(data))
        return True

    def write_lines(self, data: bytes, source: str, lines: int) -> None:
        """Have what a worker printed written: so many lines, in UTF-8. They may be dropped, and are counted then."""
        if self._encoding != "utf-8":
            data = self._encoded(data.decode())
        with self._changed:
            if self._closed or (self._dropping and self._bytes >= ROOM_BYTES):
                self._dropped_lines[source] += lines
            else:
                self._add(_Text(data, source, lines))

    def _encoded(self, text: str) -> bytes:
        return text.encode(self._encoding, "backslashreplace")

    def _add(self, text: _Text) -> None:
        self._waiting.append(text)
        self._bytes += len(text.data)
        self._start()
        self._changed.notify_all()

    def _start(self) -> None:
        if self._thread is None and self._waiting and not self._held:
            self._thread = threading.Thread(target=self._run, name="log", daemon=True)
            self._thread.start()
            atexit.register(self.flush)

    # --- as a sink (see `monitor.output_flow`) --------------------------------------------------

    @property
    def is_full(self) -> bool:
        """Whether workers are to wait."""
        return self._bytes >= FULL_BYTES

    def when_room(self, call: Callable[[], None]) -> None:
        """Have `call()` called once, in whatever thread, when there is room again."""
        with self._changed:
            self._room = call
        self._look_for_room()

    def give_up(self) -> None:
        """From now on drop what workers print, until there is room again."""
        with self._changed:
            self._dropping = self._room is not None

    def take_dropped(self) -> Counter[str]:
        """How many lines were dropped since this was last asked, by source."""
        with self._changed:
            dropped, self._dropped_lines = self._dropped_lines, Counter()
        return dropped

    def _look_for_room(self) -> None:
        with self._changed:
            call, room = self._room, self._bytes < ROOM_BYTES
            if call is None or not room:
                return
            self._room = None
            self._dropping = False
        call()

    # --- the end --------------------------------------------------------------------------------

    def flush(self) -> None:
        """Wait until all is written, at most `FLUSH_SECONDS`."""
        with self._changed:
            self._changed.wait_for(lambda: not self._bytes, FLUSH_SECONDS)

    def close(self) -> None:
        """Write what is waiting, and let go of the target."""
        self.flush()
        with self._changed:
            was_closed, self._closed = self._closed, True
            self._changed.notify_all()
        atexit.unregister(self.flush)
        if self._thread is None and not was_closed:
            self._target.close()

    # --- in the thread --------------------------------------------------------------------------

    def _run(self) -> None:
        while texts := self._take():
            data = texts[0].data if len(texts) == 1 else b"".join(text.data for text in texts)
            if not self._write_all(data):
                self._lose(texts)
        self._target.close()

    def _take(self) -> list[_Text]:
        """All that waits, once there is something; nothing once the writer is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            texts = list(self._waiting)
            self._waiting.clear()
            # What is being written counts as waiting, but leaves its room to the next of the session's own.
            self._own_bytes = 0
            return texts

    def _write_all(self, data: bytes) -> bool:
        """Whether it was written in the end; where it was not, it is off the count all the same."""
        start = 0
        while start < len(data):
            try:
                written = self._target.write(data, start)
            except OSError as error:
                if self._give_up_on(error):
                    self._written(len(data) - start)
                    return False
            else:
                self._failures = 0
                start += written
                self._written(written)
        return True

    def _written(self, number: int) -> None:
        with self._changed:
            self._bytes -= number
            self._changed.notify_all()
        if self._room is not None:
            self._look_for_room()

    def _give_up_on(self, error: OSError) -> bool:
        """Wait a while before the next attempt; True where there is to be none."""
        if self._troubled is None:
            return True
        delay = min(2.0**self._failures, LONGEST_DELAY_SECONDS)
        self._failures += 1
        if self._failures == 1:
            self._troubled(error)
        with self._changed:
            return self._changed.wait_for(lambda: self._closed, delay)

    def _lose(self, texts: list[_Text]) -> None:
        with self._changed:
            for text in texts:
                if text.source:
                    self._dropped_lines[text.source] += text.lines
                else:
                    self.dropped += 1


class DirectWriter(Writer):
    """Writes to a stream that is nothing of the system's, such as a `StringIO`: here and now, without a thread."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(_NoTarget(), encoding=getattr(stream, "encoding", None) or "utf-8")
        self._stream = stream

    def write(self, text: str) -> bool:
        """See `Writer.write`."""
        try:
            self._stream.write(self._encoded(text).decode(self._encoding))
            self._stream.flush()
        except Exception:  # whatever the stream is made of: the logger must not hear of it
            self.dropped += 1
            return False
        return True

    def write_lines(self, data: bytes, source: str, lines: int) -> None:
        """See `Writer.write_lines`."""
        if not self.write(data.decode()):
            self.dropped -= 1
            self._dropped_lines[source] += lines


class _NoTarget:
    def write(self, data: bytes, start: int) -> int:
        return len(data) - start

    def close(self) -> None:
        """Nothing to close."""


def stream_writer(stream: TextIO) -> Writer:
    """A writer for a stream of this process, such as its stdout."""
    try:
        target = StreamTarget(stream.fileno())
    except (AttributeError, OSError, ValueError):
        return DirectWriter(stream)
    return Writer(target, encoding=getattr(stream, "encoding", None) or "utf-8")
