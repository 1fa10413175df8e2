"""What somebody hostile sends to a session's ports: each attack is a few bytes and how they are sent."""

from __future__ import annotations

import random
import socket
import ssl
import struct
from collections.abc import Callable

REPLY_SECONDS = 0.05
"""So long an answer is waited for: what matters is that the session goes on."""

COMMANDS = (
    b"Hello Authenticate Status Restart Exit SetPort SetPolling SetWorkers Emit Crashes Crash Logs Events Run Usages "
    b"Subscribe Unsubscribe Told messages Messages StartTLS _ProtocolSwitch Exit\x00"
).split()
ARGUMENTS = b"key mode name address now seconds count args to id limit worker since kinds words session output".split()
VALUES = (
    b"",
    b"clean",
    b"force",
    b"\xff",
    b"-1",
    b"9" * 5000,
    b"nan",
    b"1e400",
    b"True",
    b"[" * 60_000,
    b"{}",
    b"../../key",
)
GOOD = {
    b"Exit": {b"mode": b"force"},
    b"Restart": {b"mode": b"force"},
    b"SetWorkers": {b"count": b"9"},
    b"SetPolling": {b"seconds": b"1"},
    b"Run": {b"words": b"\x00\x04exit\x00\x05force"},
    b"Emit": {b"name": b"x", b"args": b"1", b"to": b"workers"},
    b"Subscribe": {b"session": b"", b"since": b"0", b"kinds": b"", b"output": b"True"},
}
"""Questions that would do something if they were let in."""
PATHS = (
    "/", "/livez", "/readyz", "/metrics", "/api/status", "/api/session", "/api/crashes", "/api/crashes/last", "/api/events",
    "/api/logs", "/api/stream", "/api/series", "/api/run", "/login", "/logout", "/api/crashes/..%2f..%2fkey",
    "/api/crashes/../../key", "/..%2f..%2fkey", "//key", "/%00", "/%2e%2e/%2e%2e/etc/passwd", "/?" + "a" * 9000, "*",
    "http://evil.example/api/status", "/api/events?limit=99999999999999999999", "/api/crashes/%ff%fe",
)  # fmt: skip
METHODS = (
    "GET",
    "POST",
    "PUT",
    "DELETE",
    "HEAD",
    "OPTIONS",
    "TRACE",
    "CONNECT",
    "PATCH",
    "get",
    "G\x00T",
    "A" * 5000,
)
HEADERS = (
    "Host: evil.example", "Host:", "Host: 127.0.0.1:1\r\nHost: evil.example", "Origin: http://evil.example",
    "Authorization: Bearer wrong", "Authorization: Basic OjpB", "Cookie: session=" + "a" * 4000, "Content-Length: -1",
    "Content-Length: 99999999999", "Transfer-Encoding: chunked", "Content-Length: 5\r\nTransfer-Encoding: chunked",
    "Expect: 100-continue", "Upgrade: websocket", "X: " + "b" * 20_000, "Range: bytes=0-,0-,0-", "no colon", "Last-Event-ID: -1",
    "Content-Type: application/json", "Content-Type: application/x-www-form-urlencoded",
)  # fmt: skip
BODIES = (
    b"",
    b'{"words": ["exit", "force"]}',
    b"key=wrong",
    b"{" * 9000,
    b"\x00" * 100,
    b"5\r\nhello\r\n0\r\n\r\n",
    b"ffffffff\r\n",
)

Open = Callable[[], socket.socket]


def box(fields: dict[bytes, bytes]) -> bytes:
    """An AMP box, as far as its values have room."""
    pairs = (
        b"".join(struct.pack("!H", len(each[:65535])) + each[:65535] for each in pair)
        for pair in fields.items()
    )
    return b"".join(pairs) + b"\x00\x00"


def amp_bytes(chance: random.Random, *, stranger: bool) -> bytes:
    """Something for the control port. Only a stranger sends what would do something."""
    kind = chance.randrange(8)
    if kind == 0:
        return chance.randbytes(chance.randrange(1, 2000))
    if kind == 1:  # a box that has no end
        return b"".join(
            struct.pack("!H", 4) + b"%04d" % chance.randrange(10_000) + b"\x00\x00" for _ in range(3000)
        )
    if kind == 2:  # a key that is too long, or a value that never comes
        return chance.choice([b"\x7f\xff" + b"k" * 500, b"\x00\x01a\xff\xff" + bytes(30_000), b"\x00"])
    if kind == 3:  # answers that nobody asked for
        return box({chance.choice([b"_answer", b"_error"]): b"%x" % chance.randrange(9), b"x": b"y"}) * 50
    if kind == 4 and stranger:
        name = chance.choice(list(GOOD))
        return box({b"_command": name, b"_ask": b"1", **GOOD[name]})
    if kind == 5:  # many questions at once
        return box({b"_command": b"Hello", b"_ask": b"1"}) * chance.randrange(1, 2000)
    whole = {b"_command": chance.choice(COMMANDS), b"_ask": b"%d" % chance.randrange(99)}
    for name in chance.sample(ARGUMENTS, chance.randrange(6)):
        value = chance.choice(VALUES)
        # Nothing that this user may do by his own socket.
        whole[name] = value if stranger or name not in (b"mode", b"now") else b"?"
    data = box(whole)
    return data[: chance.randrange(1, len(data))] if kind == 6 else data


def http_bytes(chance: random.Random) -> bytes:
    """Something for an HTTP port."""
    if chance.randrange(8) == 0:
        return chance.randbytes(chance.randrange(1, 5000))
    lines = [f"{chance.choice(METHODS)} {chance.choice(PATHS)} HTTP/1.{chance.choice('0119')}"]
    lines += chance.sample(HEADERS, chance.randrange(5))
    data = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + chance.choice(BODIES)
    return data[: chance.randrange(1, len(data))] if chance.randrange(4) == 0 else data


def send(connect: Open, data: bytes, chance: random.Random) -> bytes:
    """One attack on a connection of its own; answers what came back at once."""
    try:
        with connect() as link:
            link.settimeout(REPLY_SECONDS)
            try:
                step = chance.choice([1 << 20, 1 << 20, 1 << 20, 100])
                for start in range(0, min(len(data), step * 50), step):
                    link.sendall(data[start : start + step])
                if chance.randrange(4) == 0:
                    return b""  # gone before the answer
                return link.recv(1 << 16)
            except OSError:
                return b""
    except (OSError, ssl.SSLError):
        return b""
