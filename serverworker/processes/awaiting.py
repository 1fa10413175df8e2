"""Calling what an application wrote: plain functions, Deferreds and coroutines alike, with a deadline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, TimeoutError, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from serverworker.values.errors import ErrorRecord


def finished(function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
    """Call it, and answer what it comes to. What it raises at once becomes a failure as well."""
    return maybeDeferred(function, *arguments)


def within(clock: IReactorTime, seconds: float, what: str, deferred: Deferred[Any]) -> Deferred[Any]:
    """Put a deadline to a Deferred; over it, it is cancelled, and fails with a TimeoutError that names `what`.

    The answer comes at the deadline even where the Deferred takes no notice of being cancelled. To cancel the answer is
    to cancel the Deferred.
    """

    def called_off(_: Deferred[Any]) -> None:
        timer.cancel()
        deferred.cancel()

    answer: Deferred[Any] = Deferred(called_off)

    def over() -> None:
        answer.errback(TimeoutError(f"{what} has not finished within {seconds:g} s"))
        deferred.cancel()

    timer = clock.callLater(seconds, over)

    def done(result: Any) -> None:
        if timer.active():
            timer.cancel()
            answer.callback(result)

    deferred.addBoth(done)
    return answer


def record_of(failure: Failure) -> ErrorRecord:
    """The record of a failure. A Failure lets go of its error's traceback, but keeps a text of its own."""
    error = failure.value
    assert error is not None
    record = ErrorRecord.from_exception(error)
    if error.__traceback__ is None:
        return ErrorRecord(type=record.type, message=record.message, traceback=failure.getTraceback())
    return record
