"""`twistd` and `twist` as processes of their own.

Half of the time that a session takes to begin is spent on importing Twisted. So most are forked from a process that
has imported it already; for the program that is the same as if it had done so itself. A session with a program in
front of it or variables that the interpreter or the loader reads is started from nothing, as are daemons, and all that the tests of
the installed package run.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

CHECKOUT = Path(__file__).resolve().parents[2]

# As their console scripts do it; these may not be on the path.
_RUN = {
    "twistd": "from twisted.scripts.twistd import run; sys.exit(run())",
    "twist": "from twisted.application.twist._twist import Twist; sys.exit(Twist.main(sys.argv))",
}

_orders: socket.socket | None = None
"""To the process that forks others; made at the first need."""


def own_environment(more: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without settings of a session, with the checkout to import from, and `more`."""
    path = os.pathsep.join([str(CHECKOUT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    others = {name: value for name, value in os.environ.items() if not name.startswith("SERVERWORKER")}
    return {**others, "PYTHONPATH": path, **more}


class Forked:
    """As much of `subprocess.Popen` as the tests use, of a process that was forked."""

    def __init__(
        self, arguments: list[str], folder: Path, more: Mapping[str, str], stdin: int | IO[Any]
    ) -> None:
        order = json.dumps([arguments, str(folder), own_environment(more)]).encode()
        output, its_output = os.pipe()
        told, telling = os.pipe()
        null = os.open(os.devnull, os.O_RDONLY)
        if stdin == subprocess.DEVNULL:
            its_input = null
        else:
            its_input = stdin if isinstance(stdin, int) else stdin.fileno()
        socket.send_fds(_fork_server(), [order], [its_input, its_output, telling])
        for each in (null, its_output, telling):
            os.close(each)
        self.stdout: IO[bytes] = os.fdopen(output, "rb")
        self._told = os.fdopen(told, "rb", buffering=0)
        self.pid = int(self._told.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; raises `subprocess.TimeoutExpired`."""
        if self.returncode is None:
            ready, _, _ = select.select([self._told], [], [], timeout)
            if not ready:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            self.returncode = int(self._told.readline())
            self._told.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


def _fork_server() -> socket.socket:
    global _orders
    if _orders is None:
        _orders, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        _orders.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        with its:
            command = [sys.executable, str(Path(__file__).with_name("fork_server.py"))]
            subprocess.Popen(command, stdin=its.fileno(), env=own_environment({}))
    return _orders


def start(
    arguments: list[str],
    *,
    folder: Path,
    more: Mapping[str, str],
    stdin: int | IO[Any] = subprocess.DEVNULL,
    prefix: tuple[str, ...] = (),
) -> subprocess.Popen[bytes] | Forked:
    """Start a program of `_RUN` with arguments; its output goes into one pipe, which the caller reads.

    `prefix` is a program that starts it in turn, with its own arguments; `more` is added to the environment.
    """
    if (
        stdin != subprocess.PIPE
        and not prefix
        and not any(name.startswith(("PYTHON", "LD_")) for name in more)
    ):
        return Forked(arguments, folder, more, stdin)
    code = f"import sys; sys.argv[0] = {arguments[0]!r}; {_RUN[arguments[0]]}"
    return subprocess.Popen(
        [*prefix, sys.executable, "-c", code, *arguments[1:]],
        cwd=folder,
        env=own_environment(more),
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
