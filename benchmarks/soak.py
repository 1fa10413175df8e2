"""Restarts, and kills, under clients of every kind: what is lost.

    python benchmarks/soak.py                          # 100 restarts, one after the other: five minutes
    python benchmarks/soak.py --restarts 5             # a short one
    python benchmarks/soak.py --chaos 300              # kills and restarts at random for so many seconds
    python benchmarks/soak.py --chaos 60 --seed 4711   # the same ones again

Four clients of each kind ask without a pause: one request on a new connection; many on one that is kept alive, half of
them without a pause; uploads that take a second; requests that take 50 ms. Every answer names its process.

Restarts: 0 failed requests are owed, no worker may die, no restart fail. A clean restart by SIGHUP follows the one
before as soon as that has come to its end, while the former generation still drains.

Chaos: SIGKILL of a worker (serving, standing by, starting or draining) or SIGHUP, every 0.2 to 2 s. A failure is
excused only where it was inside a killed process: its request was under way when that was killed, on a connection of
that process, or on a new one that nobody had answered on, of which one cannot know whose it was. With the default
back-off a session that is killed every second starts new workers once a minute, and its clients wait for them; this
one forgets a death after 0.1 s, so that there is something to kill.

Exit status 1 where something owed does not hold. `soak` and `chaos` are for tests to call.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from attrs import define, field, frozen

from benchmarks.procfs import memory
from benchmarks.soak_clients import APPLICATION, Clients, Failure
from benchmarks.verdicts import Verdicts
from tests.integration.sessions import TestSession, is_alive

CHAOS_TOML = (
    "[restart]\ninitial_delay_seconds = 0.1\nmaximum_delay_seconds = 0.5\nreset_after_seconds = 0.1\n"
)
LEARNS_SECONDS = 0.05
"""How much later than its end a client may learn that a connection is gone."""
FAILS_SECONDS = 5.0
"""A request that fails so long after a kill did not fail by it."""
GROWTH = 0.05
"""By how much of its size the monitor may grow after the first tenth. Its heap settles in two hundred restarts (2 MB);
one forgotten worker at each would show as 10 MB."""


@frozen(kw_only=True)
class Kill:
    """A SIGKILL of the chaos."""

    pid: int
    began: float
    gone: float
    """When the process was no more."""
    has_served: bool


@define(kw_only=True)
class Outcome:
    """What came of it."""

    seconds: float = 0.0
    restarts: int = 0
    refused_restarts: int = 0
    failed_restarts: int = 0
    kills: list[Kill] = field(factory=list)
    deaths: int = 0
    """Workers that died without having been asked or killed."""
    answered: Counter[str] = field(factory=Counter)
    failures: list[Failure] = field(factory=list)
    """Those that nothing excuses."""
    excused: list[Failure] = field(factory=list)
    monitor_mb: list[float] = field(factory=list)
    """Resident, over time."""

    def growth(self) -> float:
        """By how much the monitor has grown since the first tenth, in MB."""
        return self.monitor_mb[-1] - self.monitor_mb[len(self.monitor_mb) // 10]


def soak(folder: Path, restarts: int = 5, *, workers: int = 2, progress: bool = False) -> Outcome:
    """Restart so many times under the clients."""

    async def act(session: TestSession, outcome: Outcome, clients: Clients) -> None:
        for number in range(restarts):
            after = len(session.events)
            session.process.send_signal(signal.SIGHUP)
            await asyncio.to_thread(_wait_for_end_of_restart, session, after)
            outcome.monitor_mb.append(memory([session.process.pid]).resident)
            await asyncio.sleep(random.uniform(0, 0.2))  # noqa: S311 - chance, not a secret
            if progress and (number + 1) % 10 == 0:
                _show(f"{number + 1} restarts", outcome, clients)

    return asyncio.run(_under_clients(folder, workers, act))


def chaos(folder: Path, seconds: float, seed: int, *, workers: int = 2, progress: bool = False) -> Outcome:
    """Kill and restart at random, for so long."""

    async def act(session: TestSession, outcome: Outcome, clients: Clients) -> None:
        chance = random.Random(seed)  # noqa: S311 - chance, not a secret
        until, shown = time.monotonic() + seconds, time.monotonic()
        while time.monotonic() < until:
            await asyncio.sleep(chance.uniform(0.2, 2.0))
            if chance.random() < 0.3:
                session.process.send_signal(signal.SIGHUP)
            else:
                await _kill_one(session, chance, outcome)
            outcome.monitor_mb.append(memory([session.process.pid]).resident)
            if progress and time.monotonic() > shown + 20:
                shown = time.monotonic()
                _show(f"{len(outcome.kills)} kills", outcome, clients)

    path = folder / "chaos.toml"
    path.write_text(CHAOS_TOML)
    return asyncio.run(_under_clients(folder, workers, act, "--config", str(path)))


async def _under_clients(
    folder: Path,
    workers: int,
    act: Callable[[TestSession, Outcome, Clients], Awaitable[None]],
    *options: str,
) -> Outcome:
    """Start a session and the clients, act, and let both come to their end."""
    (folder / "soaked.py").write_text(APPLICATION)
    outcome = Outcome()
    session = TestSession(folder, "--app", "soaked:Root", "--workers", str(workers), *options)
    try:
        await asyncio.to_thread(session.serving, workers)
        await asyncio.to_thread(session.standby_ready)
        clients = Clients(session.port())
        began = time.monotonic()
        clients.start()
        await act(session, outcome, clients)
        await clients.stop()
        outcome.seconds = time.monotonic() - began
        outcome.answered = clients.answered
        _sort(clients.failures, outcome)
        await asyncio.to_thread(session.end)
    finally:
        await asyncio.to_thread(session.clean_up)
    _count(session, outcome)
    return outcome


def _wait_for_end_of_restart(session: TestSession, after: int) -> None:
    """Wait until the restart that was asked for is complete, or has failed."""
    ends = ("RestartCompleted", "RestartFailed")
    deadline = time.monotonic() + 60
    while not any(event["event"] in ends for event in session.events[after:]):
        if time.monotonic() > deadline or session.process.poll() is not None:
            raise AssertionError(f"the restart came to no end:\n{session.transcript()[-5000:]}")
        time.sleep(0.01)


async def _kill_one(session: TestSession, chance: random.Random, outcome: Outcome) -> None:
    """Kill a worker, two times of three one that serves."""
    events = list(session.events)
    pids = {event["worker"]: int(event["pid"]) for event in events if event["event"] == "WorkerSpawned"}
    over = {event["worker"] for event in events if event["event"] in ("WorkerDied", "WorkerExited")}
    served = {event["worker"] for event in events if event["event"] == "ServerRunning"}
    drains = {event["worker"] for event in events if event["event"] == "WorkerDraining"}
    there = pids.keys() - over
    chosen = sorted(there & served - drains) if chance.random() < 2 / 3 else sorted(there)
    if not chosen:
        return
    worker = chance.choice(chosen)
    began = time.monotonic()
    if not is_alive(pids[worker]):
        return
    os.kill(pids[worker], signal.SIGKILL)
    while is_alive(pids[worker]):
        await asyncio.sleep(0.001)
    outcome.kills.append(
        Kill(
            pid=pids[worker],
            began=began,
            gone=time.monotonic(),
            # It may have been told to serve a moment ago, and its log line be on its way.
            has_served=worker in served or any(_serves(event, worker) for event in session.events),
        )
    )


def _serves(event: dict[str, object], worker: int) -> bool:
    return event["event"] == "ServerRunning" and event["worker"] == worker


def _sort(failures: list[Failure], outcome: Outcome) -> None:
    """Which of the failures are excused."""
    for failure in failures:
        excused = any(_excuses(kill, failure) for kill in outcome.kills)
        (outcome.excused if excused else outcome.failures).append(failure)


def _excuses(kill: Kill, failure: Failure) -> bool:
    """Whether a request was inside a process when that was killed, for all one can know."""
    if not kill.has_served or not kill.began <= failure.ended <= kill.gone + FAILS_SECONDS:
        return False
    if failure.pid:  # its client may not have heard of the end of its connection yet
        return failure.pid == kill.pid and failure.began <= kill.gone + LEARNS_SECONDS
    return failure.began <= kill.began


def _count(session: TestSession, outcome: Outcome) -> None:
    """What the session told."""
    names = Counter(event["event"] for event in session.events)
    outcome.restarts = names["RestartCompleted"]
    outcome.failed_restarts = names["RestartFailed"]
    outcome.refused_restarts = sum("SIGHUP: " in line for line in session.lines)
    killed = {kill.pid for kill in outcome.kills}
    outcome.deaths = sum(
        event["event"] == "WorkerDied" and event["pid"] not in killed for event in session.events
    )


def _show(what: str, outcome: Outcome, clients: Clients) -> None:
    print(
        f"  {what}: {sum(clients.answered.values())} answered, {len(clients.failures)} failed, "
        f"monitor {outcome.monitor_mb[-1]:.1f} MB",
        file=sys.stderr,
    )


def report(outcome: Outcome) -> None:
    """Print what came of it."""
    print(
        f"{outcome.seconds:.0f} s, {outcome.restarts} restarts ({outcome.failed_restarts} failed, "
        f"{outcome.refused_restarts} refused), {len(outcome.kills)} kills, {outcome.deaths} other deaths"
    )
    print(f"\n{'':16}{'answered':>10}{'failed':>8}{'inside a killed process':>25}")
    for kind, number in sorted(outcome.answered.items()):
        failed = sum(failure.kind == kind for failure in outcome.failures)
        excused = sum(failure.kind == kind for failure in outcome.excused)
        print(f"{kind:16}{number:>10}{failed:>8}{excused:>25}")
    for failure in outcome.failures[:20]:
        seconds = failure.ended - failure.began
        print(f"  failed after {seconds:.3f} s, {failure.kind}, pid {failure.pid}: {failure.text}")
    resident = outcome.monitor_mb
    print(
        f"\nmonitor, resident: {resident[0]:.1f} MB at the start, {resident[-1]:.1f} MB at the end, "
        f"{outcome.growth():+.1f} MB since the first tenth\n"
    )


def main() -> int:
    """Run one of the two, print, judge."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--restarts", type=int, default=100, help="how many (default 100)")
    parser.add_argument("--chaos", type=float, metavar="SECONDS", help="kills and restarts at random instead")
    parser.add_argument("--seed", type=int, help="of the chaos (default: by chance)")
    parser.add_argument("--workers", type=int, default=2, help="how many serve (default 2)")
    options = parser.parse_args()
    seed = random.SystemRandom().getrandbits(32) if options.seed is None else options.seed
    with tempfile.TemporaryDirectory() as name:
        if options.chaos:
            print(f"seed {seed}")
            outcome = chaos(Path(name), options.chaos, seed, workers=options.workers, progress=True)
        else:
            outcome = soak(Path(name), options.restarts, workers=options.workers, progress=True)
    report(outcome)
    verdicts = Verdicts()
    what = "0 failures outside a killed process" if options.chaos else "0 failed requests"
    verdicts.add(what, not outcome.failures, f"{len(outcome.failures)} of {sum(outcome.answered.values())}")
    verdicts.add("no worker dies of itself", outcome.deaths == 0, f"{outcome.deaths} did")
    if not options.chaos:
        missing = options.restarts - outcome.restarts
        verdicts.add("every restart is completed", missing == 0, f"{missing} were not")
    if len(outcome.monitor_mb) >= 50:
        what = f"the monitor grows by less than {GROWTH:.0%}"
        grown = outcome.growth() / outcome.monitor_mb[0]
        verdicts.add(what, grown < GROWTH, f"{grown:+.1%}")
    return verdicts.conclude()


if __name__ == "__main__":
    sys.exit(main())
