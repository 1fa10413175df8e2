"""The clients of the soak: four kinds of them, and a note of everything that was not answered as it should be."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress

from attrs import define, field, frozen

APPLICATION = """
import os
from twisted.internet import reactor
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

def finish(request):
    request.write(b"slow")
    request.finish()

class Root(Resource):
    isLeaf = True

    def render_GET(self, request):
        request.setHeader(b"X-Pid", b"%d" % os.getpid())
        if request.path != b"/slow":
            return b"quick"
        request.setHeader(b"Content-Length", b"4")
        later = reactor.callLater(0.05, finish, request)
        request.notifyFinish().addErrback(lambda _: later.cancel())
        return NOT_DONE_YET

    def render_POST(self, request):
        request.setHeader(b"X-Pid", b"%d" % os.getpid())
        return b"%d" % len(request.content.read())
"""
"""What they ask: each answer names the process that it is from."""

ANSWER_SECONDS = 30.0
PIECE = b"x" * 1000
PIECES = 10
PIECE_SECONDS = 0.1
"""Between two pieces of an upload."""
HOST = "127.0.0.1"


class Unanswered(Exception):
    """A request that did not get what it asked for; the text says what came instead."""


@frozen(kw_only=True)
class Failure:
    """A request that failed."""

    kind: str
    text: str
    began: float
    ended: float
    pid: int
    """Whose connection it was on, by an earlier answer; 0 where nobody has answered on it yet."""


@define
class Connection:
    """A connection, as its client knows it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    pid: int = 0
    last: bool = False
    """Whether the server has said that it closes it."""

    @classmethod
    async def open(cls, port: int) -> Connection:
        """A new one."""
        return cls(*await asyncio.open_connection(HOST, port))

    async def close(self) -> None:
        """Close it, whatever it is at."""
        self.writer.close()
        with suppress(OSError):
            await self.writer.wait_closed()

    async def ask(self, method: str, path: str, pieces: int = 0) -> bytes:
        """One request, with a body of so many slow pieces, and the body of its answer."""
        length = pieces * len(PIECE)
        head = f"{method} {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {length}\r\n\r\n"
        self.writer.write(head.encode())
        for _ in range(pieces):
            await asyncio.sleep(PIECE_SECONDS)
            self.writer.write(PIECE)
            await self.writer.drain()
        return await self._answer()

    async def _answer(self) -> bytes:
        try:
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except asyncio.IncompleteReadError as error:
            raise Unanswered(f"closed after {len(error.partial)} bytes of an answer's head") from error
        status, *lines = head.split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if " 200 " not in status:
            raise Unanswered(status)
        try:
            body = await self.reader.readexactly(int(headers["content-length"]))
        except asyncio.IncompleteReadError as error:
            raise Unanswered(f"closed after {len(error.partial)} bytes of an answer's body") from error
        self.pid = int(headers["x-pid"])
        self.last = headers.get("connection", "").lower() == "close"
        return body


@define
class Clients:
    """So many clients of each kind, who ask without end until they are told to stop."""

    port: int
    number: int = 4
    answered: Counter[str] = field(factory=Counter)
    """How many requests, by kind."""
    failures: list[Failure] = field(factory=list)
    _stopping: bool = False
    _tasks: list[asyncio.Task[None]] = field(factory=list)

    def start(self) -> None:
        """Begin."""
        kinds: dict[str, Callable[[], Awaitable[None]]] = {
            "new connection": self._new,
            "keep-alive": self._kept,
            "slow upload": self._upload,
            "50 ms request": self._slow,
        }
        for client in kinds.values():
            self._tasks.extend(asyncio.ensure_future(client()) for _ in range(self.number))

    async def stop(self) -> None:
        """End, each after the request that it is at."""
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def _new(self) -> None:
        while not self._stopping:
            await self._once("new connection", b"quick", "GET", "/")
            await asyncio.sleep(0.01)

    async def _slow(self) -> None:
        while not self._stopping:
            await self._once("50 ms request", b"slow", "GET", "/slow")

    async def _upload(self) -> None:
        while not self._stopping:
            await self._once("slow upload", b"%d" % (PIECES * len(PIECE)), "POST", "/", PIECES)

    async def _once(self, kind: str, expected: bytes, method: str, path: str, pieces: int = 0) -> None:
        """One request on a connection of its own."""
        await self._note(kind, None, expected, method, path, pieces)

    async def _kept(self) -> None:
        kept: Connection | None = None
        while not self._stopping:
            kept = await self._note("keep-alive", kept, b"quick", "GET", "/")
            # Without a pause too: such a client's next request meets whatever closes its connection.
            await asyncio.sleep(max(0.0, random.uniform(-0.1, 0.1)))  # noqa: S311 - chance, not a secret
            if kept is not None and (kept.last or kept.reader.at_eof()):
                await kept.close()
                kept = None
        if kept is not None:
            await kept.close()

    async def _note(
        self, kind: str, kept: Connection | None, expected: bytes, method: str, path: str, pieces: int = 0
    ) -> Connection | None:
        """One request, and what became of it. Answers the connection where it can be used again."""
        connection = kept
        pid = 0 if kept is None else kept.pid
        began = time.monotonic()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                if connection is None:
                    began = time.monotonic()
                    connection = await Connection.open(self.port)
                body = await connection.ask(method, path, pieces)
            if body != expected:
                raise Unanswered(f"{body[:40]!r} instead of {expected!r}")
        except (OSError, Unanswered, ValueError, KeyError) as error:
            text = f"{type(error).__name__}: {error}"
            self.failures.append(Failure(kind=kind, text=text, began=began, ended=time.monotonic(), pid=pid))
        else:
            self.answered[kind] += 1
            if kind == "keep-alive":
                return connection
        if connection is not None:
            await connection.close()
        return None
