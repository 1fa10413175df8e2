"""The monitor's listening sockets: made from settings, or taken over; why one cannot be had, in words for the operator.

Nothing here accepts a connection. The monitor holds these sockets for the session's whole life, and every worker gets
the same ones.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from attrs import frozen

from serverworker.processes import socket_holders
from serverworker.values.errors import PortUnavailable
from serverworker.values.ports import PortSettings

PATIENCE_STEP_SECONDS = 0.1
"""Between two tries of `bind_all`."""

LET_GO_SECONDS = 1.0
"""How long a port is tried again that nobody seems to hold: whoever had it closes it this very moment."""

FAMILY_NAMES = {socket.AF_INET: "tcp", socket.AF_INET6: "tcp6"}


class PortInUse(PortUnavailable):
    """Somebody else listens there: the one reason that can mend itself."""

    def __init__(
        self, text: str, holders: Collection[socket_holders.Holder] = (), *, let_go: bool = False
    ) -> None:
        """`let_go`: the system knows of no socket there any more."""
        super().__init__(text)
        self.holders = tuple(holders)
        self.let_go = let_go

    @property
    def will_end(self) -> bool:
        """Whether all who hold it are left from a session that is gone, and end when they have drained."""
        return bool(self.holders) and all(holder.of_a_session for holder in self.holders)


@frozen
class SocketFile:
    """The file of a unix socket, as it was when it was bound."""

    path: str
    """Absolute."""
    device: int
    inode: int
    made: int
    """Its modification time in nanoseconds: file systems give an inode again at once."""

    @classmethod
    def at(cls, path: str) -> SocketFile:
        """The file that is there now. Raises OSError where there is none."""
        found = os.lstat(path)
        return cls(str(Path(path).absolute()), found.st_dev, found.st_ino, found.st_mtime_ns)

    def unlink(self) -> bool:
        """Removes the file if it is still the same one; whether it did. Never raises OSError."""
        try:
            if SocketFile.at(self.path) != self:
                return False
            Path(self.path).unlink()
        except OSError:
            return False
        return True


def bind(port: PortSettings) -> socket.socket:
    """A listening socket for one entry of ``[ports]``: non-blocking and close-on-exec.

    A unix socket's file that nobody listens behind is replaced. Raises `PortUnavailable`, `PortInUse` among them,
    with a text that says which port, why, whose it is where the system tells, and what to do.
    """
    try:
        return _bind_unix(port) if port.kind == "unix" else _bind_tcp(port)
    except OSError as error:
        raise _unavailable(port, error) from error


def bind_all(
    ports: Sequence[PortSettings],
    *,
    patience_seconds: float = 0.0,
    waits: Callable[[str], object] = lambda text: None,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, socket.socket]:
    """The sockets of all ports, by name and in order; none, if one cannot be had.

    After a ``kill -9`` of the monitor before, its workers hold a port until they have drained: such a port is tried
    again until `patience_seconds` are over, and `waits` is told once for whom and how long. A stranger's is refused at
    once. This blocks, so it belongs before the reactor runs. Raises as `bind`.
    """
    patience = _Patience(now() + patience_seconds, waits, now, sleep)
    bound: dict[str, socket.socket] = {}
    try:
        for port in ports:
            bound[port.name] = patience.bind(port)
    except BaseException:
        for made in bound.values():
            release(made)
        raise
    return bound


def release(bound: socket.socket) -> None:
    """Closes a socket that `bind` has just made, and removes its file. What is open elsewhere stays open."""
    file = file_of(bound)
    bound.close()
    if file is not None:
        file.unlink()


def file_of(bound: socket.socket) -> SocketFile | None:
    """The file of a unix socket, to be unlinked at the session's end; None for others.

    Ask right after the socket was bound: what is at its path later may be somebody else's.
    """
    if bound.family != socket.AF_UNIX:
        return None
    try:
        return SocketFile.at(bound.getsockname())
    except OSError:
        return None


def adopt(name: str, descriptor: int) -> socket.socket:
    """The socket of an inherited descriptor, made non-blocking and close-on-exec.

    Raises `PortUnavailable` where it is no socket, no stream, or does not listen. It listens already: its backlog is
    for whoever made it to choose.
    """
    try:
        os.set_inheritable(descriptor, False)
        inherited = socket.socket(fileno=descriptor)
    except OSError as error:
        raise PortUnavailable(
            f"port {name!r}: the inherited descriptor {descriptor} is no socket ({error})"
        ) from error
    listens = inherited.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if inherited.type != socket.SOCK_STREAM or not listens:
        inherited.detach()
        raise PortUnavailable(
            f"port {name!r}: the inherited descriptor {descriptor} is no listening stream socket; a socket unit needs "
            "ListenStream= and Accept=no"
        )
    inherited.setblocking(False)
    return inherited


def describe_bound(bound: socket.socket) -> str:
    """Where a socket really listens, as an operator would write it: with the true port where 0 was asked for."""
    if bound.family == socket.AF_UNIX:
        path = bound.getsockname()
        # An abstract name, which only systemd gives us, as systemd writes it.
        return f"unix:{path}" if isinstance(path, str) else f"unix:@{os.fsdecode(path[1:])}"
    host, number = bound.getsockname()[:2]
    tail = "" if host in ("0.0.0.0", "::") else f":interface={host}"
    return f"{FAMILY_NAMES[bound.family]}:{number}{tail}"


@frozen
class _Patience:
    """How long ports in use are waited for, all of them together."""

    deadline: float
    waits: Callable[[str], object]
    now: Callable[[], float]
    sleep: Callable[[float], None]

    def bind(self, port: PortSettings) -> socket.socket:
        last_held, told = self.now(), False
        while True:
            try:
                return bind(port)
            except PortInUse as error:
                gone = error.let_go or (told and not error.holders)
                if error.will_end:
                    last_held, limit = self.now(), self.deadline
                else:
                    limit = last_held + LET_GO_SECONDS if gone else last_held
                if self.now() >= limit:
                    raise
                if error.will_end and not told:
                    told = True
                    self.waits(self._text(port, error))
            self.sleep(PATIENCE_STEP_SECONDS)

    def _text(self, port: PortSettings, error: PortInUse) -> str:
        return (
            f"port {port.name!r} ({port.describe()}) is still held by what is left of a session that is gone, "
            f"{socket_holders.describe(error.holders)}; waiting for its end, {self.deadline - self.now():.0f} s at most"
        )


def _bind_tcp(port: PortSettings) -> socket.socket:
    family = _family(port)
    found = socket.getaddrinfo(
        port.interface or None,
        port.port,
        family,
        socket.SOCK_STREAM,
        flags=socket.AI_PASSIVE | socket.AI_NUMERICHOST,
    )
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(found[0][4])
        bound.setblocking(False)
        bound.listen(port.backlog)
    except BaseException:
        bound.close()
        raise
    return bound


def _family(port: PortSettings) -> socket.AddressFamily:
    return socket.AF_INET6 if port.kind == "tcp6" else socket.AF_INET


def _bind_unix(port: PortSettings) -> socket.socket:
    _clear_stale(port.path)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # The mode comes from the umask, so that the file never exists with another one.
        before = os.umask(0o777 & ~port.mode)
        try:
            bound.bind(port.path)
        finally:
            os.umask(before)
        bound.setblocking(False)
        bound.listen(port.backlog)
    except BaseException:
        bound.close()
        raise
    return bound


def _clear_stale(path: str) -> None:
    """Removes a socket's file that nobody listens behind. Raises OSError for what is no socket, or not ours."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink(missing_ok=True)
        except PermissionError:
            raise
        except OSError:
            return  # a queue that is full, a socket of another type: somebody is there, as the bind will show


def _unavailable(port: PortSettings, error: OSError) -> PortUnavailable:
    """The error for the operator: which port, why, whose it is, what to do."""
    head = f"port {port.name!r} cannot be bound to {port.describe()}: "
    if error.errno == errno.EADDRINUSE:
        holders = socket_holders.holders(_inodes(port))
        # Looked for again: who held it may have closed it while the holders were looked for.
        let_go = not holders and not _inodes(port)
        what = f"{socket_holders.describe(holders)}; stop that, or choose another {_what(port)}"
        return PortInUse(f"{head}in use by {what}", holders, let_go=let_go)
    if isinstance(error, socket.gaierror):
        why = f"{port.interface!r} is no address here ({error.strerror}); give one of this machine's, or none for all"
    else:
        why = (_why_not_unix if port.kind == "unix" else _why_not_tcp)(port, error)
    return PortUnavailable(f"{head}{why}")


def _inodes(port: PortSettings) -> frozenset[int]:
    if port.kind == "unix":
        return socket_holders.unix_inodes(port.path)
    wildcard = "::" if _family(port) == socket.AF_INET6 else "0.0.0.0"
    return socket_holders.tcp_inodes(port.interface or wildcard, port.port)


def _what(port: PortSettings) -> str:
    return "path" if port.kind == "unix" else "port or interface"


def _why_not_tcp(port: PortSettings, error: OSError) -> str:
    if error.errno == errno.EACCES:
        first = _first_free_port()
        if port.port < first:
            return (
                f"not permitted: ports below {first} need root or CAP_NET_BIND_SERVICE; start as root with `twistd "
                "--uid`, give the capability (systemd: AmbientCapabilities=CAP_NET_BIND_SERVICE), or choose a port "
                f"from {first} up"
            )
        return "not permitted, by a security policy of this machine"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"this machine has no address {port.interface!r}; give one of its own, or none for all"
    if error.errno == errno.EAFNOSUPPORT:
        return "this machine has no IPv6; use tcp: instead of tcp6:"
    return _other(error)


def _why_not_unix(port: PortSettings, error: OSError) -> str:
    folder = Path(port.path).parent
    if error.errno == errno.EEXIST:
        return (
            "there is a file that is no socket, and it is not removed; move it away, or choose another path"
        )
    if error.errno == errno.ENOENT:
        return f"there is no folder {folder}; make it first"
    if error.errno == errno.ENOTDIR:
        return f"{folder} is no folder; choose another path"
    if error.errno == errno.EROFS:
        return f"{folder} is on a read-only file system; choose another path"
    if error.errno in (errno.EACCES, errno.EPERM):
        return (
            f"not permitted: the user with id {os.geteuid()} may not make, replace or reach a socket in {folder}; "
            "give it the right to write there, or choose another path"
        )
    return _other(error)


def _other(error: OSError) -> str:
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return f"{error.strerror}; raise the limit (`ulimit -n`, systemd: LimitNOFILE=)"
    return f"{error.strerror or error}"


def _first_free_port() -> int:
    """The first port that needs no privilege; a system may be told another than 1024."""
    try:
        return int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    except (OSError, ValueError):
        return 1024
