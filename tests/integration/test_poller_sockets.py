"""The heartbeat on real sockets: a good site, hostile servers, and no descriptor left behind."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from attrs import frozen
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectionClosed
from twisted.internet.interfaces import IAddress, IDelayedCall, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site
from twisted.web.static import File
from twisted.web.wsgi import WSGIResource

from serverworker.processes.heartbeat import Heartbeat, PollResult
from serverworker.processes.poller import Poller, SocketpairEndpoint
from serverworker.values.causes import Beat
from serverworker.values.settings import PollingSettings

TIMEOUT_SECONDS = 0.4


def open_sockets() -> frozenset[str]:
    """Those of this process, each with a name that is never used again."""
    names = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one that reads the folder
            names.append(str(descriptor.readlink()))
    return frozenset(name for name in names if name.startswith("socket:"))


class Page(Resource):
    """A page that answers what a function returns."""

    isLeaf = True

    def __init__(self, answer: Callable[[Request], bytes | int]) -> None:
        super().__init__()
        self.answer = answer

    def render_GET(self, request: Request) -> bytes | int:
        """Whatever the test wants."""
        return self.answer(request)


@frozen
class Hostile:
    """A way of answering badly, and what the poll has to say about it."""

    words: str
    sends: bytes = b""
    hangs_up: bool = False
    drips: bytes = b""
    """Sent again every 20 ms, for ever."""
    pours: bytes = b""
    """Sent as fast as the client reads, for ever."""
    ok: bool = False


HALF = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"
HOSTILES = {
    "closes at once": Hostile("connection closed without an answer", hangs_up=True),
    "never answers": Hostile("no answer within 0.4 s"),
    "half a head, then silence": Hostile("no answer within 0.4 s", b"HTTP/1.1 200 OK\r\nContent-"),
    "half a head, then the end": Hostile("half an answer", b"HTTP/1.1 200 OK\r\nContent-", hangs_up=True),
    "stalls in the body": Hostile("half an answer (status 200) within 0.4 s", HALF),
    "breaks off in the body": Hostile("half an answer (status 200)", HALF, hangs_up=True),
    "answers 500": Hostile("500", b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"),
    "garbage": Hostile("no HTTP answer: ParseError", bytes(range(256)) + b"\r\n"),
    "another protocol": Hostile("no HTTP answer: ParseError", b"SSH-2.0-OpenSSH_9.2\r\n"),
    "a length that is none": Hostile(
        "no HTTP answer: ValueError", b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n"
    ),
    "a broken chunk": Hostile(
        "half an answer (status 200)", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
    ),
    "drips its head": Hostile("no answer within 0.4 s", b"HTTP/1.1 200 OK\r\n", drips=b"X-A: b\r\n"),
    "drips its body": Hostile("half an answer (status 200) within 0.4 s", HALF, drips=b"x"),
    "interim answers for ever": Hostile("no answer within 0.4 s", drips=b"HTTP/1.1 100 Continue\r\n\r\n"),
    "an endless body": Hostile("200", b"HTTP/1.1 200 OK\r\n\r\n", pours=b"x" * 60_000, ok=True),
    "a redirect into nowhere": Hostile(
        "302", b"HTTP/1.1 302 Go\r\nLocation: http://localhost:1/\r\nContent-Length: 0\r\n\r\n", ok=True
    ),
    "a body that is no gzip": Hostile(
        "200",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nxxxx",
        ok=True,  # complete as HTTP goes; what the bytes mean is not the heartbeat's affair
    ),
}


class HostileProtocol(Protocol):
    """Does as its `Hostile` says, at the first byte of a request."""

    next_drip: IDelayedCall | None = None

    def __init__(self, factory: HostileFactory) -> None:
        self.kept = factory

    def connectionMade(self) -> None:
        self.kept.open.add(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.kept.open.discard(self)
        if self.next_drip is not None:
            self.next_drip.cancel()

    def dataReceived(self, data: bytes) -> None:
        hostile = self.kept.hostile
        transport: Any = self.transport
        transport.write(hostile.sends)
        if hostile.hangs_up:
            transport.loseConnection()
        if hostile.drips:
            self.drip()
        if hostile.pours:
            transport.registerProducer(self, False)

    def drip(self) -> None:
        """Send a little, and again a little later, until the connection is gone."""
        assert self.transport is not None
        self.transport.write(self.kept.hostile.drips)
        self.next_drip = self.kept.reactor.callLater(0.02, self.drip)

    def resumeProducing(self) -> None:
        """The client reads: pour."""
        assert self.transport is not None
        self.transport.write(self.kept.hostile.pours)

    def stopProducing(self) -> None:
        """The connection is gone."""


class HostileFactory(Factory):
    """Builds hostile protocols, and knows which of their connections are open."""

    noisy = False

    def __init__(self, reactor: Any, hostile: Hostile) -> None:
        self.reactor = reactor
        self.hostile = hostile
        self.open: set[HostileProtocol] = set()

    def buildProtocol(self, addr: IAddress | None) -> HostileProtocol:
        return HostileProtocol(self)


class SocketsTestCase(TestCase):
    """Real sockets on the real reactor."""

    timeout = 60

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor

    def poller(self, endpoint: IStreamClientEndpoint, route: str | None = None) -> Poller:
        return Poller(self.reactor, endpoint, PollingSettings(route=route, timeout_seconds=TIMEOUT_SECONDS))

    def over_socketpair(self, factory: object) -> SocketpairEndpoint:
        return SocketpairEndpoint(self.reactor, cast(IProtocolFactory, factory))

    def over_tcp(self, factory: object) -> IStreamClientEndpoint:
        """An endpoint to a port that serves the factory, for the time of the test."""
        port = self.reactor.listenTCP(0, factory, interface="127.0.0.1", backlog=1024)
        self.addCleanup(port.stopListening)
        return TCP4ClientEndpoint(self.reactor, "127.0.0.1", port.getHost().port)

    def endpoints(self, factory: object) -> list[IStreamClientEndpoint]:
        return [self.over_socketpair(factory), self.over_tcp(factory)]

    async def eventually(self, holds: Callable[[], object], seconds: float = 10) -> None:
        """Wait until something holds, in turns of the reactor."""
        deadline = self.reactor.seconds() + seconds
        while not holds():
            self.assertLess(self.reactor.seconds(), deadline, "it never came to hold")
            await deferLater(self.reactor, 0.005)


class GoodSiteTests(SocketsTestCase):
    """A site that is well."""

    async def test_a_site_answers(self) -> None:
        """Through a socketpair and through TCP alike."""
        for endpoint in self.endpoints(Site(Page(lambda _: b"hello"))):
            result = await self.poller(endpoint, "/health").poll()
            self.assertEqual((result.ok, result.text, result.status), (True, "200", 200))

    async def test_the_application_sees_a_port(self) -> None:
        """What asks a request for host and peer finds both, as it would behind a real port."""

        def answer(request: Request) -> bytes:
            seen.append((request.getHost().port, request.getClientAddress().port, request.prePathURL()))
            return b""

        seen: list[tuple[int, int, bytes]] = []
        result = await self.poller(self.over_socketpair(Site(Page(answer))), "/x").poll()
        self.assertTrue(result.ok, result)
        self.assertEqual(seen, [(80, 80, b"http://localhost/")])

    async def test_a_static_folder_redirects(self) -> None:
        """Twisted's own pages build absolute addresses, for which they need a port."""
        folder = Path(self.mktemp())
        (folder / "sub").mkdir(parents=True)
        result = await self.poller(self.over_socketpair(Site(File(str(folder)))), "/sub").poll()
        self.assertEqual((result.ok, result.status), (True, 302))

    async def test_a_wsgi_application_answers(self) -> None:
        """WSGI's environment needs addresses as well, and a thread."""

        def application(environ: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:
            start_response("200 OK", [])
            return [environ["SERVER_PORT"].encode()]

        pool = self.reactor.getThreadPool()
        site = Site(WSGIResource(self.reactor, pool, application))
        result = await self.poller(self.over_socketpair(site), "/").poll()
        self.assertEqual(result.text, "200")

    async def test_an_access_log_is_written(self) -> None:
        """The site's own log takes the heartbeat as it takes any client."""
        path = self.mktemp()
        site = Site(Page(lambda _: b"hello"), logPath=path.encode())
        site.startFactory()
        result = await self.poller(self.over_socketpair(site)).poll()
        site.stopFactory()
        self.assertTrue(result.ok)
        self.assertIn('"GET / HTTP/1.1" 200', await deferToThread(Path(path).read_text))

    async def test_polls_leave_nothing_in_the_log(self) -> None:
        """A log with two lines a poll is a log that nobody reads."""
        events: list[LogEvent] = []
        keep = cast(ILogObserver, events.append)
        site = Site(Page(lambda _: b"hello"))
        site.noisy = False
        for endpoint in self.endpoints(site):
            globalLogPublisher.addObserver(keep)
            await self.poller(endpoint).poll()
            await deferLater(self.reactor, 0.01)
            globalLogPublisher.removeObserver(keep)
        formats = [event.get("log_format") for event in events]
        self.assertEqual([text for text in formats if text != "{log_io}"], [])  # that is the access log

    async def test_a_heartbeat_lives_and_dies(self) -> None:
        """First refused, then ready, then failing: told, tolerated, and given up."""
        probe = socket.socket()
        probe.bind(("127.0.0.1", 0))
        number = probe.getsockname()[1]
        probe.close()
        healthy = [True]

        def answer(request: Request) -> bytes:
            request.setResponseCode(200 if healthy[0] else 500)
            return b""

        site = Site(Page(answer))
        ready: Deferred[None] = Deferred()
        dead: Deferred[Beat] = Deferred()
        beats: list[Beat] = []
        settings = PollingSettings(route="/health", interval_seconds=0.1, failure_tolerance=2)
        heartbeat = Heartbeat(
            self.reactor,
            Poller(self.reactor, TCP4ClientEndpoint(self.reactor, "127.0.0.1", number), settings).poll,
            settings,
            told=beats.append,
            first_success=lambda: ready.callback(None),
            gave_up=dead.callback,
        )
        heartbeat.start()
        self.addCleanup(heartbeat.stop)
        await self.eventually(lambda: beats)
        port = self.reactor.listenTCP(number, site, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        await ready
        self.assertEqual(beats[0].text, "connection refused")
        self.assertTrue(beats[-1].ok)
        healthy[0] = False
        last = await dead
        self.assertEqual((last.text, last.failures), ("500", 3))


class HostileServerTests(SocketsTestCase):
    """Servers that answer badly, or not at all."""

    async def test_each_way_of_answering_badly(self) -> None:
        """Has its words, keeps the deadline, and leaves its connection closed at both ends."""
        factories = {name: HostileFactory(self.reactor, hostile) for name, hostile in HOSTILES.items()}
        endpoints = {name: self.endpoints(factory) for name, factory in factories.items()}
        before = open_sockets()

        async def check(name: str, endpoint: IStreamClientEndpoint) -> None:
            result = await self.poller(endpoint, "/health").poll()
            hostile = HOSTILES[name]
            self.assertTrue(result.text.startswith(hostile.words), (name, result))
            self.assertEqual(result.ok, hostile.ok, name)
            self.assertLess(result.seconds, TIMEOUT_SECONDS + 5, name)

        await gatherResults(
            [
                Deferred.fromCoroutine(check(name, endpoint))
                for name in HOSTILES
                for endpoint in endpoints[name]
            ]
        )
        await self.eventually(lambda: open_sockets() <= before)
        self.assertEqual([name for name, factory in factories.items() if factory.open], [])

    async def test_hundreds_of_polls_leave_no_descriptor(self) -> None:
        """Every ready-made body reader leaks a connection at each timeout; this one does not."""
        factories = [HostileFactory(self.reactor, hostile) for hostile in HOSTILES.values()]
        endpoints = [endpoint for factory in factories for endpoint in self.endpoints(factory)]
        before = open_sockets()
        for _ in range(2):
            polls = [self.poller(endpoint, "/health").poll() for endpoint in endpoints for _ in range(8)]
            results: list[PollResult] = await gatherResults(polls)
            self.assertEqual(len(results), 16 * len(HOSTILES))
            await self.eventually(lambda: open_sockets() <= before)

    async def test_a_server_that_takes_no_connection(self) -> None:
        """A factory that builds no protocol hangs up, as it does behind a port."""

        class Refusing(Factory):
            noisy = False

            def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
                asked.append(addr)
                return None

        asked: list[IAddress | None] = []
        before = open_sockets()
        result = await self.poller(self.over_socketpair(Refusing())).poll()
        self.assertEqual(result.text, "connection closed without an answer")
        self.assertEqual(asked, [IPv4Address("TCP", "127.0.0.1", 80)])
        await self.eventually(lambda: open_sockets() <= before)
        with self.assertRaises(ConnectionClosed):
            await self.over_socketpair(Refusing()).connect(cast(IProtocolFactory, Refusing()))
        await self.eventually(lambda: open_sockets() <= before)

    async def test_a_server_that_raises_at_the_door(self) -> None:
        """A factory with a bug is a failed poll, not a failed heartbeat."""

        class Broken(Factory):
            def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
                raise ZeroDivisionError

        before = open_sockets()
        result = await self.poller(self.over_socketpair(Broken())).poll()
        self.assertTrue(result.text.startswith("no connection: ZeroDivisionError"), result)
        await self.eventually(lambda: open_sockets() <= before)

    async def test_connection_refused(self) -> None:
        """A port on which nobody listens."""
        probe = socket.socket()
        self.addCleanup(probe.close)
        probe.bind(("127.0.0.1", 0))
        endpoint = TCP4ClientEndpoint(self.reactor, "127.0.0.1", probe.getsockname()[1])
        self.assertEqual((await self.poller(endpoint).poll()).text, "connection refused")

    async def test_no_descriptor_left_for_a_poll(self) -> None:
        """Short of one, two, three or four of them: a failed poll, and none of them leaks."""
        site = Site(Page(lambda _: b""))
        poller = self.poller(self.over_socketpair(site))
        self.assertTrue((await poller.poll()).ok)
        before = open_sockets()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        first_free = os.dup(0)
        os.close(first_free)
        for spare in range(4):
            resource.setrlimit(resource.RLIMIT_NOFILE, (first_free + spare, hard))
            try:
                result = await poller.poll()
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            self.assertIn("Too many open files", result.text)
            await self.eventually(lambda: open_sockets() <= before)
        self.assertTrue((await poller.poll()).ok)

    async def test_stopping_closes_the_connection(self) -> None:
        """A poll in flight, before its head and in its body, is closed when the heartbeat stops."""
        for name in ("never answers", "stalls in the body"):
            for make in (self.over_socketpair, self.over_tcp):
                factory = HostileFactory(self.reactor, HOSTILES[name])
                endpoint = cast(Callable[[object], IStreamClientEndpoint], make)(factory)
                beats: list[Beat] = []
                heartbeat = Heartbeat(
                    self.reactor,
                    self.poller(endpoint).poll,
                    PollingSettings(),
                    told=beats.append,
                    first_success=lambda: None,
                    gave_up=lambda _: None,
                )
                heartbeat.start()
                await self.eventually(lambda: factory.open)  # noqa: B023  (awaited before the next turn)
                await deferLater(self.reactor, 0.05)
                heartbeat.stop()
                await self.eventually(lambda: not factory.open)  # noqa: B023
                self.assertEqual(beats, [])

    async def test_the_client_going_away_is_seen_by_the_request(self) -> None:
        """A request that is still pending at the deadline hears of it, as of any client that leaves."""
        ends: list[Failure] = []

        def answer(request: Request) -> int:
            request.notifyFinish().addErrback(ends.append)
            return NOT_DONE_YET

        for endpoint in self.endpoints(Site(Page(answer))):
            await self.poller(endpoint).poll()
        await self.eventually(lambda: len(ends) == 2)
