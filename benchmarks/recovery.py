"""How long nobody answers after a kill -9 of the only worker, and during a reload; and what becomes of the clients.

    python benchmarks/recovery.py                                     # both applications, every peer that is there
    python benchmarks/recovery.py --kills 3 --reloads 2               # a quick look
    python benchmarks/recovery.py --import-seconds 0 --peer procmon   # one application, beside procmon alone

The peers are from PyPI, all in the environment that this is run in; whichever is not installed is left out:
pip install gunicorn uvicorn granian supervisor circus. One application imports instantly, one takes a second.

A client opens a connection every 2 ms. After a kill: the time to the first answer to a connection that was opened
after it; the longest time between two answers; the connections that failed; and those that were lost with the killed
worker, because they were open before the kill and it may have accepted them. A reload is each peer's own gentlest
(SIGHUP; supervisorctl restart; circusctl reload), from the order until only new processes have answered for a second.
Here every connection that is not answered has failed. `calm` is the longest gap of the half second before: what
client and machine cost by themselves.

The client has a core of its own, where there are two, and the contenders have the others: what it measures is how
long they make it wait, and not how long it waits for its own turn beside them, as no real client does.
(`--shared-cores` leaves that to the kernel.)

All contenders run at the same time, but one after the other is under load, round by round, so that the machine's ups
and downs fall on all of them. Ours runs with its defaults and is started anew for each kill, since from the second
death in a minute on a back-off delays the next standby: every kill is the first one of a session that is whole.
(uvicorn has no parent with one worker, so it runs with two, of which one is killed: its first answer is the other's.)

Exit status 1 where something owed does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from attrs import define, field, frozen

from benchmarks.contenders import CONTENDERS, OURS, Contender, Place, Running, installed, new_folder
from benchmarks.load import (
    ANSWER_SECONDS,
    Client,
    Request,
    free_port,
    longest_gap,
    ready,
    wait_for_answer,
)
from benchmarks.verdicts import Verdicts

BEFORE_SECONDS = 0.5
"""How long the client runs before the blow."""
AFTER_SECONDS = 0.5
"""And how long after the first answer: what the first one costs those behind it is seen too."""
APART_SECONDS = 2.5
"""Between two kills of one peer: supervisord and procmon count a process as started after a second."""
ALONE_SECONDS = 1.0
"""A reload is over when nobody old has answered for so long."""
RELOAD_SECONDS = 30.0
ALL_CORES = os.sched_getaffinity(0)
PEER_NAMES = [contender.name for contender in CONTENDERS if contender is not OURS]


@frozen(kw_only=True)
class Blow:
    """What one kill, or one reload, came to. Times are in milliseconds."""

    first_answer: float
    """To a connection that was opened after it; of a reload: by a new process."""
    gap: float
    calm: float
    refused: int
    reset: int
    timeout: int
    lost: int = 0
    """Open before the kill, and reset: what the killed worker had."""
    done: bool = True
    """False for a reload that brought no new process, or never the last."""

    @property
    def failed(self) -> int:
        """The connections that should have been answered and were not."""
        return self.refused + self.reset + self.timeout


@define
class Figures:
    """What one contender has shown with one application."""

    kills: list[Blow] = field(factory=list)
    reloads: list[Blow] = field(factory=list)


# --- one blow --------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def under_load(port: int) -> AsyncIterator[Client]:
    """The client runs; what it had before the block begins is calm."""
    stop = asyncio.Event()
    client = Client(port)
    running = asyncio.create_task(client.run(stop))
    await asyncio.sleep(BEFORE_SECONDS)
    yield client
    await asyncio.sleep(AFTER_SECONDS)
    stop.set()
    await running


async def one_kill(port: int) -> Blow:
    """Kill whoever serves."""
    async with under_load(port) as client:
        victim = await wait_for_answer(port)
        os.kill(victim, signal.SIGKILL)
        killed = time.monotonic()
        await client.answer_after(killed, ANSWER_SECONDS)
    return judge(client.requests, killed, is_kill=True)


async def one_reload(running: Running) -> Blow:
    """Have it bring fresh code in."""
    assert running.contender.reload is not None
    async with under_load(running.place.port) as client:
        old = {each.pid for each in client.requests}
        running.contender.reload(running)
        asked = time.monotonic()
        done = False
        while not done and time.monotonic() < asked + RELOAD_SECONDS:
            await asyncio.sleep(0.05)
            new = [each for each in client.requests if each.pid and each.pid not in old]
            last_of_old = max(each.ended for each in client.requests if each.pid in old)
            done = bool(new) and time.monotonic() - last_of_old > ALONE_SECONDS
    return judge(client.requests, asked, old=old, done=done)


def judge(
    requests: list[Request],
    moment: float,
    *,
    is_kill: bool = False,
    old: set[int] | None = None,
    done: bool = True,
) -> Blow:
    """The figures of one blow, which fell at `moment`."""
    calm = [each for each in requests if each.ended <= moment]
    # From the last answer before it on: the first gap begins there.
    since = max((each.ended for each in calm if each.outcome == "ok"), default=moment)
    after = [each for each in requests if each.ended >= since]
    first = min(
        (
            each.ended
            for each in after
            if each.outcome == "ok" and each.began > moment and each.pid not in (old or ())
        ),
        default=moment + ANSWER_SECONDS,
    )
    lost = [each for each in after if is_kill and each.outcome == "reset" and each.began <= moment]
    outcomes = [each.outcome for each in requests if each not in lost]
    return Blow(
        first_answer=(first - moment) * 1000,
        gap=longest_gap(after) * 1000,
        calm=longest_gap(calm) * 1000,
        refused=outcomes.count("refused"),
        reset=outcomes.count("reset"),
        timeout=outcomes.count("timeout"),
        lost=len(lost),
        done=done,
    )


# --- all contenders, in turns ------------------------------------------------------------------------------


async def started(stack: contextlib.ExitStack, root: Path, contender: Contender, seconds: float) -> Running:
    """Start it on the contenders' cores, and wait until it answers, with its standby where it has one."""
    place = Place(folder=new_folder(root, contender.name, seconds), port=free_port())
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, ALL_CORES - own or own)
    try:
        running = stack.enter_context(Running(contender, place))
    finally:
        os.sched_setaffinity(0, own)
    await wait_for_answer(place.port)
    await ready(running, 2)
    return running


async def measure(
    contenders: list[Contender], kills: int, reloads: int, import_seconds: float
) -> dict[str, Figures]:
    """The kills first, then the reloads."""
    found = {contender.name: Figures() for contender in contenders}
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        root = Path(name)
        all_running = {each.name: await started(stack, root, each, import_seconds) for each in contenders}
        for number in range(kills):
            await asyncio.sleep(APART_SECONDS + import_seconds)
            for contender in contenders:
                figures = found[contender.name]
                if contender.ready_says:
                    with contextlib.ExitStack() as once:
                        fresh = await started(once, root / "fresh", contender, import_seconds)
                        figures.kills.append(await one_kill(fresh.place.port))
                else:
                    figures.kills.append(await one_kill(all_running[contender.name].place.port))
                show(f"kill {number + 1}", contender, figures.kills[-1])
        for number in range(reloads):
            await asyncio.sleep(APART_SECONDS + import_seconds)
            for contender in contenders:
                if contender.reload is not None:
                    running = all_running[contender.name]
                    whole = running.ready_workers + 2
                    found[contender.name].reloads.append(await one_reload(running))
                    await ready(running, whole)
                    show(f"reload {number + 1}", contender, found[contender.name].reloads[-1])
    return found


def show(what: str, contender: Contender, blow: Blow) -> None:
    """A line on stderr, so that one sees that it goes on."""
    print(
        f"  {what:10} {contender.name:20} first {blow.first_answer:7.1f} ms, gap {blow.gap:7.1f} ms, "
        f"failed {blow.failed}, lost {blow.lost}{'' if blow.done else ', NOT DONE'}",
        file=sys.stderr,
    )


# --- what it comes to ----------------------------------------------------------------------------------------


def table(found: dict[str, Figures]) -> str:
    """Medians, and sums of what failed; first the kills, then the reloads."""
    lines = []
    for what in ("kills", "reloads"):
        heads = ("first answer", "worst", "longest gap", "worst", "calm")
        lines.append(
            f"{what:20}" + "".join(f"{head:>13}" for head in heads) + "   refused  reset timeout   lost"
        )
        for name, figures in found.items():
            blows: list[Blow] = getattr(figures, what)
            if not blows:
                lines.append(f"{name:20}{'-':>13}")
                continue
            first, gap = [blow.first_answer for blow in blows], [blow.gap for blow in blows]
            times = (median(first), max(first), median(gap), max(gap), median(blow.calm for blow in blows))
            sums = [
                sum(getattr(blow, each) for blow in blows) for each in ("refused", "reset", "timeout", "lost")
            ]
            undone = sum(not blow.done for blow in blows)
            lines.append(
                f"{name:20}"
                + "".join(f"{each:10.1f} ms" for each in times)
                + f"{sums[0]:10}{sums[1]:7}{sums[2]:8}{sums[3]:7}"
                + (f"   {undone} of {len(blows)} not done" if undone else "")
            )
        lines.append("")
    return "\n".join(lines)


def middle(blows: list[Blow], of: str) -> float:
    """The median of one of their figures."""
    return float(median(getattr(blow, of) for blow in blows))


def judge_kills(verdicts: Verdicts, label: str, found: dict[str, Figures], allowed: float) -> None:
    """First answers beside gunicorn's and procmon's, and no failed connection."""
    mine = found[OURS.name].kills
    first = middle(mine, "first_answer")
    failed = sum(blow.failed for blow in mine)
    verdicts.add(f"{label}: no failed connection after a kill", failed == 0, f"{failed} failed")
    # Beside its faster worker class.
    theirs = [middle(found[name].kills, "first_answer") for name in found if name.startswith("gunicorn")]
    what = f"{label}: first answer at most {allowed:g} of gunicorn's"
    verdicts.ratio(what, first, min(theirs, default=None), allowed)
    procmon = [middle(found[name].kills, "first_answer") for name in found if name == "procmon"]
    verdicts.ratio(f"{label}: first answer faster than procmon's", first, min(procmon, default=None), 1.0)


def judge_reloads(verdicts: Verdicts, label: str, found: dict[str, Figures]) -> None:
    """Nothing failed, and a gap no longer than that of the best peer."""
    mine = found[OURS.name].reloads
    failed = sum(blow.failed for blow in mine)
    undone = sum(not blow.done for blow in mine)
    verdicts.add(
        f"{label}: no failed connection in a reload",
        failed == 0 and not undone,
        f"{failed} failed in {len(mine)}, {undone} not done",
    )
    gaps = {
        name: middle(figures.reloads, "gap")
        for name, figures in found.items()
        if name != OURS.name and figures.reloads
    }
    best = min(gaps, key=lambda name: gaps[name], default="the best peer")
    what = f"{label}: longest gap in a reload at most that of {best}"
    verdicts.ratio(what, middle(mine, "gap"), gaps.get(best), 1.0)


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=11, help="of each contender (default 11)")
    parser.add_argument("--reloads", type=int, default=7, help="of each contender (default 7)")
    parser.add_argument(
        "--import-seconds",
        type=float,
        action="append",
        help="what the application's import takes; repeats (default: 0, then 1)",
    )
    parser.add_argument("--shared-cores", action="store_true", help="the client has no core of its own")
    parser.add_argument("--peer", action="append", choices=PEER_NAMES, help="only this peer; repeats")
    options = parser.parse_args()
    there = installed([OURS, *(each for each in CONTENDERS if each.name in (options.peer or PEER_NAMES))])
    if len(ALL_CORES) > 1 and not options.shared_cores:
        os.sched_setaffinity(0, {min(ALL_CORES)})
    verdicts = Verdicts()
    for seconds in options.import_seconds or [0.0, 1.0]:
        label = f"import {seconds:g} s"
        found = asyncio.run(measure(there, options.kills, options.reloads, seconds))
        print(f"\n{label}, {options.kills} kills, {options.reloads} reloads\n\n{table(found)}")
        if options.kills:
            judge_kills(verdicts, label, found, 1.5 if seconds < 0.5 else 0.02)
        if options.reloads:
            judge_reloads(verdicts, label, found)
    return verdicts.conclude()


if __name__ == "__main__":
    sys.exit(main())
