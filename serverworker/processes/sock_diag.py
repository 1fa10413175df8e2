"""The far end of a connection within this machine, as the kernel tells it (sock_diag(7)).

A connection is there before the server has accepted it; only then does its far end belong to a process, and have an
inode. /proc/net tells the same of TCP, but all connections at once and nothing of whose unix socket is whose.
"""

from __future__ import annotations

import os
import socket
import struct

SOCK_DIAG_BY_FAMILY = 20
"""From linux/sock_diag.h; the rest is from linux/netlink.h, inet_diag.h and unix_diag.h."""
NETLINK_SOCK_DIAG = 4
_NLM_F_REQUEST = 1
_NLMSG_ERROR = 2
_UDIAG_SHOW_PEER = 4
_UNIX_DIAG_PEER = 2
_TCP_LISTEN = 10
_ANY = 0xFFFFFFFF

_HEADER = struct.Struct("=IHHII")
_INET_REQUEST_HEAD = struct.Struct("=BBBBI")
_INET_IDENTITY_TAIL = struct.Struct("=III")
_UNIX_REQUEST = struct.Struct("=BBHIIIII")
_ATTRIBUTE = struct.Struct("=HH")
_NUMBER = struct.Struct("=I")
_ERROR = struct.Struct("=i")
_INET_INODE_AT = 68
"""Behind family, state, timer, retransmissions (4 bytes), the identity (48), and four numbers."""
_UNIX_ATTRIBUTES_AT = 16
_ANSWER_SECONDS = 1.0
_LONGEST_ANSWER = 8192


def far_inode(connection: socket.socket) -> int:
    """The inode of the socket at the other end of a connection to a server of this machine, TCP or unix.

    0 while nobody has accepted it. Raises `ConnectionError` where there is no such end (any more), and another OSError
    where the kernel does not tell.
    """
    if connection.family == socket.AF_UNIX:
        return _far_unix_inode(connection)
    return _far_tcp_inode(connection)


def _far_tcp_inode(connection: socket.socket) -> int:
    server, client = connection.getpeername(), connection.getsockname()
    family = connection.family
    packed = [
        socket.inet_pton(family, each[0].partition("%")[0]).ljust(16, b"\0") for each in (server, client)
    ]
    request = _INET_REQUEST_HEAD.pack(family, socket.IPPROTO_TCP, 0, 0, _ANY)
    request += struct.pack("!HH", server[1], client[1]) + b"".join(packed)
    request += _INET_IDENTITY_TAIL.pack(0, _ANY, _ANY)
    answer = _ask(request)
    # Where there is no such connection the kernel tells of who listens there.
    if answer[1] == _TCP_LISTEN:
        raise ConnectionResetError("the connection is gone")
    return int(_NUMBER.unpack_from(answer, _INET_INODE_AT)[0])


def _far_unix_inode(connection: socket.socket) -> int:
    own = os.fstat(connection.fileno()).st_ino
    answer = _ask(_UNIX_REQUEST.pack(socket.AF_UNIX, 0, 0, _ANY, own, _UDIAG_SHOW_PEER, _ANY, _ANY))
    at = _UNIX_ATTRIBUTES_AT
    while at + _ATTRIBUTE.size <= len(answer):
        length, kind = _ATTRIBUTE.unpack_from(answer, at)
        if kind == _UNIX_DIAG_PEER:
            return int(_NUMBER.unpack_from(answer, at + _ATTRIBUTE.size)[0])
        at += max((length + 3) & ~3, _ATTRIBUTE.size)
    raise ConnectionResetError("the connection is gone")


def _ask(request: bytes) -> bytes:
    """One question to the kernel, and its answer without the head. It answers within the call."""
    head = _HEADER.pack(_HEADER.size + len(request), SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0)
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG
    ) as netlink:
        netlink.settimeout(_ANSWER_SECONDS)
        netlink.sendto(head + request, (0, 0))
        answer = netlink.recv(_LONGEST_ANSWER)
    length, kind, *_ = _HEADER.unpack_from(answer)
    body = answer[_HEADER.size : length]
    if kind == _NLMSG_ERROR:
        number = -_ERROR.unpack_from(body)[0]
        error = OSError(number, os.strerror(number))
        if isinstance(error, FileNotFoundError):
            raise ConnectionResetError("the connection is gone")
        raise error
    return body
