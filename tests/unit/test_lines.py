"""Many lines as one value."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from serverworker.values.events import OutputLine, Told
from serverworker.values.lines import OutputLines, ToldLines

TEXTS = st.lists(st.text(st.sampled_from("ab é\r")), min_size=1, max_size=8)


def lines(*texts: str) -> OutputLines:
    return OutputLines(source="worker 1", stream="stdout", text="\n".join(texts), count=len(texts))


class LinesTests(SynchronousTestCase):
    """`OutputLines` and `ToldLines`."""

    def test_each(self) -> None:
        """Each line is an event of its own, with the next number and the same time; an empty one counts."""
        told = ToldLines(sequence=7, at=2.0, lines=lines("a", "", "b"))
        expected = [
            Told(sequence=7 + place, at=2.0, event=OutputLine(source="worker 1", stream="stdout", text=text))
            for place, text in enumerate(("a", "", "b"))
        ]
        self.assertEqual(list(told), expected)
        self.assertEqual(told.last_sequence, 9)

    @settings(deadline=None)
    @given(texts=TEXTS, number=st.integers(1, 10))
    def test_last(self, texts: list[str], number: int) -> None:
        """The newest of them keep their numbers."""
        told = ToldLines(sequence=7, at=2.0, lines=lines(*texts))
        last = told.last(number)
        self.assertEqual(list(last), list(told)[-number:])
        self.assertEqual(last.lines.count, min(number, len(texts)))
        self.assertEqual(last.last_sequence, told.last_sequence)
