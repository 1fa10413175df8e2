"""How the log looks, and that nothing that happens to its stream reaches the logger."""

from __future__ import annotations

import io
import json
import os
import select
import threading
from collections.abc import Mapping
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.protocol import Factory
from twisted.logger import Logger, LogLevel, LogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from serverworker.observers import log_format
from serverworker.observers.log import NAMESPACE
from serverworker.observers.log_format import Writer, json_observer, terminal_observer
from serverworker.values.event_json import utc

AT = 1795507637.1234


def event(text: str = "hello", **fields: Any) -> dict[str, Any]:
    """An event of the session, as `LogObserver` makes them."""
    return {
        "log_time": AT,
        "log_level": LogLevel.info,
        "log_namespace": NAMESPACE,
        "log_format": "{sentence}",
        "source": "monitor",
        "sentence": text,
        "traceback": "",
        **fields,
    }


def caught() -> Failure:
    try:
        raise ValueError("no")
    except ValueError:
        return Failure()


def shown(*events: Mapping[str, Any], colour: bool = False) -> str:
    """What a stream gets of these events."""
    stream = io.StringIO()
    observer = terminal_observer(stream, colour)
    for each in events:
        observer(dict(each))
    return stream.getvalue()


class UtcTests(SynchronousTestCase):
    """`utc`."""

    def test_it_is_rounded_to_milliseconds(self) -> None:
        """A moment a hair before a millisecond, as floats are, is not cut down to the one before."""
        self.assertEqual("2026-11-24T08:07:17.123Z", utc(1795507637.123))
        self.assertEqual("2026-11-24T08:07:17.123Z", utc(1795507637.1229999))
        self.assertEqual("1970-01-01T00:00:01.000Z", utc(0.9996))


class LinesTests(SynchronousTestCase):
    """Lines for people."""

    def test_a_line_says_when_who_and_what(self) -> None:
        """In UTC, with the source; the level only where it is not info."""
        self.assertEqual("2026-11-24 08:07:17.123Z [monitor] hello\n", shown(event()))
        text = shown(event(source="worker 12", log_level=LogLevel.error))
        self.assertEqual("2026-11-24 08:07:17.123Z [worker 12] error: hello\n", text)

    def test_each_source_and_level_has_its_colour(self) -> None:
        """Monitor, workers and commands are told apart at a glance; the colour ends where it should."""
        lines = [shown(event(source=source), colour=True) for source in ("monitor", "worker 1", "exec")]
        self.assertEqual(
            ["\x1b[36m[monitor]\x1b[0m", "\x1b[32m[worker 1]\x1b[0m", "\x1b[35m[exec]\x1b[0m"],
            [line.split("Z\x1b[0m ")[1].removesuffix(" hello\n") for line in lines],
        )
        for level, colour in ((LogLevel.warn, "33"), (LogLevel.error, "31"), (LogLevel.critical, "1;31")):
            text = shown(event(log_level=level), colour=True)
            self.assertTrue(text.endswith(f" \x1b[{colour}m{level.name}:\x1b[0m hello\n"), text)

    def test_further_lines_are_indented(self) -> None:
        """A sentence of several lines is one entry; no text can pretend to be an entry of its own."""
        text = shown(event("one\n2026-11-24 [monitor] two\n"))
        self.assertEqual("2026-11-24 08:07:17.123Z [monitor] one\n    2026-11-24 [monitor] two\n", text)

    def test_failures_have_their_traceback(self) -> None:
        """What `log.failure` and `log.err` tell is readable."""
        text = shown({**event("while x"), "log_failure": caught(), "log_level": LogLevel.critical})
        lines = text.splitlines()
        self.assertEqual("2026-11-24 08:07:17.123Z [monitor] critical: while x", lines[0])
        self.assertEqual("    builtins.ValueError: no", lines[-1])
        self.assertTrue(any("in caught" in line or "caught" in line for line in lines))

    def test_control_characters_do_not_reach_the_terminal(self) -> None:
        """What a worker prints cannot clear the screen, ring, go back over a line or turn the text round."""
        text = shown(event("\x1b[2J a\tb\x07 50 %\r100 %\x00\x7f\x9b1m \u202egnp"), colour=True)
        self.assertIn(r" \x1b[2J a" "\t" r"b\x07 50 %\r100 %\x00\x7f\x9b1m \u202egnp", text)

    @settings(deadline=None)
    @given(text=st.text())
    def test_no_text_brings_a_control_character_or_a_line_of_its_own(self, text: str) -> None:
        """Whatever is told: one entry, its further lines indented, nothing but tabs and newlines below a space."""
        line = shown(event(f"x{text}"))
        self.assertTrue(all(each in "\t\n" or each.isprintable() or ord(each) > 0x9F for each in line), line)
        self.assertTrue(
            all(each.startswith("    ") for each in line.removesuffix("\n").split("\n")[1:]), line
        )

    def test_events_of_others_are_the_monitors(self) -> None:
        """Twisted's own and the application's agent's; a `source` of theirs means something else."""
        other = {
            **event(source="a file"),
            "log_namespace": "twisted.internet.base",
            "log_format": "text {sentence}",
        }
        self.assertEqual("2026-11-24 08:07:17.123Z [monitor] text hello\n", shown(other))
        self.assertIn(" \x1b[2mtext hello\x1b[0m\n", shown(other, colour=True))
        self.assertNotIn("\x1b[2mtext", shown({**other, "log_level": LogLevel.warn}, colour=True))

    def test_noise_is_left_out(self) -> None:
        """Factories that start and stop, debug events unless asked for, and events without a text."""
        stream = io.StringIO()
        publisher = LogPublisher(terminal_observer(stream, colour=False))
        for text in ("Starting factory {factory!r}", "Stopping factory {factory!r}"):
            Logger(observer=publisher).info(text, factory=Factory())
        Logger(observer=publisher).debug("debug")
        publisher({"log_time": AT})
        self.assertEqual("", stream.getvalue())
        terminal_observer(stream, colour=False, lowest=LogLevel.debug)(event(log_level=LogLevel.debug))
        self.assertIn("debug: hello", stream.getvalue())

    def test_an_event_with_next_to_nothing_in_it_is_shown(self) -> None:
        """Neither a time nor a level nor a namespace is needed."""
        self.assertIn(" [monitor] text\n", shown({"log_format": "text"}))

    def test_an_event_that_cannot_be_shown_is_told_as_such(self) -> None:
        """A broken event does not vanish, and raises nothing into the logger."""
        broken = event()
        del broken["source"]
        self.assertIn("warn: an event cannot be shown: KeyError: 'source'", shown(broken))
        self.assertIn("Unable to format event", shown({"log_format": "{missing}"}))
        self.assertIn("cannot be shown: TypeError", shown(event(log_level="high")))


class JsonTests(SynchronousTestCase):
    """JSON lines."""

    def lines(self, *events: Mapping[str, Any]) -> list[dict[str, Any]]:
        stream = io.StringIO()
        observer = json_observer(stream)
        for each in events:
            observer(dict(each))
        self.assertTrue(stream.getvalue().isascii())
        return [json.loads(line) for line in stream.getvalue().splitlines()]

    def test_a_line_is_an_object(self) -> None:
        """Time, level, source, namespace, text, and the event's own fields apart from them."""
        (line,) = self.lines(event("é\n2", source="worker 1", pid=9, cause={"kind": "exit"}, ports=("a",)))
        expected = {
            "time": "2026-11-24T08:07:17.123Z",
            "level": "info",
            "source": "worker 1",
            "namespace": "serverworker.session",
            "text": "é\n2",
            "fields": {"pid": 9, "cause": {"kind": "exit"}, "ports": ["a"]},
        }
        self.assertEqual(expected, line)

    def test_tracebacks_stand_apart_from_the_text(self) -> None:
        """Those that crossed a process border, and those of failures."""
        remote, own = self.lines(
            event("died", log_format="{sentence}\n{traceback}", traceback="Traceback: x"),
            {"log_format": "while {x}", "x": 1, "log_failure": caught(), "log_namespace": "a"},
        )
        self.assertEqual(("died", "Traceback: x"), (remote["text"], remote["traceback"]))
        self.assertEqual("while 1", own["text"])
        self.assertIn("ValueError: no", own["traceback"])

    def test_what_is_no_json_is_left_out(self) -> None:
        """Objects, and what twisted.python.log adds to everything; no number is too odd."""
        (line,) = self.lines(
            event(thing=object(), inf=float("inf"), message=("x",), isError=0, deep=[object()])
        )
        self.assertEqual({"inf": "inf"}, line["fields"])

    @settings(deadline=None)
    @given(
        text=st.text(),
        value=st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
        ),
    )
    def test_every_event_is_one_line(self, text: str, value: object) -> None:
        """Whatever it holds, one line of JSON that any program reads."""
        stream = io.StringIO()
        json_observer(stream)(event(text, value=value))
        self.assertEqual(1, stream.getvalue().count("\n"))
        self.assertEqual(text, json.loads(stream.getvalue(), parse_constant=self.fail)["text"])


class BrokenStream(io.StringIO):
    """A stream that raises what it is told to."""

    error: Exception | None = None

    def write(self, text: str, /) -> int:
        if self.error is not None:
            raise self.error
        return super().write(text)


class WriterTests(SynchronousTestCase):
    """`Writer`."""

    def pipe(self, *, non_blocking: bool = False, encoding: str = "utf-8") -> tuple[int, Writer]:
        """A pipe: the end to read, and a writer on the other."""
        read_end, write_end = os.pipe()
        os.set_blocking(write_end, not non_blocking)
        with os.fdopen(write_end, "w", encoding=encoding) as stream:
            writer = Writer(stream)
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
        publisher = LogPublisher(terminal_observer(stream, colour=False))
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
        writer = Writer(stream)
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
        self.patch(log_format, "FLUSH_SECONDS", 0.05)
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
