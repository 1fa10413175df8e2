"""Children that the monitor did not start: orphans that the kernel gave it, reaped when they end, killed when they must.

As PID 1 of a container, and as a subreaper everywhere else (prctl(2)), the monitor becomes the parent of whatever its
descendants leave behind. Nobody else waits for those; but for a child that this process started somebody may wait,
Twisted, `subprocess` or an agent's own code, and whoever takes its exit status from them tells them a lie.
"""

from __future__ import annotations

import gc
import os
import signal
import subprocess
from collections.abc import Callable, Collection
from pathlib import Path

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.process import reapProcessHandlers
from twisted.logger import Logger

from serverworker.processes.descendants import (
    KILL_ROUNDS,
    PROC,
    ProcessEntry,
    children_of,
    kill_session,
    processes,
    read_process,
    signal_process,
    with_offspring,
)
from serverworker.processes.guardian import MARK_VARIABLE
from serverworker.processes.spawn import WORKER_VARIABLE

SETTLE_SECONDS = 0.05
"""How long after a child's end it is looked for: whoever waits for it has taken its status by then."""

GRACE_SECONDS = 2.0
"""How long a zombie is left that may be somebody's; and until the next try where the system lets nobody look."""


def any_zombie() -> bool:
    """Whether any child of this process has ended and was not reaped yet. Takes nothing from anybody."""
    try:
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return False


def child_pids(proc: str = PROC) -> list[int]:
    """The children of this process, of all its threads. Raises OSError where that cannot be read."""
    try:
        lists = [path.read_bytes() for path in Path(proc, "self", "task").glob("*/children")]
    except FileNotFoundError:
        lists = []  # a thread has ended meanwhile
    if not lists:  # or a kernel without these lists: a look through all processes takes longer
        return [entry.pid for entry in children_of(os.getpid(), proc)]
    return [int(pid) for each in lists for pid in each.split()]


def is_awaited(pid: int) -> bool:
    """Whether a `subprocess.Popen` in this process has this pid, so that its code may ask for the status yet.

    `subprocess` keeps no list of them, so this looks through all objects: some milliseconds, and seldom.
    """
    found = (each for each in gc.get_objects() if isinstance(each, subprocess.Popen))
    return any(each.pid == pid and each.returncode is None for each in found)


class Reaper:
    """Reaps exactly those children that nobody in this process can wait for."""

    _log = Logger(namespace="serverworker.monitor")

    def __init__(
        self,
        clock: IReactorTime,
        *,
        known: Callable[[], Collection[int]] = reapProcessHandlers.keys,
        awaited: Callable[[int], bool] = is_awaited,
        proc: str = PROC,
    ) -> None:
        """`known` answers the pids that Twisted waits for; `awaited` whether a `subprocess.Popen` has this pid."""
        self._clock = clock
        self._known = known
        self._awaited = awaited
        self._proc = proc
        self._timer: IDelayedCall | None = None
        self._doubtful: dict[tuple[int, int], float] = {}
        """Zombies that may be somebody's, by their identity, and when each was first seen."""
        self._claimed: set[tuple[int, int]] = set()
        """Those that are."""

    def child_ended(self) -> None:
        """To be called in the reactor's thread after each SIGCHLD."""
        if self._timer is None:
            self._timer = self._clock.callLater(SETTLE_SECONDS, self._look)

    def _look(self) -> None:
        self._timer = None
        try:
            # The kernel's list of children may skip some while others are reaped: until a look finds none.
            while any_zombie():
                if not self._reap(self._foreign_zombies()):
                    break
            else:
                self._doubtful.clear()
            wait = bool(self._doubtful)
        except OSError as error:
            wait = True
            self._log.error(
                "foreign children cannot be looked for ({error}); tried again in {seconds:g} s",
                error=error,
                seconds=GRACE_SECONDS,
            )
        if wait:
            self._timer = self._clock.callLater(GRACE_SECONDS, self._look)

    def _foreign_zombies(self) -> list[ProcessEntry]:
        mine, known, now = os.getsid(0), self._known(), self._clock.seconds()
        entries = (read_process(pid, self._proc) for pid in child_pids(self._proc) if pid not in known)
        zombies = [entry for entry in entries if entry is not None and entry.is_gone]
        # Workers lead their own sessions: what is in this one was started here, by an agent's code, and is the agent's.
        zombies = [entry for entry in zombies if entry.session != mine]
        there = {entry.identity for entry in zombies}
        self._claimed &= there
        self._doubtful = {each: since for each, since in self._doubtful.items() if each in there}
        return [entry for entry in zombies if self._is_foreign(entry, now)]

    def _is_foreign(self, entry: ProcessEntry, now: float) -> bool:
        """Whether nobody here can wait for it, as far as can be told now."""
        if entry.session != entry.pid:
            return True
        # The leader of a session: a daemon that was left behind, or started here with a session of its own.
        if entry.identity in self._claimed:
            return False
        if now - self._doubtful.setdefault(entry.identity, now) < GRACE_SECONDS:
            return False
        del self._doubtful[entry.identity]
        if self._awaited(entry.pid):
            self._claimed.add(entry.identity)
            return False
        return True

    def _reap(self, zombies: list[ProcessEntry]) -> bool:
        """Whether any was."""
        reaped = False
        for entry in zombies:
            try:
                pid, status = os.waitpid(entry.pid, os.WNOHANG)
            except ChildProcessError:
                continue  # somebody in another thread was faster
            reaped = reaped or pid != 0
            self._log.debug("reaped {entry}, status {status}", entry=entry, status=status)
        return reaped


# --- what workers leave behind ------------------------------------------------------------------------


def abandoned(mark: str, is_gone: Callable[[int], bool], proc: str = PROC) -> list[ProcessEntry]:
    """Living descendants of this process that a worker started which is gone, with all that they started.

    They are known by what is in their environment: `mark` is the session's (`Guardian.environment`), and
    `is_gone(worker id)` says whether that worker is. What has another environment, such as a daemon that an agent's
    command started, is left alone. Raises OSError where /proc cannot be read.
    """
    entries = processes(proc)
    below = with_offspring(entries, {os.getpid()}) - {os.getpid()}
    workers = {entry.pid: _worker_of(entry.pid, mark, proc) for entry in entries if entry.pid in below}
    left = with_offspring(
        entries, [pid for pid, worker in workers.items() if worker is not None and is_gone(worker)]
    )
    return [entry for entry in entries if entry.pid in left and not entry.is_gone]


def kill_abandoned(
    mark: str,
    is_gone: Callable[[int], bool],
    *,
    proc: str = PROC,
    kill: Callable[[ProcessEntry, int], bool] = signal_process,
) -> list[ProcessEntry]:
    """Kill what `abandoned` finds, again and again until there is nothing new; answers which those were."""
    killed: dict[tuple[int, int], ProcessEntry] = {}
    for _ in range(KILL_ROUNDS):
        new = [entry for entry in abandoned(mark, is_gone, proc) if entry.identity not in killed]
        if not new:
            break
        for entry in new:
            kill(entry, signal.SIGKILL)
            killed[entry.identity] = entry
    return list(killed.values())


def kill_left(pid: int, started: int | None, mark: str, is_gone: Callable[[int], bool]) -> list[ProcessEntry]:
    """Kill all that the worker whose process was `pid` has left: its session, and what has gone into others.

    The rest as in `kill_session` and `abandoned`. It looks through all of /proc, so it belongs in a thread.
    """
    return kill_session(pid, started=started) + kill_abandoned(mark, is_gone)


def _worker_of(pid: int, mark: str, proc: str) -> int | None:
    """The id of the worker that started a process of the session with this mark; None where it is none."""
    try:
        lines = Path(proc, str(pid), "environ").read_bytes().split(b"\0")
    except OSError:
        return None  # gone, or another user's
    variables = dict(line.split(b"=", 1) for line in lines if b"=" in line)
    if variables.get(MARK_VARIABLE.encode()) != mark.encode():
        return None
    worker = variables.get(WORKER_VARIABLE.encode(), b"")
    return int(worker) if worker.isdigit() else None
