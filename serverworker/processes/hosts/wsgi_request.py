"""HTTP requests for a WSGI application: what happens in the reactor's thread."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any, BinaryIO, cast

from attrs import frozen
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import HTTPFactory, Request, datetimeToString
from zope.interface import implementer

from serverworker.processes.hosts.threads import MOST_WAITING, Threads
from serverworker.processes.hosts.wsgi_call import Application, Call, ClientGone, Head
from serverworker.processes.hosts.wsgi_environ import make_environ, read_target

MOST_AHEAD = 2**20
"""So many bytes of an answer the application may be ahead of its client; then its thread waits."""
PIECE = 2**16
"""So much is given to the transport at once: its own buffer is of this size."""
STALL_SECONDS = 60.0
"""A client that takes nothing for so long, though there is something, is given up."""


@frozen(kw_only=True)
class Served:
    """What the requests of one application have in common."""

    application: Application
    threads: Threads
    reactor: Any
    multithread: bool


class WSGIFactory(HTTPFactory):
    """The factory of the connections of one application."""

    def __init__(self, served: Served) -> None:
        super().__init__(reactor=cast(IReactorTime, served.reactor))
        self.served = served

    def buildProtocol(self, addr: Any) -> Any:
        """A channel whose requests are ours."""
        protocol: Any = super().buildProtocol(addr)
        protocol.requestFactory = WSGIRequest
        return protocol

    def __repr__(self) -> str:
        return "<the WSGI application>"


class WSGIRequest(Request):
    """A request that is answered by an application in a thread."""

    _answer: Answer | None = None

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """All of it has come. Forms are left for the application to read."""
        self.method, self.uri, self.clientproto = command, path, version
        self.path = path.partition(b"?")[0]
        self.responseHeaders.setRawHeaders(b"Date", [datetimeToString()])
        self.process()

    def process(self) -> None:
        """Have it answered."""
        target = read_target(self.uri)
        if target is None:
            self._answer_without_application()
            return
        served: Served = cast(Any, self.channel).factory.served
        # From now on it is the thread's: what is read there must not be closed here.
        body = cast(BinaryIO, self.content)
        self.content = None
        body.seek(0)
        environ = make_environ(self, target, body, multithread=served.multithread)
        answer = Answer(self, served)
        self._answer = answer
        answer.begin(Call(served.application, environ, body, answer))

    def _answer_without_application(self) -> None:
        if self.uri == b"*" and self.method == b"OPTIONS":  # of the server as a whole
            self.refuse(200, b"")
        else:
            self.refuse(400, b"Bad Request\n", close=True)

    def refuse(self, code: int, text: bytes, *, close: bool = False) -> None:
        """Answer without the application."""
        self.setResponseCode(code)
        self.responseHeaders.setRawHeaders(b"Content-Type", [b"text/plain"])
        self.responseHeaders.setRawHeaders(b"Content-Length", [b"%d" % len(text)])
        if close:
            self.responseHeaders.setRawHeaders(b"Connection", [b"close"])
            cast(Any, self.channel).persistent = False
        self.write(text)
        self.finish()

    def connectionLost(self, reason: Failure) -> None:
        """The client has left."""
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.client_left()
        super().connectionLost(reason)


@implementer(IPushProducer)
class Answer:
    """Takes what a thread gives, and passes it on as fast as the client takes it."""

    _log = Logger(namespace="serverworker.wsgi")

    def __init__(self, request: WSGIRequest, served: Served) -> None:
        self._request: WSGIRequest | None = request
        self._threads = served.threads
        self._reactor = served.reactor
        self._call: Call | None = None
        self._room = threading.Condition(threading.Lock())
        self._ahead = 0
        self._pieces: deque[tuple[bytes, bool]] = deque()
        self._held = 0
        """The bytes in them: counted, for they may be as many as bytes."""
        self._is_registered = False
        self._is_paused = False
        self._is_lent = False
        self._stalled: IDelayedCall | None = None
        self.is_gone = False
        """See `Outlet`."""

    def begin(self, call: Call) -> None:
        """Have the application called in a thread, as soon as there is one."""
        assert self._request is not None
        self._call = call
        urgent = _is_heartbeat(self._request)
        if not self._threads.run(call, urgent=urgent):
            self._log.warn(
                "{count} requests wait for a thread; one more is refused with 503", count=MOST_WAITING
            )
            call.close()
            request = self._end()
            request.responseHeaders.setRawHeaders(b"Retry-After", [b"1"])
            request.refuse(503, b"Service Unavailable\n")

    # --- in the application's thread ------------------------------------------------------------

    def give(self, head: Head | None, data: bytes, last: bool) -> None:
        """See `Outlet`."""
        if len(data) <= PIECE:
            self._hand_over(head, data, last)
            return
        for start in range(0, len(data), PIECE):
            end = start + PIECE
            self._hand_over(head, data[start:end], last and end >= len(data))
            head = None

    def _hand_over(self, head: Head | None, piece: bytes, last: bool) -> None:
        with self._room:
            while self._ahead >= MOST_AHEAD and not self.is_gone:
                self._room.wait()
            if self.is_gone:
                raise ClientGone("the client has closed its connection")
            self._ahead += len(piece)
        self._reactor.callFromThread(self._take, head, piece, last)

    def cut_short(self) -> None:
        """See `Outlet`."""
        self._reactor.callFromThread(self._cut_short)

    # --- in the reactor's thread ----------------------------------------------------------------

    def _take(self, head: Head | None, piece: bytes, last: bool) -> None:
        request = self._request
        if request is None:
            return
        if head is not None:
            _begin_answer(request, head)
        if last and not self._is_registered:
            self._end()
            request.write(piece)
            request.finish()
            return
        if not self._is_registered:
            self._is_registered = True
            request.registerProducer(self, True)
            # What was asked for before, on the same connection, may still wait for the client to read it.
            if getattr(request.channel, "_waitingForTransport", False):
                self.pauseProducing()
        self._pieces.append((piece, last))
        self._held += len(piece)
        self._pass_on()

    def _pass_on(self) -> None:
        request = self._request
        assert request is not None
        passed = 0
        while self._pieces and not self._is_paused:
            piece, last = self._pieces.popleft()
            passed += len(piece)
            request.write(piece)
            if last:
                self._end()
                request.finish()
                return
        self._held -= passed
        if passed:
            with self._room:
                self._ahead -= passed
                self._room.notify()
        self._lend_or_take_back()

    def _lend_or_take_back(self) -> None:
        is_behind = self._held >= MOST_AHEAD
        if is_behind and not self._is_lent:
            self._is_lent = True
            self._threads.lend()
        elif self._is_lent and not is_behind:
            self._is_lent = False
            self._threads.take_back()

    def pauseProducing(self) -> None:
        """The client is behind."""
        self._is_paused = True
        if self._stalled is None:
            self._stalled = self._reactor.callLater(STALL_SECONDS, self._give_up)

    def resumeProducing(self) -> None:
        """The client has taken what there was."""
        self._is_paused = False
        self._stop_waiting()
        if self._request is not None:
            self._pass_on()

    def stopProducing(self) -> None:
        """The connection is lost: `client_left` follows."""

    def _give_up(self) -> None:
        self._stalled = None
        if self._request is not None:
            self._log.info(
                "a client has taken nothing for {seconds:g} s; its connection is closed",
                seconds=STALL_SECONDS,
            )
            cast(Any, self._request.channel).forceAbortClient()

    def _stop_waiting(self) -> None:
        timer, self._stalled = self._stalled, None
        if timer is not None:
            timer.cancel()

    def _cut_short(self) -> None:
        if self._request is None:
            return
        request = self._end()
        if not request.startedWriting:
            request.responseHeaders.removeHeader(b"Content-Length")
            request.refuse(500, b"Internal Server Error\n")
            return
        channel = cast(Any, request.channel)
        if request.chunked or request.responseHeaders.hasHeader(b"Content-Length"):
            channel.loseConnection()  # the client sees that something is missing
        else:
            channel.forceAbortClient()  # only the end of the connection ends this answer, so it must be a bad one

    def client_left(self) -> None:
        """The connection is gone: whoever waits is woken, and what has not begun never does."""
        call = self._call
        if self._request is not None:
            self._end()
        if call is not None and self._threads.forget(call):
            call.close()

    def _end(self) -> WSGIRequest:
        """Nothing is taken any more."""
        request = self._request
        assert request is not None
        self._request = self._call = request._answer = None
        self._pieces.clear()
        self._held = 0
        self._stop_waiting()
        if self._is_registered:
            self._is_registered = False
            if request.channel is not None:
                request.unregisterProducer()
        if self._is_lent:
            self._is_lent = False
            self._threads.take_back()
        with self._room:
            self.is_gone = True
            self._room.notify()
        return request


def _begin_answer(request: WSGIRequest, head: Head) -> None:
    request.setResponseCode(head.code, head.reason)
    headers = request.responseHeaders
    for name, value in head.headers:
        if name.lower() == b"date":
            headers.setRawHeaders(name, [value])
        else:
            headers.addRawHeader(name, value)


def _is_heartbeat(request: WSGIRequest) -> bool:
    connection = getattr(request.channel, "_serverworker", None)
    return bool(getattr(connection, "is_heartbeat", False))
