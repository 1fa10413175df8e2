"""The threads of a WSGI application: who waits, who goes first, and how they end."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.defer import Deferred

from serverworker.processes.hosts.threads import MOST_LENT, MOST_WAITING, Threads
from serverworker.processes.hosts.wsgi import WSGIHost
from serverworker.processes.http_channel import HTTPConnection
from tests.unit.wsgi_case import Captured, Marked, WSGICase, plain

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class QueueTests(WSGICase):
    """Who waits for a thread."""

    def test_refused(self) -> None:
        """Past a thousand that wait, a request is refused with 503 and told to come again."""
        self.serve(plain(b"x"), threads=1)
        for _ in range(MOST_WAITING + 1):
            self.connect()[0].dataReceived(GET)
        self.assertEqual(self.threads.waiting, MOST_WAITING)
        with Captured() as lines:
            channel, transport = self.connect()
            channel.dataReceived(GET)
        answer = transport.value()
        self.assertIn(b"HTTP/1.1 503 Service Unavailable\r\n", answer)
        self.assertIn(b"Retry-After: 1", answer)
        self.assertIn("1000 requests wait for a thread", lines[0])

    def test_heartbeat_first(self) -> None:
        """The heartbeat's request goes before all that wait; a visitor's that calls itself so does not."""
        order: list[str] = []

        def application(environ: Any, start_response: Any) -> Any:
            order.append(environ["PATH_INFO"])
            start_response("200 OK", [])
            return [b"x"]

        self.serve(application, threads=1)
        for path in (b"/busy", b"/waiting", b"/beat"):
            channel, _ = self.connect()
            if path == b"/beat":
                channel._channel._serverworker = Marked()
            channel.dataReceived(GET.replace(b"/ ", path + b" "))
        channel, _ = self.connect()
        channel.dataReceived(
            GET.replace(b"/ ", b"/liar ").replace(
                b"\r\n\r\n", b"\r\nUser-Agent: serverworker-heartbeat\r\n\r\n"
            )
        )
        self.work()
        self.assertEqual(order, ["/busy", "/beat", "/waiting", "/liar"])
        self.assertIsInstance(HTTPConnection.is_heartbeat, property)

    def test_without_application(self) -> None:
        """OPTIONS * is of the server; CONNECT, and any other target without a path, is a bad request."""
        self.assertIn(b"HTTP/1.1 200 OK\r\n", self.ask(plain(b"x"), b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"))
        for line in (b"CONNECT a:443", b"GET *", b"GET a", b"GET ftp://a/"):
            answer = self.ask(plain(b"x"), line + b" HTTP/1.1\r\nHost: a\r\n\r\n" + GET)
            self.assertTrue(answer.startswith(b"HTTP/1.1 400 Bad Request\r\n"), answer)
            self.assertEqual(answer.count(b"HTTP/1.1 "), 1)


class PoolTests(WSGICase):
    """The books of the pool."""

    def pool(self, size: int) -> Threads:
        """A pool whose threads do nothing by themselves."""
        self.threads = Threads(cast(Any, self.clock), size, self.starts)
        return self.threads

    def test_as_many_as_needed(self) -> None:
        """Threads are started when there is work for them, up to the size, and used again."""
        pool = self.pool(3)
        self.assertEqual(self.starts.started, [])
        for _ in range(5):
            pool.run(lambda: None)
        self.assertEqual((len(self.starts.started), pool.waiting), (3, 2))
        self.work()
        self.assertEqual(pool.waiting, 0)
        pool.run(lambda: None)
        self.assertEqual(len(self.starts.started), 3)

    def test_lent(self) -> None:
        """In the place of those that wait for their clients others are started: a hundred at most, and the heartbeat."""
        pool = self.pool(1)
        for _ in range(MOST_LENT + 10):
            pool.run(lambda: None)
        self.assertEqual(len(self.starts.started), 1)
        for number in range(MOST_LENT + 5):
            pool.lend()
            self.assertEqual(len(self.starts.started), min(number + 2, MOST_LENT + 1))
        pool.run(lambda: None, urgent=True)
        self.assertEqual(len(self.starts.started), MOST_LENT + 2)
        for _ in range(MOST_LENT + 5):
            pool.take_back()
        waiting = pool.waiting
        pool.run(lambda: None, urgent=True)
        self.assertEqual(pool.waiting, waiting + 1)

    def test_no_more_threads(self) -> None:
        """Where the machine allows no further thread, the work is done by those that there are."""
        pool = self.pool(3)
        done: list[int] = []
        pool.run(lambda: done.append(1))
        self.starts.fails = True
        with Captured() as lines:
            pool.run(lambda: done.append(2))
        self.assertIn("cannot start a thread: can't start new thread; there are 1", lines[0])
        self.work()
        self.assertEqual(done, [1, 2])

    def test_end(self) -> None:
        """The host's stop waits until everything is done, then each thread ends; one that was never used has none."""
        host = WSGIHost("an application", plain(b"x"), 2)
        self.successResultOf(self.coroutine(host))
        pool = host._threads = self.pool(2)
        pool.run(lambda: None)
        stopped = self.coroutine(host)
        self.assertNoResult(stopped)
        self.work()
        self.successResultOf(stopped)
        self.starts.started[0]()  # a thread: it finds that it is to end

    def test_gave_up_waiting(self) -> None:
        """Whoever stopped waiting at a deadline is no trouble to the end that comes later."""
        pool = self.pool(1)
        pool.run(lambda: None)
        idle = pool.when_idle()
        idle.addErrback(lambda _: None)
        idle.cancel()
        self.work()

    def coroutine(self, host: WSGIHost) -> Any:
        return Deferred.fromCoroutine(host.stop())
