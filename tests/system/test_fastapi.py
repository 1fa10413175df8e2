"""FastAPI in a session: what every framework is put through, its lifespan, its websockets, and its own quick start."""

from __future__ import annotations

import json
import signal
import time
from importlib.util import find_spec
from typing import ClassVar

from tests.integration.sessions import LONG, TestSession
from tests.system import SKIP
from tests.system.applications import ApplicationProof

SKIP_FASTAPI = SKIP or (
    None
    if find_spec("fastapi") and find_spec("uvicorn")
    else "needs fastapi and uvicorn: pip install -e '.[frameworks]'"
)

APPLICATION = """
import asyncio
import os
import time
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request, WebSocket
from fastapi.responses import PlainTextResponse, StreamingResponse

def note(word):
    with open("lifespans", "a") as file:
        file.write(f"{os.getpid()} {word}\\n")

@asynccontextmanager
async def lifespan(app):
    note("up")
    if Path("no-database").exists():
        raise ConnectionError("the database does not answer")
    if Path("slow-database").exists():
        await asyncio.sleep(600)  # WAITS HERE
    yield {"stock": 7}
    note("down")

app = FastAPI(lifespan=lifespan)
sick = []

@app.get("/", response_class=PlainTextResponse)
async def root(request: Request):
    return f"{request.state.stock} are good"

@app.get("/health")
async def health():
    return PlainTextResponse("sick" if sick else "well", status_code=500 if sick else 200)

@app.get("/sicken")
async def sicken():
    sick.append(True)
    return "sick"

@app.get("/crash")
async def crash():
    os._exit(7)

@app.get("/hang")
async def hang():
    time.sleep(600)  # HANGS HERE

@app.get("/boom")
async def boom():
    raise ValueError("of this request alone")

@app.get("/stray")
async def stray():
    async def fail():
        raise LookupError("nobody awaits this task")
    asyncio.get_running_loop().create_task(fail())
    return "begun"

@app.get("/stream")
async def stream():
    async def pieces():
        for number in range(30):
            await asyncio.sleep(0.05)
            yield "end" if number == 29 else f"piece {number};\\n"
    return StreamingResponse(pieces())

@app.websocket("/socket")
async def socket(websocket: WebSocket):
    await websocket.accept()
    while True:
        await websocket.send_text("echo " + await websocket.receive_text())
"""

QUICK_START = """
from fastapi import FastAPI

app = FastAPI()


@app.get("/")
async def root():
    return {"message": "Hello World"}
"""
"""The first one of FastAPI's own tutorial."""


class FastAPITests(ApplicationProof):
    """An ASGI application is kept alive as any other."""

    skip = SKIP_FASTAPI
    options: ClassVar[tuple[str, ...]] = ("--asgi", "shop:app")
    module: ClassVar[str] = "shop.py"

    def files(self) -> dict[str, str]:
        return {self.module: APPLICATION}

    def lifespans(self, session: TestSession) -> list[list[str]]:
        """What the lifespans have written: pid, up or down."""
        path = session.folder / "lifespans"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def printed(self, session: TestSession, words: str) -> str:
        """Wait for a line of a worker's that has these words."""
        event = session.wait_for("OutputLine", matching=lambda event: words in event["text"])
        return str(event["text"])

    def test_served(self) -> None:
        """It answers, with the state of its lifespan, and its heartbeat is good."""
        self.check_served(self.begin())

    def test_crash(self) -> None:
        """A crash costs the requests inside the process."""
        self.check_crash(self.begin())

    def test_hang(self) -> None:
        """A blocking call in a coroutine is a hang: the report names its line."""
        self.check_hang(self.begin())

    def test_restart_under_load(self) -> None:
        """Restarts lose nothing, and every lifespan that came up went down."""
        session = self.begin()
        self.check_restart_under_load(session)
        self.assertEqual(0, session.end())
        up = [pid for pid, word in self.lifespans(session) if word == "up"]
        down = [pid for pid, word in self.lifespans(session) if word == "down"]
        self.assertEqual((3, sorted(up)), (len(up), sorted(down)))

    def test_bad_deploy(self) -> None:
        """Code that cannot be imported never takes over."""
        self.check_bad_deploy(self.begin())

    def test_drain_with_a_stream(self) -> None:
        """A stream comes to its own end."""
        self.check_drain_with_stream(self.begin())

    def test_exit_handlers(self) -> None:
        """The agent beside it has its exit handlers."""
        self.check_exit_handlers(self.begin())

    def test_heartbeat(self) -> None:
        """A health route that fails is a crash."""
        self.check_heartbeat(self.begin())

    def test_standby_starts_nothing(self) -> None:
        """The lifespan of a standby has not begun; it runs when the standby takes over."""
        session = self.begin()
        serving, standby = session.server_pid, session.pid_of(session.standby_ready_or_loaded()["worker"])
        self.assertEqual([[str(serving), "up"]], self.lifespans(session))
        with self.assertRaises(OSError):
            self.ask_raw(session, "/crash")
        session.serving(2)
        self.assertIn([str(standby), "up"], self.lifespans(session))

    def test_lifespan_that_fails(self) -> None:
        """New code whose lifespan fails is a bad deploy: its own error is told, and the old worker goes on."""
        session = self.begin()
        (session.folder / "no-database").touch()
        with self.clients(session) as clients:
            session.process.send_signal(signal.SIGHUP)
            session.wait_for("RestartFailed")
            clients.wait_for_answers(20)
        self.assertEqual([], clients.failures)
        report = session.report_of(session.wait_for("WorkerDied")["worker"])
        text = json.dumps(report)
        self.assertIn(
            "the application's lifespan failed at its start-up: ConnectionError: the database", text
        )
        self.assertIn('shop.py\\", line', text)

    def test_lifespan_that_never_completes(self) -> None:
        """The start-up deadline says that it was the lifespan, and where it waits."""
        session = self.begin("--startup-timeout", "4")
        (session.folder / "slow-database").touch()
        session.process.send_signal(signal.SIGHUP)
        session.wait_for("RestartFailed")
        text = json.dumps(session.report_of(session.wait_for("WorkerDied")["worker"]))
        line = next(n for n, words in enumerate(APPLICATION.splitlines(), 1) if "WAITS HERE" in words)
        self.assertIn("lifespan has not completed its start-up within 3.6 s", text)
        self.assertIn(f"shop.py, line {line}, in lifespan", text)
        self.check_answers(session)

    def test_error_in_a_request(self) -> None:
        """It is a 500 and some lines, and no crash."""
        session = self.begin()
        self.assertEqual(500, session.get("/boom")[0])
        self.printed(session, "of this request alone")
        self.check_served(session)

    def test_error_in_a_task(self) -> None:
        """A task that failed, and that nobody awaits, is what an unhandled Deferred is: a crash."""
        session = self.begin()
        worker = session.serving()[-1]["worker"]
        self.assertEqual(200, session.get("/stray")[0])
        report = session.report_of(worker)
        self.assertEqual("exception", report["cause"]["kind"])
        self.assertIn("nobody awaits this task", json.dumps(report))
        session.wait_for("ServerRunning", matching=lambda event: event["worker"] > worker)

    def test_websocket_at_a_deploy(self) -> None:
        """It works on until the drain's deadline, then is told 1012, that the service restarts; the lifespan ends behind it."""
        from websockets.exceptions import ConnectionClosed
        from websockets.sync.client import connect

        session = self.begin("--drain-timeout", "2")
        pid, worker = session.server_pid, session.serving()[-1]["worker"]
        with connect(f"ws://127.0.0.1:{session.port()}/socket", open_timeout=LONG) as client:
            client.send("one")
            self.assertEqual("echo one", client.recv(LONG))
            after = len(session.events)
            session.process.send_signal(signal.SIGHUP)
            session.wait_for("RestartCompleted", after=after)
            began = time.monotonic()
            client.send("two")
            self.assertEqual("echo two", client.recv(LONG))
            with self.assertRaises(ConnectionClosed) as caught:
                client.recv(LONG)
            self.assertLess(time.monotonic() - began, 4)
        assert caught.exception.rcvd is not None
        self.assertEqual(1012, caught.exception.rcvd.code)
        session.wait_for("WorkerExited", after=after, matching=lambda event: event["worker"] == worker)
        self.assertIn([str(pid), "down"], self.lifespans(session))
        self.assertEqual([], session.reports())

    def test_websocket_in_a_crash(self) -> None:
        """A new worker takes the client that comes again."""
        from websockets.exceptions import ConnectionClosed
        from websockets.sync.client import connect

        session = self.begin()
        address = f"ws://127.0.0.1:{session.port()}/socket"
        with connect(address, open_timeout=LONG) as client:
            with self.assertRaises(OSError):
                self.ask_raw(session, "/crash")
            self.assertRaises(ConnectionClosed, client.recv, LONG)
        with connect(address, open_timeout=LONG) as client:
            client.send("again")
            self.assertEqual("echo again", client.recv(LONG))

    def test_access_log(self) -> None:
        """Requests and websockets have their lines; the heartbeat has none."""
        from websockets.sync.client import connect

        configuration = '[output]\naccess_log = "combined"\n[polling]\nroute = "/health"\n'
        folder = self.folder(shop__py=APPLICATION, serverworker__toml=configuration)
        session = self.session("--asgi", "shop:app", "--config", "serverworker.toml", folder=folder)
        session.serving()
        session.get("/?a=b", headers={"User-Agent": "test", "Referer": "there"})
        line = self.printed(session, "/?a=b")
        self.assertRegex(line, r"127\.0\.0\.1 - - \[[^]]+\] .+GET /\?a=b HTTP/1\.1.+ 200 10 .+there.+test")
        session.get("/boom")
        self.printed(session, "GET /boom HTTP/1.1")
        with connect(f"ws://127.0.0.1:{session.port()}/socket", open_timeout=LONG) as client:
            client.send("one")
            client.recv(LONG)
        self.assertIn(" 101 ", self.printed(session, "GET /socket HTTP/1.1"))
        self.assertEqual([], [event for event in session.events if "GET /health" in event.get("text", "")])

    def test_quick_start(self) -> None:
        """The quick start of its own documentation runs by one line, unchanged."""
        session = self.session("--asgi", "main:app", folder=self.folder(main__py=QUICK_START))
        session.serving()
        status, body = session.get("/")
        self.assertEqual((200, {"message": "Hello World"}), (status, json.loads(body)))
        self.assertEqual(0, session.end())
