"""A sink's queue: order, back-off, refusals, limits."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from serverworker.observers.notifications import delivery
from serverworker.observers.notifications.delivery import Delivery, Undelivered
from serverworker.observers.notifications.spool import Item
from serverworker.values.notification_events import (
    NotificationDelivered,
    NotificationFailed,
    NotificationsDropped,
)
from tests.unit.notification_case import AT, FakeSink, down, message

DAY = 86400.0


class DeliveryTests(SynchronousTestCase):
    """`Delivery`."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.chance = 0.0
        self.sink = FakeSink()
        self.sink.clock = self.clock
        self.published: list[Any] = []
        self.files: dict[str, bytes] = {}
        self.delivery = Delivery(
            clock=self.clock,
            wall_clock=lambda: AT + self.clock.seconds(),
            sink=self.sink,
            want=self.want,
            publish=self.published.append,
            chance=lambda: self.chance,
        )

    def want(self, name: str, content: bytes | None) -> Deferred[None]:
        if content is None:
            self.files.pop(name, None)
        else:
            self.files[name] = content
        return succeed(None)

    def add(self, id: str, **options: Any) -> Item:
        item = Item(message=message(id, **options), sink="webhook")
        self.delivery.add(item)
        return item

    def told(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.published if isinstance(event, kind)]

    def pass_time(self, seconds: float, step: float = 1.0) -> None:
        for _ in range(round(seconds / step)):
            self.clock.advance(step)

    def taken(self) -> list[str]:
        return [each.id for each in self.sink.taken]

    def test_one_at_a_time_and_in_order(self) -> None:
        """The next message waits until the one before is taken."""
        answers: list[Deferred[None]] = []

        def wait(item: Item) -> Deferred[None]:
            answers.append(Deferred())
            return answers[-1]

        self.sink.answer = wait
        for id in "abc":
            self.add(id)
        self.clock.advance(0)
        self.assertEqual(([each for _, each, _ in self.sink.attempts], self.delivery.pending), (["a"], 3))
        answers[0].callback(None)
        self.assertEqual(
            ([each for _, each, _ in self.sink.attempts], self.delivery.pending), (["a", "b"], 2)
        )

    def test_the_attempt_is_written_before_it_begins(self) -> None:
        """When the sink is asked, the number of the attempt is on disk already; after it nothing is."""
        seen: list[bytes] = []
        self.sink.answer = lambda item: seen.append(self.files[item.file_name])
        self.add("a")
        self.clock.advance(0)
        self.assertIn(b'"attempts": 1', seen[0])
        self.assertEqual(self.files, {})

    def test_a_failing_sink_is_left_alone_by_what_comes_then(self) -> None:
        """While the back-off runs a new message waits with the others."""
        self.sink.answer = down
        self.add("a")
        self.pass_time(8)
        attempts = len(self.sink.attempts)
        self.add("b")
        self.clock.advance(0)
        self.assertEqual(len(self.sink.attempts), attempts)
        self.sink.answer = lambda item: None
        self.pass_time(10)
        self.assertEqual(self.taken(), ["a", "b"])

    def test_the_first_failure_of_a_streak_is_told(self) -> None:
        """Then nothing until it works again, and the first refusal beside it."""
        self.sink.answer = down
        self.add("a")
        self.pass_time(20)
        self.assertEqual(len(self.told(NotificationFailed)), 1)
        self.sink.answer = lambda item: Undelivered("410", refused=True)
        self.pass_time(200)
        self.assertEqual([each.text for each in self.told(NotificationFailed)], ["connection refused", "410"])
        self.sink.answer = lambda item: None
        self.pass_time(600)
        self.sink.answer = down
        self.add("b")
        self.pass_time(20)
        self.assertEqual(len(self.told(NotificationFailed)), 3)

    def test_a_refused_message_holds_up_nobody(self) -> None:
        """It goes to the end of the line, and is tried on: the operator may mend what is wrong."""
        self.sink.answer = lambda item: Undelivered("413", refused=True) if item.message.id == "a" else None
        for id in "abc":
            self.add(id)
        self.pass_time(3)
        self.assertEqual(self.taken(), ["b", "c"])
        self.assertIn("after the others", self.told(NotificationFailed)[0].next_step)
        self.sink.answer = lambda item: None
        self.pass_time(10)
        self.assertEqual(self.taken(), ["b", "c", "a"])

    def test_a_message_is_given_up_after_a_week(self) -> None:
        """That is said, and the file is gone."""
        self.sink.answer = down
        self.add("a")
        self.pass_time(6.5 * DAY, 600)
        self.assertEqual(len(self.files), 1)
        self.pass_time(DAY, 600)
        self.assertEqual((self.delivery.pending, self.files), (0, {}))
        [dropped] = self.told(NotificationsDropped)
        self.assertIn("has failed for a week", dropped.text)

    def test_a_clock_that_is_set_right_loses_nothing(self) -> None:
        """A message that seems to be years old, and was hardly tried, is tried on."""
        self.sink.answer = down
        self.add("a", at=0.0)
        self.pass_time(30)
        self.sink.answer = lambda item: None
        self.pass_time(30)
        self.assertEqual(self.taken(), ["a"])

    def test_too_many(self) -> None:
        """Past a number, or a size, the oldest go, and how many is said."""
        self.sink.answer = down
        self.add("first")
        self.clock.advance(0)
        for number in range(delivery.MOST_ITEMS + 4):
            self.add(f"m{number}")
        self.assertEqual(self.delivery.pending, delivery.MOST_ITEMS)
        self.assertEqual(sum(each.count for each in self.told(NotificationsDropped)), 5)
        before = self.delivery.pending
        self.add("large", body="x" * (delivery.MOST_BYTES - 1000))
        self.assertLess(self.delivery.pending, before)

    def test_an_attempt_has_its_deadline(self) -> None:
        """An attempt without an end is cancelled, counted, and said to have perhaps arrived."""
        cancelled: list[object] = []
        self.sink.answer = lambda item: Deferred(cancelled.append)
        self.add("a")
        self.clock.advance(0)
        self.pass_time(19)
        self.assertEqual(cancelled, [])
        self.pass_time(1)
        self.assertEqual(len(cancelled), 1)
        self.assertEqual(self.told(NotificationFailed)[0].text, "no answer within 20 s; it may have arrived")
        self.pass_time(1)
        self.assertEqual(len(self.sink.attempts), 2)

    def test_the_receiver_may_ask_for_time(self) -> None:
        """`Retry-After` is heeded, up to an hour."""
        for asked, waited in ((120.0, 120), (1e9, 3600)):
            self.sink.answer = lambda item, asked=asked: Undelivered("429", retry_after=asked)  # type: ignore[misc]
            item = self.add(f"m{asked:g}")
            self.clock.advance(0)
            self.sink.answer = lambda item: None
            self.pass_time(waited - 1)
            self.assertNotIn(item.message.id, self.taken())
            self.pass_time(1)
            self.assertIn(item.message.id, self.taken())

    def test_who_has_got_it_is_remembered(self) -> None:
        """What was delivered in part is written down at once, and counts at the next attempt."""
        self.sink.answer = lambda item: Undelivered("b said no", done=("a@x",))
        item = self.add("a")
        self.clock.advance(0)
        self.assertEqual(item.done, ("a@x",))
        self.assertIn(b'"done": ["a@x"]', self.files[item.file_name])

    def test_a_fault_of_ours_is_no_end(self) -> None:
        """An error that nobody foresaw is logged without its text, which may hold a secret, and tried again."""
        self.sink.answer = lambda item: ValueError("https://hush")
        self.add("a")
        with capturedLogs() as logs:
            self.clock.advance(0)
        self.assertIn("ValueError", formatEvent(logs[0]))
        self.assertNotIn("hush", formatEvent(logs[0]) + repr(self.published))
        self.sink.answer = lambda item: None
        self.pass_time(2)
        self.assertEqual(self.taken(), ["a"])
        self.assertEqual(self.told(NotificationDelivered)[0].attempt, 2)

    @given(st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=40))
    @settings(max_examples=50, deadline=None)
    def test_the_back_off_has_bounds(self, chances: list[float]) -> None:
        """Each delay is at most twice the one before and ten minutes, and never less than three quarters of its due."""
        self.setUp()
        self.sink.answer = down
        self.add("a")
        for number, chance in enumerate(chances):
            self.chance = chance
            [call] = self.clock.getDelayedCalls()
            self.clock.advance(call.getTime() - self.clock.seconds())
            [call] = self.clock.getDelayedCalls()
            due = min(2.0**number, 600.0)
            self.assertTrue(0.749 * due <= call.getTime() - self.clock.seconds() <= 1.001 * due)
