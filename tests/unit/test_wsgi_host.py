"""A WSGI application's answers: what PEP 3333 allows, what it forbids, and clients that leave or are slow."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from serverworker.processes.hosts.wsgi_call import ClientGone, Head
from serverworker.processes.hosts.wsgi_request import MOST_AHEAD, PIECE, STALL_SECONDS
from tests.unit.wsgi_case import Captured, Endless, WSGICase, plain, plain_of, twice

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class AnswerTests(WSGICase):
    """What comes of a status, headers and a body."""

    def head_of(self, application: Any, raw: bytes = GET) -> tuple[bytes, list[bytes], bytes]:
        """Status line, headers and body of the answer."""
        head, _, body = self.ask(application, raw).partition(b"\r\n\r\n")
        first, *headers = head.split(b"\r\n")
        return first, headers, body

    def failed(self, application: Any, *words: str) -> None:
        """It is answered 500, and the log says what was wrong."""
        first, _, _ = self.head_of(application)
        self.assertEqual(first, b"HTTP/1.1 500 Internal Server Error")
        (error,) = self.flushLoggedErrors()
        for each in words:
            self.assertIn(each, str(error.value))

    def test_one_piece(self) -> None:
        """A body in one piece has its length said for it, and the connection stays."""
        answer = self.ask(plain(b"hello"))
        self.assertEqual(
            answer, b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"
        )

    def test_pieces(self) -> None:
        """A body in pieces is chunked; to HTTP/1.0 it ends with the connection."""
        answer = self.ask(plain(b"a", b"", b"bc"))
        self.assertTrue(answer.endswith(b"\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n"), answer)
        answer = self.ask(plain(b"a", b"bc"), b"GET / HTTP/1.0\r\n\r\n")
        self.assertTrue(answer.endswith(b"text/plain\r\n\r\nabc"), answer)

    def test_no_piece(self) -> None:
        """An empty body has the length 0."""
        for pieces in ((), (b"",)):
            _, headers, body = self.head_of(plain(*pieces))
            self.assertEqual(body, b"" if not pieces else b"0\r\n\r\n")
            self.assertIn(b"Content-Length: 0" if not pieces else b"Transfer-Encoding: chunked", headers)

    def test_bodies_that_may_not_be(self) -> None:
        """The answer to HEAD, 204 and 304 have no body, whatever the application says; the iterable is closed."""
        endless = Endless()
        _, headers, body = self.head_of(
            plain_of(endless, [("Content-Length", "7")]), b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"
        )
        self.assertEqual((body, b"Content-Length: 7" in headers, endless.closed), (b"", True, 1))
        self.assertEqual(endless.asked, 1)
        for status in ("204 No Content", "304 Not Modified"):
            application = plain(b"body", status=status, headers=[("Content-Length", "4")])
            first, headers, body = self.head_of(application)
            self.assertEqual((first[9:], body), (status.encode(), b""))
            self.assertEqual(b"Content-Length: 4" in headers, status.startswith("304"))

    def test_write(self) -> None:
        """What is written comes before what is returned; start_response is not sent before the first byte."""

        def application(environ: Any, start_response: Any) -> Any:
            write = start_response("404 Nope", [("X-A", "1")])
            write(b"first, ")
            return [b"then"]

        first, headers, body = self.head_of(application)
        self.assertEqual(
            (first, headers[0], body),
            (b"HTTP/1.1 404 Nope", b"X-A: 1", b"7\r\nfirst, \r\n4\r\nthen\r\n0\r\n\r\n"),
        )

    def test_exc_info(self) -> None:
        """With exc_info the head is replaced until it has been sent, and what was wrong raised again after that."""

        def early(environ: Any, start_response: Any) -> Any:
            start_response("200 OK", [])
            try:
                raise ValueError("early")
            except ValueError:
                start_response("503 Sorry", [], sys.exc_info())
            return [b"sorry"]

        self.assertEqual(self.head_of(early)[0], b"HTTP/1.1 503 Sorry")

        def late(environ: Any, start_response: Any) -> Any:
            start_response("200 OK", [])(b"begun")
            try:
                raise ValueError("late")
            except ValueError:
                start_response("503 Sorry", [], sys.exc_info())
            return [b"never sent"]

        answer = self.ask(late)
        self.assertTrue(answer.endswith(b"5\r\nbegun\r\n"), answer)
        (error,) = self.flushLoggedErrors(ValueError)
        self.assertEqual(str(error.value), "late")

    def test_wrong_answers(self) -> None:
        """Each breach of PEP 3333 is 500 and a line that says what is wanted."""
        for application, words in (
            (plain(b"x", status="OK"), "a status is a str such as '200 OK'"),
            (plain(b"x", status="101 Switching"), "from 200 to 999"),
            (plain(b"x", status=b"200 OK"), "not b'200 OK'"),  # type: ignore[arg-type]
            (plain(b"x", status="200 O\r\nX: y"), "a status is"),
            (plain("text"), "made of bytes, not of str: 'text'"),
            (plain(b"x", headers=[("A", 1)]), "a tuple of two str"),
            (plain(b"x", headers=[("A", "b\r\nC: d")]), "the header A holds a line's end"),
            (plain(b"x", headers=[("A b", "c")]), "'A b' is no header's name"),
            (plain(b"x", headers=[("A", "\u20ac")]), "Latin-1 has not"),
            (plain(b"x", headers={"A": "b"}), "a list of (name, value)"),  # type: ignore[arg-type]
            (plain(b"x", headers=[("Content-Length", "+5")]), "one whole number, not '+5'"),
            (plain(b"x", headers=[("Content-Length", "1"), ("content-length", "1")]), "one whole number"),
            (lambda environ, start_response: [b"x"], "before start_response was called"),
            (lambda environ, start_response: None, "not iterable"),
            (twice, "a second time, without exc_info"),
        ):
            self.failed(application, words)

    def test_latin_1(self) -> None:
        """Reason and headers may hold all of Latin-1."""
        first, headers, _ = self.head_of(plain(b"x", status="200 tr\xe8s bien", headers=[("X-A", "\xfc")]))
        self.assertEqual((first, headers[0]), (b"HTTP/1.1 200 tr\xe8s bien", b"X-A: \xfc"))
        self.assertEqual(self.head_of(plain(b"x", status="200"))[0], b"HTTP/1.1 200 ")

    def test_headers_of_the_connection(self) -> None:
        """Those that belong to the connection are the server's: the application's are left out. Cookies stay apart."""
        _, headers, body = self.head_of(
            plain(
                b"x",
                headers=[
                    ("Connection", "close"),
                    ("transfer-encoding", "chunked"),
                    ("Upgrade", "websocket"),
                    ("Set-Cookie", "a=1"),
                    ("Set-Cookie", "b=2"),
                    ("Date", "today"),
                ],
            )
        )
        self.assertEqual(body, b"x")
        self.assertEqual(
            [h for h in headers if h.startswith(b"Set-Cookie")], [b"Set-Cookie: a=1", b"Set-Cookie: b=2"]
        )
        self.assertNotIn(b"close", b"".join(headers))
        self.assertEqual(b"".join(headers).lower().count(b"transfer-encoding"), 0)

    def test_longer_than_announced(self) -> None:
        """A body that is longer than its Content-Length is cut off there: the rest would be read as the next answer."""
        with self.captured() as lines:
            answer = self.ask(plain(b"abc", b"HTTP/1.1 200 OK\r\n", headers=[("Content-Length", "5")]))
        self.assertTrue(answer.endswith(b"\r\n\r\nabcHT"), answer)
        self.assertIn("longer than its Content-Length", lines[0])

    def test_shorter_than_announced(self) -> None:
        """A body that is shorter than its Content-Length ends the connection, so that nobody takes it for whole."""
        self.serve(plain(b"abc", headers=[("Content-Length", "5")]))
        channel, transport = self.connect()
        with self.captured() as lines:
            channel.dataReceived(GET)
            self.work()
        self.assertTrue(transport.disconnecting)
        self.assertIn("ended 2 bytes before its Content-Length", lines[0])

    def test_raises(self) -> None:
        """What an application raises is 500 and a traceback in the log; in the middle of a body it is cut short."""
        for error in (ZeroDivisionError(), SystemExit(3)):

            def application(environ: Any, start_response: Any, error: BaseException = error) -> Any:
                raise error

            self.assertIn(b" 500 ", self.ask(application))
            self.assertEqual(len(self.flushLoggedErrors()), 1)

        def generator(environ: Any, start_response: Any) -> Iterator[bytes]:
            start_response("200 OK", [])
            yield b"begun"
            raise ZeroDivisionError

        self.serve(generator)
        channel, transport = self.connect()
        channel.dataReceived(GET)
        self.work()
        self.assertTrue(transport.value().endswith(b"5\r\nbegun\r\n"))
        self.assertTrue(transport.disconnecting)
        self.assertFalse(transport.aborted)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        # Where only the connection's end ends the answer, a good end would say that it is whole.
        channel, transport = self.connect()
        channel.dataReceived(b"GET / HTTP/1.0\r\n\r\n")
        self.work()
        self.assertTrue(transport.aborted)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_close_raises(self) -> None:
        """What close() raises is in the log; the answer has been sent."""
        answer = self.ask(plain_of(Endless(ends=True, error=ZeroDivisionError()), []))
        self.assertTrue(answer.endswith(b"0\r\n\r\n"))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_next_request(self) -> None:
        """The connection is kept for the next request, also after 500."""
        self.serve(plain(b"x", status="no"))
        channel, transport = self.connect()
        channel.dataReceived(GET + GET)
        self.work()
        self.assertEqual(transport.value().count(b"HTTP/1.1 500"), 2)
        self.assertFalse(transport.disconnecting)
        self.assertEqual(len(self.flushLoggedErrors()), 2)

    def captured(self) -> Captured:
        """What is logged meanwhile."""
        return Captured()


class ClientTests(WSGICase):
    """Clients that leave, and clients that are slow."""

    def begin(self, application: Any, raw: bytes = GET) -> tuple[Any, Any]:
        """A request that waits for its thread."""
        self.serve(application)
        channel, transport = self.connect()
        channel.dataReceived(raw)
        return channel, transport

    def leave(self, channel: Any) -> None:
        channel.connectionLost(Failure(ConnectionDone()))

    def test_leaves_before_its_turn(self) -> None:
        """A request whose client leaves before a thread is free never reaches the application."""
        asked: list[str] = []

        def application(environ: Any, start_response: Any) -> Any:
            asked.append(environ["PATH_INFO"])
            start_response("200 OK", [])
            return [b"x"]

        self.serve(application, threads=1)
        channels = []
        for path in (b"/first", b"/second", b"/third"):
            channel, _ = self.connect()
            channel.dataReceived(GET.replace(b"/ ", path + b" "))
            channels.append(channel)
        self.assertEqual(self.threads.waiting, 2)
        self.leave(channels[1])
        self.assertEqual(self.threads.waiting, 1)
        self.work()
        self.assertEqual(asked, ["/first", "/third"])

    def test_leaves_meanwhile(self) -> None:
        """The iterable is not asked any further, and closed once; the connection's end is no error."""
        for closes_at, piece in ((1, b"x"), (3, b"x"), (3, b"")):
            endless = Endless(piece=piece)
            channel, _ = self.begin(plain_of(endless, []))
            endless.then = (closes_at, lambda channel=channel: self.leave(channel))
            self.work()
            self.assertEqual((endless.asked, endless.closed), (closes_at, 1))

    def test_write_to_nobody(self) -> None:
        """`write` tells an application that its client is gone, since nothing else could end it."""
        seen: list[BaseException] = []

        def application(environ: Any, start_response: Any) -> Any:
            write = start_response("200 OK", [])
            write(b"a")
            self.clock.turn()
            self.leave(channel)
            try:
                write(b"b")
            except ClientGone as error:
                seen.append(error)
                raise
            return []

        channel, _ = self.begin(application)
        self.work()
        self.assertEqual(len(seen), 1)

    def test_body_stays_readable(self) -> None:
        """The body of a client that has left can still be read; it is closed after the application is done."""
        read: list[bytes] = []
        bodies: list[Any] = []

        def application(environ: Any, start_response: Any) -> Any:
            self.leave(channel)
            bodies.append(environ["wsgi.input"])
            read.append(environ["wsgi.input"].read())
            start_response("200 OK", [])
            return [b"x"]

        channel, _ = self.begin(application, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
        self.work()
        self.assertEqual((read, bodies[0].closed), ([b"abc"], True))

    def test_slow_client(self) -> None:
        """The application's thread waits once it is a MiB ahead of its client, and goes on as it reads."""
        endless = Endless(piece=b"x" * PIECE)
        channel, transport = self.begin(plain_of(endless, []))
        thread = self.in_a_thread()
        self.turn_until(lambda: endless.asked >= 1)
        channel._channel.pauseProducing()  # the transport's buffer is full
        most = MOST_AHEAD // PIECE
        answer = channel._channel.requests[0]._answer
        self.turn_until(lambda: answer._ahead >= MOST_AHEAD and self.threads._lent == 1)
        written, asked = len(transport.value()), endless.asked
        self.assertLessEqual(asked * PIECE - written, MOST_AHEAD + PIECE)
        self.clock.turn()
        self.assertLessEqual(endless.asked, asked + 1)  # the one that it waits with
        self.assertEqual(len(transport.value()), written)
        channel._channel.resumeProducing()
        self.turn_until(lambda: endless.asked > asked + most)
        self.assertEqual(self.threads._lent, 0)
        channel._channel.pauseProducing()
        self.turn_until(lambda: self.threads._lent == 1)
        self.leave(channel)
        self.turn_until(lambda: not thread.is_alive())
        self.assertEqual((endless.closed, self.threads._lent), (1, 0))

    def test_slow_client_of_small_pieces(self) -> None:
        """What waits for a client is not counted anew with each piece: a MiB of short lines is 80,000 of them."""
        channel, _ = self.begin(plain_of(Endless(piece=b"a line\n"), []))
        answer = channel._channel.requests[0]._answer
        answer._take(Head(code=200, reason=b"OK", headers=()), b"a line\n", False)
        answer.pauseProducing()
        began = time.process_time()
        for _ in range(20_000):
            answer._take(None, b"a line\n", False)
        self.assertLess(time.process_time() - began, 2)  # it was six seconds, and is six milliseconds
        self.leave(channel)

    def test_large_piece(self) -> None:
        """One large piece is handed over in small ones, so that it is not in memory twice; all of it arrives."""
        data = bytes(range(256)) * 1024  # four times what goes at once
        answer = self.ask(plain(data))
        self.assertEqual(answer.partition(b"\r\n\r\n")[2], data)

    def test_stalled(self) -> None:
        """A client that takes nothing for a minute is given up."""
        endless = Endless(piece=b"x" * PIECE)
        channel, transport = self.begin(plain_of(endless, []))
        thread = self.in_a_thread()
        self.turn_until(lambda: endless.asked >= 1)
        channel._channel.pauseProducing()
        self.turn_until(lambda: self.threads._lent == 1)
        self.clock.advance(STALL_SECONDS - 1)
        self.assertFalse(transport.aborted)
        self.clock.advance(2)
        self.assertTrue(transport.aborted)
        self.leave(channel)
        self.turn_until(lambda: not thread.is_alive())
        self.assertEqual(endless.closed, 1)

    def test_pipelined_behind_a_slow_answer(self) -> None:
        """An answer that begins while the one before it still waits to be read is held back as well."""
        self.serve(plain_of(Endless(ends=True, piece=b"y" * 100), []))
        channel, transport = self.connect()
        channel._channel.pauseProducing()
        channel.dataReceived(GET)
        self.work()
        self.assertNotIn(b"yyy", transport.value())
        channel._channel.resumeProducing()
        self.clock.turn()
        self.assertTrue(transport.value().endswith(b"0\r\n\r\n"))

    def in_a_thread(self) -> threading.Thread:
        """Do what waits, in a thread of its own."""
        work = self.threads._works.get_nowait()
        assert work is not None
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        return thread

    def turn_until(self, condition: Any) -> None:
        """Let the reactor turn until something holds; fails after ten seconds."""
        for _ in range(1000):
            self.clock.turn()
            if condition():
                return
            self.clock.called.wait(0.01)
        self.fail("waited in vain")
