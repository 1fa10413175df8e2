"""WSGI applications (``--wsgi``; PEP 3333): Flask, Django and their like, on a pool of threads."""

from __future__ import annotations

from serverworker.processes.hosts.interface import Host
from serverworker.processes.references import resolve
from serverworker.values.errors import ApplicationError


def load_wsgi(reference: str, threads: int) -> Host:
    """Import ``module:attribute`` and make its host, with a pool of so many threads."""
    resolve(reference, "--wsgi")
    raise ApplicationError("--wsgi is not there yet")
