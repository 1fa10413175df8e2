"""What stands on the board and in the access log of requests to an ASGI application."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from serverworker.processes.access_log import AccessLog, combined
from serverworker.processes.board import RequestBoard
from serverworker.processes.hosts.asgi_noting import Application, logged, noted

START = {"type": "http.response.start", "status": 201}
PIECE = {"type": "http.response.body", "body": b"12345", "more_body": True}
END = {"type": "http.response.body", "body": b"678"}


def scope_of(kind: str = "http", **given: Any) -> dict[str, Any]:
    scope: dict[str, Any] = {
        "type": kind,
        "http_version": "1.1",
        "raw_path": b"/caf%C3%A9",
        "query_string": b"a=b",
        "headers": [(b"user-agent", b"first"), (b"referer", b"there"), (b"user-agent", b"second")],
        "client": ("192.0.2.7", 40000),
    }
    return {**scope, **({"method": "PUT"} if kind == "http" else {}), **given}


class NotingTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.board, descriptor = RequestBoard.create(lambda: 0.0)
        os.close(descriptor)
        self.addCleanup(self.board.close)
        self.sent: list[Any] = []

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    def answer(self, *messages: Any, then: BaseException | None = None) -> Application:
        """An application that sends these messages."""

        async def application(scope: Any, receive: Any, send: Any) -> Any:
            for message in messages:
                await send(message)
            if then is not None:
                raise then

        return application


class NotedTests(NotingTestCase):
    """The board."""

    def at_work(self, scope: dict[str, Any]) -> list[tuple[str, str]]:
        """What is on the board while the application is at this request."""
        seen: list[tuple[str, str]] = []

        async def application(scope: Any, receive: Any, send: Any) -> None:
            seen.extend((each.method, each.path) for each in self.board.in_flight(0.0))

        asyncio.run(noted(application, self.board)(scope, None, self.send))
        self.assertEqual(self.board.in_flight(0.0), ())
        return seen

    def test_request(self) -> None:
        """A request is there while it runs, without its query; a websocket under that word."""
        self.assertEqual(self.at_work(scope_of()), [("PUT", "/caf%C3%A9")])
        self.assertEqual(self.at_work(scope_of("websocket")), [("WEBSOCKET", "/caf%C3%A9")])

    def test_error(self) -> None:
        """A request that fails leaves the board, and its error goes on to the server."""
        application = noted(self.answer(then=ZeroDivisionError()), self.board)
        with self.assertRaises(ZeroDivisionError):
            asyncio.run(application(scope_of(), None, self.send))
        self.assertEqual(self.board.in_flight(0.0), ())
        self.assertEqual(self.board.counters().requests_finished, 1)

    def test_result(self) -> None:
        """What the application returns goes on too: the server complains of it."""

        async def application(scope: Any, receive: Any, send: Any) -> str:
            return "something"

        self.assertEqual(
            asyncio.run(noted(application, self.board)(scope_of(), None, self.send)), "something"
        )


class LoggedTests(NotingTestCase):
    """The access log."""

    def setUp(self) -> None:
        super().setUp()
        self.lines: list[bytes] = []
        self.clock = Clock()
        self.access = AccessLog(combined, self.lines.append, key="secret", wall_clock=lambda: 0.0)

    def line(self, application: Application, scope: dict[str, Any]) -> str:
        """The one line of a request, behind its time."""
        served = logged(application, self.access, self.clock.seconds)
        with contextlib.suppress(ZeroDivisionError):
            asyncio.run(served(scope, None, self.send))
        (line,) = self.lines
        self.lines.clear()
        return line.decode().replace("[01/Jan/1970:00:00:00 +0000] ", "").rstrip("\n")

    def test_answer(self) -> None:
        """Client, request, status, bytes, and the first of each header; the messages are passed on as they are."""
        line = self.line(self.answer(START, PIECE, END), scope_of())
        self.assertEqual(line, '192.0.2.7 - - "PUT /caf%C3%A9?a=b HTTP/1.1" 201 8 "there" "first"')
        self.assertEqual(self.sent, [START, PIECE, END])

    def test_time(self) -> None:
        """The time is up to the end of the answer: what the application does behind it is not counted."""
        told: list[float] = []
        self.patch(self.access, "answered", lambda **given: told.append(given["seconds"]))

        async def application(scope: Any, receive: Any, send: Any) -> None:
            await send(START)
            self.clock.advance(2)
            await send(END)
            self.clock.advance(60)

        asyncio.run(logged(application, self.access, self.clock.seconds)(scope_of(), None, self.send))
        self.assertEqual(told, [2.0])

    def test_never_answered(self) -> None:
        """499 where the client left first, 500 where the application failed; what had begun keeps its status."""
        for application, status in (
            (self.answer(), "499 -"),
            (self.answer(then=ZeroDivisionError()), "500 -"),
            (self.answer(START, PIECE), "201 5"),
            (self.answer(START, PIECE, then=ZeroDivisionError()), "201 5"),
        ):
            self.assertIn(f'HTTP/1.1" {status} ', self.line(application, scope_of()))

    def test_websocket(self) -> None:
        """101 where it was accepted, 403 where it was closed instead, and what else was answered."""
        accept, close = {"type": "websocket.accept"}, {"type": "websocket.close"}
        denial = {"type": "websocket.http.response.start", "status": 401}
        body = {"type": "websocket.http.response.body", "body": b"no"}
        for application, status in (
            (self.answer(accept, close), "101 -"),
            (self.answer(close), "403 -"),
            (self.answer(denial, body), "401 2"),
        ):
            line = self.line(application, scope_of("websocket"))
            self.assertIn(f'"GET /caf%C3%A9?a=b HTTP/1.1" {status} ', line)

    def test_unix_socket(self) -> None:
        """A client without an address is a dash."""
        self.assertTrue(self.line(self.answer(START, END), scope_of(client=None)).startswith("- - - "))

    def test_session_key(self) -> None:
        """The session key stands in no line."""
        line = self.line(self.answer(START, END), scope_of(query_string=b"key=secret"))
        self.assertNotIn("secret", line)
