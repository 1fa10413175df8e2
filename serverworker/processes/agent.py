"""The session agent: the application's own class, alive in the monitor and in every worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from serverworker.processes.awaiting import finished
from serverworker.values.errors import AlreadyLaunched, WrongProcess

if TYPE_CHECKING:
    # The worker's side imports nothing of the monitor: for the type checker alone.
    from serverworker.monitor.handle import Monitor
    from serverworker.processes.server_worker import ServerWorker

_NOT_LAUNCHED = (
    "this agent has not been launched: neither monitor nor worker is there before the session calls it"
)


class SessionAgent:
    """What an application hangs its own behaviour on: subclass it, and name it by ``--agent module:Class``.

    One instance lives in the monitor and one in each worker. The two methods below are called once each, in the
    process that they are for. Either may be a plain method, return a Deferred, or be a coroutine function.
    """

    _monitor: Monitor | None = None
    _worker: ServerWorker | None = None
    _launched = False

    async def initialize_monitor(self, monitor: Monitor) -> str | None:
        """Set the monitor up: IPC handlers, hooks, console commands.

        Returns the session key, a text in one line, or None to have one made (256 random bits); either lies in the
        file ``key`` of the state directory for whoever administers the session. An error here is reported and harms
        nothing else: the session starts without what was not set up.
        """
        return None

    async def initialize_server_worker(self, worker: ServerWorker) -> None:
        """Set a worker up: listen on its ports, register IPC and exit handlers. Registers, and starts nothing.

        An error here is a failure to load: the first start ends with status 78, a later one is a bad deploy.
        """

    async def launch(self, *, monitor: Monitor | None = None, worker: ServerWorker | None = None) -> Any:
        """Start this process's half. The session calls it, once; a second call raises `AlreadyLaunched`."""
        if self._launched:
            raise AlreadyLaunched("this agent has been launched already: it is launched once in each process")
        if (monitor is None) == (worker is None):
            raise TypeError("launch() takes the monitor, or the worker, of this process: one of the two")
        self._launched = True
        self._monitor, self._worker = monitor, worker
        if monitor is not None:
            return await finished(self.initialize_monitor, monitor)
        return await finished(self.initialize_server_worker, worker)

    @property
    def monitor(self) -> Monitor:
        """The monitor. Raises `WrongProcess` in a worker (the original ended the session instead)."""
        if self._monitor is None:
            raise WrongProcess(
                "the monitor lives in the other process: reach it by `worker.emit(name, …)`"
                if self._launched
                else _NOT_LAUNCHED
            )
        return self._monitor

    @property
    def worker(self) -> ServerWorker:
        """The server worker. Raises `WrongProcess` in the monitor."""
        if self._worker is None:
            raise WrongProcess(
                "the worker lives in another process: reach it by `monitor.emit(name, …)`"
                if self._launched
                else _NOT_LAUNCHED
            )
        return self._worker
