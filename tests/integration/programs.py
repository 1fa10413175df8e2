"""`twistd` and `twist` as processes of their own.

Half of what a session takes to begin is the import of Twisted. So the interpreter of the next one is started while a
test runs; it imports what every session does, and waits to be told its folder, environment and command line.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

CHECKOUT = Path(__file__).resolve().parents[2]

# As their console scripts do it; these may not be on the path.
_RUN = {
    "twistd": "from twisted.scripts.twistd import run; sys.exit(run())",
    "twist": "from twisted.application.twist._twist import Twist; sys.exit(Twist.main())",
}

_WAIT = f"""
import json, os, sys
import serverworker.session, twisted.application.twist._twist, twisted.scripts.twistd
order = sys.stdin.buffer.readline()
if not order:
    sys.exit()
sys.argv, folder, variables = json.loads(order)
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
os.chdir(folder)
os.environ.clear()
os.environ.update(variables)
exec({_RUN}[sys.argv[0]])
"""

_waiting: subprocess.Popen[bytes] | None = None


def own_environment(more: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without settings of a session, with the checkout to import from, and `more`."""
    path = os.pathsep.join([str(CHECKOUT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    others = {name: value for name, value in os.environ.items() if not name.startswith("SERVERWORKER")}
    return {**others, "PYTHONPATH": path, **more}


def start(
    arguments: list[str],
    *,
    folder: Path,
    more: Mapping[str, str],
    stdin: int | IO[Any] = subprocess.DEVNULL,
    prefix: tuple[str, ...] = (),
) -> subprocess.Popen[bytes]:
    """Start a program of `_RUN` with arguments; its output goes into one pipe, which the caller reads.

    `prefix` is a program that starts it in turn, with its own arguments; `more` is added to the environment.
    """
    if stdin != subprocess.DEVNULL or prefix or any(name.startswith("PYTHON") for name in more):
        code = f"import sys; sys.argv[0] = {arguments[0]!r}; {_RUN[arguments[0]]}"
        return _process([*prefix, sys.executable, "-c", code, *arguments[1:]], folder, more, stdin)
    return _start_waiting(arguments, folder, more)


def _start_waiting(arguments: list[str], folder: Path, more: Mapping[str, str]) -> subprocess.Popen[bytes]:
    global _waiting
    process = _waiting or _wait()
    assert process.stdin is not None
    process.stdin.write(json.dumps([arguments, str(folder), own_environment(more)]).encode() + b"\n")
    process.stdin.close()
    _waiting = _wait()
    return process


def _wait() -> subprocess.Popen[bytes]:
    return _process([sys.executable, "-c", _WAIT], CHECKOUT, {}, subprocess.PIPE)


@atexit.register
def _end() -> None:
    if _waiting is not None:
        _waiting.communicate()


def _process(
    command: list[str], folder: Path, more: Mapping[str, str], stdin: int | IO[Any]
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        cwd=folder,
        env=own_environment(more),
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
