"""What the system says of processes: who belongs to whom, their memory, their time, how often they wake up."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from attrs import frozen


def _all_pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _where(pids: Iterable[int], ask: Callable[[int], bool]) -> set[int]:
    """Those of which it holds; one that has gone meanwhile is none of them."""
    found = set()
    for pid in pids:
        try:
            if ask(pid):
                found.add(pid)
        except OSError:
            continue
    return found


def in_session(leader: int) -> set[int]:
    """The processes in the session of that leader."""
    return _where(_all_pids(), lambda pid: os.getsid(pid) == leader)


def children(parent: int) -> set[int]:
    """The children of a process."""
    return _where(_all_pids(), lambda pid: _parent(pid) == parent)


def family(root: int) -> set[int]:
    """A process, its children, theirs, and so on."""
    found, new = {root}, {root}
    while new:
        new = _where(_all_pids(), lambda pid: _parent(pid) in new) - found  # noqa: B023 - called at once
        found |= new
    return found


def command_line(pid: int) -> str:
    """The words that a process was started with; empty where it has gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        return ""


@frozen(kw_only=True)
class Memory:
    """Of one process or several, in MB (10⁶ bytes)."""

    resident: float
    proportional: float
    """Pages that several processes share are divided among them."""


def memory(pids: Iterable[int]) -> Memory:
    """What they hold, together."""
    resident = proportional = 0.0
    for pid in pids:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        fields = {line.split(":")[0]: line.split()[1] for line in text.splitlines()[1:]}
        resident += int(fields["Rss"]) * 1024 / 1e6
        proportional += int(fields["Pss"]) * 1024 / 1e6
    return Memory(resident=resident, proportional=proportional)


@frozen(kw_only=True)
class Activity:
    """What processes have done since they began, all their threads together."""

    seconds: float
    """Of a processor."""
    wakeups: int
    """How often they went to sleep by themselves, and were woken again."""

    def since(self, earlier: Activity) -> Activity:
        """What they have done from then to now."""
        return Activity(seconds=self.seconds - earlier.seconds, wakeups=self.wakeups - earlier.wakeups)


def activity(pids: Iterable[int]) -> Activity:
    """What they have done. Threads that have ended are not counted: ask for processes whose threads stay."""
    seconds, wakeups = 0.0, 0
    for pid in pids:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            seconds += _run_seconds(thread)
            status = (thread / "status").read_text()
            wakeups += int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])
    return Activity(seconds=seconds, wakeups=wakeups)


def _run_seconds(thread: Path) -> float:
    try:
        return int((thread / "schedstat").read_text().split()[0]) / 1e9
    except (FileNotFoundError, IndexError):  # a kernel without it counts in hundredths of a second
        fields = (thread / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / float(os.sysconf("SC_CLK_TCK"))
