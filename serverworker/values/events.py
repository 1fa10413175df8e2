"""What happened: every fact that the session tells, as frozen classes on one ordered stream."""

from __future__ import annotations

from typing import get_args

from attrs import frozen

from serverworker.values.causes import Beat, Cause, RequestInFlight
from serverworker.values.certificate_events import CertificateExpiring, CertificateInUse
from serverworker.values.errors import ErrorRecord
from serverworker.values.notification_events import (
    NotificationDelivered,
    NotificationFailed,
    NotificationsDropped,
)


@frozen(kw_only=True)
class OutputLine:
    """One line that a worker, or a command of the agent's, printed."""

    source: str
    """``worker 3`` or ``exec``."""
    stream: str
    """``stdout`` or ``stderr``."""
    text: str


@frozen(kw_only=True)
class SessionStarted:
    """The monitor runs: its ports are bound, its first workers are being started."""

    pid: int
    ports: tuple[str, ...]
    """Each as ``name=description``."""
    state_directory: str


@frozen(kw_only=True)
class PreviousSession:
    """How the session that had this state directory before ended, as its journal tells. Told at the start."""

    session: str
    """As the journal calls it: when it began, and its monitor's process id."""
    began: str
    """ISO 8601; empty where the journal does not say."""
    ended: str
    """ISO 8601: when its last event was told."""
    status: int | None
    """Its exit status; None: it was killed, or the machine went down, without a farewell."""
    reason: str
    crashes: int
    """How many workers died in it and nobody had asked for it, as far as the journal is kept."""


@frozen(kw_only=True)
class WorkerSpawned:
    """A worker process was started."""

    worker: int
    generation: int
    pid: int


@frozen(kw_only=True)
class WorkerLoaded:
    """A worker has imported and built the application; nothing of it runs yet."""

    worker: int
    generation: int
    seconds: float
    """Since it was spawned."""
    version: str = ""
    """What the application, or else ``[app] version``, calls the code; empty if neither does."""


@frozen(kw_only=True)
class WorkerReady:
    """A worker's own health route has answered once."""

    worker: int
    generation: int
    seconds: float


@frozen(kw_only=True)
class ServerRunning:
    """A worker serves: it accepts connections (`server_running` of the original)."""

    worker: int
    generation: int
    is_first_time: bool
    """True for the first worker that serves in this session."""
    version: str = ""
    """As in `WorkerLoaded`."""


@frozen(kw_only=True)
class Heartbeat:
    """A worker has polled its own health route, well or not."""

    worker: int
    beat: Beat


@frozen(kw_only=True)
class HeartbeatFailed:
    """A poll of a worker's health route failed."""

    worker: int
    failures: int
    """In a row."""
    tolerance: int
    text: str


@frozen(kw_only=True)
class HeartbeatRecovered:
    """A poll succeeded after failures: the count is zero again."""

    worker: int
    failures: int
    """How many there were in a row."""


@frozen(kw_only=True)
class Lifecycle:
    """A notification in words from a worker (`lifecycle_notification` of the original)."""

    worker: int
    text: str


@frozen(kw_only=True)
class WorkerDraining:
    """A worker has stopped accepting and finishes what it has."""

    worker: int
    reason: str
    drain: bool = True
    """False: it ends as soon as its exit handlers have run, whatever it is at."""


@frozen(kw_only=True)
class WorkerExited:
    """A worker ended because it was asked to."""

    worker: int
    pid: int
    reason: str
    text: str
    """How it ended, such as ``exit status 0``."""


@frozen(kw_only=True)
class WorkerDied:
    """A worker ended and nobody had asked for it. All that a crash report needs."""

    worker: int
    generation: int
    pid: int | None
    life: str
    """The state of its life when the trouble began, such as ``serving``."""
    cause: Cause
    uptime_seconds: float
    next_step: str
    """What the monitor does next, and when."""
    output: tuple[OutputLine, ...] = ()
    """Its last lines, oldest first."""
    beats: tuple[Beat, ...] = ()
    requests: tuple[RequestInFlight, ...] = ()
    stacks: str = ""
    """Every thread's stack, where it was dumped before the end."""
    hung_at: str = ""
    """``file, line, function`` that a hang was at."""


@frozen(kw_only=True)
class CrashReportWritten:
    """The report of a death is on disk."""

    worker: int
    path: str


@frozen(kw_only=True)
class RestartStarted:
    """A new generation is being started."""

    generation: int
    mode: str
    """``clean`` or ``force``."""
    asked_by: str
    overlap: bool = True
    """Whether the old workers serve until the new ones are ready, or only until those are loaded."""


@frozen(kw_only=True)
class RestartProgress:
    """So many workers of the new generation have taken over."""

    generation: int
    replaced: int
    total: int


@frozen(kw_only=True)
class RestartCompleted:
    """The new generation serves, and the old one is gone or draining."""

    generation: int
    seconds: float


@frozen(kw_only=True)
class RestartFailed:
    """The new generation was dropped; the old one goes on.

    With ``overlap = false``, once the old workers had been told to leave, the new one goes on instead, with back-off.
    """

    generation: int
    text: str
    cause: Cause | None = None


@frozen(kw_only=True)
class PollingChanged:
    """The heartbeat's interval was changed."""

    seconds: float


@frozen(kw_only=True)
class PortChanged:
    """A port was given a new address, from the next restart on."""

    name: str
    description: str


@frozen(kw_only=True)
class CommandFinished:
    """A shell command of the agent's ended (`exec` of the original)."""

    command: str
    status: int


@frozen(kw_only=True)
class OutputDropped:
    """Lines that a worker printed are not in a log: it could not take them for too long."""

    origin: str
    """Whose they were, such as ``worker 3``."""
    lines: int
    sink: str
    """Which log, in words."""


@frozen(kw_only=True)
class OperatorAction:
    """Somebody asked for something by a console, the control socket or the dashboard: an entry of the audit log."""

    who: str
    """Such as ``alice (uid 1000, pid 4711)``, ``the console`` or ``session key, 192.0.2.7``."""
    surface: str
    """``console``, ``control`` or ``dashboard``."""
    action: str
    """As it would be typed, such as ``restart clean``."""
    ok: bool
    outcome: str
    """What came of it, in one line."""


@frozen(kw_only=True)
class LoginFailed:
    """Somebody showed a wrong session key, or none where one is needed."""

    origin: str
    """The address that it came from."""
    surface: str
    """``control`` or ``dashboard``."""
    text: str
    failures: int
    """How many there were from there in a row."""


@frozen(kw_only=True)
class JournalResumed:
    """A journal is written again, after a disk that would not take it."""

    path: str
    missing: int
    """How many events are not in it."""


@frozen(kw_only=True)
class Fault:
    """Something that must not hurt the session failed: a hook, an observer, a surface."""

    where: str
    error: ErrorRecord
    next_step: str = "the session goes on"


@frozen(kw_only=True)
class SessionEnding:
    """The session was asked to end."""

    reason: str
    graceful: bool
    status: int


@frozen(kw_only=True)
class SessionEnded:
    """Every worker is gone; the monitor ends."""

    status: int
    reason: str


Event = (
    OutputLine
    | SessionStarted
    | PreviousSession
    | WorkerSpawned
    | WorkerLoaded
    | WorkerReady
    | ServerRunning
    | Heartbeat
    | HeartbeatFailed
    | HeartbeatRecovered
    | Lifecycle
    | WorkerDraining
    | WorkerExited
    | WorkerDied
    | CrashReportWritten
    | RestartStarted
    | RestartProgress
    | RestartCompleted
    | RestartFailed
    | PollingChanged
    | PortChanged
    | CertificateInUse
    | CertificateExpiring
    | CommandFinished
    | OutputDropped
    | OperatorAction
    | LoginFailed
    | NotificationDelivered
    | NotificationFailed
    | NotificationsDropped
    | JournalResumed
    | Fault
    | SessionEnding
    | SessionEnded
)


EVENT_NAMES = tuple(sorted(kind.__name__ for kind in get_args(Event)))


@frozen(kw_only=True)
class Told:
    """An event as observers get it: numbered, and with the wall clock's time."""

    sequence: int
    """1 for the first event of a session; never skips."""
    at: float
    """Seconds since the epoch."""
    event: Event

    @property
    def name(self) -> str:
        """The event's name, such as ``WorkerDied``."""
        return type(self.event).__name__
