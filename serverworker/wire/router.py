"""The emit router: one end of the emits between two processes, whatever carries them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

from attrs import define
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from serverworker.values.errors import EmitError, EmitTimeout, FailedDispatch, HandlerOutcome
from serverworker.wire.emits import EmitHandler, Handlers, check_name, check_timeout, run_all
from serverworker.wire.large import AMP_VALUE_BYTES, MAX_VALUE_BYTES
from serverworker.wire.messages import (
    Answer,
    Emit,
    Garbage,
    UnreadableEmit,
    encode_answer,
    encode_emit,
    encode_refusal,
    encode_unhandled,
    read,
)

BATCH_BYTES = AMP_VALUE_BYTES
"""The most that goes into a batch of several messages. A larger message travels alone."""

IN_FLIGHT_BYTES = 256 * 1024 * 1024
"""So much may wait for answers. It bounds what a process can hold when the other one does not read."""

EMIT_COST_BYTES = 1024
"""What an emit costs in memory besides its value, about."""


@define(eq=False)
class _Pending:
    """An emit that has not ended."""

    name: str
    size: int
    answer: Deferred[list[Any]]
    deadline: IDelayedCall


@implementer(IPushProducer)
class EmitRouter:
    """Sends emits and ends each of them; runs handlers for the other process's emits and answers them.

    All messages of one reactor turn leave in one batch. Messages that fit into a batch keep their order, and
    so do larger ones, but a small one may overtake a large one, so that nobody waits behind somebody else's
    megabytes. Who needs an order waits for the answer. While the transport is full, messages wait here, where
    those that have timed out or were cancelled are dropped instead of being sent.

    It is paused until its transport calls `resumeProducing`.

    :param clock: the reactor's time.
    :param handlers: who answers the other process.
    :param send: takes one batch, at most 16 MiB and 4 KiB.
    :param peer: how the other process is called in texts.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        handlers: Handlers,
        send: Callable[[bytes], None],
        peer: str = "the other process",
    ) -> None:
        self.limit = MAX_VALUE_BYTES
        """How many bytes of JSON a value may have; never more than this to begin with."""
        self._clock = clock
        self._handlers = handlers
        self._send = send
        self._peer = peer
        self._closed = ""  # why, once it is
        self._pending: dict[int, _Pending] = {}
        self._last_number = 0
        self._in_flight_bytes = 0
        # What is not sent yet: our emits by their number, our answers by the negative of the emitter's.
        self._small: OrderedDict[int, bytes] = OrderedDict()
        self._large: OrderedDict[int, bytes] = OrderedDict()
        self._large_is_next = False
        self._writable = False
        self._receiving = False
        self._flush_call: IDelayedCall | None = None

    @property
    def unanswered(self) -> int:
        """How many emits have not ended."""
        return len(self._pending)

    @property
    def unsent(self) -> int:
        """How many messages wait for room in the transport."""
        return len(self._small) + len(self._large)

    def emit(self, name: str, args: Any = None, timeout: float = 60.0) -> Deferred[list[Any]]:
        """Let the other process's handlers of `name` run with `args`, any JSON value up to 16 MiB.

        Whatever goes wrong comes through the Deferred; nothing is raised here. It may be cancelled.

        :param timeout: in seconds; there is always one.
        :return: a Deferred of one result for each handler, in the order of their registration. It fails with
            `UnhandledMessage`, `RemoteError` (a handler failed; all have run), `NotJSON`, `ValueTooLarge`,
            `EmitTimeout`, `PeerLost`, `LinkDestroyed`, `FailedDispatch` (it was not sent), or with a
            ValueError or TypeError that names what is wrong with the name or the timeout.
        """
        number = self._last_number + 1
        try:
            check_timeout(timeout)
            check_name(name)
            message = encode_emit(number, name, args, self.limit)
            self._check_room(name, len(message))
        except (EmitError, ValueError, TypeError) as error:
            return fail(error)
        self._last_number = number
        answer: Deferred[list[Any]] = Deferred(partial(self._cancelled, number))
        size = len(message) + EMIT_COST_BYTES
        deadline = self._clock.callLater(timeout, self._expire, number, timeout)
        self._pending[number] = _Pending(name, size, answer, deadline)
        self._in_flight_bytes += size
        self._queue(number, message)
        return answer

    def batch_received(self, batch: bytes) -> None:
        """Take what the other end's `send` was given. Never raises: what is no message is ignored."""
        lines = batch.split(b"\n") if len(batch) <= BATCH_BYTES else [batch]
        garbage: list[str] = []
        self._receiving = True
        try:
            for line in lines:
                try:
                    self._received(read(line))
                except Garbage as fault:
                    garbage.append(f"{fault}: {line[:100]!r}")
        finally:
            self._receiving = False
            self.flush()
        if garbage:
            self._log.warn(
                "ignored {count} of {total} messages from {peer}; the first: {first}",
                count=len(garbage),
                total=len(lines),
                peer=self._peer,
                first=garbage[0],
            )

    def end(self, kind: type[EmitError], text: str) -> None:
        """End every emit with an error of this kind, and let every later one fail with `FailedDispatch`."""
        if self._closed:
            return
        self._closed = text
        if self._flush_call is not None:
            self._flush_call.cancel()
            self._flush_call = None
        self._small.clear()
        self._large.clear()
        for number in list(self._pending):
            pending = self._forget(number)
            if pending is not None:  # an errback may have cancelled it
                pending.answer.errback(kind(f"{pending.name!r} has no answer: {text}"))

    def flush(self) -> None:
        """Send what waits, as far as the transport takes it, before this reactor turn ends."""
        if self._flush_call is not None:
            if self._flush_call.active():
                self._flush_call.cancel()
            self._flush_call = None
        while self._writable and (self._small or self._large):
            if self._large and (self._large_is_next or not self._small):
                batch = self._large.popitem(last=False)[1]
                self._large_is_next = False
            else:
                batch = _take_batch(self._small)
                self._large_is_next = True
            self._send(batch)

    def pauseProducing(self) -> None:
        """The transport is full."""
        self._writable = False

    def resumeProducing(self) -> None:
        """The transport has room."""
        self._writable = True
        self.flush()

    def stopProducing(self) -> None:
        """The transport takes nothing any more."""
        self._writable = False

    def _check_room(self, name: str, size: int) -> None:
        if self._closed:
            raise FailedDispatch(f"{name!r} was not sent: {self._closed}")
        if self._in_flight_bytes + size > IN_FLIGHT_BYTES:
            raise FailedDispatch(
                f"{name!r} was not sent: {len(self._pending):,} emits already wait for an answer"
                f" from {self._peer}; is it stuck?"
            )

    def _received(self, said: Emit | UnreadableEmit | Answer) -> None:
        if self._closed:
            return
        if isinstance(said, Emit):
            self._emit_received(said)
        elif isinstance(said, Answer):
            self._answered(said)
        else:
            self._queue(-said.number, encode_refusal(said.number, said.error))

    def _emit_received(self, emit: Emit) -> None:
        handlers = self._handlers.registered(emit.name)
        if not handlers:
            self._queue(-emit.number, encode_unhandled(emit.number, emit.name, self._handlers.names))
            return
        outcomes = run_all(handlers, emit.args)
        if isinstance(outcomes, Deferred):
            outcomes.addCallback(partial(self._answer, emit.number, emit.name, handlers))
        else:
            self._answer(emit.number, emit.name, handlers, outcomes)

    def _answer(
        self, number: int, name: str, handlers: tuple[EmitHandler, ...], outcomes: list[HandlerOutcome]
    ) -> None:
        if not self._closed:
            self._queue(-number, encode_answer(number, name, handlers, outcomes, self.limit))

    def _answered(self, answer: Answer) -> None:
        if answer.number > self._last_number:
            raise Garbage("an answer to nothing that was asked")
        pending = self._forget(answer.number)
        if pending is None:
            self._log.debug("an answer from {peer} came too late", peer=self._peer)
        elif answer.error is not None:
            pending.answer.errback(answer.error)
        else:
            pending.answer.callback(answer.results)

    def _expire(self, number: int, timeout: float) -> None:
        unsent = number in self._small or number in self._large
        pending = self._forget(number)
        assert pending is not None
        why = (
            "it was never sent, since the other end does not read"
            if unsent
            else "its handlers may still be running"
        )
        pending.answer.errback(
            EmitTimeout(f"no answer to {pending.name!r} from {self._peer} within {timeout:g} s; {why}")
        )

    def _cancelled(self, number: int, answer: Deferred[list[Any]]) -> None:
        self._forget(number)

    def _forget(self, number: int) -> _Pending | None:
        """Leave nothing of an emit behind; None when it has ended already."""
        pending = self._pending.pop(number, None)
        if pending is not None:
            self._in_flight_bytes -= pending.size
            if pending.deadline.active():
                pending.deadline.cancel()
            self._small.pop(number, None)
            self._large.pop(number, None)
        return pending

    def _queue(self, key: int, message: bytes) -> None:
        lane = self._small if len(message) <= BATCH_BYTES else self._large
        lane[key] = message
        if not self._receiving and self._flush_call is None:
            self._flush_call = self._clock.callLater(0, self.flush)


def _take_batch(lane: OrderedDict[int, bytes]) -> bytes:
    """Take as many messages, oldest first, as fit into a batch; at least one."""
    batch = [lane.popitem(last=False)[1]]
    size = len(batch[0])
    while lane:
        key, message = lane.popitem(last=False)
        size += 1 + len(message)
        if size > BATCH_BYTES:
            lane[key] = message
            lane.move_to_end(key, last=False)
            break
        batch.append(message)
    return b"\n".join(batch)
