"""ASGI applications (``--asgi``): FastAPI, Starlette and their like, on uvicorn inside the worker."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from zope.interface import implementer

from serverworker.processes.hosts.asgi_server import AsgiServer
from serverworker.processes.hosts.guessing import check_fits
from serverworker.processes.hosts.interface import Host
from serverworker.processes.hosts.lifespan import Lifespan
from serverworker.processes.loop_errors import watch_loop
from serverworker.processes.poller import adopt_client
from serverworker.processes.references import resolve
from serverworker.values.errors import ApplicationError

if TYPE_CHECKING:
    from serverworker.processes.server_worker import ServerWorker

LIFESPAN_SHARE = 0.9
"""Of the time to start up that a lifespan may take: so it is this worker that says what was too slow, and where."""


class AsgiHost(Host):
    """An ASGI application: its lifespan starts when the worker is promoted, and ends when it has drained."""

    def __init__(self, description: str, application: Any) -> None:
        self.description = description
        # The worker's reactor runs on it.
        self._loop = asyncio.get_running_loop()
        self._lifespan = Lifespan(application)
        self._server = AsgiServer(application, self._lifespan.state, self._loop)
        self._worker: ServerWorker | None = None

    def register(self, worker: ServerWorker) -> None:
        """Serve the port ``server``."""
        watch_loop(self._loop)
        self._worker = worker
        served: Any = self._server  # no factory of Twisted's, which an application would have to give here
        worker.listen("server", served)

    async def prepare(self) -> None:
        """Call the application for its lifespan: it has something to start where it has one."""
        self.needs_activation = await self._run(self._lifespan.call())

    async def activate(self, worker: ServerWorker) -> None:
        """Have the lifespan start up."""
        await self._run(self._lifespan.start_up(self.startup_seconds * LIFESPAN_SHARE))

    def health_endpoint(self) -> IStreamClientEndpoint:
        """A pair of sockets that ends in this worker's own server."""
        assert self._worker is not None
        return _Endpoint(self._worker.reactor, self._accept_own)

    def _accept_own(self, connection: socket.socket) -> Deferred[None]:
        return self._run(self._server.take_untracked(connection))

    async def stop(self) -> None:
        """Have the lifespan shut down, where it is up."""
        await self._run(self._lifespan.shut_down())

    def _run(self, work: Coroutine[Any, Any, Any]) -> Deferred[Any]:
        return Deferred.fromFuture(self._loop.create_task(work))


def load_asgi(reference: str) -> Host:
    """Import ``module:attribute``, or call ``module:create_app()``, and make its host.

    Raises `ApplicationError` where that is no ASGI application.
    """
    try:
        import uvicorn  # noqa: F401 - whether it is there; what is needed of it is imported where it is used
    except ModuleNotFoundError as error:
        if error.name != "uvicorn":
            raise
        raise ApplicationError(
            f"--asgi needs uvicorn, which is not installed for {sys.executable}: "
            f"{sys.executable} -m pip install 'serverworker[asgi]'"
        ) from error
    application = _resolve(reference)
    arguments = ("scope", "receive", "send")
    check_fits(application, reference, "--asgi", "an ASGI application is awaited, called with", arguments)
    return AsgiHost(f"ASGI application {reference}", application)


def _resolve(reference: str) -> Any:
    try:
        return resolve(reference, "--asgi")
    except ApplicationError as error:
        head, _, theirs = str(error).partition("\n")
        if "loop is running" in theirs or "running event loop" in theirs:
            raise ApplicationError(
                f"{head.removesuffix(':')}: the module starts an event loop of its own when it is imported, such as "
                "that of uvicorn.run(); let it do so only under `if __name__ == '__main__':`. "
                f"The session brings the server and the ports:\n{theirs}"
            ) from error
        raise


@implementer(IStreamClientEndpoint)
class _Endpoint:
    """Connects to a server of this process by a pair of sockets."""

    def __init__(self, reactor: Any, accept: Callable[[socket.socket], Deferred[None]]) -> None:
        """`accept` is given the server's end, and takes it for its own."""
        self._reactor = reactor
        self._accept = accept

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """A new connection; fails where there is no descriptor left."""
        return ensureDeferred(self._connect(protocolFactory))

    async def _connect(self, client: IProtocolFactory) -> IProtocol:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            theirs.setblocking(False)
            await self._accept(theirs)
            return adopt_client(self._reactor, ours, client)
