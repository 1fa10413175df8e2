"""A control port and its clients, joined in memory: for the tests of both."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path
from typing import Any, cast

from attrs import define
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from serverworker.control import Client
from serverworker.monitor.console_commands import ConsoleCommands
from serverworker.monitor.history import History
from serverworker.monitor.session import OWN_COMMANDS
from serverworker.monitor.stream import EventStream
from serverworker.surfaces.control import ControlPort
from serverworker.surfaces.control_link import ControlLink
from serverworker.surfaces.desk import Desk
from serverworker.surfaces.session_key import KeyCheck
from serverworker.values.events import Event
from tests.unit.link_pair import Stream
from tests.unit.test_operator_commands import RecordingMonitor

KEY = "the right key"


class Handle:
    """A connected unix socket, as far as the port looks at it."""

    def __init__(self, uid: int) -> None:
        self._uid = uid

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        assert (level, option) == (socket.SOL_SOCKET, socket.SO_PEERCRED)
        return struct.pack("3i", 4711, self._uid, 0)[:size]


class Wire(Stream):
    """The port's end of a connection."""

    def __init__(self, host: str, uid: int) -> None:
        super().__init__()
        self.reading = True
        self._host = host
        self._uid = uid

    def getPeer(self) -> IPv4Address:
        return IPv4Address("TCP", self._host, 40000)

    def getHandle(self) -> Handle:
        return Handle(self._uid)

    def pauseProducing(self) -> None:
        self.reading = False

    def resumeProducing(self) -> None:
        self.reading = True


@define(eq=False)
class Joined:
    """One client, and what it is joined to."""

    client: Client
    link: ControlLink
    wire: Wire
    stream: Stream

    def say(self, data: bytes) -> None:
        """Have the port receive bytes as they are."""
        self.link.dataReceived(data)


class ControlCase(SynchronousTestCase):
    """A port on a unix socket, or, as `over_tcp` makes it, on a TCP one behind TLS."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.stream = EventStream(wall_clock=lambda: 1000.0)
        self.events: list[Event] = []
        self.history = History()
        self.stream.observe(self.history, self.history.lines)
        self.stream.observe(lambda told: self.events.append(told.event))
        self.monitor = RecordingMonitor()
        self.folder = Path(self.mktemp())
        self.desk = Desk(
            monitor=cast(Any, self.monitor),
            agents=ConsoleCommands(OWN_COMMANDS),
            history=self.history,
            publish=self.stream.publish,
            state_directory=self.folder,
            session="session 1",
            in_thread=maybeDeferred,
        )
        self.port = self.make_port(socket.AF_UNIX)

    def make_port(self, family: socket.AddressFamily, *, certified: bool = False) -> ControlPort:
        """A port that does not listen: `join` takes the place of the network."""
        bound = socket.socket(family)
        self.addCleanup(bound.close)
        keys = KeyCheck(self.clock, lambda: KEY, self.stream.publish)
        return ControlPort(reactor=self.clock, desk=self.desk, keys=keys, bound=bound, certified=certified)

    def join(self, host: str = "192.0.2.1", uid: int = os.geteuid()) -> Joined:
        """Somebody connects."""
        client, link = Client(self.clock), self.port.buildProtocol(None)
        joined = Joined(client, link, Wire(host, uid), Stream())
        client.link.makeConnection(cast(Any, joined.stream))
        link.makeConnection(cast(Any, joined.wire))
        self.addCleanup(self.part, joined)
        return joined

    def part(self, joined: Joined) -> None:
        """The connection is gone, for both."""
        for link in (joined.link, joined.client.link):
            if link.transport is not None:
                link.transport = None
                link.connectionLost(Failure(ConnectionError("it is gone")))

    def pump(self, *some: Joined) -> None:
        """Carry bytes to and fro until none is left, as far as the ends read."""
        moved = True
        while moved:
            moved = False
            self.clock.advance(0)
            for each in some:
                if each.wire.closed == "aborted":
                    continue
                to_client, each.wire.written = each.wire.written, []
                if to_client:
                    moved = True
                    each.client.link.dataReceived(b"".join(to_client))
                if each.wire.reading and each.stream.written:
                    to_port, each.stream.written = each.stream.written, []
                    moved = True
                    each.link.dataReceived(b"".join(to_port))

    def answer(self, joined: Joined, deferred: Deferred[Any]) -> Any:
        """What it comes to."""
        self.pump(joined)
        return self.successResultOf(deferred)

    def refusal(self, joined: Joined, deferred: Deferred[Any], kind: type[Exception]) -> str:
        """The text with which it fails."""
        self.pump(joined)
        return str(self.failureResultOf(deferred, kind).value)

    def told(self, kind: type[Event]) -> list[Any]:
        """The events of a kind, so far."""
        return [event for event in self.events if isinstance(event, kind)]
