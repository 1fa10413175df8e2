"""What was told lately: kept in bounded memory, and found again by its number."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from serverworker.monitor.history import History
from serverworker.values.causes import Beat
from serverworker.values.events import Heartbeat, Lifecycle, OutputLine, Told
from serverworker.values.lines import OutputLines, ToldLines


def event(sequence: int, text: str = "") -> Told:
    return Told(sequence=sequence, at=1000.0, event=Lifecycle(worker=1, text=text or str(sequence)))


def lines(sequence: int, *texts: str, source: str = "worker 1") -> ToldLines:
    some = OutputLines(source=source, stream="stdout", text="\n".join(texts), count=len(texts))
    return ToldLines(sequence=sequence, at=1000.0, lines=some)


class HistoryTests(SynchronousTestCase):
    """`History`."""

    def test_since(self) -> None:
        """What came after a number, oldest first, and where to go on."""
        history = History()
        for number in range(1, 6):
            history(event(number))
        since = history.since(3)
        self.assertEqual([each.sequence for each in since.events], [4, 5])
        self.assertEqual((since.upto, since.missed), (5, False))
        self.assertEqual(history.since(5).events, ())

    def test_limit(self) -> None:
        """With a limit the oldest come first, and `upto` is the last of them."""
        history = History()
        for number in range(1, 6):
            history(event(number))
        since = history.since(0, limit=2)
        self.assertEqual(([each.sequence for each in since.events], since.upto), ([1, 2], 2))

    def test_number(self) -> None:
        """So many are kept; who has not had those before is told that he missed some."""
        history = History(events=3)
        for number in range(1, 6):
            history(event(number))
        self.assertEqual([each.sequence for each in history.since(0).events], [3, 4, 5])
        self.assertEqual(
            [history.since(number).missed for number in (0, 1, 2, 3)], [True, True, False, False]
        )

    def test_bytes(self) -> None:
        """So many bytes are kept, but the newest always."""
        history = History(event_bytes=1000)
        history(event(1))
        history(event(2, "x" * 5000))
        self.assertEqual([each.sequence for each in history.last_events(10)], [2])
        history(event(3))
        self.assertEqual([each.sequence for each in history.last_events(10)], [3])

    def test_heartbeats(self) -> None:
        """Heartbeats push nothing out, but count."""
        history = History(events=1)
        history(event(1))
        beat = Heartbeat(worker=1, beat=Beat(at=1000.0, ok=True, seconds=0.1, text="200"))
        history(Told(sequence=2, at=1000.0, event=beat))
        self.assertEqual([each.sequence for each in history.last_events(10)], [1])
        self.assertEqual((history.sequence, history.since(1).upto), (2, 2))

    def test_lines(self) -> None:
        """Lines are kept apart from events, and mixed in by number where they are asked for."""
        history = History()
        history(event(1))
        history.lines(lines(2, "two", "three"))
        history(event(4))
        history(
            Told(sequence=5, at=1000.0, event=OutputLine(source="worker 2", stream="stderr", text="five"))
        )
        self.assertEqual([each.sequence for each in history.since(0).events], [1, 4])
        self.assertEqual([each.sequence for each in history.since(2, output=True).events], [3, 4, 5])
        self.assertEqual(
            [each.as_json()["fields"]["text"] for each in history.last_lines(2)], ["three", "five"]
        )
        self.assertEqual([each.sequence for each in history.last_lines(9, "worker 1")], [2, 3])

    def test_many_lines(self) -> None:
        """A million lines at once leave the newest; who wanted the others is told so."""
        history = History(lines=10)
        history.lines(lines(1, *map(str, range(1000))))
        self.assertEqual([each.sequence for each in history.last_lines(100)], list(range(991, 1001)))
        self.assertEqual(history.since(5, output=True).missed, True)
        self.assertEqual((history.since(5).missed, history.since(990, output=True).missed), (False, False))

    def test_watch(self) -> None:
        """Whoever watches is woken at each, until he ends it; one that ends while it is woken is fine."""
        history = History()
        woken: list[str] = []

        def second() -> None:
            woken.append("second")
            end_first()
            end_second()

        end_first = history.watch(lambda: woken.append("first"))
        end_second = history.watch(second)
        history(event(1))
        history.lines(lines(2, "x"))
        self.assertEqual(woken, ["first", "second"])

    @settings(max_examples=100, deadline=None)
    @given(
        st.lists(st.integers(0, 3), max_size=60),
        st.integers(1, 8),
        st.integers(1, 12),
    )
    def test_law(self, steps: list[int], kept: int, limit: int) -> None:
        """Who goes on from `upto` each time gets every event once and in order, but for those of which he is told."""
        history, number, position, heard = History(events=kept, lines=kept), 0, 0, []
        for step in steps:
            if step == 0:
                since = history.since(position, output=True, limit=limit)
                numbers = [each.sequence for each in since.events]
                self.assertEqual(numbers, sorted(set(numbers)))
                if not since.missed and numbers:
                    self.assertEqual(numbers[0], position + 1)
                heard += numbers
                position = since.upto
            elif step == 1:
                number += 1
                history(event(number))
            else:
                history.lines(lines(number + 1, *"ab"[: step - 1]))
                number += step - 1
        self.assertEqual(heard, sorted(set(heard)))
        for each in history.last_events(kept):
            self.assertEqual(json.loads(each.text), each.as_json())
