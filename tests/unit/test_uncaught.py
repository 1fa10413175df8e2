"""Which errors are crashes: each kind made for real, on the real reactor."""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

from OpenSSL.SSL import Error as TLSError
from twisted.application.internet import TimerService
from twisted.internet.defer import CancelledError, Deferred, fail, gatherResults, inlineCallbacks, logError
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import DatagramProtocol, Factory, ProcessProtocol, Protocol, connectionDone
from twisted.internet.task import LoopingCall, deferLater
from twisted.internet.threads import deferToThread
from twisted.logger import Logger, globalLogPublisher
from twisted.python import log
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from serverworker.processes.uncaught import UncaughtErrors
from serverworker.values.errors import ErrorRecord


class Bug(Exception):
    """What the application of these tests raises."""


log_err: Callable[..., None] = log.err


def bug(*_: object) -> Any:
    """Raise it."""
    raise Bug("it broke")


class UncaughtTestCase(TestCase):
    """With the observer in the global log, and a record of what it told."""

    timeout = 30

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.crashes: list[ErrorRecord] = []
        self.uncaught = UncaughtErrors(self.crashes.append)
        globalLogPublisher.addObserver(self.uncaught)
        self.addCleanup(globalLogPublisher.removeObserver, self.uncaught)

    async def eventually(self, holds: Callable[[], object], seconds: float = 10) -> None:
        """Wait until something holds, in turns of the reactor, collecting what can be collected."""
        deadline = self.reactor.seconds() + seconds
        while not holds():
            self.assertLess(self.reactor.seconds(), deadline, "it never came to hold")
            await deferLater(self.reactor, 0.002)
            gc.collect()

    async def crash(self, kind: type[BaseException] = Bug, logged: int = 1) -> ErrorRecord:
        """The one crash that was told, of an error that was logged so often."""
        await self.eventually(lambda: self.crashes)
        for _ in range(3):
            await deferLater(self.reactor, 0)
            gc.collect()
        self.assertEqual(len(self.crashes), 1, self.crashes)
        self.assertEqual(len(self.flushLoggedErrors(kind)), logged)
        self.assertEqual(self.crashes[0].type, f"{kind.__module__}.{kind.__qualname__}")
        return self.crashes[0]

    async def noise(self, kind: type[BaseException] = Bug, count: int = 1) -> None:
        """Wait until an error was logged so often, and see that it was no crash."""
        logged = 0

        def seen() -> bool:
            nonlocal logged
            # Only counted: a failure that is kept keeps the Deferred alive in whose callback it was made.
            logged += len(self.flushLoggedErrors(kind))
            return logged >= count

        await self.eventually(seen)
        self.assertEqual(logged, count)
        self.assertEqual(self.crashes, [])

    def listen(self, factory: object) -> int:
        """Serve for the time of the test; the port's number."""
        port = self.reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return int(port.getHost().port)

    def connect(self, port: int, data: bytes = b"") -> socket.socket:
        """A client of the bare kind, which has sent some bytes."""
        client = socket.create_connection(("127.0.0.1", port))
        self.addCleanup(client.close)
        client.sendall(data)
        client.setblocking(False)
        return client

    async def answer(self, client: socket.socket) -> bytes:
        """All that a server says until it hangs up."""
        received = b""

        def ended() -> bool:
            nonlocal received
            try:
                data = client.recv(2**16)
            except BlockingIOError:
                return False
            except ConnectionResetError:
                return True
            received += data
            return not data

        await self.eventually(ended)
        return received


class Talker(Protocol):
    """A protocol whose callbacks are functions of a test."""

    def __init__(self, **callbacks: Callable[..., object]) -> None:
        self.callbacks = callbacks

    def connectionMade(self) -> None:
        self.callbacks.get("made", id)(self)

    def dataReceived(self, data: bytes) -> None:
        self.callbacks.get("data", id)(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.callbacks.get("lost", id)(reason)


class Talkers(Factory):
    """Builds them."""

    noisy = False

    def __init__(self, **callbacks: Callable[..., object]) -> None:
        self.callbacks = callbacks

    def buildProtocol(self, addr: IAddress | None) -> Talker:
        self.callbacks.get("build", id)(addr)
        return Talker(**self.callbacks)


class ReactorCrashTests(UncaughtTestCase):
    """What an application raises into the reactor is a crash."""

    async def test_data_received(self) -> None:
        """A bug in a protocol of the application's own."""
        self.connect(self.listen(Talkers(data=bug)), b"hello")
        record = await self.crash()
        self.assertEqual(record.message, "it broke")
        self.assertIn("in bug\n", record.traceback)

    async def test_connection_lost(self) -> None:
        """The last callback counts like the others."""
        self.connect(self.listen(Talkers(lost=bug))).close()
        await self.crash()

    async def test_connection_made(self) -> None:
        """A port catches this one in another place."""
        client = self.connect(self.listen(Talkers(made=bug)))
        await self.crash()
        client.close()
        await deferLater(self.reactor, 0.01)

    async def test_build_protocol(self) -> None:
        """A factory's own bug."""
        self.connect(self.listen(Talkers(build=bug)))
        await self.crash()
        # Twisted leaves the accepted socket to the collector, which may warn of it.
        self.flushLoggedErrors()
        gc.collect()
        self.flushWarnings()

    async def test_datagram_received(self) -> None:
        """UDP as well."""

        class Broken(DatagramProtocol):
            noisy = False

            def datagramReceived(self, datagram: bytes, addr: Any) -> None:
                bug()

        port = self.reactor.listenUDP(0, Broken(), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(b"x", ("127.0.0.1", port.getHost().port))
        await self.crash()

    async def test_timed_call(self) -> None:
        """`callLater`, with its debugging on as well."""
        self.reactor.callLater(0, bug)
        await self.crash()

    async def test_timed_call_in_debug_mode(self) -> None:
        """Then another text is logged."""
        from twisted.internet.base import DelayedCall

        self.patch(DelayedCall, "debug", True)
        self.reactor.callLater(0, bug)
        await self.crash()

    async def test_system_exit_in_a_timed_call(self) -> None:
        """The reactor swallows it, and the application wanted to end: nothing is well."""
        self.reactor.callLater(0, sys.exit, 3)
        await self.crash(SystemExit)

    async def test_call_from_thread(self) -> None:
        """What a thread hands to the reactor."""
        self.reactor.callInThread(self.reactor.callFromThread, bug)
        await self.crash()

    async def test_system_event_trigger(self) -> None:
        """What runs at the start and at the end of the reactor."""
        self.reactor.addSystemEventTrigger("during", "of these tests", bug)
        self.reactor.fireSystemEvent("of these tests")
        await self.crash()

    async def test_timer_service(self) -> None:
        """It logs with `log.err` as an application would, and never calls again."""
        service = TimerService(1000, bug)
        service.startService()
        await self.crash()
        await service.stopService()

    async def test_process_protocol(self) -> None:
        """The end of a process of the application's."""

        class Broken(ProcessProtocol):
            def processEnded(self, reason: Failure) -> None:
                bug()

        self.reactor.spawnProcess(Broken(), "/bin/true", ["true"])
        await self.crash()

    async def test_one_crash_of_two_reports(self) -> None:
        """The error that breaks a connection is its reason too, and may end in a Deferred: told once."""
        lost: list[Deferred[None]] = [Deferred()]
        self.connect(self.listen(Talkers(data=bug, lost=lambda reason: lost.pop().errback(reason))), b"x")
        await self.crash(logged=2)


class ThreadCrashTests(UncaughtTestCase):
    """What is raised in a thread is a crash, whoever made the thread."""

    async def test_call_in_thread(self) -> None:
        """The reactor's pool logs it in the thread itself."""
        self.reactor.callInThread(bug)
        await self.crash()

    async def test_dropped_thread_result(self) -> None:
        """`deferToThread` gives a Deferred, and nobody looked at it."""
        deferToThread(bug)
        await self.crash()

    def run_thread(self, target: Callable[[], object]) -> None:
        """In a thread of its own, to its end; what it prints is not for the tests' output."""
        self.patch(threading, "excepthook", lambda args: self.printed.append(args.exc_type))
        self.uncaught.watch_threads()
        self.addCleanup(self.uncaught.unwatch_threads)
        self.printed: list[object] = []
        thread = threading.Thread(target=target)
        thread.start()
        thread.join()

    def test_plain_thread(self) -> None:
        """It never reaches Twisted's log, so the interpreter's hook is watched; the old one still prints."""
        self.run_thread(bug)
        self.assertEqual([record.message for record in self.crashes], ["it broke"])
        self.assertIn("in bug\n", self.crashes[0].traceback)
        self.assertEqual(self.printed, [Bug])

    def test_plain_thread_that_ends_itself(self) -> None:
        """`sys.exit` in a thread ends the thread and means no harm."""
        self.run_thread(sys.exit)
        self.assertEqual(self.crashes, [])

    def test_plain_thread_whose_client_went_away(self) -> None:
        """A visitor who leaves kills no worker from a thread either."""

        def write() -> None:
            raise BrokenPipeError(32, "Broken pipe")

        self.run_thread(write)
        self.assertEqual(self.crashes, [])

    def test_the_hook_is_put_back(self) -> None:
        """And watching twice is watching once."""
        before = threading.excepthook
        self.uncaught.watch_threads()
        self.uncaught.watch_threads()
        self.assertNotEqual(threading.excepthook, before)
        self.uncaught.unwatch_threads()
        self.uncaught.unwatch_threads()
        self.assertEqual(threading.excepthook, before)


class DeferredCrashTests(UncaughtTestCase):
    """A failure that nobody handled, in all the forms that a Deferred has."""

    async def test_dropped_deferred(self) -> None:
        """Collected with its failure in it."""
        fail(Bug("it broke"))
        record = await self.crash()
        self.assertEqual(record.message, "it broke")

    async def test_dropped_coroutine(self) -> None:
        """Its traceback is kept, though the Deferred has taken it off the exception."""

        async def broken() -> None:
            await deferLater(self.reactor, 0)
            bug()

        Deferred.fromCoroutine(broken())
        record = await self.crash()
        self.assertIn("in bug\n", record.traceback)
        self.assertIn("in broken\n", record.traceback)

    async def test_dropped_inline_callbacks(self) -> None:
        """The older form of the same."""

        @inlineCallbacks
        def broken() -> Any:
            yield deferLater(self.reactor, 0)
            bug()

        broken()
        await self.crash()

    async def test_callback_that_raises(self) -> None:
        """In the middle of a chain."""
        deferLater(self.reactor, 0).addCallback(bug)
        await self.crash()

    async def test_errback_that_raises(self) -> None:
        """What handles an error may have one."""
        fail(ConnectionDone()).addErrback(bug)
        await self.crash()

    async def test_looping_call(self) -> None:
        """It ends at its first exception, and its Deferred was dropped."""
        LoopingCall(bug).start(1000)
        await self.crash()

    async def test_one_of_several(self) -> None:
        """`gatherResults` wraps it."""
        gatherResults([fail(Bug("it broke"))], consumeErrors=True)
        await self.eventually(lambda: self.crashes)
        self.assertEqual([record.type for record in self.crashes], ["twisted.internet.defer.FirstError"])
        self.assertIn("it broke", self.crashes[0].message)
        self.flushLoggedErrors()

    async def test_debugging(self) -> None:
        """With Deferred debugging on, another text is logged."""
        from twisted.internet.defer import setDebugging

        setDebugging(True)
        self.addCleanup(setDebugging, False)
        fail(Bug("it broke"))
        await self.crash()


class LoggedByTheApplicationTests(UncaughtTestCase):
    """What the application itself logged it has handled."""

    async def test_log_err_as_errback(self) -> None:
        """The commonest errback of all."""
        fail(Bug()).addErrback(log_err)
        deferLater(self.reactor, 0).addCallback(bug).addErrback(log_err, "while working")
        await self.noise(count=2)

    async def test_log_err_in_a_callback(self) -> None:
        """In `dataReceived` it makes the very event that a bug there makes."""

        def careful(_: bytes) -> None:
            try:
                bug()
            except Bug:
                log.err()

        self.connect(self.listen(Talkers(data=careful)), b"hello")
        await self.noise()

    async def test_log_err_called_by_the_reactor(self) -> None:
        """From a timed call, a thread's call and a thread, with a failure of the application's own."""
        self.reactor.callLater(0, log.err, Failure(Bug()))
        self.reactor.callFromThread(log.err, Failure(Bug()))
        self.reactor.callInThread(log.err, Failure(Bug()))
        await self.noise(count=3)

    async def test_log_err_behind_a_thread(self) -> None:
        """The failure was made by the thread pool, but the application logs it."""
        await deferToThread(bug).addErrback(log_err)
        await self.noise()

    async def test_logger_failure(self) -> None:
        """The newer way, from wherever it is called."""

        def careful() -> None:
            with Logger().failuresHandled("while working"):
                bug()
            Logger(namespace="mysite").failure("oh", Failure(Bug()))

        self.reactor.callLater(0, careful)
        await self.noise(count=2)

    async def test_log_error(self) -> None:
        """Twisted's own logging errback has the namespace of an unhandled Deferred."""
        fail(Bug()).addErrback(logError).addErrback(lambda _: None)
        await self.noise()

    async def test_logged_and_passed_on(self) -> None:
        """Logging is not handling: what is passed on and then dropped is a crash after all."""

        def careful(failure: Failure) -> Failure:
            Logger().failure("oh", failure)
            return failure

        fail(Bug("it broke")).addErrback(careful)
        await self.crash(logged=2)

    async def test_words_without_a_failure(self) -> None:
        """An error message is a message."""
        log.err("something went wrong")
        Logger().critical("something went wrong")
        self.assertEqual(self.crashes, [])
        self.flushLoggedErrors()


class CalledOffTests(UncaughtTestCase):
    """What was called off, or ended because somebody went away."""

    async def test_cancelled(self) -> None:
        """Twisted's and asyncio's, alone and among several."""
        Deferred[None]().cancel()
        await self.noise(CancelledError)
        fail(asyncio.CancelledError())
        await self.noise(asyncio.CancelledError)
        gatherResults([fail(CancelledError())], consumeErrors=True)
        await self.eventually(self.flushLoggedErrors)
        self.assertEqual(self.crashes, [])

    async def test_gone(self) -> None:
        """Whatever a lost connection is called."""
        for error in (ConnectionDone(), ConnectionLost(), ConnectionResetError(), BrokenPipeError()):
            fail(error)
            await self.noise(type(error))
        fail(TLSError([("SSL routines", "", "unexpected eof while reading")]))
        await self.noise(TLSError)

    async def test_in_a_timed_call(self) -> None:
        """The same where the reactor caught it."""

        def lose() -> None:
            raise ConnectionLost

        self.reactor.callLater(0, lose)
        await self.noise(ConnectionLost)

    async def test_refused_is_no_visitor(self) -> None:
        """A data base that refuses a connection did not go away: an unhandled refusal is a crash."""
        fail(ConnectionRefusedError(111, "Connection refused"))
        await self.crash(ConnectionRefusedError)


class TellingTests(UncaughtTestCase):
    """How a crash is told."""

    async def test_on_crash_that_raises(self) -> None:
        """It is logged, and hurts neither the log nor the next crash."""
        told: list[ErrorRecord] = []

        def broken(record: ErrorRecord) -> None:
            told.append(record)
            raise KeyError("x")

        globalLogPublisher.removeObserver(self.uncaught)
        uncaught = UncaughtErrors(broken)
        globalLogPublisher.addObserver(uncaught)
        self.addCleanup(globalLogPublisher.removeObserver, uncaught)
        for count in (1, 2):
            self.reactor.callLater(0, bug)
            await self.eventually(lambda: len(told) == count)  # noqa: B023
        self.assertEqual(len(self.flushLoggedErrors(Bug)), 2)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 2)
        uncaught({"log_failure": Failure(Bug()), "log_namespace": "twisted.internet.base"})
        self.assertEqual((len(told), len(self.flushLoggedErrors(KeyError))), (3, 1))

    async def test_each_crash_is_told(self) -> None:
        """Two errors are two crashes, though they look alike."""
        self.reactor.callLater(0, bug)
        self.reactor.callLater(0, bug)
        await self.eventually(lambda: len(self.crashes) == 2)
        self.flushLoggedErrors(Bug)

    async def test_errors_with_bugs_of_their_own(self) -> None:
        """An exception that cannot say what it is, or takes no notes, is told all the same."""

        class Mute(RuntimeError):
            def __str__(self) -> str:
                raise ValueError

        class Sealed(Exception):
            def __setattr__(self, name: str, value: object) -> None:
                raise AttributeError(name)

            @property
            def __dict__(self) -> Any:  # type: ignore[override]  # as strange as it can be
                raise ValueError

        def raise_it(error: Exception) -> None:
            raise error

        for error in (Mute(), Sealed()):
            self.reactor.callLater(0, raise_it, error)
        fail(Mute())
        self.uncaught({"log_failure": Failure(Sealed()), "log_namespace": "twisted.web.server.Request"})
        await self.eventually(lambda: len(self.crashes) == 3)
        self.assertEqual({record.type.rpartition(".")[2] for record in self.crashes}, {"Mute", "Sealed"})
        self.flushLoggedErrors()

    def test_events_without_an_error(self) -> None:
        """Most events of a log are no errors, and some are strange."""
        self.uncaught({"log_failure": "not a failure", "log_namespace": "twisted.internet.base"})
        self.uncaught({"log_format": "hello"})
        self.uncaught({})
        self.assertEqual(self.crashes, [])
