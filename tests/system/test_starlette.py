"""Starlette in a session, on asyncio's own event loop: streams, uploads, background tasks, and a Deferred."""

from __future__ import annotations

import signal
from typing import ClassVar

from tests.system.applications import ApplicationProof
from tests.system.test_fastapi import SKIP_FASTAPI

APPLICATION = """
import asyncio
import os
import time
from pathlib import Path

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route
from twisted.internet import reactor
from twisted.internet.utils import getProcessOutput

from serverworker import ServerWorker

sick = []

async def root(request):
    return PlainTextResponse("good")

async def health(request):
    return PlainTextResponse("well", status_code=500 if sick else 200)

async def sicken(request):
    sick.append(True)
    return PlainTextResponse("sick")

async def crash(request):
    os._exit(7)

async def hang(request):
    time.sleep(600)  # HANGS HERE

async def stream(request):
    async def pieces():
        for number in range(30):
            await asyncio.sleep(0.05)
            yield "end" if number == 29 else f"piece {number};\\n"
    return StreamingResponse(pieces())

async def upload(request):
    size = 0
    async for piece in request.stream():
        size += len(piece)
    return PlainTextResponse(str(size))

async def background(request):
    async def work():
        await asyncio.sleep(1)
        Path("background").write_text("done")
    return PlainTextResponse("later", background=BackgroundTask(work))

async def loop(request):
    return PlainTextResponse(type(asyncio.get_running_loop()).__module__)

async def child(request):
    loop = asyncio.get_running_loop()
    theirs = await getProcessOutput("/bin/echo", ["twisted"]).asFuture(loop)
    process = await asyncio.create_subprocess_exec("/bin/echo", "asyncio", stdout=asyncio.subprocess.PIPE)
    ours, _ = await process.communicate()
    return PlainTextResponse(theirs + ours)

async def ask(request):
    answers = await ServerWorker.current().emit("add", [3, 4]).asFuture(asyncio.get_running_loop())
    return PlainTextResponse(str(answers))

pages = (root, health, sicken, crash, hang, stream, upload, background, loop, child, ask)
app = Starlette(routes=[
    Route("/" if page is root else f"/{page.__name__}", page, methods=["GET", "POST"]) for page in pages
])
"""

AGENT = """
from serverworker import SessionAgent

class Adder(SessionAgent):
    async def initialize_monitor(self, monitor):
        monitor.on("add", sum)
"""

WITHOUT_UVLOOP = "raise ImportError('not installed')"


class StarletteTests(ApplicationProof):
    """Without uvloop: a module of its name that cannot be imported stands before it."""

    skip = SKIP_FASTAPI
    options: ClassVar[tuple[str, ...]] = ("--asgi", "pages:app")
    module: ClassVar[str] = "pages.py"

    def files(self) -> dict[str, str]:
        return {self.module: APPLICATION, "uvloop.py": WITHOUT_UVLOOP}

    def test_crash(self) -> None:
        """It serves; a crash costs the request in it."""
        session = self.begin()
        self.check_served(session)
        self.check_crash(session)

    def test_hang(self) -> None:
        """A hang is told with its line."""
        self.check_hang(self.begin())

    def test_restart_under_load(self) -> None:
        """No request fails."""
        self.check_restart_under_load(self.begin())

    def test_the_rest(self) -> None:
        """A bad deploy, a stream at a restart, a sick heartbeat, the agent's exit handlers."""
        self.check_bad_deploy(self.begin())
        self.check_drain_with_stream(self.begin())
        self.check_heartbeat(self.begin())
        self.check_exit_handlers(self.begin())

    def test_upload(self) -> None:
        """A body of some megabytes comes whole."""
        session = self.begin()
        self.assertEqual((200, b"5000000"), session.get("/upload", method="POST", body=b"x" * 5_000_000))

    def test_background(self) -> None:
        """What goes on behind an answer is finished before its worker ends."""
        session = self.begin()
        self.assertEqual((200, b"later"), session.get("/background"))
        session.process.send_signal(signal.SIGHUP)
        session.wait_for("WorkerExited", matching=lambda event: event["worker"] == 1)
        self.assertEqual("done", (session.folder / "background").read_text())

    def test_both_worlds(self) -> None:
        """Child processes of Twisted's and of asyncio's, and IPC with the monitor: with uvloop, and without it."""
        for hidden, loop in ((False, b"uvloop"), (True, b"asyncio.unix_events")):
            folder = self.folder(pages__py=APPLICATION, adder__py=AGENT, uvloop__py=WITHOUT_UVLOOP)
            if not hidden:
                (folder / "uvloop.py").unlink()
            session = self.session("--asgi", "pages:app", "--agent", "adder:Adder", folder=folder)
            session.serving()
            self.assertEqual((200, loop), session.get("/loop"))
            self.assertEqual((200, b"twisted\nasyncio\n"), session.get("/child"))
            self.assertEqual((200, b"[7]"), session.get("/ask"))
            self.assertEqual(0, session.end())
            self.assertEqual([], session.reports())
