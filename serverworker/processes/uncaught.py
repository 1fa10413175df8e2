"""Tells the errors that nothing in a worker handled, which are crashes, from those that are only noise.

A visitor must not be able to kill a worker, and a bug must not go unseen. Twisted logs both. What tells them apart,
as Twisted 24.11 to 26.10 has it:

- Code of Twisted's that calls the application logs what comes out of it with a Logger of its own module, or with the
  legacy ``log.err()``. The legacy event of a bug in `dataReceived` looks exactly like that of an application's own
  ``log.err(failure)``; who called ``log.err`` tells them apart, and an observer of the global publisher is called in
  the very stack that logs.
- An unhandled Deferred is logged when it is collected, by `twisted.internet.defer`, with the key ``debugInfo``.
- `twisted.web` catches what a request raises and answers 500.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

from twisted.internet.defer import CancelledError, FirstError
from twisted.internet.error import ConnectionClosed
from twisted.logger import ILogObserver, LogEvent, Logger
from twisted.python import log
from twisted.python.failure import Failure
from zope.interface import implementer

from serverworker.processes.awaiting import record_of
from serverworker.values.errors import ErrorRecord

_LOGGERS = (
    "twisted.internet.base",  # timed calls, calls from threads, system event triggers, the main loop
    "twisted.internet.asyncioreactor",  # a descriptor's doRead and doWrite; the other reactors use the legacy log
    "twisted.internet._baseprocess",  # a process protocol's processExited and processEnded
    "serverworker.processes.loop_errors",  # an asyncio event loop's tasks and callbacks
)
"""Namespaces of Loggers that log what the application's code raised into the reactor."""

_CATCHERS = frozenset(
    {
        ("twisted.python.log", "callWithLogger"),  # doRead and doWrite of epoll, poll and select
        ("twisted.internet.posixbase", "_doReadOrWrite"),
        ("twisted.internet.selectreactor", "_doReadOrWrite"),
        ("twisted.internet.tcp", "doRead"),  # buildProtocol and connectionMade, from a port
        ("twisted.internet.tcp", "readConnectionLost"),
        ("twisted.internet.tcp", "_closeWriteConnection"),
        ("twisted.internet.udp", "doRead"),  # datagramReceived
        ("twisted.python.threadpool", "inContext"),  # callInThread
        ("twisted._threads._team", "doWork"),
        ("twisted.application.internet", "_failed"),  # TimerService
    }
)
"""Functions (module, name) of Twisted's that catch what the application's code raised, and call `log.err`."""

_HTTP_FILES = ("/twisted/web/http.py", "/twisted/web/_http2.py")
_HTTP_ENTRANCES = frozenset(
    {"dataReceived", "connectionLost", "readConnectionLost", "timeoutConnection", "resumeProducing"}
)

_AFTER_THE_CLIENT = (
    "Request.finish called on a request after its connection was lost",
    "Request.write called on a request after Request.finish was called",
)
_WITHOUT_CHANNEL = ("'NoneType' object has no attribute", "object has no attribute 'channel'")

_log = Logger()


@implementer(ILogObserver)
class UncaughtErrors:
    """Calls `on_crash` once for each error that nothing handled, and for nothing else.

    To be added to `globalLogPublisher` itself, not behind a filter that works in another stack. It is called in
    whatever thread had the error, and for a Deferred wherever the interpreter collects it: `on_crash` should only
    schedule what is to be done, with `callFromThread`. What it raises is logged.
    """

    def __init__(self, on_crash: Callable[[ErrorRecord], object]) -> None:
        self._on_crash = on_crash
        self._hook_before: Callable[[Any], object] | None = None

    def __call__(self, event: LogEvent) -> None:
        """Look at one event of the log."""
        failure = event.get("log_failure") or event.get("failure")
        if not isinstance(failure, Failure):
            return
        namespace = event.get("log_namespace", "")
        if namespace.startswith("twisted.web."):
            # Answered with 500. The same error may come again, from a Deferred behind `processingFailed`, which
            # passes it on.
            _first_sight(failure.value)
        elif _is_from_reactor(namespace):
            self._judge(failure, lambda: _is_inside_request(failure) or _is_noise(failure))
        elif _is_from_deferred(event, namespace):
            self._judge(failure, lambda: _is_noise(failure))

    def watch_threads(self) -> None:
        """Look at the errors of plain `threading.Thread`s as well, which never reach Twisted's log.

        The hook that was there before (it prints the traceback) is still called.
        """
        if self._hook_before is None:
            self._hook_before, threading.excepthook = threading.excepthook, self._thread_failed

    def unwatch_threads(self) -> None:
        """Put the hook back that was there before."""
        if self._hook_before is not None:
            threading.excepthook, self._hook_before = self._hook_before, None

    def _thread_failed(self, args: threading.ExceptHookArgs) -> None:
        before, error = self._hook_before, args.exc_value
        if before is not None:
            before(args)
        # SystemExit is how a thread ends itself; the interpreter ignores it too.
        if error is not None and not isinstance(error, SystemExit):
            failure = Failure(error)
            self._judge(failure, lambda: _is_noise(failure))

    def _judge(self, failure: Failure, is_harmless: Callable[[], bool]) -> None:
        # An error that breaks a connection is handed to its protocol as the reason, and may end in a Deferred of
        # the application's: one crash, not two.
        if not _first_sight(failure.value):
            return
        try:
            harmless = is_harmless()
        except Exception:  # an error's own code may raise, and a judge that fails must not hide the case
            harmless = False
        if not harmless:
            with _log.failuresHandled("while telling of a crash"):
                self._on_crash(record_of(failure))


def _is_from_reactor(namespace: str) -> bool:
    """Did Twisted's own code catch this, where it calls the application's?"""
    if namespace == "log_legacy":
        return _caller_of_log_err() in _CATCHERS
    return namespace.startswith(_LOGGERS)


def _is_from_deferred(event: LogEvent, namespace: str) -> bool:
    """Is it what a collected Deferred left behind? `logError`, an errback for applications, logs there as well."""
    return namespace == "twisted.internet.defer" and "debugInfo" in event


def _caller_of_log_err() -> tuple[str, str]:
    """The module and the name of the function that called ``log.err`` in this very stack."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code is _LOG_ERR and frame.f_back is not None:
            caller = frame.f_back
            return caller.f_globals.get("__name__", ""), caller.f_code.co_name
        frame = frame.f_back
    return "", ""


_LOG_ERR: CodeType = log.err.__code__


def _is_inside_request(failure: Failure) -> bool:
    """Was the HTTP server at work, called by the reactor?

    A request's own code is caught earlier. What is left are the parser's faults, for which a visitor needs nothing
    but strange bytes. Twisted closes the connection.
    """
    return any(name in _HTTP_ENTRANCES and file.endswith(_HTTP_FILES) for name, file, *_ in failure.frames)


def _is_noise(failure: Failure) -> bool:
    """Does this say no more than that somebody went away, or that something was called off?"""
    while isinstance(failure.value, FirstError):  # of gatherResults
        failure = failure.value.subFailure
    error = failure.value
    if isinstance(error, _GONE_OR_CALLED_OFF) or failure.check("OpenSSL.SSL.Error"):
        return True
    if isinstance(error, RuntimeError):
        return str(error).startswith(_AFTER_THE_CLIENT)
    if isinstance(error, AttributeError) and failure.frames:
        # Whatever else is asked of a request whose client has gone: its channel is None, or deleted.
        innermost_file = failure.frames[-1][1]
        gone = innermost_file.endswith(("/twisted/web/http.py", "/twisted/web/server.py"))
        return gone and any(words in str(error) for words in _WITHOUT_CHANNEL)
    return False


_GONE_OR_CALLED_OFF = (
    ConnectionClosed,
    ConnectionResetError,
    ConnectionAbortedError,
    BrokenPipeError,
    CancelledError,
    asyncio.CancelledError,
)


def _first_sight(error: BaseException | None) -> bool:
    """Note on the error itself that it was judged; False where it had been.

    The note stands there because an exception takes no weak reference, and a strong one keeps the frames of its
    traceback alive.
    """
    try:
        notes = error.__dict__
    except Exception:  # whatever an application made of it
        return True
    if "_serverworker_judged" in notes:
        return False
    notes["_serverworker_judged"] = True
    return True
