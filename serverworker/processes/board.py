"""The request board: shared memory in which a worker notes what it is at, readable even after a SIGKILL."""

from __future__ import annotations

import codecs
import fcntl
import math
import mmap
import os
import struct
import time
from collections.abc import Callable

from attrs import frozen

from serverworker.values.causes import RequestInFlight

SLOTS = 128
"""How many requests in flight the board can name; it counts the ones beyond."""

_HEADER_BYTES = 64
_CONNECTIONS, _OVERFLOW = range(2)

_METHOD_BYTES = 16
_PATH_BYTES = 216
# Number, start in seconds, method, path and one byte more that tells whether it was cut; last of all, so that it is
# written last: the slot is taken.
_SLOT = struct.Struct(f"=Qd{_METHOD_BYTES}s{_PATH_BYTES + 1}s6xB")
_TAKEN = _SLOT.size - 1
_WORD = 8
_write_slot = _SLOT.pack_into
_SIZE = _HEADER_BYTES + SLOTS * _SLOT.size

# A ticket is the offset of a slot, and above these bits how often the slot was taken from its holder.
_OFFSET_BITS = 20
_OFFSET = (1 << _OFFSET_BITS) - 1

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


@frozen(kw_only=True)
class BoardCounters:
    """The figures at the head of a request board."""

    requests_started: int
    requests_finished: int
    open_connections: int
    overflow: int
    """Requests in flight that `RequestBoard.in_flight` does not name: "and 12 more"."""


NO_COUNTERS = BoardCounters(requests_started=0, requests_finished=0, open_connections=0, overflow=0)
"""Those of a worker that has not begun."""


class RequestBoard:
    """What one worker is at: written by the worker's reactor thread alone, read by the monitor.

    The writer takes no lock and makes no system call. A reader never raises, whatever stands in the memory:
    the worker may have been killed in the middle of a write, or have scribbled over it. When more requests are
    in flight than the board has slots, the newest are named: a hang is in one of those, while the oldest are
    streams and websockets.
    """

    @classmethod
    def create(cls, clock: Callable[[], float] = time.monotonic) -> tuple[RequestBoard, int]:
        """A new board and its descriptor, which the caller hands to a worker and then closes.

        `clock` gives seconds and must be the same for all processes of the machine, as `time.monotonic` is.
        """
        fd = os.memfd_create("serverworker-requests", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, _SIZE)
            # A worker that shrank the memory would have the monitor killed by SIGBUS at its next look.
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            return cls(mmap.mmap(fd, _SIZE), clock), fd
        except BaseException:
            os.close(fd)
            raise

    @classmethod
    def attach(cls, fd: int, clock: Callable[[], float] = time.monotonic) -> RequestBoard:
        """The board behind a descriptor that `create` gave; closes the descriptor, which is not needed any more.

        Raises ValueError when the descriptor is no request board of this version.
        """
        size = os.fstat(fd).st_size
        if size != _SIZE:
            raise ValueError(f"descriptor {fd} is no request board: it has {size} bytes instead of {_SIZE}")
        memory = mmap.mmap(fd, _SIZE)
        os.close(fd)
        return cls(memory, clock)

    def __init__(self, memory: mmap.mmap, clock: Callable[[], float]) -> None:
        self._memory = memory
        self._clock = clock
        self._bytes = memoryview(memory)
        self._words = self._bytes.cast("Q")
        self._numbers = self._words[_HEADER_BYTES // _WORD :: _SLOT.size // _WORD]
        self._tickets = [_HEADER_BYTES + slot * _SLOT.size for slot in range(SLOTS)]
        """The one that each slot is, or will be, given out for."""
        self._free = self._tickets[::-1]
        self._unnamed: set[int] = set()
        """Tickets whose slot was taken from them."""
        self._started = 0

    # `begin` and `end` run once for each request of a worker's life.

    def begin(self, method: bytes, path: bytes) -> int:
        """Notes that a request has begun; the ticket is for `end`. A query string is left out: it may hold secrets."""
        if b"?" in path:
            path = path[: path.index(b"?")]
        ticket = self._free.pop() if self._free else self._take_oldest()
        self._started = number = self._started + 1
        _write_slot(self._memory, ticket & _OFFSET, number, self._clock(), method, path, 1)
        return ticket

    def end(self, ticket: int) -> None:
        """Notes that the request of this ticket is over. To be called once for each `begin`."""
        if self._unnamed and ticket in self._unnamed:
            self._unnamed.remove(ticket)
            self._words[_OVERFLOW] -= 1
        else:
            self._memory[(ticket & _OFFSET) + _TAKEN] = 0
            self._free.append(ticket)

    def _take_oldest(self) -> int:
        """A new ticket for the slot of the oldest request, which from now on is only counted.

        It is looked for in the whole board, but seldom: a stream loses its slot once, and then has none to lose.
        """
        numbers = self._numbers.tolist()
        slot = numbers.index(min(numbers))
        self._unnamed.add(self._tickets[slot])
        self._words[_OVERFLOW] += 1
        self._tickets[slot] += 1 << _OFFSET_BITS
        return self._tickets[slot]

    def connection_opened(self) -> None:
        """Notes one more open connection."""
        self._words[_CONNECTIONS] += 1

    def connection_closed(self) -> None:
        """Notes one open connection less."""
        self._words[_CONNECTIONS] -= 1

    def counters(self) -> BoardCounters:
        """The figures, as they stand now."""
        started = max(self._numbers)  # a number stays where it is until its slot is used again
        overflow = self._words[_OVERFLOW]
        named = self._memory[_HEADER_BYTES + _TAKEN :: _SLOT.size].count(1)
        return BoardCounters(
            requests_started=started,
            requests_finished=max(0, started - named - overflow),
            open_connections=self._words[_CONNECTIONS],
            overflow=overflow,
        )

    def in_flight(self, now: float) -> tuple[RequestInFlight, ...]:
        """The requests that have begun and not ended, oldest first. `now` is the time on the board's clock."""
        found = [request for request in map(self._read, range(SLOTS)) if request is not None]
        found.sort()
        return tuple(
            RequestInFlight(method=method, path=path, age_seconds=max(0.0, now - start))
            for _, start, method, path in found
        )

    def _read(self, slot: int) -> tuple[int, float, str, str] | None:
        """Number, start, method and path of a request; None when the slot is free, or makes no sense."""
        offset = _HEADER_BYTES + slot * _SLOT.size
        end = offset + _SLOT.size
        content = self._memory[offset:end]
        # A living worker may be writing just now. Two equal looks are one that nobody wrote into; a third
        # is not worth it, since a slot that changes so fast holds no request that anybody waits for.
        if content[_TAKEN] != 1 or content != self._memory[offset:end]:
            return None
        number, start, method, path, _ = _SLOT.unpack(content)
        if not math.isfinite(start):
            return None
        return (
            number,
            start,
            _readable(method),
            _readable(path[:_PATH_BYTES]) + ("…" if path[_PATH_BYTES] else ""),
        )

    def close(self) -> None:
        """Gives the memory back. Nothing but `close` may be called afterwards."""
        self._numbers.release()
        self._words.release()
        self._bytes.release()
        self._memory.close()


def _readable(content: bytes) -> str:
    """What a client sent, safe to show on a terminal; half a character where the slot ended is left out."""
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
    text = decode(content.rstrip(b"\0"))
    return text if text.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in text)
