"""A log file: appended to, made anew when somebody has moved it away, turned over when it is large enough."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
_MODE = 0o640


class AppendedFile:
    """A file that whole lines are appended to, by one process or by several.

    Each write looks whether the file is still there under its name: so logrotate may move it away at any time, and
    who has it open need not be told. With `max_bytes` it is turned over by itself: the full one becomes ``name.1``,
    that one ``name.2`` and so on, of which `kept` stay. One process alone may do that.
    """

    def __init__(self, path: str, *, max_bytes: int = 0, kept: int = 0) -> None:
        """`path` is absolute; nothing is opened yet. `max_bytes` 0: it is never turned over."""
        self.path = path
        self._max_bytes = max_bytes
        self._kept = kept
        self._fd = -1
        self._file = (0, 0)
        self._size = 0

    def write(self, data: bytes, start: int = 0) -> int:
        """Append what fits of the data behind `start`, whole lines where there are any; answers how many bytes.

        Raises `OSError`; then the next attempt begins by opening the file anew.
        """
        try:
            self._open()
            end = self._end(data, start)
            written = os.write(self._fd, memoryview(data)[start:end] if start or end < len(data) else data)
        except OSError:
            self.close()
            raise
        self._size += written
        return written

    def close(self) -> None:
        """Let go of the file. The next write opens it anew."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with contextlib.suppress(OSError):  # what a network's file system could not keep is lost
                os.close(fd)

    def _open(self) -> None:
        """Have the file open that bears the name now."""
        if self._fd >= 0:
            try:
                there = os.stat(self.path)  # noqa: PTH116 - for each write: a Path costs three times as much
            except FileNotFoundError:
                self.close()
            else:
                if (there.st_dev, there.st_ino) == self._file:
                    self._size = there.st_size  # somebody may have emptied it
                else:
                    self.close()
        if self._fd < 0:
            self._fd = os.open(self.path, _FLAGS, _MODE)
            opened = os.fstat(self._fd)
            self._file, self._size = (opened.st_dev, opened.st_ino), opened.st_size

    def _end(self, data: bytes, start: int) -> int:
        """The end of the lines that the file has room for; it is turned over where it has none for the first."""
        if not self._max_bytes:
            return len(data)
        room = self._max_bytes - self._size
        if len(data) - start <= room:
            return len(data)
        end = data.rfind(b"\n", start, start + max(room, 0)) + 1
        if not end and self._size:
            self._turn_over()
            return self._end(data, start)
        return end or data.find(b"\n", start) + 1 or len(data)

    def _turn_over(self) -> None:
        self.close()
        for number in range(self._kept - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                Path(f"{self.path}.{number}").replace(f"{self.path}.{number + 1}")
        with contextlib.suppress(FileNotFoundError):
            if self._kept:
                Path(self.path).replace(f"{self.path}.1")
            else:
                Path(self.path).unlink()
        self._open()
