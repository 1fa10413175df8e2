"""Who handles an emit, and what comes of it: one outcome for each handler."""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from twisted.internet.defer import Deferred, fail, gatherResults, succeed
from twisted.python.failure import Failure

from serverworker.values.errors import ErrorRecord, HandlerOutcome, RemoteError, UnhandledMessage

MAX_NAME_LENGTH = 255
"""Of a message's name, in characters."""

EmitHandler = Callable[[Any], Any]
"""
Is called with the emit's value and returns a JSON value: at once, by a Deferred, or as a coroutine function.

The handlers of one emit get the same object: to change it is to change it for the others.
"""


class Handlers:
    """The handlers of a process, by message name.

    All handlers of a name run at once, and all run even when one of them raises. A handler that is added or
    taken away while an emit is being dispatched takes part from the next one on.
    """

    def __init__(self) -> None:
        self._handlers: dict[str, tuple[EmitHandler, ...]] = {}

    def on(self, name: str, handler: EmitHandler) -> None:
        """Let `handler` answer emits of this name, after those that are registered already.

        :raises TypeError: the handler cannot be called, or the name is no text.
        :raises ValueError: the name is empty or longer than 255 characters.
        """
        check_name(name)
        if not callable(handler):
            raise TypeError(f"the handler of {name!r} must be callable, not {type(handler).__name__}")
        self._handlers[name] = (*self._handlers.get(name, ()), handler)

    def off(self, name: str, handler: EmitHandler) -> None:
        """Take one registration of `handler` away, the latest. Nothing happens when there is none."""
        left = list(reversed(self._handlers.get(name, ())))
        if handler in left:
            left.remove(handler)
            self._keep(name, tuple(reversed(left)))

    def clear(self, name: str) -> None:
        """Take every handler of this name away."""
        self._keep(name, ())

    @property
    def names(self) -> tuple[str, ...]:
        """The names that somebody handles, sorted."""
        return tuple(sorted(self._handlers))

    def registered(self, name: str) -> tuple[EmitHandler, ...]:
        """The handlers of this name in the order of their registration; none is an empty tuple."""
        return self._handlers.get(name, ())

    def dispatch(self, name: str, args: Any = None) -> Deferred[list[HandlerOutcome]]:
        """Run the handlers of this name here, and tell what each came to, in the order of registration.

        Fails with `UnhandledMessage` when there are none, and in no other way. See :func:`results_of`.
        """
        handlers = self.registered(name)
        if not handlers:
            return fail(UnhandledMessage(name, self.names))
        outcomes = run_all(handlers, args)
        return outcomes if isinstance(outcomes, Deferred) else succeed(outcomes)

    def _keep(self, name: str, handlers: tuple[EmitHandler, ...]) -> None:
        if handlers:
            self._handlers[name] = handlers
        else:
            self._handlers.pop(name, None)


def check_name(name: str) -> None:
    """Hold a message's name against what is allowed.

    :raises TypeError: it is no text.
    :raises ValueError: it is empty, or longer than 255 characters.
    """
    if not isinstance(name, str):
        raise TypeError(f"a message's name must be text, not {type(name).__name__}")
    if not 0 < len(name) <= MAX_NAME_LENGTH:
        raise ValueError(f"a message's name has 1 to {MAX_NAME_LENGTH} characters, not {len(name)}")


def check_timeout(timeout: float) -> None:
    """Hold a deadline against what is allowed: there is always one.

    :raises TypeError: it is no number.
    :raises ValueError: it is not positive, or not finite.
    """
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError(f"timeout must be a number of seconds, not {timeout!r}")
    if not (math.isfinite(timeout) and timeout > 0):
        raise ValueError(f"timeout must be a positive, finite number of seconds, not {timeout!r}")


def run_all(
    handlers: Sequence[EmitHandler], args: Any
) -> list[HandlerOutcome] | Deferred[list[HandlerOutcome]]:
    """Run every handler at once: their outcomes where all have ended, else a Deferred, which never fails."""
    outcomes = [_run(handler, args) for handler in handlers]
    done = [outcome for outcome in outcomes if isinstance(outcome, HandlerOutcome)]
    if len(done) == len(outcomes):
        return done
    return gatherResults([each if isinstance(each, Deferred) else succeed(each) for each in outcomes])


def results_of(outcomes: Sequence[HandlerOutcome]) -> list[Any]:
    """The handlers' results.

    :raises RemoteError: a handler failed; it carries the first failure, and all outcomes.
    """
    for outcome in outcomes:
        if outcome.error is not None:
            raise RemoteError(outcome.error, outcomes)
    return [outcome.result for outcome in outcomes]


def describe(handler: EmitHandler) -> str:
    """How a handler is named in an error's text. Never raises."""
    name = getattr(handler, "__qualname__", None)
    return name if isinstance(name, str) else f"a {type(handler).__qualname__}"


def _run(handler: EmitHandler, args: Any) -> HandlerOutcome | Deferred[HandlerOutcome]:
    try:
        result = handler(args)
        if isinstance(result, Coroutine):
            result = Deferred.fromCoroutine(result)
    except BaseException as error:  # SystemExit too, as in a Deferred: it is this handler's outcome
        return HandlerOutcome(error=ErrorRecord.from_exception(error))
    if isinstance(result, Deferred):
        return result.addCallbacks(_succeeded, _failed)
    return HandlerOutcome(result=result)


def _succeeded(result: Any) -> HandlerOutcome:
    return HandlerOutcome(result=result)


def _failed(failure: Failure) -> HandlerOutcome:
    assert failure.value is not None
    record = ErrorRecord.from_exception(failure.value)
    if failure.value.__traceback__ is None:  # a Failure that was cleaned keeps its frames to itself
        record = ErrorRecord(type=record.type, message=record.message, traceback=failure.getTraceback())
    return HandlerOutcome(error=record)
