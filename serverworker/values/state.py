"""The state of a session: one frozen value, which console, control and dashboard show and nothing else."""

from __future__ import annotations

import enum

from attrs import frozen

from serverworker.values.causes import Cause


class Life(enum.Enum):
    """Where a worker is in its life. `serverworker.decisions.life` says what may follow what."""

    STARTING = "starting"
    """Its process runs; the application is being imported."""
    LOADED = "loaded"
    """The application is built; nothing of it runs."""
    ACTIVATING = "activating"
    """`work()`, `startService` or a lifespan runs; its health route has not answered yet."""
    READY = "ready"
    """Its own health route has answered."""
    SERVING = "serving"
    """It accepts connections."""
    DRAINING = "draining"
    """It no longer accepts, and finishes what it has: it was asked to leave, or it failed and says so."""
    DEAD = "dead"
    """Its end is decided and under way; the process may still be there for a moment."""


@frozen(kw_only=True)
class Worker:
    """One worker process, as the monitor knows it. Times are monotonic seconds."""

    id: int
    """1 for the first of a session; never used twice."""
    generation: int
    life: Life
    spawned_at: float
    since: float
    """When its present life began."""
    pid: int | None = None
    needs_activation: bool = True
    """Whether it has something to start (`work`, `startService`) before it can be ready."""
    application: str = ""
    """What it runs, in words."""
    version: str = ""
    """What the application, or else ``[app] version``, calls the code; empty until it is loaded, and if neither does."""
    activated: bool = False
    """Whether its application was told to start: something of it may run until the process is gone."""
    ready_at: float | None = None
    serving_since: float | None = None
    deadline: float | None = None
    """When its present life has lasted too long; None: no limit."""
    failures: int = 0
    """Heartbeats that failed in a row."""
    last_failure: str = ""
    """What the last heartbeat that failed came to, such as ``500``."""
    leaving: str = ""
    """Why it was asked to leave; empty if nobody did."""
    killed: str = ""
    """Why the monitor killed it; empty if it did not."""
    worn: str = ""
    """Which limit it has reached, so that it is to be replaced; empty while it has not."""
    cause: Cause | None = None
    """Why it failed; None while it has not."""
    failed_in: Life | None = None
    """The life that it failed in."""
    next_step: str = ""
    """What was decided when it failed."""
    terminated_at: float | None = None
    """When it told that SIGTERM had come from outside; None while it has not."""
    gone_at: float | None = None
    """When its process ended by a signal that the whole session may have been sent; None while it is there."""

    @property
    def alive(self) -> bool:
        """Whether it serves or may yet serve."""
        return self.life not in (Life.DRAINING, Life.DEAD)


@frozen(kw_only=True)
class Policy:
    """The figures that decisions depend on; durations in seconds. Made from `Settings`."""

    count: int = 1
    standby: int = 1
    overlap: bool = True
    startup_seconds: float = 60.0
    drain_seconds: float = 30.0
    initial_delay_seconds: float = 0.5
    maximum_delay_seconds: float = 60.0
    reset_after_seconds: float = 60.0
    give_up_after: int | None = None
    """After so many deaths within `give_up_window_seconds` the session ends with status 70; None: never."""
    give_up_window_seconds: float = 600.0
    unready_seconds: float = 0.0
    """How long the session goes on serving after its end was decided."""
    starting_at_once: int = 2
    """How many workers of one generation may be starting at the same time, so that a start does not starve who serves."""


class Phase(enum.Enum):
    """Where the session is."""

    RUNNING = "running"
    ENDING = "ending"
    ENDED = "ended"


@frozen(kw_only=True)
class Restart:
    """A restart under way: the candidate generation that is to take over."""

    generation: int
    mode: str
    """``clean`` or ``force``."""
    asked_by: str
    request: int | None
    """Whose answer it is; None where nobody waits for one."""
    started_at: float
    startup_seconds: float
    """How long its workers may take to start: they have their own configuration, which may be a new one."""
    taking_over: bool = False
    """With ``overlap = false``: the candidates are loaded and have become the session's generation; the old workers
    are leaving, and when they are gone the candidates are activated."""


@frozen(kw_only=True)
class Replacing:
    """The old generation's workers that have not ended yet after a restart."""

    generation: int
    total: int
    left: int


@frozen(kw_only=True)
class Ending:
    """The end of the session, decided."""

    reason: str
    graceful: bool
    status: int
    drain_at: float
    """When the serving workers are told to leave."""
    deadline: float


@frozen(kw_only=True)
class SessionState:
    """A session at one moment."""

    policy: Policy
    phase: Phase = Phase.RUNNING
    workers: tuple[Worker, ...] = ()
    """By id, ascending."""
    generation: int = 1
    """The generation that serves, or that is to."""
    last_generation: int = 1
    """The highest number given out; a failed restart uses one up."""
    last_worker: int = 0
    restart: Restart | None = None
    replacing: Replacing | None = None
    deaths_in_a_row: int = 0
    counted_at: float | None = None
    """When a death was last counted; None: not in this generation."""
    respawn_at: float = 0.0
    """No worker of the serving generation is started before this monotonic time."""
    death_times: tuple[float, ...] = ()
    """Of the deaths that count for giving up, within its window."""
    ever_loaded: bool = False
    """Whether any worker has ever loaded the application."""
    ever_served: bool = False
    ending: Ending | None = None
    requests: tuple[int, ...] = ()
    """Who waits to be told that the session has ended."""
    seed: int = 1
    """Where the jitter comes from: the core itself knows no chance."""

    def worker(self, worker_id: int) -> Worker | None:
        """The worker of that id, or None if it is gone."""
        for worker in self.workers:
            if worker.id == worker_id:
                return worker
        return None

    def in_life(self, *lives: Life, generation: int | None = None) -> tuple[Worker, ...]:
        """The workers in one of these lives, of one generation or of all."""
        return tuple(
            worker
            for worker in self.workers
            if worker.life in lives and (generation is None or worker.generation == generation)
        )
