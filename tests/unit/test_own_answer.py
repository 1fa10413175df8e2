"""Connections to a port that several programs share, until the right one accepts."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionDone, ConnectionLost, ConnectionRefusedError
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from serverworker.processes.own_answer import PATIENCE_SECONDS, TRIES, AcceptedBy, OwnAnswerEndpoint
from serverworker.processes.poller import NotReached


class Transport(StringTransport):
    """One that says which connection it is."""

    protocol: Any = None

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def getHandle(self) -> int:
        return self.number


class Public:
    """The public address: every connection succeeds, unless it is told to refuse."""

    def __init__(self) -> None:
        self.transports: list[Transport] = []
        self.refuses = False

    def connect(self, factory: Any) -> Deferred[Any]:
        if self.refuses:
            raise ConnectionRefusedError()
        protocol = factory.buildProtocol(None)
        transport = Transport(len(self.transports))
        transport.protocol = protocol
        self.transports.append(transport)
        protocol.makeConnection(transport)
        return succeed(protocol)


class OwnAnswerTests(SynchronousTestCase):
    """`acceptances` says who accepts each connection, in order; the last one holds for all that follow."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.public = Public()
        self.acceptances = [AcceptedBy.OWN]
        accepted: Any = lambda number: self.acceptances[min(number, len(self.acceptances) - 1)]  # noqa: E731
        public: Any = self.public
        self.endpoint = OwnAnswerEndpoint(self.clock, public, accepted, lambda: "it does not listen")

    def connect(self) -> Deferred[Any]:
        return self.endpoint.connect(Factory.forProtocol(Protocol))

    def pass_time(self, seconds: float) -> None:
        for _ in range(int(seconds / 0.01) + 1):
            self.clock.advance(0.01)

    def begin_well(self) -> None:
        self.successResultOf(self.connect())
        self.public.transports.clear()

    def test_own(self) -> None:
        """What the program has accepted is handed over, and nothing was sent before."""
        protocol = self.successResultOf(self.connect())
        transport = self.public.transports[0]
        self.assertIs(protocol.transport, transport)
        self.assertIs(transport.protocol, protocol)
        self.assertEqual(transport.value(), b"")
        self.assertTrue(self.endpoint.has_been_own)

    def test_accepted_later(self) -> None:
        """It waits until somebody accepts."""
        self.acceptances = [AcceptedBy.NOBODY]
        connecting = self.connect()
        self.pass_time(0.3)
        self.assertNoResult(connecting)
        self.acceptances = [AcceptedBy.OWN]
        self.pass_time(0.05)
        self.successResultOf(connecting)
        self.assertEqual(len(self.public.transports), 1)

    def test_siblings(self) -> None:
        """What siblings take is closed, and the next is tried."""
        self.acceptances = [AcceptedBy.OTHER, AcceptedBy.OTHER, AcceptedBy.OWN]
        protocol = self.successResultOf(self.connect())
        self.assertEqual(
            [transport.disconnecting for transport in self.public.transports], [True, True, False]
        )
        self.assertIs(protocol.transport, self.public.transports[2])

    def test_siblings_alone_before(self) -> None:
        """Before the program has accepted once, no sibling's answer counts for it."""
        self.acceptances = [AcceptedBy.OTHER]
        failure = self.failureResultOf(self.connect(), NotReached)
        self.assertEqual(
            failure.getErrorMessage(),
            f"it does not listen (other workers' programs took all of {TRIES} connections)",
        )
        self.assertEqual(len(self.public.transports), TRIES)
        self.assertTrue(all(transport.disconnecting for transport in self.public.transports))
        self.assertFalse(self.endpoint.has_been_own)

    def test_siblings_alone_later(self) -> None:
        """Once it has, the last sibling's answer is taken."""
        self.begin_well()
        self.acceptances = [AcceptedBy.OTHER]
        self.successResultOf(self.connect())
        self.assertEqual(len(self.public.transports), TRIES)
        self.assertFalse(self.public.transports[-1].disconnecting)

    def test_never_accepted_before(self) -> None:
        """A program that never listens is told of soon, in words of its host, and the connection is closed."""
        self.acceptances = [AcceptedBy.NOBODY]
        connecting = self.connect()
        self.pass_time(PATIENCE_SECONDS - 0.1)
        self.assertNoResult(connecting)
        self.pass_time(0.2)
        failure = self.failureResultOf(connecting, NotReached)
        self.assertEqual(failure.getErrorMessage(), "it does not listen")
        self.assertTrue(self.public.transports[0].disconnecting)

    def test_not_accepted_later(self) -> None:
        """One that had accepted has all the time of the poll, whose deadline is told in the same words."""
        self.begin_well()
        self.acceptances = [AcceptedBy.NOBODY]
        connecting = self.connect()
        self.pass_time(PATIENCE_SECONDS * 3)
        self.assertNoResult(connecting)
        connecting.cancel()
        self.assertEqual(self.failureResultOf(connecting, NotReached).getErrorMessage(), "it does not listen")
        self.assertTrue(self.public.transports[0].disconnecting)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_closed_unaccepted(self) -> None:
        """A connection that ends while it waits is none."""
        self.acceptances = [AcceptedBy.NOBODY]
        connecting = self.connect()
        self.public.transports[0].protocol.connectionLost(Failure(ConnectionDone()))
        self.pass_time(0.1)
        self.failureResultOf(connecting, ConnectionLost)
        self.assertFalse(self.public.transports[0].disconnecting)

    def test_refused(self) -> None:
        """Where nobody listens at all (bind = false), that is told as it is."""
        self.public.refuses = True
        self.failureResultOf(self.connect(), ConnectionRefusedError)
