"""The guardian with real processes: a monitor that is killed outright leaves nothing behind."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from serverworker.processes import descendants

reactor: Any = global_reactor
PROGRAM = Path(__file__).with_name("guardian_parent.py")
LINES = {"polite": 1, "stubborn": 1, "family": 3, "unmarked": 3, "secluded": 2, "daemon": 2, "early": 1}
"""How many processes a worker of each kind is made of."""

SOON = 10.0
"""Seconds for what takes some hundredths of one on a machine that is not busy."""


class Parent(ProcessProtocol):
    """Runs guardian_parent.py and notes what it and its workers print.

    All of them but the guardian hold the same standard output, so that its end is the end of them all.
    """

    def __init__(self, kinds: list[str]) -> None:
        self.entries: list[tuple[str, descendants.ProcessEntry]] = []
        self.finished = 0
        self.settled: Deferred[None] = Deferred()
        self.exited_at = 0.0
        self.ended: Deferred[None] = Deferred()
        self.exit_status: int | None = None
        self.ended_at = 0.0
        self._expected = sum(LINES[kind] for kind in kinds) + 2
        self._rest = b""

    def outReceived(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            kind, pid = line.decode().split()
            if kind == "finished":
                self.finished += 1
                continue
            entry = descendants.read_process(int(pid))
            assert entry is not None, line
            self.entries.append((kind, entry))
            if len(self.entries) == self._expected:
                self.settled.callback(None)

    def errReceived(self, data: bytes) -> None:
        sys.stderr.write(data.decode())

    def processExited(self, reason: Failure) -> None:
        self.exited_at = reactor.seconds()
        ended: Any = reason.value
        self.exit_status = ended.exitCode

    def processEnded(self, reason: Failure) -> None:
        self.ended_at = reactor.seconds()
        self.ended.callback(None)

    def pids(self, kind: str) -> list[int]:
        return [entry.pid for name, entry in self.entries if name == kind]

    def kill(self) -> None:
        """Ends the monitor as the kernel's out-of-memory killer does."""
        assert self.transport is not None
        self.transport.signalProcess("KILL")

    def living(self) -> list[str]:
        """Those that are still there; under a pid that was given again is nobody of ours."""
        return [f"{name} {entry}" for name, entry in self.entries if is_alive(entry)]


def is_alive(entry: descendants.ProcessEntry) -> bool:
    now = descendants.read_process(entry.pid)
    return now is not None and now.started == entry.started and not now.is_gone


async def wait_until(condition: Callable[[], object], what: str) -> None:
    """Waits for something that no event tells of. Raises AssertionError when it does not come."""
    deadline = reactor.seconds() + SOON
    while not condition():
        assert reactor.seconds() < deadline, f"never came: {what}"
        await deferLater(reactor, 0.01)


class GuardianTests(TestCase):
    """What is left of a session whose monitor is gone."""

    timeout = 60

    def start(self, drain_seconds: float, *kinds: str) -> Parent:
        parent = Parent(list(kinds))
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        transport = reactor.spawnProcess(
            parent,
            sys.executable,
            [sys.executable, str(PROGRAM), str(drain_seconds), *kinds],
            env=environment,
        )
        self.addCleanup(self.clear, parent, transport)
        return parent

    def clear(self, parent: Parent, transport: Any) -> Any:
        """After a test that failed: nothing may stay."""
        for _, entry in parent.entries:
            descendants.signal_process(entry, signal.SIGKILL)
        if transport.pid is not None:
            transport.signalProcess("KILL")
        return None if parent.ended.called else parent.ended

    async def settled(self, drain_seconds: float, *kinds: str) -> Parent:
        parent = self.start(drain_seconds, *kinds)
        await parent.settled
        return parent

    async def gone(self, parent: Parent) -> float:
        """Waits until all are gone, the guardian too; how long that took after the monitor's death, in seconds."""
        await parent.ended
        await wait_until(lambda: not parent.living(), "the end of all")
        return parent.ended_at - parent.exited_at

    async def test_all_kinds(self) -> None:
        """The polite one finishes; all others are gone at the deadline, and not before it."""
        parent = await self.settled(1.5, *LINES)
        parent.kill()
        taken = await self.gone(parent)
        self.assertEqual(parent.finished, 1)
        self.assertGreater(taken, 1.4)
        self.assertLess(taken, 1.5 + SOON / 2)

    async def test_all_polite(self) -> None:
        """Where all finish early nothing waits for the deadline, the guardian neither."""
        parent = await self.settled(50, "polite", "polite")
        parent.kill()
        self.assertLess(await self.gone(parent), SOON)
        self.assertEqual(parent.finished, 2)

    async def test_stopped(self) -> None:
        """A stopped worker is woken and finishes what it has; a stopped stubborn one is killed."""
        parent = await self.settled(2, "polite", "stubborn")
        stopped = parent.pids("polite") + parent.pids("stubborn")
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        await wait_until(lambda: all(map(descendants.is_stopped, stopped)), "both stop")
        parent.kill()
        await self.gone(parent)
        self.assertEqual(parent.finished, 1)

    async def test_stops_later(self) -> None:
        """One that is stopped while it drains, again and again, is gone at the deadline all the same."""
        parent = await self.settled(1, "stubborn")
        (pid,) = parent.pids("stubborn")
        parent.kill()
        while is_alive(parent.entries[0][1]) and not parent.ended.called:
            try:
                os.kill(pid, signal.SIGSTOP)
            except ProcessLookupError:
                break
            await deferLater(reactor, 0.01)
        await self.gone(parent)

    async def test_no_patience(self) -> None:
        """With a deadline of 0 everything is killed at once."""
        parent = await self.settled(0, "polite", "stubborn", "family")
        parent.kill()
        self.assertLess(await self.gone(parent), SOON / 2)
        self.assertEqual(parent.finished, 0)

    async def test_leader_died_before(self) -> None:
        """Children of a worker that was killed before its monitor are found in its session."""
        parent = await self.settled(0.5, "unmarked")
        os.kill(parent.pids("unmarked")[0], signal.SIGKILL)
        await wait_until(lambda: len(parent.living()) == len(parent.entries) - 1, "the leader is gone")
        parent.kill()
        await self.gone(parent)

    async def test_guardian_killed(self) -> None:
        """A guardian that was killed is followed by another, which knows whom to watch."""
        parent = await self.settled(0.5, "stubborn", "daemon")
        (first,) = parent.pids("guardian")
        (monitor,) = parent.pids("monitor")
        os.kill(first, signal.SIGKILL)
        await wait_until(lambda: guardians(monitor) not in ([], [first]), "the next guardian")
        parent.kill()
        await self.gone(parent)

    async def test_killed_at_any_moment(self) -> None:
        """A monitor that is killed while it is still starting its workers leaves nothing behind either."""
        parents = [self.start(0.3, "stubborn", "early", "daemon") for _ in range(8)]
        await wait_until(lambda: any(parent.entries for parent in parents), "the first one runs")
        for parent in parents:
            await deferLater(reactor, 0.02)
            parent.kill()
        for parent in parents:
            await self.gone(parent)

    async def test_orderly_end(self) -> None:
        """At the session's own end the guardian is stopped, kills what was left over, and is reaped."""
        parent = await self.settled(30, "stubborn", "secluded")
        assert parent.transport is not None
        parent.transport.write(b"stop\n")
        await parent.ended
        self.assertEqual(parent.exit_status, 0)
        await wait_until(lambda: not parent.living(), "the end of all")

    async def test_deaf_and_empty_handed(self) -> None:
        """It has a session of its own, ignores signals, holds nothing but its pipe, and does not wake up."""
        parent = await self.settled(0.2, "stubborn")
        (pid,) = parent.pids("guardian")
        await wait_until(lambda: cwd(pid) == "/" and status(pid)["State"][0] == "S", "it sleeps")
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(pid, number)
        entry = descendants.read_process(pid)
        assert entry is not None
        self.assertEqual((entry.session, entry.group), (pid, pid))
        open_files = descriptors(pid)
        self.assertTrue(open_files.pop(0).startswith("pipe:"))
        self.assertEqual(open_files, {1: "/dev/null", 2: "/dev/null"})
        before = status(pid)
        await deferLater(reactor, 0.5)
        self.assertEqual(status(pid)["voluntary_ctxt_switches"], before["voluntary_ctxt_switches"])
        rss = descendants.rss_bytes(pid)
        assert rss is not None
        self.assertLess(rss, 16_000_000)
        parent.kill()
        await self.gone(parent)


def guardians(monitor: int) -> list[int]:
    """The guardians that a monitor has now."""
    children = (entry.pid for entry in descendants.children_of(monitor) if not entry.is_gone)
    return [pid for pid in children if b"guardian_child" in command_line(pid)]


def command_line(pid: int) -> bytes:
    """What a process was started with; empty where it has gone meanwhile."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def descriptors(pid: int) -> dict[int, str]:
    """What a process has open."""
    return {int(link.name): str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()}


def cwd(pid: int) -> str:
    return str(Path(f"/proc/{pid}/cwd").readlink())


def status(pid: int) -> dict[str, str]:
    """The kernel's account of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
