"""What a child process prints: bytes cut into lines, the last lines kept, a pipe read empty at the end."""

from __future__ import annotations

import os
from collections import deque

from serverworker.values.events import OutputLine
from serverworker.values.lines import OutputLines

MAX_LINE_BYTES = 65536
"""A longer line is told in pieces, so that a program without newlines cannot fill the monitor's memory."""
CONTINUES = " [... continues]"
"""Stands at the end of each piece of an overlong line but its last. In ASCII: so a text in ASCII stays one, and fast."""
RECENT_LINES = 200
RECENT_BYTES = 256 * 1024
READ_CAP = 4 * 1024 * 1024
"""A pipe holds 64 KiB, at most 1 MiB; more than this comes only from somebody who is still writing."""

_LONGEST_CHARACTER = 4  # bytes, in UTF-8


class LineSplitter:
    r"""Bytes in, decoded lines out; where the bytes are cut into feeds makes no difference to the lines.

    A line ends with ``\n`` or ``\r\n``. One of more than `max_line_bytes` comes in pieces of at most so
    many, cut between characters, each but the last marked with `CONTINUES`. What is no UTF-8 is replaced.
    """

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        if max_line_bytes < _LONGEST_CHARACTER:
            raise ValueError(f"max_line_bytes is {max_line_bytes}: a character alone may take 4")
        self._max = max_line_bytes
        self._pending = bytearray()

    def feed_together(self, data: bytes) -> tuple[str, int]:
        """What `feed` answers as one text, with newlines between the lines, and how many there are."""
        end = data.rfind(b"\n")
        if end < 0 or len(data) > self._max or len(self._pending) + data.find(b"\n") > self._max:
            lines = self.feed(data)  # one of them may be overlong
            return "\n".join(lines), len(lines)
        whole = bytes(self._pending) + data[: end + 1] if self._pending else data[: end + 1]
        self._pending[:] = data[end + 1 :]
        if b"\r" in whole:
            whole = whole.replace(b"\r\n", b"\n")
        return whole[:-1].decode("utf-8", "replace"), whole.count(b"\n")

    def feed(self, data: bytes) -> list[str]:
        """The lines, and pieces of overlong ones, that these bytes complete."""
        first, newline, rest = data.partition(b"\n")
        self._pending += first
        if not newline:
            return self._cut(self._max + 1)  # the last byte may be the carriage return of a line end
        lines = self._end_line()
        *whole, tail = rest.split(b"\n")
        for line in whole:
            if len(line) <= self._max:  # the common case, without a copy through the pending bytes
                lines.append(_decoded(line))
            else:
                self._pending += line
                lines += self._end_line()
        self._pending += tail
        lines += self._cut(self._max + 1)
        return lines

    def flush(self) -> list[str]:
        """The last line, where it had no newline at its end; then the splitter is as new."""
        return self._end_line() if self._pending else []

    def _end_line(self) -> list[str]:
        """Take all that is pending: a whole line, or the rest of an overlong one."""
        if self._pending.endswith(b"\r"):
            del self._pending[-1]
        lines = self._cut(self._max)
        lines.append(self._pending.decode("utf-8", "replace"))
        self._pending.clear()
        return lines

    def _cut(self, allowed: int) -> list[str]:
        """Take pieces from the front while more than `allowed` bytes are pending."""
        pieces = []
        start = (
            0  # an index, since one feed may hold thousands of pieces and deleting each would copy the rest
        )
        while len(self._pending) - start > allowed:
            end = _between_characters(self._pending, start + self._max)
            pieces.append(self._pending[start:end].decode("utf-8", "replace") + CONTINUES)
            start = end
        del self._pending[:start]
        return pieces


def _decoded(line: bytes) -> str:
    return line.removesuffix(b"\r").decode("utf-8", "replace")


def _between_characters(data: bytearray, end: int) -> int:
    """The last place at or before `end` that is not inside a UTF-8 character; `end` where there is none."""
    for place in range(end, end - _LONGEST_CHARACTER, -1):
        if data[place] & 0b1100_0000 != 0b1000_0000:  # no continuation byte: a character begins here
            return place
    return end


class RecentLines:
    """The last lines that a process printed, for its crash report: bounded in number and in bytes.

    The newest line is always kept, though it alone were longer than `limit_bytes`.
    """

    def __init__(self, limit: int = RECENT_LINES, limit_bytes: int = RECENT_BYTES) -> None:
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._kept: deque[OutputLines] = deque()
        self._count = 0
        self._characters = 0

    def append(self, lines: OutputLines) -> None:
        """Keep lines, and let go of the oldest ones that no longer fit."""
        self._kept.append(lines)
        self._count += lines.count
        self._characters += _characters(lines)
        # As they came: which of them fit, to the byte, is looked at when somebody wants them.
        while len(self._kept) > 1 and self._fit_without(self._kept[0]):
            oldest = self._kept.popleft()
            self._count -= oldest.count
            self._characters -= _characters(oldest)

    def _fit_without(self, oldest: OutputLines) -> bool:
        """Whether the others are as many as may be kept. A character takes a byte at least, and an empty line none."""
        return (
            self._count - oldest.count >= self._limit
            or self._characters - _characters(oldest) > self._limit_bytes
        )

    def lines(self) -> tuple[OutputLine, ...]:
        """What is kept, oldest first."""
        found: deque[OutputLine] = deque()
        size = 0
        for line in reversed([line for lines in self._kept for line in lines]):
            size += len(line.text.encode("utf-8", "surrogatepass"))
            if found and (len(found) == self._limit or size > self._limit_bytes):
                break
            found.appendleft(line)
        return tuple(found)


def _characters(lines: OutputLines) -> int:
    """How many there are in the lines themselves, without what separates them."""
    return len(lines.text) - lines.count + 1


def read_available(fd: int, chunk: int = 65536, cap: int = READ_CAP) -> bytes:
    """Read a non-blocking pipe empty, without waiting for more: for the moment a process has exited.

    At most about `cap` bytes, since a grandchild may hold the pipe and go on writing. What cannot be read
    (a descriptor that is closed) ends it without an error: the death is what counts, not its last words.

    Raises:
        ValueError: the descriptor blocks, so that a quiet grandchild would stop the monitor.
    """
    try:
        blocks = os.get_blocking(fd)
    except OSError:
        return b""
    if blocks:
        raise ValueError(f"descriptor {fd} is in blocking mode: reading it empty could wait for ever")
    parts: list[bytes] = []
    size = 0
    while size < cap:
        try:
            part = os.read(fd, chunk)
        except OSError:
            break
        if not part:
            break
        parts.append(part)
        size += len(part)
    return b"".join(parts)
