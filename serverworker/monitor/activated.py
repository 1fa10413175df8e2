"""Socket activation: the listening sockets that the monitor itself was started with, and which port each one is.

systemd (a ``.socket`` unit) or ``systemd-socket-activate`` binds them, and hands them over as sd_listen_fds(3) says.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Collection, Mapping, MutableMapping
from pathlib import Path

from serverworker.processes.inheritance import UNNAMED, InheritedSocketsError, inherited_sockets
from serverworker.processes.sockets import adopt
from serverworker.values.errors import ConfigurationError, PortUnavailable, nearest
from serverworker.values.settings import Settings

_PREFIX = "LISTEN_"
_UNIT_SUFFIX = ".socket"
_FAMILIES = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)


def take_activated(
    environ: MutableMapping[str, str],
    settings: Settings,
    *,
    pid: int,
    original: Mapping[str, str],
) -> dict[str, socket.socket]:
    """The sockets that the process of this pid was started with, by the port that each one is; mostly none.

    `original` is the environment as the kernel keeps it (`environment_at_start`): `twisted.internet.endpoints` takes a
    part of the variables out of `environ` when it is imported, and whether it was is chance. ``LISTEN_*`` is taken out
    of `environ` in any case, so that no child believes them to be its own.

    Raises `ConfigurationError` where a socket is no configured port, or none that workers could accept from.
    """
    variables = {name: value for name, value in original.items() if name.startswith(_PREFIX)}
    for name in [name for name in environ if name.startswith(_PREFIX)]:
        variables[name] = environ.pop(name)
    try:
        found = inherited_sockets(variables, pid)
    except InheritedSocketsError as error:
        raise ConfigurationError(f"the sockets that this process was started with: {error}") from error
    if found and not settings.workers.bind:
        raise ConfigurationError(
            "workers.bind: is false, so that the application binds by itself, but this process was started with sockets "
            f"({', '.join(found)}): take the socket unit away, or workers.bind = false"
        )
    matched = match(found, [port.name for port in settings.ports])
    return {port: _adopted(port, found[name]) for port, name in matched.items()}


def match(sockets: Collection[str], ports: Collection[str]) -> dict[str, str]:
    """The name of the socket that each port has, by the name of the port.

    A socket is the port of its own name. One that nobody has named (systemd calls it ``unknown``, or after its unit) is
    the port ``server``; and where there is one socket and one port, that is it whatever the names say.

    Raises `ConfigurationError` for a socket that is no port: it would be left open, and its clients without an answer.
    """
    matched = {name: name for name in sockets if name in ports}
    left = [name for name in sockets if name not in matched]
    if len(left) == 1 and "server" in ports and "server" not in matched:
        unnamed = left[0] == UNNAMED or left[0].endswith(_UNIT_SUFFIX)
        if unnamed or len(ports) == 1:
            matched["server"] = left.pop()
    if left:
        names, known = (", ".join(map(repr, each)) for each in (sockets, ports))
        raise ConfigurationError(
            f"this process was started with a socket that is no port: {left[0]!r}{nearest(left[0], list(ports))}. "
            f"Sockets: {names}; configured ports: {known}. Give it a port's name (FileDescriptorName= in its socket "
            "unit, systemd-socket-activate --fdname=), or configure a port of that name"
        )
    return matched


def environment_at_start() -> dict[str, str]:
    """The environment that this process was started with, whatever has been changed since; empty without /proc."""
    try:
        text = Path("/proc/self/environ").read_bytes()
    except OSError:
        return {}
    pairs = (os.fsdecode(line).partition("=") for line in text.split(b"\0") if line)
    return {name: value for name, _, value in pairs}


def _adopted(port: str, descriptor: int) -> socket.socket:
    try:
        adopted = adopt(port, descriptor)
    except PortUnavailable as error:
        raise ConfigurationError(f"a socket that this process was started with: {error}") from error
    if adopted.family not in _FAMILIES:
        family = socket.AddressFamily(adopted.family).name
        adopted.detach()
        raise ConfigurationError(
            f"a socket that this process was started with: port {port!r} cannot be one of {family}; a socket unit may "
            "listen on a number, on an address with a number, or on a path"
        )
    return adopted
