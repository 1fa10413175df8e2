"""What an ASGI application is promised: scopes, messages and their order, by the specification (versions 2.3 and 2.0)."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.system.asgi_case import SKIP_UVICORN, AsgiCase, request, variants


class AsgiConformanceTests(AsgiCase):
    """The application looks at what it is given; raw clients look at what comes of it."""

    skip = SKIP_UVICORN

    def setUp(self) -> None:
        super().setUp()
        self.scopes: list[dict[str, Any]] = []
        self.messages: list[dict[str, Any]] = []
        self.over = asyncio.Event()

    async def application(self, scope: Any, receive: Any, send: Any) -> None:
        """Answers as its path says, and notes all it gets."""
        self.scopes.append(scope)
        try:
            await getattr(self, scope["path"].strip("/").partition("/")[0] or "plain")(receive, send)
        finally:
            self.over.set()

    async def take(self, receive: Any) -> dict[str, Any]:
        message: dict[str, Any] = await receive()
        self.messages.append(message)
        return message

    async def start(self, send: Any, *headers: tuple[bytes, bytes], status: int = 200) -> None:
        await send({"type": "http.response.start", "status": status, "headers": headers})

    async def plain(self, receive: Any, send: Any) -> None:
        await self.start(send, (b"Content-Length", b"2"), (b"x-twice", b"1"), (b"x-twice", b"2"))
        await send({"type": "http.response.body", "body": b"ok"})

    async def body(self, receive: Any, send: Any) -> None:
        while (await self.take(receive)).get("more_body"):
            pass
        waits = asyncio.ensure_future(self.take(receive))
        done, _ = await asyncio.wait({waits}, timeout=0.05)
        self.assertEqual(done, set())  # nothing more comes before the answer, or the client's end
        await self.start(send, (b"content-length", b"0"))
        await send({"type": "http.response.body"})
        await waits

    async def pieces(self, receive: Any, send: Any) -> None:
        await self.start(send)
        for piece in (b"one", b"", b"two"):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def empty(self, receive: Any, send: Any) -> None:
        await self.start(send, status=204)
        await send({"type": "http.response.body"})

    async def patient(self, receive: Any, send: Any) -> None:
        await self.take(receive)
        await self.start(send, (b"content-length", b"1000000"))
        while (await self.take(receive))["type"] != "http.disconnect":
            pass
        await send({"type": "http.response.body", "body": b"nobody is there"})  # does no harm

    async def nothing(self, receive: Any, send: Any) -> None:
        pass

    async def broken(self, receive: Any, send: Any) -> None:
        raise ZeroDivisionError

    async def broken_late(self, receive: Any, send: Any) -> None:
        await self.start(send)
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        raise ZeroDivisionError

    async def wrong(self, receive: Any, send: Any) -> None:
        try:
            await send({"type": "http.response.body", "body": b"before its head"})
        except RuntimeError as error:
            self.messages.append({"type": str(error)})
            raise

    async def socket(self, receive: Any, send: Any) -> None:
        await self.take(receive)
        await send({"type": "websocket.accept", "subprotocol": "b", "headers": [(b"x-own", b"1")]})
        while (message := await self.take(receive))["type"] == "websocket.receive":
            data = {key: value for key, value in message.items() if key != "type" and value is not None}
            await send({"type": "websocket.send", **data})

    async def refusal(self, receive: Any, send: Any) -> None:
        await self.take(receive)
        await send({"type": "websocket.close"})

    async def denial(self, receive: Any, send: Any) -> None:
        await self.take(receive)
        await send({"type": "websocket.http.response.start", "status": 401, "headers": []})
        await send({"type": "websocket.http.response.body", "body": b"who are you?"})

    def ask(self, *requests: bytes, answers: int = 1, **state: Any) -> list[tuple[bytes, bytes]]:
        """Send these pieces on one connection, and read so many answers."""
        got: list[tuple[bytes, bytes]] = []

        async def scenario() -> None:
            client = await self.connect()
            for piece in requests:
                client.send(piece)
                await asyncio.sleep(0.02)
            got.extend([await client.answer() for _ in range(answers)])
            client.close()
            await self.gone()

        self.serve(self.application, scenario, **state)
        return got

    def test_scope(self) -> None:
        """Types and contents of all keys of an HTTP scope."""
        self.ask(
            request(
                b"/plain/caf%C3%A9%20x?a=%20b", b"PUT", b"X-Twice: 1", b"x-tWICE: 2", b"Content-Length: 0"
            )
        )
        (scope,) = self.scopes
        self.assertEqual((scope["type"], scope["asgi"]["version"]), ("http", "3.0"))
        self.assertIn(scope["asgi"]["spec_version"], ("2.0", "2.1", "2.2", "2.3", "2.4", "2.5"))
        self.assertEqual((scope["http_version"], scope["method"], scope["scheme"]), ("1.1", "PUT", "http"))
        self.assertEqual((scope["path"], scope["raw_path"]), ("/plain/café x", b"/plain/caf%C3%A9%20x"))
        self.assertEqual((scope["query_string"], scope["root_path"]), (b"a=%20b", ""))
        names = [(b"host", b"localhost"), (b"x-twice", b"1"), (b"x-twice", b"2"), (b"content-length", b"0")]
        self.assertEqual([tuple(pair) for pair in scope["headers"]], names)
        self.assertEqual((type(scope["client"][1]), scope["client"][0]), (int, "127.0.0.1"))
        self.assertEqual((scope["server"][0], type(scope["server"][1])), ("127.0.0.1", int))

    def test_http_1_0(self) -> None:
        """Its version is told, and its connection is closed."""
        (answer,) = self.ask(request(b"/", version=b"HTTP/1.0"))
        self.assertEqual(self.scopes[0]["http_version"], "1.0")
        self.assertEqual(answer[1], b"ok")

    def test_state(self) -> None:
        """Each request has a copy of the lifespan's state: the same things, in a dictionary of its own."""
        pool = object()
        self.ask(request(b"/") + request(b"/"), answers=2, pool=pool)
        first, second = (scope["state"] for scope in self.scopes)
        self.assertTrue(first["pool"] is second["pool"] is pool)
        self.assertIsNot(first, second)

    def test_body(self) -> None:
        """A body comes in one or more pieces, the last of which says so; then nothing, until the answer is complete."""
        for head, pieces in (
            (request(b"/body", b"POST", b"Content-Length: 6"), (b"abc", b"def")),
            (
                request(b"/body", b"POST", b"Transfer-Encoding: chunked"),
                (b"3\r\nabc\r\n", b"3\r\ndef\r\n", b"0\r\n\r\n"),
            ),
        ):
            self.setUp()
            self.ask(head, *pieces)
            *body, end = self.messages
            self.assertEqual(b"".join(message["body"] for message in body), b"abcdef")
            self.assertEqual({message["type"] for message in body}, {"http.request"})
            self.assertEqual([message["more_body"] for message in body][-1:], [False])
            self.assertTrue(all(message["more_body"] for message in body[:-1]))
            self.assertEqual(end, {"type": "http.disconnect"})

    def test_no_body(self) -> None:
        """A request without a body is one empty piece."""
        self.ask(request(b"/body"))
        self.assertEqual(self.messages[0], {"type": "http.request", "body": b"", "more_body": False})

    def test_continue(self) -> None:
        """A client that waits for leave to send its body gets it when the application asks for it."""
        (first, second) = self.ask(
            request(b"/body", b"POST", b"Content-Length: 3", b"Expect: 100-continue"), b"abc", answers=2
        )
        self.assertTrue(first[0].startswith(b"HTTP/1.1 100 "))
        self.assertTrue(second[0].startswith(b"HTTP/1.1 200 "))

    def test_answers(self) -> None:
        """Headers as given and in order, a date; pieces; an answer without a body; HEAD."""
        plain, pieces, empty = self.ask(request(b"/") + request(b"/pieces") + request(b"/empty"), answers=3)
        self.assertEqual(plain[1], b"ok")
        self.assertLess(plain[0].index(b"x-twice: 1"), plain[0].index(b"x-twice: 2"))
        self.assertEqual(plain[0].count(b"date: "), 1)
        self.assertEqual(pieces[1], b"onetwo")
        self.assertTrue(empty[0].startswith(b"HTTP/1.1 204 "))
        self.assertNotIn(b"transfer-encoding", empty[0].lower())

    def test_head(self) -> None:
        """An answer to HEAD has its headers, and no body."""

        async def scenario() -> None:
            client = await self.connect()
            client.send(request(b"/", b"HEAD", b"Connection: close"))
            answer = await client.all()
            self.assertIn(b"content-length: 2\r\n", answer.lower())
            self.assertTrue(answer.endswith(b"\r\n\r\n"))
            client.close()

        self.serve(self.application, scenario)

    def test_pipelined(self) -> None:
        """Requests that are sent behind one another are run one after the other, and answered in order."""
        answers = self.ask(request(b"/pieces") + request(b"/") + request(b"/pieces"), answers=3)
        self.assertEqual([body for _, body in answers], [b"onetwo", b"ok", b"onetwo"])
        self.assertEqual([scope["path"] for scope in self.scopes], ["/pieces", "/", "/pieces"])

    def test_disconnect(self) -> None:
        """A client that leaves is told to the application that listens; what it sends then does no harm."""

        async def scenario() -> None:
            client = await self.connect()
            client.send(request(b"/patient"))
            await asyncio.sleep(0.05)
            client.transport.abort()
            await self.over.wait()
            self.assertEqual(self.messages[-1], {"type": "http.disconnect"})

        self.serve(self.application, scenario)

    def test_errors(self) -> None:
        """An application that raises, or answers nothing, is a 500; one that breaks its answer off breaks the connection."""
        for path in (b"/broken", b"/nothing"):
            (answer,) = self.ask(request(path))
            self.assertTrue(answer[0].startswith(b"HTTP/1.1 500 "))

        async def scenario() -> None:
            client = await self.connect()
            client.send(request(b"/broken_late"))
            answer = await client.all()
            self.assertTrue(answer.endswith(b"begun\r\n"))
            client.close()

        self.serve(self.application, scenario)

    def test_wrong_order(self) -> None:
        """A message that may not come yet is refused, with an error that says which may."""
        self.ask(request(b"/wrong"))
        self.assertIn("http.response.start", self.messages[0]["type"])

    def test_websocket(self) -> None:
        """Scope, connect, texts and bytes both ways, subprotocol, headers, and the code of the client's end."""
        from websockets.asyncio.client import connect
        from websockets.typing import Subprotocol

        async def scenario() -> None:
            address = f"ws://127.0.0.1:{self.listening.getsockname()[1]}/socket?a=b"
            async with connect(address, subprotocols=[Subprotocol("a"), Subprotocol("b")]) as client:
                assert client.response is not None
                self.assertEqual((client.subprotocol, client.response.headers["x-own"]), ("b", "1"))
                for message in ("text ü", b"\0bytes"):
                    await client.send(message)
                    self.assertEqual(await client.recv(), message)
                await client.close(4001, "enough")
            await self.over.wait()

        self.serve(self.application, scenario)
        (scope,) = self.scopes
        self.assertEqual((scope["type"], scope["scheme"], scope["path"]), ("websocket", "ws", "/socket"))
        self.assertEqual((scope["query_string"], scope["subprotocols"]), (b"a=b", ["a", "b"]))
        self.assertEqual(self.messages[0], {"type": "websocket.connect"})
        self.assertEqual((self.messages[1]["text"], self.messages[2]["bytes"]), ("text ü", b"\0bytes"))
        last = self.messages[-1]
        self.assertEqual((last["type"], last["code"]), ("websocket.disconnect", 4001))

    def test_websocket_refused(self) -> None:
        """One that is closed instead of accepted is a 403; one may be answered like a request."""
        from websockets.asyncio.client import connect
        from websockets.exceptions import InvalidStatus

        async def scenario() -> None:
            for path, status in (("refusal", 403), ("denial", 401)):
                with self.assertRaises(InvalidStatus) as caught:
                    async with connect(f"ws://127.0.0.1:{self.listening.getsockname()[1]}/{path}"):
                        pass
                self.assertEqual(caught.exception.response.status_code, status)

        self.serve(self.application, scenario)


variants(globals(), AsgiConformanceTests)
