"""What probes and Prometheus are answered, and what becomes of those who send anything else."""

from __future__ import annotations

import socket
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from serverworker.surfaces import health_port
from serverworker.surfaces.health import Answer, HealthAnswers
from serverworker.surfaces.health_port import HealthPort
from serverworker.testing import FakeSession
from serverworker.values.settings import DrainSettings, Settings, WorkersSettings
from serverworker.values.state import Policy, SessionState

FINE = b"HTTP/1.1 200 OK\r\n"


class StuckMonitor:
    """As no session of ours should ever be."""

    state = SessionState(policy=Policy())

    def seconds(self) -> float:
        return 1000.0


class AnswersTests(SynchronousTestCase):
    """`HealthAnswers`."""

    def setUp(self) -> None:
        settings = Settings(workers=WorkersSettings(standby=0), drain=DrainSettings(unready_seconds=5.0))
        self.session = FakeSession(settings=settings, application=lambda worker: None)
        self.addCleanup(self.session.close)
        self.answers = HealthAnswers(self.session.monitor, self.metrics)
        self.error: Exception | None = None

    def metrics(self) -> tuple[str, bytes]:
        if self.error is not None:
            raise self.error
        return "text/plain; version=0.0.4", b"up 1\n"

    def status(self, path: str, method: str = "GET") -> int:
        return self.answers.answer(method, path).status

    def body(self, path: str, method: str = "GET") -> str:
        return self.answers.answer(method, path).body.decode()

    def test_life(self) -> None:
        """Ready while a worker serves: not before, not without one, not from when the end is decided on."""
        self.assertEqual((self.status("/livez"), self.status("/readyz")), (200, 503))
        self.session.start()
        self.assertEqual((self.body("/livez"), self.body("/readyz")), ("live\n", "ready\n"))
        self.session.spawner.error = OSError("no memory")
        self.session.process.end(by_signal=9)
        self.session.reactor.turn()
        self.assertEqual((self.status("/livez"), self.status("/readyz")), (200, 503))
        self.assertEqual(self.body("/readyz"), "not ready: no worker serves\n")
        self.session.spawner.error = None
        self.session.reactor.pass_seconds(60)
        self.assertEqual(self.status("/readyz"), 200)
        self.session.monitor.kill_session("enough")
        self.session.reactor.pass_seconds(1)
        self.assertEqual(self.body("/readyz"), "not ready: the session ends\n")
        self.assertEqual(self.status("/livez"), 200)

    def test_not_live(self) -> None:
        """A session in which nobody serves and nothing is to come is not live."""
        stuck: Any = StuckMonitor()
        answer = HealthAnswers(stuck, self.metrics).answer("GET", "/livez")
        self.assertEqual(answer.status, 503)

    def test_metrics(self) -> None:
        """As they are told; without the package it is said what to install, and probes are answered all the same."""
        answer = self.answers.answer("GET", "/metrics")
        self.assertEqual(answer, Answer(status=200, body=b"up 1\n", content_type="text/plain; version=0.0.4"))
        self.error = ImportError("no prometheus_client")
        self.assertEqual(self.status("/metrics"), 501)
        self.assertIn("pip install 'serverworker[metrics]'", self.body("/metrics"))
        self.assertEqual(self.status("/livez"), 200)

    def test_fault(self) -> None:
        """A fault of ours is a 500 without its text; it is logged once, however often somebody asks."""
        self.error = OSError("a secret path")
        answers = [self.body("/metrics") for _ in range(3)]
        self.assertEqual(set(answers), {"the monitor has a fault of its own; its log tells it\n"})
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)
        self.assertEqual(self.status("/livez"), 200)

    def test_nothing_else(self) -> None:
        """Other paths are not there, whatever the method; other methods are not allowed."""
        for path in (
            "/",
            "",
            "/livez/",
            "/LIVEZ",
            "//livez",
            "/livez/../metrics",
            "/crashes",
            "*",
            "http://x/livez",
        ):
            self.assertEqual(self.status(path), 404, path)
        self.assertEqual(self.status("/status", "POST"), 404)
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE", "get", "GETS", ""):
            self.assertEqual(self.status("/livez", method), 405, method)
        self.assertEqual(self.status("/livez", "HEAD"), 200)

    def test_nothing_for_strangers(self) -> None:
        """Probes' answers name no process, path or version."""
        self.session.start()
        told = "".join(self.body(path) for path in ("/livez", "/readyz", "/nothing"))
        self.assertEqual(told, "live\nready\nthere is /livez, /readyz and /metrics\n")


class Transport(StringTransport):
    """One that knows whether it was aborted."""

    def __init__(self) -> None:
        super().__init__()
        self.lost: list[Any] = []

    def abortConnection(self) -> None:
        self.aborting = True
        self.disconnecting = True


class Answers:
    """Says what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def answer(self, method: str, path: str) -> Answer:
        self.asked.append((method, path))
        return Answer(status=405 if method == "POST" else 200, body=b"fine\n")


class PortTests(SynchronousTestCase):
    """`HealthPort`, without sockets."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.answers = Answers()
        self.bound = socket.socket()
        self.addCleanup(self.bound.close)
        answers: Any = self.answers
        self.port = HealthPort(self.clock, self.bound, answers)

    def connect(self) -> tuple[Any, Transport]:
        channel: Any = self.port.buildProtocol(None)
        transport = Transport()
        channel.makeConnection(transport)
        return channel, transport

    def send(self, *parts: bytes) -> tuple[bytes, Transport]:
        """What is answered to bytes that come in these parts, on one connection."""
        channel, transport = self.connect()
        for part in parts:
            if not transport.disconnecting:
                channel.dataReceived(part)
        told = transport.value()
        channel.connectionLost()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        return told, transport

    def test_get(self) -> None:
        """One answer, with its length, and the connection is closed: nothing says what answers here."""
        told, transport = self.send(b"GET /livez?verbose=1 HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertEqual(
            told,
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 5\r\n"
            b"Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\nfine\n",
        )
        self.assertTrue(transport.disconnecting)
        self.assertEqual(self.answers.asked, [("GET", "/livez")])

    def test_head(self) -> None:
        """The same, without the body."""
        told, _ = self.send(b"HEAD /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertIn(b"Content-Length: 5\r\n", told)
        self.assertTrue(told.endswith(b"\r\n\r\n"))

    def test_old_client(self) -> None:
        """HTTP/1.0, as simple probes speak it, is as good."""
        told, _ = self.send(b"GET /livez HTTP/1.0\r\n\r\n")
        self.assertTrue(told.endswith(b"\r\n\r\nfine\n"), told)

    def test_methods_allowed(self) -> None:
        """Where a method is not allowed, those that are stand in the answer."""
        told, _ = self.send(b"POST /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertIn(b"405 Method Not Allowed\r\n", told)
        self.assertIn(b"Allow: GET, HEAD\r\n", told)

    def test_in_pieces(self) -> None:
        """However the bytes come, it is one request."""
        request = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
        told, _ = self.send(*(request[at : at + 1] for at in range(len(request))))
        self.assertTrue(told.startswith(FINE), told)

    def test_pipelined(self) -> None:
        """One answer on each connection: thousands of requests at once are not thousands of answers in memory."""
        told, _ = self.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 2000)
        self.assertEqual((told.count(FINE), len(self.answers.asked)), (1, 1))

    def test_body(self) -> None:
        """A request with a body is refused before any of it is kept, `Expect: 100-continue` or not."""
        for header in (b"Content-Length: 3", b"Content-Length: 999999999999", b"Transfer-Encoding: chunked"):
            for expect in (b"", b"Expect: 100-continue\r\n"):
                head = b"GET /livez HTTP/1.1\r\nHost: x\r\n" + expect + header + b"\r\n\r\n"
                told, transport = self.send(head + b"abc", b"x" * 10_000)
                self.assertTrue(told.startswith(b"HTTP/1.1 413 Content Too Large\r\n"), told)
                self.assertTrue(transport.disconnecting)
        self.assertEqual(self.answers.asked, [])

    def test_large_heads(self) -> None:
        """Long lines, many headers and large heads are cut off."""
        start = b"GET /livez HTTP/1.1\r\n"
        for head in (
            b"GET /" + b"x" * 20_000,
            start + b"X: " + b"x" * 20_000,
            start + b"".join(b"X-%d: x\r\n" % number for number in range(60)) + b"\r\n",
            start + b"".join(b"X-%d: %b\r\n" % (number, b"x" * 1000) for number in range(10)) + b"\r\n",
            start + b" folded\r\n" * 2000 + b"\r\n",
        ):
            told, transport = self.send(head)
            self.assertNotIn(FINE, told)
            self.assertTrue(transport.disconnecting, head[:40])
        self.assertEqual(self.answers.asked, [])

    def test_slow(self) -> None:
        """Ten seconds are all that anybody has, however busily it sends a byte now and then."""
        channel, transport = self.connect()
        for byte in b"GET /livez HTTP/1.1\r\nX: ":
            channel.dataReceived(bytes([byte]))
            self.clock.advance(0.4)
        self.assertFalse(transport.disconnecting)
        self.clock.advance(1)
        self.assertTrue(transport.disconnecting)

    def test_does_not_read(self) -> None:
        """Nor may it leave its answer unread for longer."""
        channel, transport = self.connect()
        channel.dataReceived(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertFalse(getattr(transport, "aborting", False))
        self.clock.advance(10)
        self.assertTrue(getattr(transport, "aborting", False))

    def test_many(self) -> None:
        """Of more than a hundred the oldest is closed, so that a probe gets in; and is counted no more."""
        self.patch(health_port, "MOST_CONNECTIONS", 3)
        connected = [self.connect()[1] for _ in range(5)]
        self.assertEqual([each.disconnecting for each in connected], [True, True, False, False, False])
        told, _ = self.connect()[0], None
        self.assertEqual(len(self.port._channels), 3)
        told.dataReceived(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertTrue(told.transport.value().startswith(FINE))

    def test_never_started(self) -> None:
        """To close what never listened is no error."""
        self.port.close()

    @given(
        st.lists(
            st.sampled_from(
                [
                    *(
                        b"GET ",
                        b"POST ",
                        b"/livez",
                        b"/metrics",
                        b" HTTP/1.1",
                        b" HTTP/1.0",
                        b"\r\n",
                        b"\n",
                        b"\r",
                    ),
                    *(b"Content-Length: 5", b"Content-Length: -1", b"Transfer-Encoding: chunked", b"Host: x"),
                    *(
                        b": ",
                        b" ",
                        b"\0",
                        b"\xff\xfe",
                        b"5\r\nhello\r\n",
                        b"0\r\n\r\n",
                        b"Expect: 100-continue",
                    ),
                    *(
                        b"Cookie: a=b; ;=",
                        b"Connection: upgrade",
                        b"Upgrade: h2c",
                        b"x" * 9000,
                        b"PRI * HTTP/2.0",
                    ),
                ]
            )
            | st.binary(max_size=40),
            max_size=30,
        ),
        st.booleans(),
    )
    @settings(max_examples=300, deadline=None)
    def test_garbage(self, parts: list[bytes], at_once: bool) -> None:
        """Whatever comes: no exception, at most one answer, and the next one is answered as always."""
        told, _ = self.send(b"".join(parts)) if at_once else self.send(*parts)
        self.assertLessEqual(told.count(b"HTTP/1.1 200"), 1)
        self.assertTrue(told == b"" or told.startswith(b"HTTP/1."), told)
        self.assertEqual(self.flushLoggedErrors(), [])
        self.assertTrue(self.send(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")[0].startswith(FINE))
