"""How long nobody answers after kill -9 of the only worker, and what becomes of the clients meanwhile.

    python benchmarks/recovery.py                     # this project beside procmon
    python benchmarks/recovery.py --all               # beside every peer that is installed
    python benchmarks/recovery.py --import-seconds 1  # with an application that takes a second to import

A client opens a connection every 2 ms. After each kill: the time to the first answer to a connection that was opened
after it, the connections refused and reset, and the longest time between two answers. All contenders are measured in
one run, round by round in turn, so that the machine's own ups and downs fall on all of them.

Owed (issue 2): no refused connection, and faster than procmon. Exit status 1 where that does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from attrs import define, field, frozen
from contenders import CONTENDERS, OURS, PROCMON, Contender, Running, new_folder

EVERY_SECONDS = 0.002
ANSWER_SECONDS = 30.0


@frozen(kw_only=True)
class Request:
    """One connection of the client's."""

    began: float
    ended: float
    outcome: str
    """``ok``, ``refused``, ``reset`` or ``timeout``."""
    pid: int = 0


@define
class Client:
    """Opens a connection every 2 ms, whatever becomes of those before."""

    port: int
    requests: list[Request] = field(factory=list)
    _tasks: set[asyncio.Task[None]] = field(factory=set)

    async def run(self, until: asyncio.Event) -> None:
        """Go on until the event is set, then wait for what is open."""
        due = time.monotonic()
        while not until.is_set():
            task = asyncio.create_task(self._request())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            due += EVERY_SECONDS
            await asyncio.sleep(max(0.0, due - time.monotonic()))
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


async def ask_pid(port: int) -> int:
    """One request on a connection of its own: the pid of the worker that answered, or 0."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"GET / HTTP/1.0\r\nHost: x\r\n\r\n")
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        return int(body) if b" 200 " in head.partition(b"\r\n")[0] and body else 0
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def wait_for_answer(port: int, seconds: float = 60.0) -> int:
    """The pid of whoever answers first."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError):
            async with asyncio.timeout(5):
                if pid := await ask_pid(port):
                    return pid
        await asyncio.sleep(0.02)
    raise SystemExit(f"nobody answered on port {port} within {seconds:g} s")


@frozen(kw_only=True)
class Kill:
    """What one kill came to."""

    first_answer_ms: float
    longest_gap_ms: float
    refused: int
    reset: int
    timeout: int


async def one_kill(port: int, before: float, after: float) -> Kill:
    """Kill whoever serves, under the client; `after` seconds later count."""
    victim = await wait_for_answer(port)
    stop = asyncio.Event()
    client = Client(port)
    running = asyncio.create_task(client.run(stop))
    await asyncio.sleep(before)
    os.kill(victim, signal.SIGKILL)
    killed = time.monotonic()
    deadline = killed + ANSWER_SECONDS
    while time.monotonic() < deadline:
        if any(request.outcome == "ok" and request.began > killed for request in client.requests):
            break
        await asyncio.sleep(0.005)
    await asyncio.sleep(after)
    stop.set()
    await running
    return judge(client.requests, killed)


def judge(requests: list[Request], killed: float) -> Kill:
    """The figures of one kill."""
    answers = sorted(request.ended for request in requests if request.outcome == "ok")
    first = min(
        (request.ended for request in requests if request.outcome == "ok" and request.began > killed),
        default=killed + ANSWER_SECONDS,
    )
    gaps = [later - earlier for earlier, later in pairwise(answers)]
    outcomes = [request.outcome for request in requests]
    return Kill(
        first_answer_ms=(first - killed) * 1000,
        longest_gap_ms=max(gaps, default=ANSWER_SECONDS) * 1000,
        refused=outcomes.count("refused"),
        reset=outcomes.count("reset"),
        timeout=outcomes.count("timeout"),
    )


def free_port() -> int:
    """A port that nobody has at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def measure(contenders: list[Contender], rounds: int, import_seconds: float) -> dict[str, list[Kill]]:
    """All contenders run side by side, but one at a time is under load and killed."""
    found: dict[str, list[Kill]] = {contender.name: [] for contender in contenders}
    with tempfile.TemporaryDirectory() as root, contextlib.ExitStack() as running:
        ports = {}
        for contender in contenders:
            ports[contender.name] = free_port()
            folder = new_folder(Path(root), contender.name, import_seconds)
            running.enter_context(Running(contender, folder, ports[contender.name]))
            await wait_for_answer(ports[contender.name])
        for number in range(rounds):
            # Long enough for a standby to be there again, and for procmon to see a process that lived for a second.
            await asyncio.sleep(2.5 + 2 * import_seconds)
            for contender in contenders:
                kill = await one_kill(ports[contender.name], 0.3, 0.5)
                found[contender.name].append(kill)
                print(f"round {number + 1}  {contender.name:20} {kill}", file=sys.stderr)
    return found


def table(found: dict[str, list[Kill]]) -> str:
    """Medians and sums, a line each."""
    lines = [
        f"{'':20} {'first answer':>14} {'(worst)':>10} {'longest gap':>12} {'refused':>8} {'reset':>6} {'timeout':>8}"
    ]
    for name, kills in found.items():
        first = statistics.median(kill.first_answer_ms for kill in kills)
        worst = max(kill.first_answer_ms for kill in kills)
        gap = statistics.median(kill.longest_gap_ms for kill in kills)
        sums = [sum(getattr(kill, each) for kill in kills) for each in ("refused", "reset", "timeout")]
        lines.append(
            f"{name:20} {first:11.1f} ms {worst:7.1f} ms {gap:9.1f} ms {sums[0]:8} {sums[1]:6} {sums[2]:8}"
        )
    return "\n".join(lines)


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15, help="kills of each contender (default 15)")
    parser.add_argument("--import-seconds", type=float, default=0.0, help="what the import takes (default 0)")
    parser.add_argument("--all", action="store_true", help="every peer that is installed")
    options = parser.parse_args()
    wanted = CONTENDERS if options.all else (OURS, PROCMON)
    there = [contender for contender in wanted if contender.is_there]
    for contender in wanted:
        if contender not in there:
            print(f"left out: {contender.name} ({contender.needs} is not installed)")
    found = asyncio.run(measure(there, options.rounds, options.import_seconds))
    print(table(found))
    ours, procmon = found[OURS.name], found[PROCMON.name]
    ratio = statistics.median(k.first_answer_ms for k in ours) / statistics.median(
        k.first_answer_ms for k in procmon
    )
    print(f"first answer, serverworker / procmon: {ratio:.3f}")
    held = ratio < 1 and not any(kill.refused for kill in ours)
    print("owed (no refused connection, faster than procmon):", "holds" if held else "DOES NOT HOLD")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
