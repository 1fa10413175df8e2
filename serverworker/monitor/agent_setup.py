"""The application's agent sets the monitor up, while the first workers are already being started."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from serverworker.monitor.handle import Monitor
from serverworker.processes.agent import SessionAgent
from serverworker.processes.awaiting import within

AGENT_SECONDS = 10.0
"""How long workers wait for the agent to set the monitor up before they go on without."""


class AgentSetup:
    """What becomes of an agent's `initialize_monitor`."""

    def __init__(
        self,
        clock: IReactorTime,
        *,
        take_key: Callable[[str], object],
        fault: Callable[[str, Failure, str], object],
    ) -> None:
        """`take_key` is told a session key of the agent's own; `fault(where, failure, then)` what went wrong."""
        self._clock = clock
        self._take_key = take_key
        self._fault = fault
        self._over: Deferred[None] | None = None

    def begin(self, agent: SessionAgent, monitor: Monitor) -> None:
        """Have it set up; what fails harms nothing else."""
        launched = ensureDeferred(agent.launch(monitor=monitor))
        bounded = within(self._clock, AGENT_SECONDS, "initialize_monitor", launched)
        self._over = bounded.addCallbacks(self._key, self._failed)

    async def over(self) -> None:
        """Wait until it is: workers are told their settings only when the agent's handlers are there."""
        if self._over is not None:
            await self._over

    def _key(self, key: object) -> None:
        if key is None:
            return
        try:
            if not isinstance(key, str) or not key or not key.isprintable() or key != key.strip():
                # Not the key itself: this stands in the log.
                raise TypeError(
                    "initialize_monitor answers the session key, a text of printable characters in one line, or None; "
                    f"not this {type(key).__name__}"
                )
            self._take_key(key)
        except Exception:  # it is no key, or cannot be written to the disk: the session has one
            self._fault("the agent's session key", Failure(), "a key that was made at random holds")

    def _failed(self, failure: Failure) -> None:
        self._fault("the agent's initialize_monitor", failure, "the session goes on with what it had set up")
