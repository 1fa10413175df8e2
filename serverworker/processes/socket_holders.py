"""Who holds a socket: from an address, by way of /proc/net and /proc/PID/fd, to pids and command lines.

Used only when a port cannot be bound: the operator reads whose it is, and what a former session left is waited for.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from attrs import frozen

from serverworker.processes.guardian import MARK_VARIABLE

PROC = "/proc"

LISTENING = "0A"
"""TCP_LISTEN in the kernel's tables."""

LONGEST_COMMAND = 120
"""Characters of a command line that are shown."""

WORKER = b"serverworker.processes.entry"
"""In the command line of every worker."""

MOST_SHOWN = 3
"""Holders that are named one by one: the workers of one server all hold its socket."""


@frozen
class Holder:
    """A process that has the socket open."""

    pid: int
    command: str
    """Its command line, shortened."""
    of_a_session: bool = False
    """It is a worker or was started by one, and so ends with its session; or it is just ending."""

    def __str__(self) -> str:
        return f"pid {self.pid} ({self.command})"


def tcp_inodes(address: str, port: int, proc: str = PROC) -> frozenset[int]:
    """The sockets that stand in the way of listening on this address.

    Those that listen on it, or on all addresses, or, where this is all addresses, on any. If there is none, then
    connections that use the port from this side.
    """
    wanted = _plain(ip_address(address.partition("%")[0]))
    listening: set[int] = set()
    connected: set[int] = set()
    for table in ("tcp", "tcp6"):
        for local, number, state, inode in _tcp_rows(Path(proc, "net", table)):
            if number == port and inode and _meet(wanted, local):
                (listening if state == LISTENING else connected).add(inode)
    return frozenset(listening or connected)


def unix_inodes(path: str, proc: str = PROC) -> frozenset[int]:
    """The sockets that are bound to this path."""
    lines = _lines(Path(proc, "net", "unix"))
    wanted = {path, os.path.abspath(path)}  # noqa: PTH100 (Path.absolute() leaves the dots in)
    rows = (line.split(maxsplit=7) for line in lines[1:])
    return frozenset(int(row[6]) for row in rows if len(row) == 8 and row[7] in wanted)


def holders(inodes: Collection[int], proc: str = PROC) -> tuple[Holder, ...]:
    """The processes that have one of these sockets open, as far as this user may see them; in order of pid."""
    if not inodes:
        return ()
    links = {f"socket:[{inode}]" for inode in inodes}
    pids = sorted(int(entry.name) for entry in os.scandir(proc) if entry.name.isdecimal())
    return tuple(_holder(pid, proc) for pid in pids if _holds(pid, links, proc))


def holds(pid: int, inode: int, proc: str = PROC) -> bool:
    """Whether a process has this socket open; also where this user may not see what another user's process has."""
    if os.access(Path(proc, str(pid), "fd"), os.R_OK | os.X_OK):
        return _holds(pid, {f"socket:[{inode}]"}, proc)
    return Path(proc, str(pid)).exists()


def describe(found: Collection[Holder]) -> str:
    """The holders in words, after "by"."""
    if not found:
        return "a process that this user may not see (`ss -ltnxp`, run as root, shows it)"
    shown = list(found)[:MOST_SHOWN]
    if any(holder.pid == os.getpid() for holder in shown):
        return "this very process: two ports have the same address, or it was bound before"
    more = len(found) - len(shown)
    return ", ".join(map(str, shown)) + (f" and {more} more" if more else "")


def _meet(wanted: IPv4Address | IPv6Address, local: IPv4Address | IPv6Address) -> bool:
    if wanted.version == local.version:
        return wanted == local or wanted.is_unspecified or local.is_unspecified
    # Of two families only an IPv6 socket for all addresses, that takes IPv4 too, is in an IPv4 one's way.
    return wanted.version == 4 and local.is_unspecified


def _tcp_rows(table: Path) -> Iterator[tuple[IPv4Address | IPv6Address, int, str, int]]:
    """Local address, local port, state, inode."""
    for line in _lines(table)[1:]:
        fields = line.split()
        address, _, port = fields[1].partition(":")
        yield _address(address), int(port, 16), fields[3], int(fields[9])


def _address(text: str) -> IPv4Address | IPv6Address:
    """An address as the kernel prints it: words of four bytes, each in the machine's own order."""
    raw = bytes.fromhex(text)
    if sys.byteorder == "little":
        raw = b"".join(raw[at : at + 4][::-1] for at in range(0, len(raw), 4))
    return _plain(ip_address(raw))


def _plain(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """An IPv4 address that is written as IPv6 is an IPv4 address."""
    mapped = getattr(address, "ipv4_mapped", None)
    return address if mapped is None else mapped


def _lines(table: Path) -> list[str]:
    try:
        return table.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []  # a kernel without IPv6, or a /proc that shows no network


def _holds(pid: int, links: Collection[str], proc: str) -> bool:
    try:
        with os.scandir(Path(proc, str(pid), "fd")) as entries:
            return any(_target(entry.path) in links for entry in entries)
    except OSError:
        return False  # ended meanwhile, or another user's


def _target(path: str) -> str:
    try:
        return str(Path(path).readlink())
    except OSError:
        return ""


def _holder(pid: int, proc: str) -> Holder:
    line, environ = _bytes(pid, "cmdline", proc), _bytes(pid, "environ", proc)
    # The mark too: an application may write over its own command line, and its children have another. A process that
    # ends has no command line any more, and for a moment still its descriptors.
    marked = any(each.startswith(f"{MARK_VARIABLE}=".encode()) for each in environ.split(b"\0"))
    return Holder(pid, _shown(line), of_a_session=marked or WORKER in line.split(b"\0") or not line)


def _bytes(pid: int, file: str, proc: str) -> bytes:
    try:
        return Path(proc, str(pid), file).read_bytes()
    except OSError:
        return b""


def _shown(line: bytes) -> str:
    text = line.rstrip(b"\0").replace(b"\0", b" ").decode("utf-8", "replace")
    text = "".join(letter if letter.isprintable() else "?" for letter in text) or "no command line"
    return text if len(text) <= LONGEST_COMMAND else text[: LONGEST_COMMAND - 1] + "…"
