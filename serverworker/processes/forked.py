"""How a fork of the fork server becomes what a new interpreter would be that runs a worker's entry."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import io
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from attrs import frozen

from serverworker.processes import entry
from serverworker.processes.give_way import give_way
from serverworker.processes.guardian import MARK_VARIABLE
from serverworker.processes.spawn import ENTRY, WORKER_VARIABLE


@frozen
class Forked:
    """A worker that a new process is to become; see `spawn.Start`."""

    arguments: Sequence[str]
    environment: Mapping[str, str]
    descriptors: Sequence[int]


def become_worker(forked: Forked) -> NoReturn:
    """Run the worker; ends the process."""
    place_descriptors(forked.descriptors)
    give_way()
    os.environ.clear()
    os.environ.update(forked.environment)
    time.tzset()
    name_process(("python", *ENTRY, *forked.arguments), forked.environment)
    give_way()
    _open_standard_streams()
    sys.argv[:] = [entry.__file__, *forked.arguments]
    sys.orig_argv[:] = [sys.executable, *ENTRY, *forked.arguments]
    # What `multiprocessing` imports in the processes that it spawns.
    sys.modules["__main__"] = entry
    _forget_plugins()
    try:
        entry.main(list(forked.arguments))
    except BaseException:  # the frames above are not the worker's
        sys.excepthook(*sys.exc_info())
    os._exit(1)


def _forget_plugins() -> None:
    """Where plugins are looked for was settled when the package was imported, without the application's folder."""
    for name in [each for each in sys.modules if each.startswith("twisted.plugins")]:
        del sys.modules[name]


def place_descriptors(descriptors: Sequence[int]) -> None:
    """Make these 0, 1, 2, … in their order, to be inherited, and close everything else."""
    number = len(descriptors)
    above = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, number) for each in descriptors]
    for place, descriptor in enumerate(above):
        os.dup2(descriptor, place)
    os.closerange(number, os.sysconf("SC_OPEN_MAX"))


def _open_standard_streams() -> None:
    """As ``python -u`` does: what is printed leaves the process at once."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        before = getattr(sys, f"__{name}__")
        raw: Any = io.FileIO(descriptor, "r" if name == "stdin" else "w", closefd=False)
        raw.name = f"<{name}>"
        stream: Any = io.TextIOWrapper(
            io.BufferedReader(raw) if name == "stdin" else raw,
            encoding=getattr(before, "encoding", None),
            errors=getattr(before, "errors", None),
            newline=None if name == "stdin" else "\n",
            write_through=True,
        )
        stream.mode = "r" if name == "stdin" else "w"
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


# --- what /proc shows ---------------------------------------------------------------------------------


def name_process(words: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
    """Have /proc, and so ps, show this command line and this environment, as much of them as there is room for.

    The marks come first: by those the guardian finds what a worker has started. What stood there until now must not be
    in use any more; so with an environment this process must have replaced its own.
    """
    command_line, block = _blocks()
    _overwrite(command_line, words)
    with contextlib.suppress(OSError):
        # A fork of twistd's would be called that too, and be meant by every pkill.
        Path("/proc/self/comm").write_text(Path(sys.executable).name)
    if environment is not None:
        first = [name for name in (MARK_VARIABLE, WORKER_VARIABLE) if name in environment]
        names = [*first, *(name for name in environment if name not in first)]
        _overwrite(block, [f"{name}={environment[name]}" for name in names])


def room_for_names() -> tuple[int, int]:
    """How many bytes this process's command line may have, and how many its environment, as /proc shows them."""
    command_line, block = _blocks()
    return len(command_line), len(block)


def _blocks() -> tuple[range, range]:
    """Where in memory the two lie (proc(5)). Both are empty where the kernel does not say."""
    try:
        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return range(0), range(0)
    start, end, environment_start, environment_end = (int(field) for field in fields[45:49])
    return range(start, end), range(environment_start, environment_end)


def _overwrite(block: range, texts: Sequence[str]) -> None:
    """Each ends with a NUL. The first that has no room is left out, with all behind it."""
    data = bytearray()
    for text in map(os.fsencode, texts):
        if len(data) + len(text) + 1 > len(block):
            break
        data += text + b"\0"
    ctypes.memmove(block.start, bytes(data.ljust(len(block), b"\0")), len(block))
