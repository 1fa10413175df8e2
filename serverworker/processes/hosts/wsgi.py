"""WSGI applications (``--wsgi``; PEP 3333): Flask, Django and their like, on a pool of threads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from serverworker.processes.hosts.guessing import check_fits
from serverworker.processes.hosts.interface import Host
from serverworker.processes.hosts.threads import Threads
from serverworker.processes.hosts.wsgi_request import Served, WSGIFactory
from serverworker.processes.references import resolve

if TYPE_CHECKING:
    from serverworker.processes.server_worker import ServerWorker


class WSGIHost(Host):
    """A WSGI application, called in threads. There is nothing to start: it has been imported."""

    def __init__(self, description: str, application: Any, threads: int) -> None:
        self.description = description
        self._application = application
        self._size = threads
        self._threads: Threads | None = None

    def register(self, worker: ServerWorker) -> None:
        """Listen on the port ``server``."""
        reactor: Any = worker.reactor
        self._threads = Threads(reactor, self._size)
        served = Served(
            application=self._application,
            threads=self._threads,
            reactor=reactor,
            multithread=self._size > 1,
        )
        worker.listen("server", WSGIFactory(served))

    async def stop(self) -> None:
        """Wait for the threads: an answer may have been sent before its iterable was closed."""
        if self._threads is not None:
            await self._threads.when_idle()
            self._threads.end()


def load_wsgi(reference: str, threads: int) -> Host:
    """Import ``module:attribute``, or call ``module:create_app()``, and make its host, with a pool of so many threads."""
    application = resolve(reference, "--wsgi")
    check_fits(
        application, reference, "--wsgi", "a WSGI application is called with", ("environ", "start_response")
    )
    return WSGIHost(f"WSGI application {reference}", application, threads)
