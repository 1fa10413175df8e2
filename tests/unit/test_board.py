"""The request board: what the writer notes, what a reader makes of it, and that nothing in it can hurt a reader."""

from __future__ import annotations

import fcntl
import math
import mmap
import os
import subprocess
import sys
import time

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import TestCase

from serverworker.processes.board import SLOTS, BoardCounters, RequestBoard
from serverworker.values.causes import RequestInFlight


class HandClock:
    """A clock that is set by hand, in seconds."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class BoardTestCase(TestCase):
    """A board, with the reader's end and the writer's in one process."""

    def setUp(self) -> None:
        self.clock = HandClock()
        self.reader, fd = RequestBoard.create(self.clock)
        self.memory = mmap.mmap(fd, 0)
        self.addCleanup(self.memory.close)
        self.writer = RequestBoard.attach(fd, self.clock)
        self.addCleanup(self.reader.close)
        self.addCleanup(self.writer.close)

    def paths(self) -> list[str]:
        return [request.path for request in self.reader.in_flight(self.clock())]


class RequestsTests(BoardTestCase):
    def test_request_is_seen_while_it_lasts(self) -> None:
        """The other end reads method, path and age of a request between its begin and its end."""
        ticket = self.writer.begin(b"POST", b"/upload")
        self.clock.now += 2.5
        self.assertEqual(
            self.reader.in_flight(self.clock()),
            (RequestInFlight(method="POST", path="/upload", age_seconds=2.5),),
        )
        self.writer.end(ticket)
        self.assertEqual(self.reader.in_flight(self.clock()), ())

    def test_oldest_is_first(self) -> None:
        """Requests are told in the order in which they began, whatever slots they have."""
        first = self.writer.begin(b"GET", b"/first")
        self.clock.now += 1
        self.writer.begin(b"GET", b"/second")
        self.writer.end(first)
        self.clock.now += 1
        self.writer.begin(b"GET", b"/third")
        self.assertEqual(self.paths(), ["/second", "/third"])

    def test_query_string_is_left_out(self) -> None:
        """What stands behind the question mark may be a secret: it is not even in the memory."""
        self.writer.begin(b"GET", b"/login?password=swordfish?x")
        self.assertEqual(self.paths(), ["/login"])
        self.assertNotIn(b"swordfish", self.memory[:])

    def test_long_path_is_cut_and_says_so(self) -> None:
        """A path that does not fit ends in an ellipsis; one that just fits does not."""
        self.writer.begin(b"GET", b"/" + b"a" * 215)
        self.clock.now += 1
        self.writer.begin(b"GET", b"/" + b"b" * 216)
        self.assertEqual(self.paths(), ["/" + "a" * 215, "/" + "b" * 215 + "…"])

    def test_path_is_cut_between_characters(self) -> None:
        """Half a character at the cut is left out, not shown as garbage."""
        self.writer.begin(b"GET", b"/" + "é".encode() * 200)
        self.assertEqual(self.paths(), ["/" + "é" * 107 + "…"])

    def test_what_a_terminal_would_obey_is_replaced(self) -> None:
        """A client cannot send escape sequences, or reversed text, to the operator's terminal."""
        self.writer.begin(b"GET", b"/\x1b[2J\xff" + "\u202ex".encode())
        self.assertEqual(self.paths(), ["/\ufffd[2J\ufffd\ufffdx"])

    def test_age_is_never_negative(self) -> None:
        """A reader that looked at the clock a moment too early is told an age of zero."""
        self.writer.begin(b"GET", b"/")
        self.assertEqual([r.age_seconds for r in self.reader.in_flight(self.clock() - 1)], [0.0])


class CountersTests(BoardTestCase):
    def test_counters(self) -> None:
        """Requests begun and finished, and the connections that are open."""
        ticket = self.writer.begin(b"GET", b"/a")
        self.writer.begin(b"GET", b"/b")
        self.writer.end(ticket)
        self.writer.connection_opened()
        self.writer.connection_opened()
        self.writer.connection_closed()
        self.assertEqual(
            self.reader.counters(),
            BoardCounters(requests_started=2, requests_finished=1, open_connections=1, overflow=0),
        )

    def test_full_board_names_the_newest(self) -> None:
        """When the slots are taken by old streams, a new request gets the oldest one's, which is only counted."""
        streams = [self.writer.begin(b"GET", b"/stream") for _ in range(SLOTS)]
        self.clock.now += 3600
        hung = self.writer.begin(b"GET", b"/hung")
        self.assertEqual(self.paths(), ["/stream"] * (SLOTS - 1) + ["/hung"])
        self.assertEqual(self.reader.counters().overflow, 1)
        for ticket in streams:
            self.writer.end(ticket)
        self.assertEqual(self.paths(), ["/hung"])
        self.assertEqual(self.writer._unnamed, set(), "a worker's memory would grow with every stream")
        self.writer.end(hung)
        self.assertEqual(
            self.reader.counters(),
            BoardCounters(
                requests_started=SLOTS + 1, requests_finished=SLOTS + 1, open_connections=0, overflow=0
            ),
        )


WORKER = """
import signal, sys
from serverworker.processes.board import RequestBoard
board = RequestBoard.attach(int(sys.argv[1]))
board.end(board.begin(b"GET", b"/done"))
board.begin(b"GET", b"/deadly")
print("at it", flush=True)
signal.pause()
"""


class ProcessTests(TestCase):
    def test_what_a_killed_worker_was_at_stays(self) -> None:
        """After a SIGKILL the monitor still reads what the worker had begun, by the one clock of the machine."""
        board, fd = RequestBoard.create()
        self.addCleanup(board.close)
        before = time.monotonic()
        worker = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(fd)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            pass_fds=[fd],
            stdout=subprocess.PIPE,
        )
        os.close(fd)
        assert worker.stdout is not None
        with worker.stdout:
            worker.stdout.readline()
            worker.kill()
        worker.wait()
        now = time.monotonic()
        (request,) = board.in_flight(now)
        self.assertEqual((request.method, request.path), ("GET", "/deadly"))
        self.assertLess(0, request.age_seconds)
        self.assertLess(request.age_seconds, now - before)
        self.assertEqual(board.counters().requests_finished, 1)

    def test_descriptor_is_closed_by_attach(self) -> None:
        """The worker keeps no descriptor of the board that its children could inherit."""
        board, fd = RequestBoard.create()
        self.addCleanup(board.close)
        self.addCleanup(RequestBoard.attach(fd).close)
        self.assertRaises(OSError, os.fstat, fd)

    def test_worker_cannot_shrink_the_board(self) -> None:
        """A shrunken memory would kill the monitor at its next look: the kernel refuses."""
        board, fd = RequestBoard.create()
        self.addCleanup(os.close, fd)
        self.addCleanup(board.close)
        self.assertRaises(PermissionError, os.ftruncate, fd, 0)
        self.assertRaises(PermissionError, os.ftruncate, fd, 1 << 20)
        self.assertRaises(PermissionError, fcntl.fcntl, fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)

    def test_something_else_is_refused(self) -> None:
        """A descriptor of another size is told from a board, with both sizes in the text."""
        fd = os.memfd_create("something else")
        self.addCleanup(os.close, fd)
        os.ftruncate(fd, 4096)
        error = self.assertRaises(ValueError, RequestBoard.attach, fd)
        self.assertIn("4096", str(error))

    def test_close_can_be_repeated(self) -> None:
        """Closing twice does no harm."""
        board, fd = RequestBoard.create()
        os.close(fd)
        board.close()
        board.close()


class NonsenseTests(BoardTestCase):
    def test_slot_without_a_time_is_no_request(self) -> None:
        """A start that is no number, or endless, would break whoever calculates with it or writes it as JSON."""
        for start in (math.nan, math.inf, -math.inf):
            self.clock.now = start
            self.writer.begin(b"GET", b"/nonsense")
        self.clock.now = 5
        self.writer.begin(b"GET", b"/sense")
        self.assertEqual(self.paths(), ["/sense"])


class Law(TestCase):
    @settings(deadline=None, max_examples=100)
    @given(
        st.lists(
            st.one_of(
                st.tuples(st.just("begin"), st.binary(max_size=300)),
                st.tuples(st.just("end"), st.integers(0)),
            ),
            max_size=3 * SLOTS,
        ),
        st.integers(0, 2 * SLOTS),
    )
    def test_board_agrees_with_a_model(self, steps: list[tuple[str, object]], crowd: int) -> None:
        """Whatever begins and ends, the board names the newest requests that never lost their slot, and counts the rest."""
        clock = HandClock()
        board, fd = RequestBoard.create(clock)
        os.close(fd)
        named: list[tuple[int, float]] = []
        unnamed: list[int] = []
        started = 0
        for step, value in [("begin", b"/")] * crowd + steps:
            clock.now += 1
            if step == "begin":
                assert isinstance(value, bytes)
                if len(named) == SLOTS:
                    unnamed.append(named.pop(0)[0])
                named.append((board.begin(b"GET", value), clock.now))
                started += 1
            elif named or unnamed:
                assert isinstance(value, int)
                tickets = [ticket for ticket, _ in named] + unnamed
                ticket = tickets[value % len(tickets)]
                board.end(ticket)
                named = [entry for entry in named if entry[0] != ticket]
                unnamed = [entry for entry in unnamed if entry != ticket]
        ages = [request.age_seconds for request in board.in_flight(clock.now)]
        counters = board.counters()
        board.close()
        self.assertEqual(ages, [clock.now - start for _, start in named])
        self.assertEqual(counters.overflow, len(unnamed))
        self.assertEqual(counters.requests_started, started)
        self.assertEqual(counters.requests_finished, started - len(named) - len(unnamed))

    @settings(deadline=None, max_examples=200)
    @given(st.data())
    def test_garbage_never_raises(self, data: st.DataObject) -> None:
        """Whatever bytes stand in the memory, a reader gets values of the right types, and no exception."""
        board, fd = RequestBoard.create()
        with mmap.mmap(fd, 0) as memory:
            os.close(fd)
            for _ in range(data.draw(st.integers(1, 20))):
                garbage = data.draw(st.binary(max_size=600))
                at = data.draw(st.integers(0, len(memory) - len(garbage)))
                memory[at : at + len(garbage)] = garbage
            # every slot taken, so that what stands in it is looked at
            memory[64 + 255 :: 256] = b"\1" * SLOTS
        requests = board.in_flight(1e9)
        counters = board.counters()
        board.close()
        for request in requests:
            self.assertTrue(request.method.isprintable() and request.path.isprintable())
            self.assertTrue(math.isfinite(request.age_seconds))
        self.assertGreaterEqual(counters.requests_finished, 0)
