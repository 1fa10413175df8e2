"""Is a worker killed that is merely slow, because the machine is busy and a thread of its own wants the GIL?

    python benchmarks/false_kills.py                # five minutes
    python benchmarks/false_kills.py --seconds 30

Eight processes that count without end run beside a session, and each of its workers has a thread that does so too. The
settings are the defaults: a ping every second with a deadline of 10 s, a heartbeat every 10 s of which three in a row
may not take longer than 5 s. A client asks ten times a second, and shows how slow it was.

Owed: no worker dies. Exit status 1 where one does.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.load import ask_pid
from benchmarks.verdicts import Verdicts
from tests.integration.sessions import TestSession

APPLICATION = """
import os, threading
from twisted.web.resource import Resource

def want_the_gil():
    number = 0
    while True:
        number += 1

threading.Thread(target=want_the_gil, daemon=True).start()

class Root(Resource):
    isLeaf = True

    def render_GET(self, request):
        return b"%d" % os.getpid()
"""
ASK_SECONDS = 0.1
ANSWER_SECONDS = 60.0


@contextlib.contextmanager
def busy_processes(number: int) -> Iterator[None]:
    """So many processes that do nothing but count."""
    counting = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for process in counting:
            process.kill()
            process.wait()


async def ask(port: int, seconds: float) -> list[float | None]:
    """How long each answer took; None for one that did not come."""
    until = time.monotonic() + seconds
    taken: list[float | None] = []
    while time.monotonic() < until:
        began = time.monotonic()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await ask_pid(port)
        except (OSError, ValueError):
            taken.append(None)
        else:
            taken.append(time.monotonic() - began)
        await asyncio.sleep(ASK_SECONDS)
    return taken


def measure(folder: Path, seconds: float, busy: int) -> tuple[TestSession, list[float | None]]:
    """Run it, and answer the session, which has ended, and how long the answers took."""
    (folder / "greedy.py").write_text(APPLICATION)
    session = TestSession(folder, "--app", "greedy:Root")
    try:
        session.serving()
        session.standby_ready()
        with busy_processes(busy):
            taken = asyncio.run(ask(session.port(), seconds))
        session.end()
    finally:
        session.clean_up()
    return session, taken


def main() -> int:
    """Run it, print, judge."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=300, help="how long (default 300)")
    parser.add_argument("--busy", type=int, default=8, help="processes that count beside it (default 8)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        session, taken = measure(Path(name), options.seconds, options.busy)
    answers = sorted(each for each in taken if each is not None)
    deaths = [event for event in session.events if event["event"] == "WorkerDied"]
    failed_beats = sum(event["event"] == "HeartbeatFailed" for event in session.events)
    print(
        f"{options.seconds:g} s beside {options.busy} busy processes, on {os.cpu_count()} processors\n"
        f"answers: {len(answers)}, median {median(answers) * 1000:.0f} ms, "
        f"99 of 100 within {answers[int(0.99 * (len(answers) - 1))] * 1000:.0f} ms, "
        f"worst {answers[-1] * 1000:.0f} ms; {len(taken) - len(answers)} never came\n"
        f"heartbeats that failed and were borne: {failed_beats}"
    )
    for death in deaths:
        print(f"  {json.dumps(death)[:600]}")
    verdicts = Verdicts()
    verdicts.add("no worker is killed", not deaths, f"{len(deaths)} were")
    return verdicts.conclude()


if __name__ == "__main__":
    sys.exit(main())
