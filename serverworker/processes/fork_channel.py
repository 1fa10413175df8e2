"""How the monitor and its fork server speak: JSON behind its length, with descriptors, over a pair of AF_UNIX sockets."""

from __future__ import annotations

import json
import os
import socket
import struct
from array import array
from collections.abc import Sequence
from typing import Any

from attrs import frozen

FORK_SERVER = "serverworker.processes.fork_server"
"""The module that a fork server runs, and what its command line shows."""

MOST_DESCRIPTORS = 250
"""In one message; the kernel takes 253 (SCM_MAX_FD)."""

_HEADER = struct.Struct("!I")


@frozen
class Message:
    """One message, as it came."""

    content: Any
    descriptors: tuple[int, ...]
    """Owned by whoever received it; close-on-exec."""


def send(channel: socket.socket, content: Any, descriptors: Sequence[int] = ()) -> None:
    """Send a message whole. Raises OSError where the peer is gone, or TimeoutError where it does not read."""
    body = json.dumps(content).encode()
    data = _HEADER.pack(len(body)) + body
    sent = socket.send_fds(channel, [data], list(descriptors))
    channel.sendall(data[sent:])


def receive(channel: socket.socket) -> Message:
    """The next message. Raises EOFError where the peer has ended, and OSError, TimeoutError among them, as a socket."""
    first, descriptors = _beginning(channel)
    try:
        header = first + _exactly(channel, _HEADER.size - len(first)) if first else b""
        if not header:
            raise EOFError("the other end is closed")
        return Message(json.loads(_exactly(channel, *_HEADER.unpack(header))), tuple(descriptors))
    except BaseException:  # nobody else knows of them
        for descriptor in descriptors:
            os.close(descriptor)
        raise


def _beginning(channel: socket.socket) -> tuple[bytes, array[int]]:
    """Of a message what is there of its length, and the descriptors. As `socket.recv_fds`, whose flags Python 3.11 ignores."""
    descriptors = array("i")
    room = socket.CMSG_LEN(MOST_DESCRIPTORS * descriptors.itemsize)
    first, ancillary, _, _ = channel.recvmsg(_HEADER.size, room, socket.MSG_CMSG_CLOEXEC)
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    return first, descriptors


def _exactly(channel: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        more = channel.recv(size - len(data))
        if not more:
            raise EOFError("the other end was closed in the middle of a message")
        data += more
    return bytes(data)
