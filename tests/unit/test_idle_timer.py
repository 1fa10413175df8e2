"""How long a client may be silent: as Twisted has it, but without touching a timer at each request."""

from __future__ import annotations

from typing import Any

from twisted.web.http import HTTPChannel

from tests.unit.drain_wires import GET, DrainTestCase


class OwnTimer(HTTPChannel):
    """Times its clients out in its own way."""

    periods: list[object] = []

    def setTimeout(self, period: float | None) -> None:
        self.periods.append(period)


class OwnName(HTTPChannel):
    """An application's channel, otherwise Twisted's."""


class IdleTimerTests(DrainTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.site.timeOut = 60

    def test_silent(self) -> None:
        """Who sends nothing for the site's timeout is closed, and not before."""
        wire = self.connect()
        self.clock.advance(59.9)
        self.assertFalse(wire.disconnecting)
        self.clock.advance(0.2)
        self.assertTrue(wire.disconnecting)

    def test_each_byte_counts(self) -> None:
        """Whatever the client sends begins its time anew."""
        wire = self.connect()
        for _ in range(3):
            self.clock.advance(50)
            wire.send(b"GET /pa"[:1])
        self.clock.advance(59)
        self.assertFalse(wire.disconnecting)
        self.clock.advance(2)
        self.assertTrue(wire.disconnecting)

    def test_after_an_answer(self) -> None:
        """After an answer the client has its whole time for the next request."""
        wire = self.connect()
        self.clock.advance(50)
        wire.send(GET)
        self.clock.advance(59)
        self.assertFalse(wire.disconnecting)
        self.clock.advance(2)
        self.assertTrue(wire.disconnecting)

    def test_slow_answer(self) -> None:
        """While a request is being answered nobody is waited for, however long it takes."""
        wire = self.connect()
        wire.send(GET.replace(b"page", b"kept"))
        self.clock.advance(1000)
        self.assertFalse(wire.disconnecting)
        self.page.kept.pop().finish()
        self.clock.advance(59)
        self.assertFalse(wire.disconnecting)
        self.clock.advance(2)
        self.assertTrue(wire.disconnecting)

    def test_one_timer(self) -> None:
        """However many requests come, there is one timer, and none of them moves it."""
        wire = self.connect()
        (timer,) = self.timers()
        for _ in range(10):
            self.clock.advance(1)
            wire.send(GET)
        self.assertEqual(self.timers(), [timer])
        self.assertEqual(timer.getTime(), 60)

    def test_shorter(self) -> None:
        """A timeout that is set shorter holds from then on."""
        wire = self.connect()
        channel: Any = wire.protocol
        self.assertEqual(channel.setTimeout(5), 60)
        self.clock.advance(4.9)
        self.assertFalse(wire.disconnecting)
        self.clock.advance(0.2)
        self.assertTrue(wire.disconnecting)

    def test_none(self) -> None:
        """A site without a timeout closes nobody, and has no timer."""
        self.site.timeOut = None
        wire = self.connect()
        wire.send(GET)
        self.assertEqual(self.timers(), [])

    def test_end(self) -> None:
        """With the connection its timer is gone."""
        self.connect().end()
        self.assertEqual(self.timers(), [])

    def test_own_channel(self) -> None:
        """An application's channel has the same; one that times clients out in its own way keeps that."""
        site: Any = self.site
        site.protocol = OwnName
        wire = self.connect()
        wire.send(GET)
        self.assertEqual(len(self.timers()), 1)
        self.clock.advance(60)
        self.assertTrue(wire.disconnecting)
        site.protocol = OwnTimer
        self.connect().end()
        self.assertEqual(OwnTimer.periods, [60, None])

    def timers(self) -> list[Any]:
        """Those of connections; the site has one of its own, for the time in its log."""
        calls: Any = self.clock.getDelayedCalls()
        return [call for call in calls if call.func != self.site._updateLogDateTime]
