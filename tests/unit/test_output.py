"""The lines that processes print: cutting, keeping, reading empty."""

from __future__ import annotations

import os
import time
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from serverworker.processes.output import CONTINUES, LineSplitter, RecentLines, read_available
from serverworker.values.lines import OutputLines

SMALL = 8
"""A line length at which short examples already overflow."""

texts = st.lists(
    st.sampled_from(
        [b"a", b"bc", b"\n", b"\r", b"\r\n", "é".encode(), "€".encode(), "🐍".encode(), b"\xff", b"\x80"]
    ),
    max_size=60,
).map(b"".join)
"""Bytes rich in what is hard: line ends, long characters, broken ones."""


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """The bytes, cut at these places (taken modulo the length)."""
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in pairwise(edges)]


def all_lines(feeds: list[bytes], max_line_bytes: int = SMALL) -> list[str]:
    splitter = LineSplitter(max_line_bytes)
    lines = [line for feed in feeds for line in splitter.feed(feed)]
    return lines + splitter.flush()


class LineSplitterTests(SynchronousTestCase):
    """`LineSplitter`."""

    @settings(deadline=None, max_examples=300)
    @given(data=texts, places=st.lists(st.integers(0, 300), max_size=20))
    def test_how_bytes_are_cut_makes_no_difference(self, data: bytes, places: list[int]) -> None:
        """However the bytes are cut into feeds, the lines are the same."""
        self.assertEqual(all_lines([data]), all_lines(cut(data, places)))

    @settings(deadline=None, max_examples=300)
    @given(data=texts)
    def test_nothing_is_lost(self, data: bytes) -> None:
        """The pieces put together again are the text, line ends aside."""
        joined = ""
        for line in all_lines([data]):
            joined += line.removesuffix(CONTINUES) if line.endswith(CONTINUES) else line + "\n"
        expected = "".join(
            line.removesuffix(b"\r").decode("utf-8", "replace") + "\n" for line in data.split(b"\n")
        )
        if data.endswith(b"\n") or not data:
            expected = expected[:-1]
        self.assertEqual(expected, joined)

    @settings(deadline=None, max_examples=300)
    @given(data=texts)
    def test_no_piece_is_longer_than_allowed(self, data: bytes) -> None:
        """No line has more bytes than the limit, whatever comes; a replaced byte counts as one."""
        for line in all_lines([data.replace(b"\xff", b"").replace(b"\x80", b"")]):
            self.assertLessEqual(len(line.removesuffix(CONTINUES).encode()), SMALL)

    @settings(deadline=None, max_examples=300)
    @given(
        data=texts, places=st.lists(st.integers(0, 300), max_size=20), max_bytes=st.sampled_from([SMALL, 100])
    )
    def test_together_is_the_same_as_one_by_one(self, data: bytes, places: list[int], max_bytes: int) -> None:
        """`feed_together` answers the very lines of `feed`, whichever way it takes to them."""
        apart, together = LineSplitter(max_bytes), LineSplitter(max_bytes)
        for part in cut(data, places):
            lines = apart.feed(part)
            self.assertEqual(together.feed_together(part), ("\n".join(lines), len(lines)))
        self.assertEqual(together.flush(), apart.flush())

    def test_together_with_what_is_pending(self) -> None:
        """A line is overlong with what came of it before, though the bytes of each time are few."""
        splitter = LineSplitter(SMALL)
        self.assertEqual(splitter.feed_together(b"abcdef"), ("", 0))
        self.assertEqual(splitter.feed_together(b"ghij\n"), (f"abcdefgh{CONTINUES}\nij", 2))

    def test_lines_come_when_they_are_complete(self) -> None:
        """A line without its end waits; flush gives it out, and once only."""
        splitter = LineSplitter()
        self.assertEqual(["one", "two"], splitter.feed(b"one\ntwo\nthr"))
        self.assertEqual([], splitter.feed(b"e"))
        self.assertEqual(["thre"], splitter.flush())
        self.assertEqual([], splitter.flush())
        self.assertEqual(["new"], splitter.feed(b"new\n"))

    def test_carriage_returns_at_the_end_of_a_line_are_dropped(self) -> None:
        r"""``\r\n`` ends a line; a lone ``\r`` within it, as progress bars print, is its own affair."""
        self.assertEqual(["one", "50 %\r100 %", ""], LineSplitter().feed(b"one\r\n50 %\r100 %\r\n\r\n"))

    def test_a_character_split_over_feeds_survives(self) -> None:
        """A snake that arrives byte by byte is still a snake."""
        splitter = LineSplitter()
        lines = [line for byte in "é🐍\n".encode() for line in splitter.feed(bytes([byte]))]
        self.assertEqual(["é🐍"], lines)

    def test_bytes_that_are_no_text_are_replaced(self) -> None:
        """Binary output makes a line and no error."""
        self.assertEqual(["a\ufffdb"], LineSplitter().feed(b"a\xffb\n"))

    def test_an_overlong_line_comes_in_marked_pieces(self) -> None:
        """64 KiB and one byte are two pieces; 64 KiB exactly, with any line end, are one line."""
        limit = 65536
        for end in (b"\n", b"\r\n"):
            self.assertEqual(["x" * limit + CONTINUES, "x"], LineSplitter().feed(b"x" * (limit + 1) + end))
            self.assertEqual(["x" * limit], LineSplitter().feed(b"x" * limit + end))
        self.assertEqual(["x" * SMALL], all_lines([b"x" * SMALL + b"\r", b"\n"]))

    def test_an_overlong_line_is_cut_between_characters(self) -> None:
        """No character is broken by the limit."""
        self.assertEqual(["aé" + CONTINUES, "€" + CONTINUES, "€"], all_lines(["aé€€\n".encode()], 5))

    def test_output_without_newlines_does_not_pile_up(self) -> None:
        """Pieces leave while the line goes on: what waits stays below two limits."""
        splitter = LineSplitter(SMALL)
        pieces = [line for _ in range(100) for line in splitter.feed(b"x" * 7)]
        self.assertGreaterEqual(sum(len(piece.removesuffix(CONTINUES)) for piece in pieces), 700 - 2 * SMALL)
        self.assertEqual(["", "x" * SMALL + CONTINUES], LineSplitter(SMALL).feed(b"\n" + b"x" * (SMALL + 2)))

    def test_a_limit_below_one_character_is_refused(self) -> None:
        """Three bytes cannot hold every character."""
        self.assertRaises(ValueError, LineSplitter, 3)

    def test_it_is_fast(self) -> None:
        """10,000 lines take a small part of a second, in chunks as well as byte by byte without newlines."""
        chunk = b"2026-11-24 08:07:17 GET /a/page 200 0.012\n" * 100
        splitter = LineSplitter()
        start = time.process_time()
        count = sum(len(splitter.feed(chunk)) for _ in range(100))
        for _ in range(100_000):
            splitter.feed(b"x")
        spent = time.process_time() - start
        self.assertEqual(10_000, count)
        self.assertLess(spent, 0.5)


def said(*texts: str) -> OutputLines:
    text = "\n".join(texts)
    return OutputLines(source="worker 1", stream="stdout", text=text, count=len(texts))


class RecentLinesTests(SynchronousTestCase):
    """`RecentLines`."""

    def test_the_last_ones_are_kept(self) -> None:
        """The 201st line pushes the first one out."""
        recent = RecentLines()
        for number in range(201):
            recent.append(said(str(number)))
        self.assertEqual([str(number) for number in range(1, 201)], [line.text for line in recent.lines()])

    def test_bytes_are_bounded_too(self) -> None:
        """Long lines push out more than one; characters count as the bytes that they take."""
        recent = RecentLines(limit=10, limit_bytes=8)
        for text in ("aa", "bb", "cc", "€€"):
            recent.append(said(text))
        self.assertEqual(("cc", "€€"), tuple(line.text for line in recent.lines()))

    def test_an_empty_line_takes_no_room(self) -> None:
        """Neither does what separates lines that came at once: what fits exactly is kept."""
        recent = RecentLines(limit=10, limit_bytes=4)
        for texts in (("",), ("ab", "cd")):
            recent.append(said(*texts))
        self.assertEqual(("", "ab", "cd"), tuple(line.text for line in recent.lines()))

    def test_the_newest_line_stays_however_long(self) -> None:
        """A last word longer than the bound is better than none."""
        recent = RecentLines(limit=10, limit_bytes=3)
        recent.append(said("a"))
        recent.append(said("longer"))
        self.assertEqual(("longer",), tuple(line.text for line in recent.lines()))

    @settings(deadline=None)
    @given(
        texts=st.lists(
            st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=12), max_size=30
        ),
        places=st.lists(st.integers(0, 30), max_size=10),
    )
    def test_what_is_kept_is_the_longest_tail_that_fits(self, texts: list[str], places: list[int]) -> None:
        """No line is let go that would have fitted, and none is out of order, however many come at once."""
        recent = RecentLines(limit=5, limit_bytes=20)
        edges = sorted({0, len(texts), *(min(place, len(texts)) for place in places)})
        for start, end in pairwise(edges):
            recent.append(said(*texts[start:end]))
        kept = [line.text for line in recent.lines()]
        self.assertEqual(texts[len(texts) - len(kept) :], kept)

        def fits(lines: list[str]) -> bool:
            return len(lines) <= 5 and sum(len(line.encode()) for line in lines) <= 20

        self.assertTrue(fits(kept) or len(kept) == 1)
        if len(kept) < len(texts):
            self.assertFalse(fits(texts[len(texts) - len(kept) - 1 :]))


class ReadAvailableTests(SynchronousTestCase):
    """`read_available`, on real pipes."""

    def setUp(self) -> None:
        self.read_end, self.write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.open = {self.read_end, self.write_end}

    def tearDown(self) -> None:
        for fd in self.open:
            os.close(fd)

    def shut(self, fd: int) -> None:
        self.open.remove(fd)
        os.close(fd)

    def test_all_that_is_there_is_read_and_nothing_is_waited_for(self) -> None:
        """A pipe whose other end is still open gives what it holds, though that be more than one chunk."""
        os.write(self.write_end, b"x" * 50_000)
        self.assertEqual(b"x" * 50_000, read_available(self.read_end, chunk=4096))
        self.assertEqual(b"", read_available(self.read_end))

    def test_the_end_of_the_pipe_ends_it(self) -> None:
        """With nobody left to write it reads to the end."""
        os.write(self.write_end, b"last words")
        self.shut(self.write_end)
        self.assertEqual(b"last words", read_available(self.read_end))
        self.assertEqual(b"", read_available(self.read_end))

    def test_somebody_who_goes_on_writing_is_left_alone_at_the_cap(self) -> None:
        """It stops at the first chunk that reaches the cap."""
        os.write(self.write_end, b"x" * 10_000)
        self.assertEqual(4096, len(read_available(self.read_end, chunk=1024, cap=4000)))

    def test_a_closed_descriptor_gives_nothing(self) -> None:
        """The report must be written though the pipe is gone."""
        self.shut(self.read_end)
        self.assertEqual(b"", read_available(self.read_end))

    def test_a_blocking_descriptor_is_refused(self) -> None:
        """It would stop the monitor for as long as a grandchild keeps quiet."""
        os.set_blocking(self.read_end, True)
        self.assertIn("blocking", str(self.assertRaises(ValueError, read_available, self.read_end)))
