"""One poll on a Clock and a transport in memory: what is sent, what the answers mean, when it ends."""

from __future__ import annotations

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectError, ConnectionDone, ConnectionRefusedError
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from serverworker.processes.heartbeat import PollResult
from serverworker.processes.poller import NotReached, Poller
from serverworker.values.settings import PollingSettings

HEAD = b"HTTP/1.1 %d Status\r\nContent-Length: 2\r\n%s\r\n"
OK = HEAD % (200, b"") + b"ok"


class ServerSide(StringTransport):
    """The connection of one poll, as the server sees it."""

    closed = False
    """The client has asked to close it. It hears of that in a later turn of the reactor, if at all."""
    client: IProtocol | None = None

    def loseConnection(self) -> None:
        self.closed = True

    abortConnection = loseConnection

    def end(self) -> None:
        """Lose it, and let the client know."""
        assert self.client is not None
        self.client.connectionLost(Failure(ConnectionDone()))

    def answer(self, *parts: bytes) -> None:
        """Send to the client."""
        assert self.client is not None
        for part in parts:
            self.client.dataReceived(part)


@implementer(IStreamClientEndpoint)
class Server:
    """An endpoint whose server is the test itself."""

    def __init__(self) -> None:
        self.connections: list[ServerSide] = []
        self.refusal: Exception | None = None
        self.answers = True

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        if self.refusal is not None:
            return fail(self.refusal)
        if not self.answers:
            return Deferred()
        connection = ServerSide()
        self.connections.append(connection)
        connection.client = protocolFactory.buildProtocol(connection.getPeer())
        assert connection.client is not None
        connection.client.makeConnection(connection)
        return succeed(connection.client)


class PollerTestCase(SynchronousTestCase):
    """With a server and a clock in the test's hand."""

    def setUp(self) -> None:
        self.server = Server()
        self.clock = Clock()

    def poller(self, route: str | None = None, *, enough_bytes: int = 2**20) -> Poller:
        settings = PollingSettings(route=route, timeout_seconds=5)
        return Poller(self.clock, self.server, settings, enough_bytes=enough_bytes)

    def begin(self, route: str | None = None) -> tuple[ServerSide, Deferred[PollResult]]:
        """A poll whose request has been sent."""
        polled = self.poller(route).poll()
        return self.server.connections[-1], polled

    def poll(self, *parts: bytes, route: str | None = None) -> PollResult:
        """The result of a poll that is answered with these bytes and the end of the connection."""
        connection, polled = self.begin(route)
        connection.answer(*parts)
        connection.end()
        return self.successResultOf(polled)


class RequestTests(PollerTestCase):
    """What is sent."""

    def test_asks_for_the_route(self) -> None:
        """A plain GET of the configured route, query included, on a connection of its own."""
        connection, _ = self.begin("/health?deep=1")
        lines = connection.value().split(b"\r\n")
        self.assertEqual(lines[0], b"GET /health?deep=1 HTTP/1.1")
        headers = {line.lower() for line in lines[1:]}
        self.assertIn(b"host: localhost", headers)
        self.assertIn(b"connection: close", headers)
        self.assertIn(b"user-agent: serverworker-heartbeat", headers)

    def test_asks_for_the_root_without_a_route(self) -> None:
        """An application that names no route is asked for its front page."""
        connection, _ = self.begin()
        self.assertTrue(connection.value().startswith(b"GET / HTTP/1.1\r\n"))

    def test_keeps_no_cookie(self) -> None:
        """What one answer sets is not sent with the next request: each poll is a stranger's."""
        poller = self.poller()
        for _ in range(2):
            polled = poller.poll()
            connection = self.server.connections[-1]
            connection.answer(HEAD % (200, b"Set-Cookie: session=1\r\n") + b"ok")
            self.assertTrue(self.successResultOf(polled).ok)
            self.assertNotIn(b"ookie", connection.value())

    def test_asks_no_proxy(self) -> None:
        """A proxy in the environment is for the application, not for its heartbeat."""
        self.patch(__import__("os"), "environ", {"http_proxy": "http://127.0.0.1:1", "HTTP_PROXY": "x"})
        connection, _ = self.begin()
        self.assertTrue(connection.value().startswith(b"GET / "))


class AnswerTests(PollerTestCase):
    """What an answer means."""

    def statuses(self, route: str | None) -> list[int]:
        """The good ones of all that matter."""
        asked = (200, 204, 301, 302, 304, 399, 400, 401, 404, 499, 500, 503, 599)
        good = []
        for status in asked:
            body = b"" if status in (204, 304) else b"ok"
            result = self.poll(HEAD % (status, b"") + body, route=route)
            self.assertEqual((result.text, result.status), (str(status), status))
            good += [status] if result.ok else []
        return good

    def test_without_a_route_any_answer_below_500_is_good(self) -> None:
        """A front page that wants a login, or is not there, is still an answer."""
        good = [200, 204, 301, 302, 304, 399, 400, 401, 404, 499]
        self.assertEqual(self.statuses(None), good)

    def test_with_a_route_200_to_399_is_good(self) -> None:
        """A health route that is named says no with 404 as well."""
        self.assertEqual(self.statuses("/health"), [200, 204, 301, 302, 304, 399])

    def test_follows_no_redirect(self) -> None:
        """A redirect is the answer: where it leads to is another page's health."""
        result = self.poll(HEAD % (302, b"Location: /login\r\n") + b"ok", route="/health")
        self.assertEqual((result.ok, result.status, len(self.server.connections)), (True, 302, 1))

    def test_measures_the_duration(self) -> None:
        """Head and body count, until the last byte."""
        connection, polled = self.begin()
        self.clock.advance(1)
        connection.answer(OK[:-1])
        self.clock.advance(1.5)
        connection.answer(OK[-1:])
        self.assertEqual(
            self.successResultOf(polled), PollResult(ok=True, status=200, text="200", seconds=2.5)
        )
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_body_without_a_length_ends_with_its_connection(self) -> None:
        """HTTP/1.0 has no other end."""
        self.assertTrue(self.poll(b"HTTP/1.0 200 OK\r\n\r\nhello").ok)

    def test_an_interim_answer_is_no_answer(self) -> None:
        """A 1xx is waited through."""
        self.assertEqual(self.poll(b"HTTP/1.1 100 Continue\r\n\r\n", OK).text, "200")

    def test_a_long_body_is_enough(self) -> None:
        """More than the cap is not read: the connection is closed, the status counts."""
        polled = self.poller(enough_bytes=1000).poll()
        connection = self.server.connections[-1]
        connection.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b"x" * 999)
        self.assertNoResult(polled)
        connection.answer(b"x" * 2)
        self.assertTrue(self.successResultOf(polled).ok)
        self.assertTrue(connection.closed)
        connection.answer(b"x" * 1000)
        connection.end()

    def test_a_long_body_of_a_bad_status_stays_bad(self) -> None:
        """Enough of an error page is still an error."""
        polled = self.poller(enough_bytes=10).poll()
        self.server.connections[-1].answer(b"HTTP/1.1 500 No\r\nContent-Length: 100\r\n\r\n", b"x" * 20)
        result = self.successResultOf(polled)
        self.assertEqual((result.ok, result.text), (False, "500"))


class BrokenAnswerTests(PollerTestCase):
    """What is no answer, in words for the operator."""

    def test_words(self) -> None:
        """Each way of not answering has its own text, and none of them is good."""
        for parts, status, text in (
            ([], None, "connection closed without an answer"),
            ([b"HTTP/1.1 2"], None, "half an answer"),
            ([b"HTTP/1.1 200 OK\r\nContent-"], None, "half an answer"),
            ([b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhal"], 200, "half an answer (status 200)"),
            (
                [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"],
                200,
                "half an answer (status 200)",
            ),
            (
                [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nab"],
                200,
                "half an answer (status 200)",
            ),
            ([b"SSH-2.0-OpenSSH_9\r\n"], None, "no HTTP answer: ParseError: "),
            ([b"\x00\xff\x80 x y\r\n"], None, "no HTTP answer: ParseError: "),
            ([b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"], None, "no HTTP answer: ValueError: "),
        ):
            result = self.poll(*parts)
            self.assertEqual((result.ok, result.status), (False, status), parts)
            self.assertTrue(result.text.startswith(text), (parts, result.text))

    def test_connection_refused(self) -> None:
        """Nobody listens."""
        self.server.refusal = ConnectionRefusedError()
        self.assertEqual(self.successResultOf(self.poller().poll()).text, "connection refused")

    def test_no_connection(self) -> None:
        """Whatever else keeps it from connecting is named."""
        self.server.refusal = ConnectError(string="no buffer space")
        text = self.successResultOf(self.poller().poll()).text
        self.assertTrue(text.startswith("no connection: ConnectError: "), text)
        self.assertIn("no buffer space", text)

    def test_an_endpoint_that_knows_why(self) -> None:
        """Who is polled from outside has words of its own for it."""
        self.server.refusal = NotReached("the program is stopped")
        self.assertEqual(self.successResultOf(self.poller().poll()).text, "the program is stopped")

    def test_an_endpoint_that_raises(self) -> None:
        """A poll never fails, whatever is broken."""
        self.patch(self.server, "connect", None)
        self.assertFalse(self.successResultOf(self.poller().poll()).ok)


class DeadlineTests(PollerTestCase):
    """One deadline over all of it."""

    def expect_timeout(self, polled: Deferred[PollResult], text: str) -> None:
        """It ends at 5 s since its beginning, and not before."""
        self.clock.advance(4.9 - self.clock.seconds())
        self.assertNoResult(polled)
        self.clock.advance(0.1)
        result = self.successResultOf(polled)
        self.assertEqual((result.ok, result.text), (False, text))
        self.assertAlmostEqual(result.seconds, 5)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertTrue(all(connection.closed for connection in self.server.connections))

    def test_while_connecting(self) -> None:
        """A connection that is never made."""
        self.server.answers = False
        self.expect_timeout(self.poller().poll(), "no answer within 5 s")

    def test_while_connecting_to_one_that_knows_why(self) -> None:
        """Its words stand for the deadline, too."""

        def called_off(connecting: Deferred[IProtocol]) -> None:
            connecting.errback(NotReached("the program hangs"))

        self.patch(self.server, "connect", lambda factory: Deferred(called_off))
        self.expect_timeout(self.poller().poll(), "the program hangs")

    def test_before_the_head(self) -> None:
        """A server that takes the request and keeps silent."""
        _, polled = self.begin()
        self.expect_timeout(polled, "no answer within 5 s")

    def test_in_the_head(self) -> None:
        """Half a head is not yet an answer."""
        connection, polled = self.begin()
        connection.answer(b"HTTP/1.1 200 OK\r\nContent-")
        self.expect_timeout(polled, "no answer within 5 s")

    def test_in_the_body(self) -> None:
        """A body that stalls: treq's own timeout has ended here, and would wait for ever."""
        connection, polled = self.begin()
        self.clock.advance(2)
        connection.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhal")
        self.expect_timeout(polled, "half an answer (status 200) within 5 s")

    def test_a_slow_drip(self) -> None:
        """A byte now and then does not move the deadline."""
        connection, polled = self.begin()
        connection.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n")
        for _ in range(4):
            self.clock.advance(1)
            connection.answer(b"x")
        self.expect_timeout(polled, "half an answer (status 200) within 5 s")

    def test_cancelling_closes_the_connection(self) -> None:
        """At every point of a poll; it then ends as a failure, with nothing left behind."""
        for parts in ([], [b"HTTP/1.1 200 OK\r\n"], [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhal"]):
            connection, polled = self.begin()
            connection.answer(*parts)
            polled.cancel()
            self.assertFalse(self.successResultOf(polled).ok)
            self.assertTrue(connection.closed, parts)
            connection.end()
            self.assertEqual(self.clock.getDelayedCalls(), [])
