"""Which session is meant: where its control port is."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from attrs import frozen

from serverworker.processes.state_directory import CONTROL_FILE, LOCK_NAME, sessions_path
from serverworker.values.errors import ServerWorkerError


class Unreachable(ServerWorkerError):
    """No session can be reached. The text says why, and what to do."""


class NoSession(Unreachable):
    """There is no session, or not one alone."""


@frozen(kw_only=True)
class Found:
    """A session that runs."""

    state_directory: Path
    control: str
    """Its control port, such as ``unix:/run/user/0/serverworker/8080/control``."""


def find(state_directory: str | None, environ: Mapping[str, str]) -> Found:
    """The session with this state directory, or else the one that runs. Raises `NoSession`."""
    given = state_directory or environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if given:
        path = Path(given).expanduser().absolute()
        found = _look(path)
        if found is None:
            raise NoSession(_why_not(path))
        return found
    root = sessions_path(environ)
    running = list(_running(root))
    if len(running) == 1:
        return running[0]
    if running:
        names = "".join(f"\n  serverworkerctl --state-dir {each.state_directory} …" for each in running)
        raise NoSession(f"{len(running)} sessions run; say which one is meant:{names}")
    raise NoSession(
        f"no session of this user runs (looked in {root}): start one with `twistd serverworker --port 8080`, or say "
        "where the one that is meant keeps its state: serverworkerctl --state-dir DIR …"
    )


def _running(root: Path) -> Iterator[Found]:
    try:
        folders = sorted(root.iterdir())
    except OSError:
        return
    for folder in folders:
        found = _look(folder)
        if found is not None:
            yield found


def _look(folder: Path) -> Found | None:
    """The session that holds this folder and has a control port."""
    if not _is_held(folder):
        return None
    try:
        content = json.loads((folder / CONTROL_FILE).read_text(encoding="utf-8"))
        return Found(state_directory=folder, control=str(content["control"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_held(folder: Path) -> bool:
    """Whether a session runs there: it holds the lock for as long as it lives, however it ends."""
    try:
        lock = os.open(folder / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(lock)
    return False


def _why_not(folder: Path) -> str:
    if not folder.is_dir():
        return f"there is no folder {folder}: it would be the session's --state-dir"
    if not os.access(folder, os.R_OK | os.X_OK):
        return f"{folder} is another user's: run serverworkerctl as that user, or as root"
    if not _is_held(folder):
        return f"no session runs that keeps its state in {folder}; `twistd serverworker --state-dir {folder}` starts one"
    return f"the session in {folder} has no control port that is open; its log says why"
