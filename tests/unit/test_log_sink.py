"""What workers print, many lines at once, in the log's two forms; the log file; where the log goes."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.logger import LogLevel, LogPublisher, capturedLogs, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from serverworker.observers.log import LogObserver
from serverworker.observers.log_choice import LogChoice, choose_log
from serverworker.observers.log_format import Form, JsonForm, TextForm
from serverworker.observers.log_sink import FileSink, terminal_sink
from serverworker.values.events import OutputLine
from serverworker.values.lines import OutputLines, ToldLines
from serverworker.values.settings import OutputSettings
from tests.unit.test_log_format import event

HARD = st.text(st.sampled_from('ab é\u20ac\x1b\x07\r\x7f\x9b\xa0\u202e\u2026\u2067\t\\"'))


def told(*texts: str) -> ToldLines:
    lines = OutputLines(source="worker 1", stream="stderr", text="\n".join(texts), count=len(texts))
    return ToldLines(sequence=7, at=1795507637.123, lines=lines)


def one_by_one(form: Form, lines: ToldLines) -> str:
    """The same by way of the logger, as every other event comes."""
    with capturedLogs() as logged:
        for each in lines:
            LogObserver()(each)
    return "".join(form.entry({**entry, "log_time": lines.at}) for entry in logged)


class FormTests(SynchronousTestCase):
    """`Form.lines`."""

    def test_text(self) -> None:
        """Each line says when and who; an empty one is a line as well."""
        self.assertEqual(
            TextForm().lines(told("one", "", "two")).decode().splitlines(),
            [f"2026-11-24 08:07:17.123Z [worker 1] {text}" for text in ("one", "", "two")],
        )
        self.assertIn(b"\x1b[32m[worker 1]\x1b[0m one\n", TextForm(colour=True).lines(told("one")))

    @settings(deadline=None, max_examples=200)
    @given(texts=st.lists(HARD.map(lambda text: f"x{text}y"), min_size=1, max_size=5), colour=st.booleans())
    def test_text_is_the_same_one_by_one(self, texts: list[str], colour: bool) -> None:
        """What is not to reach a terminal is written out, as of every event."""
        form, lines = TextForm(colour), told(*texts)
        expected = one_by_one(form, lines).encode("utf-8", "backslashreplace")
        self.assertEqual(form.lines(lines), expected)

    @settings(deadline=None, max_examples=200)
    @given(texts=st.lists(HARD, min_size=1, max_size=5))
    def test_json_is_the_same_one_by_one(self, texts: list[str]) -> None:
        """With the same fields, its number among them."""
        lines = told(*texts)
        made = [json.loads(line) for line in JsonForm().lines(lines).splitlines()]
        self.assertEqual(made, [json.loads(line) for line in one_by_one(JsonForm(), lines).splitlines()])
        self.assertEqual([each["fields"]["sequence"] for each in made], list(range(7, 7 + len(texts))))


class LogObserverTests(SynchronousTestCase):
    """`LogObserver.lines`."""

    def test_directly(self) -> None:
        """Sinks of ours get them together, and the logger none."""
        got: list[ToldLines] = []
        with capturedLogs() as logged:
            LogObserver(sinks=[got.append]).lines(told("one", "two"))
        self.assertEqual((got, logged), ([told("one", "two")], []))

    def test_by_the_logger(self) -> None:
        """Without any each is an event of the logger's, for the operator's own observer."""
        with capturedLogs() as logged:
            LogObserver().lines(told("one", "two"))
        self.assertEqual([each["text"] for each in logged], ["one", "two"])

    def test_not_shown(self) -> None:
        """Neither way."""
        got: list[ToldLines] = []
        LogObserver(sinks=[got.append], show_server_output=False).lines(told("one"))
        self.assertEqual(got, [])


class SinkTests(SynchronousTestCase):
    """`LogSink` and `FileSink`."""

    def test_output_by_the_logger_counts_as_output(self) -> None:
        """Beside an operator's own observer lines come one by one: they are a worker's all the same."""

        class Closed(io.StringIO):
            def write(self, text: str, /) -> int:
                raise ValueError("closed")

        sink = terminal_sink(Closed(), colour=False)
        sink(event("hello", source="worker 3", event=OutputLine.__name__))
        self.assertEqual((dict(sink.take_dropped()), sink.writer.dropped), ({"worker 3": 1}, 0))

    def test_name(self) -> None:
        """Such as an operator calls it."""
        stream = io.StringIO()
        self.assertEqual(terminal_sink(stream, colour=False).name, "the log on stdout")
        stream.close()
        self.assertEqual(terminal_sink(stream, colour=False).name, "the log on stdout")

    def test_file(self) -> None:
        """Events and lines, in order, in the form of the configuration; not before it may be written."""
        path = Path(self.mktemp()).resolve()
        sink = FileSink(OutputSettings(file=str(path), log_format="json"), lambda name, error: None)
        self.addCleanup(sink.writer.close)
        sink(event("hello"))
        sink.lines(told("one"))
        sink(event("bye"))
        self.assertFalse(path.exists())
        sink.writer.release()
        sink.writer.flush()
        self.assertEqual(
            [json.loads(line)["text"] for line in path.read_text().splitlines()], ["hello", "one", "bye"]
        )

    def test_file_that_fails(self) -> None:
        """Who it is that fails is told by its name."""
        path = Path(self.mktemp()).resolve() / "in" / "no" / "folder"
        troubles: list[tuple[str, OSError]] = []
        sink = FileSink(OutputSettings(file=str(path)), lambda name, error: troubles.append((name, error)))
        self.addCleanup(sink.writer.close)
        sink(event("hello"))
        sink.writer.release()
        path.parent.mkdir(parents=True)
        sink.writer.flush()
        self.assertIn("hello", path.read_text())
        for name, error in troubles:
            self.assertEqual((name, type(error)), (f"the log file {path}", FileNotFoundError))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class ChoiceTests(SynchronousTestCase):
    """`choose_log`."""

    def chosen(
        self, options: Mapping[str, Any] | None, stdout: TextIO | None = None, **output: Any
    ) -> LogChoice:
        settings = OutputSettings(**output)
        return choose_log(options, settings, stdout or Terminal(), {}, lambda name, error: None)

    def names(self, choice: LogChoice) -> list[str]:
        return [sink.name for sink in choice.sinks]

    def test_foreground(self) -> None:
        """The terminal, and the file besides; both in twistd's place."""
        self.assertEqual(self.names(self.chosen({"nodaemon": True})), ["the terminal"])
        choice = self.chosen({"nodaemon": True}, file="/l")
        self.assertEqual(self.names(choice), ["the terminal", "the log file /l"])
        self.assertIsInstance(choice.observer, LogPublisher)

    def test_daemon(self) -> None:
        """twistd's own log, or the file of the configuration in its place."""
        choice = self.chosen({"nodaemon": False})
        self.assertEqual((self.names(choice), choice.observer), ([], None))
        choice = self.chosen({"nodaemon": False}, file="/l")
        self.assertEqual(self.names(choice), ["the log file /l"])
        self.assertIsNotNone(choice.observer)

    def test_daemon_without_the_folder(self) -> None:
        """What a daemon could tell nobody later is told on the user's terminal."""
        stderr = io.StringIO()
        self.patch(sys, "stderr", stderr)
        self.chosen({"nodaemon": True}, file="/no/l")
        self.assertEqual(stderr.getvalue(), "")
        self.chosen({"nodaemon": False}, file="/no/l")
        self.assertIn("there is no folder for the log file /no/l yet", stderr.getvalue())

    def test_operators_choice(self) -> None:
        """It stands, and the file is an addition to it."""
        stdout = Terminal()
        twist = {"fileLogObserverFactory": None, "logFormat": "text", "logLevel": LogLevel.info}
        for options in (
            {"nodaemon": True, "logfile": "x.log"},
            {"nodaemon": False, "syslog": True},
            {"logger": "x"},
            {**twist, "logFile": io.StringIO()},
            None,
        ):
            choice = self.chosen(options, stdout, file="/l")
            self.assertEqual((self.names(choice), choice.observer), (["the log file /l"], None), options)
        self.assertIsNotNone(self.chosen({**twist, "logFile": stdout}, stdout, file="/l").observer)

    def test_begin(self) -> None:
        """The file is written from then on; beside an operator's observer it listens to the logger."""
        path = Path(self.mktemp()).resolve()
        choice = self.chosen({"logfile": "x.log"}, file=str(path))
        assert choice.file is not None
        self.addCleanup(choice.file.writer.close)
        self.addCleanup(globalLogPublisher.removeObserver, choice.file)
        choice.begin(show_server_output=True).lines(told("one"))
        choice.file.writer.flush()
        self.assertTrue(path.read_text().endswith("[worker 1] one\n"))

    def test_begin_in_twistds_place(self) -> None:
        """Lines go to the sinks at once, and by no logger."""
        path = Path(self.mktemp()).resolve()
        choice = self.chosen({"nodaemon": False}, file=str(path))
        assert choice.file is not None
        self.addCleanup(choice.file.writer.close)
        choice.begin(show_server_output=True).lines(told("one"))
        choice.file.writer.flush()
        self.assertEqual(path.read_text(), "2026-11-24 08:07:17.123Z [worker 1] one\n")
