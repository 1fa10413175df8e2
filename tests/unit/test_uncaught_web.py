"""Whether a visitor can kill a worker: what happens inside requests, and when a client goes away, made for real."""

from __future__ import annotations

import gc
import random
import socket
import threading
from collections.abc import Callable
from typing import Any

from klein import Klein
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionDone
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.web.http import HTTPChannel
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET, Request, Site
from twisted.web.static import File
from twisted.web.wsgi import WSGIResource

from tests.unit.test_uncaught import Bug, Talker, UncaughtTestCase, bug


class Page(Resource):
    """A page that answers what a function returns."""

    isLeaf = True

    def __init__(self, answer: Callable[[Request], object]) -> None:
        super().__init__()
        self.answer = answer

    def render_GET(self, request: Request) -> Any:
        """Whatever the test wants."""
        return self.answer(request)


GET = b"GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


class WebTests(UncaughtTestCase):
    """A visitor cannot kill a worker."""

    def serve(self, page: IResource | Callable[[Request], object]) -> int:
        """A site of one page."""
        site = Site(page if IResource.providedBy(page) else Page(page))
        site.noisy = False
        return self.listen(site)

    async def leave(self, later: Callable[[Request], object]) -> None:
        """Ask for a page that never comes, go away, and let the application do something afterwards."""
        requests: list[Request] = []

        def answer(request: Request) -> int:
            requests.append(request)
            return NOT_DONE_YET

        client = self.connect(self.serve(answer), GET)
        await self.eventually(lambda: requests)
        client.close()
        await self.eventually(lambda: requests[0]._disconnected)
        later(requests[0])

    async def test_a_page_that_raises(self) -> None:
        """It is the web server's 500."""
        answer = await self.answer(self.connect(self.serve(bug), GET))
        self.assertIn(b" 500 ", answer)
        await self.noise()

    async def test_a_page_that_raises_later(self) -> None:
        """`processingFailed` answers 500 and passes the failure on, into a Deferred that is dropped."""

        def answer(request: Request) -> int:
            deferLater(self.reactor, 0).addCallback(bug).addErrback(request.processingFailed)
            return NOT_DONE_YET

        self.assertIn(b" 500 ", await self.answer(self.connect(self.serve(answer), GET)))
        await self.noise(count=2)

    async def test_a_page_that_drops_a_failure(self) -> None:
        """A Deferred that nobody looks at is a crash, inside a request as anywhere."""
        client = self.connect(self.serve(lambda _: (fail(Bug("it broke")), b"ok")[1]), GET)
        await self.crash()
        await self.answer(client)

    async def test_a_page_that_raises_in_a_timed_call(self) -> None:
        """It has left the request, even where the web server's own code is what complains."""

        def answer(request: Request) -> int:
            self.reactor.callLater(0, request.write, "no bytes")
            return NOT_DONE_YET

        self.connect(self.serve(answer), GET)
        await self.crash(TypeError)

    async def test_finish_after_the_client_left(self) -> None:
        """From a timed call and from a Deferred."""
        await self.leave(lambda request: self.reactor.callLater(0, request.finish))
        await self.noise(RuntimeError)
        await self.leave(lambda request: deferLater(self.reactor, 0).addCallback(lambda _: request.finish()))
        await self.noise(RuntimeError)

    async def test_render_after_the_client_left(self) -> None:
        """The failure of a page that nobody waits for any more, and of answering it."""
        await self.leave(
            lambda request: deferLater(self.reactor, 0).addCallback(bug).addErrback(request.processingFailed)
        )
        await self.noise()
        await self.noise(RuntimeError)

    async def test_produce_after_the_client_left(self) -> None:
        """What streams finds no channel."""
        await self.leave(
            lambda request: deferLater(self.reactor, 0).addCallback(
                lambda _: request.registerProducer(Talker(), True)
            )
        )
        await self.noise(AttributeError)

    async def test_unhandled_notify_finish(self) -> None:
        """Whoever asks to be told of the end seldom handles the failure."""
        ends: list[object] = []

        def answer(request: Request) -> int:
            request.notifyFinish().addCallback(ends.append)
            return NOT_DONE_YET

        client = self.connect(self.serve(answer), GET)
        await deferLater(self.reactor, 0.02)
        client.close()
        await self.noise(ConnectionDone)

    async def test_write_after_finish(self) -> None:
        """A double answer is the application's bug, but it happens when two visitors' answers cross."""

        def answer(request: Request) -> int:
            request.finish()
            deferLater(self.reactor, 0).addCallback(lambda _: request.write(b"more"))
            return NOT_DONE_YET

        await self.answer(self.connect(self.serve(answer), GET))
        await self.noise(RuntimeError)

    async def test_a_fault_of_the_parser(self) -> None:
        """What breaks before a request is one: the connection is closed, and that is all."""

        class Broken(Request):
            def gotLength(self, length: int | None) -> None:
                bug()

        site = Site(Page(lambda _: b"ok"), requestFactory=Broken)
        site.noisy = False
        await self.answer(self.connect(self.listen(site), GET))
        await self.noise()

    async def test_a_fault_of_the_parser_with_a_request_in_flight(self) -> None:
        """The request hears of it as its reason, in a Deferred that nobody handles."""
        requests: list[Request] = []

        def answer(request: Request) -> int:
            requests.append(request)
            request.notifyFinish().addCallback(id)
            return NOT_DONE_YET

        client = self.connect(self.serve(answer), GET.replace(b"close", b"keep-alive"))
        await self.eventually(lambda: requests)
        self.patch(HTTPChannel, "rawDataReceived", bug)
        client.sendall(b"more")
        await self.answer(client)
        await self.noise(count=2)

    async def test_strange_bytes(self) -> None:
        """Whatever comes over the wire."""
        port = self.serve(lambda _: b"ok")
        source = random.Random(20260101)  # noqa: S311  (a seed is the point)
        for _ in range(40):
            data = source.choice([GET, b"", b"POST / HTTP/1.1\r\n"]) + source.randbytes(source.randrange(300))
            cut = source.randrange(len(data) + 1)
            client = self.connect(port, data[:cut] + b"\r\n" + data[cut:])
            client.shutdown(socket.SHUT_WR)
            await self.answer(client)
        self.assertEqual(self.crashes, [])
        self.flushLoggedErrors()

    async def test_a_file_whose_reader_leaves(self) -> None:
        """In the middle of a large answer."""
        path = self.mktemp()
        with open(path, "wb") as file:  # noqa: ASYNC230
            file.truncate(50_000_000)
        client = self.connect(self.serve(File(path)), GET.replace(b"/x", b"/"))
        await deferLater(self.reactor, 0.05)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
        for _ in range(20):
            await deferLater(self.reactor, 0.005)
            gc.collect()
        self.assertEqual(self.crashes, [])
        self.flushLoggedErrors()

    async def test_klein(self) -> None:
        """An application of Klein's: one route that raises, one whose client does not wait for it."""
        app, pending = Klein(), list[Deferred[bytes]]()
        app.route("/x")(bug)

        @app.route("/slow")  # type: ignore[untyped-decorator,unused-ignore]
        def slow(_: object) -> Deferred[bytes]:
            pending.append(Deferred())
            return pending[0]

        port = self.serve(app.resource())
        self.assertIn(b" 500 ", await self.answer(self.connect(port, GET)))
        await self.noise()
        client = self.connect(port, GET.replace(b"/x", b"/slow"))
        await self.eventually(lambda: pending)
        client.close()
        await deferLater(self.reactor, 0.02)
        pending.pop().callback(b"too late")
        for _ in range(3):
            await deferLater(self.reactor, 0)
            gc.collect()
        self.assertEqual(self.crashes, [])
        self.flushLoggedErrors()

    def wsgi(self, application: Callable[..., object]) -> WSGIResource:
        """A WSGI application in the reactor's own pool."""
        return WSGIResource(self.reactor, self.reactor.getThreadPool(), application)

    async def test_a_wsgi_application_that_raises(self) -> None:
        """It is a 500 too, though it is raised in a thread."""
        answer = await self.answer(self.connect(self.serve(self.wsgi(bug)), GET))
        self.assertIn(b" 500 ", answer)
        await self.noise()

    async def test_a_wsgi_application_whose_reader_leaves(self) -> None:
        """While it waits, while it streams, and when it then raises."""
        for raises in (False, True):
            entered, left = threading.Event(), threading.Event()

            def application(environ: object, start_response: Callable[..., object]) -> Any:
                start_response("200 OK", [])
                yield b"first"
                entered.set()  # noqa: B023  (awaited before the next turn)
                left.wait(10)  # noqa: B023
                yield b"second"
                if raises:  # noqa: B023
                    bug()

            client = self.connect(self.serve(self.wsgi(application)), GET)
            await deferToThread(entered.wait, 10)
            client.close()
            await deferLater(self.reactor, 0.05)
            left.set()
            await deferLater(self.reactor, 0.05)
        gc.collect()
        self.assertEqual(self.crashes, [])
        self.flushLoggedErrors()
