"""The fork server: a process that has imported what every worker needs, and forks one whenever the monitor asks.

A new interpreter takes 0.3 s of processor time for Twisted and the rest, beside a server that is at work. A fork takes
a few milliseconds, and the memory of what was imported is shared. The fork server imports nothing of the application,
and no reactor: each worker has its own. Where a file that it has imported is another one by now, it says so instead of
forking, and the monitor starts the next fork server.

A worker is forked twice over, so that it becomes the child of the monitor, which adopts orphans and so learns of its
death itself.

It is run as ``python -m serverworker.processes.fork_server DESCRIPTOR``, or by `run` in a fork of twistd's process.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib
import os
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any

from attrs import frozen

from serverworker.processes import fork_channel
from serverworker.processes.forked import Forked, become_worker, name_process
from serverworker.processes.give_way import give_way
from serverworker.processes.guardian_child import IGNORED

_AT_A_TIME = 64
"""Files that are looked at before others have their turn: half a millisecond."""

PRELOADED = (
    "serverworker.processes.entry",
    "serverworker.processes.hosts.resource",
    "serverworker.processes.poller",
    "serverworker.processes.stacks",
    "serverworker.processes.worker_log",
    "serverworker.processes.worker_session",
    "serverworker.values.reading",
    "serverworker.wire.link",
    "treq",
    "twisted.internet.default",
    "twisted.web.server",
)
"""What every worker imports, sooner or later. None of it installs a reactor or starts a thread."""


@frozen
class _File:
    """A file that something was imported from, as it was then."""

    path: str
    modified_ns: int
    size: int

    @classmethod
    def of(cls, path: str) -> _File:
        status = os.stat(path)  # noqa: PTH116 - a thousand of them before each fork
        return cls(path, status.st_mtime_ns, status.st_size)

    def is_another(self) -> bool:
        try:
            return _File.of(self.path) != self
        except OSError:
            return True


def run(channel: socket.socket) -> None:
    """Serve until the channel ends. In a worker that was forked this does not return: it ends the process."""
    os.setsid()
    before = {
        number: signal.signal(number, signal.SIG_IGN) for number in IGNORED
    }  # the end of the channel is what ends it
    name_process(("serverworker", "-m", fork_channel.FORK_SERVER))
    forked = _serve(channel)
    if forked is not None:
        channel.close()
        for number, handler in before.items():
            signal.signal(number, handler)
        become_worker(forked)


def _serve(channel: socket.socket) -> Forked | None:
    """Answer until the monitor has gone, then None; or, in a new process, the worker that it is to become."""
    files: Sequence[_File] = ()
    while True:
        try:
            message = fork_channel.receive(channel)
            if "preload" in message.content:
                _preload(message.content["preload"])
                files = _imported()
                gc.freeze()  # what is collected later leaves the shared pages alone
                answer: Any = {"ready": os.getpid()}
            else:
                answer = _answer(message, files)
                if isinstance(answer, Forked):
                    return answer
            fork_channel.send(channel, answer)
        except (EOFError, OSError):
            return None


def _preload(names: list[str]) -> None:
    gc.disable()  # nothing of what is imported is garbage
    for name in (*PRELOADED, *names):
        # What cannot be imported fails in the worker again, where it is told.
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def _imported() -> Sequence[_File]:
    found = []
    for module in tuple(sys.modules.values()):
        path = getattr(module, "__file__", None)
        if isinstance(path, str):
            with contextlib.suppress(OSError):
                found.append(_File.of(path))
    return found


def _answer(message: fork_channel.Message, files: Sequence[_File]) -> Any:
    """What the monitor is told; in the new process, what it is to become."""
    content = message.content
    changed = _changed(files)
    try:
        if len(message.descriptors) != content["count"]:
            # The kernel drops what it finds no number for.
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        pid = None if changed is not None else fork_orphan()
    except OSError as error:
        answer: Any = {"error": error.errno}
    else:
        if pid == 0:
            return Forked(content["arguments"], content["environment"], message.descriptors)
        answer = {"stale": changed} if pid is None else {"pid": pid}
    for descriptor in message.descriptors:
        os.close(descriptor)
    return answer


def _changed(files: Sequence[_File]) -> str | None:
    for place, file in enumerate(files):
        if place % _AT_A_TIME == 0:
            give_way()
        if file.is_another():
            return file.path
    return None


def fork_orphan() -> int:
    """As `os.fork`, but the new process is the child of whoever adopts this one's orphans.

    Raises OSError where the system can start no process.
    """
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        between = os.fork()
        if between == 0:
            pid = -errno.EAGAIN
            try:
                pid = os.fork()
            except OSError as error:
                pid = -(error.errno or errno.EAGAIN)
            finally:  # whatever it was: there must be no second fork server
                if pid != 0:
                    os.write(writing, str(pid).encode())
                    os._exit(0)
            return 0
        os.waitpid(between, 0)
        pid = int(os.read(reading, 32))  # BlockingIOError where the one between was killed before it had told
    finally:
        os.close(reading)
        os.close(writing)
    if pid < 0:
        raise OSError(-pid, os.strerror(-pid))
    return pid


if __name__ == "__main__":
    run(socket.socket(fileno=int(sys.argv[1])))
