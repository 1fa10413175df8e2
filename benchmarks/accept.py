"""How connections are shared among the workers of one port, and what is answered in a second.

    python benchmarks/accept.py                       # two workers, twenty times 32 connections; a minute
    python benchmarks/accept.py --workers 4 --runs 50
    python benchmarks/accept.py --seconds 0           # the shares alone

In each run 32 connections are opened at once and kept; the answer on each names its worker. Throughput is wrk's
(Debian's package of that name) with 32 connections, of one contender after the other, round by round; `twisted.web` is
a bare Site on a port of its own, in one process.

Owed: no worker has less than a third of the even share in any run. Exit status 1 where one has.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.contenders import CONTENDERS, OURS, Contender, Place, Running, installed, new_folder
from benchmarks.load import free_port, ready, wait_for_answer
from benchmarks.soak_clients import Connection
from benchmarks.verdicts import Verdicts

CONNECTIONS = 32
ROUNDS = 3
BARE = Contender(
    name="twisted.web",
    needs="twisted",
    command=lambda place: [sys.executable, "serve.py", str(place.port)],
)


def start(stack: contextlib.ExitStack, root: Path, contender: Contender, workers: int) -> Running:
    """Start it, in a folder of its own."""
    name = f"{contender.name} {workers}"
    place = Place(folder=new_folder(root, name, 0), port=free_port(), workers=workers)
    return stack.enter_context(Running(contender, place))


async def share(port: int, workers: int) -> list[int]:
    """Open the connections, ask once on each, and answer how many each worker has, fewest first."""
    connections = await asyncio.gather(*(Connection.open(port) for _ in range(CONNECTIONS)))
    pids = await asyncio.gather(*(ask(connection) for connection in connections))
    for connection in connections:
        await connection.close()
    counts = sorted(Counter(pids).values())
    return [0] * (workers - len(counts)) + counts


async def ask(connection: Connection) -> int:
    """Who answers on it."""
    connection.writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    head = (await connection.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    found = re.search(r"(?i)content-length: *(\d+)", head)
    assert found is not None
    return int(await connection.reader.readexactly(int(found[1])))


async def shares(root: Path, workers: int, runs: int) -> list[list[int]]:
    """The shares in so many runs."""
    with contextlib.ExitStack() as stack:
        running = start(stack, root, OURS, workers)
        await wait_for_answer(running.place.port)
        await ready(running, workers + 1)
        return [await share(running.place.port, workers) for _ in range(runs)]


def requests_per_second(port: int, seconds: int) -> float:
    """What wrk measures."""
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", f"http://127.0.0.1:{port}/"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"Requests/sec: *([\d.]+)", told)
    assert found is not None, told
    return float(found[1])


async def throughput(root: Path, workers: int, seconds: int) -> dict[str, float]:
    """The median of a few rounds, for each contender and number of workers."""
    wanted = [(BARE, 1), (OURS, 1), (OURS, workers)]
    wanted += [
        (each, workers) for each in installed(CONTENDERS) if each.needs in ("gunicorn", "uvicorn", "granian")
    ]
    found: dict[str, list[float]] = {}
    with contextlib.ExitStack() as stack:
        all_running = [(count, start(stack, root, each, count)) for each, count in wanted]
        for count, running in all_running:
            await wait_for_answer(running.place.port)
            await ready(running, count + 1)
        for _ in range(ROUNDS):
            for count, running in all_running:
                name = f"{running.contender.name.partition(',')[0]}, {count} worker{'s' if count > 1 else ''}"
                rate = await asyncio.to_thread(requests_per_second, running.place.port, seconds)
                found.setdefault(name, []).append(rate)
    return {name: median(rates) for name, rates in found.items()}


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=2, help="how many share the port (default 2)")
    parser.add_argument("--runs", type=int, default=20, help="times 32 connections (default 20)")
    parser.add_argument("--seconds", type=int, default=2, help="of each turn of wrk (default 2; 0: none)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = asyncio.run(shares(Path(name), options.workers, options.runs))
        print(
            f"{CONNECTIONS} connections among {options.workers} workers, {options.runs} runs, fewest first:"
        )
        for counts, number in sorted(Counter(map(tuple, found)).items()):
            print(f"  {number:>3} times  {' / '.join(map(str, counts))}")
        if options.seconds and shutil.which("wrk") is None:
            print("left out: throughput (wrk is not installed)")
        elif options.seconds:
            for who, rate in asyncio.run(throughput(Path(name), options.workers, options.seconds)).items():
                print(f"{who:28}{rate:10,.0f} requests a second")
    fewest, even = min(counts[0] for counts in found), CONNECTIONS / options.workers
    verdicts = Verdicts()
    verdicts.add(
        "no worker under a third of the even share",
        fewest >= even / 3,
        f"the fewest are {fewest} of {even:g}",
    )
    return verdicts.conclude()


if __name__ == "__main__":
    sys.exit(main())
