"""The gentle ways: limits, the time before the drain, the drain hook, and what is ended at the deadline."""

from __future__ import annotations

import http.client
import signal
import socket
import time

from tests.integration.sessions import LONG, SessionTestCase, TestSession

APPLICATION = """
from twisted.internet import reactor
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

class Root(Resource):
    isLeaf = True
    ending = False
    streams = []

    def render_GET(self, request):
        if request.path == b"/health":
            if self.ending:
                request.setResponseCode(503)
            return b"ending" if self.ending else b"well"
        if request.path == b"/stream":
            request.write(b"hello")
            self.streams.append(request)
            return NOT_DONE_YET
        if request.path == b"/slow":
            reactor.callLater(1.0, lambda: (request.write(b"slow"), request.finish()))
            return NOT_DONE_YET
        return b"fast"

    def drain(self):
        self.ending = True
        for request in self.streams:
            request.write(b", goodbye")

root = Root()

def work(worker):
    worker.listen("server", Site(root))
    worker.on_drain(root.drain)
    worker.on_drain(lambda: 1 / 0)
"""


class DrainTests(SessionTestCase):
    """What is under way is finished."""

    def begin(self, configuration: str = "", *options: str) -> TestSession:
        """A session with this application."""
        folder = self.folder(drained__py=APPLICATION, serverworker__toml=configuration)
        session = self.session(
            "--app", "drained:work", "--config", "serverworker.toml", *options, folder=folder
        )
        session.serving()
        session.standby_ready_or_loaded()
        return session

    def read_all(self, connection: socket.socket) -> bytes:
        """All that comes until the other side closes."""
        data = b""
        while piece := connection.recv(65536):
            data += piece
        return data

    def test_unready_before_the_drain(self) -> None:
        """At the session's end the application is told first, and serves on for as long as configured."""
        session = self.begin("[drain]\nunready_seconds = 1.5\ntimeout_seconds = 5\n")
        self.assertEqual((200, b"well"), session.get("/health"))
        session.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        session.wait_for("SessionEnding")
        while session.get("/health") != (503, b"ending"):
            self.assertLess(time.monotonic() - began, 1.5)
        self.assertEqual((200, b"fast"), session.get("/"))
        session.wait_for("WorkerDraining")
        self.assertGreater(time.monotonic() - began, 1.0)
        self.assertEqual(0, session.exit_status())

    def test_a_request_under_way_is_finished(self) -> None:
        """SIGTERM, and a request of a second is answered in full."""
        session = self.begin()
        with session.connect() as connection:
            connection.sendall(b"GET /slow HTTP/1.0\r\n\r\n")
            session.get("/")  # behind it: the slow one is in the worker's hands by now
            session.process.send_signal(signal.SIGTERM)
            self.assertTrue(self.read_all(connection).endswith(b"slow"))
        self.assertEqual(0, session.exit_status())

    def test_streams_end_at_the_deadline(self) -> None:
        """A stream is told by the drain hook, and closed at the deadline; the hook that fails is reported."""
        session = self.begin("", "--drain-timeout", "1")
        with session.connect() as connection:
            connection.sendall(b"GET /stream HTTP/1.0\r\n\r\n")
            self.assertIn(b"200 OK", connection.recv(1000))
            began = time.monotonic()
            session.process.send_signal(signal.SIGHUP)
            self.assertTrue(self.read_all(connection).endswith(b", goodbye"))
            self.assertGreater(time.monotonic() - began, 0.9)
        session.wait_for("WorkerExited")
        self.assertEqual([], session.reports())
        notes = [event["text"] for event in session.events if event["event"] == "Lifecycle"]
        failed = "drain hook work.<locals>.<lambda> failed: division by zero; the exit goes on"
        self.assertIn(failed, notes)

    def test_an_idle_connection_gets_one_more_answer(self) -> None:
        """A keep-alive connection to a worker that drains is answered once more, and told that it is the last time."""
        session = self.begin()
        connection = http.client.HTTPConnection("127.0.0.1", session.port(), timeout=LONG)
        self.addCleanup(connection.close)
        connection.request("GET", "/")
        self.assertEqual(b"fast", connection.getresponse().read())
        session.process.send_signal(signal.SIGHUP)
        session.wait_for("WorkerDraining")
        # Told to drain by the monitor; it has heard of it once it polls no more and its successor answers.
        session.wait_for_drain_of(session.serving()[0]["worker"])
        connection.request("GET", "/")
        answer = connection.getresponse()
        self.assertEqual((200, b"fast"), (answer.status, answer.read()))
        self.assertEqual("close", answer.getheader("Connection"))

    def test_after_so_many_requests(self) -> None:
        """A worker that has reached its limit is replaced, again and again, and no request is lost."""
        session = self.begin("[limits]\nrequests = 20\n")
        with self.clients(session) as clients:
            session.serving(3)
            clients.wait_for_answers(10)
        self.assertEqual([], clients.failures)
        self.assertEqual([], [event for event in session.events if event["event"] == "WorkerDied"])
        reasons = [event["reason"] for event in session.events if event["event"] == "WorkerDraining"]
        self.assertIn("requests (limit 20)", reasons[0])
