"""Flask, from PyPI: its quick-start as it stands, and an application that is put through all of it."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import time

from tests.integration.sessions import LONG, SessionTestCase, TestSession, wait_until
from tests.system import SKIP
from tests.system.applications import ApplicationProof

MISSING = (
    None if importlib.util.find_spec("flask") else "needs flask: python -m pip install -e '.[frameworks]'"
)

QUICK_START = """
from flask import Flask

app = Flask(__name__)

@app.route("/")
def hello_world():
    return "<p>Hello, World!</p>"
"""
"""As Flask's documentation has it, word for word."""

SHOP = """
import os
import sys
import threading
import time

from flask import Flask, Response, request

app = Flask(__name__)
lock = threading.Lock()
state = {"well": True}

@app.route("/")
def index():
    return "good"

@app.route("/health")
def health():
    return ("good", 200) if state["well"] else ("bad", 500)

@app.route("/sicken")
def sicken():
    state["well"] = False
    return "good"

@app.route("/crash")
def crash():
    os._exit(7)

@app.route("/raise")
def fail():
    raise RuntimeError("a bug in a view")

@app.route("/thread")
def thread():
    started = threading.Thread(target=lambda: 1 / 0)
    started.start()
    return "good"

@app.route("/hang")
def hang():
    time.sleep(3600)  # HANGS HERE

@app.route("/deadlock")
def deadlock():
    lock.acquire()
    lock.acquire()  # LOCKED HERE

@app.route("/stream")
def stream():
    def pieces():
        for number in range(29):
            time.sleep(0.05)
            yield f"piece {number}\\n"
        yield "end"
    return Response(pieces(), mimetype="text/plain")

@app.route("/forever")
def forever():
    def pieces():
        try:
            while True:
                yield b"x" * 65536
        finally:
            # In one write: threads that print at once share lines.
            sys.stdout.write("the generator was closed\\n")
            sys.stdout.flush()
    return Response(pieces(), mimetype="application/octet-stream")

@app.route("/upload", methods=["POST"])
def upload():
    return str(sum(len(file.read()) for file in request.files.values()) or len(request.get_data()))
"""


class FlaskQuickStartTests(SessionTestCase):
    """One line."""

    skip = SKIP or MISSING

    def test_one_line(self) -> None:
        """The quick-start of Flask's documentation is served unchanged."""
        folder = self.folder(hello__py=QUICK_START)
        session = self.session("--wsgi", "hello:app", folder=folder)
        session.serving()
        self.assertEqual(session.get("/"), (200, b"<p>Hello, World!</p>"))
        self.assertEqual(session.end(), 0)


class FlaskTests(ApplicationProof):
    """An application of Flask's, with three threads."""

    skip = SKIP or MISSING
    options = ("--wsgi", "shop:app", "--wsgi-threads", "3")
    module = "shop.py"
    hangs = 3

    def files(self) -> dict[str, str]:
        """One module."""
        return {"shop.py": SHOP}

    def test_lives(self) -> None:
        """Served, restarted under load, badly deployed, drained with a stream open, and told of its end."""
        session = self.begin()
        self.check_served(session)
        self.check_restart_under_load(session)
        self.check_drain_with_stream(session)
        self.check_bad_deploy(session)
        self.check_exit_handlers(session)

    def test_dies(self) -> None:
        """Crashes, a hang and a health route that fails: each is one report with its cause."""
        session = self.begin()
        self.check_crash(session)
        session.standby_ready_or_loaded()
        self.check_heartbeat(session)
        session.standby_ready_or_loaded()
        self.check_hang(session)

    def test_deadlock(self) -> None:
        """Each thread of the pool waits for one lock: the report has the line of each, and the requests."""
        session = self.begin()
        worker = session.serving()[-1]["worker"]
        for _ in range(3):
            connection = session.connect()
            self.addCleanup(connection.close)
            connection.sendall(b"GET /deadlock HTTP/1.1\r\nHost: a\r\n\r\n")
        report = session.report_of(worker)
        line = 1 + next(number for number, each in enumerate(SHOP.splitlines()) if "LOCKED HERE" in each)
        text = json.dumps(report)
        self.assertGreaterEqual(text.count("in deadlock"), 3)
        self.assertIn(f"line {line} in deadlock", text)
        self.assertIn("/deadlock", text)

    def test_errors(self) -> None:
        """What a view raises is 500 and no crash; what a thread of its own raises is a crash."""
        session = self.begin()
        self.assertEqual(session.get("/raise")[0], 500)
        self.assertEqual(session.get("/")[0], 200)
        self.assertEqual(session.reports(), [])
        session.wait_for("OutputLine", matching=lambda event: "a bug in a view" in event["text"])
        worker = session.serving()[-1]["worker"]
        with contextlib.suppress(http.client.RemoteDisconnected):  # it may be gone before it has answered
            session.get("/thread")
        self.assertIn("division by zero", session.report_of(worker)["cause"]["text"])

    def test_slow_readers(self) -> None:
        """More slow readers of endless answers than there are threads: others are served, memory stays small."""
        session = self.begin()
        connections = [session.connect() for _ in range(8)]
        for connection in connections:
            connection.sendall(b"GET /forever HTTP/1.1\r\nHost: a\r\n\r\n")
            self.assertIn(b"200 OK", connection.recv(100))
        pid = session.server_pid
        until = time.monotonic() + 4  # longer than it takes until failed heartbeats are a death
        with self.clients(session) as clients:
            while time.monotonic() < until:
                clients.wait_for_answers(20)
        self.assertEqual(clients.failures, [])
        self.assertLess(resident_mib(pid), 150)
        for connection in connections:
            connection.close()
        wait_until(lambda: self.closed(session) == 8, "the end of all generators", LONG)
        self.assertEqual((pid, session.reports()), (session.server_pid, []))

    def closed(self, session: TestSession) -> int:
        """Generators that have been closed."""
        return sum("the generator was closed" in str(event.get("text")) for event in session.events)

    def test_uploads(self) -> None:
        """Ten megabytes, with a length, in chunks and as a form, arrive whole."""
        session = self.begin()
        body = b"0123456789" * 1_000_000
        self.assertEqual(session.get("/upload", method="POST", body=body), (200, b"10000000"))
        form = b"--x\r\nContent-Disposition: form-data; name=f; filename=f\r\n\r\n" + body + b"\r\n--x--\r\n"
        kind = {"Content-Type": "multipart/form-data; boundary=x"}
        self.assertEqual(session.get("/upload", method="POST", body=form, headers=kind), (200, b"10000000"))
        with session.connect() as connection:
            connection.sendall(
                b"POST /upload HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
            for _ in range(100):
                connection.sendall(b"%x\r\n%s\r\n" % (100_000, body[:100_000]))
            connection.sendall(b"0\r\n\r\n")
            answer = b""
            while piece := connection.recv(65536):
                answer += piece
        self.assertTrue(answer.endswith(b"10000000"), answer)

    def test_thread_that_never_returns(self) -> None:
        """A session ends at its drain's deadline, whatever a view is at."""
        session = self.begin("--drain-timeout", "1", "--wsgi-threads", "4")
        with session.connect() as connection:
            connection.sendall(b"GET /hang HTTP/1.1\r\nHost: a\r\n\r\n")
            session.get("/")
            self.assertEqual(session.end(seconds=15), 0)
        self.assertEqual(session.reports(), [])


def resident_mib(pid: int) -> float:
    """How much memory a process has."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20
