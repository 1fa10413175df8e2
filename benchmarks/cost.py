"""What it costs to be kept alive: memory, processor time and wake-ups of monitor and workers that have nothing to do.

    python benchmarks/cost.py                                       # 1, 2, 10 and 50 workers, every peer: 12 minutes
    python benchmarks/cost.py --workers 1 --workers 10 --seconds 10
    python benchmarks/cost.py --peer procmon

One contender runs at a time, until all of its processes are idle, then for `--seconds` more. Memory is in MB (10⁶
bytes): RSS, and PSS (smaps_rollup), in which a page that several processes share is divided among them. Processor time
is in percent of one core, from /proc/PID/task/*/schedstat; a wake-up is a voluntary context switch. `others` are the
guardian and the fork server of ours. Ours has one standby beside its workers, as by default. supervisord and procmon
keep as many children of `twisted.web`, each on a port of its own; circus hands them its socket.

Owed: the monitor's idle processor time grows no more than linearly with the workers, and stays under 1 % of a core with
50; its PSS is no more than procmon's with the same workers. Exit status 1 where that does not hold.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from attrs import frozen

from benchmarks.contenders import (
    CIRCUS,
    GUNICORN_SYNC,
    OURS,
    PROCMON,
    SUPERVISORD,
    Contender,
    Place,
    Running,
    installed,
    new_folder,
)
from benchmarks.load import free_port
from benchmarks.procfs import Activity, Memory, activity, command_line, family, memory
from benchmarks.verdicts import Verdicts

CONTENDERS = (OURS, GUNICORN_SYNC, SUPERVISORD, CIRCUS, PROCMON)
COUNTS = (1, 2, 10, 50)
EACH_ITS_OWN_PORT = (SUPERVISORD, PROCMON)
OTHERS = ("guardian_child", "fork_server")
"""In the command lines of those processes of ours that are neither monitor nor workers."""
CALM_SECONDS = 240.0
"""How long a contender may take until it has started all and is idle."""
NOISE_PERCENT = 0.02
"""By so much two readings of the same processor time differ."""


@frozen(kw_only=True)
class Part:
    """What some of a contender's processes cost."""

    number: int
    memory: Memory
    activity: Activity
    seconds: float

    @property
    def percent(self) -> float:
        """Of one core."""
        return 100 * self.activity.seconds / self.seconds

    @property
    def wakeups(self) -> float:
        """A second."""
        return self.activity.wakeups / self.seconds


@frozen(kw_only=True)
class Cost:
    """One contender with so many workers."""

    monitor: Part
    workers: Part
    others: Part


def measure(contender: Contender, workers: int, seconds: float, root: Path) -> Cost:
    """Start it, wait until it is idle, look, wait, look again."""
    port = 0 if contender in EACH_ITS_OWN_PORT else free_port()
    place = Place(folder=new_folder(root, contender.name, 0), port=port, workers=workers)
    with Running(contender, place) as running:
        monitor = running.process.pid
        wait_until_idle(running, workers + 1)
        pids = family(monitor)
        others = {pid for pid in pids if any(name in command_line(pid) for name in OTHERS)}
        parts = ({monitor}, pids - {monitor} - others, others)
        before = [activity(each) for each in parts]
        began = time.monotonic()
        time.sleep(seconds)
        passed = time.monotonic() - began
        # The time first: to read the memory of many processes takes long.
        after = [activity(each) for each in parts]
        return Cost(
            **{
                name: Part(number=len(part), memory=memory(part), activity=late.since(early), seconds=passed)
                for name, part, early, late in zip(
                    ("monitor", "workers", "others"), parts, before, after, strict=True
                )
            }
        )


def wait_until_idle(running: Running, number: int) -> None:
    """Wait until it has so many processes, and they have done next to nothing for two seconds.

    Raises RuntimeError where that does not come.
    """
    until = time.monotonic() + CALM_SECONDS
    calm = 0
    while calm < 2:
        if running.process.poll() is not None or time.monotonic() > until:
            log = running.log.read_text()[-2000:]
            raise RuntimeError(f"{running.contender.name} has ended, or is not idle:\n{log}")
        pids = family(running.process.pid)
        try:
            before = activity(pids)
            time.sleep(1)
            busy = activity(pids).since(before).seconds
        except OSError:  # one has ended meanwhile
            busy = 1.0
        calm = calm + 1 if len(pids) >= number and busy < 0.02 + 0.002 * len(pids) else 0


HEAD = (
    f"{'':8}{'':16}{'RSS':>8}{'PSS':>8}{'CPU %':>8}{'wakes/s':>9}"
    f"{'others: PSS':>13}{'wakes/s':>9}{'workers':>9}{'PSS each':>10}{'CPU % each':>12}{'wakes/s each':>14}"
)


def row(workers: int, name: str, cost: Cost) -> str:
    """One line of the table."""
    monitor, others, each = cost.monitor, cost.others, cost.workers
    number = max(each.number, 1)
    return (
        f"{workers:>6}  {name:16}{monitor.memory.resident:8.1f}{monitor.memory.proportional:8.1f}"
        f"{monitor.percent:8.3f}{monitor.wakeups:9.2f}"
        f"{others.memory.proportional:13.1f}{others.wakeups:9.2f}"
        f"{each.number:>9}{each.memory.proportional / number:10.1f}{each.percent / number:12.3f}"
        f"{each.wakeups / number:14.2f}"
    )


def judge(found: dict[int, dict[str, Cost]]) -> Verdicts:
    """What was owed."""
    verdicts = Verdicts()
    ours = {workers: costs[OURS.name].monitor for workers, costs in found.items()}
    for (few, small), (many, large) in pairwise(sorted(ours.items())):
        allowed = small.percent * many / few + NOISE_PERCENT
        verdicts.add(
            f"idle time of the monitor, {few} to {many} workers: no more than linear",
            large.percent <= allowed,
            f"{small.percent:.3f} % to {large.percent:.3f} %",
        )
    most = max(ours)
    verdicts.add(
        f"idle time of the monitor with {most} workers: under 1 % of a core",
        ours[most].percent < 1,
        f"{ours[most].percent:.3f} %",
    )
    for workers, costs in found.items():
        theirs = costs.get(PROCMON.name)
        verdicts.ratio(
            f"PSS of the monitor with {workers} workers: no more than procmon's",
            ours[workers].memory.proportional,
            theirs.monitor.memory.proportional if theirs else None,
            1.0,
        )
    return verdicts


def main() -> int:
    """Measure, print, judge."""
    names = [contender.name for contender in CONTENDERS if contender is not OURS]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--workers", type=int, action="append", help="so many; repeats (default 1, 2, 10 and 50)"
    )
    parser.add_argument("--seconds", type=float, default=20, help="of idling that are measured (default 20)")
    parser.add_argument("--peer", action="append", choices=names, help="only this peer; repeats")
    options = parser.parse_args()
    there = installed([OURS, *(each for each in CONTENDERS if each.name in (options.peer or names))])
    found: dict[int, dict[str, Cost]] = {}
    print(HEAD)
    with tempfile.TemporaryDirectory() as root:
        for workers in options.workers or COUNTS:
            for contender in there:
                cost = measure(contender, workers, options.seconds, Path(root))
                found.setdefault(workers, {})[contender.name] = cost
                print(row(workers, contender.name, cost), flush=True)
    print()
    return judge(found).conclude()


if __name__ == "__main__":
    sys.exit(main())
