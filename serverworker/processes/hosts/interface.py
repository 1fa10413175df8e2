"""What a worker asks of an application, whatever it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.internet.interfaces import IStreamClientEndpoint

from serverworker.values.causes import CauseKind
from serverworker.values.errors import ErrorRecord

if TYPE_CHECKING:
    from serverworker.processes.server_worker import ServerWorker


class Host:
    """An application that has been built: what a worker runs. Each kind overrides what it has a need for."""

    description: str
    """In words, such as ``Resource mysite.web:root``."""
    needs_activation: bool = False
    """Whether it has something to start before it can answer."""
    startup_seconds: float = 60.0
    """How long it may take to start; the session says. Whoever is not ready in time is killed by the monitor."""

    broken: Callable[[ErrorRecord, CauseKind], object] = staticmethod(lambda error, kind: None)
    """To be called when what runs outside this process has ended by itself: the worker tells why, and ends. The worker's
    own, from before `register` on."""

    def register(self, worker: ServerWorker) -> None:
        """Listen on the ports. Starts nothing."""

    async def prepare(self) -> None:
        """Find out what takes time to find out, such as `needs_activation`. Starts nothing."""

    async def activate(self, worker: ServerWorker) -> None:
        """Start it."""

    def health_endpoint(self) -> IStreamClientEndpoint | None:
        """Where this very worker's own answers come from; None: from what it listens with on the port ``server``."""
        return None

    async def stop(self) -> None:
        """End what was started, once its connections are gone."""
