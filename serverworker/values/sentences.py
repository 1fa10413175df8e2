"""Each event in words: a level, and a sentence for the operator that says what happened and what is done next."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

from serverworker.values import events
from serverworker.values.causes import RequestInFlight
from serverworker.values.certificate_events import CertificateExpiring, CertificateInUse
from serverworker.values.events import Event
from serverworker.values.notification_events import (
    NotificationDelivered,
    NotificationFailed,
    NotificationsDropped,
)

_SHOWN_REQUESTS = 3


def level_and_sentence(event: Event) -> Row:
    """``debug``, ``info``, ``warn`` or ``error``, and what happened, what is done next and when."""
    return _TABLE[type(event)](event)


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


# --- the sentences ------------------------------------------------------------------------------------

Row = tuple[str, str]
"""A level (``debug``, ``info``, ``warn`` or ``error``) and a sentence."""


def _output_line(event: events.OutputLine) -> Row:
    return "info", event.text


def _session_started(event: events.SessionStarted) -> Row:
    ports = ", ".join(event.ports)
    return "info", (
        f"the session runs (pid {event.pid}) on {ports}; its state is in {event.state_directory}; "
        "the first workers are being started"
    )


def _previous_session(event: events.PreviousSession) -> Row:
    died = f"{_count(event.crashes, 'worker')} died in it" if event.crashes else "no worker died in it"
    if event.status is None:
        return "warn", (
            f"the session before this one ({event.session}) was killed without a farewell, or the machine went down; "
            f"it was last heard of at {event.ended}; {died}"
        )
    return "info", (
        f"the session before this one ({event.session}) ended at {event.ended} with exit status {event.status} "
        f"({event.reason}); {died}"
    )


def _worker_spawned(event: events.WorkerSpawned) -> Row:
    return "info", (
        f"worker {event.worker} (pid {event.pid}, generation {event.generation}) is started "
        "and loads the application now"
    )


def _worker_loaded(event: events.WorkerLoaded) -> Row:
    version = f", version {event.version}" if event.version else ""
    return "info", f"worker {event.worker} has loaded the application{version}, {_in(event.seconds)}"


def _worker_ready(event: events.WorkerReady) -> Row:
    return "info", f"worker {event.worker} is ready: its health route answered, {_in(event.seconds)}"


def _server_running(event: events.ServerRunning) -> Row:
    first = "the server is running: " if event.is_first_time else ""
    which = f"generation {event.generation}{f', version {event.version}' if event.version else ''}"
    return "info", f"{first}worker {event.worker} ({which}) accepts connections"


def _heartbeat(event: events.Heartbeat) -> Row:
    return "debug", f"worker {event.worker} polled itself: {event.beat.text}, {_in(event.beat.seconds)}"


def _heartbeat_failed(event: events.HeartbeatFailed) -> Row:
    left = event.tolerance - event.failures + 1
    if left > 0:
        count = f"failure {event.failures} of {event.tolerance} that are tolerated"
        next_step = f"it is replaced after {left} more in a row"
    else:
        count = f"failure {event.failures} in a row, where {event.tolerance} are tolerated"
        next_step = "it is replaced now"
    return "warn", f"worker {event.worker} failed its heartbeat: {event.text} ({count}); {next_step}"


def _heartbeat_recovered(event: events.HeartbeatRecovered) -> Row:
    return "info", (
        f"worker {event.worker} answers its heartbeat again; {_count(event.failures, 'failure')} in a row forgotten"
    )


def _lifecycle(event: events.Lifecycle) -> Row:
    return "info", event.text


def _worker_draining(event: events.WorkerDraining) -> Row:
    return "info", (
        f"worker {event.worker} drains ({event.reason}): it accepts no more, finishes what it has, then ends"
        if event.drain
        else f"worker {event.worker} leaves ({event.reason}): it accepts no more, and ends whatever it is at"
    )


def _worker_exited(event: events.WorkerExited) -> Row:
    return "info", (
        f"worker {event.worker} (pid {event.pid}) ended as it was asked to ({event.reason}): {event.text}"
    )


def _worker_died(event: events.WorkerDied) -> Row:
    pid = f" (pid {event.pid})" if event.pid is not None else ""
    text = f"worker {event.worker}{pid} died while {event.life} after {event.uptime_seconds:.1f} s: {event.cause.text}"
    if event.hung_at:
        text += f"; it hung at {event.hung_at}"
    if event.requests:
        text += f"; it was at {_requests(event.requests)}"
    return "error", f"{text}; {event.next_step}"


def _requests(requests: tuple[RequestInFlight, ...]) -> str:
    shown = ", ".join(
        f"{request.method} {request.path} ({request.age_seconds:.1f} s)"
        for request in requests[:_SHOWN_REQUESTS]
    )
    more = len(requests) - _SHOWN_REQUESTS
    return f"{shown} and {more} more" if more > 0 else shown


def _crash_report_written(event: events.CrashReportWritten) -> Row:
    return "info", f"the report of worker {event.worker}'s death is in {event.path}"


def _restart_started(event: events.RestartStarted) -> Row:
    until = "it is ready" if event.overlap else "it is loaded, then ends before it is started"
    return "info", (
        f"restart ({event.mode}), asked for by {event.asked_by}: generation {event.generation} is being started; "
        f"what serves now goes on until {until}"
    )


def _restart_progress(event: events.RestartProgress) -> Row:
    return "info", (
        f"restart: {event.replaced} of {event.total} workers replaced by generation {event.generation}"
    )


def _restart_completed(event: events.RestartCompleted) -> Row:
    return "info", f"restart done: generation {event.generation} serves, {_in(event.seconds)}"


def _restart_failed(event: events.RestartFailed) -> Row:
    # With overlap = false it may be too late to drop it; then the text says what goes on.
    dropped = f"generation {event.generation} is dropped, and what served before goes on; "
    return "error", f"restart failed: {'' if 'goes on' in event.text else dropped}{event.text}"


def _polling_changed(event: events.PollingChanged) -> Row:
    return "info", f"heartbeats come every {event.seconds:g} s from now on"


def _port_changed(event: events.PortChanged) -> Row:
    return "info", f"port {event.name} is {event.description} from the next restart on"


def _certificate_in_use(event: CertificateInUse) -> Row:
    return "info", (
        f"{_ports(event.ports)} with TLS by the certificate in {event.certificate}, for {event.subject}, valid until "
        f"{event.until}"
    )


def _certificate_expiring(event: CertificateExpiring) -> Row:
    if event.seconds <= 0:
        return "error", (
            f"the certificate in {event.certificate}, for {event.subject}, has expired, at {event.until}, and "
            f"{_ports(event.ports)} with it: clients refuse it; renew it, it is taken over as soon as its file has changed"
        )
    left = event.seconds / 86400
    return "warn", (
        f"the certificate in {event.certificate}, for {event.subject}, expires in {left:.1f} days, at {event.until}, "
        f"and {_ports(event.ports)} with it: renew it, it is taken over as soon as its file has changed"
    )


def _ports(names: tuple[str, ...]) -> str:
    return f"port {names[0]} answers" if len(names) == 1 else f"ports {', '.join(names)} answer"


def _command_finished(event: events.CommandFinished) -> Row:
    if event.status == 0:
        return "info", f"command done: {event.command}"
    return "warn", f"command failed, {_status(event.status)}: {event.command}"


def _output_dropped(event: events.OutputDropped) -> Row:
    are = "is" if event.lines == 1 else "are"
    return "warn", (
        f"{_count(event.lines, 'line')} of {event.origin} {are} not in {event.sink}, which could not take what was "
        "printed; it takes all again"
    )


def _status(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"


def _operator_action(event: events.OperatorAction) -> Row:
    outcome = "done" if event.ok else "failed"
    return "info" if event.ok else "warn", (
        f"{event.action!r}, asked for by {event.who} ({event.surface}), {outcome}: {event.outcome}"
    )


def _login_failed(event: events.LoginFailed) -> Row:
    return "warn", (
        f"somebody at {event.origin} did not get into the {event.surface}: {event.text} "
        f"({_count(event.failures, 'time')} in a row)"
    )


def _notification_delivered(event: NotificationDelivered) -> Row:
    attempt = "" if event.attempt == 1 else f", at attempt {event.attempt}"
    return "info", f"told by {event.sink}, to {event.to}{attempt}: {event.subject}"


def _notification_failed(event: NotificationFailed) -> Row:
    return "warn", (
        f"{event.sink} to {event.to} failed at attempt {event.attempt}: {event.text}; {event.next_step}; "
        f"the message is {event.subject!r}"
    )


def _notifications_dropped(event: NotificationsDropped) -> Row:
    return "warn", f"{_count(event.count, 'notification')} held back or lost: {event.text}; {event.next_step}"


def _journal_resumed(event: events.JournalResumed) -> Row:
    missing = f"{_count(event.missing, 'event')} could not be kept" if event.missing else "nothing is missing"
    return "warn" if event.missing else "info", f"{event.path} is written again; {missing}"


def _fault(event: events.Fault) -> Row:
    return "error", f"{event.where} failed: {event.error}; {event.next_step}"


def _session_ending(event: events.SessionEnding) -> Row:
    how = "its workers finish what they have" if event.graceful else "its workers are ended at once"
    level = "info" if event.status == 0 else "error"
    return level, f"the session ends ({event.reason}): {how}, then exit status {event.status}"


def _session_ended(event: events.SessionEnded) -> Row:
    level = "info" if event.status == 0 else "error"
    return level, f"the session has ended ({event.reason}): exit status {event.status}"


def _in(seconds: float) -> str:
    return f"after {seconds:.2f} s"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


_TABLE: dict[type[Event], Callable[[Any], Row]] = {
    events.OutputLine: _output_line,
    events.SessionStarted: _session_started,
    events.PreviousSession: _previous_session,
    events.WorkerSpawned: _worker_spawned,
    events.WorkerLoaded: _worker_loaded,
    events.WorkerReady: _worker_ready,
    events.ServerRunning: _server_running,
    events.Heartbeat: _heartbeat,
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
    CertificateInUse: _certificate_in_use,
    CertificateExpiring: _certificate_expiring,
    events.CommandFinished: _command_finished,
    events.OutputDropped: _output_dropped,
    events.OperatorAction: _operator_action,
    events.LoginFailed: _login_failed,
    NotificationDelivered: _notification_delivered,
    NotificationFailed: _notification_failed,
    NotificationsDropped: _notifications_dropped,
    events.JournalResumed: _journal_resumed,
    events.Fault: _fault,
    events.SessionEnding: _session_ending,
    events.SessionEnded: _session_ended,
}
