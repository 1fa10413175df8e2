"""Modules that are scripts as well: imported, they listen and run the reactor by themselves, as Klein's first examples."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from serverworker.processes.hosts.interface import Host
from serverworker.processes.hosts.redirection import Redirection

if TYPE_CHECKING:
    from serverworker.processes.server_worker import ServerWorker


class ScriptHost(Host):
    """What a module has listened with when it was imported: it is served, and there is nothing to start."""

    def __init__(self, reference: str) -> None:
        self.description = f"script {reference.partition(':')[0]}, which listens by itself"


@contextmanager
def run_as_script(worker: ServerWorker, reference: str) -> Iterator[Redirection]:
    """While a module is imported, have its `reactor.run()` return at once, and what it listens on taken over.

    With ``bind = false`` it listens by itself, as it says. Raises `ApplicationError` at the end where it has listened, but on no port of the session.
    """
    reactor: Any = worker.reactor
    redirection = Redirection(worker, reference.partition(":")[0])
    if worker.sockets:
        redirection.install()
    reactor.run = _run
    try:
        yield redirection
    finally:
        del reactor.run
        redirection.remove()
    redirection.check()


def _run(*arguments: object, **more: object) -> None:
    """The reactor runs already: it is what runs this worker."""
