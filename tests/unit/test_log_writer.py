"""Writing a log without ever waiting for it: bounds, back-pressure, disks that fail."""

from __future__ import annotations

import io
import os
import select
import threading
from collections.abc import Callable
from typing import Any

from twisted.logger import LogLevel, LogPublisher
from twisted.trial.unittest import SynchronousTestCase

from serverworker.observers import log_writer
from serverworker.observers.log_sink import terminal_sink
from serverworker.observers.log_writer import FULL_BYTES, ROOM_BYTES, Writer, stream_writer
from tests.unit.test_log_format import event, shown


class BrokenStream(io.StringIO):
    """A stream that raises what it is told to."""

    error: Exception | None = None

    def write(self, text: str, /) -> int:
        if self.error is not None:
            raise self.error
        return super().write(text)


class StreamTests(SynchronousTestCase):
    """A writer for a stream."""

    def pipe(self, *, non_blocking: bool = False, encoding: str = "utf-8") -> tuple[int, Writer]:
        """A pipe: the end to read, and a writer on the other."""
        read_end, write_end = os.pipe()
        os.set_blocking(write_end, not non_blocking)
        with os.fdopen(write_end, "w", encoding=encoding) as stream:
            writer = stream_writer(stream)
        self.addCleanup(writer.close)
        return read_end, writer

    def read(self, fd: int, size: int) -> bytes:
        """That many bytes of a pipe."""
        data = b""
        while len(data) < size:
            readable, _, _ = select.select([fd], [], [], 10)
            if not readable:
                self.fail(f"only {len(data)} of {size} bytes came")
            data += os.read(fd, size - len(data))
        return data

    def test_a_broken_stream_never_raises_into_the_logger(self) -> None:
        """What cannot be written is dropped, counted, and told once the stream works again."""
        stream = BrokenStream()
        publisher = LogPublisher(terminal_sink(stream, colour=False))
        for error in (BrokenPipeError(), BlockingIOError(), ValueError("closed"), RuntimeError()):
            stream.error = error
            publisher(event("lost"))
        stream.error = None
        publisher(event("one"))
        publisher(event("two"))
        lines = [line.split("] ")[1] for line in stream.getvalue().splitlines()]
        self.assertEqual(["one", "warn: 4 log lines before this one are lost", "two"], lines)

    def test_a_closed_stream_is_no_error(self) -> None:
        """As at the very end of a process."""
        stream = io.StringIO()
        stream.close()
        writer = stream_writer(stream)
        self.assertFalse(writer.write("x"))
        self.assertEqual(1, writer.dropped)

    def test_a_reader_that_is_stuck_stops_nobody(self) -> None:
        """More than the pipe holds is kept, up to a bound; then lines are dropped, and that is told."""
        read_end, writer = self.pipe()
        text = "x" * 65535 + "\n"
        written = [
            writer.write(text) for _ in range(40)
        ]  # 2.5 MiB, where pipe and memory hold little more than 1
        self.assertTrue(written[0])
        self.assertFalse(written[-1])
        self.assertEqual(written.count(False), writer.dropped)
        self.read(read_end, written.count(True) * len(text))
        writer.flush()
        self.assertTrue(writer.write("again\n"))
        self.assertEqual(b"again\n", self.read(read_end, 6))
        os.close(read_end)

    def test_everything_arrives_in_order(self) -> None:
        """Through a descriptor that blocks and through one that does not, more than a pipe holds at once."""
        for non_blocking in (False, True):
            read_end, writer = self.pipe(non_blocking=non_blocking)
            expected = "".join(f"{number} é\n" for number in range(20_000)).encode()
            for number in range(20_000):
                writer.write(f"{number} é\n")
            self.assertEqual(expected, self.read(read_end, len(expected)))
            os.close(read_end)

    def test_closing_waits_for_what_is_written(self) -> None:
        """At the end of the process nothing is lost that somebody reads."""
        read_end, writer = self.pipe()
        size = 300_000
        reader = threading.Thread(target=self.read, args=(read_end, size))
        reader.start()
        writer.write("x" * size)
        writer.close()
        reader.join(10)
        self.assertFalse(reader.is_alive())
        self.assertFalse(writer.write("too late"))
        os.close(read_end)

    def test_closing_does_not_wait_for_ever(self) -> None:
        """For a reader that is stuck the end of the process does not wait long."""
        self.patch(log_writer, "FLUSH_SECONDS", 0.05)
        read_end, writer = self.pipe()
        writer.write("x" * 200_000)
        writer.close()
        self.assertEqual(0, writer.dropped)
        os.close(read_end)

    def test_a_broken_pipe_drops_and_counts(self) -> None:
        """The reader is gone: the log goes on, for nobody."""
        read_end, writer = self.pipe()
        os.close(read_end)
        for _ in range(3):
            writer.write("x")
            writer.flush()
        self.assertEqual(3, writer.dropped)

    def test_the_last_lines_are_waited_for(self) -> None:
        """twistd may end itself by a signal right behind them, without any further word."""
        flushed: list[str] = []
        self.patch(Writer, "flush", lambda writer: flushed.append("flush"))
        for text in ("hello", "Main loop terminated.", "Server Shut Down."):
            shown({"log_format": text, "log_level": LogLevel.info, "log_namespace": "twisted.x"})
        self.assertEqual(2, len(flushed))

    def test_what_the_streams_encoding_lacks_is_escaped(self) -> None:
        """A terminal in ASCII, and half a surrogate pair that no encoding has."""
        read_end, writer = self.pipe(encoding="ascii")
        writer.write("é \ud800")
        self.assertEqual(rb"\xe9 \ud800", self.read(read_end, 11))
        os.close(read_end)

    def test_lines_in_another_encoding(self) -> None:
        """What workers print is written in the stream's encoding as well."""
        read_end, writer = self.pipe(encoding="ascii")
        writer.write_lines("é\n".encode(), "worker 1", 1)
        self.assertEqual(b"\\xe9\n", self.read(read_end, 5))
        os.close(read_end)

    def test_lines_of_a_broken_stream(self) -> None:
        """They are counted by whose they were, and not as texts of the session's own."""
        stream = BrokenStream()
        stream.error = BrokenPipeError()
        writer = stream_writer(stream)
        writer.write_lines(b"one\ntwo\n", "worker 1", 2)
        self.assertEqual((dict(writer.take_dropped()), writer.dropped), ({"worker 1": 2}, 0))
        read_end, writer = self.pipe()
        os.close(read_end)
        writer.write_lines(b"one\ntwo\n", "worker 1", 2)
        writer.flush()
        self.assertEqual((dict(writer.take_dropped()), writer.dropped), ({"worker 1": 2}, 0))


class FakeTarget:
    """Takes what it is allowed to, and waits for the test otherwise."""

    def __init__(self) -> None:
        self.written = b""
        self.error: OSError | None = None
        self.allowed = threading.Semaphore(0)
        self.attempts = 0
        self.attempted = threading.Semaphore(0)
        self.most = 1000_000_000
        self.closed = threading.Event()

    def write(self, data: bytes, start: int) -> int:
        self.attempts += 1
        self.attempted.release()
        if not self.allowed.acquire(timeout=10):
            raise AssertionError("nobody allowed this write")
        if self.error is not None:
            raise self.error
        part = data[start : start + self.most]
        self.written += part
        return len(part)

    def close(self) -> None:
        self.closed.set()


class WriterTests(SynchronousTestCase):
    """`Writer`: what it keeps, what it drops, and who is told."""

    def setUp(self) -> None:
        self.target = FakeTarget()
        self.troubles: list[OSError] = []
        self.calls: list[str] = []

    def writer(self, troubled: Callable[[OSError], Any] | None = None) -> Writer:
        writer = Writer(self.target, troubled=troubled)

        def end() -> None:
            self.target.error = None
            for _ in range(1000):
                self.target.allowed.release()
            writer.close()
            self.assertTrue(self.target.closed.wait(10))

        self.addCleanup(end)
        return writer

    def full(self, writer: Writer) -> None:
        """Have as much wait as is kept: one text is being written, the others wait for it."""
        writer.write_lines(b"x" * FULL_BYTES, "worker 1", 1)
        self.assertTrue(self.target.attempted.acquire(timeout=10))

    def room(self, writer: Writer) -> None:
        """Let all that waits be written."""
        for _ in range(100):
            self.target.allowed.release()
        writer.flush()
        self.assertEqual(writer._bytes, 0)

    def test_full(self) -> None:
        """A mebibyte that waits is full; below three quarters there is room, and that is told once."""
        writer = self.writer()
        self.assertFalse(writer.is_full)
        self.target.most = FULL_BYTES - ROOM_BYTES
        self.full(writer)
        self.assertTrue(writer.is_full)
        told = threading.Event()

        def room() -> None:
            self.calls.append("room")
            told.set()

        writer.when_room(room)
        self.target.allowed.release()
        self.assertTrue(self.target.attempted.acquire(timeout=10))
        self.assertEqual((writer.is_full, self.calls), (False, []))  # exactly three quarters
        self.target.allowed.release()
        self.assertTrue(told.wait(10))
        self.room(writer)
        self.assertEqual(self.calls, ["room"])

    def test_room_already(self) -> None:
        """Who asks when there is room is told at once."""
        self.writer().when_room(lambda: self.calls.append("room"))
        self.assertEqual(self.calls, ["room"])

    def test_nothing_is_dropped_before_it_is_given_up(self) -> None:
        """Who was read already is kept, though it be more than is to be: the workers are waiting by now."""
        writer = self.writer()
        self.full(writer)
        writer.write_lines(b"more\n", "worker 2", 1)
        self.room(writer)
        self.assertEqual(dict(writer.take_dropped()), {})
        self.assertTrue(self.target.written.endswith(b"more\n"))

    def test_given_up(self) -> None:
        """From then on lines are counted by whose they are, until there is room; then they are written again."""
        writer = self.writer()
        self.full(writer)
        writer.when_room(lambda: self.calls.append("room"))
        writer.give_up()
        for source, lines in (("worker 1", 3), ("worker 2", 1), ("worker 1", 2)):
            writer.write_lines(b"lost\n", source, lines)
        self.room(writer)
        self.assertEqual(self.calls, ["room"])
        self.assertEqual(dict(writer.take_dropped()), {"worker 1": 5, "worker 2": 1})
        self.assertEqual(dict(writer.take_dropped()), {})
        writer.write_lines(b"again\n", "worker 1", 1)
        self.room(writer)
        self.assertTrue(self.target.written.endswith(b"again\n"))
        self.assertNotIn(b"lost", self.target.written)

    def test_given_up_too_late(self) -> None:
        """Where there was room just before, nothing is dropped."""
        writer = self.writer()
        writer.when_room(lambda: None)
        writer.give_up()
        self.full(writer)
        writer.write_lines(b"more\n", "worker 1", 1)
        self.assertEqual(dict(writer.take_dropped()), {})

    def test_no_worker_pushes_out_the_news(self) -> None:
        """With all the room taken by what workers print, the session's own texts are still kept."""
        writer = self.writer()
        self.full(writer)
        for _ in range(3):
            writer.write_lines(b"x" * FULL_BYTES, "worker 1", 1)
        self.assertTrue(writer.write("worker 1 died\n"))
        self.room(writer)
        self.assertTrue(self.target.written.endswith(b"worker 1 died\n"))

    def test_a_disk_that_fails(self) -> None:
        """It is told once, tried again, and what waited is written in full, from where it stopped."""
        delays: list[float] = []
        self.patch(log_writer, "FLUSH_SECONDS", 9.0)  # which is none of the delays
        wait_for = threading.Condition.wait_for

        def recorded(
            condition: threading.Condition, predicate: Callable[[], Any], timeout: Any = None
        ) -> Any:
            delays.append(timeout)
            return wait_for(
                condition, predicate, 0 if timeout and timeout != log_writer.FLUSH_SECONDS else timeout
            )

        self.patch(threading.Condition, "wait_for", recorded)
        self.target.most = 3
        writer = self.writer(self.troubles.append)
        writer.write("one\ntwo\n")
        self.assertTrue(self.target.attempted.acquire(timeout=10))
        self.target.allowed.release()
        self.assertTrue(self.target.attempted.acquire(timeout=10))
        self.target.error = OSError(28, "No space left on device")
        for _ in range(8):
            self.target.allowed.release()
            self.assertTrue(self.target.attempted.acquire(timeout=10))
        self.target.error = None
        self.room(writer)
        self.assertEqual(self.target.written, b"one\ntwo\n")
        self.assertEqual(len(self.troubles), 1)
        between = list(filter(None, delays))
        self.assertEqual(between[:8], [1, 2, 4, 8, 16, 30, 30, 30])

    def test_a_disk_that_fails_at_the_end(self) -> None:
        """Nobody waits for it then; what could not be written is counted."""
        self.patch(log_writer, "FLUSH_SECONDS", 0.05)
        self.target.error = OSError(28, "No space left on device")
        for _ in range(10):
            self.target.allowed.release()
        writer = self.writer(self.troubles.append)
        writer.write("lost\n")
        writer.write_lines(b"lost\n", "worker 1", 1)
        self.assertTrue(self.target.attempted.acquire(timeout=10))
        writer.close()
        self.assertTrue(self.target.closed.wait(10))
        self.assertEqual(len(self.troubles), 1)

    def test_held(self) -> None:
        """Nothing is written, and no thread started, before it may: twistd becomes another process meanwhile."""
        writer = self.writer()
        writer.hold()
        writer.write("one\n")
        self.assertEqual((self.target.attempts, writer._thread), (0, None))
        writer.release()
        self.room(writer)
        self.assertEqual(self.target.written, b"one\n")
