"""A WSGI application in front of a fake connection: no sockets, and threads only when the test says so."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from serverworker.processes.hosts.threads import Threads
from serverworker.processes.hosts.wsgi_call import Application
from serverworker.processes.hosts.wsgi_request import Served, WSGIFactory


class CallingClock(Clock):
    """A Clock that also keeps what threads want to be called, until `turn`."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[Callable[[], object]] = []
        self._lock = threading.Lock()
        self.called = threading.Event()

    def callFromThread(self, callable: Callable[..., object], *args: object, **kwargs: object) -> None:
        with self._lock:
            self._calls.append(lambda: callable(*args, **kwargs))
        self.called.set()

    def turn(self) -> int:
        """Call what threads have asked for so far; answers how many."""
        count = 0
        while True:
            with self._lock:
                calls, self._calls = self._calls, []
                self.called.clear()
            if not calls:
                return count
            for call in calls:
                call()
            count += len(calls)


class HandThreads:
    """Starts nothing: what a thread would do is done by `run`, in the test's own, until it would wait for work."""

    def __init__(self) -> None:
        self.started: list[Callable[[], None]] = []
        self.fails = False

    def __call__(self, run: Callable[[], None], name: str) -> None:
        if self.fails:
            raise RuntimeError("can't start new thread")
        self.started.append(run)


class Connection(StringTransport):
    """A client's connection, which may be behind."""

    def __init__(self) -> None:
        super().__init__(peerAddress=IPv4Address("TCP", "192.0.2.7", 5000))
        self.host = IPv4Address("TCP", "192.0.2.1", 8080)
        self.aborted = False

    def getHost(self) -> Any:
        return self.host

    def abortConnection(self) -> None:
        self.aborted = True
        super().abortConnection()


class WSGICase(SynchronousTestCase):
    """Asks an application, by bytes."""

    def setUp(self) -> None:
        self.clock = CallingClock()
        self.starts = HandThreads()

    def serve(self, application: Application, threads: int = 2) -> None:
        """Have the application served."""
        self.threads = Threads(cast(Any, self.clock), threads, self.starts)
        self.factory = WSGIFactory(
            Served(
                application=application,
                threads=self.threads,
                reactor=self.clock,
                multithread=threads > 1,
            )
        )

    def connect(self) -> tuple[Any, Connection]:
        """A new connection: its channel and transport."""
        channel: Any = self.factory.buildProtocol(IPv4Address("TCP", "192.0.2.7", 5000))
        transport = Connection()
        channel.makeConnection(transport)
        return channel, transport

    def work(self) -> None:
        """Do what waits in the threads' queue, in this thread, and what they ask the reactor for."""
        while not self.threads._works.empty():
            work = self.threads._works.get_nowait()
            if work is None:  # a thread is to end
                self.threads._works.put(None)
                return
            work()
            self.clock.callFromThread(self.threads._done)
            self.clock.turn()

    def ask(self, application: Application, raw: bytes = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n") -> bytes:
        """One request: all that is answered."""
        self.serve(application)
        channel, transport = self.connect()
        channel.dataReceived(raw)
        self.work()
        return without_date(transport.value())


def without_date(answer: bytes) -> bytes:
    """An answer without the header that is another one each second."""
    return b"".join(line for line in answer.splitlines(True) if not line.startswith(b"Date: "))


def plain(*pieces: Any, status: str = "200 OK", headers: list[Any] | None = None) -> Application:
    """An application that answers the same to everybody."""

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response(status, [("Content-Type", "text/plain")] if headers is None else headers)
        return list(pieces)

    return application


class Marked:
    """What stands beside the channel of a heartbeat's connection."""

    is_heartbeat = True


class Endless:
    """A body without an end, but for `ends`; it counts."""

    def __init__(self, *, ends: bool = False, error: Exception | None = None, piece: bytes = b"x") -> None:
        self.asked = 0
        self.closed = 0
        self.then: tuple[int, Any] = (0, None)
        self._ends = ends
        self._error = error
        self._piece = piece

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._ends and self.asked == 1:
            raise StopIteration
        self.asked += 1
        if self.asked == self.then[0]:
            self.then[1]()
        return self._piece

    def close(self) -> None:
        self.closed += 1
        if self._error is not None:
            raise self._error


@implementer(ILogObserver)
class Captured:
    """The texts of what is logged in a block."""

    def __enter__(self) -> list[str]:
        self.lines: list[str] = []
        globalLogPublisher.addObserver(self)
        return self.lines

    def __call__(self, event: LogEvent) -> None:
        self.lines.append(formatEvent(event))

    def __exit__(self, *_: object) -> None:
        globalLogPublisher.removeObserver(self)


def plain_of(body: Any, headers: list[tuple[str, str]]) -> Any:
    """An application with this iterable as its body."""

    def application(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", headers)
        return body

    return application


def twice(environ: Any, start_response: Any) -> Any:
    """An application that begins its answer twice."""
    start_response("200 OK", [])
    start_response("200 OK", [])
    return []
