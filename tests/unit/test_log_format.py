"""How the log looks, and that nothing that happens to its stream reaches the logger."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.protocol import Factory
from twisted.logger import Logger, LogLevel, LogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from serverworker.observers.log import NAMESPACE
from serverworker.observers.log_sink import json_sink, terminal_sink
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
    observer = terminal_sink(stream, colour)
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
        publisher = LogPublisher(terminal_sink(stream, colour=False))
        for text in ("Starting factory {factory!r}", "Stopping factory {factory!r}"):
            Logger(observer=publisher).info(text, factory=Factory())
        Logger(observer=publisher).debug("debug")
        publisher({"log_time": AT})
        self.assertEqual("", stream.getvalue())
        terminal_sink(stream, colour=False, lowest=LogLevel.debug)(event(log_level=LogLevel.debug))
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
        observer = json_sink(stream)
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
        json_sink(stream)(event(text, value=value))
        self.assertEqual(1, stream.getvalue().count("\n"))
        self.assertEqual(text, json.loads(stream.getvalue(), parse_constant=self.fail)["text"])
