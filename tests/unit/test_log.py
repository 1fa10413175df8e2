"""What the log says of each event."""

from __future__ import annotations

from typing import get_args

import attrs
from twisted.logger import LogEvent, LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from serverworker.observers.log import LogObserver
from serverworker.values import causes, events
from serverworker.values.causes import Beat, Cause, CauseKind
from serverworker.values.certificate_events import CertificateExpiring, CertificateInUse
from serverworker.values.errors import ErrorRecord
from serverworker.values.events import Event, Told
from serverworker.values.notification_events import (
    NotificationDelivered,
    NotificationFailed,
    NotificationsDropped,
)
from serverworker.values.sentences import sentence, source_of, traceback_of

ERROR = ErrorRecord(
    type="builtins.ValueError", message="no", traceback="Traceback:\n  here\nValueError: no\n"
)
DEATH = events.WorkerDied(
    worker=1,
    generation=2,
    pid=4711,
    life="serving",
    cause=Cause(kind=CauseKind.SIGNAL, text="killed by SIGKILL", signal="SIGKILL"),
    uptime_seconds=12.34,
    next_step="worker 3 takes over now; worker 4 is started now",
)

EXAMPLES: list[tuple[Event, str, LogLevel, str]] = [
    (
        events.OutputLine(source="worker 2", stream="stderr", text="hello {x}"),
        "worker 2",
        LogLevel.info,
        "hello {x}",
    ),
    (events.OutputLine(source="exec", stream="stdout", text="hello"), "exec", LogLevel.info, "hello"),
    (
        events.SessionStarted(pid=9, ports=("server=tcp:80", "socket=tcp:81"), state_directory="/s"),
        "monitor",
        LogLevel.info,
        "the session runs (pid 9) on server=tcp:80, socket=tcp:81; its state is in /s; "
        "the first workers are being started",
    ),
    (
        events.PreviousSession(
            session="2026-11-24T08:00:00.000Z/9",
            began="2026-11-24T08:00:00.000Z",
            ended="2026-11-24T09:00:00.000Z",
            status=0,
            reason="SIGTERM",
            crashes=0,
        ),
        "monitor",
        LogLevel.info,
        "the session before this one (2026-11-24T08:00:00.000Z/9) ended at 2026-11-24T09:00:00.000Z with exit status 0 "
        "(SIGTERM); no worker died in it",
    ),
    (
        events.PreviousSession(
            session="2026-11-24T08:00:00.000Z/9",
            began="",
            ended="2026-11-24T09:00:00.000Z",
            status=None,
            reason="",
            crashes=2,
        ),
        "monitor",
        LogLevel.warn,
        "the session before this one (2026-11-24T08:00:00.000Z/9) was killed without a farewell, or the machine went "
        "down; it was last heard of at 2026-11-24T09:00:00.000Z; 2 workers died in it",
    ),
    (
        events.WorkerSpawned(worker=1, generation=2, pid=9),
        "monitor",
        LogLevel.info,
        "worker 1 (pid 9, generation 2) is started and loads the application now",
    ),
    (
        events.WorkerLoaded(worker=1, generation=2, seconds=0.314),
        "monitor",
        LogLevel.info,
        "worker 1 has loaded the application, after 0.31 s",
    ),
    (
        events.WorkerLoaded(worker=1, generation=2, seconds=0.314, version="2.4.1"),
        "monitor",
        LogLevel.info,
        "worker 1 has loaded the application, version 2.4.1, after 0.31 s",
    ),
    (
        events.WorkerReady(worker=1, generation=2, seconds=0.5),
        "monitor",
        LogLevel.info,
        "worker 1 is ready: its health route answered, after 0.50 s",
    ),
    (
        events.ServerRunning(worker=1, generation=2, is_first_time=True),
        "monitor",
        LogLevel.info,
        "the server is running: worker 1 (generation 2) accepts connections",
    ),
    (
        events.ServerRunning(worker=1, generation=2, is_first_time=False),
        "monitor",
        LogLevel.info,
        "worker 1 (generation 2) accepts connections",
    ),
    (
        events.ServerRunning(worker=1, generation=2, is_first_time=False, version="2.4.1"),
        "monitor",
        LogLevel.info,
        "worker 1 (generation 2, version 2.4.1) accepts connections",
    ),
    (
        events.HeartbeatFailed(worker=1, failures=1, tolerance=2, text="no answer within 5 s"),
        "monitor",
        LogLevel.warn,
        "worker 1 failed its heartbeat: no answer within 5 s (failure 1 of 2 that are tolerated); "
        "it is replaced after 2 more in a row",
    ),
    (
        events.HeartbeatFailed(worker=1, failures=3, tolerance=2, text="500"),
        "monitor",
        LogLevel.warn,
        "worker 1 failed its heartbeat: 500 (failure 3 in a row, where 2 are tolerated); it is replaced now",
    ),
    (
        events.HeartbeatRecovered(worker=1, failures=1),
        "monitor",
        LogLevel.info,
        "worker 1 answers its heartbeat again; 1 failure in a row forgotten",
    ),
    (events.Lifecycle(worker=7, text="listening"), "worker 7", LogLevel.info, "listening"),
    (
        events.WorkerDraining(worker=1, reason="restart"),
        "monitor",
        LogLevel.info,
        "worker 1 drains (restart): it accepts no more, finishes what it has, then ends",
    ),
    (
        events.WorkerDraining(worker=1, reason="restart", drain=False),
        "monitor",
        LogLevel.info,
        "worker 1 leaves (restart): it accepts no more, and ends whatever it is at",
    ),
    (
        events.WorkerExited(worker=1, pid=9, reason="restart", text="exit status 0"),
        "monitor",
        LogLevel.info,
        "worker 1 (pid 9) ended as it was asked to (restart): exit status 0",
    ),
    (
        DEATH,
        "monitor",
        LogLevel.error,
        "worker 1 (pid 4711) died while serving after 12.3 s: killed by SIGKILL; "
        "worker 3 takes over now; worker 4 is started now",
    ),
    (
        attrs.evolve(
            DEATH,
            pid=None,
            hung_at="app.py, line 3, render",
            requests=tuple(
                causes.RequestInFlight(method="GET", path=f"/{n}", age_seconds=n) for n in range(5)
            ),
        ),
        "monitor",
        LogLevel.error,
        "worker 1 died while serving after 12.3 s: killed by SIGKILL; it hung at app.py, line 3, render; "
        "it was at GET /0 (0.0 s), GET /1 (1.0 s), GET /2 (2.0 s) and 2 more; "
        "worker 3 takes over now; worker 4 is started now",
    ),
    (
        events.CrashReportWritten(worker=1, path="/s/crashes/x.json"),
        "monitor",
        LogLevel.info,
        "the report of worker 1's death is in /s/crashes/x.json",
    ),
    (
        events.RestartStarted(generation=2, mode="clean", asked_by="x", overlap=False),
        "monitor",
        LogLevel.info,
        "restart (clean), asked for by x: generation 2 is being started; what serves now goes on until it is loaded, "
        "then ends before it is started",
    ),
    (
        events.RestartStarted(generation=2, mode="clean", asked_by="console"),
        "monitor",
        LogLevel.info,
        "restart (clean), asked for by console: generation 2 is being started; "
        "what serves now goes on until it is ready",
    ),
    (
        events.RestartProgress(generation=2, replaced=3, total=8),
        "monitor",
        LogLevel.info,
        "restart: 3 of 8 workers replaced by generation 2",
    ),
    (
        events.RestartCompleted(generation=2, seconds=1.5),
        "monitor",
        LogLevel.info,
        "restart done: generation 2 serves, after 1.50 s",
    ),
    (
        events.RestartFailed(generation=2, text="worker 5 cannot be loaded"),
        "monitor",
        LogLevel.error,
        "restart failed: generation 2 is dropped, and what served before goes on; worker 5 cannot be loaded",
    ),
    (events.PollingChanged(seconds=5.0), "monitor", LogLevel.info, "heartbeats come every 5 s from now on"),
    (
        events.PortChanged(name="server", description="tcp:81"),
        "monitor",
        LogLevel.info,
        "port server is tcp:81 from the next restart on",
    ),
    (
        events.OutputDropped(origin="worker 3", lines=4711, sink="the terminal"),
        "monitor",
        LogLevel.warn,
        "4711 lines of worker 3 are not in the terminal, which could not take what was printed; it takes all again",
    ),
    (
        events.OutputDropped(origin="worker 3", lines=1, sink="the log file /l"),
        "monitor",
        LogLevel.warn,
        "1 line of worker 3 is not in the log file /l, which could not take what was printed; it takes all again",
    ),
    (events.CommandFinished(command="git pull", status=0), "exec", LogLevel.info, "command done: git pull"),
    (
        CertificateInUse(
            ports=("server",),
            certificate="/etc/a.pem",
            subject="example.org, www.example.org",
            until="2030-01-02 03:04 UTC",
        ),
        "monitor",
        LogLevel.info,
        "port server answers with TLS by the certificate in /etc/a.pem, for example.org, www.example.org, valid until "
        "2030-01-02 03:04 UTC",
    ),
    (
        CertificateExpiring(
            ports=("server", "socket"),
            certificate="/etc/a.pem",
            subject="example.org",
            until="2030-01-02 03:04 UTC",
            seconds=216000.0,
        ),
        "monitor",
        LogLevel.warn,
        "the certificate in /etc/a.pem, for example.org, expires in 2.5 days, at 2030-01-02 03:04 UTC, and ports server, "
        "socket answer with it: renew it, it is taken over as soon as its file has changed",
    ),
    (
        CertificateExpiring(
            ports=("server",),
            certificate="/etc/a.pem",
            subject="example.org",
            until="2030-01-02 03:04 UTC",
            seconds=-1.0,
        ),
        "monitor",
        LogLevel.error,
        "the certificate in /etc/a.pem, for example.org, has expired, at 2030-01-02 03:04 UTC, and port server answers "
        "with it: clients refuse it; renew it, it is taken over as soon as its file has changed",
    ),
    (
        events.CommandFinished(command="git pull", status=128),
        "exec",
        LogLevel.warn,
        "command failed, exit status 128: git pull",
    ),
    (
        events.CommandFinished(command="git pull", status=-9),
        "exec",
        LogLevel.warn,
        "command failed, killed by SIGKILL: git pull",
    ),
    (
        events.CommandFinished(command="git pull", status=-99),
        "exec",
        LogLevel.warn,
        "command failed, killed by signal 99: git pull",
    ),
    (
        events.Heartbeat(worker=3, beat=Beat(at=0.0, ok=True, seconds=0.004, text="200")),
        "monitor",
        LogLevel.debug,
        "worker 3 polled itself: 200, after 0.00 s",
    ),
    (
        events.OperatorAction(
            who="alice (uid 1000, pid 7)",
            surface="control",
            action="restart clean",
            ok=True,
            outcome="it serves",
        ),
        "monitor",
        LogLevel.info,
        "'restart clean', asked for by alice (uid 1000, pid 7) (control), done: it serves",
    ),
    (
        events.OperatorAction(
            who="the console", surface="console", action="set workers x", ok=False, outcome="no"
        ),
        "monitor",
        LogLevel.warn,
        "'set workers x', asked for by the console (console), failed: no",
    ),
    (
        events.LoginFailed(origin="192.0.2.7", surface="dashboard", text="a wrong key", failures=2),
        "monitor",
        LogLevel.warn,
        "somebody at 192.0.2.7 did not get into the dashboard: a wrong key (2 times in a row)",
    ),
    (
        NotificationDelivered(
            sink="mail", to="ops@example.org by smtp:587", subject="worker 1 died", message_id="x", attempt=1
        ),
        "monitor",
        LogLevel.info,
        "told by mail, to ops@example.org by smtp:587: worker 1 died",
    ),
    (
        NotificationDelivered(
            sink="webhook", to="chat.example.org", subject="worker 1 died", message_id="x", attempt=3
        ),
        "monitor",
        LogLevel.info,
        "told by webhook, to chat.example.org, at attempt 3: worker 1 died",
    ),
    (
        NotificationFailed(
            sink="webhook",
            to="chat.example.org",
            subject="worker 1 died",
            attempt=2,
            text="it answered 500",
            next_step="it is tried again in 2 s",
        ),
        "monitor",
        LogLevel.warn,
        "webhook to chat.example.org failed at attempt 2: it answered 500; it is tried again in 2 s; "
        "the message is 'worker 1 died'",
    ),
    (
        NotificationsDropped(count=1, text="20 an hour are enough", next_step="they are summed up"),
        "monitor",
        LogLevel.warn,
        "1 notification held back or lost: 20 an hour are enough; they are summed up",
    ),
    (
        events.JournalResumed(path="/s/journal.jsonl", missing=0),
        "monitor",
        LogLevel.info,
        "/s/journal.jsonl is written again; nothing is missing",
    ),
    (
        events.JournalResumed(path="/s/audit.jsonl", missing=1),
        "monitor",
        LogLevel.warn,
        "/s/audit.jsonl is written again; 1 event could not be kept",
    ),
    (
        events.Fault(where="the hook on_crash_detected", error=ERROR),
        "monitor",
        LogLevel.error,
        "the hook on_crash_detected failed: ValueError: no; the session goes on",
    ),
    (
        events.SessionEnding(reason="SIGTERM", graceful=True, status=0),
        "monitor",
        LogLevel.info,
        "the session ends (SIGTERM): its workers finish what they have, then exit status 0",
    ),
    (
        events.SessionEnding(reason="gave up", graceful=False, status=70),
        "monitor",
        LogLevel.error,
        "the session ends (gave up): its workers are ended at once, then exit status 70",
    ),
    (
        events.SessionEnded(status=0, reason="SIGTERM"),
        "monitor",
        LogLevel.info,
        "the session has ended (SIGTERM): exit status 0",
    ),
    (
        events.SessionEnded(status=78, reason="no application"),
        "monitor",
        LogLevel.error,
        "the session has ended (no application): exit status 78",
    ),
]
"""An event, who speaks in it, its level and its sentence; at least one of each class."""


class SentenceTests(SynchronousTestCase):
    """The table."""

    def test_every_event_has_a_sentence(self) -> None:
        """A class that is added to `Event` needs its row, and an example here."""
        self.assertEqual(set(get_args(Event)), {type(event) for event, *_ in EXAMPLES})

    def test_each_event_says_what_happened_and_what_is_next(self) -> None:
        """The sentences, word by word, as the operator reads them."""
        for event, source, _, expected in EXAMPLES:
            self.assertEqual((source, expected), (source_of(event), sentence(event)))


class LogObserverTests(SynchronousTestCase):
    """`LogObserver`."""

    def log(self, *told: Event, show_server_output: bool = True) -> list[LogEvent]:
        """What is logged of these events, the first of them with the number 1."""
        observer = LogObserver(show_server_output=show_server_output)
        with capturedLogs() as logged:
            for number, event in enumerate(told, start=1):
                observer(Told(sequence=number, at=1.0, event=event))
        return list(logged)

    def test_each_event_is_one_entry_of_its_level(self) -> None:
        """Namespace, level, source, name, number and sentence stand in every entry."""
        entries = self.log(*(event for event, *_ in EXAMPLES))
        for number, ((event, source, level, text), entry) in enumerate(
            zip(EXAMPLES, entries, strict=True), 1
        ):
            found = {
                key: entry[key]
                for key in ("log_namespace", "log_level", "source", "event", "sequence", "sentence")
            }
            self.assertEqual(
                {
                    "log_namespace": "serverworker.session",
                    "log_level": level,
                    "source": source,
                    "event": type(event).__name__,
                    "sequence": number,
                    "sentence": text,
                },
                found,
            )
            self.assertEqual(
                "\n".join(filter(None, [text, traceback_of(event).rstrip("\n")])), formatEvent(entry)
            )

    def test_the_fields_of_the_event_are_named(self) -> None:
        """A program finds pid and cause without reading sentences; what only a report needs is left out."""
        death = attrs.evolve(DEATH, output=(events.OutputLine(source="a", stream="b", text="c"),), stacks="x")
        (entry,) = self.log(death)
        self.assertEqual((4711, "serving", 2), (entry["pid"], entry["life"], entry["generation"]))
        self.assertEqual(("signal", "SIGKILL"), (entry["cause"]["kind"], entry["cause"]["signal"]))
        self.assertEqual(set(), {"output", "beats", "requests", "stacks"} & set(entry))

    def test_a_traceback_follows_the_sentence(self) -> None:
        """Of a death and a fault, where there was an exception; a failed restart leaves it to the death behind it."""
        cause = Cause(kind=CauseKind.EXCEPTION, text="ValueError: no", error=ERROR)
        for event in (
            attrs.evolve(DEATH, cause=cause),
            events.Fault(where="x", error=ERROR),
        ):
            self.assertEqual(ERROR.traceback, traceback_of(event))
            self.assertTrue(formatEvent(self.log(event)[-1]).endswith("\nTraceback:\n  here\nValueError: no"))
        self.assertEqual("", traceback_of(DEATH))
        self.assertEqual("", traceback_of(events.RestartFailed(generation=2, text="no", cause=cause)))

    def test_what_workers_print_can_be_left_out(self) -> None:
        """`show_server_output` concerns their lines only, not those of commands and not lifecycle events."""
        logged = self.log(
            events.OutputLine(source="worker 2", stream="stdout", text="quiet"),
            events.OutputLine(source="exec", stream="stdout", text="command"),
            events.Lifecycle(worker=2, text="lifecycle"),
            show_server_output=False,
        )
        self.assertEqual(["command", "lifecycle"], [entry["sentence"] for entry in logged])
