"""One sink's messages, one at a time, tried for a week: with back-off, a deadline, and the attempt written before it."""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable
from typing import Protocol

from twisted.internet.defer import CancelledError, Deferred, TimeoutError, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from serverworker.observers.notifications.spool import Item
from serverworker.processes.awaiting import within
from serverworker.values.notification_events import (
    NotificationDelivered,
    NotificationFailed,
    NotificationsDropped,
)

FIRST_DELAY_SECONDS = 1.0
LONGEST_DELAY_SECONDS = 600.0
LONGEST_ASKED_SECONDS = 3600.0
"""So long a receiver may have us wait (``Retry-After``)."""
OLDEST_SECONDS = 7 * 24 * 3600.0
FEWEST_ATTEMPTS = 50
"""A message is given up when it is older than that and was tried so often: a clock that is set right loses none."""
MOST_ITEMS = 1000
MOST_BYTES = 16 * 1024 * 1024
"""So much waits for one sink; of more, the oldest go."""

Outcome = NotificationDelivered | NotificationFailed | NotificationsDropped


class Undelivered(Exception):
    """A message did not get through. Its text says why, in words for an operator, and holds no secret."""

    def __init__(
        self,
        text: str,
        *,
        refused: bool = False,
        retry_after: float | None = None,
        done: tuple[str, ...] = (),
    ) -> None:
        super().__init__(text)
        self.text = text
        self.refused = refused
        """The receiver said no for good (SMTP 5xx, HTTP 4xx): the others go first from now on."""
        self.retry_after = retry_after
        """Seconds that the receiver asks for."""
        self.done = done
        """Who has got it all the same."""


class Sink(Protocol):
    """A way out."""

    name: str
    """``mail`` or ``webhook``."""
    to: str
    """Where it leads, in words, without a secret."""
    deadline_seconds: float
    """Of one attempt."""

    def send(self, item: Item) -> Deferred[None]:
        """Hand an item to the receiver; fails with `Undelivered`. Cancelling it closes the connection."""


class Delivery:
    """The queue in front of one sink."""

    _log = Logger(namespace="serverworker.notifications")

    def __init__(
        self,
        *,
        clock: IReactorTime,
        wall_clock: Callable[[], float],
        sink: Sink,
        want: Callable[[str, bytes | None], Deferred[None]],
        publish: Callable[[Outcome], object],
        chance: Callable[[], float],
    ) -> None:
        """`want` is `SpoolWriter.want`; `chance` answers a number from [0, 1)."""
        self._clock = clock
        self._wall_clock = wall_clock
        self._sink = sink
        self._want = want
        self._publish = publish
        self._chance = chance
        self._waiting: deque[Item] = deque()
        self._item: Item | None = None
        self._attempt: Deferred[None] | None = None
        self._timer: IDelayedCall | None = None
        self._failures = 0
        self._said: set[bool] = set()
        self._closing: Deferred[None] | None = None

    @property
    def pending(self) -> int:
        """How many messages are not delivered yet."""
        return len(self._waiting) + (self._item is not None)

    def items(self) -> tuple[Item, ...]:
        """They themselves."""
        return (*self._waiting, *([self._item] if self._item is not None else []))

    def add(self, item: Item, seconds: float = 0.0) -> None:
        """Have an item delivered, in so many seconds at the earliest."""
        self._waiting.append(item)
        too_many = 0
        while len(self._waiting) > MOST_ITEMS or sum(each.size for each in self._waiting) > MOST_BYTES:
            self._forget(self._waiting.popleft())
            too_many += 1
        if too_many:
            self._drop(too_many, f"too many wait for {self._sink.name}, and these were the oldest")
        if self._timer is None and self._attempt is None:
            self._timer = self._clock.callLater(seconds, self._time_has_come)

    def close(self) -> Deferred[None]:
        """One attempt more for what has not failed yet; fires when that is over. What is left stays in the spool.

        Cancelling it ends an attempt that is under way.
        """
        closing: Deferred[None] = Deferred(lambda _: self._give_up())
        self._closing = closing
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._attempt is None:
            if self._failures:
                self._finish()
            else:
                self._go_on()
        return closing

    def _time_has_come(self) -> None:
        self._timer = None
        self._go_on()

    def _go_on(self) -> None:
        self._forget_old()
        if not self._waiting:
            self._finish()
            return
        self._item = item = self._waiting.popleft()
        item.attempts += 1
        self._attempt = Deferred.fromCoroutine(self._try(item))
        self._attempt.addCallbacks(self._delivered, self._failed, callbackArgs=(item,), errbackArgs=(item,))

    async def _try(self, item: Item) -> None:
        await self._keep(item)  # which try it is, before it begins: its end may never be known
        await within(self._clock, self._sink.deadline_seconds, self._sink.name, self._sink.send(item))

    def _keep(self, item: Item) -> Deferred[None]:
        return succeed(None) if item.secret else self._want(item.file_name, item.as_json())

    def _forget(self, item: Item) -> None:
        if not item.secret:
            self._want(item.file_name, None)

    def _delivered(self, _: object, item: Item) -> None:
        self._attempt = self._item = None
        self._failures = 0
        self._said.clear()
        self._forget(item)
        self._publish(
            NotificationDelivered(
                sink=self._sink.name,
                to=self._sink.to,
                subject=item.message.subject,
                message_id=item.message.id,
                attempt=item.attempts,
            )
        )
        self._go_on()

    def _failed(self, failure: Failure, item: Item) -> None:
        self._attempt = self._item = None
        if failure.check(CancelledError):  # the session ends
            self._waiting.appendleft(item)
            self._finish()
            return
        error = self._explained(failure)
        self._failures += 1
        if error.done:
            item.done += error.done
            self._keep(item)
        if error.refused:
            self._waiting.append(item)
        else:
            self._waiting.appendleft(item)
        delay = self._delay(error)
        if error.refused not in self._said:
            self._said.add(error.refused)
            self._tell_failure(item, error, delay)
        if self._closing is not None:
            self._finish()
        else:
            self._timer = self._clock.callLater(delay, self._time_has_come)

    def _explained(self, failure: Failure) -> Undelivered:
        error = failure.value
        if isinstance(error, Undelivered):
            return error
        if isinstance(error, TimeoutError):
            return Undelivered(f"no answer within {self._sink.deadline_seconds:g} s; it may have arrived")
        # Where it was raised, and not the error's text, which may hold what is secret.
        frames = "".join(traceback.format_tb(failure.getTracebackObject()))
        self._log.error(
            "{sink} failed in a way that is not foreseen, {kind}:\n{frames}",
            sink=self._sink.name,
            kind=type(error).__name__,
            frames=frames,
        )
        return Undelivered(f"a fault of serverworker's own, {type(error).__name__}, which the log shows")

    def _delay(self, error: Undelivered) -> float:
        doubled = FIRST_DELAY_SECONDS * 2.0 ** min(self._failures - 1, 20)
        delay = min(doubled, LONGEST_DELAY_SECONDS) * (1.0 - 0.25 * self._chance())
        return max(delay, min(error.retry_after or 0.0, LONGEST_ASKED_SECONDS))

    def _tell_failure(self, item: Item, error: Undelivered, delay: float) -> None:
        if self._closing is not None:
            next_step = "the next session tries again"
        elif error.refused:
            next_step = (
                f"it is tried again after the others, in {delay:.1f} s, then ever less often, for a week"
            )
        else:
            next_step = f"it is tried again in {delay:.1f} s, then ever less often, for a week"
        self._publish(
            NotificationFailed(
                sink=self._sink.name,
                to=self._sink.to,
                subject=item.message.subject,
                attempt=item.attempts,
                text=error.text,
                next_step=next_step,
            )
        )

    def _forget_old(self) -> None:
        oldest = self._wall_clock() - OLDEST_SECONDS
        old = [
            each for each in self._waiting if each.message.at < oldest and each.attempts >= FEWEST_ATTEMPTS
        ]
        for item in old:
            self._waiting.remove(item)
            self._forget(item)
        if old:
            self._drop(len(old), f"{self._sink.name} to {self._sink.to} has failed for a week")

    def _drop(self, count: int, text: str) -> None:
        self._publish(NotificationsDropped(count=count, text=text, next_step="they are given up"))

    def _give_up(self) -> None:
        if self._attempt is not None:
            self._attempt.cancel()

    def _finish(self) -> None:
        closing, self._closing = self._closing, None
        if closing is not None and not closing.called:
            closing.callback(None)
