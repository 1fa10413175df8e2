"""How long a server whose reactor, or loop, is blocked by a handler does not answer.

    python benchmarks/hang.py                  # ours beside gunicorn, with defaults, and ours tuned: two minutes
    python benchmarks/hang.py --all            # beside every peer that is installed; most never recover
    python benchmarks/hang.py --rounds 5

A request whose handler calls `time.sleep(3600)` is sent (two to uvicorn, which has two workers). From then on a new
connection is opened every 50 ms; the time is that from the request to the first answer.
All contenders run at the same time: they do nothing but sleep. Each round starts them anew.

Ours pings its workers over their AMP channel: by default every second, with a deadline of 10 s. `tuned` is
`[watchdog] interval_seconds = 0.2, timeout_seconds = 1`. gunicorn's workers touch a file, and have 30 s.

Owed: with defaults a third of gunicorn's or less; tuned, under 2 s. Exit status 1 where that does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.contenders import (
    CONTENDERS,
    GUNICORN_ASGI,
    OURS,
    Contender,
    Place,
    Running,
    installed,
    new_folder,
    ours,
)
from benchmarks.load import ask_pid, free_port, ready, wait_for_answer
from benchmarks.verdicts import Verdicts

TUNED_TOML = "[watchdog]\ninterval_seconds = 0.2\ntimeout_seconds = 1\n"
PROBE_EVERY_SECONDS = 0.05
BETWEEN_SECONDS = 0.3


def tuned(root: Path) -> Contender:
    """Ours, with a quicker watchdog."""
    path = root / "tuned.toml"
    path.write_text(TUNED_TOML)
    return ours("serverworker, tuned", "--config", str(path))


async def time_blocked(contender: Contender, root: Path, cap: float) -> float | None:
    """The seconds until it answers again; None if it does not within `cap`."""
    place = Place(folder=new_folder(root, contender.name, 0), port=free_port())
    with Running(contender, place) as running:
        await wait_for_answer(place.port)
        await ready(running, 2)
        # Somewhere between two pings, or two touches of a file, of which each has its own grid.
        await asyncio.sleep(random.uniform(0, 1))  # noqa: S311 - chance, not a secret
        blocked, hanging = await block(place.port, contender.servers)
        answered = await first_answer(place.port, blocked + cap)
        for task in hanging:
            task.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)
        return None if answered is None else answered - blocked


async def block(port: int, servers: int) -> tuple[float, list[asyncio.Task[int]]]:
    """Hang one worker after the other. When the last one was hung, and the requests."""
    hanging: list[asyncio.Task[int]] = []
    began = 0.0
    for _ in range(servers):
        # One that is blocked takes no more, so that the next request is another's.
        await asyncio.sleep(BETWEEN_SECONDS)
        began = time.monotonic()
        hanging.append(asyncio.create_task(ask_pid(port, "/hang")))
    return began, hanging


async def first_answer(port: int, until: float) -> float | None:
    """When the first of many connections was answered."""
    probes: set[asyncio.Task[int]] = set()
    try:
        while time.monotonic() < until:
            await asyncio.sleep(PROBE_EVERY_SECONDS)
            probes.add(asyncio.create_task(ask_pid(port)))
            done = {probe for probe in probes if probe.done()}
            if any(probe.exception() is None and probe.result() for probe in done):
                return time.monotonic()
            probes -= done
        return None
    finally:
        for probe in probes:
            probe.cancel()
        await asyncio.gather(*probes, return_exceptions=True)


async def measure(peers: list[Contender], rounds: int, cap: float) -> dict[str, list[float | None]]:
    """All of them at once, in every round; each begins at another moment."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        contenders = [*peers, tuned(root)]
        found: dict[str, list[float | None]] = {contender.name: [] for contender in contenders}
        for number in range(rounds):
            times = await asyncio.gather(*(time_blocked(each, root, cap) for each in contenders))
            for contender, seconds in zip(contenders, times, strict=True):
                found[contender.name].append(seconds)
                shown = "never" if seconds is None else f"{seconds:.2f} s"
                print(f"  round {number + 1} {contender.name:20} {shown}", file=sys.stderr)
    return found


def table(found: dict[str, list[float | None]], cap: float) -> str:
    """A line for each contender."""
    lines = [f"{'':20}{'median':>10}{'shortest':>10}{'longest':>10}"]
    for name, times in found.items():
        known = [cap if each is None else each for each in times]
        never = sum(each is None for each in times)
        row = "".join(f"{each:8.2f} s" for each in (median(known), min(known), max(known)))
        lines.append(
            f"{name:20}{row}" + (f"   {never} of {len(times)} not within {cap:g} s" if never else "")
        )
    return "\n".join(lines)


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="of each contender (default 3)")
    parser.add_argument(
        "--cap", type=float, default=45.0, help="seconds after which it is never (default 45)"
    )
    parser.add_argument("--all", action="store_true", help="every peer, not gunicorn alone")
    options = parser.parse_args()
    wanted = CONTENDERS if options.all else (OURS, GUNICORN_ASGI)
    found = asyncio.run(measure(installed(wanted), options.rounds, options.cap))
    print(f"blocked by a handler, {options.rounds} rounds\n\n{table(found, options.cap)}\n")
    return judge(found, options.cap)


def judge(found: dict[str, list[float | None]], cap: float) -> int:
    """What was owed."""
    medians = {name: median(cap if each is None else each for each in times) for name, times in found.items()}
    verdicts = Verdicts()
    verdicts.ratio(
        "with defaults, at most a third of gunicorn's",
        medians[OURS.name],
        medians.get(GUNICORN_ASGI.name),
        1 / 3,
    )
    quick = medians["serverworker, tuned"]
    verdicts.add("tuned, under 2 s", quick < 2, f"{quick:.2f} s")
    return verdicts.conclude()


if __name__ == "__main__":
    sys.exit(main())
