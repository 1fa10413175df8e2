"""The dashboard's HTTP: what comes in too large, too slow or broken, and what goes out."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.testing import StringTransportWithDisconnection

from serverworker.surfaces.dashboard.guard import ANSWER_HEADERS
from serverworker.surfaces.dashboard.site import (
    CLOSE_SECONDS,
    MOST_BODY_BYTES,
    MOST_CONNECTIONS,
    MOST_HEADERS,
    REQUEST_SECONDS,
    DashboardChannel,
    DashboardFactory,
)
from tests.unit.dashboard_case import KEY, DashboardCase

HOST = b"Host: localhost\r\n"
BEARER = HOST + b"Authorization: Bearer " + KEY.encode() + b"\r\n"


class Connection(StringTransportWithDisconnection):
    """One client."""

    def __init__(self, factory: DashboardFactory) -> None:
        super().__init__()
        self.protocol: Any = factory.buildProtocol(None)
        self.aborted = False
        self.protocol.makeConnection(self)

    def loseConnection(self) -> None:
        self.disconnecting = True  # as of the reactor's own: what is left of the data is not parsed
        super().loseConnection()

    def abortConnection(self) -> None:
        self.aborted = True
        self.loseConnection()

    def send(self, *parts: bytes) -> bytes:
        """What comes of it."""
        self.clear()
        for part in parts:
            if self.connected:
                self.protocol.dataReceived(part)
        return bytes(self.value())


class SiteCase(DashboardCase):
    def setUp(self) -> None:
        super().setUp()
        self.factory = DashboardFactory(self.clock, self.api.answer, self.streams)

    def connect(self) -> Connection:
        return Connection(self.factory)

    def get(self, path: bytes, headers: bytes = BEARER) -> bytes:
        return self.connect().send(b"GET " + path + b" HTTP/1.1\r\n" + headers + b"\r\n")


class AnswerTests(SiteCase):
    """Requests that are in order."""

    def test_headers(self) -> None:
        """Each answer has them all, whatever it is, and no word on who serves it."""
        for answer in (self.get(b"/"), self.get(b"/no"), self.get(b"/api/status", HOST), self.get(b"/", b"")):
            for name, value in ANSWER_HEADERS:
                self.assertIn(f"\r\n{name}: {value}\r\n".encode(), answer)
            self.assertIn(b"\r\nDate: ", answer)
            self.assertNotIn(b"Server:", answer)

    def test_several_on_one_connection(self) -> None:
        """They are answered in turn, sent one behind the other or in pieces."""
        request = b"GET /api/session HTTP/1.1\r\n" + BEARER + b"\r\n"
        connection = self.connect()
        self.assertEqual(2, connection.send(request + request).count(b"HTTP/1.1 200"))
        self.assertEqual(1, connection.send(*(bytes([each]) for each in request)).count(b"HTTP/1.1 200"))
        self.assertTrue(connection.connected)

    def test_a_login(self) -> None:
        """By a form in the body, as a browser sends it; the peer's address is in the audit."""
        form = b"key=" + KEY.encode()
        head = b"POST /login HTTP/1.1\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n"
        answer = self.connect().send(head % len(form) + HOST + b"\r\n" + form)
        self.assertIn(b"HTTP/1.1 200", answer)
        self.assertIn(b"Set-Cookie: serverworker=", answer)
        self.assertIn("192.168.1.1", repr(self.published))

    def test_head(self) -> None:
        """The head of a page alone."""
        answer = self.connect().send(b"HEAD / HTTP/1.1\r\n" + HOST + b"\r\n")
        self.assertTrue(answer.startswith(b"HTTP/1.1 200"))
        self.assertTrue(answer.endswith(b"\r\n\r\n"))

    def test_a_client_that_leaves(self) -> None:
        """What it asked for goes on; its answer is dropped without a word."""
        waiting: Deferred[str] = Deferred()
        self.monitor.restart = lambda mode, asked_by: waiting
        body = b'{"line": "restart clean"}'
        head = b"POST /api/run HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n" % len(
            body
        )
        connection = self.connect()
        self.assertEqual(b"", connection.send(head + BEARER + b"\r\n" + body))
        connection.loseConnection()
        waiting.callback("done")
        self.assertEqual(b"", connection.value())


class LimitTests(SiteCase):
    """Whoever sends too much, too little, or nonsense."""

    def post(self, headers: bytes, *parts: bytes) -> tuple[bytes, Connection]:
        connection = self.connect()
        return connection.send(b"POST /api/run HTTP/1.1\r\n" + BEARER + headers + b"\r\n", *parts), connection

    def test_a_long_body(self) -> None:
        """It is refused at its announcement, or where it goes past the limit; a byte less is read."""
        long = MOST_BODY_BYTES + 1
        answer, connection = self.post(b"Content-Length: %d\r\n" % long)
        self.assertEqual((True, False), (answer.startswith(b"HTTP/1.1 413"), bool(connection.connected)))
        piece = b"%x\r\n" % 40000 + b"x" * 40000 + b"\r\n"
        answer, connection = self.post(b"Transfer-Encoding: chunked\r\n", piece + piece + b"0\r\n\r\n")
        self.assertEqual((1, False), (answer.count(b"HTTP/1.1 "), bool(connection.connected)))
        self.assertIn(b"413", answer)
        answer, _ = self.post(b"Content-Length: %d\r\n" % MOST_BODY_BYTES, b"x" * MOST_BODY_BYTES)
        self.assertIn(b"HTTP/1.1 415", answer)

    def test_long_headers(self) -> None:
        """Too many, too long, or a line without end."""
        for headers in (b"A: b\r\n" * (MOST_HEADERS + 1), b"A: " + b"x" * 20000 + b"\r\n", b"x" * 40000):
            connection = self.connect()
            answer = connection.send(b"GET / HTTP/1.1\r\n" + HOST, headers, b"\r\n")
            self.assertNotIn(b"200", answer[:20])
            self.assertFalse(connection.connected)

    def test_nonsense(self) -> None:
        """What is no HTTP ends the connection; what is odd HTTP gets an answer."""
        for data in (
            b"\x16\x03\x01\x00\xff\r\n\r\n",
            b"hello\r\n\r\n",
            b"GET / HTTP/9.9\r\nno colon\r\n\r\n",
            b"\0" * 30000,
        ):
            connection = self.connect()
            connection.send(data)
            self.assertFalse(connection.connected, data[:20])
        two = b"Content-Length: 1\r\nContent-Length: 2\r\n"
        self.assertIn(b"400", self.post(two)[0])
        self.assertIn(b"400", self.get(b"/?" + b"&".join(b"a=%d" % each for each in range(100))))
        for path in (b"http://localhost/api/status", b"*", b"/%00", b"/" + b"a" * 9000):
            self.assertTrue(self.get(path).startswith(b"HTTP/1.1 404"), path[:20])
        self.assertIn(b"HTTP/1.1 400", self.get(b"/\xff\xfe"))
        self.assertTrue(self.get(b"/", HOST + b"Host: evil.example\r\n").startswith(b"HTTP/1.1 421"))

    def test_a_trickle(self) -> None:
        """A byte now and then puts nothing off: the request is to be whole in time."""
        connection = self.connect()
        for byte in b"GET / HTTP/1.1\r\n" + b"x" * 20:
            connection.send(bytes([byte]))
            self.clock.advance(1)
        self.assertFalse(connection.connected)
        self.assertGreaterEqual(self.clock.seconds(), REQUEST_SECONDS)

    def test_idle(self) -> None:
        """A connection that is not used is closed, before its first request and after one; not while it is answered."""
        fresh, used, waits = self.connect(), self.connect(), self.connect()
        used.send(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
        waits.send(b"GET /api/stream HTTP/1.1\r\n" + BEARER + b"\r\n")
        self.clock.pump([1.0] * int(REQUEST_SECONDS + 1))
        self.assertEqual([False, False, True], [bool(each.connected) for each in (fresh, used, waits)])

    def test_who_does_not_take_the_answer(self) -> None:
        """A connection that cannot be closed in order is cut."""
        connection = self.connect()
        connection.loseConnection, close = lambda: None, connection.loseConnection  # type: ignore[method-assign]
        self.clock.advance(REQUEST_SECONDS)
        self.assertFalse(connection.aborted)
        self.clock.advance(CLOSE_SECONDS)
        self.assertTrue(connection.aborted)
        close()

    def test_many_connections(self) -> None:
        """There is a limit: one more takes the place of the one that has been idle longest, whatever it has sent of one."""
        connections = [self.connect() for _ in range(MOST_CONNECTIONS)]
        connections[0].send(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
        connections[1].send(b"GET / HTTP/1.1\r\n")
        last = self.connect()
        self.assertEqual(1, len([each for each in connections if each.aborted]))
        self.assertTrue(connections[1].aborted)
        self.assertIn(b"HTTP/1.1 200", last.send(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"))

    def test_many_busy_connections(self) -> None:
        """Those on which something is answered stay, and one more is turned away; there is room when one is gone."""
        self.monitor.restart = lambda mode, asked_by: Deferred()
        body = b'{"line": "restart clean"}'
        head = b"POST /api/run HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n" % len(
            body
        )
        connections = [self.connect() for _ in range(MOST_CONNECTIONS)]
        for connection in connections:
            connection.send(head + BEARER + b"\r\n" + body)
        self.assertTrue(self.connect().aborted)
        connections[0].loseConnection()
        self.assertFalse(self.connect().aborted)


class StreamTests(SiteCase):
    """The event stream on a connection."""

    def follow(self) -> Connection:
        connection = self.connect()
        connection.send(b"GET /api/stream HTTP/1.1\r\n" + BEARER + b"\r\n")
        return connection

    def test_followed(self) -> None:
        """It begins at once, says what it is, and goes on."""
        connection = self.follow()
        self.assertIn(b"Content-Type: text/event-stream", connection.value())
        self.assertIn(b"event: hello", connection.value())
        connection.clear()
        self.print("tree")
        self.clock.advance(0.1)
        self.assertIn(b'"text":"tree"', connection.value())

    def test_a_client_that_does_not_read(self) -> None:
        """The transport's pause reaches the stream: nothing more is written, and in the end it is cut."""
        connection = self.follow()
        producer: Any = connection.producer
        producer.pauseProducing()
        connection.clear()
        self.change(1000)
        self.clock.pump([1.0] * 59)
        self.assertEqual(b"", connection.value())
        self.clock.pump([1.0] * 3)
        self.assertTrue(connection.aborted)

    def test_a_client_that_leaves(self) -> None:
        """Nothing is left of it."""
        self.follow().loseConnection()
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_too_many(self) -> None:
        """One too many is told so, and keeps its connection."""
        for _ in range(100):
            self.follow()
        self.assertIn(b"HTTP/1.1 503", self.follow().value())


class CloseTests(SiteCase):
    """The end of the session."""

    def test_close(self) -> None:
        """Idle connections and streams end at once; an answer under way has a moment; then all is gone."""
        idle, stream, busy = self.connect(), self.connect(), self.connect()
        stream.send(b"GET /api/stream HTTP/1.1\r\n" + BEARER + b"\r\n")
        waiting: Deferred[str] = Deferred()
        self.monitor.kill_session = lambda reason, graceful: waiting
        body = b'{"line": "exit clean"}'
        head = b"POST /api/run HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n" % len(
            body
        )
        busy.send(head + BEARER + b"\r\n" + body)
        closed = self.factory.close()
        self.assertEqual([False, False, True], [bool(each.connected) for each in (idle, stream, busy)])
        self.assertTrue(stream.value().endswith(b"0\r\n\r\n"))
        self.assertNoResult(closed)
        waiting.callback("the session has ended")
        self.assertIn(b"the session has ended", busy.value())
        self.assertFalse(busy.connected)
        self.successResultOf(closed)
        self.assertEqual([], self.clock.getDelayedCalls())
        self.assertTrue(self.connect().aborted)

    def test_an_answer_that_does_not_come(self) -> None:
        """It is not waited for longer than a few seconds."""
        self.monitor.kill_session = lambda reason, graceful: Deferred()
        body = b'{"line": "exit clean"}'
        head = b"POST /api/run HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n" % len(
            body
        )
        connection = self.connect()
        connection.send(head + BEARER + b"\r\n" + body)
        closed = self.factory.close()
        self.clock.advance(CLOSE_SECONDS / 2)
        self.assertTrue(connection.aborted)
        self.successResultOf(closed)

    def test_nobody(self) -> None:
        """Without a connection it is over at once."""
        self.successResultOf(self.factory.close())
        self.assertIsInstance(self.factory.buildProtocol(None), DashboardChannel)
