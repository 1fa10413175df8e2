"""What the core is told, and what it orders: inputs and commands, frozen values both."""

from __future__ import annotations

from attrs import frozen

from serverworker.values.causes import CauseKind
from serverworker.values.errors import ErrorRecord
from serverworker.values.state import Policy

# --- inputs: what happened ---------------------------------------------------------------------


@frozen(kw_only=True)
class Start:
    """The session begins."""


@frozen(kw_only=True)
class Spawned:
    """The process of a worker that was ordered runs."""

    worker: int
    pid: int


@frozen(kw_only=True)
class SpawnFailed:
    """The process could not be started."""

    worker: int
    text: str
    permanent: bool
    """True where another try would fail alike: no such interpreter, no such folder."""


@frozen(kw_only=True)
class Loaded:
    """A worker has built the application."""

    worker: int
    needs_activation: bool
    application: str
    version: str = ""


@frozen(kw_only=True)
class LoadFailed:
    """A worker cannot import, find or build the application."""

    worker: int
    error: ErrorRecord


@frozen(kw_only=True)
class Ready:
    """A worker's own health route has answered for the first time."""

    worker: int


@frozen(kw_only=True)
class BeatTold:
    """A worker has polled its own health route."""

    worker: int
    failures: int
    """In a row; 0 after a success."""
    text: str
    tolerance: int


@frozen(kw_only=True)
class Crashed:
    """A worker tells of an error that nothing in it handled; it is ending itself."""

    worker: int
    error: ErrorRecord
    kind: CauseKind = CauseKind.EXCEPTION
    """Or ``HEARTBEAT``: too many failed."""


@frozen(kw_only=True)
class Terminated:
    """A worker tells that SIGTERM came from outside the session. It goes on, and waits for an order."""

    worker: int


@frozen(kw_only=True)
class Worn:
    """A serving worker has reached one of its limits, and is to be replaced the gentle way."""

    worker: int
    text: str
    """Which limit, in words."""


@frozen(kw_only=True)
class Hung:
    """A worker has not answered the ping within its deadline."""

    worker: int
    seconds: float
    stopped: bool = False
    """Whether the system says that the process is stopped (SIGSTOP)."""


@frozen(kw_only=True)
class LinkLost:
    """The link to a worker broke while its process was there."""

    worker: int
    text: str


@frozen(kw_only=True)
class Exited:
    """The process of a worker is gone."""

    worker: int
    exit_status: int | None = None
    signal: str | None = None
    """Such as ``SIGKILL``; None if it exited by itself."""
    core_dumped: bool = False


@frozen(kw_only=True)
class AskRestart:
    """Somebody wants a new generation."""

    mode: str
    """``clean`` or ``force``."""
    asked_by: str
    request: int | None = None
    startup_seconds: float | None = None
    """How long the new generation's workers may take to start, by their own configuration; None: as the policy says."""


@frozen(kw_only=True)
class AskEnd:
    """Somebody wants the session to end."""

    reason: str
    graceful: bool
    status: int
    request: int | None = None


@frozen(kw_only=True)
class NewPolicy:
    """The figures have changed."""

    policy: Policy


@frozen(kw_only=True)
class Tick:
    """A time that the core asked to be woken at has come."""


Input = (
    Start
    | Spawned
    | SpawnFailed
    | Loaded
    | LoadFailed
    | Ready
    | BeatTold
    | Crashed
    | Terminated
    | Worn
    | Hung
    | LinkLost
    | Exited
    | AskRestart
    | AskEnd
    | NewPolicy
    | Tick
)

# --- commands: what is to be done --------------------------------------------------------------


@frozen(kw_only=True)
class Spawn:
    """Start the process of a new worker."""

    worker: int
    generation: int


@frozen(kw_only=True)
class Activate:
    """Let the application start whatever it has to start, then poll itself until ready."""

    worker: int


@frozen(kw_only=True)
class Serve:
    """Accept connections from now on."""

    worker: int


@frozen(kw_only=True)
class Unready:
    """Say that the end is near, and go on serving: a load balancer is to look away first."""

    worker: int


@frozen(kw_only=True)
class Leave:
    """Stop accepting, run the exit handlers, drain, exit 0."""

    worker: int
    kind: str
    """``restart`` or ``session-end``."""
    text: str
    seconds: float
    """The deadline for all of it."""
    drain: bool = True
    """False: exit as soon as the exit handlers have run, whatever is in flight."""


@frozen(kw_only=True)
class Kill:
    """SIGKILL; with every thread's stack dumped first where the worker hangs."""

    worker: int
    dump: bool = False


@frozen(kw_only=True)
class DumpStacks:
    """Have every thread's stack dumped; the worker goes on."""

    worker: int


@frozen(kw_only=True)
class Answer:
    """Tell who asked what came of it."""

    request: int
    ok: bool
    text: str


@frozen(kw_only=True)
class Finish:
    """The session is over: tell everyone, and end the monitor with this status."""

    status: int
    reason: str


Command = Spawn | Activate | Serve | Unready | Leave | Kill | DumpStacks | Answer | Finish
