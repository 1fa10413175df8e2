"""A worker's application and agent: imported, built, started, ended."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IStreamClientEndpoint

from serverworker.processes.give_way import give_way
from serverworker.processes.hosts.finding import find_host
from serverworker.processes.hosts.interface import Host
from serverworker.processes.references import load_agent, theirs
from serverworker.processes.server_worker import ServerWorker
from serverworker.values.causes import CauseKind
from serverworker.values.errors import ApplicationError, ErrorRecord
from serverworker.values.settings import AppSettings


class Application:
    """What one worker runs: the host of the application, and the agent, where there is one."""

    def __init__(
        self,
        settings: AppSettings,
        worker: ServerWorker,
        broken: Callable[[ErrorRecord, CauseKind], object] = Host.broken,
        startup_seconds: float = Host.startup_seconds,
    ) -> None:
        """`broken` is called where the application ends by itself, outside this process.

        `startup_seconds` is how long it may take to start.
        """
        self._settings = settings
        self._worker = worker
        self._broken = broken
        self._startup_seconds = startup_seconds
        self._host: Host | None = None

    async def load(self) -> None:
        """Import and build; register with the worker. Starts nothing."""
        give_way()
        agent = load_agent(self._settings.agent) if self._settings.agent else None
        self._host = find_host(self._settings, self._worker)
        self._host.broken = self._broken
        self._host.startup_seconds = self._startup_seconds
        self._host.register(self._worker)
        await self._host.prepare()
        if agent is not None:
            await agent.launch(worker=self._worker)

    @property
    def needs_activation(self) -> bool:
        """Whether there is something to start."""
        return self._host is not None and self._host.needs_activation

    @property
    def description(self) -> str:
        """What it is, in words."""
        return "" if self._host is None else self._host.description

    def health_endpoint(self) -> IStreamClientEndpoint | None:
        """See `Host.health_endpoint`."""
        return None if self._host is None else self._host.health_endpoint()

    async def activate(self) -> None:
        """Start what there is to start."""
        give_way()
        if self._host is not None:
            await self._host.activate(self._worker)

    async def stop(self) -> None:
        """End what was started."""
        if self._host is not None:
            await self._host.stop()

    def describe_error(self, error: BaseException) -> ErrorRecord:
        """The record of an error while loading or starting: its traceback has the application's own frames alone."""
        record = ErrorRecord.from_exception(error)
        if isinstance(error, ApplicationError):
            # One line for whoever looks at the log; the application's own traceback behind it.
            head, _, theirs_alone = record.message.partition("\n")
            last = theirs_alone.rpartition("\n")[2].strip()
            message = f"{head.removesuffix(':')}: {last}" if last else head
            return ErrorRecord(type=record.type, message=message, traceback=theirs_alone)
        return ErrorRecord(type=record.type, message=record.message, traceback=theirs(error))
