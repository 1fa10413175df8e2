"""Tests of `serverworker.processes.accept`: connections that cannot be accepted, and factories with mistakes."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.protocol import Factory, Protocol

from serverworker.processes import accept
from tests.unit.accept_case import AcceptCase


class FailingSocket:
    """A listening socket whose `accept` raises what it is told to, one after the other, then nothing more comes."""

    family = socket.AF_INET

    def __init__(self, *numbers: int) -> None:
        self.numbers = list(numbers)
        self.blocking = True

    def setblocking(self, blocking: bool) -> None:
        self.blocking = blocking

    def fileno(self) -> int:
        return 99

    def accept(self) -> tuple[socket.socket, Any]:
        if not self.numbers:
            raise BlockingIOError(errno.EAGAIN, "nothing")
        number = self.numbers.pop(0)
        raise OSError(number, os.strerror(number))


class Mistaken(Factory):
    """A factory with a mistake in it."""

    def __init__(self, error: Exception | None = None, protocol: Any = None) -> None:
        self.error = error
        self.made = protocol

    def buildProtocol(self, addr: Any) -> Any:
        if self.error is not None:
            raise self.error
        return self.made


class BrokenProtocol(Protocol):
    """A protocol that fails as soon as it is connected."""

    def connectionMade(self) -> None:
        raise OSError(errno.ENOENT, "a file that this application wants")


class TroubleTests(AcceptCase):
    """Connections that cannot be accepted."""

    def test_theirs(self) -> None:
        """A connection that ended before it was accepted is skipped: no pause, no word."""
        numbers = sorted(accept.THEIR_TROUBLE)
        reader = self.reader(listening=FailingSocket(*numbers))
        for _ in numbers:
            reader.doRead()
        self.assertIn(reader, self.reactor.readers)
        self.assertEqual((reader.accepted, self.log), (0, []))

    def test_shortage(self) -> None:
        """Short of something, it leaves the queue to siblings for a moment, then tries again."""
        for number in sorted(accept.SHORTAGES):
            reader = self.reader(listening=FailingSocket(number))
            reader.doRead()
            self.assertNotIn(reader, self.reactor.readers)
            self.reactor.advance(accept.PAUSE_SECONDS - 0.01)
            self.assertNotIn(reader, self.reactor.readers)
            self.reactor.advance(0.02)
            self.assertIn(reader, self.reactor.readers)

    def test_told_once(self) -> None:
        """An episode is told once, however many tries it lasts; the next one is told again."""
        reader = self.reader(listening=FailingSocket(*[errno.EMFILE] * 200))
        for _ in range(100):
            reader.doRead()
            self.reactor.advance(accept.PAUSE_SECONDS)
        (text,) = self.texts("warn")
        self.assertIn("Too many open files", text)
        self.assertIn("ulimit -n", text)
        self.reactor.advance(accept.EPISODE_SECONDS + 1)
        reader.doRead()
        self.assertEqual(len(self.texts("warn")), 2)

    def test_unknown(self) -> None:
        """An error that nobody has foreseen does not make the reactor spin: it pauses too."""
        reader = self.reader(listening=FailingSocket(errno.EIO))
        reader.doRead()
        self.assertNotIn(reader, self.reactor.readers)
        self.assertEqual(len(self.texts("warn")), 1)

    def test_stopped_in_a_pause(self) -> None:
        """`stop` ends a pause too."""
        reader = self.reader(listening=FailingSocket(errno.EMFILE))
        reader.doRead()
        reader.stop()
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_last_descriptor(self) -> None:
        """The last descriptor serves a connection, and loses none; the next one waits in the queue for room."""
        reader = self.reader()
        clients = [self.connect(), self.connect()]
        free = self.take_descriptors_but(1)
        reader.doRead()
        self.assertEqual(len(self.reactor.adopted), 1)
        reader.doRead()
        self.assertNotIn(reader, self.reactor.readers)
        free()
        self.reactor.advance(accept.PAUSE_SECONDS)
        self.assertIn(reader, self.reactor.readers)
        reader.doRead()
        for client, served in zip(clients, self.reactor.adopted, strict=True):
            served.send(b"!")
            self.assertEqual(client.recv(1), b"!")

    def test_no_spare(self) -> None:
        """While nothing can be set aside for an adoption it does not accept, from the start on."""
        free = self.take_descriptors_but(0)
        reader = self.reader()
        self.assertNotIn(reader, self.reactor.readers)
        self.reactor.advance(1)
        self.assertNotIn(reader, self.reactor.readers)
        free()
        self.reactor.advance(accept.PAUSE_SECONDS)
        self.assertIn(reader, self.reactor.readers)

    def take_descriptors_but(self, left: int) -> Callable[[], None]:
        """Uses up this process's descriptors; what is answered gives them back."""
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        highest = max(int(link.name) for link in Path("/proc/self/fd").iterdir())
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 20, hard))
        taken = []
        try:
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            for _ in range(left):
                os.close(taken.pop())

        def free() -> None:
            while taken:
                os.close(taken.pop())
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

        self.addCleanup(free)
        return free

    def test_reset_before_adoption(self) -> None:
        """A client that has gone when its connection is adopted is no error."""
        self.reactor.failure = OSError(errno.ENOTCONN, "not connected")
        client = self.connect()
        reader = self.reader()
        reader.doRead()
        self.assertEqual(client.recv(1), b"")
        self.assertIn(reader, self.reactor.readers)
        self.assertEqual(self.texts("critical"), [])

    def test_no_room_for_adoption(self) -> None:
        """Should another thread have taken the spare descriptor, it pauses like for any shortage."""
        self.reactor.failure = OSError(errno.EMFILE, "too many")
        self.connect()
        reader = self.reader()
        reader.doRead()
        self.assertNotIn(reader, self.reactor.readers)


class MistakeTests(AcceptCase):
    """Factories with mistakes in them."""

    def assert_harmless(self, factory: Any, error: type[Exception]) -> None:
        """The mistake is reported, its connection closed, and the next one is asked for."""
        client = self.connect()
        reader = self.reader(factory)
        reader.doRead()
        self.assertEqual(client.recv(1), b"")
        self.assertEqual(len(self.flushLoggedErrors(error)), 1)
        (text,) = self.texts("critical")
        self.assertIn("could not take a connection", text)
        self.assertIn(reader, self.reactor.readers)
        self.connect()
        reader.doRead()
        self.assertEqual(reader.accepted, 2)
        self.flushLoggedErrors(error)

    def test_build_fails(self) -> None:
        """A factory that raises."""
        self.assert_harmless(Mistaken(ZeroDivisionError("in buildProtocol")), ZeroDivisionError)

    def test_build_fails_with_oserror(self) -> None:
        """A factory that raises what a socket could raise is to blame all the same."""
        self.assert_harmless(Mistaken(OSError(errno.EMFILE, "for the factory's own file")), OSError)

    def test_connection_made_fails(self) -> None:
        """A protocol that raises when it is connected."""
        self.assert_harmless(Factory.forProtocol(BrokenProtocol), OSError)

    def test_no_protocol(self) -> None:
        """A protocol that is none."""
        self.assert_harmless(Mistaken(protocol="a text"), AttributeError)

    def test_refused(self) -> None:
        """A factory that wants no connection answers None; that is no mistake."""
        client = self.connect()
        self.reader(Mistaken()).doRead()
        self.assertEqual(client.recv(1), b"")
        self.assertEqual(self.texts("critical"), [])
