"""The guardian: a tiny process that outlives a killed monitor just long enough to leave nothing of it behind.

It is run by its path, without site-packages (`guardian.py` starts it), and told on its standard input, one line each:

- ``deadline SECONDS``: how long workers may go on after the monitor's end;
- ``mark NAME=VALUE``: a variable that everything which the monitor starts has in its environment;
- ``watch PID STARTED``: a process that was started, and is or will be the leader of a session. STARTED is the 22nd
  field of its ``/proc/PID/stat``; 0 where the monitor could not read it;
- ``forget PID``: it is gone, and so is its session.

It sleeps in one read until the pipe ends, which is when the monitor is gone by whatever means. Then it wakes what is
stopped, so that it sees the end of its own link too and drains; waits until all is gone or the deadline has passed; and
kills what is left: every process of the watched sessions, every one that bears the mark, and their offspring.
"""

from __future__ import annotations

import os
import signal
import sys
import time

TYPE_CHECKING = False  # the name that type checkers know; `typing` itself is a megabyte
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from serverworker.processes import descendants
elif __name__ == "__main__":
    # The last place in the path, and for this one import: no module of ours may stand in for one of the library.
    sys.path.append(__file__.rpartition("/")[0])
    import descendants

    del sys.path[-1]
else:
    from serverworker.processes import descendants

IGNORED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
"""What an operator or a service manager sends to the whole group. The end of the pipe is what ends the guardian."""

FIRST_STEP_SECONDS = 0.02
LAST_STEP_SECONDS = 0.25
"""Between two looks; the first ones are quick, because most workers end within moments."""

KILLING_SECONDS = 10.0
"""How long it goes on killing after the deadline: a process in an uninterruptible wait may never go."""


class Watch:
    """What the monitor has told so far."""

    def __init__(self) -> None:
        self.deadline_seconds = 0.0
        self.mark = b""
        self.started: dict[int, int] = {}
        """When each watched process started, by its pid."""

    def hear(self, line: bytes, proc: str = descendants.PROC) -> None:
        """Takes one line. What it does not understand it leaves: the monitor may be of another version."""
        word, _, rest = line.strip().partition(b" ")
        try:
            if word == b"watch":
                self._watch(*map(int, rest.split()), proc=proc)
            elif word == b"forget":
                self.started.pop(int(rest), None)
            elif word == b"deadline":
                self.deadline_seconds = float(rest)
            elif word == b"mark":
                self.mark = rest
        except (ValueError, TypeError):
            return

    def _watch(self, pid: int, started: int, *, proc: str) -> None:
        if not started:
            entry = descendants.read_process(pid, proc)
            started = entry.started if entry else 0
        if started:
            self.started[pid] = started

    def left(self, proc: str = descendants.PROC) -> list[descendants.ProcessEntry]:
        """Every living process that belongs to what is watched, the guardian itself excepted."""
        entries = descendants.processes(proc)
        ours: set[int] = set()
        for pid, started in self.started.items():
            ours.update(entry.pid for entry in descendants.members(entries, pid, started))
        if self.mark:
            ours.update(
                entry.pid for entry in entries if descendants.has_variable(entry.pid, self.mark, proc)
            )
        ours = descendants.with_offspring(entries, ours) - {os.getpid()}
        return [entry for entry in entries if entry.pid in ours and not entry.is_gone]


def clear_up(
    watch: Watch,
    *,
    proc: str = descendants.PROC,
    kill: Callable[[descendants.ProcessEntry, int], bool] = descendants.signal_process,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> list[descendants.ProcessEntry]:
    """Waits for all that is watched to end, and kills it after the deadline. Answers what would not go even then."""
    deadline = now() + watch.deadline_seconds
    step = FIRST_STEP_SECONDS
    seen_empty = False
    while True:
        try:
            left = watch.left(proc)
            # Two empty looks: what was being started when the monitor died may not have shown in the first.
            if not left and seen_empty:
                return []
            seen_empty = not left
        except OSError:
            left = []  # the machine is short of descriptors: it has until the end to get better
        over = now() - deadline
        if over >= KILLING_SECONDS:
            return left
        for entry in left:
            if over >= 0:
                kill(entry, signal.SIGKILL)
            elif entry.is_stopped:
                kill(entry, signal.SIGCONT)
        # While it kills it stays quick; otherwise the next look is no later than the deadline.
        sleep(min(step, -over) if over < 0 else FIRST_STEP_SECONDS)
        step = min(step * 1.3, LAST_STEP_SECONDS)


def lines(descriptor: int) -> Iterator[bytes]:
    """The lines that arrive, until the other end is closed. A last one without its end is dropped."""
    rest = b""
    while True:
        try:
            data = os.read(descriptor, 65536)
        except OSError:
            return
        if not data:
            return
        *whole, rest = (rest + data).split(b"\n")
        yield from whole


def main() -> None:
    """Runs the guardian: in a session of its own, deaf to signals, holding nothing but the pipe."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    os.setsid()
    os.chdir("/")
    watch = Watch()
    for line in lines(0):
        watch.hear(line)
    clear_up(watch)


if __name__ == "__main__":
    main()
