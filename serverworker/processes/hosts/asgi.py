"""ASGI applications (``--asgi``): FastAPI, Starlette and their like, on uvicorn inside the worker."""

from __future__ import annotations

from serverworker.processes.hosts.interface import Host
from serverworker.processes.references import resolve
from serverworker.values.errors import ApplicationError


def load_asgi(reference: str) -> Host:
    """Import ``module:attribute`` and make its host."""
    resolve(reference, "--asgi")
    raise ApplicationError("--asgi is not there yet")
