"""Whose a process is, as /proc tells it: sessions, children, orphans, and how to end all of a session.

Standard library only, and little of it: the guardian loads this file too, without site-packages and in as few megabytes
as Python can do with. So `ProcessEntry` is written by hand instead of with attrs, and paths are strings.
"""

# ruff: noqa: PTH208 (pathlib would cost the guardian more memory than all else that it imports)

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False  # the name that type checkers know; `typing` itself is a megabyte
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

PROC = "/proc"
"""Where the kernel tells of its processes. A parameter everywhere, for tests."""

PR_SET_CHILD_SUBREAPER = 36
"""From linux/prctl.h."""

KILL_ROUNDS = 20
"""How often a session is looked through for new members before it is left as it is."""


class ProcessEntry:
    """One process as ``/proc/PID/stat`` describes it at one moment.

    A pid alone is no identity: the kernel gives it again. A pid and the moment that it started at are.
    """

    __slots__ = ("command", "group", "parent", "pid", "session", "started", "state", "threads")

    def __init__(
        self,
        *,
        pid: int,
        command: str,
        state: str,
        parent: int,
        group: int,
        session: int,
        threads: int,
        started: int,
    ) -> None:
        self.pid = pid
        self.command = command  # the kernel's short name: 15 bytes at most
        self.state = state  # one letter: R, S, D, T, t, Z, X, I
        self.parent = parent
        self.group = group
        self.session = session
        self.threads = threads
        self.started = started  # clock ticks since the machine's boot

    @property
    def identity(self) -> tuple[int, int]:
        """The pid and when it started: never the same for two processes."""
        return (self.pid, self.started)

    @property
    def is_gone(self) -> bool:
        """Whether it has ended and only waits to be reaped.

        A process whose first thread ended before the others looks like a zombie too, but still runs.
        """
        return self.state in "ZX" and self.threads <= 1

    @property
    def is_stopped(self) -> bool:
        """Whether a signal or a debugger has stopped it."""
        return self.state in "Tt"

    def __repr__(self) -> str:
        return (
            f"<process {self.pid} ({self.command}) {self.state}, started {self.started}, "
            f"parent {self.parent}, group {self.group}, session {self.session}>"
        )


def parse_stat(text: bytes) -> ProcessEntry | None:
    """An entry from the text of ``/proc/PID/stat``; None where it is cut short or no such text.

    The command stands in parentheses and may hold spaces, line ends and parentheses itself: the last one counts.
    """
    start, end = text.find(b"("), text.rfind(b")")
    fields = text[end + 1 :].split()
    try:
        return ProcessEntry(
            pid=int(text[:start]),
            command=text[start + 1 : end].decode("utf-8", "replace"),
            state=fields[0].decode("ascii", "replace"),
            parent=int(fields[1]),
            group=int(fields[2]),
            session=int(fields[3]),
            threads=int(fields[17]),
            started=int(fields[19]),
        )
    except (ValueError, IndexError):
        return None


def read_process(pid: int, proc: str = PROC) -> ProcessEntry | None:
    """The process of that pid now; None where there is none.

    Raises OSError where /proc cannot be read, such as when this process has no descriptor left.
    """
    text = _read(f"{proc}/{pid}/stat")
    return None if text is None else parse_stat(text)


def processes(proc: str = PROC) -> list[ProcessEntry]:
    """Every process that can be seen, those that only wait to be reaped included. Raises OSError as `read_process`."""
    found = (read_process(int(name), proc) for name in os.listdir(proc) if name.isdecimal())
    return [entry for entry in found if entry is not None]


def session_members(session_id: int, *, started: int | None = None, proc: str = PROC) -> list[ProcessEntry]:
    """Every living process of a session, in any of its process groups. Raises OSError as `read_process`.

    `started` is when the session's leader started. With it, a session of a stranger who got the same number is empty
    here, and the leader counts although it has not called `setsid` yet.
    """
    return members(processes(proc), session_id, started)


def members(entries: Iterable[ProcessEntry], session_id: int, started: int | None) -> list[ProcessEntry]:
    """What `session_members` answers, from entries at hand."""
    entries = list(entries)
    if started is None:
        return [entry for entry in entries if entry.session == session_id and not entry.is_gone]
    if any(entry.pid == session_id and entry.started != started for entry in entries):
        # The kernel gives a number again only when neither a process nor a session bears it any more.
        return []
    return [
        entry
        for entry in entries
        if session_id in (entry.session, entry.pid) and entry.started >= started and not entry.is_gone
    ]


def with_offspring(entries: Collection[ProcessEntry], pids: Iterable[int]) -> set[int]:
    """These pids and those of their children, grandchildren and so on, whatever sessions those are in."""
    found = set(pids)
    grew = True
    while grew:
        children = {entry.pid for entry in entries if entry.parent in found} - found
        found |= children
        grew = bool(children)
    return found


def children_of(pid: int, proc: str = PROC) -> list[ProcessEntry]:
    """The direct children of a process, those that wait to be reaped included. Raises OSError as `read_process`.

    All of /proc is looked through: the kernel's own list of children may skip some while one of them ends.
    """
    return [entry for entry in processes(proc) if entry.parent == pid]


def orphans(monitor_pid: int, known_pids: Collection[int], proc: str = PROC) -> list[ProcessEntry]:
    """Children of a subreaper that it did not start: left behind by a process that ended before them.

    Those that have ended already are among them (`is_gone`): the monitor has to reap them.
    """
    return [entry for entry in children_of(monitor_pid, proc) if entry.pid not in known_pids]


def signal_process(entry: ProcessEntry, number: int, proc: str = PROC) -> bool:
    """Sends a signal to exactly this process; False where it is gone, or this user may not.

    The pid is held by a descriptor while it is compared, so a stranger who got the same pid is never hit. A kernel
    before 5.3, or a process without a free descriptor, leaves a gap of microseconds.
    """
    handle = -1
    try:
        handle = _hold(entry.pid)
        now = read_process(entry.pid, proc)
        if now is None or now.started != entry.started:
            return False
        if handle < 0:
            os.kill(entry.pid, number)
        else:
            signal.pidfd_send_signal(handle, number)
    except OSError:
        return False
    finally:
        if handle >= 0:
            os.close(handle)
    return True


def kill_session(
    session_id: int,
    *,
    started: int | None = None,
    proc: str = PROC,
    kill: Callable[[ProcessEntry, int], bool] = signal_process,
) -> list[ProcessEntry]:
    """Kills every living process of a session and answers which those were. Never raises OSError.

    It looks again until no new member shows up: a member that is killed forks no more, but one may have forked just
    before. It does not wait for them to be gone. Where /proc cannot be read, the leader's own process group is killed
    and nothing is answered. `started` is as in `session_members`.

    Raises ValueError for the caller's own session, which is never what was meant.
    """
    if session_id <= 1 or session_id == os.getsid(0):
        raise ValueError(f"session {session_id} is not one of a worker")
    killed: dict[tuple[int, int], ProcessEntry] = {}
    try:
        for _ in range(KILL_ROUNDS):
            new = [
                entry
                for entry in session_members(session_id, started=started, proc=proc)
                if entry.identity not in killed
            ]
            if not new:
                break
            for entry in new:
                kill(entry, signal.SIGKILL)
                killed[entry.identity] = entry
    except OSError:
        _kill_group(session_id)
    return list(killed.values())


def set_subreaper() -> None:
    """Makes this process the new parent of orphans among its descendants (prctl(2), PR_SET_CHILD_SUBREAPER).

    Whoever calls this has to reap them. Raises OSError where the kernel refuses.
    """
    import ctypes

    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl(PR_SET_CHILD_SUBREAPER): {os.strerror(number)}")


def rss_bytes(pid: int, proc: str = PROC) -> int | None:
    """The resident size of a process in bytes; None where there is none. Raises OSError as `read_process`."""
    text = _read(f"{proc}/{pid}/statm")
    try:
        return None if text is None else int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, IndexError):
        return None


def cpu_seconds(pid: int, proc: str = PROC) -> float | None:
    """The processor time of a process in seconds; None where there is none. Raises OSError as `read_process`.

    Of all its threads, in the kernel and outside of it; not of its children.
    """
    text = _read(f"{proc}/{pid}/stat")
    if text is None:
        return None
    fields = text[text.rfind(b")") + 1 :].split()
    try:
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (ValueError, IndexError):
        return None


def is_stopped(pid: int, proc: str = PROC) -> bool:
    """Whether a process is there and stopped by a signal or a debugger. Raises OSError as `read_process`."""
    entry = read_process(pid, proc)
    return entry is not None and entry.is_stopped


def has_variable(pid: int, variable: bytes, proc: str = PROC) -> bool:
    """Whether a process was started with this ``NAME=VALUE`` in its environment, as far as this user may see it."""
    text = _read(f"{proc}/{pid}/environ")
    return text is not None and variable in text.split(b"\0")


def _hold(pid: int) -> int:
    """A descriptor that keeps a pid from meaning anyone else, or -1 where that cannot be had."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except OSError:
        return -1


def _kill_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except OSError:
        return  # nobody is left in it, or it is not ours to kill


def _read(path: str) -> bytes | None:
    """All of a file of /proc; None where its process is gone or not ours to see."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError, ProcessLookupError):
        return None
    parts = []
    try:
        while part := os.read(descriptor, 65536):
            parts.append(part)
    except (PermissionError, ProcessLookupError):
        return None
    finally:
        os.close(descriptor)
    return b"".join(parts)
