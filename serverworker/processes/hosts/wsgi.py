"""WSGI applications (``--wsgi``; PEP 3333): Flask, Django and their like, on a pool of threads."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from serverworker.processes.hosts.guessing import fitting_option
from serverworker.processes.hosts.interface import Host
from serverworker.processes.hosts.threads import Threads
from serverworker.processes.hosts.wsgi_request import Served, WSGIFactory
from serverworker.processes.references import resolve
from serverworker.values.errors import ApplicationError

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
    _check(application, reference)
    return WSGIHost(f"WSGI application {reference}", application, threads)


def _check(application: Any, reference: str) -> None:
    """`ApplicationError` for what cannot be a WSGI application; its text says what it is, and what to do."""
    fitting = fitting_option(application)
    if fitting is not None and fitting.option != "--wsgi":
        raise ApplicationError(
            f"--wsgi {reference} is {fitting.words}: give it with {fitting.option} {reference}"
        )
    wanted = "a WSGI application is called with environ and start_response"
    if not callable(application):
        raise ApplicationError(
            f"--wsgi {reference} is {application!r:.200}, of type {type(application).__name__}, which cannot be called; "
            f"{wanted}"
        )
    try:
        signature = inspect.signature(application)
    except (TypeError, ValueError):  # written in C, perhaps
        return
    try:
        signature.bind("environ", "start_response")
    except TypeError as error:
        what = "the class" if inspect.isclass(application) else "callable as"
        name = getattr(application, "__name__", type(application).__name__)
        advice = ""
        if _needs_nothing(signature):
            advice = f"; if it makes the application, say --wsgi '{reference}()'"
        raise ApplicationError(
            f"--wsgi {reference} is {what} {name}{signature}, and {wanted}{advice}"
        ) from error


def _needs_nothing(signature: inspect.Signature) -> bool:
    try:
        signature.bind()
    except TypeError:
        return False
    return True
