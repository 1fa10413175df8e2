"""A web site of `twistd web`, behind ``--``, put through what every application is put through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.integration.sessions import TestSession
from tests.integration.test_applications import free_port
from tests.system.websocket_proof import SKIP_WITHOUT_WEBSOCKETS, TALK, WebsocketProof

SITE = """
import os, time

from talk import talk
from twisted.internet import reactor
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from twisted.web.static import Data, File

sick = []

class Root(Resource):
    def __init__(self):
        super().__init__()
        self.putChild(b"", Data(b"good", "text/plain"))
        self.putChild(b"pages", File("pages"))
        self.putChild(b"talk", talk)
        for kind in (Health, Crash, Hang, Sicken, Stream):
            self.putChild(kind.__name__.lower().encode(), kind())

class Page(Resource):
    isLeaf = True

class Health(Page):
    def render_GET(self, request):
        request.setResponseCode(500 if sick else 200)
        return b"good"

class Crash(Page):
    def render_GET(self, request):
        os._exit(7)

class Hang(Page):
    def render_GET(self, request):
        time.sleep(1000)  # HANGS HERE

class Sicken(Page):
    def render_GET(self, request):
        sick.append(True)
        return b"good"

class Stream(Page):
    def render_GET(self, request, number=1):
        if number == 30:
            request.write(b"end")
            request.finish()
        else:
            request.write(b"piece %d;\\n" % number)
            reactor.callLater(0.05, self.render_GET, request, number + 1)
        return NOT_DONE_YET
"""


class TwistdWebTests(WebsocketProof):
    """Its endpoint is the session's port."""

    skip = SKIP_WITHOUT_WEBSOCKETS
    module = "site_of_ours.py"

    number = 0

    def setUp(self) -> None:
        self.words: tuple[str, ...] = ()

    @property
    def options(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("--", *self.words)

    def begin(self, *more: str) -> TestSession:
        """On a port that the plugin is told as well."""
        self.number = free_port()
        self.words = ("web", "--listen", f"tcp:{self.number}", "--class", "site_of_ours.Root")
        return super().begin(*more)

    def files(self) -> dict[str, str]:
        return {"site_of_ours.py": SITE, "talk.py": TALK, "pages/static.txt": "a file"}

    def session(self, *arguments: str, folder: Path | None = None, **options: Any) -> TestSession:
        port = options.pop("port", f"tcp:{self.number}:interface=127.0.0.1")
        return super().session(*arguments, folder=folder, port=port, **options)

    def test_crash(self) -> None:
        """It serves pages and files; a crash costs the request in it."""
        session = self.begin()
        self.check_served(session)
        self.assertEqual((200, b"a file"), session.get("/pages/static.txt"))
        self.check_crash(session)

    def test_hang(self) -> None:
        """A hang is told with its line."""
        self.check_hang(self.begin())

    def test_restart_under_load(self) -> None:
        """No request fails, with one worker and with two."""
        self.check_restart_under_load(self.begin())
        self.check_restart_under_load(self.begin("--workers", "2"))

    def test_bad_deploy(self) -> None:
        """Code that cannot be imported is dropped; the old one goes on."""
        self.check_bad_deploy(self.begin())

    def test_websocket(self) -> None:
        """A websocket is told that its worker goes."""
        self.check_drain_with_websocket()

    def test_the_rest(self) -> None:
        """A stream comes to its end; the heartbeat sees an answer of 500; the agent's exit handlers run."""
        self.check_drain_with_stream(self.begin())
        self.check_heartbeat(self.begin())
        self.check_exit_handlers(self.begin())

    def test_ftp(self) -> None:
        """What speaks no HTTP takes a port of another name; on ``server`` the worker answers itself."""
        self.number, other = free_port(), free_port()
        self.words = ("ftp", "--port", str(other), "--root", ".", "--password-file", "passwords")
        folder = self.folder(passwords="nobody:nothing\n")
        session = self.session("--port", f"ftp=tcp:{other}:interface=127.0.0.1", *self.options, folder=folder)
        session.serving()
        self.assertEqual((200, b"plugin ftp runs\n"), session.get("/"))
        with session.connect("ftp") as connection:
            self.assertTrue(connection.recv(1000).startswith(b"220 "))
        self.assertEqual((0, []), (session.end(), session.reports()))
