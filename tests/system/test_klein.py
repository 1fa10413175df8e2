"""Klein, put through what every application is put through."""

from __future__ import annotations

from tests.system.websocket_proof import SKIP_WITHOUT_WEBSOCKETS, TALK, WebsocketProof

PAGES = """
import os, time

from klein import Klein
from talk import talk
from twisted.internet import reactor
from twisted.internet.task import deferLater

app = Klein()
sick = []

@app.route("/")
async def home(request):
    await deferLater(reactor, 0.001)
    return b"good"

@app.route("/health")
def health(request):
    request.setResponseCode(500 if sick else 200)
    return b"good"

@app.route("/crash")
def crash(request):
    os._exit(7)

@app.route("/hang")
def hang(request):
    time.sleep(1000)  # HANGS HERE

@app.route("/sicken")
def sicken(request):
    sick.append(True)
    return b"good"

@app.route("/talk")
def talk_page(request):
    return talk

@app.route("/stream")
async def stream(request):
    for number in range(1, 30):
        request.write(b"piece %d;\\n" % number)
        await deferLater(reactor, 0.05)
    return b"end"
"""


class KleinTests(WebsocketProof):
    """A resource whose routes may be coroutines."""

    skip = SKIP_WITHOUT_WEBSOCKETS
    options = ("--app", "pages:app")
    module = "pages.py"

    def files(self) -> dict[str, str]:
        return {"pages.py": PAGES, "talk.py": TALK}

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
