"""The end of a session, and of the drain's time, on real sockets."""

from __future__ import annotations

import socket

from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater

from serverworker.processes.drain import IDLE_SECONDS
from serverworker.processes.http_channel import LINGER_SECONDS
from tests.integration.drain_clients import (
    BIG,
    TEN,
    Client,
    Given,
    Lines,
    SocketsTestCase,
    StubbornClient,
    reactor,
    request,
)


class SessionEndTests(SocketsTestCase):
    """Idle connections at the end of the session, and what the deadline ends."""

    async def test_idle_connections_are_closed(self) -> None:
        """With no successor to answer, idle and unused connections see a FIN, after a moment's grace."""
        used, unused = await self.connect(), await self.connect()
        used.write(request(b"/hello"))
        await used.until(lambda: used.answers() == 1)
        self.tracked.close_idle()
        self.clock.advance(IDLE_SECONDS)
        await used.end()
        await unused.end()
        await self.gone()

    async def test_request_during_the_grace_is_answered(self) -> None:
        """A request that was on its way when the session's end began is answered, not cut off."""
        client = await self.connect()
        self.tracked.close_idle()
        client.write(request(b"/hello"))
        await client.end()
        self.assertEqual((client.answers(), client.last_answers()), (1, 1))
        await self.gone()

    async def test_request_that_is_in_the_kernel_is_answered(self) -> None:
        """Even one that came in the very moment in which its connection would have been closed."""
        client = await self.connect()
        self.tracked.close_idle()
        client.transport.socket.sendall(request(b"/hello"))
        self.clock.advance(IDLE_SECONDS)
        await client.end()
        self.assertEqual(client.answers(), 1)
        await self.gone()

    async def test_busy_and_half_sent_are_left_alone(self) -> None:
        """Only what waits is closed: a half-sent request and a slow answer have their time."""
        half, slow = await self.connect(), await self.connect()
        half.write(request(b"/hello")[:20])
        slow.write(request(b"/slow"))
        await self.turn_until(lambda: len(self.slow.waiting) == 1)
        self.tracked.close_idle()
        self.clock.pump([IDLE_SECONDS] * 10)
        half.write(request(b"/hello")[20:])
        await half.end()
        self.clock.pump([IDLE_SECONDS] * 10)
        self.slow.answer()
        await slow.end()
        self.assertEqual((half.answers(), slow.answers()), (1, 1))
        await self.gone()

    async def test_idle_after_an_answer_that_had_begun(self) -> None:
        """A connection that becomes idle later, since its answer could not say close any more, is closed then."""
        client = await self.connect()
        client.write(request(b"/slow"))
        await self.turn_until(lambda: len(self.slow.waiting) == 1)
        self.slow.waiting[0].write(b"begun ")
        self.tracked.close_idle()
        self.clock.pump([IDLE_SECONDS] * 3)
        self.slow.answer()
        await client.until(lambda: client.received.endswith(b"0\r\n\r\n"))
        self.clock.pump([IDLE_SECONDS] * 2)
        await client.end()
        await self.gone()

    async def test_event_stream_ends_by_fin_at_the_deadline(self) -> None:
        """A stream goes on during the drain; the deadline ends it, after all that was written, and not by a reset."""
        client = await self.connect()
        client.write(request(b"/stream"))
        await client.until(lambda: b"data: 1" in client.received)
        self.tracked.close_idle()
        self.clock.pump([IDLE_SECONDS] * 30)
        self.assertEqual(self.tracked.in_flight, 1)
        self.tracked.abort()
        await client.end()
        self.assertFalse(client.received.endswith(b"0\r\n\r\n"), "the answer must not look complete")
        await self.gone()

    async def test_half_sent_request_is_closed_at_the_deadline(self) -> None:
        """A client that never ends its request is closed when the time is up."""
        client = await self.connect()
        client.write(request(b"/hello", b"POST", b"Content-Length: 10") + TEN[:5])
        await self.turn_until(lambda: self.tracked.in_flight == 1)
        self.tracked.drain()
        self.tracked.abort()
        await client.end()
        await self.gone()

    async def test_client_that_does_not_read_is_reset_at_the_deadline(self) -> None:
        """What cannot be written to a client within a second of the deadline is given up."""
        client = await self.connect()
        client.transport.pauseProducing()
        client.write(request(b"/big"))
        await self.turn_until(lambda: self.board.counters().requests_finished == 1)
        self.tracked.drain()
        self.tracked.abort()
        await deferLater(reactor, 0)
        self.assertEqual(self.tracked.open_connections, 1)
        self.clock.advance(1)
        await self.gone()
        client.transport.abortConnection()
        await client.until(lambda: client.ended is not None)

    async def test_upgraded_connection(self) -> None:
        """A connection that was handed over to another protocol counts to its end, and ends at the deadline."""
        client = await self.connect()
        client.write(request(b"/upgrade"))
        await client.until(lambda: b"101 Switching" in client.received)
        self.tracked.close_idle()
        self.clock.pump([IDLE_SECONDS] * 10)
        client.write(b"still there?")
        await client.until(lambda: b"still there?" in client.received)
        self.assertEqual(self.tracked.open_connections, 1)
        self.tracked.abort()
        await client.end()
        await self.gone()

    async def test_upgraded_connection_that_ends_by_itself(self) -> None:
        """Its end is seen, although the channel that it began with never hears of it."""
        client = await self.connect()
        client.write(request(b"/upgrade"))
        await client.until(lambda: b"101 Switching" in client.received)
        client.transport.loseConnection()
        await client.end()
        await self.gone()


class OtherProtocolTests(SocketsTestCase):
    """A factory that does not speak HTTP."""

    def setUp(self) -> None:
        super().setUp()
        factory = Factory.forProtocol(Lines)
        factory.noisy = False
        self.tracked = self.serve(factory)

    async def test_goes_on_during_the_drain(self) -> None:
        """It is counted, and served as before: nobody knows when such a connection has nothing to do."""
        client = await self.connect()
        self.tracked.close_idle()
        self.clock.pump([IDLE_SECONDS] * 10)
        client.write(b"hello\r\n")
        await client.until(lambda: b"you said hello" in client.received)
        self.assertEqual(self.board.counters().open_connections, 1)
        client.transport.loseConnection()
        await self.gone()

    async def test_is_closed_at_the_deadline(self) -> None:
        """The deadline ends it with a FIN."""
        client = await self.connect()
        self.tracked.abort()
        await client.end()
        await self.gone()


class HeartbeatTests(SocketsTestCase):
    """The worker's own polls, through the same site."""

    async def test_heartbeat_is_neither_counted_nor_drained(self) -> None:
        """It holds up no drain and is served during one; its request is on the board, in case it hangs."""
        peer, ours = socket.socketpair()
        with peer, ours:
            ours.setblocking(False)
            peer.setblocking(False)
            client = Client()
            reactor.adoptStreamConnection(ours.fileno(), socket.AF_UNIX, self.tracked.untracked_factory)
            reactor.adoptStreamConnection(peer.fileno(), socket.AF_UNIX, Given(client))
        self.tracked.close_idle()
        self.clock.pump([IDLE_SECONDS] * 3)
        client.write(request(b"/slow"))
        await self.turn_until(lambda: len(self.slow.waiting) == 1)
        self.assertEqual([r.path for r in self.board.in_flight(0)], ["/slow"])
        self.assertEqual((self.tracked.open_connections, self.tracked.in_flight), (0, 0))
        self.successResultOf(self.tracked.when_idle())
        self.slow.answer()
        await client.until(lambda: client.answers() == 1)
        self.assertEqual(client.last_answers(), 0)
        client.write(request(b"/slow"))
        await self.turn_until(lambda: len(self.slow.waiting) == 1)
        client.transport.loseConnection()
        await self.turn_until(lambda: self.board.in_flight(0) == ())
        await self.gone()


class LastBytesTests(SocketsTestCase):
    """Clients that take their time after, or over, their last answer."""

    async def test_big_answer_to_a_slow_reader(self) -> None:
        """Three megabytes to a client that does not read are kept until it does, however long that takes."""
        client = await self.connect()
        client.transport.pauseProducing()
        client.write(request(b"/big"))
        self.tracked.drain()
        await self.turn_until(lambda: self.board.counters().requests_finished == 1)
        self.clock.advance(60)
        self.assertEqual(self.tracked.open_connections, 1)
        client.transport.resumeProducing()
        await client.end()
        self.assertEqual(len(client.received.partition(b"\r\n\r\n")[2]), BIG)
        await self.gone()

    async def test_client_that_never_closes(self) -> None:
        """After its last answer a client has two seconds to close its half; then the server closes the rest."""
        client = StubbornClient()
        await self.connect(client)
        self.tracked.drain()
        client.write(request(b"/hello"))
        await client.until(lambda: client.finished)
        self.clock.advance(LINGER_SECONDS - 0.1)
        self.assertEqual(self.tracked.open_connections, 1)
        self.clock.advance(0.1)
        await self.gone()
        client.transport.loseConnection()
        await client.end()
