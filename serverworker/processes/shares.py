"""How workers on one listening socket see each other's load, so that each takes its share of the connections.

One connection per wake-up is not enough: of 32 that arrive at once, the worker that the kernel runs first may take all
(measured: on two busy cores half of such bursts left one of two workers less than a third of its half). So each keeps
the number of its open connections in a page of memory that all share, and one that has more than another leaves new
ones to it: for a moment only, since that other may be busy or hung, and a connection must not wait for fairness.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import time

ROWS = 256
"""How many readers there can be at once: workers times ports, of two generations. Further ones go without a row."""

COLUMNS = 3
"""The pid of a reader's process, its socket's number, and how many connections it has open; a free row has no pid."""

SIZE = ROWS * COLUMNS * 4
"""Bytes."""

PATIENCE_SECONDS = 0.1
"""How long new connections are left to a sibling that has fewer, and does not come for them."""

IMPATIENCE_SECONDS = 2.0
"""How long nothing is left to anyone after that was in vain."""

REFRESH_SECONDS = 0.1
"""How often the table is looked through for siblings that came or died."""

LOCK_TRIES = 20
"""A millisecond apart: a row is found in microseconds, but whoever looks for one may be stopped meanwhile."""


class Shares:
    """The table as one process sees it. The monitor makes it, and hands its descriptor to every worker."""

    def __init__(self, descriptor: int) -> None:
        """Attaches to the table behind a descriptor, which stays the caller's. Raises OSError or ValueError."""
        self._descriptor = descriptor
        cells = memoryview(mmap.mmap(descriptor, SIZE)).cast("I")
        # Each is written and read in one piece: four bytes that are aligned.
        self.pids, self.sockets, self.opened = (cells[ROWS * n : ROWS * (n + 1)] for n in range(COLUMNS))

    @staticmethod
    def create() -> int:
        """The descriptor of an empty table, close-on-exec; whoever asked closes it. Raises OSError."""
        descriptor = os.memfd_create("serverworker-shares", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, SIZE)
        return descriptor

    def join(self, listening: int, opened: int) -> Share | None:
        """A row for a reader of this socket, which has so many connections open; None where none can be had."""
        number = os.fstat(listening).st_ino & 0xFFFFFFFF  # the same in every process that holds the socket
        if not self._lock():
            return None
        try:
            row = next((row for row in range(ROWS) if not self._is_taken(row)), None)
            if row is None:
                return None
            self.opened[row] = opened
            self.sockets[row] = number
            self.pids[row] = os.getpid()
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN)
        return Share(self, row)

    def siblings(self, own_row: int) -> list[int]:
        """The rows of all other readers of the same socket whose process is alive."""
        number = self.sockets[own_row]
        numbers = self.sockets.tolist()
        return [
            row for row in range(ROWS) if numbers[row] == number and row != own_row and self._is_taken(row)
        ]

    def leave(self, row: int) -> None:
        """Frees a row."""
        self.pids[row] = 0

    def _is_taken(self, row: int) -> bool:
        """Whether a living process has this row. One whose process died without a word is freed."""
        pid = self.pids[row]
        if not pid:
            return False
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            self.leave(row)
            return False
        except OSError:
            return True  # another user's, and there
        return True

    def _lock(self) -> bool:
        for _ in range(LOCK_TRIES):
            try:
                # Not flock: all processes have one open file description, and that lock is for its holder.
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                time.sleep(0.001)
            else:
                return True
        return False


class Share:
    """One reader's row: its own load, and whether a sibling should have the next connection."""

    def __init__(self, shares: Shares, row: int) -> None:
        self._shares = shares
        self._row = row
        self._siblings: list[int] = []
        self._refreshed: float | None = None
        self._waiting_since: float | None = None
        self._impatient_until: float | None = None

    def tell(self, opened: int) -> None:
        """Tells the siblings how many connections are open here."""
        self._shares.opened[self._row] = opened

    def leaves_it(self, now: float) -> bool:
        """Whether the next connection is left to a sibling for now. `now` is in seconds, from any beginning."""
        if self._refreshed is None or now - self._refreshed > REFRESH_SECONDS:
            self._siblings = self._shares.siblings(self._row)
            self._refreshed = now
        opened = self._shares.opened
        mine = opened[self._row]
        least = min((opened[row] for row in self._siblings), default=mine)
        # Among few every one counts; among many a quarter more is no matter.
        if mine <= least + 1 + least // 4 or (
            self._impatient_until is not None and now < self._impatient_until
        ):
            self._waiting_since = None
            return False
        if self._waiting_since is None:
            self._waiting_since = now
        if now - self._waiting_since < PATIENCE_SECONDS:
            return True
        self._waiting_since = None
        self._impatient_until = now + IMPATIENCE_SECONDS
        return False

    def leave(self) -> None:
        """Accepts no more: siblings need not wait for this one."""
        self._shares.leave(self._row)
