"""One place that the log goes to: in its form, through its writer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TextIO

from twisted.logger import ILogObserver, LogEvent, LogLevel
from zope.interface import implementer

from serverworker.observers.log_format import Form, JsonForm, TextForm, own_event
from serverworker.observers.log_writer import Writer, stream_writer
from serverworker.processes.appended_file import AppendedFile
from serverworker.values.lines import ToldLines
from serverworker.values.settings import OutputSettings

_UNWANTED = ("Starting factory", "Stopping factory")
_LAST = ("Main loop terminated.", "Server Shut Down.")
"""Said by the reactor and by twistd at the very end; a signal that twistd sends itself may follow, and no atexit."""


@implementer(ILogObserver)
class LogSink:
    """Formats and writes; never raises into the logger, which would switch it off.

    Twisted's own events are shown too: that the reactor starts and stops and a signal came is worth a line; that some
    factory starts is not. For the methods behind `lines` see `monitor.output_flow.Sink`.
    """

    def __init__(self, name: str, writer: Writer, form: Form, lowest: LogLevel = LogLevel.info) -> None:
        """`name` is for the operator; below the level `lowest` nothing is shown."""
        self.name = name
        self.writer = writer
        self._form = form
        self._lowest = lowest
        self._told_dropped = 0

    def __call__(self, event: LogEvent) -> None:
        """Write an event of the logger's."""
        try:
            text = "" if _is_unwanted(event, self._lowest) else self._form.entry(event)
        except Exception as error:  # an event may hold anything
            text = self._form.entry(own_event(f"an event cannot be shown: {type(error).__name__}: {error}"))
        if text and event.get("event") == "OutputLine":
            self.writer.write_lines(text.encode("utf-8", "backslashreplace"), str(event.get("source")), 1)
        elif text and self.writer.write(text) and self.writer.dropped > self._told_dropped:
            dropped, self._told_dropped = self.writer.dropped - self._told_dropped, self.writer.dropped
            note = own_event(f"{dropped} log lines before this one are lost")
            self.writer.write(self._form.entry(note))
        if str(event.get("log_format")) in _LAST:
            self.writer.flush()

    def lines(self, told: ToldLines) -> None:
        """Write what a worker printed."""
        self.writer.write_lines(self._form.lines(told), told.lines.source, told.lines.count)

    @property
    def is_full(self) -> bool:
        """Whether workers are to wait."""
        return self.writer.is_full

    def when_room(self, call: Callable[[], None]) -> None:
        """Have `call()` called once there is room again."""
        self.writer.when_room(call)

    def give_up(self) -> None:
        """Drop what workers print until then."""
        self.writer.give_up()

    def take_dropped(self) -> Mapping[str, int]:
        """How many lines were dropped since this was last asked, by source."""
        return self.writer.take_dropped()


class FileSink(LogSink):
    """The log file of the configuration. Nothing is written before `writer.release`."""

    def __init__(self, output: OutputSettings, troubled: Callable[[str, OSError], None]) -> None:
        """`troubled(name, error)` is called in a thread where the disk fails, once for each time."""
        assert output.file is not None
        self.file = AppendedFile(output.file, max_bytes=output.file_max_mib * 2**20, kept=output.files_kept)
        name = f"the log file {output.file}"
        writer = Writer(self.file, troubled=lambda error: troubled(name, error))
        writer.hold()
        super().__init__(name, writer, JsonForm() if output.log_format == "json" else TextForm())


def terminal_sink(stream: TextIO, colour: bool, lowest: LogLevel = LogLevel.info) -> LogSink:
    """Lines for people on a stream."""
    return LogSink(_name(stream), stream_writer(stream), TextForm(colour), lowest)


def json_sink(stream: TextIO, lowest: LogLevel = LogLevel.info) -> LogSink:
    """JSON lines on a stream."""
    return LogSink(_name(stream), stream_writer(stream), JsonForm(), lowest)


def _name(stream: TextIO) -> str:
    try:
        return "the terminal" if stream.isatty() else "the log on stdout"
    except ValueError:  # closed
        return "the log on stdout"


def _is_unwanted(event: LogEvent, lowest: LogLevel) -> bool:
    level = event.get("log_level")
    if level is not None and level < lowest:
        return True
    return level is LogLevel.info and str(event.get("log_format")).startswith(_UNWANTED)
