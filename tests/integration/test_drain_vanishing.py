"""Clients that go away, on real sockets."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.task import deferLater

from tests.integration.drain_clients import (
    TEN,
    Client,
    SocketsTestCase,
    StubbornClient,
    reactor,
    request,
    reset,
)


class VanishingClientTests(SocketsTestCase):
    """A client that goes away is nobody's fault, and leaves the counts right. Trial fails what is logged as an error."""

    async def vanish_everywhere(self, leave: Callable[[Client], None]) -> None:
        whole = request(b"/hello", b"POST", b"Content-Length: 10") + TEN
        for length in [
            0,
            1,
            5,
            16,
            len(whole) - 12,
            len(whole) - 10,
            len(whole) - 5,
            len(whole) - 1,
            len(whole),
        ]:
            client = await self.connect()
            client.write(whole[:length])
            if length:
                await deferLater(reactor, 0)
            leave(client)
            await self.gone()

    async def test_at_every_point_of_a_request(self) -> None:
        """It closes after any number of bytes."""
        await self.vanish_everywhere(lambda client: client.transport.loseConnection())

    async def test_at_every_point_with_a_reset(self) -> None:
        """It resets after any number of bytes."""
        await self.vanish_everywhere(reset)

    async def test_at_every_point_during_a_drain(self) -> None:
        """The same while the worker drains."""
        self.tracked.close_idle()
        await self.vanish_everywhere(lambda client: client.transport.loseConnection())
        await self.vanish_everywhere(reset)

    async def test_while_its_answer_is_awaited(self) -> None:
        """It goes away before a slow answer: the request is off the board."""
        client = await self.connect()
        client.write(request(b"/slow"))
        await self.turn_until(lambda: len(self.slow.waiting) == 1)
        reset(client)
        await self.gone()
        self.assertRaises(RuntimeError, self.slow.answer)  # Twisted's own answer to a late finish

    async def test_in_the_middle_of_its_last_answer(self) -> None:
        """It goes away while three megabytes are being written to it during the drain."""
        client = await self.connect()
        self.tracked.drain()
        client.transport.pauseProducing()
        client.write(request(b"/big"))
        await self.turn_until(lambda: self.board.counters().requests_finished == 1)
        reset(client)
        await self.gone()

    async def test_after_its_last_answer(self) -> None:
        """It resets the connection while the server waits for it to close."""
        client = StubbornClient()
        await self.connect(client)
        self.tracked.drain()
        client.write(request(b"/hello"))
        await client.until(lambda: client.finished)
        reset(client)
        await self.gone()
