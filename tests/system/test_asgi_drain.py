"""ASGI connections on real sockets, drained without losing a request: every kind of client."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from tests.system.asgi_case import SKIP_UVICORN, AsgiCase, Client, request, variants

BIG = 3_000_000


class AsgiDrainTests(AsgiCase):
    """The same promises as `twisted.web` gives, in the same words."""

    skip = SKIP_UVICORN

    def setUp(self) -> None:
        super().setUp()
        self.release = asyncio.Event()
        self.disconnects = 0
        self.behind: list[str] = []

    async def application(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await self.talk(receive, send)
            return
        body, more = b"", True
        while more and scope["method"] == "POST":
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        path = scope["path"]
        if path == "/slow":
            await self.release.wait()
        if path == "/stream":
            await self.stream(receive, send)
            return
        content = b"x" * BIG if path == "/big" else b"got " + body
        if path == "/huge":
            content = b"x" * 20 * BIG
        headers = [(b"content-length", b"%d" % len(content))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})
        if path == "/behind":
            await self.release.wait()
            self.behind.append("done")

    async def stream(self, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        self.disconnects += 1

    async def talk(self, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] != "websocket.disconnect":
            await send({"type": "websocket.send", "text": message["text"]})
        self.disconnects += 1

    def run_scenario(self, scenario: Any) -> None:
        self.serve(self.application, scenario)

    async def last_answer(self, client: Client, body: bytes = b"got ") -> None:
        """One more answer, which says that it is the last one, and then a FIN."""
        head, content = await client.answer()
        self.assertIn(b"connection: close", head.lower())
        self.assertEqual(content, body)
        self.assertEqual(await client.all(), b"")
        client.close()

    def test_not_draining(self) -> None:
        """A connection is kept while nothing is drained."""

        async def scenario() -> None:
            client = await self.connect()
            for _ in range(3):
                client.send(request(b"/"))
                head, _ = await client.answer()
                self.assertNotIn(b"connection: close", head.lower())
            self.assertEqual(self.server.open_connections, 1)
            client.close()
            await self.gone()

        self.run_scenario(scenario)

    def test_idle(self) -> None:
        """One that waits for its next request gets one more answer."""

        async def scenario() -> None:
            client = await self.connect()
            client.send(request(b"/"))
            await client.answer()
            self.server.drain()
            await asyncio.sleep(0.05)
            client.send(request(b"/"))
            await self.last_answer(client)
            await self.gone()

        self.run_scenario(scenario)

    def test_fresh(self) -> None:
        """So does one that has sent nothing yet, and one that comes from the queue while the drain is on."""

        async def scenario() -> None:
            before = await self.connect()
            self.server.drain()
            for client in (before, await self.connect()):
                client.send(request(b"/"))
                await self.last_answer(client)
            await self.gone()

        self.run_scenario(scenario)

    def test_half_a_head(self) -> None:
        """And one that is in the middle of a request's head, or of its body."""

        async def scenario() -> None:
            head, body = await self.connect(), await self.connect()
            head.send(b"GET / HT")
            body.send(request(b"/", b"POST", b"Content-Length: 10") + b"01234")
            await asyncio.sleep(0.05)
            self.server.drain()
            head.send(b"TP/1.1\r\nHost: a\r\n\r\n")
            body.send(b"56789")
            await self.last_answer(head)
            await self.last_answer(body, b"got 0123456789")
            await self.gone()

        self.run_scenario(scenario)

    def test_slow(self) -> None:
        """An answer that has not begun says close."""

        async def scenario() -> None:
            client = await self.connect()
            client.send(request(b"/slow"))
            await asyncio.sleep(0.05)
            self.server.drain()
            self.release.set()
            await self.last_answer(client)
            await self.gone()

        self.run_scenario(scenario)

    def test_begun(self) -> None:
        """An answer that had begun keeps its connection, which gets one more."""

        async def scenario() -> None:
            client = await self.connect()
            client.send(request(b"/big"))
            head = await client.reader.readuntil(b"\r\n\r\n")
            self.assertNotIn(b"close", head)
            self.server.drain()
            self.assertEqual(len(await client.reader.readexactly(BIG)), BIG)
            client.send(request(b"/"))
            await self.last_answer(client)
            await self.gone()

        self.run_scenario(scenario)

    def test_pipelined(self) -> None:
        """Requests that were sent behind one another are all answered, and the last answer alone says close."""

        async def scenario() -> None:
            early, late = await self.connect(), await self.connect()
            early.send(request(b"/slow") + request(b"/") + request(b"/"))
            late.send(request(b"/slow"))
            await asyncio.sleep(0.05)
            self.server.drain()
            for _ in range(2):
                late.send(request(b"/"))  # the second one stays in the kernel
                await asyncio.sleep(0.05)
            self.release.set()
            for client in (early, late):
                for _ in range(2):
                    head, _ = await client.answer()
                    self.assertNotIn(b"connection: close", head.lower())
                await self.last_answer(client)
            await self.gone()

        self.run_scenario(scenario)

    def test_sends_on(self) -> None:
        """A client that sends on after its last answer gets that whole, and a FIN: no reset takes it."""

        async def scenario() -> None:
            client = await self.connect()
            client.send(request(b"/slow"))
            await asyncio.sleep(0.05)
            self.server.drain()
            self.release.set()
            await asyncio.sleep(0.05)
            for _ in range(20):
                client.send(request(b"/") * 10)
                await asyncio.sleep(0.002)
            await self.last_answer(client)
            await self.gone()

        self.run_scenario(scenario)

    def test_slow_reader(self) -> None:
        """A client that takes long over its last answer gets it whole: its time begins when it has all."""

        async def scenario() -> None:
            client = await self.connect()
            self.server.drain()
            client.send(request(b"/huge"))
            client.transport.pause_reading()
            await asyncio.sleep(0.5)  # longer than the time to linger
            client.send(request(b"/"))
            client.transport.resume_reading()
            head, body = await client.answer()
            self.assertEqual((len(body), b"connection: close" in head.lower()), (20 * BIG, True))
            self.assertEqual(await client.all(), b"")
            client.close()
            await self.gone()

        self.run_scenario(scenario)

    def test_client_that_stays(self) -> None:
        """One that never closes its own half is closed after a moment."""

        async def scenario() -> None:
            client = await self.connect()
            self.server.drain()
            client.send(request(b"/"))
            await client.answer()
            await self.gone()
            client.close()

        self.run_scenario(scenario)

    def test_close_idle(self) -> None:
        """At the end of a session those that wait are closed after a moment; whoever is answered is left alone."""

        async def scenario() -> None:
            idle, fresh, busy = [await self.connect() for _ in range(3)]
            idle.send(request(b"/"))
            await idle.answer()
            busy.send(request(b"/slow"))
            await asyncio.sleep(0.05)
            self.server.close_idle()
            self.assertEqual((await idle.all(), await fresh.all()), (b"", b""))
            self.assertEqual(
                self.server.open_connections - 1, sum(not c.writer.is_closing() for c in (idle, fresh))
            )
            idle.close()
            fresh.close()
            self.release.set()
            await self.last_answer(busy)
            await self.gone()

        self.run_scenario(scenario)

    def test_close_idle_takes_its_time(self) -> None:
        """A request that was on its way when idle ones are to be closed is answered."""

        async def scenario() -> None:
            client = await self.connect()
            client.send(request(b"/"))
            await client.answer()
            self.server.close_idle()
            await asyncio.sleep(0.02)
            client.send(request(b"/"))
            await self.last_answer(client)
            await self.gone()

        self.run_scenario(scenario)

    def test_client_that_reads_nothing(self) -> None:
        """At the deadline one that does not take its answer is reset, a second later."""

        async def scenario() -> None:
            client = await self.connect()
            client.transport.pause_reading()
            client.send(request(b"/huge"))
            await asyncio.sleep(0.05)
            self.server.drain()
            self.server.abort()
            await self.gone()
            client.transport.abort()

        self.run_scenario(scenario)

    def test_bad_request(self) -> None:
        """Garbage is answered with 400 while a drain is on too."""

        async def scenario() -> None:
            client = await self.connect()
            self.server.drain()
            client.send(b"\0\0\0 garbage\r\n\r\n")
            self.assertIn(b" 400 ", await client.all())
            client.close()
            await self.gone()

        self.run_scenario(scenario)

    def test_deadline(self) -> None:
        """At the deadline a stream is cut short, never completed falsely, and its application is told."""

        async def scenario() -> None:
            client = await self.connect()
            client.send(request(b"/stream"))
            await client.reader.readuntil(b"begun")
            self.server.drain()
            self.server.abort()
            self.assertEqual(await client.all(), b"\r\n")
            client.close()
            await self.gone()
            self.assertEqual(self.disconnects, 1)

        self.run_scenario(scenario)

    def test_stubborn_application(self) -> None:
        """One that takes no notice of its client's end is cancelled a second after the deadline."""

        async def scenario() -> None:
            client = await self.connect()
            client.send(request(b"/slow"))
            await asyncio.sleep(0.05)
            self.server.drain()
            self.server.abort()
            await self.gone()
            client.close()

        self.run_scenario(scenario)

    def test_work_behind_an_answer(self) -> None:
        """What an application does behind its answer is waited for."""

        async def scenario() -> None:
            client = await self.connect()
            self.server.drain()
            client.send(request(b"/behind"))
            await self.last_answer(client)
            while self.server.open_connections:  # noqa: ASYNC110  # the deadline is the scenario's
                await asyncio.sleep(0.01)
            gone = asyncio.get_running_loop().create_task(self.gone())
            done, _ = await asyncio.wait({gone}, timeout=0.1)
            self.assertEqual((done, self.behind), (set(), []))
            self.release.set()
            await gone
            self.assertEqual(self.behind, ["done"])

        self.run_scenario(scenario)

    def test_websocket(self) -> None:
        """It goes on, whether it began before the drain or after; at the deadline it is told 1012."""
        from websockets.asyncio.client import connect
        from websockets.exceptions import ConnectionClosed

        async def scenario() -> None:
            address = f"ws://127.0.0.1:{self.listening.getsockname()[1]}/"
            async with connect(address) as before:
                self.server.drain()
                async with connect(address) as after:
                    for client in (before, after):
                        await client.send("one")
                        self.assertEqual(await client.recv(), "one")
                    self.assertEqual(self.server.open_connections, 2)
                    self.server.abort()
                    for client in (before, after):
                        with contextlib.suppress(ConnectionClosed):
                            await client.recv()
                        self.assertEqual(client.close_code, 1012)
            await self.gone()
            self.assertEqual(self.disconnects, 2)

        self.run_scenario(scenario)

    def test_clients_that_vanish(self) -> None:
        """A client that leaves at any moment leaves nothing behind."""

        async def scenario() -> None:
            for sent in (b"", b"GET / HT", request(b"/slow"), request(b"/stream"), request(b"/big")):
                for draining in (False, True):
                    client = await self.connect()
                    client.send(sent)
                    await asyncio.sleep(0.02)
                    if draining:
                        self.server.drain()
                    client.transport.abort()
            self.release.set()
            await self.gone()

        self.run_scenario(scenario)


variants(globals(), AsgiDrainTests)
