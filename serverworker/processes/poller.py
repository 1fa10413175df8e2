"""One poll of a worker's own health route: HTTP through treq, with one deadline over head and body.

Only a worker imports this module: treq and the HTTP client cost it 14 ms and 1.7 MB (measured beside a server
that has imported `twisted.web.server`).
"""

from __future__ import annotations

import socket
from typing import Any, cast

import treq
from attrs import define
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, execute, maybeDeferred
from twisted.internet.error import ConnectionClosed, ConnectionRefusedError
from twisted.internet.interfaces import (
    IAddress,
    IProtocol,
    IProtocolFactory,
    IReactorSocket,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure
from twisted.web.client import (
    URI,
    Agent,
    HTTPConnectionPool,
    ResponseDone,
    ResponseFailed,
    ResponseNeverReceived,
)
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import IAgentEndpointFactory, IResponse
from zope.interface import implementer

from serverworker.processes.heartbeat import PollResult
from serverworker.values.settings import PollingSettings

ENOUGH_BYTES = 2**20
"""So much of a body is read. A longer one counts as answered in full, and its connection is closed."""

_HEADERS: dict[bytes | str, bytes | str] = {"User-Agent": "serverworker-heartbeat"}
_SOME_PORT = IPv4Address("TCP", "127.0.0.1", 80)


class NotReached(Exception):
    """An endpoint's own words for why there is no connection to whom the poll is meant for."""


class Poller:
    """Asks a worker's own health route, over a new connection each time.

    No redirect is followed, no cookie kept, no proxy asked.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        endpoint: IStreamClientEndpoint,
        polling: PollingSettings,
        *,
        enough_bytes: int = ENOUGH_BYTES,
    ) -> None:
        """`endpoint` leads to the server, whatever the URL says. Its `Host` is ``localhost``."""
        self._reactor = reactor
        self._polling = polling
        self._enough_bytes = enough_bytes
        self._url = f"http://localhost{polling.route or '/'}"
        # Not treq's own pool: it keeps connections, and a kept one says nothing about accepting new ones.
        pool = HTTPConnectionPool(reactor, persistent=False)
        self._agent = Agent.usingEndpointFactory(reactor, _OneEndpoint(endpoint), pool)

    def poll(self) -> Deferred[PollResult]:
        """One request; fires within the timeout of the settings, and never fails.

        Cancelling it closes its connection.
        """
        exchange = _Exchange(began=self._reactor.seconds())
        answer = maybeDeferred(
            treq.get,
            self._url,
            headers=_HEADERS,
            agent=self._agent,
            reactor=cast(Any, self._reactor),  # treq wants more powers than a request with an agent uses
            allow_redirects=False,
            unbuffered=True,
        )
        answered = answer.addCallback(self._read, exchange)
        answered.addTimeout(self._polling.timeout_seconds, self._reactor, exchange.note_timeout)
        return answered.addCallbacks(
            self._result_of_answer, self._result_of_failure, callbackArgs=(exchange,), errbackArgs=(exchange,)
        )

    def _read(self, response: IResponse, exchange: _Exchange) -> Deferred[int]:
        exchange.status = response.code
        body = _Body(self._enough_bytes)
        response.deliverBody(body)
        return body.ended.addCallback(lambda _: response.code)

    def _result_of_answer(self, status: int, exchange: _Exchange) -> PollResult:
        # 1xx never comes here: the client waits for the answer behind it.
        good = status < 500 if self._polling.route is None else 200 <= status < 400
        return PollResult(
            ok=good,
            status=status,
            text=str(status),
            seconds=self._reactor.seconds() - exchange.began,
        )

    def _result_of_failure(self, failure: Failure, exchange: _Exchange) -> PollResult:
        return PollResult(
            ok=False,
            status=exchange.status,
            text=exchange.explain(failure, self._polling.timeout_seconds),
            seconds=self._reactor.seconds() - exchange.began,
        )


@define
class _Exchange:
    """What is known of one poll while it runs."""

    began: float
    status: int | None = None
    timed_out: bool = False

    def note_timeout(self, result: object, _seconds: float) -> object:
        # A cancelled poll fails as if the connection had broken, with half a dozen classes; this one fact
        # tells why.
        self.timed_out = True
        return result

    def explain(self, failure: Failure, timeout: float) -> str:
        """Why there is no full answer, in words."""
        if failure.check(NotReached):
            return failure.getErrorMessage()
        half = "half an answer" if self.status is None else f"half an answer (status {self.status})"
        if self.timed_out:
            what = "no answer" if self.status is None else half
            return f"{what} within {timeout:g} s"
        if self.status is not None:
            return half
        if failure.check(ConnectionRefusedError):
            return "connection refused"
        if not isinstance(failure.value, ResponseFailed):
            return f"no connection: {_name_and_text(failure)}"
        broken = [reason for reason in failure.value.reasons if not reason.check(ConnectionClosed)]
        if broken:
            return f"no HTTP answer: {_name_and_text(broken[0])}"
        return "connection closed without an answer" if failure.check(ResponseNeverReceived) else half


def _name_and_text(failure: Failure) -> str:
    return f"{type(failure.value).__name__}: {failure.getErrorMessage()}"


class _Body(Protocol):
    """Reads a body to its end, or until it is enough.

    The ready-made readers of treq and Twisted leave the connection open when they are cancelled.
    """

    def __init__(self, enough: int) -> None:
        self._missing = enough
        self.ended: Deferred[None] = Deferred(lambda _: self._close())

    def dataReceived(self, data: bytes) -> None:
        self._missing -= len(data)
        if self._missing <= 0 and not self.ended.called:
            self.ended.callback(None)
            self._close()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.ended.called:
            return
        # PotentialDataLoss: a body without a length ends with its connection.
        if reason.check(ResponseDone, PotentialDataLoss):
            self.ended.callback(None)
        else:
            self.ended.errback(reason)

    def _close(self) -> None:
        if self.transport is not None:
            self.transport.loseConnection()


@implementer(IAgentEndpointFactory, IStreamClientEndpoint)
class _OneEndpoint:
    """Sends every request of an Agent to the same place."""

    def __init__(self, endpoint: IStreamClientEndpoint) -> None:
        self._endpoint = endpoint

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        return self

    def connect(self, protocolFactory: Any) -> Deferred[IProtocol]:
        protocolFactory.noisy = False  # or each poll over TCP leaves two lines in the log
        return self._endpoint.connect(protocolFactory)


@implementer(IStreamClientEndpoint)
class SocketpairEndpoint:
    """Connects to a factory of this very process through `socket.socketpair`.

    So a worker's own answer comes back and not a sibling's, and there is no path in the file system that
    somebody else could open.
    """

    def __init__(
        self, reactor: IReactorSocket, server: IProtocolFactory, address: IAddress = _SOME_PORT
    ) -> None:
        """`address` is what the server's end says to be, and to be connected to.

        A web application asks a request for its host's and its peer's port, WSGI always does. On a unix
        socket there is none, and a good application would answer 500.
        """
        self._reactor = reactor
        self._server = _AddressedFactory(server, address)

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """A new connection; fails where there is no descriptor left, or where the server takes none."""
        return execute(self._connect, protocolFactory)

    def _connect(self, client: IProtocolFactory) -> IProtocol:
        ours, theirs = socket.socketpair()
        with ours, theirs:  # the reactor works on duplicates
            ours.setblocking(False)
            theirs.setblocking(False)
            # The interface names ServerFactory; any IProtocolFactory does.
            self._reactor.adoptStreamConnection(theirs.fileno(), socket.AF_UNIX, cast(Any, self._server))
            return adopt_client(self._reactor, ours, client)


def adopt_client(reactor: IReactorSocket, connection: socket.socket, client: IProtocolFactory) -> IProtocol:
    """The protocol of a client's end of a socketpair, not blocking: the reactor works on a duplicate of it."""
    kept = _KeptProtocol(client)
    reactor.adoptStreamConnection(connection.fileno(), socket.AF_UNIX, cast(Any, kept))
    if kept.protocol is None:
        raise ConnectionClosed("the client wants no connection")
    return kept.protocol


@implementer(IProtocolFactory)
class _KeptProtocol:
    """Keeps the protocol that `adoptStreamConnection` lets a factory build, and does not return."""

    def __init__(self, factory: IProtocolFactory) -> None:
        self._factory = factory
        self.protocol: IProtocol | None = None

    def buildProtocol(self, addr: IAddress) -> IProtocol | None:
        self.protocol = self._factory.buildProtocol(addr)
        return self.protocol

    def doStart(self) -> None:
        """Nothing: the reactor does not call it for a connection that it adopts."""

    def doStop(self) -> None:
        """Nothing either."""


class _AddressedConnection(ProtocolWrapper):
    """A server's protocol on a transport that has a given address."""

    factory: Any

    @property
    def protocol(self) -> IProtocol:
        """Who gets what comes. As on a transport of the reactor's, another protocol may be put in its place."""
        return self.wrappedProtocol

    @protocol.setter
    def protocol(self, protocol: Any) -> None:
        self.wrappedProtocol = protocol

    def getHost(self) -> IAddress:
        return cast(IAddress, self.factory.address)

    def getPeer(self) -> IAddress:
        return cast(IAddress, self.factory.address)


@implementer(IProtocolFactory)
class _AddressedFactory:
    """Builds the server's protocols as if they were connected to and from one address."""

    def __init__(self, server: IProtocolFactory, address: IAddress) -> None:
        self._server = server
        self.address = address

    def buildProtocol(self, addr: IAddress) -> IProtocol | None:
        built = self._server.buildProtocol(self.address)
        wrap: Any = _AddressedConnection  # it wants a factory of Twisted's own kind, to no purpose of ours
        return None if built is None else cast(IProtocol, wrap(self, built))

    def registerProtocol(self, protocol: object) -> None:  # noqa: N802  (Twisted's name)
        """Nothing: who is connected is known elsewhere."""

    def unregisterProtocol(self, protocol: object) -> None:  # noqa: N802
        """Nothing either."""

    def doStart(self) -> None:
        """Nothing: the reactor does not call it for a connection that it adopts."""

    def doStop(self) -> None:
        """Nothing either."""
