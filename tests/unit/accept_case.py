"""What the tests of `serverworker.processes.accept` share: a reactor turned by hand, real sockets, and the log."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from serverworker.processes.accept import AcceptReader


def open_descriptors() -> int:
    """How many this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))


class FakeTransport:
    """What adoption answers."""

    def __init__(self) -> None:
        self.ended: list[Failure] = []

    def connectionLost(self, reason: Failure) -> None:
        self.ended.append(reason)


class FakeReactor(Clock):
    """A clock, a set of readers, and adoption that keeps a duplicate of each descriptor, as Twisted's does."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: set[Any] = set()
        self.adopted: list[socket.socket] = []
        self.transports: list[FakeTransport] = []
        self.failure: Exception | None = None
        self.adopting: Callable[[], None] = lambda: None

    def addReader(self, reader: Any) -> None:
        self.readers.add(reader)

    def removeReader(self, reader: Any) -> None:
        self.readers.discard(reader)

    def adoptStreamConnection(self, descriptor: int, family: int, factory: Any) -> Any:
        if self.failure is not None:
            raise self.failure
        mine = socket.fromfd(descriptor, family, socket.SOCK_STREAM)
        protocol = factory.buildProtocol(None)
        if protocol is None:
            mine.close()
            return None
        self.adopted.append(mine)
        self.adopting()
        protocol.makeConnection(mine)
        self.transports.append(FakeTransport())
        return self.transports[-1]


class AcceptCase(TestCase):
    """A listening socket, a reactor and a log."""

    def setUp(self) -> None:
        self.reactor = FakeReactor()
        self.addCleanup(self.close_adopted)
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(self.listening.close)
        self.log: list[Any] = []
        observer: Any = self.log.append
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def reader(self, factory: Any = None, listening: Any = None, shares: Any = None) -> AcceptReader:
        made = AcceptReader(
            self.reactor,  # type: ignore[arg-type]  # as much of a reactor as it needs
            self.listening if listening is None else listening,
            factory or Factory.forProtocol(Protocol),
            shares,
        )
        self.addCleanup(made.stop)
        made.start()
        return made

    def close_adopted(self) -> None:
        for each in self.reactor.adopted:
            each.close()

    def connect(self) -> socket.socket:
        client = socket.create_connection(self.listening.getsockname())
        client.settimeout(10)
        self.addCleanup(client.close)
        return client

    def texts(self, level: str) -> list[str]:
        """What this module has logged at a level."""
        return [
            event["log_format"].format(**event)
            for event in self.log
            if event.get("log_namespace", "").startswith("serverworker") and event["log_level"].name == level
        ]
