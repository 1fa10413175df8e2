"""Where the log goes: when ours takes the place of twistd's or twist's, and what the configuration adds."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

from attrs import frozen
from twisted.logger import ILogObserver, LogLevel, LogPublisher, globalLogPublisher

from serverworker.observers.log import LogObserver
from serverworker.observers.log_sink import FileSink, LogSink, json_sink, terminal_sink
from serverworker.values.settings import OutputSettings


@frozen(kw_only=True)
class LogChoice:
    """Where the log goes."""

    sinks: tuple[LogSink, ...]
    """Ours, all of them."""
    file: FileSink | None
    """That of the configuration; one of `sinks`."""
    observer: ILogObserver | None
    """What takes the place of twistd's own; None: the operator's choice stands, and the file is an addition to it."""

    def begin(self, *, show_server_output: bool) -> LogObserver:
        """Write from now on, since nobody daemonises or drops rights any more; answers what is to be told of events."""
        if self.file is not None:
            self.file.writer.release()
            if self.observer is None:
                globalLogPublisher.addObserver(self.file)
        # The operator's own observer knows nothing but events of the logger: then each line is one.
        direct = () if self.observer is None else tuple(sink.lines for sink in self.sinks)
        return LogObserver(show_server_output=show_server_output, sinks=direct)


def choose_log(
    parent_options: Mapping[str, Any] | None,
    output: OutputSettings,
    stdout: TextIO,
    environ: Mapping[str, str],
    troubled: Callable[[str, OSError], None],
) -> LogChoice:
    """The stream that `choose_observer` finds, and the file of the configuration (see `FileSink`).

    A daemon has no stdout; where nobody has named a log file to twistd either, that of the configuration takes the
    place of ``twistd.log``.
    """
    stream = choose_observer(parent_options, output.log_format, stdout, environ)
    file = FileSink(output, troubled) if output.file is not None else None
    if file is not None and stream is None and not Path(file.file.path).parent.is_dir():
        # Later nobody would see it: a daemon has no terminal, and the log is the very file.
        sys.stderr.write(
            f"serverworker: there is no folder for {file.name} yet; it waits in memory until then\n"
        )
    sinks = tuple(sink for sink in (stream, file) if sink is not None)
    is_ours = stream is not None or (file is not None and not operator_chose(parent_options, stdout))
    return LogChoice(sinks=sinks, file=file, observer=LogPublisher(*sinks) if is_ours else None)


def choose_observer(
    parent_options: Mapping[str, Any] | None,
    log_format: str,
    stdout: TextIO,
    environ: Mapping[str, str],
) -> LogSink | None:
    """Our sink on `stdout`, or None where the operator's own choice of a log stands.

    `parent_options` are twistd's `ServerOptions` or twist's `TwistOptions`; None: there is no such program, and
    the log belongs to whoever runs the service. Under twistd the observer is to be set as the application's
    `ILogObserver` component; twist does not look there, and takes what `fileLogObserverFactory` in its options
    makes.

    Ours stands back for ``--logger``, ``--syslog``, ``--logfile`` (but not ``--logfile=-``), without
    ``--nodaemon``, since a daemon has no stdout; and under twist for ``--log-file`` and for a ``--log-format``
    other than its default.
    """
    if parent_options is None:
        return None
    lowest = LogLevel.info
    if "fileLogObserverFactory" in parent_options:
        usual = "text" if stdout.isatty() else "json"
        if parent_options["logFile"] is not stdout or parent_options["logFormat"] != usual:
            return None
        lowest = parent_options["logLevel"]
    elif not _twistd_would_write_to_stdout(parent_options):
        return None
    if log_format == "json":
        return json_sink(stdout, lowest)
    return terminal_sink(stdout, colour=stdout.isatty() and not environ.get("NO_COLOR"), lowest=lowest)


def operator_chose(parent_options: Mapping[str, Any] | None, stdout: TextIO) -> bool:
    """Whether the operator said on the command line where the log goes, or nobody is there who could have."""
    if parent_options is None:
        return True
    if "fileLogObserverFactory" in parent_options:
        return parent_options["logFile"] is not stdout
    return _twistd_was_told(parent_options)


def _twistd_was_told(options: Mapping[str, Any]) -> bool:
    return bool(
        options.get("logger") or options.get("syslog") or options.get("logfile") not in (None, "", "-")
    )


def _twistd_would_write_to_stdout(options: Mapping[str, Any]) -> bool:
    return not _twistd_was_told(options) and bool(options.get("nodaemon") or options.get("debug"))
