"""Clients of the benchmarks: one that opens a connection every 2 ms and notes what becomes of each."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import time
from itertools import pairwise

from attrs import define, field, frozen

from benchmarks.contenders import Running

EVERY_SECONDS = 0.002
ANSWER_SECONDS = 30.0
"""A connection that has no answer by then has timed out."""


@frozen(kw_only=True)
class Request:
    """One connection of the client's, in seconds of the monotonic clock."""

    began: float
    """When the system was asked to connect."""
    ended: float
    outcome: str
    """``ok``, ``refused``, ``reset`` or ``timeout``."""
    pid: int = 0
    """Who answered."""


@define
class Client:
    """Opens a connection every 2 ms, whatever becomes of those before."""

    port: int
    requests: list[Request] = field(factory=list)
    _tasks: set[asyncio.Task[None]] = field(factory=set)
    _awaited: list[tuple[float, asyncio.Event]] = field(factory=list)

    async def run(self, until: asyncio.Event) -> None:
        """Go on until the event is set, then wait for what is open."""
        due = time.monotonic()
        while not until.is_set():
            task = asyncio.create_task(self._request())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            # One that comes late does not make up for what it has missed: that would be a burst.
            due = max(due + EVERY_SECONDS, time.monotonic())
            await asyncio.sleep(due - time.monotonic())
        await asyncio.gather(*self._tasks)

    async def _request(self) -> None:
        began = time.monotonic()
        pid = 0
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                pid = await ask_pid(self.port)
            outcome = "ok" if pid else "reset"
        except ConnectionRefusedError:
            outcome = "refused"
        except TimeoutError:
            outcome = "timeout"
        except (OSError, ValueError):
            outcome = "reset"
        self.requests.append(Request(began=began, ended=time.monotonic(), outcome=outcome, pid=pid))
        for moment, event in self._awaited:
            if outcome == "ok" and began > moment:
                event.set()

    async def answer_after(self, moment: float, seconds: float) -> None:
        """Wait until a connection that was begun after that moment has been answered, or so many seconds."""
        event = asyncio.Event()
        self._awaited.append((moment, event))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()


async def ask_pid(port: int, path: str = "/") -> int:
    """One request on a connection of its own: the pid of the worker that answered, or 0."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"GET {path} HTTP/1.0\r\nHost: x\r\n\r\n".encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        return int(body) if b" 200 " in head.partition(b"\r\n")[0] and body else 0
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def wait_for_answer(port: int, seconds: float = 60.0) -> int:
    """The pid of whoever answers first; TimeoutError if nobody does."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError):
            async with asyncio.timeout(5):
                if pid := await ask_pid(port):
                    return pid
        await asyncio.sleep(0.02)
    raise TimeoutError(f"nobody answered on port {port} within {seconds:g} s")


async def ready(running: Running, workers: int, seconds: float = 60.0) -> None:
    """Wait until ours has called so many workers ready; of a generation one serves, and one stands by."""
    deadline = time.monotonic() + seconds
    while running.contender.ready_says and running.ready_workers < workers:
        if time.monotonic() > deadline:
            print(
                f"{running.contender.name} is not whole:\n{running.log.read_text()[-4000:]}", file=sys.stderr
            )
            return
        await asyncio.sleep(0.05)


def longest_gap(requests: list[Request]) -> float:
    """The longest time between two answers, in seconds; that of the deadline where there are no two."""
    answers = sorted(request.ended for request in requests if request.outcome == "ok")
    return max((later - earlier for earlier, later in pairwise(answers)), default=ANSWER_SECONDS)


def free_port() -> int:
    """A port that nobody has at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
