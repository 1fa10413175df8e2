"""What an engine is given: everything that it does to the world goes through here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import Factory, frozen
from twisted.internet.defer import Deferred

from serverworker.monitor.output_flow import OutputFlow
from serverworker.monitor.stream import EventStream
from serverworker.processes.spawn import Recipe, Spawner
from serverworker.wire.emits import Handlers


@frozen(kw_only=True)
class Surroundings:
    """What an engine is given: everything that it does to the world goes through here."""

    reactor: Any
    spawner: Spawner
    handlers: Handlers
    """Those of the monitor, for the workers' emits."""
    stream: EventStream
    recipe: Callable[[int], Recipe]
    """The recipe of a generation; raises `ConfigurationError` where there can be none."""
    join_answer: Callable[[int, int], Deferred[dict[str, Any]]]
    """What a worker that joins is told, by its id and generation."""
    last_ports: Callable[[int], list[str]]
    """The names of the ports that a worker has, by its id, and the generation that serves has not."""
    tolerance: Callable[[], int]
    """How many heartbeats in a row may fail."""
    started: Callable[[int], None]
    """Is told the pid of every process that was started."""
    gone: Callable[[int], None]
    """Is told the pid of every process that has ended."""
    finished: Callable[[int, str], None]
    """Is told the status and the reason when the session is over."""
    flow: OutputFlow = Factory(lambda self: OutputFlow(self.reactor, self.stream.publish), takes_self=True)
    """Has the workers wait in print where what they print cannot be taken away."""
