"""What an ASGI connection keeps of a request that does not end, under each of uvicorn's parsers and event loops."""

from __future__ import annotations

import asyncio
from typing import Any

from serverworker.processes.hosts import asgi_server
from tests.system.asgi_case import SKIP_UVICORN, AsgiCase, variants

POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
HALF = 30_000
"""Twice this is within the bound, three times is not."""


class AsgiBoundTests(AsgiCase):
    """A head, a chunk's extension and trailers have a bound; a body has none."""

    skip = SKIP_UVICORN

    def setUp(self) -> None:
        super().setUp()
        self.release = asyncio.Event()

    async def application(self, scope: Any, receive: Any, send: Any) -> None:
        early = scope["path"] == "/early"
        if early:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            if scope["path"] == "/hasty":  # the rest is refused meanwhile
                await self.release.wait()
                break
            size += len(message["body"])
            more = message["more_body"]
        if scope["path"] == "/held":
            await self.release.wait()
        content = b"%d" % size
        if not early:
            headers = [(b"content-length", b"%d" % len(content))]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    def run_scenario(self, scenario: Any) -> None:
        self.serve(self.application, scenario)

    def test_without_an_end(self) -> None:
        """Whatever never ends is answered with 400 soon after the bound, however it comes."""

        async def scenario() -> None:
            for begun, more in (
                (b"GET /", b"a" * HALF),
                (b"GET / HTTP/1.1\r\nX: ", b"a" * HALF),
                (b"GET / HTTP/1.1\r\n", b"X: abcdef\r\n" * (HALF // 11)),
                (CHUNKED + b"5;", b"a" * HALF),
                (CHUNKED + b"1\r\na\r\n0\r\n", b"X: abcdef\r\n" * (HALF // 11)),
                (b"", b"\r\n" * (HALF // 2)),
            ):
                for pieces in ([begun, *[more] * 20], [begun + more * 20]):
                    client = await self.connect()
                    for piece in pieces:
                        client.send(piece)
                    answer = await client.all()
                    self.assertTrue(answer.startswith(b"HTTP/1.1 400 "), (begun, len(pieces), answer))
                    client.close()
            await self.gone()

        self.run_scenario(scenario)

    def test_a_head_that_stalls(self) -> None:
        """Who sends a part of a head and no more is closed like one that sends nothing, after an answer too."""
        self.patch(asgi_server, "KEEP_ALIVE_SECONDS", 1)

        async def scenario() -> None:
            for before in (b"", POST + b"\r\n"):
                client = await self.connect()
                client.send(before)
                if before:
                    await client.answer()
                client.send(b"GET / HT")
                self.assertEqual(await client.all(), b"")
                client.close()
            await self.gone()

        self.run_scenario(scenario)

    def test_too_long(self) -> None:
        """A head past the bound is refused though it is complete, and came all at once."""

        async def scenario() -> None:
            for head in (
                b"GET /" + b"a" * 3 * HALF + b" HTTP/1.1\r\n",
                POST + b"X: " + b"a" * 3 * HALF + b"\r\n",
            ):
                client = await self.connect()
                client.send(head + b"\r\n")
                self.assertIn(b" 400 ", await client.all())
                client.close()
            await self.gone()

        self.run_scenario(scenario)

    def test_within(self) -> None:
        """A long head, bodies of any size in any framing, and many requests at once are served as ever."""

        async def scenario() -> None:
            client = await self.connect()
            long = POST + b"X: " + b"a" * 2 * HALF + b"\r\n"
            for size in (0, 10 * HALF, 100 * HALF):
                client.send(long + b"Content-Length: %d\r\n\r\n" % size + b"b" * size)
                self.assertEqual((await client.answer())[1], b"%d" % size)
            client.send(CHUNKED + b"8;a=b\r\n12345678\r\n" * HALF + b"0\r\nX: y\r\n\r\n")
            self.assertEqual((await client.answer())[1], b"%d" % (8 * HALF))
            client.send((POST + b"\r\n") * (4 * HALF // len(POST)))
            for _ in range(4 * HALF // len(POST)):
                self.assertEqual((await client.answer())[1], b"0")
            client.close()
            await self.gone()

        self.run_scenario(scenario)

    def test_answer_begun(self) -> None:
        """Where an answer has begun, or is owed to an earlier request, the connection closes without another."""

        async def scenario() -> None:
            early = CHUNKED.replace(b"/ ", b"/early ", 1)
            for bad in (b"5;" + b"a" * 3 * HALF, b"nonsense\r\n"):
                client = await self.connect()
                client.send(early)
                begun = await client.reader.readuntil(b"begun")
                client.send(bad)
                self.assertNotIn(b"400", begun + await client.all())
                client.close()
            await self.gone()

        self.run_scenario(scenario)

    def test_answered_too_late(self) -> None:
        """What an application answers to a request that was refused meanwhile is dropped, and no error."""
        if self.http == "h11":
            return  # which calls it an error by itself

        async def scenario() -> None:
            client = await self.connect()
            client.send(CHUNKED.replace(b"/ ", b"/hasty ", 1) + b"1\r\na\r\n")
            client.send(b"nonsense\r\n")
            self.assertIn(b" 400 ", await client.all())
            self.release.set()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            client.close()
            await self.gone()

        with self.assertNoLogs("uvicorn.error", "ERROR"):
            self.run_scenario(scenario)

    def test_answer_owed(self) -> None:
        """Nor does a refusal take the place of an answer that an earlier request of the connection waits for."""
        if self.http == "h11":
            return  # it reads no further than the request that it is at

        async def scenario() -> None:
            client = await self.connect()
            # At once: behind the second request nothing more is read.
            client.send(b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n" + CHUNKED + b"nonsense\r\n")
            self.assertEqual(await client.all(), b"")
            self.release.set()
            client.close()
            await self.gone()

        self.run_scenario(scenario)


variants(globals(), AsgiBoundTests)
