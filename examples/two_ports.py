"""The original's `work` callable, with two ports: HTTP, and a line protocol beside it.

    twistd -n serverworker --port 8080 --port socket=4321 --app two_ports:work

`work` runs when a worker is promoted, not when it is loaded: what it starts runs once at a time.
"""

from __future__ import annotations

from twisted.internet.protocol import Factory
from twisted.protocols.basic import LineReceiver
from twisted.web.http import Request
from twisted.web.resource import Resource
from twisted.web.server import Site

from serverworker import ExitReason, ServerWorker


class Chat(LineReceiver):
    """Sends each line to everybody."""

    delimiter = b"\n"
    factory: Room

    def connectionMade(self) -> None:
        """Somebody has come."""
        self.factory.people.append(self)
        self.sendLine(b"%d here" % len(self.factory.people))

    def lineReceived(self, line: bytes) -> None:
        """Somebody has said something."""
        self.factory.tell(line)

    def connectionLost(self, reason: object = None) -> None:
        """Somebody has gone."""
        self.factory.people.remove(self)


class Room(Factory):
    """All who are connected."""

    protocol = Chat  # type: ignore[assignment]  # Twisted says Callable[[], Protocol]

    def __init__(self) -> None:
        self.people: list[Chat] = []

    def tell(self, line: bytes) -> None:
        """Send a line to everybody."""
        for person in self.people:
            person.sendLine(line)

    def tell_why(self, reason: ExitReason) -> None:
        """An exit handler: people are told why the connection is about to end."""
        self.tell(f"* this worker ends: {reason.kind.value}".encode())


class Count(Resource):
    """How many people are in the room."""

    isLeaf = True

    def __init__(self, room: Room) -> None:
        super().__init__()
        self._room = room

    def render_GET(self, request: Request) -> bytes:
        """The number."""
        request.setHeader(b"content-type", b"text/plain")
        return b"%d\n" % len(self._room.people)


def work(worker: ServerWorker) -> None:
    """Listen on both ports of the session."""
    room = Room()
    worker.listen("server", Site(Count(room)))
    worker.listen("socket", room)
    worker.add_exit_handler(room.tell_why)
