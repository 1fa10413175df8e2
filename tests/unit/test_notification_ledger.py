"""Repeats and the budget, without any time passing."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from serverworker.observers.notifications.ledger import MOST_GROUPS, MOST_TALLIES, Ledger
from tests.unit.notification_case import message


class LedgerTests(SynchronousTestCase):
    """`Ledger`."""

    def test_a_repeat_begins_a_new_group(self) -> None:
        """A cause that goes on is told once in each stretch of time, with the number since."""
        ledger = Ledger(20, 60.0)
        self.assertIsNotNone(ledger.note(message(at=0.0), 0.0))
        for second in range(1, 130):
            self.assertIsNone(ledger.note(message(at=float(second)), float(second)))
            due = ledger.due(float(second))
            if second in (60, 120):
                self.assertEqual([each.count for each in due], [60])
            else:
                self.assertEqual(due, [])

    def test_a_group_without_repeats_ends_in_silence(self) -> None:
        """The next one of that cause is a first one again."""
        ledger = Ledger(20, 60.0)
        ledger.note(message(), 0.0)
        self.assertEqual(ledger.due(60.0), [])
        self.assertIsNone(ledger.next_due(60.0))
        self.assertIsNotNone(ledger.note(message(), 61.0))

    def test_a_clock_that_steps_back(self) -> None:
        """What seems to come from the future neither silences a cause nor uses up the budget."""
        ledger = Ledger(1, 60.0)
        ledger.note(message(), 10_000.0)
        self.assertIsNotNone(ledger.note(message(), 100.0))

    def test_room_belongs_to_what_waits(self) -> None:
        """While something is held back a newcomer joins it, and does not take the place of the message about all."""
        ledger = Ledger(1, 60.0)
        ledger.note(message(cause="a"), 0.0)
        ledger.note(message(cause="b"), 10.0)
        self.assertIsNone(ledger.note(message(cause="c"), 3601.0))
        taken = ledger.take_held(3601.0)
        assert taken is not None
        self.assertEqual(sum(tally.count for tally in taken[0]), 2)

    def test_causes_are_bounded(self) -> None:
        """However many causes there are, what is remembered of them has a limit; they are counted all the same."""
        ledger = Ledger(1, 60.0)
        for number in range(1000):
            ledger.note(message(f"m{number}", cause=f"c{number}"), 1.0)
        self.assertEqual(ledger.held, 999)
        taken = ledger.take_held(4000.0)
        assert taken is not None
        self.assertEqual((len(taken[0]), taken[1]), (MOST_TALLIES, 999 - MOST_TALLIES))
        self.assertEqual(len(ledger.as_json()["groups"]), MOST_GROUPS)

    def test_when_to_look_again(self) -> None:
        """At the end of the first group, or when the hour has room for what was held back."""
        ledger = Ledger(1, 60.0)
        self.assertIsNone(ledger.next_due(0.0))
        ledger.note(message(), 10.0)
        self.assertEqual(ledger.next_due(11.0), 70.0)
        ledger.due(70.0)
        ledger.note(message(cause="other"), 80.0)
        ledger.due(200.0)
        self.assertEqual(ledger.next_due(200.0), 3610.0)
        self.assertIsNone(ledger.take_held(3609.0))
        self.assertIsNotNone(ledger.take_held(3611.0))
        self.assertIsNone(ledger.next_due(3611.0))

    @given(
        st.lists(
            st.tuples(st.floats(0, 2000), st.sampled_from("abcdefgh"), st.booleans()),
            min_size=1,
            max_size=120,
        ),
        st.integers(1, 6),
        st.floats(1, 900),
    )
    @settings(max_examples=150, deadline=None)
    def test_nothing_is_lost_and_no_hour_has_too_many(
        self, steps: list[tuple[float, str, bool]], budget: int, group_seconds: float
    ) -> None:
        """Each event is in exactly one message in the end, also over restarts, and no hour exceeds the budget."""
        ledger = Ledger(budget, group_seconds)
        now, told = 0.0, 0
        sent: list[float] = []

        def look(now: float) -> int:
            counts = [each.count for each in ledger.due(now)]
            held: Any = ledger.take_held(now)
            if held is not None:
                counts.append(sum(tally.count for tally in held[0]) + held[1])
            sent.extend(now for _ in counts)
            return sum(counts)

        for number, (seconds, cause, restart) in enumerate(steps):
            now += seconds
            if number % 3:  # nobody promises to look before the next event comes
                told += look(now)
            released = ledger.note(message(f"m{number}", at=now, cause=cause), now)
            if released is not None:
                sent.append(now)
                told += 1
            if restart:
                after = Ledger(budget, group_seconds)
                after.take_over(json.loads(json.dumps(ledger.as_json())))
                ledger = after
        for _ in range(20):
            now += 3601.0
            told += look(now)
        self.assertEqual(told, len(steps))
        for at in sent:
            self.assertLessEqual(sum(at - 3600 < other <= at for other in sent), budget)
