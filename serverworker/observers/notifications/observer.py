"""The observer that tells people: it picks events, has them become messages, and hands these to each sink's queue."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from serverworker.observers.notifications.delivery import OLDEST_SECONDS, Delivery, Sink, Undelivered
from serverworker.observers.notifications.ledger import Ledger
from serverworker.observers.notifications.message import Message, Whereabouts, compose, summed_up, with_key
from serverworker.observers.notifications.spool import LEDGER_NAME, Found, Item, Spool, ledger_as_json
from serverworker.observers.notifications.spool_writer import InThread, SpoolWriter
from serverworker.processes.awaiting import record_of, within
from serverworker.values.errors import ErrorRecord
from serverworker.values.events import Event, Fault, ServerRunning, SessionEnded, SessionEnding, Told
from serverworker.values.notification_events import NotificationFailed, NotificationsDropped
from serverworker.values.notify_settings import NotifySettings
from serverworker.values.state import SessionState

CALM_SECONDS = 0.5
"""After a death the first moments belong to whoever takes over."""
PREPARE_SECONDS = 5.0
"""After the start, what the first message needs is loaded: by then the first workers have their start behind them."""
LEDGER_SECONDS = 1.0
"""The ledger is written no oftener than that."""
CLOSE_SECONDS = 3.5
"""So long the end of the session waits for messages that no sink has refused yet."""
LAST_DISK_SECONDS = 1.0
"""Then so long for the disk."""
MOST_EARLY = 1000
"""Events that are kept until the spool is loaded."""


class PreparedSink(Sink, Protocol):
    """A way out that can look beforehand whether it has what it needs."""

    def prepare(self) -> Deferred[None]:
        """Load it; fails with `Undelivered`."""


class Notifications:
    """Tells of events by mail and webhook.

    Being told waits for the disk and the network, and nothing in the session waits for it: a call notes the event and
    returns. `start` takes up what a former session left in the spool.
    """

    _log = Logger(namespace="serverworker.notifications")

    def __init__(
        self,
        *,
        clock: IReactorTime,
        wall_clock: Callable[[], float],
        settings: NotifySettings,
        sinks: Sequence[PreparedSink],
        spool: Spool,
        in_thread: InThread,
        publish: Callable[[Event], object],
        where: Callable[[], Whereabouts],
        state: Callable[[], SessionState],
        key: Callable[[], str],
        chance: Callable[[], float],
    ) -> None:
        """`wall_clock` answers seconds since the epoch, `chance` a number from [0, 1), `key` the session key."""
        self._clock = clock
        self._wall_clock = wall_clock
        self._settings = settings
        self._sinks = sinks
        self._publish = publish
        self._where = where
        self._state = state
        self._key = key
        self._writer = SpoolWriter(clock, spool, in_thread, publish)
        self._chance = chance
        self._deliveries = {sink.name: self._delivery_to(sink) for sink in sinks}
        self._ledger = Ledger(settings.budget_per_hour, settings.group_seconds)
        self._early: deque[Told] | None = deque(maxlen=MOST_EARLY)
        self._early_lost = 0
        self._timers: dict[str, IDelayedCall] = {}
        self._loaded = False
        self._closing = False
        self._closed = False

    def _delivery_to(self, sink: Sink) -> Delivery:
        return Delivery(
            clock=self._clock,
            wall_clock=self._wall_clock,
            sink=sink,
            want=self._writer.want,
            publish=self._publish,
            chance=self._chance,
        )

    @property
    def pending(self) -> int:
        """How many messages are not delivered yet, each counted once for every sink."""
        return sum(delivery.pending for delivery in self._deliveries.values())

    # --- the beginning --------------------------------------------------------------------------

    def start(self) -> Deferred[None]:
        """Take up what the spool holds; fires when that is done, and never fails."""
        self._set_timer("prepare", PREPARE_SECONDS, self._prepare)
        return self._writer.load().addCallbacks(self._take_over, self._not_loaded).addBoth(self._begin)

    def _take_over(self, found: Found) -> None:
        if self._closing:  # the next session has them
            return
        if found.ledger is not None:
            self._ledger.take_over(found.ledger)
        self._loaded = True
        outdated = 0
        for item in found.items:
            delivery = self._deliveries.get(item.sink)
            if delivery is not None:
                delivery.add(item, CALM_SECONDS)
            elif item.message.at < self._wall_clock() - OLDEST_SECONDS:
                self._writer.want(item.file_name, None)
                outdated += 1
            # else it waits on disk, until its sink is configured again
        if outdated:
            text = "they were to go out in a way that is not configured any more, and are older than a week"
            self._publish(NotificationsDropped(count=outdated, text=text, next_step="they are given up"))
        if found.unreadable:
            error = ErrorRecord(type="serverworker.UnreadableSpool", message="; ".join(found.unreadable[:5]))
            count = len(found.unreadable)
            self._publish(
                Fault(
                    where=f"reading {count} of the files in the notifications' spool",
                    error=error,
                    next_step="what they would have told is lost; they are set aside under names that end in .unreadable",
                )
            )

    def _not_loaded(self, failure: Failure) -> None:
        self._loaded = True  # as far as it ever will be
        self._publish(
            Fault(
                where="reading the notifications' spool",
                error=record_of(failure),
                next_step="what a former session left there is taken up by the next one",
            )
        )

    def _begin(self, result: object) -> None:
        if isinstance(result, Failure):
            self._log.failure("the spool of a former session could not be taken up", result)
        self._note_early()
        self._look_again()

    def _note_early(self) -> None:
        early, self._early = self._early, None
        for told in early or ():
            self._note(told)
        if early is not None and self._early_lost:
            text = f"more than {MOST_EARLY} came before the spool of the former session was read"
            next_step = "the oldest are given up"
            self._publish(NotificationsDropped(count=self._early_lost, text=text, next_step=next_step))

    def _prepare(self) -> None:
        for sink in self._sinks:
            maybeDeferred(sink.prepare).addErrback(self._not_prepared, sink)

    def _not_prepared(self, failure: Failure, sink: Sink) -> None:
        text = str(failure.value) if failure.check(Undelivered) else str(record_of(failure))
        self._publish(
            NotificationFailed(
                sink=sink.name,
                to=sink.to,
                subject="(none yet)",
                attempt=0,
                text=text,
                next_step="it is tried again with the first message",
            )
        )

    # --- what happens ---------------------------------------------------------------------------

    def __call__(self, told: Told) -> None:
        """Note an event, and return at once."""
        if self._settings.key_at_start and isinstance(told.event, ServerRunning) and told.event.is_first_time:
            self._mail_key()
        if told.name not in self._settings.events or not _is_news(told.event):
            return
        if self._early is not None:
            self._early_lost += len(self._early) == MOST_EARLY
            self._early.append(told)
        else:
            self._note(told)

    def _note(self, told: Told) -> None:
        message = compose(told, self._where(), self._state())
        held_before = self._ledger.held
        released = self._ledger.note(message, self._wall_clock())
        if released is not None:
            self._send(released)
        self._look_again()
        self._save_ledger()
        if self._ledger.held and not held_before:
            budget = self._settings.budget_per_hour
            self._publish(
                NotificationsDropped(
                    count=self._ledger.held,
                    text=f"the budget of {budget} messages an hour is used up (notify.budget_per_hour)",
                    next_step="what comes now is counted, and summed up in one message as soon as there is room",
                )
            )

    def _send(self, message: Message) -> None:
        for name, delivery in self._deliveries.items():
            item = Item(message=message, sink=name)
            self._writer.want(item.file_name, item.as_json())
            if not self._closed:  # else it is for the next session
                delivery.add(item, CALM_SECONDS)

    def _mail_key(self) -> None:
        delivery = self._deliveries.get("mail")
        if delivery is not None:
            # By mail alone, and never on disk: it is in the key's own file, and of no use after this session.
            message = with_key(self._key(), self._where(), self._wall_clock())
            delivery.add(Item(message=message, sink="mail", secret=True), CALM_SECONDS)

    # --- repeats, and what was held back --------------------------------------------------------

    def _look_again(self) -> None:
        """Have a look at the ledger when it may have something to say."""
        now = self._wall_clock()
        due = self._ledger.next_due(now)
        # A wall clock may step; an early look costs nothing.
        if due is not None and not self._closing:
            self._set_timer("ledger", min(max(due - now, 0.1), 60.0), self._look)

    def _look(self) -> None:
        self._tell_due(all_of_them=False)
        self._look_again()

    def _tell_due(self, *, all_of_them: bool) -> None:
        now = self._wall_clock()
        messages = self._ledger.due(now, all_of_them=all_of_them)
        held = self._ledger.take_held(now)
        if held is not None:
            budget = self._settings.budget_per_hour
            messages.append(summed_up(*held, budget=budget, where=self._where(), at=now))
        for message in messages:
            self._send(message)
        if messages:
            self._save_ledger()

    def _save_ledger(self) -> None:
        if "save" not in self._timers and not self._closing:
            self._set_timer("save", LEDGER_SECONDS, self._write_ledger)

    def _write_ledger(self) -> None:
        self._writer.want(LEDGER_NAME, ledger_as_json(self._ledger.as_json()))

    def _set_timer(self, name: str, seconds: float, call: Callable[[], None]) -> None:
        def ring() -> None:
            del self._timers[name]
            call()

        if name in self._timers:
            self._timers[name].cancel()
        self._timers[name] = self._clock.callLater(seconds, ring)

    # --- the end --------------------------------------------------------------------------------

    def close(self) -> Deferred[None]:
        """Tell what has not been told; fires within five seconds. What no sink has taken by then stays in the spool."""
        self._closing = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._note_early()
        self._tell_due(all_of_them=True)
        if self._loaded:  # else it would take the place of one that was never read
            self._write_ledger()
        self._closed = True
        closing = gatherResults([delivery.close() for delivery in self._deliveries.values()])
        sent = within(self._clock, CLOSE_SECONDS, "the last notifications", closing)
        return sent.addBoth(self._close_writer).addBoth(self._say_lost)

    def _close_writer(self, _: object) -> Deferred[None]:
        return within(self._clock, LAST_DISK_SECONDS, "the spool", self._writer.close())

    def _say_lost(self, _: object) -> None:
        """What is neither delivered nor on disk ends with this process: the log gets it."""
        unwritten = self._writer.unwritten
        lost = [
            item
            for delivery in self._deliveries.values()
            for item in delivery.items()
            if item.file_name in unwritten
        ]
        for item in lost:
            self._log.error(
                "a message for {sink} is given up, as the disk does not take it; it would have said:\n{body}",
                sink=item.sink,
                body=item.message.body,
            )
        if lost:
            self._publish(
                NotificationsDropped(
                    count=len(lost),
                    text="the session ended before they were delivered or written to the spool",
                    next_step="they are given up; the log has their content",
                )
            )


def _is_news(event: Event) -> bool:
    """An end that was asked for is none."""
    return not isinstance(event, SessionEnding | SessionEnded) or event.status != 0
