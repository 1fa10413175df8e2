"""Sockets handed from one process to the next by systemd's convention (sd_listen_fds(3)).

Descriptors 3, 4, … are listening sockets; ``LISTEN_FDS`` says how many, ``LISTEN_FDNAMES`` what they are called, and
``LISTEN_PID`` for whom they are. The monitor gives its sockets to workers this way, and takes its own from systemd.

Standard library only: a worker reads this before Twisted is imported, because `twisted.internet.endpoints` takes the
variables away when it is imported.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping, Sequence

FIRST_DESCRIPTOR = 3
"""Where inherited sockets begin (SD_LISTEN_FDS_START)."""

UNNAMED = "unknown"
"""What systemd calls a socket that was given no name."""

LONGEST_NAME = 255
"""Bytes, as in systemd."""


class InheritedSocketsError(ValueError):
    """``LISTEN_FDS`` and its kin contradict themselves, or what is open. The text is for the operator."""


def listen_environment(names: Sequence[str]) -> dict[str, str]:
    """The variables for a child that gets these sockets as descriptors 3, 4, … in this order.

    ``LISTEN_PID`` is missing: only the child knows its own, and sets it. Raises ValueError for a name that the
    convention cannot carry, or that is there twice.
    """
    for name in names:
        _check_name(name)
    if len(set(names)) != len(names):
        raise ValueError(f"two sockets have one name: {', '.join(names)}")
    return {"LISTEN_FDS": str(len(names)), "LISTEN_FDNAMES": ":".join(names)}


def inherited_sockets(environ: MutableMapping[str, str], pid: int) -> dict[str, int]:
    """The descriptors that this process was given, by name; empty where there are none, or they are meant for another.

    Takes ``LISTEN_*`` out of the environment in any case, so that no child believes they are its own, and makes the
    descriptors close-on-exec. One socket without a name is called ``unknown``, as by systemd.

    Raises `InheritedSocketsError` where a number is none, counts differ, a name is there twice, or a descriptor is
    not open.
    """
    values = {key: environ.pop(key, None) for key in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")}
    if values["LISTEN_FDS"] is None or values["LISTEN_PID"] is None:
        return {}
    if _number("LISTEN_PID", values["LISTEN_PID"]) != pid:
        return {}
    count = _number("LISTEN_FDS", values["LISTEN_FDS"])
    names = _names(count, values["LISTEN_FDNAMES"])
    found = {name: FIRST_DESCRIPTOR + index for index, name in enumerate(names)}
    for name, descriptor in found.items():
        try:
            os.set_inheritable(descriptor, False)
        except OSError as error:
            raise InheritedSocketsError(
                f"LISTEN_FDS promises {count} sockets, but descriptor {descriptor} ({name!r}) is not open"
            ) from error
    return found


def _names(count: int, text: str | None) -> list[str]:
    if text is None and count > 1:
        raise InheritedSocketsError(
            f"LISTEN_FDS says {count}, and without LISTEN_FDNAMES nobody knows which socket is which: name them, with "
            "FileDescriptorName= in a socket unit, or with systemd-socket-activate --fdname="
        )
    # An empty text is one empty name for str.split, and none at all where no socket is promised.
    names = [name or UNNAMED for name in (text or "").split(":")] if text or count else []
    if len(names) != count:
        raise InheritedSocketsError(
            f"LISTEN_FDS says {count} and LISTEN_FDNAMES has {len(names)} names ({text}): they must agree"
        )
    if len(set(names)) != len(names):
        raise InheritedSocketsError(
            f"inherited sockets share a name ({':'.join(names)}): give each its own, with FileDescriptorName= in a "
            "socket unit of its own, or with systemd-socket-activate --fdname="
        )
    return names


def _number(key: str, value: str) -> int:
    if not (value.isascii() and value.isdecimal()):
        raise InheritedSocketsError(f"{key} is {value!r}, but must be a number")
    return int(value)


def _check_name(name: str) -> None:
    printable = name.isascii() and name.isprintable()
    if not name or not printable or ":" in name or len(name) > LONGEST_NAME:
        raise ValueError(
            f"{name!r} cannot name a socket: allowed are 1 to {LONGEST_NAME} printable ASCII characters without a colon"
        )
