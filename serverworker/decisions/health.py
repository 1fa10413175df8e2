"""Whether a session is in order: what a watchdog asks, and a liveness probe."""

from __future__ import annotations

from serverworker.decisions.settle import last_moment
from serverworker.values.state import Life, Phase, SessionState

LATE_SECONDS = 5.0
"""How long after its time a step may still be on its way: longer than any stall of a busy machine."""


def is_healthy(state: SessionState, now: float) -> bool:
    """Whether the core turns, and either a worker serves or the next step is planned. `now` is monotonic, in seconds.

    Whoever kills the monitor where this is false may mend something. A crash loop under back-off is healthy, because
    the next monitor would fare no better. Not healthy is a session whose deadlines pass without anything being done,
    and one in which nobody serves and nothing is to come.
    """
    if state.phase is Phase.ENDED:
        return True
    times = _planned(state)
    if any(now - time > LATE_SECONDS for time in times):
        return False
    # A time to start a successor at is left as it is once it has done its work, so that it may be long over.
    to_come = bool(times) or now - state.respawn_at <= LATE_SECONDS
    return to_come or bool(state.in_life(Life.SERVING))


def _planned(state: SessionState) -> list[float]:
    """The times at which the core does something, whatever happens until then."""
    times = [worker.deadline for worker in state.workers if worker.deadline is not None]
    if state.ending is not None:
        times.append(last_moment(state.ending))
    return times


def why_unready(state: SessionState) -> str:
    """Why no new connections should be sent here, in a few words; empty where they should: what a readiness probe asks.

    From the moment that the session's end is decided on, so that a load balancer looks away while it still serves
    (``[drain] unready_seconds``).
    """
    if state.phase is not Phase.RUNNING:
        return "the session ends"
    return "" if state.in_life(Life.SERVING) else "no worker serves"
