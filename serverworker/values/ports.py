"""The ports of a session: what one is, and how the operator writes it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from attrs import frozen

from serverworker.values.errors import Problem, nearest
from serverworker.values.rules import InvalidSettings, is_file_name, is_whole, key_part, placed, shown

LONGEST_SOCKET_PATH = 107
"""Bytes. The kernel's limit for a unix socket's path, without the NUL that ends it."""

_DEFAULT_MODE = 0o666
_DEFAULT_BACKLOG = 1024
_OPTIONS = {"tcp": ("backlog", "interface"), "tcp6": ("backlog", "interface"), "unix": ("backlog", "mode")}
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_DIGITS = re.compile(r"[0-9]{1,10}")
_OCTAL = re.compile(r"[0-7]{1,4}")
# A colon starts an option only where `word=` follows, so that an IPv6 address needs no escapes.
_PART = re.compile(r"(?:\\.?|(?!:[a-z]+=)[^\\])+", re.DOTALL)
_WHERE_AN_OPTION_WOULD_START = re.compile(r":(?=[a-z]+=)")


@frozen(kw_only=True)
class PortSettings:
    """One entry of ``[ports]``, parsed: an address that the monitor binds."""

    name: str
    """Letters, digits, ``-`` and ``_``: it is handed to workers in ``LISTEN_FDNAMES``."""
    kind: str
    """``tcp``, ``tcp6`` or ``unix``."""
    port: int = 0
    """0: any free one."""
    interface: str = ""
    """The address to bind, in figures; empty: all of the kind."""
    path: str = ""
    mode: int = _DEFAULT_MODE
    """Of a unix socket."""
    backlog: int = _DEFAULT_BACKLOG
    """How many connections the kernel queues."""

    def __attrs_post_init__(self) -> None:
        problems = [Problem(port_key(self.name), text) for text in _faults(self)]
        if problems:
            raise InvalidSettings(problems)

    def describe(self) -> str:
        """As the operator would write it, such as ``tcp:8080:interface=127.0.0.1``. `parse_port` reads it."""
        options = [_escaped(self.path) if self.kind == "unix" else str(self.port)]
        if self.interface:
            options.append(f"interface={_escaped(self.interface)}")
        if self.mode != _DEFAULT_MODE:
            options.append(f"mode={self.mode:o}")
        if self.backlog != _DEFAULT_BACKLOG:
            options.append(f"backlog={self.backlog}")
        return ":".join([self.kind, *options])

    def overlaps(self, other: PortSettings) -> bool:
        """Whether the two cannot be bound at the same time."""
        if self.kind != other.kind:
            return False
        if self.kind == "unix":
            return os.path.normpath(self.path) == os.path.normpath(other.path)
        if self.port != other.port or self.port == 0:
            return False
        own, foreign = _address(self), _address(other)
        return own == foreign or int(own) == 0 or int(foreign) == 0


def port_key(name: str) -> str:
    """The key of the port of this name, such as ``ports.server``."""
    return f"ports.{key_part(name)}"


def parse_port(name: str, value: object, folder: str = "") -> PortSettings:
    """The port that the operator wrote.

    `value` is a number or a text: ``8080``, ``tcp:8080:interface=127.0.0.1``, ``tcp6:8080:interface=::1``,
    ``unix:/run/site.sock:mode=660``; each takes ``backlog=`` too. A backslash takes away the meaning of the
    character behind it, as in Twisted's endpoints. A relative path starts at `folder`.

    Raises `InvalidSettings` with everything that is wrong.
    """
    problems: list[Problem] = []
    fields = _fields(value, folder, port_key(name), problems)
    try:
        # Where there is no telling what was meant, any address shows whether at least the name can stand.
        port = PortSettings(name=name, **(fields or {"kind": "tcp"}))
        if not problems:
            return port
    except InvalidSettings as error:
        problems.extend(error.problems)
    raise InvalidSettings(problems)


def _fields(value: object, folder: str, key: str, problems: list[Problem]) -> dict[str, Any]:
    """The fields of a port as it is written, unchecked; a problem and none where there is no telling."""
    if type(value) is int:
        return {"kind": "tcp", "port": value}
    kind, colon, rest = value.partition(":") if isinstance(value, str) else ("", "", "")
    if _DIGITS.fullmatch(kind):
        kind, colon, rest = "tcp", ":", str(value)
    if not colon:
        text = f"must be a port's number, or tcp:, tcp6: or unix: with an address, not {shown(value)}"
        problems.append(Problem(key, text))
        return {}
    if kind not in _OPTIONS:
        text = f"there is no kind of port {shown(kind)}{nearest(kind, list(_OPTIONS))}"
        problems.append(Problem(key, text))
        return {}
    found = _PART.match(rest)
    address = found[0] if found else ""
    fields: dict[str, Any] = {"kind": kind}
    if kind == "unix":
        fields["path"] = placed(_unescaped(address), folder)
    else:
        fields["port"] = int(address) if _DIGITS.fullmatch(address) else address
    for option in _PART.findall(rest, len(address)):
        _add_option(option, fields, key, problems)
    return fields


def _add_option(option: str, fields: dict[str, Any], key: str, problems: list[Problem]) -> None:
    name, _, text = option.partition("=")
    known = _OPTIONS[fields["kind"]]
    if name not in known:
        problems.append(Problem(key, f"{fields['kind']} has no option {shown(name)}{nearest(name, known)}"))
    elif name in fields:
        problems.append(Problem(key, f"{name} is given twice"))
    elif name == "backlog":
        fields[name] = int(text) if _DIGITS.fullmatch(text) else text
    elif name == "mode":
        fields[name] = int(text, 8) if _OCTAL.fullmatch(text) else text
    else:
        fields[name] = _unescaped(text)


def _faults(port: PortSettings) -> Iterator[str]:
    """What is wrong with a port, one text each."""
    if not _NAME.fullmatch(port.name):
        yield "the name of a port must be 1 to 64 letters, digits, '-' or '_'"
    if port.kind == "unix":
        yield from _unix_faults(port)
    elif port.kind in ("tcp", "tcp6"):
        yield from _tcp_faults(port)
    else:
        yield f"there is no kind of port {shown(port.kind)}; allowed: tcp, tcp6, unix"
    if not is_whole(port.backlog, 1, 65535):
        yield f"the backlog must be a whole number, 1 to 65535, not {shown(port.backlog)}"


def _unix_faults(port: PortSettings) -> Iterator[str]:
    if not is_file_name(port.path):
        yield f"unix: needs the path of a socket, not {shown(port.path)}"
    elif (length := len(os.fsencode(port.path))) > LONGEST_SOCKET_PATH:
        yield f"the path of a socket must be at most {LONGEST_SOCKET_PATH} bytes long, not {length}"
    if not is_whole(port.mode, 0, 0o777):
        given = oct(port.mode)[2:] if type(port.mode) is int else shown(port.mode)
        yield f"the mode must be octal, 0 to 777, such as 660, not {given}"
    if port.interface or port.port:
        yield "a unix socket has a path, and neither a number nor an interface"


def _tcp_faults(port: PortSettings) -> Iterator[str]:
    if not is_whole(port.port, 0, 65535):
        yield f"the number must be 0 to 65535 (0: any free one), not {shown(port.port)}"
    try:
        _address(port)
    except ValueError:
        kind = "an IPv4 address such as 127.0.0.1" if port.kind == "tcp" else "an IPv6 address such as ::1"
        yield f"the interface must be {kind}, not {shown(port.interface)}"
    if port.path or port.mode != _DEFAULT_MODE:
        yield f"{port.kind} has a number, and neither a path nor a mode"


def _address(port: PortSettings) -> IPv4Address | IPv6Address:
    if port.kind == "tcp":
        return IPv4Address(port.interface or "0.0.0.0")
    return IPv6Address(port.interface or "::")


def _escaped(text: str) -> str:
    return _WHERE_AN_OPTION_WOULD_START.sub(r"\\:", text.replace("\\", "\\\\"))


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)
