"""The log as an observer: each event as one entry, with a sentence for people and named fields for programs."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import attrs
from twisted.logger import Logger, LogLevel

from serverworker.values import events
from serverworker.values.events import CauseKind, Event, RequestInFlight, Told

NAMESPACE = "serverworker.session"

_NOT_LOGGED = frozenset({"output", "beats", "requests", "stacks"})
"""Fields of a death that its crash report holds, and that would drown the log."""
_SHOWN_REQUESTS = 3

_log = Logger(namespace=NAMESPACE)


class LogObserver:
    """Logs every event that it is told, under `NAMESPACE`.

    An entry has the fields ``sentence``, ``source`` (``monitor``, ``worker 3`` or ``exec``), ``event`` (the
    class's name), ``sequence``, ``traceback`` (empty where there is none) and those of the event itself, plain
    values and dictionaries of such; what only a crash report needs is left out.
    """

    def __init__(self, *, show_server_output: bool = True) -> None:
        """`show_server_output`: whether lines that workers print are logged; those of commands always are."""
        self._show_server_output = show_server_output

    def __call__(self, told: Told) -> None:
        """Log an event."""
        event = told.event
        source = source_of(event)
        if isinstance(event, events.OutputLine) and source != "exec" and not self._show_server_output:
            return
        level, sentence = _TABLE[type(event)](event)
        traceback = traceback_of(event).rstrip("\n")
        fields = attrs.asdict(event, filter=_is_logged, value_serializer=_plain)
        fields |= {
            "source": source,
            "log_system": source,  # what twistd's own observer (`--logfile`) puts in brackets
            "event": told.name,
            "sequence": told.sequence,
            "sentence": sentence,
            "traceback": traceback,
        }
        _log.emit(level, "{sentence}\n{traceback}" if traceback else "{sentence}", **fields)


def sentence(event: Event) -> str:
    """What happened, in words for the operator, and what is done next and when."""
    return _TABLE[type(event)](event)[1]


def source_of(event: Event) -> str:
    """Who speaks in an event: ``worker 3``, ``exec`` or ``monitor``."""
    if isinstance(event, events.OutputLine):
        return event.source
    if isinstance(event, events.Lifecycle):
        return f"worker {event.worker}"
    return "exec" if isinstance(event, events.CommandFinished) else "monitor"


def traceback_of(event: Event) -> str:
    """The traceback of what an event is about, as Python printed it; empty where there is none."""
    if isinstance(event, events.Fault):
        return event.error.traceback
    # The death of the new worker, which follows, shows that of a failed restart: once is enough.
    if isinstance(event, events.WorkerDied):
        return event.cause.error.traceback if event.cause.error is not None else ""
    return ""


def _is_logged(attribute: attrs.Attribute[Any], value: Any) -> bool:
    return attribute.name not in _NOT_LOGGED


def _plain(instance: Any, attribute: Any, value: Any) -> Any:
    return value.value if isinstance(value, CauseKind) else value


# --- the sentences ------------------------------------------------------------------------------------

_Row = tuple[LogLevel, str]


def _output_line(event: events.OutputLine) -> _Row:
    return LogLevel.info, event.text


def _session_started(event: events.SessionStarted) -> _Row:
    ports = ", ".join(event.ports)
    return LogLevel.info, (
        f"the session runs (pid {event.pid}) on {ports}; its state is in {event.state_directory}; "
        "the first workers are being started"
    )


def _worker_spawned(event: events.WorkerSpawned) -> _Row:
    return LogLevel.info, (
        f"worker {event.worker} (pid {event.pid}, generation {event.generation}) is started "
        "and loads the application now"
    )


def _worker_loaded(event: events.WorkerLoaded) -> _Row:
    return LogLevel.info, f"worker {event.worker} has loaded the application, {_in(event.seconds)}"


def _worker_ready(event: events.WorkerReady) -> _Row:
    return LogLevel.info, f"worker {event.worker} is ready: its health route answered, {_in(event.seconds)}"


def _server_running(event: events.ServerRunning) -> _Row:
    first = "the server is running: " if event.is_first_time else ""
    return LogLevel.info, f"{first}worker {event.worker} (generation {event.generation}) accepts connections"


def _heartbeat_failed(event: events.HeartbeatFailed) -> _Row:
    left = event.tolerance - event.failures + 1
    if left > 0:
        count = f"failure {event.failures} of {event.tolerance} that are tolerated"
        next_step = f"it is replaced after {left} more in a row"
    else:
        count = f"failure {event.failures} in a row, where {event.tolerance} are tolerated"
        next_step = "it is replaced now"
    return LogLevel.warn, f"worker {event.worker} failed its heartbeat: {event.text} ({count}); {next_step}"


def _heartbeat_recovered(event: events.HeartbeatRecovered) -> _Row:
    return LogLevel.info, (
        f"worker {event.worker} answers its heartbeat again; {_count(event.failures, 'failure')} in a row forgotten"
    )


def _lifecycle(event: events.Lifecycle) -> _Row:
    return LogLevel.info, event.text


def _worker_draining(event: events.WorkerDraining) -> _Row:
    return LogLevel.info, (
        f"worker {event.worker} drains ({event.reason}): it accepts no more, finishes what it has, then ends"
        if event.drain
        else f"worker {event.worker} leaves ({event.reason}): it accepts no more, and ends whatever it is at"
    )


def _worker_exited(event: events.WorkerExited) -> _Row:
    return LogLevel.info, (
        f"worker {event.worker} (pid {event.pid}) ended as it was asked to ({event.reason}): {event.text}"
    )


def _worker_died(event: events.WorkerDied) -> _Row:
    pid = f" (pid {event.pid})" if event.pid is not None else ""
    text = f"worker {event.worker}{pid} died while {event.life} after {event.uptime_seconds:.1f} s: {event.cause.text}"
    if event.hung_at:
        text += f"; it hung at {event.hung_at}"
    if event.requests:
        text += f"; it was at {_requests(event.requests)}"
    return LogLevel.error, f"{text}; {event.next_step}"


def _requests(requests: tuple[RequestInFlight, ...]) -> str:
    shown = ", ".join(
        f"{request.method} {request.path} ({request.age_seconds:.1f} s)"
        for request in requests[:_SHOWN_REQUESTS]
    )
    more = len(requests) - _SHOWN_REQUESTS
    return f"{shown} and {more} more" if more > 0 else shown


def _crash_report_written(event: events.CrashReportWritten) -> _Row:
    return LogLevel.info, f"the report of worker {event.worker}'s death is in {event.path}"


def _restart_started(event: events.RestartStarted) -> _Row:
    return LogLevel.info, (
        f"restart ({event.mode}), asked for by {event.asked_by}: generation {event.generation} is being started; "
        "what serves now goes on until it is ready"
    )


def _restart_progress(event: events.RestartProgress) -> _Row:
    return LogLevel.info, (
        f"restart: {event.replaced} of {event.total} workers replaced by generation {event.generation}"
    )


def _restart_completed(event: events.RestartCompleted) -> _Row:
    return LogLevel.info, f"restart done: generation {event.generation} serves, {_in(event.seconds)}"


def _restart_failed(event: events.RestartFailed) -> _Row:
    # With overlap = false it may be too late to drop it; then the text says what goes on.
    dropped = f"generation {event.generation} is dropped, and what served before goes on; "
    return LogLevel.error, f"restart failed: {'' if 'goes on' in event.text else dropped}{event.text}"


def _polling_changed(event: events.PollingChanged) -> _Row:
    return LogLevel.info, f"heartbeats come every {event.seconds:g} s from now on"


def _port_changed(event: events.PortChanged) -> _Row:
    return LogLevel.info, f"port {event.name} is {event.description} from the next restart on"


def _command_finished(event: events.CommandFinished) -> _Row:
    if event.status == 0:
        return LogLevel.info, f"command done: {event.command}"
    return LogLevel.warn, f"command failed, {_status(event.status)}: {event.command}"


def _status(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"


def _fault(event: events.Fault) -> _Row:
    return LogLevel.error, f"{event.where} failed: {event.error}; {event.next_step}"


def _session_ending(event: events.SessionEnding) -> _Row:
    how = "its workers finish what they have" if event.graceful else "its workers are ended at once"
    level = LogLevel.info if event.status == 0 else LogLevel.error
    return level, f"the session ends ({event.reason}): {how}, then exit status {event.status}"


def _session_ended(event: events.SessionEnded) -> _Row:
    level = LogLevel.info if event.status == 0 else LogLevel.error
    return level, f"the session has ended ({event.reason}): exit status {event.status}"


def _in(seconds: float) -> str:
    return f"after {seconds:.2f} s"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


_TABLE: dict[type[Event], Callable[[Any], _Row]] = {
    events.OutputLine: _output_line,
    events.SessionStarted: _session_started,
    events.WorkerSpawned: _worker_spawned,
    events.WorkerLoaded: _worker_loaded,
    events.WorkerReady: _worker_ready,
    events.ServerRunning: _server_running,
    events.HeartbeatFailed: _heartbeat_failed,
    events.HeartbeatRecovered: _heartbeat_recovered,
    events.Lifecycle: _lifecycle,
    events.WorkerDraining: _worker_draining,
    events.WorkerExited: _worker_exited,
    events.WorkerDied: _worker_died,
    events.CrashReportWritten: _crash_report_written,
    events.RestartStarted: _restart_started,
    events.RestartProgress: _restart_progress,
    events.RestartCompleted: _restart_completed,
    events.RestartFailed: _restart_failed,
    events.PollingChanged: _polling_changed,
    events.PortChanged: _port_changed,
    events.CommandFinished: _command_finished,
    events.Fault: _fault,
    events.SessionEnding: _session_ending,
    events.SessionEnded: _session_ended,
}
