"""HTTP connections on the board and in a drain: whose channel it is, what an answer says, and what is never lost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import TestCase
from twisted.web.http import HTTPChannel, HTTPFactory, Request, _GenericHTTPChannelProtocol
from twisted.web.server import Site

from serverworker.processes.http_channel import LINGER_SECONDS
from tests.unit.drain_wires import GET, DrainTestCase, Wire


class OwnChannelTests(DrainTestCase):
    """Applications that have an HTTPChannel of their own."""

    def test_own_channel_keeps_its_names_and_methods(self) -> None:
        """Its methods run, whatever they are called, and its requests are on the board and drained."""
        calls: list[str] = []
        paths = self.paths

        class Own(HTTPChannel):
            ticket = drain = release = _rules = "mine"

            def allHeadersReceived(self) -> None:
                calls.append(f"headers {paths()}")
                super().allHeadersReceived()

            def requestDone(self, request: Any) -> None:
                calls.append(f"done {self.drain} {self.ticket} {self.release} {self._rules}")
                super().requestDone(request)

            def writeHeaders(self, *args: Any) -> None:
                calls.append("write")
                super().writeHeaders(*args)

        site: Any = self.site
        site.protocol = Own
        wire = self.connect()
        wire.send(GET)
        self.tracked.drain()
        wire.send(GET)
        self.assertEqual(calls, ["headers ['/page']", "write", "done mine mine mine mine"] * 2)
        self.assertIsInstance(wire.protocol._original, Own)
        self.assertEqual(type(wire.protocol._original).__name__, "Own")
        self.assertEqual(wire.value().count(b"Connection: close"), 1)
        self.assertEqual(self.board.counters().requests_finished, 2)

    def test_plain_channel_as_the_sites_protocol(self) -> None:
        """A site that names HTTPChannel itself is tracked as well."""
        site: Any = self.site
        site.protocol = HTTPChannel
        wire = self.connect()
        wire.send(GET.replace(b"page", b"kept"))
        self.assertEqual(self.paths(), ["/kept"])

    def test_factory_with_a_build_protocol_of_its_own(self) -> None:
        """What it builds is tracked, and what it keeps of it stays the same object."""
        built = []

        class Own(HTTPChannel):
            pass

        class OwnSite(Site):
            def buildProtocol(self, addr: Any) -> Any:
                channel: Any = Own()
                channel.factory = channel.site = self
                channel.requestFactory = self.requestFactory
                channel.callLater = self.reactor.callLater
                channel.timeOut = None
                built.append(channel)
                return channel

        tracked = self.track(OwnSite(self.page, reactor=self.clock))
        wire = self.connect(tracked.factory)
        wire.send(GET)
        self.assertEqual(built, [wire.protocol])
        self.assertEqual(self.board.counters().requests_finished, 1)

    def test_own_channel_inside_twisteds_switch(self) -> None:
        """A channel of another class than Twisted's own is not exchanged for one of Twisted's class."""

        class Own(HTTPChannel):
            pass

        site: Any = self.site
        site.protocol = lambda: _GenericHTTPChannelProtocol(Own())
        wire = self.connect()
        wire.send(GET)
        self.assertIsInstance(wire.protocol._channel, Own)
        self.assertEqual(self.board.counters().requests_finished, 1)

    def test_http_factory_without_a_site(self) -> None:
        """A plain HTTPFactory is tracked; the request is on the board before any code of its own runs."""
        seen = []

        class Own(Request):
            def process(request) -> None:  # noqa: N805  # the test case is self
                seen.extend(self.paths())
                request.write(b"own")
                request.finish()

        factory = HTTPFactory(reactor=self.clock)
        wire = self.connect(self.track(factory).factory)
        wire.protocol.requestFactory = Own
        wire.send(GET)
        self.assertEqual(seen, ["/page"])
        self.assertEqual(self.paths(), [])


class AnswerTests(DrainTestCase):
    """What the head of an answer says during a drain."""

    def kept_request(self) -> tuple[Wire, Any]:
        wire = self.connect()
        wire.send(GET.replace(b"page", b"kept"))
        return wire, self.page.kept.pop()

    def test_only_requests_after_the_drain_began(self) -> None:
        """Before it nothing is closed; from then on the answer says close, and the writing half is closed behind it."""
        wire = self.connect()
        wire.send(GET)
        self.assertNotIn(b"close", wire.value())
        self.tracked.drain()
        self.tracked.drain()
        self.assertFalse(wire.left)
        wire.clear()
        wire.send(GET)
        self.assertIn(b"Connection: close\r\n", wire.value())
        self.assertTrue(wire.left)

    def test_connection_header_of_the_application_gives_way(self) -> None:
        """A keep-alive that the application wrote itself is replaced."""
        wire, request = self.kept_request()
        self.tracked.drain()
        request.setHeader(b"Connection", b"keep-alive")
        request.finish()
        self.assertIn(b"Connection: close\r\n", wire.value())
        self.assertNotIn(b"keep-alive", wire.value())

    def test_switching_protocols_is_no_answer(self) -> None:
        """A 101 is passed on as it is: the connection is no longer ours to close."""
        wire, request = self.kept_request()
        self.tracked.drain()
        request.setResponseCode(101)
        request.setHeader(b"Connection", b"upgrade")
        request.write(b"")
        self.assertNotIn(b"close", wire.value())
        self.assertFalse(wire.left)

    def test_heartbeat(self) -> None:
        """The worker's own connections can be told from all others; no header makes one."""
        own, other = self.connect(self.tracked.untracked_factory), self.connect()
        self.assertTrue(own.protocol._serverworker.is_heartbeat)
        self.assertFalse(other.protocol._serverworker.is_heartbeat)

    def test_headers_as_pairs(self) -> None:
        """Headers in the old form that Twisted still takes are given the close as well."""
        wire, request = self.kept_request()
        self.tracked.drain()
        request.channel.writeHeaders(b"HTTP/1.1", b"200", b"OK", [(b"X-Old", b"yes")])
        self.assertEqual(wire.value(), b"HTTP/1.1 200 OK\r\nX-Old: yes\r\nConnection: close\r\n\r\n")

    def test_connection_that_the_application_closes_itself(self) -> None:
        """Its loseConnection in the middle of an answer closes at once, drain or not."""
        wire, request = self.kept_request()
        self.tracked.drain()
        request.write(b"half")
        request.loseConnection()
        self.assertTrue(wire.disconnecting)
        self.assertFalse(wire.left)

    def test_bad_request_is_closed_at_once(self) -> None:
        """What is no HTTP is answered and closed by Twisted's own rule."""
        wire = self.connect()
        self.tracked.drain()
        wire.send(b"nonsense\r\n\r\n")
        self.assertIn(b"400 Bad Request", wire.value())
        self.assertTrue(wire.disconnecting)

    def test_one_drains_and_the_other_does_not(self) -> None:
        """The same site on two ports is drained port by port."""
        other = self.track(self.site)
        first, second = self.connect(), self.connect(other.factory)
        self.tracked.drain()
        first.send(GET)
        second.send(GET)
        self.assertTrue(first.left)
        self.assertFalse(second.left)

    def test_linger_ends_with_the_client(self) -> None:
        """The client's own FIN ends the connection before its two seconds are over, and leaves no timer."""
        wire = self.connect()
        self.tracked.drain()
        wire.send(GET)
        wire.send(b"more" * 1000)
        wire.client_closes()
        self.assertEqual(self.tracked.open_connections, 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_linger_ends_by_itself(self) -> None:
        """A client that does not close is closed after two seconds."""
        wire = self.connect()
        self.tracked.drain()
        wire.send(GET)
        self.clock.advance(LINGER_SECONDS - 0.01)
        self.assertEqual(self.tracked.open_connections, 1)
        self.clock.advance(0.01)
        self.assertEqual(self.tracked.open_connections, 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])


chunks = st.lists(st.integers(1, 30), max_size=20)


class Law(TestCase):
    @settings(deadline=None, max_examples=150)
    @given(st.integers(1, 4), chunks, st.integers(0, 20), st.booleans())
    def test_nothing_that_was_sent_is_lost(
        self, count: int, sizes: list[int], drain_at: int, at_session_end: bool
    ) -> None:
        """However requests are cut, and whenever the drain begins: each is answered, and the last one says close."""
        case = DrainTestCase("setUp")
        case.setUp()
        wire = case.connect()
        sent = 0
        for number, piece in enumerate(pieces(GET * count, sizes)):
            if number == drain_at:
                (case.tracked.close_idle if at_session_end else case.tracked.drain)()
            wire.send(piece)
            sent += len(piece)
            if wire.left:
                break
        answers = wire.value().count(b"200 OK")
        self.assertEqual(answers, sent // len(GET))
        if wire.left:
            self.assertEqual(sent % len(GET), 0)
            self.assertEqual(wire.value().rpartition(b"HTTP/1.1")[2].count(b"Connection: close"), 1)
        self.assertEqual(wire.value().count(b"Connection: close"), wire.left)
        case.doCleanups()


def pieces(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    """The data in pieces of these sizes, and the rest in one."""
    for size in sizes:
        yield data[:size]
        data = data[size:]
        if not data:
            return
    yield data
