"""Programs of any kind (``--command``) that take their socket from their parent, such as gunicorn or a Node server."""

from __future__ import annotations

from serverworker.processes.hosts.interface import Host
from serverworker.processes.server_worker import ServerWorker
from serverworker.values.errors import ApplicationError


class CommandHost(Host):
    """A program that this worker starts, watches and ends."""

    needs_activation = True

    def __init__(self, command: str) -> None:
        self.description = f"command {command}"

    async def activate(self, worker: ServerWorker) -> None:
        """Start the program."""
        raise ApplicationError("--command is not there yet")
