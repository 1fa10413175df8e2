"""Tracking a factory: what the application still sees of its own, what is counted, and when it is over."""

from __future__ import annotations

import gc
import weakref
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionAborted
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from twisted.web.http import Request

from serverworker.processes.drain import ABORT_SECONDS, IDLE_SECONDS
from serverworker.processes.http_channel import LINGER_SECONDS
from tests.unit.drain_wires import ADDRESS, GET, DrainTestCase, Wire


class FactoryTests(DrainTestCase):
    """The factory that takes the place of the user's."""

    def test_start_and_stop_reach_the_factory(self) -> None:
        """The access log is opened by doStart and closed by doStop, for each of the two entrances."""
        self.tracked.factory.doStart()
        self.tracked.untracked_factory.doStart()
        self.assertEqual(self.site.numPorts, 2)
        self.tracked.factory.doStop()
        self.assertIsNotNone(self.site._logDateTimeCall)
        self.tracked.untracked_factory.doStop()
        self.assertEqual(self.site.numPorts, 0)
        self.assertIsNone(self.site._logDateTimeCall)

    def test_everything_else_is_the_factorys(self) -> None:
        """Attributes that Twisted or the application reads are those of the user's factory, its name too."""
        factory: Any = self.tracked.factory
        self.assertFalse(factory.noisy)
        self.assertIs(factory.resource, self.page)
        self.assertEqual(repr(factory), repr(self.site))
        self.assertRaises(AttributeError, getattr, factory, "no_such_thing")

    def test_refused_connection(self) -> None:
        """A factory that builds no protocol refuses the connection, as it always did."""

        class Refusing(Factory):
            def buildProtocol(self, addr: object) -> None:
                return None

        tracked = self.track(Refusing())
        self.assertIsNone(tracked.factory.buildProtocol(ADDRESS))
        self.assertEqual(tracked.open_connections, 0)

    def test_site_itself_is_left_as_it_was(self) -> None:
        """Who uses the site without us gets Twisted's own channel, and the site's attributes are its own."""
        before = dict(vars(self.site))
        self.connect()
        self.tracked.drain()
        self.assertEqual(vars(self.site), before)
        wire = self.connect(self.site)
        wire.send(GET)
        self.assertEqual(self.board.counters().requests_started, 0)
        self.assertNotIn(b"Connection: close", wire.value())

    def test_protocol_keeps_its_factory_and_its_transport(self) -> None:
        """A protocol of the user's own knows its own factory, and the reactor's transport knows it."""
        factory = Factory.forProtocol(Protocol)
        wire = self.connect(self.track(factory).factory)
        self.assertIs(wire.protocol.factory, factory)
        self.assertIs(wire.protocol.transport, wire)
        self.assertIs(type(wire.protocol), Protocol)

    def test_channel_knows_its_site(self) -> None:
        """A request finds the site, the resource and the time-out as without us."""
        wire = self.connect()
        self.assertIs(wire.protocol.site, self.site)
        self.assertIs(wire.protocol.factory, self.site)
        self.assertEqual(wire.protocol.timeOut, self.site.timeOut)
        self.assertEqual(
            len(self.clock.getDelayedCalls()), 1, "the idle time-out runs on the site's own reactor"
        )

    def test_log_prefix_is_the_protocols(self) -> None:
        """What the connection is called in the log is named after the user's protocol."""

        class Named(Protocol):
            def logPrefix(self) -> str:
                return "mine"

        for protocol, name in [(Named, "mine"), (Protocol, "Protocol")]:
            doorman: Any = self.track(Factory.forProtocol(protocol)).factory.buildProtocol(ADDRESS)
            self.assertEqual(doorman.logPrefix(), name)


class CountTests(DrainTestCase):
    """What is counted, and when it is over."""

    def test_open_and_in_flight(self) -> None:
        """Connections of any kind are open ones; a request is in flight from its headers to its answer's end."""
        wire = self.connect()
        self.assertEqual((self.tracked.open_connections, self.tracked.in_flight), (1, 0))
        wire.send(GET.replace(b"page", b"kept"))
        self.assertEqual((self.tracked.open_connections, self.tracked.in_flight), (1, 1))
        self.assertEqual(self.paths(), ["/kept"])
        self.page.kept.pop().finish()
        self.assertEqual((self.tracked.open_connections, self.tracked.in_flight), (1, 0))
        self.assertEqual(self.paths(), [])
        wire.end()
        self.assertEqual(self.tracked.open_connections, 0)
        self.assertEqual(self.board.counters().open_connections, 0)

    def test_request_that_was_sent_on_behind_another(self) -> None:
        """It is in flight when its turn comes, which is inside the end of the one before it."""
        wire = self.connect()
        wire.send(GET.replace(b"page", b"kept") * 2)
        self.assertEqual(self.paths(), ["/kept"])
        self.page.kept.pop().finish()
        self.assertEqual((self.tracked.in_flight, self.paths()), (1, ["/kept"]))
        self.page.kept.pop().finish()
        self.assertEqual((self.tracked.in_flight, self.paths()), (0, []))
        self.assertEqual(self.board.counters().requests_finished, 2)

    def test_when_idle_fires_at_once(self) -> None:
        """Where there is nothing to wait for."""
        self.successResultOf(self.tracked.when_idle())

    def test_when_idle_waits_for_the_last_connection(self) -> None:
        """All who wait are told, once, after the last connection has ended."""
        first, second = self.connect(), self.connect()
        waits = [self.tracked.when_idle(), self.tracked.when_idle()]
        first.end()
        for wait in waits:
            self.assertNoResult(wait)
        second.end()
        for wait in waits:
            self.successResultOf(wait)

    def test_who_no_longer_waits(self) -> None:
        """A wait can be cancelled, in the callback of another one too, and the rest are told all the same."""
        wire = self.connect()
        given_up, first, second, third = (self.tracked.when_idle() for _ in range(4))
        given_up.cancel()
        self.failureResultOf(given_up, CancelledError)
        first.addCallback(lambda _: second.cancel())
        wire.end()
        self.successResultOf(first)
        self.failureResultOf(second, CancelledError)
        self.successResultOf(third)

    def test_end_that_comes_twice(self) -> None:
        """An abort that was planned before the connection ended by itself is not counted again."""
        wire = self.connect()
        planned = wire.connectionLost
        wire.end()
        planned(Failure(ConnectionAborted()))
        self.assertEqual(self.board.counters().open_connections, 0)

    def test_protocol_that_fails_at_the_end(self) -> None:
        """An exception in the application's connectionLost goes where it always went, and the count is right."""

        class Failing(Protocol):
            def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
                raise ZeroDivisionError

        tracked = self.track(Factory.forProtocol(Failing))
        wire = self.connect(tracked.factory)
        self.assertRaises(ZeroDivisionError, wire.end)
        self.assertEqual(tracked.open_connections, 0)

    def test_protocol_that_fails_at_the_start(self) -> None:
        """An exception in its connectionMade reaches the reactor; the connection counts until it is gone."""

        class Failing(Protocol):
            def connectionMade(self) -> None:
                raise ZeroDivisionError

        tracked = self.track(Factory.forProtocol(Failing))
        wire = Wire()
        protocol: Any = tracked.factory.buildProtocol(ADDRESS)
        self.assertRaises(ZeroDivisionError, protocol.makeConnection, wire)
        self.assertEqual(tracked.open_connections, 1)
        wire.end()
        self.assertEqual(tracked.open_connections, 0)

    def test_nothing_is_left_for_the_garbage_collector(self) -> None:
        """A connection that has ended is freed at once, as it is without us: there is no cycle of references."""
        gc.disable()
        self.addCleanup(gc.enable)
        for drain in (lambda: None, self.tracked.drain):
            drain()
            wire = self.connect()
            wire.send(GET)
            wire.end()
            channel = weakref.ref(wire.protocol._original if wire.left else wire.protocol)
            transport = weakref.ref(wire)
            del wire.protocol, wire
            self.assertEqual((channel(), transport()), (None, None))

    def test_channel_that_was_made_a_websocket(self) -> None:
        """Twisted's own websockets put other methods on the channel: its end is seen all the same."""
        wire = self.connect()
        wire.send(GET.replace(b"page", b"kept"))
        wire.protocol.dataReceived = wire.protocol.connectionLost = lambda _: None
        self.tracked.close_idle()
        self.clock.pump([IDLE_SECONDS] * 3)
        self.assertEqual((self.tracked.open_connections, self.paths()), (1, ["/kept"]))
        wire.end()
        self.assertEqual((self.tracked.open_connections, self.paths()), (0, []))

    def test_late_close(self) -> None:
        """An application that closes a connection after its end, drained or not, does no harm, as without us."""
        for drain in (lambda: None, self.tracked.drain):
            drain()
            wire = self.connect()
            channel = wire.protocol
            wire.end()
            channel.loseConnection()

    def test_request_that_fails(self) -> None:
        """A request whose own code raises is over when its connection is."""

        class Failing(Request):
            def process(self) -> None:
                raise ZeroDivisionError

        wire = self.connect()
        wire.protocol.requestFactory = Failing
        self.assertRaises(ZeroDivisionError, wire.send, GET)
        self.assertEqual(self.tracked.in_flight, 1)
        wire.end()
        self.assertEqual(self.paths(), [])


class EndTests(DrainTestCase):
    """The end of the session, and the deadline."""

    def test_idle_is_what_waits_for_a_whole_second(self) -> None:
        """One that came between two looks has its second, too; one with half a request line is left alone."""
        early, half = self.connect(), self.connect()
        half.send(b"GET /pa")
        self.tracked.close_idle()
        self.tracked.close_idle()
        self.clock.advance(IDLE_SECONDS / 2)
        late = self.connect()
        self.clock.advance(IDLE_SECONDS / 2)
        self.assertEqual((early.left, late.left, half.left), (1, 0, 0))
        self.clock.advance(IDLE_SECONDS)
        self.assertEqual((early.left, late.left, half.left), (1, 1, 0))
        for wire in (early, late, half):
            wire.end()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_nobody_looks_when_nobody_is_there(self) -> None:
        """No timer is left behind, and a connection that comes after all is closed as well."""
        self.tracked.close_idle()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        wire = self.connect()
        wire.protocol.setTimeout(None)
        self.clock.pump([IDLE_SECONDS, LINGER_SECONDS])
        self.assertTrue(wire.left)
        self.assertEqual(self.tracked.open_connections, 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_deadline_closes_and_then_resets(self) -> None:
        """What has not closed a second after the deadline is reset; what has, is not."""
        slow, quick = self.connect(), self.connect()
        slow.send(GET.replace(b"page", b"kept"))
        self.tracked.close_idle()
        self.tracked.abort()
        self.assertEqual((slow.disconnecting, quick.disconnecting), (True, True))
        self.assertIsNone(slow.producer, "a producer would keep the connection open")
        quick.end()
        self.clock.advance(ABORT_SECONDS)
        self.assertEqual((slow.aborted, quick.aborted), (True, False))
        self.successResultOf(self.tracked.when_idle())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_deadline_closes_the_others_when_one_fails(self) -> None:
        """An exception while one is closed is logged with what comes next, and harms nothing else."""
        tracked = self.track(Factory.forProtocol(Protocol))
        wires = [self.connect(tracked.factory) for _ in range(3)]

        def fail() -> None:
            raise ZeroDivisionError

        wires[1].loseConnection = fail  # type: ignore[method-assign]
        tracked.abort()
        self.assertEqual([wire.disconnecting for wire in wires], [True, False, True])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.clock.advance(ABORT_SECONDS)
        self.assertTrue(wires[1].aborted)

    def test_deadline_with_nothing_open(self) -> None:
        """Nothing happens, and no timer is set."""
        self.tracked.abort()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class Law(TestCase):
    @settings(deadline=None, max_examples=100)
    @given(
        st.lists(st.tuples(st.sampled_from(["open", "send", "finish", "end", "drain"]), st.integers(0, 9)))
    )
    def test_counts_are_right_whatever_happens(self, steps: list[tuple[str, int]]) -> None:
        """Connections that open, send, are answered and end in any order: what is counted is what there is."""
        case = DrainTestCase("setUp")
        case.setUp()
        wires: list[Wire] = []
        busy: dict[Wire, Any] = {}
        for step, number in steps:
            wire = wires[number % len(wires)] if wires else None
            if step == "open":
                wires.append(case.connect())
            elif step == "drain":
                case.tracked.drain()
            elif wire is None:
                continue
            elif step == "send" and wire not in busy and not wire.left:
                wire.send(GET.replace(b"page", b"kept"))
                busy[wire] = case.page.kept.pop()
            elif step == "finish" and wire in busy:
                busy.pop(wire).finish()
            elif step == "end":
                wires.remove(wire)
                busy.pop(wire, None)
                wire.end()
            self.assertEqual(case.tracked.open_connections, len(wires))
            self.assertEqual(case.board.counters().open_connections, len(wires))
            self.assertEqual(case.tracked.in_flight, len(busy))
            self.assertEqual(len(case.paths()), len(busy))
        case.doCleanups()
