"""One journal on disk, as it is written: lines at its end, a new file when it is full or old, the oldest files removed."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from attrs import frozen

from serverworker.monitor.journal_files import first_time, rotated
from serverworker.processes.state_directory import own_folder

_DAY_SECONDS = 86_400.0


@frozen(kw_only=True)
class JournalFile:
    """Where lines are appended. It keeps nothing open, so that a file may be removed at any time. All of it blocks."""

    path: Path
    max_bytes: int
    """A file that would grow past this is closed first, and a new one begun."""
    max_seconds: float
    """So is one whose first line is older; and closed files whose last line is older are removed."""
    files: int
    """So many closed files are kept."""
    wall_clock: Callable[[], float]
    """Seconds since the epoch."""

    def append(self, data: bytes) -> None:
        """Write whole lines, all of them or none; mode 0600.

        A line that a killed process left half written is ended first: it makes no sense, and harms no other.
        Raises OSError where the disk does not take them, `ConfigurationError` where the folder is not to be used.
        """
        own_folder(self.path.parent)
        self._rotate_if_due(len(data))
        self._remove_old()
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self.path, flags, 0o600)
        try:
            os.fchmod(descriptor, 0o600)  # the umask may have taken more away
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                data = b"\n" + data
            try:
                _write(descriptor, data)
            except OSError:
                # A full disk takes a part; what it took is given back, so that no line is there twice.
                with suppress(OSError):
                    os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)

    def _rotate_if_due(self, coming: int) -> None:
        try:
            size = self.path.stat().st_size
        except FileNotFoundError:
            return
        began = first_time(self.path)
        is_old = began is not None and self.wall_clock() - began > self.max_seconds
        if size and (size + coming > self.max_bytes or is_old):
            self._rotate()

    def _rotate(self) -> None:
        for number in range(self.files, 0, -1):
            source = self.path if number == 1 else rotated(self.path, number - 1)
            with suppress(FileNotFoundError):
                source.replace(rotated(self.path, number))
        if self.files == 0:
            self.path.unlink()

    def _remove_old(self) -> None:
        """Closed files that are too many, as after a change of the configuration, or too old."""
        number = 1
        while (closed := rotated(self.path, number)).exists():
            too_old = self.wall_clock() - closed.stat().st_mtime > self.max_seconds
            if number > self.files or too_old:
                closed.unlink()
            number += 1


def _write(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
