"""The two that look at all workers again and again: the pinger, and the watch over their limits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from serverworker.decisions import inputs
from serverworker.monitor.engine import Engine
from serverworker.monitor.limits import LimitsWatch, Measured, ServingWorker
from serverworker.monitor.pinger import Pinger
from serverworker.processes.descendants import is_stopped
from serverworker.values.settings import Settings
from serverworker.values.state import Life


class Watches:
    """Tells the engine who hangs and who is worn, by the settings that hold."""

    def __init__(self, reactor: Any, engine: Engine, settings: Settings, chance: Callable[[], float]) -> None:
        """`chance` answers a number from [0, 1)."""
        self._engine = engine
        self._pinger = Pinger(
            clock=reactor, settings=settings.watchdog, workers=engine.pinged, hung=self._hung
        )
        self._limits = LimitsWatch(
            clock=reactor, limits=settings.limits, workers=self._serving, worn=self._worn, chance=chance
        )

    def start(self) -> None:
        """Look from now on."""
        self._pinger.start()
        self._limits.start()

    def stop(self) -> None:
        """Look no more."""
        self._pinger.stop()
        self._limits.stop()

    def ping_seconds(self, worker: int) -> float | None:
        """How late a worker's reactor is; see `Pinger.seconds`."""
        return self._pinger.seconds(worker)

    def _serving(self) -> Iterator[Measured]:
        for worker in self._engine.state.in_life(Life.SERVING):
            process = self._engine.process(worker.id)
            if process is not None and worker.serving_since is not None:
                yield ServingWorker(process, worker.serving_since)

    def _hung(self, worker: int, seconds: float) -> None:
        process = self._engine.process(worker)
        stopped = process is not None and process.pid is not None and is_stopped(process.pid)
        self._engine.happened(inputs.Hung(worker=worker, seconds=seconds, stopped=stopped))

    def _worn(self, worker: int, text: str) -> None:
        self._engine.happened(inputs.Worn(worker=worker, text=text))
