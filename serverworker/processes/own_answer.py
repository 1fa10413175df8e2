"""Polling a program from outside: connections to a port that several programs share, until the right one accepts.

All workers' programs accept from one socket, so an answer may be a sibling's. Who has accepted a connection is found out
before a byte is sent over it; one that a sibling took is closed, and the next one is tried.
"""

from __future__ import annotations

import enum
import socket
from collections.abc import Callable
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from zope.interface import implementer

from serverworker.processes.poller import NotReached

TRIES = 16
"""Connections of one poll. Of two equals each gets one of so many but for once in 65,000 polls."""
FIRST_STEP_SECONDS = 0.0005
LONGEST_STEP_SECONDS = 0.02
"""A connection that nobody has accepted yet is looked at again after these, doubled each time."""
PATIENCE_SECONDS = 1.0
"""How long the first connections wait to be accepted, so that a program that never listens is told of soon."""


class AcceptedBy(enum.Enum):
    """Who accepted a connection."""

    NOBODY = "nobody"
    OWN = "own"
    """The program that is to be polled; also where that cannot be told."""
    OTHER = "other"


@implementer(IStreamClientEndpoint)
class OwnAnswerEndpoint:
    """Connects to a public address, and answers with the connection that the right program has accepted.

    Until that has happened once, nothing else will do. From then on a sibling's connection is good enough where siblings
    take all that are tried: a program that accepts nothing loses no request either. (One that accepts and does not
    answer is found as soon as it takes one of them.)
    """

    def __init__(
        self,
        clock: IReactorTime,
        public: IStreamClientEndpoint,
        accepted_by: Callable[[socket.socket], AcceptedBy],
        trouble: Callable[[], str],
    ) -> None:
        """`accepted_by` tells who accepted a connection, given this side of it; `trouble` what is to be said where it did not."""
        self._clock = clock
        self._public = public
        self._accepted_by = accepted_by
        self._trouble = trouble
        self.has_been_own = False
        """The program has accepted a connection of ours."""

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """A new connection; fails with `NotReached` where the program does not accept, whoever else may."""
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        for left in reversed(range(TRIES)):
            waiting = cast(_Waiting, await self._public.connect(Factory.forProtocol(_Waiting)))
            try:
                taker = await self._wait_for_taker(waiting)
            except BaseException:
                waiting.abort()
                raise
            if taker is AcceptedBy.OWN:
                self.has_been_own = True
            if taker is AcceptedBy.OWN or (self.has_been_own and not left):
                return waiting.give_to(factory)
            waiting.abort()
        raise NotReached(f"{self._trouble()} (other workers' programs took all of {TRIES} connections)")

    async def _wait_for_taker(self, waiting: _Waiting) -> AcceptedBy:
        began, step = self._clock.seconds(), FIRST_STEP_SECONDS
        while True:
            if waiting.lost:
                raise ConnectionLost("closed before a byte was sent")
            taker = self._accepted_by(waiting.socket)
            if taker is not AcceptedBy.NOBODY:
                return taker
            if not self.has_been_own and self._clock.seconds() - began >= PATIENCE_SECONDS:
                raise NotReached(self._trouble())
            try:
                await deferLater(cast(Any, self._clock), step)
            except CancelledError:  # the poll's own deadline
                raise NotReached(self._trouble()) from None
            step = min(step * 2, LONGEST_STEP_SECONDS)


class _Waiting(Protocol):
    """A connection over which nothing is sent yet."""

    transport: Any
    lost = False

    @property
    def socket(self) -> socket.socket:
        return cast(socket.socket, self.transport.getHandle())

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = True

    def abort(self) -> None:
        if not self.lost:
            self.transport.loseConnection()

    def give_to(self, factory: IProtocolFactory) -> IProtocol:
        protocol: Any = factory.buildProtocol(self.transport.getPeer())
        self.transport.protocol = protocol
        protocol.makeConnection(self.transport)
        return cast(IProtocol, protocol)
