"""An ASGI server of ours on an event loop of its own, in this process, and raw clients of it."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from serverworker.processes.board import RequestBoard
from serverworker.processes.hosts import asgi_protocols, asgi_server
from serverworker.processes.hosts.asgi_server import AsgiServer
from tests.integration.drain_clients import request
from tests.system import SKIP

SKIP_UVICORN = SKIP or (
    None
    if all(map(find_spec, ("uvicorn", "httptools", "uvloop", "websockets")))
    else "needs uvicorn, httptools, uvloop and websockets: pip install -e '.[frameworks]'"
)
__all__ = ["SKIP_UVICORN", "AsgiCase", "Client", "request"]

SECONDS = 20.0
"""The deadline of every scenario."""


class Client:
    """A raw client of the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.transport: Any = writer.transport

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> tuple[bytes, bytes]:
        """One answer that has a length or is chunked: head, body."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        if b"transfer-encoding: chunked" in head.lower():
            body = b""
            while piece := await self._chunk():
                body += piece
            return head, body
        length = next(
            (line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), b":0"
        )
        return head, await self.reader.readexactly(int(length.partition(b":")[2]))

    async def _chunk(self) -> bytes:
        size = int(await self.reader.readline(), 16)
        data = await self.reader.readexactly(size + 2)
        return data[:-2]

    async def all(self) -> bytes:
        """All that comes until the server closes, which must be a FIN."""
        return await self.reader.read(-1)

    def close(self) -> None:
        self.writer.close()


class AsgiCase(SynchronousTestCase):
    """Each test runs scenarios on this event loop, with this HTTP protocol of uvicorn's."""

    uvloop = False
    http = "httptools"

    def setUp(self) -> None:
        from uvicorn import config

        self.patch(
            config, "HTTP_PROTOCOLS", {**config.HTTP_PROTOCOLS, "auto": config.HTTP_PROTOCOLS[self.http]}
        )
        self.patch(asgi_server, "ABORT_SECONDS", 0.3)
        self.patch(asgi_server, "IDLE_SECONDS", 0.1)
        self.patch(asgi_protocols, "LINGER_SECONDS", 0.3)
        self.board, descriptor = RequestBoard.create()
        os.close(descriptor)
        self.addCleanup(self.board.close)
        self.problems: list[dict[str, Any]] = []

    def serve(
        self,
        application: Callable[..., Awaitable[None]],
        scenario: Callable[[], Awaitable[None]],
        **state: Any,
    ) -> None:
        """Serve this application while the scenario runs; in the end nothing may be open or at work."""
        from asyncio import Runner

        if self.uvloop:
            import uvloop

            runner = Runner(loop_factory=uvloop.new_event_loop)
        else:
            runner = Runner()
        with runner:
            runner.run(asyncio.wait_for(self._serve(application, scenario, state), SECONDS))
        self.assertEqual(self.problems, [])

    async def _serve(self, application: Any, scenario: Any, state: dict[str, Any]) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: self.problems.append(context))
        self.server = AsgiServer(application, state, loop)
        self.server.begin(self.board, None)
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.listening.setblocking(False)
        loop.add_reader(self.listening, self._accept)
        self.accepted = self.closed = 0
        try:
            await scenario()
            self.server.abort()
            await self.gone()
            counters = self.board.counters()
            self.assertEqual((self.closed, counters.open_connections), (self.accepted, 0))
            self.assertEqual((self.server._state.connections, self.server._state.tasks), (set(), set()))
            self.assertEqual(counters.requests_started, counters.requests_finished)
        finally:
            self.server.end()
            loop.remove_reader(self.listening)
            self.listening.close()

    def _accept(self) -> None:
        connection, _ = self.listening.accept()
        connection.setblocking(False)
        self.accepted += 1
        with connection:
            self.server.take(connection, self._count)

    def _count(self) -> None:
        self.closed += 1

    async def gone(self) -> None:
        """Wait until nothing is open."""
        over = asyncio.Event()
        self.server.when_idle().addCallback(lambda _: over.set())
        await over.wait()

    async def connect(self) -> Client:
        """A client that the server has taken."""
        before = self.accepted
        reader, writer = await asyncio.open_connection(*self.listening.getsockname(), limit=2**23)
        while self.accepted == before or self.server._arriving:  # noqa: ASYNC110  # the deadline is the scenario's
            await asyncio.sleep(0.001)
        return Client(reader, writer)


def variants(names: dict[str, Any], case: type[AsgiCase]) -> None:
    """Put into a module the same tests for h11, and for uvloop."""
    for suffix, uvloop, http in (
        ("H11", False, "h11"),
        ("Uvloop", True, "httptools"),
        ("UvloopH11", True, "h11"),
    ):
        name = f"{case.__name__}{suffix}"
        attributes = {"uvloop": uvloop, "http": http, "__module__": case.__module__, "__doc__": case.__doc__}
        names[name] = type(name, (case,), attributes)
