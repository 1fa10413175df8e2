"""The session's own folder on disk: where it is, that it is ours alone, its lock and its key."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pwd
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

from serverworker.values.errors import ConfigurationError, ServerWorkerError
from serverworker.values.ports import LONGEST_SOCKET_PATH
from serverworker.values.settings import Settings

PART_SUFFIX = ".part"
"""Ends the name of a file that is still being written."""
LOCK_NAME = "lock"
KEY_NAME = "key"
CRASHES_NAME = "crashes"
RUN_NAME = "run"
CONTROL_FILE = "control.json"
"""Says where the control port is, for `serverworkerctl`."""

_ANOTHER = "choose another with --state-dir (RUNTIME_DIRECTORY, where it is about sockets)"


class StateDirectoryInUse(ServerWorkerError):
    """Another session holds the state directory (exit status 69)."""

    def __init__(self, path: Path, pid: int | None) -> None:
        holder = f"the session with pid {pid}" if pid is not None else "another session"
        super().__init__(
            f"the state directory {path} is held by {holder}: end that one first, "
            "or give this one a directory of its own with --state-dir"
        )
        self.path = path
        self.pid = pid
        """Of the session that holds it; None where it has not written it yet."""


def default_path(environ: Mapping[str, str], settings: Settings) -> Path:
    """Where the session keeps its state: `settings.state_directory`, else where the environment says.

    ``$STATE_DIRECTORY`` (systemd; the first, where it names several), else
    ``$XDG_STATE_HOME/serverworker/PORT``, else ``~/.local/state/serverworker/PORT``. Absolute, so that a
    later change of the working directory moves nothing.
    """
    if settings.state_directory is not None:
        return Path(settings.state_directory).expanduser().absolute()
    if given := _first(environ.get("STATE_DIRECTORY", "")):
        return given
    return sessions_path(environ) / port_name(settings)


def sessions_path(environ: Mapping[str, str]) -> Path:
    """The folder in which this user's sessions have theirs, by default: ``$XDG_STATE_HOME/serverworker``."""
    home = _absolute(environ.get("XDG_STATE_HOME", "")) or _home(environ) / ".local" / "state"
    return home / "serverworker"


def runtime_path(environ: Mapping[str, str], settings: Settings) -> Path:
    """Where the session keeps its sockets.

    ``$RUNTIME_DIRECTORY``; else, where the state directory is the default one too,
    ``$XDG_RUNTIME_DIR/serverworker/PORT`` if that folder is there and is this user's (``su`` hands on
    another's); else ``run`` in the state directory. The two go in pairs, so that the lock of the state
    directory guards the sockets as well.
    """
    if given := _first(environ.get("RUNTIME_DIRECTORY", "")):
        return given
    chosen = settings.state_directory is not None or _first(environ.get("STATE_DIRECTORY", "")) is not None
    runtime = _absolute(environ.get("XDG_RUNTIME_DIR", ""))
    if chosen or runtime is None or not _is_own_folder(runtime):
        return default_path(environ, settings) / RUN_NAME
    return runtime / "serverworker" / port_name(settings)


def port_name(settings: Settings) -> str:
    """The folder's name for a session: the number of its ``server`` port, or its unix path without slashes."""
    port = next(port for port in settings.ports if port.name == "server")
    if port.kind != "unix":
        return str(port.port)
    return "unix-" + str(Path(port.path).absolute()).strip("/").replace("/", "-")


def check_socket_path(path: Path) -> Path:
    """The path again, if a unix socket can have it.

    Raises:
        ConfigurationError: it is too long; the text says by how much, and what to do.
    """
    length = len(os.fsencode(path))
    if length <= LONGEST_SOCKET_PATH:
        return path
    raise ConfigurationError(
        f"the socket path {path} has {length} bytes, and the system allows {LONGEST_SOCKET_PATH}: choose a shorter "
        "--state-dir, or set RUNTIME_DIRECTORY to a short path of this user's, such as /run/mysite"
    )


def new_key() -> str:
    """A fresh session key: 256 random bits in hexadecimal."""
    return secrets.token_hex(32)


class StateDirectory:
    """A state directory that this process holds; made by `open`, let go by `close`."""

    path: Path
    runtime: Path
    """For sockets; see `runtime_path`."""

    def __init__(self, path: Path, runtime: Path, lock: int) -> None:
        self.path = path
        self.runtime = runtime
        self._lock: int | None = lock

    @classmethod
    def open(cls, path: Path, runtime: Path | None = None) -> StateDirectory:
        """Make the directories where they are missing (mode 0700), and lock the first for this process.

        Raises:
            StateDirectoryInUse: another session holds it.
            ConfigurationError: it cannot be made or written, or others may write in it.
        """
        runtime = path / RUN_NAME if runtime is None else runtime
        own_folder(path)
        lock = _take_lock(path)
        try:
            own_folder(runtime)
        except ConfigurationError:
            os.close(lock)
            raise
        return cls(path, runtime, lock)

    @property
    def crashes(self) -> Path:
        """The folder of the crash reports."""
        return self.path / CRASHES_NAME

    @property
    def key_path(self) -> Path:
        """The file that holds the session key."""
        return self.path / KEY_NAME

    def write_key(self, key: str) -> None:
        """Put the session key into its file, readable by this user alone.

        Raises:
            ConfigurationError: it cannot be written.
        """
        try:
            write_whole(self.key_path, f"{key}\n".encode())
        except OSError as error:
            raise _unusable(self.key_path, error) from error

    def close(self) -> None:
        """Let go of the lock. What was written stays. Twice is no error."""
        if self._lock is None:
            return
        lock, self._lock = self._lock, None
        # The file itself stays: between the unlinking and a newcomer's lock a third one could lock a new file.
        with contextlib.suppress(OSError):
            os.ftruncate(lock, 0)
        os.close(lock)


def own_folder(path: Path) -> None:
    """Make a folder of mode 0700 with its parents, or see that an existing one may be used.

    A folder that was there before is left as the operator made it: others may look into it (systemd makes
    them 0755, and a web server may need the way to a socket of the application's), since all that is secret
    is in files of mode 0600. It is refused where others can write in it, and so put files in the place of ours.

    Raises:
        ConfigurationError: it cannot be made, is no folder, is another user's, or others can write in it.
    """
    try:
        _make(path)
        found = path.stat()
    except OSError as error:
        raise _unusable(path, error) from error
    user = os.geteuid()
    if not stat.S_ISDIR(found.st_mode):
        raise ConfigurationError(f"{path} is no directory: remove it, or {_ANOTHER}")
    if found.st_uid != user:
        raise ConfigurationError(
            f"{path} belongs to user {_user(found.st_uid)}, and this session runs as {_user(user)}: "
            f"chown it, run as that user, or {_ANOTHER}"
        )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigurationError(
            f"others can write in {path} (mode {stat.S_IMODE(found.st_mode):04o}), and so replace what the "
            f"session keeps there: run `chmod go-w {path}`, or {_ANOTHER}"
        )


def write_whole(path: Path, data: bytes) -> None:
    """Write a file of mode 0600 so that it is there as a whole or not at all, whatever ends this process.

    It is written under another name (ending in `PART_SUFFIX`), synced, renamed, and the folder synced: it
    blocks for as long as the disk takes.

    Raises:
        OSError: it could not be written; nothing of it is left.
    """
    part = path.with_name(f".{path.name}{PART_SUFFIX}")
    # Not O_EXCL: a part that a killed process left behind is overwritten. O_NOFOLLOW: never through a link.
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        with os.fdopen(os.open(part, flags, 0o600), "wb") as file:
            os.fchmod(file.fileno(), 0o600)  # the umask may have taken more away
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
    _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    """Make a rename last over a power cut too, where the file system can do that; the file is whole without."""
    with contextlib.suppress(OSError):
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _make(path: Path) -> None:
    """Like makedirs, but with mode 0700 for the parents too, as the XDG specification asks."""
    missing = []
    while not path.exists():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        with contextlib.suppress(FileExistsError):  # a second session was faster
            folder.mkdir(mode=0o700)
            folder.chmod(0o700)  # whatever the umask


def _take_lock(path: Path) -> int:
    """The locked descriptor of the lock file, with our pid in it; closed in every child (O_CLOEXEC)."""
    file = path / LOCK_NAME
    try:
        lock = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise _unusable(file, error) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)
        os.write(lock, f"{os.getpid()}\n".encode())
    except BlockingIOError as error:
        pid = os.pread(lock, 32, 0).strip()
        os.close(lock)
        raise StateDirectoryInUse(path, int(pid) if pid.isdigit() else None) from error
    except OSError as error:
        os.close(lock)
        raise _unusable(file, error) from error
    return lock


def _unusable(path: Path, error: OSError) -> ConfigurationError:
    advice = {
        errno.ENOSPC: "free some space",
        errno.EDQUOT: "free some space",
        errno.ENOTDIR: f"a part of its path is a file; {_ANOTHER}",
        errno.ENOLCK: "its file system has no locks; choose one on a local disk with --state-dir",
        errno.EROFS: f"its file system is mounted read-only; {_ANOTHER}",
        errno.ELOOP: "remove the symbolic link",
    }.get(
        error.errno or 0,
        f"make it writable for user {_user(os.geteuid())}, or {_ANOTHER}",
    )
    where = f"{path}"
    if isinstance(error.filename, str | Path) and Path(error.filename) != path:
        where += f" ({error.filename})"
    return ConfigurationError(f"the session cannot keep its state in {where}: {error.strerror}; {advice}")


def _user(uid: int) -> str:
    try:
        return f"{pwd.getpwuid(uid).pw_name} ({uid})"
    except KeyError:
        return str(uid)


def _home(environ: Mapping[str, str]) -> Path:
    if home := _absolute(environ.get("HOME", "")):
        return home
    try:
        return Path(pwd.getpwuid(os.geteuid()).pw_dir)
    except KeyError:
        raise ConfigurationError(
            f"user {os.geteuid()} has no home directory to keep the session's state in: set HOME, or --state-dir"
        ) from None


def _first(paths: str) -> Path | None:
    """The first of systemd's paths, which it separates by colons."""
    return _absolute(paths.partition(":")[0])


def _absolute(path: str) -> Path | None:
    """The path, or None: the XDG specification has relative ones ignored."""
    return Path(path) if path.startswith("/") else None


def _is_own_folder(path: Path) -> bool:
    try:
        found = path.stat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
