"""How a worker accepts: one connection per wake-up, from a socket that it shares with its siblings.

Twisted's own `Port` takes many connections per wake-up, so that one worker may end up with all of them, and
closes what it has no descriptor for, although a sibling could serve it (both measured). With this reader they go
to those that have time and, where siblings share a table of their loads (`shares.py`), to whoever has the fewest.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from typing import Any

from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IProtocol,
    IProtocolFactory,
    IReactorFDSet,
    IReactorSocket,
    IReactorTime,
    IReadDescriptor,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from serverworker.processes.shares import Share, Shares
from serverworker.processes.taker import Taker

PAUSE_SECONDS = 0.1
"""How long nothing is accepted after accepting has failed; until then siblings have the queue to themselves."""

LEAVE_SECONDS = 0.001
"""How long a connection is left to a sibling that has fewer, before the next look."""

LAST_SECONDS = 0.5
"""How long the last connections of a socket that is to be closed are accepted, however many come."""

EPISODE_SECONDS = 10.0
"""A failure to accept that comes so long after the last one is told in the log; earlier ones are the same trouble."""

THEIR_TROUBLE = frozenset(
    {
        errno.ECONNABORTED,
        errno.EPERM,  # forbidden by a firewall's rule
        # Errors of the new connection's network, which accept(2) passes on and says to treat as nothing.
        errno.ENETDOWN,
        errno.EPROTO,
        errno.ENOPROTOOPT,
        errno.EHOSTDOWN,
        errno.ENONET,
        errno.EHOSTUNREACH,
        errno.EOPNOTSUPP,
        errno.ENETUNREACH,
    }
)
"""The connection was gone before it was accepted: on to the next."""


SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""This process, or the machine, has not got what a connection needs."""

ADVICE = {
    errno.EMFILE: "Raise the limit of open files (`ulimit -n`, systemd: LimitNOFILE=), or look for what leaks them.",
    errno.ENFILE: "The machine's limit of open files is reached (sysctl fs.file-max).",
}


class IAcceptReactor(IReactorFDSet, IReactorSocket, IReactorTime):
    """What accepting needs of a reactor."""


@implementer(IReadDescriptor)
class AcceptReader:
    """Accepts connections from a listening socket, and gives them to a factory.

    Neither the socket nor the factory is owned: whoever made this closes the one when accepting is over for good, and
    calls `doStart` and `doStop` of the other, since connections go on after the last one was accepted. The socket's
    other copies, in the monitor and in siblings, are not touched, but by `accept_the_last`.

    `shares` is the table that the readers of all workers have in common; without one, first come is first served.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IAcceptReactor,
        listening: socket.socket,
        factory: IProtocolFactory | Taker,
        shares: Shares | None = None,
    ) -> None:
        listening.setblocking(False)
        self._reactor = reactor
        self._listening = listening
        self._factory = factory
        self._descriptor = listening.fileno()
        self._shares = shares
        self._share: Share | None = None
        self._accepts = False
        self._spare: int | None = None
        self._pause: IDelayedCall | None = None
        self._last_trouble: float | None = None
        self.accepted = 0
        """Connections that were accepted so far."""
        self.opened = 0
        """Of those, how many are open."""

    def start(self) -> None:
        """Accepts from now on. A second call changes nothing."""
        if not self._accepts:
            self._accepts = True
            if self._shares is not None:
                self._share = self._shares.join(self._descriptor, self.opened)
            self._resume()

    def stop(self) -> None:
        """Accepts no more. What waits in the socket's queue is left to others. `start` may follow."""
        self._accepts = False
        self._reactor.removeReader(self)
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        self._drop_spare()
        share, self._share = self._share, None
        if share is not None:
            share.leave()

    def fileno(self) -> int:
        """The descriptor that the reactor waits for: the same one even after the socket was closed."""
        return self._descriptor

    def logPrefix(self) -> str:
        """What Twisted calls this in its log."""
        return "accept"

    def doRead(self) -> None:
        """Somebody has connected, and no sibling may have been faster yet: accepts one connection."""
        if self._share is not None and self._share.leaves_it(self._reactor.seconds()):
            self._look_away(LEAVE_SECONDS)
        else:
            self._accept()

    def accept_the_last(self) -> None:
        """Accepts what waits in the queue, then closes the socket for good, in every process that has it.

        Whoever connects between the last look at the queue and the close, a few microseconds later, is reset; Linux
        has no call for a TCP socket that does both at once.
        """
        until = self._reactor.seconds() + LAST_SECONDS
        while self._accept() and self._reactor.seconds() < until:
            pass
        with contextlib.suppress(OSError):  # a sibling was faster
            self._listening.shutdown(socket.SHUT_RD)

    def _accept(self) -> bool:
        """Takes one connection from the queue; False when there is none, or none can be taken now."""
        try:
            connection, _ = self._listening.accept()
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in THEIR_TROUBLE:
                return True
            if error.errno == errno.EINVAL:  # it listens no more: a sibling has accepted the last
                self.stop()
            else:
                self._rest(error)
            return False
        self.accepted += 1
        # Its room is for the adoption, which duplicates the descriptor; otherwise the last one would be lost here.
        self._drop_spare()
        with connection:
            self._hand_over(connection)
        if self._accepts:
            self._take_spare()
        return True

    def connectionLost(self, reason: Failure) -> None:
        """The reactor lets go of the socket: it ends, or the socket is broken."""
        if self._accepts:
            self._log.info(
                "accepts no more: {reason}", reason=reason.getErrorMessage(), descriptor=self._descriptor
            )
        self.stop()

    def _hand_over(self, connection: socket.socket) -> None:
        """Gives one connection to the factory. Whatever happens there, only this connection ends by it."""
        if isinstance(self._factory, Taker):
            self._give(connection, self._factory)
            return
        guarded = _Guarded(self._factory)
        try:
            connection.setblocking(False)
            if connection.family != socket.AF_UNIX:
                # As asyncio does and Twisted does not: an answer in two writes would wait for the peer's delayed
                # acknowledgement, some 40 ms. Twisted gathers the writes of one turn, so it costs no small packets.
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # Annotated as if it took a ServerFactory alone and answered nothing.
            adopt: Any = self._reactor.adoptStreamConnection
            transport = adopt(connection.fileno(), connection.family, guarded)
        except (
            Exception
        ) as error:  # of the application's factory, or of the system: it costs this connection alone
            if guarded.built or not isinstance(error, OSError):
                self._blame(Failure(), connection)
            elif error.errno in SHORTAGES:
                self._rest(error)
            else:
                self._log.debug("a connection ended before it was served: {error}", error=error)
        else:
            if transport is not None:
                self._count(transport)
        if guarded.failure is not None:
            self._blame(guarded.failure, connection)

    def _give(self, connection: socket.socket, taker: Taker) -> None:
        """Gives one connection to what serves it without the reactor's transports."""
        self._change(+1)
        try:
            connection.setblocking(False)
            taker.take(connection, self._one_less)
        except OSError as error:
            self._one_less()
            if error.errno in SHORTAGES:
                self._rest(error)
            else:
                self._log.debug("a connection ended before it was served: {error}", error=error)
        except Exception:  # of whatever serves the port: it costs this connection alone
            self._one_less()
            self._blame(Failure(), connection)

    def _one_less(self) -> None:
        self._change(-1)

    def _count(self, transport: Any) -> None:
        """Counts a connection as open until the reactor gives its transport up, whichever protocol it has by then."""
        lost = transport.connectionLost
        own = vars(transport).get("connectionLost")

        def connection_lost(reason: Failure) -> None:
            if own is None:
                del transport.connectionLost  # no cycle is left behind
            else:
                transport.connectionLost = own
            self._change(-1)
            lost(reason)

        transport.connectionLost = connection_lost
        self._change(+1)

    def _change(self, by: int) -> None:
        self.opened += by
        if self._share is not None:
            self._share.tell(self.opened)

    def _blame(self, failure: Failure, connection: socket.socket) -> None:
        """Reports a mistake of the application's and ends the connection that it was made with.

        It is no fault of the reactor and no crash: it can come of what one visitor sent, and harms nobody else.
        """
        self._log.failure(
            "{factory} could not take a connection, which was closed; others are served as before",
            failure=failure,
            factory=self._factory,
        )
        try:
            connection.shutdown(socket.SHUT_RDWR)  # the transport, if there is one, sees the end and goes
        except OSError:
            return  # it has gone by itself

    def _rest(self, error: OSError) -> None:
        """Leaves the queue to siblings for a moment, since nothing can be accepted here."""
        now = self._reactor.seconds()
        if self._last_trouble is None or now - self._last_trouble > EPISODE_SECONDS:
            self._log.warn(
                "cannot accept connections: {reason}. They wait for another worker, or for the next try here, in "
                "{pause:g} s and so on. {advice}",
                reason=error.strerror,
                pause=PAUSE_SECONDS,
                advice=ADVICE.get(error.errno or 0, ""),
            )
        self._last_trouble = now
        self._look_away(PAUSE_SECONDS)

    def _look_away(self, seconds: float) -> None:
        self._reactor.removeReader(self)
        if self._pause is None:
            self._pause = self._reactor.callLater(seconds, self._go_on)

    def _go_on(self) -> None:
        self._pause = None
        self._resume()

    def _resume(self) -> None:
        if self._take_spare():
            self._reactor.addReader(self)

    def _take_spare(self) -> bool:
        """Sets a descriptor aside for the next adoption; without one nothing is accepted until there is."""
        if self._spare is None:
            try:
                self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                self._rest(error)
                return False
        return True

    def _drop_spare(self) -> None:
        spare, self._spare = self._spare, None
        if spare is not None:
            os.close(spare)


@implementer(IProtocolFactory)
class _Guarded:
    """Asks a factory for one protocol and keeps what it raised: Twisted would leave the connection open."""

    def __init__(self, factory: IProtocolFactory) -> None:
        self._factory = factory
        self.built = False
        self.failure: Failure | None = None

    def buildProtocol(self, addr: IAddress) -> IProtocol | None:
        try:
            protocol = self._factory.buildProtocol(addr)
        except Exception:  # the application's: kept, and told by who has asked
            self.failure = Failure()
            return None
        self.built = True
        return protocol

    def doStart(self) -> None:
        """Twisted's to call on a factory of a port; the worker calls it on the real one."""

    def doStop(self) -> None:
        """See `doStart`."""
