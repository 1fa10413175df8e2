"""Tests of `serverworker.processes.accept`: real sockets, a reactor that is turned by hand, and all reactors that there are."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from zope.interface.verify import verifyObject

from serverworker.processes import accept
from serverworker.processes.accept import AcceptReader


class FakeReactor(Clock):
    """A clock, a set of readers, and adoption that keeps a duplicate of each descriptor, as Twisted's does."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: set[Any] = set()
        self.adopted: list[socket.socket] = []
        self.failure: Exception | None = None
        self.adopting: Callable[[], None] = lambda: None

    def addReader(self, reader: Any) -> None:
        self.readers.add(reader)

    def removeReader(self, reader: Any) -> None:
        self.readers.discard(reader)

    def adoptStreamConnection(self, descriptor: int, family: int, factory: Any) -> None:
        if self.failure is not None:
            raise self.failure
        mine = socket.fromfd(descriptor, family, socket.SOCK_STREAM)
        protocol = factory.buildProtocol(None)
        if protocol is None:
            mine.close()
            return
        self.adopted.append(mine)
        self.adopting()
        protocol.makeConnection(mine)


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


class AcceptCase(TestCase):
    """A listening socket, a reactor and a log."""

    def setUp(self) -> None:
        self.reactor = FakeReactor()
        self.addCleanup(lambda: [each.close() for each in self.reactor.adopted])
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(self.listening.close)
        self.log: list[Any] = []
        globalLogPublisher.addObserver(self.log.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.log.append)

    def reader(self, factory: Any = None, listening: Any = None) -> AcceptReader:
        made = AcceptReader(
            self.reactor,  # type: ignore[arg-type]  # as much of a reactor as it needs
            self.listening if listening is None else listening,
            factory or Factory.forProtocol(Protocol),
        )
        self.addCleanup(made.stop)
        made.start()
        return made

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


class AcceptTests(AcceptCase):
    """Connections that come as they should."""

    def test_one_for_each_wake_up(self) -> None:
        """Of three that wait, a wake-up accepts one: the others are for whoever is free."""
        for _ in range(3):
            self.connect()
        reader = self.reader()
        for count in (1, 2, 3):
            reader.doRead()
            self.assertEqual((reader.accepted, len(self.reactor.adopted)), (count, count))
        reader.doRead()
        self.assertEqual(reader.accepted, 3)

    def test_flags(self) -> None:
        """An accepted connection never blocks, is closed on exec and sends small packets at once."""
        self.connect()
        self.reader().doRead()
        (adopted,) = self.reactor.adopted
        self.assertFalse(os.get_blocking(adopted.fileno()))
        self.assertFalse(os.get_inheritable(adopted.fileno()))
        self.assertTrue(adopted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    def test_unix(self) -> None:
        """A unix socket is accepted from as well."""
        folder = tempfile.mkdtemp(prefix="sw-")
        self.addCleanup(shutil.rmtree, folder)
        listening = socket.socket(socket.AF_UNIX)
        self.addCleanup(listening.close)
        listening.bind(f"{folder}/a")
        listening.listen()
        client = socket.socket(socket.AF_UNIX)
        self.addCleanup(client.close)
        client.connect(f"{folder}/a")
        self.reader(listening=listening).doRead()
        self.assertEqual(self.reactor.adopted[0].family, socket.AF_UNIX)

    def test_own_copy(self) -> None:
        """Nothing of a connection stays open here after the transport has closed it."""
        client = self.connect()
        self.reader().doRead()
        self.reactor.adopted.pop().close()
        self.assertEqual(client.recv(1), b"")

    def test_sibling_was_faster(self) -> None:
        """Nothing to accept is normal: nothing is logged, and it goes on."""
        reader = self.reader()
        reader.doRead()
        self.assertIn(reader, self.reactor.readers)
        self.assertEqual(self.log, [])

    def test_never_blocks(self) -> None:
        """A socket that was handed over blocking is made non-blocking."""
        self.listening.setblocking(True)
        self.reader()
        self.assertFalse(os.get_blocking(self.listening.fileno()))

    def test_stop_and_start(self) -> None:
        """After `stop` the reactor has nothing of it; after `start` it accepts again. Both may be called twice."""
        before = open_descriptors()
        reader = self.reader()
        reader.start()
        self.assertEqual(self.reactor.readers, {reader})
        for _ in range(2):
            reader.stop()
            self.assertEqual(self.reactor.readers, set())
            self.assertEqual(open_descriptors(), before)
        self.connect()
        reader.start()
        reader.doRead()
        self.assertEqual(reader.accepted, 1)

    def test_stopped_from_inside(self) -> None:
        """A connection that makes the worker stop accepting is served, and nothing is left open."""
        before = open_descriptors()
        reader = self.reader()
        self.reactor.adopting = reader.stop
        self.connect()
        reader.doRead()
        self.assertEqual(len(self.reactor.adopted), 1)
        self.reactor.adopted.pop().close()
        self.assertEqual(open_descriptors(), before + 1, "only the client of this test is left")

    def test_socket_stays_open(self) -> None:
        """Neither `stop` nor the reactor's end closes the socket or its other copies."""
        reader = self.reader()
        reader.connectionLost(Failure(ConnectionLost()))
        self.assertEqual(self.reactor.readers, set())
        self.assertTrue(self.listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
        self.assertEqual(len(self.texts("info")), 1)
        reader.connectionLost(Failure(ConnectionLost()))
        self.assertEqual(len(self.texts("info")), 1)

    def test_interface(self) -> None:
        """It is what reactors read from."""
        reader = self.reader()
        verifyObject(IReadDescriptor, reader)
        self.assertEqual(reader.fileno(), self.listening.fileno())
        self.assertEqual(reader.logPrefix(), "accept")


def open_descriptors() -> int:
    """How many this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))


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
        reader = self.reader(listening=FailingSocket(errno.EINVAL))
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
        """With the last descriptor a connection is served, not lost; the next one waits in the queue until there is room."""
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


PROGRAM = """
import socket, sys, threading
from twisted.internet.{reactor}reactor import install
install()
from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import globalLogBeginner
from serverworker.processes.accept import AcceptReader

globalLogBeginner.beginLoggingTo([], redirectStandardIO=False)
count = 0

class Echo(Protocol):
    def connectionMade(self):
        global count
        count += 1
        if count == 2:
            raise ZeroDivisionError("the second connection")

    def dataReceived(self, data):
        self.transport.write(data.upper())

def client():
    answers = []
    for _ in range(3):
        with socket.create_connection(listening.getsockname(), timeout=20) as each:
            each.sendall(b"a")
            try:
                answers.append(each.recv(1))
            except ConnectionResetError:
                answers.append(b"")
    reactor.callFromThread(end, answers)

def end(answers):
    reader.stop()
    print(answers, reader.accepted, reader in reactor.getReaders())
    reactor.stop()

listening = socket.create_server(("127.0.0.1", 0))
reader = AcceptReader(reactor, listening, Factory.forProtocol(Echo))
reactor.callWhenRunning(reader.start)
reactor.callWhenRunning(threading.Thread(target=client).start)
reactor.run()
"""


class ReactorTests(TestCase):
    """The reader in a reactor of each kind."""

    def assert_works(self, reactor: str) -> None:
        """Three connections: served, closed because of a mistake, served."""
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", PROGRAM.format(reactor=reactor)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            timeout=60,
            check=False,
        )
        self.assertEqual(done.stdout.decode(), "[b'A', b'', b'A'] 3 False\n", done.stderr.decode())

    def test_epoll(self) -> None:
        """Linux's own."""
        self.assert_works("epoll")

    def test_poll(self) -> None:
        """The poll(2) one."""
        self.assert_works("poll")

    def test_select(self) -> None:
        """The select(2) one."""
        self.assert_works("select")

    def test_asyncio(self) -> None:
        """The one on top of asyncio."""
        self.assert_works("asyncio")
