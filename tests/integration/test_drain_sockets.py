"""Draining while a successor serves, on real sockets: every client is answered, and ended by a FIN, never a reset."""

from __future__ import annotations

import functools
import socket
import threading
from collections.abc import Callable
from typing import Any

from twisted.internet import ssl
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.protocols.haproxy._wrapper import HAProxyWrappingFactory
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.threadpool import ThreadPool
from twisted.web.server import Site
from twisted.web.wsgi import WSGIResource

from tests.integration.drain_clients import (
    BIG,
    TEN,
    Client,
    Given,
    SocketsTestCase,
    StubbornClient,
    reactor,
    request,
    self_signed,
)


class LastAnswerTests(SocketsTestCase):
    """The kinds of client that a drain meets while a successor serves."""

    async def test_without_a_drain_connections_are_kept(self) -> None:
        """As long as nobody drains, nothing is different: one connection, many answers."""
        client = await self.connect()
        for count in (1, 2, 3):
            client.write(request(b"/hello"))
            await client.until(
                functools.partial(lambda count: client.received.count(b"hello") == count, count)
            )
        self.assertEqual(client.last_answers(), 0)
        self.assertEqual(self.board.counters().requests_finished, 3)
        client.transport.loseConnection()
        await client.end()
        await self.gone()

    async def test_idle_connection_gets_one_more_answer(self) -> None:
        """A connection that waits for its next request is not closed: that request is answered, with a close."""
        client = await self.connect()
        client.write(request(b"/hello"))
        await client.until(lambda: client.answers() == 1)
        self.tracked.drain()
        self.clock.advance(59)  # a second later the site's own timeout for who sends nothing would end it
        client.write(request(b"/hello"))
        await client.end()
        self.assertEqual((client.answers(), client.last_answers()), (2, 1))
        self.assertTrue(client.received.endswith(b"hello"))
        await self.gone()

    async def test_fresh_connection_gets_an_answer(self) -> None:
        """A connection that was made and never used may send its first request during the drain."""
        client = await self.connect()
        self.tracked.drain()
        client.write(request(b"/hello"))
        await client.end()
        self.assertEqual((client.answers(), client.last_answers()), (1, 1))
        await self.gone()

    async def test_connection_made_during_the_drain_gets_an_answer(self) -> None:
        """One that was accepted a moment too late is served like the others."""
        self.tracked.drain()
        client = await self.connect()
        client.write(request(b"/hello"))
        await client.end()
        self.assertEqual((client.answers(), client.last_answers()), (1, 1))
        await self.gone()

    async def test_half_a_request_line(self) -> None:
        """A client that was in the middle of its request line goes on, and is answered."""
        client = await self.connect()
        head = request(b"/hello")
        client.write(head[:7])
        await self.turn_until(lambda: not self.is_waiting())
        self.tracked.drain()
        client.write(head[7:])
        await client.end()
        self.assertEqual((client.answers(), client.last_answers()), (1, 1))
        await self.gone()

    async def test_half_a_body(self) -> None:
        """An upload that was under way is read to its end, and answered; it is on the board meanwhile."""
        client = await self.connect()
        client.write(request(b"/hello", b"POST", b"Content-Length: 10") + TEN[:5])
        await self.turn_until(lambda: self.tracked.in_flight == 1)
        self.tracked.drain()
        self.assertEqual([(r.method, r.path) for r in self.board.in_flight(0)], [("POST", "/hello")])
        client.write(TEN[5:])
        await client.end()
        self.assertTrue(client.received.endswith(b"got " + TEN))
        self.assertEqual(client.last_answers(), 1)
        await self.gone()

    async def test_chunked_body(self) -> None:
        """The same for a body in chunks."""
        client = await self.connect()
        client.write(request(b"/hello", b"POST", b"Transfer-Encoding: chunked") + b"5\r\n01234\r\n")
        await self.turn_until(lambda: self.tracked.in_flight == 1)
        self.tracked.drain()
        client.write(b"5\r\n56789\r\n0\r\n\r\n")
        await client.end()
        self.assertTrue(client.received.endswith(b"got " + TEN))
        self.assertEqual(client.last_answers(), 1)
        await self.gone()

    async def test_expect_continue(self) -> None:
        """A client that asks before it sends its body is told to go on, and answered."""
        client = await self.connect()
        self.tracked.drain()
        client.write(request(b"/hello", b"POST", b"Content-Length: 10", b"Expect: 100-continue"))
        await client.until(lambda: b"100 Continue" in client.received)
        client.write(TEN)
        await client.end()
        self.assertTrue(client.received.endswith(b"got " + TEN))
        await self.gone()

    async def test_slow_answer(self) -> None:
        """An answer that takes its time is given all of it, and is the last one."""
        client = await self.connect()
        client.write(request(b"/slow"))
        await self.turn_until(lambda: len(self.slow.waiting) == 1)
        self.tracked.drain()
        self.clock.advance(60)
        self.assertEqual([r.path for r in self.board.in_flight(0)], ["/slow"])
        self.slow.answer()
        await client.end()
        self.assertIn(b"slow", client.received)
        self.assertEqual(client.last_answers(), 1)
        await self.gone()

    async def test_answer_that_had_begun(self) -> None:
        """One whose head went out before the drain cannot say close: the connection gets one more answer."""
        client = await self.connect()
        client.write(request(b"/slow"))
        await self.turn_until(lambda: len(self.slow.waiting) == 1)
        self.slow.waiting[0].write(b"begun ")
        self.tracked.drain()
        self.slow.answer()
        await client.until(lambda: client.received.endswith(b"0\r\n\r\n"))
        client.write(request(b"/hello"))
        await client.end()
        self.assertEqual((client.answers(), client.last_answers()), (2, 1))
        await self.gone()

    async def test_accepted_and_not_read_yet(self) -> None:
        """A request that was in the socket when the drain began, unread, is answered."""
        peer, ours = socket.socketpair()
        with peer, ours:
            ours.setblocking(False)
            peer.sendall(request(b"/hello"))
            reactor.adoptStreamConnection(ours.fileno(), socket.AF_UNIX, self.tracked.factory)
        self.tracked.close_idle()
        await self.gone()
        self.assertEqual(self.board.counters().requests_finished, 1)

    async def test_http_1_0(self) -> None:
        """An HTTP/1.0 client is answered and sees a FIN, even when it has sent more than it should."""
        client = await self.connect()
        self.tracked.drain()
        client.write(request(b"/hello", version=b"HTTP/1.0") + b"\r\n\r\n")
        await client.end()
        self.assertTrue(client.received.endswith(b"hello"))
        await self.gone()

    async def test_head(self) -> None:
        """The answer to HEAD has no body, and is the last one as well."""
        client = await self.connect()
        self.tracked.drain()
        client.write(request(b"/hello", b"HEAD"))
        await client.end()
        self.assertEqual((client.answers(), client.last_answers()), (1, 1))
        self.assertTrue(client.received.endswith(b"\r\n\r\n"))
        await self.gone()

    async def test_client_that_asks_for_the_close_itself(self) -> None:
        """Its answer says close once, not twice."""
        client = await self.connect()
        self.tracked.drain()
        client.write(request(b"/hello", b"GET", b"Connection: close"))
        await client.end()
        self.assertEqual((client.answers(), client.last_answers()), (1, 1))
        await self.gone()

    async def test_wsgi_thread(self) -> None:
        """A request that a thread is at is answered from that thread."""
        go, seen = threading.Event(), threading.Event()

        def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
            seen.set()
            go.wait(10)
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [b"from a thread"]

        pool = ThreadPool(0, 1)
        pool.start()
        self.addCleanup(pool.stop)
        self.addCleanup(go.set)
        self.root.putChild(b"wsgi", WSGIResource(reactor, pool, application))
        client = await self.connect()
        client.write(request(b"/wsgi"))
        await self.turn_until(seen.is_set)
        self.tracked.drain()
        go.set()
        await client.end()
        self.assertIn(b"from a thread", client.received)
        self.assertEqual(client.last_answers(), 1)
        await self.gone()

    async def test_proxy_protocol(self) -> None:
        """A site behind a wrapping factory is drained as well."""
        site = Site(self.root)
        site.noisy = False
        self.tracked = self.serve(HAProxyWrappingFactory(site))
        client = await self.connect()
        client.write(b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 80\r\n" + request(b"/hello"))
        await client.until(lambda: client.answers() == 1)
        self.tracked.drain()
        client.write(request(b"/hello"))
        await client.end()
        self.assertEqual((client.answers(), client.last_answers()), (2, 1))
        await self.gone()

    async def test_tls(self) -> None:
        """Over TLS, which has a closing handshake of its own, the last answer is complete and says close, too."""
        site = Site(self.root)
        site.noisy = False
        options = ssl.PrivateCertificate.loadPEM(self_signed()).options()
        self.tracked = self.serve(TLSMemoryBIOFactory(options, False, site))
        client = Client()
        wrapper = TLSMemoryBIOFactory(ssl.CertificateOptions(), True, Given(client))
        wrapper.noisy = False
        await TCP4ClientEndpoint(reactor, "127.0.0.1", self.port.getHost().port).connect(wrapper)
        client.write(request(b"/big"))
        await client.until(lambda: len(client.received) > BIG)
        self.tracked.drain()
        client.write(request(b"/big"))
        await client.end()
        self.assertEqual((client.answers(), client.last_answers()), (2, 1))
        self.assertGreater(len(client.received), 2 * BIG)
        await self.gone()


class PipeliningTests(SocketsTestCase):
    """Clients that send on before they are answered."""

    async def test_pipelined(self) -> None:
        """Of requests that came in one piece each is answered, and only the last answer says close."""
        client = await self.connect()
        self.tracked.drain()
        client.write(request(b"/hello") * 3)
        await client.end()
        self.assertEqual((client.answers(), client.last_answers()), (3, 1))
        self.assertTrue(client.received.endswith(b"hello"))
        await self.gone()

    async def test_pipelined_behind_a_body(self) -> None:
        """A request that came in one piece with the body before it is answered, too."""
        client = await self.connect()
        self.tracked.drain()
        post = request(b"/hello", b"POST", b"Content-Length: 10") + TEN
        client.write(post + post + request(b"/hello"))
        await client.end()
        self.assertEqual((client.answers(), client.last_answers()), (3, 1))
        await self.gone()

    async def test_pipelined_during_the_drain(self) -> None:
        """A request that is sent on behind a slow one, before its answer begins, is answered."""
        client = await self.connect()
        client.write(request(b"/slow"))
        await self.turn_until(lambda: len(self.slow.waiting) == 1)
        self.tracked.drain()
        client.write(request(b"/hello"))
        await self.turn_until(self.has_sent_on)
        self.slow.answer()
        await client.end()
        self.assertEqual((client.answers(), client.last_answers()), (2, 1))
        await self.gone()

    async def test_pipelined_and_not_read_yet(self) -> None:
        """A request that waits in the kernel, when the answer before it begins, is seen there."""
        client = await self.connect()
        client.write(request(b"/slow"))
        await self.turn_until(lambda: len(self.slow.waiting) == 1)
        self.tracked.drain()
        client.transport.socket.sendall(request(b"/hello"))  # and no turn of the reactor behind it
        self.slow.answer()
        await client.end()
        self.assertEqual((client.answers(), client.last_answers()), (2, 1))
        await self.gone()

    async def test_half_a_request_behind_another(self) -> None:
        """A client that had begun its next request may end it."""
        client = await self.connect()
        self.tracked.drain()
        head = request(b"/hello")
        client.write(head + head[:9])
        await client.until(lambda: client.answers() == 1)
        client.write(head[9:])
        await client.end()
        self.assertEqual((client.answers(), client.last_answers()), (2, 1))
        await self.gone()

    async def test_sending_on_after_the_last_answer(self) -> None:
        """A client that sends on although it was told of the close loses nothing of its answer, and sees a FIN."""
        client = StubbornClient()
        await self.connect(client)
        self.tracked.drain()
        client.write(request(b"/big"))
        await client.until(lambda: b"Connection: close" in client.received)
        client.write(request(b"/hello") * 100)
        await client.until(lambda: client.finished)
        client.write(request(b"/hello") * 100)
        self.assertEqual(len(client.received.partition(b"\r\n\r\n")[2]), BIG)
        self.assertEqual(client.answers(), 1)
        client.transport.loseWriteConnection()
        await self.gone()
        self.assertEqual(client.transport.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), 0)
        client.transport.loseConnection()
        await client.end()

    async def test_sending_far_too_much_behind_the_last_answer(self) -> None:
        """So much that the server had stopped reading: it reads on for the client's FIN, which ends the connection."""
        client = await self.connect()
        client.write(request(b"/slow"))
        await self.turn_until(lambda: len(self.slow.waiting) == 1)
        self.tracked.drain()
        slow = self.slow.waiting[0]
        slow.write(b"begun ")
        await client.until(lambda: b"Connection: close" in client.received)
        client.write(request(b"/hello") * 1000)
        await self.turn_until(lambda: slow.channel.transport not in reactor.getReaders())
        client.transport.pauseProducing()
        slow.write(b"x" * BIG)
        self.slow.answer()
        client.transport.resumeProducing()
        await client.end()
        self.assertGreater(len(client.received), BIG)
        await self.gone()
