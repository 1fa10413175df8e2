"""The stacks of a worker that hangs: dumped by the worker, whatever holds it, and read by the monitor.

`faulthandler` writes them in the signal's own handler, in C: it needs neither the reactor nor the GIL. The price: an
interpreter that is at work meanwhile may die of it with SIGSEGV (python/cpython#116008; 7 of 1,158 dumps with 3.13.0,
1 of 2,417 with 3.12.1, none of 2,071 with 3.11.7). So only a process whose end is decided is asked for a dump.
"""

from __future__ import annotations

import faulthandler
import re
import signal
from pathlib import PurePath

from attrs import field, frozen

DUMP_SIGNAL = signal.SIGRTMIN + 6
"""Asks an armed worker for its stacks. Not SIGUSR1 or SIGUSR2, which are twistd's. It ends a process that is not armed."""


def arm(descriptor: int, signal_number: int = DUMP_SIGNAL) -> None:
    """Have every thread's stack written to `descriptor` at each signal (the worker's side).

    The descriptor has to block: so a dump larger than the pipe comes out whole, however late it is read.
    """
    faulthandler.register(signal_number, file=descriptor, all_threads=True, chain=False)


@frozen(kw_only=True)
class HungAt:
    """Where a process was: its innermost line that belongs to the application, or else its innermost."""

    file: str
    line: int
    function: str
    inside: HungAt | None = None
    """The innermost line of all, where that is a library's that the application had called."""

    def __str__(self) -> str:
        """As an operator reads it, such as ``/srv/wiki/pages.py, line 12, in show``."""
        text = f"{self.file}, line {self.line}, in {self.function}"
        return text if self.inside is None else f"{text} (inside {self.inside})"


def hung_at(dump: str) -> HungAt | None:
    """The line at which the main thread was, in a dump of `arm` (the monitor's side).

    None where the dump does not show it: it is empty, cut off, not a dump, or of more than the 100 threads that
    `faulthandler` shows; and where the main thread was not held up, but waited in the reactor for something to do
    (a pool of threads in a deadlock leaves it so). Never raises. Of several dumps the last counts.
    """
    frames = _main_thread(dump)
    if not frames:
        return None
    nearest = min(_distance(frame.file) for frame in frames)
    if nearest == _MACHINERY and frames[0].function in _WAITS:
        return None
    found = next(frame for frame in frames if _distance(frame.file) == nearest)
    innermost = frames[0]
    return HungAt(
        file=found.file,
        line=found.line,
        function=found.function,
        inside=None if innermost is found else innermost,
    )


@frozen
class _Thread:
    is_current: bool
    """It took the signal. The kernel prefers the main thread for that."""
    frames: list[HungAt] = field(factory=list)
    """Innermost first."""


_FRAME = re.compile(r'  File "(?P<file>.*)", line (?P<line>[0-9]{1,9}) in (?P<function>.*)')


def _main_thread(dump: str) -> list[HungAt]:
    """The frames of the main thread: the last of a whole dump, and hardly ever not the current one."""
    threads: list[_Thread] = []
    for line in dump.split("\n")[:-1]:  # what follows the last line's end is nothing, or cut off
        if line.endswith("(most recent call first):"):
            threads.append(_Thread(line.startswith("Current thread")))
        elif line == "...":  # there are more than 100, and the main one is not among those shown
            threads.clear()
        elif threads and (match := _FRAME.fullmatch(line)):
            threads[-1].frames.append(
                HungAt(file=match["file"], line=int(match["line"]), function=match["function"])
            )
    # Without a current thread its end is missing: the last one of half a dump is any thread.
    return threads[-1].frames if any(thread.is_current for thread in threads) else []


_APPLICATION, _INSTALLED, _MACHINERY = range(3)
_OURS = f"{PurePath(__file__).parents[1]}/"
_PACKAGES = re.compile(r"/(?:site|dist)-packages/(?P<package>[^/]+)")
_FRAMEWORK = frozenset({"twisted", "zope", "serverworker"})
_INTERPRETER = re.compile(r"<frozen |.*/lib(?:64)?/python3\.\d+/|.*/s?bin/[^/.]+$")
_WAITS = frozenset({"doPoll", "doSelect", "_select", "select", "poll"})
"""Where a reactor waits for something to do, Twisted's own and asyncio's."""


def _distance(file: str) -> int:
    """How far code is from the application, by its file.

    An application may itself be installed as a package; then it is nearer than the interpreter's library, Twisted
    and this package, and as near as any other package.
    """
    if file.startswith(_OURS):
        return _MACHINERY
    if package := _PACKAGES.search(file):
        return _MACHINERY if package["package"] in _FRAMEWORK else _INSTALLED
    return _MACHINERY if _INTERPRETER.match(file) else _APPLICATION
