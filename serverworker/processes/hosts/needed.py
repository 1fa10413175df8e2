"""What a host imports of its own, so that a fork server can have it imported before."""

from __future__ import annotations

from collections.abc import Sequence

from serverworker.values.settings import AppSettings

_HOSTS = "serverworker.processes.hosts"


def modules_of(app: AppSettings) -> Sequence[str]:
    """The modules, none of them the application's, that `finding.find_host` will lead to."""
    if app.wsgi is not None:
        return [f"{_HOSTS}.wsgi"]
    if app.asgi is not None:
        return [
            "twisted.internet.asyncioreactor",
            "uvloop",
            "uvicorn.lifespan.off",
            "uvicorn.protocols.http.auto",
            "uvicorn.protocols.websockets.auto",
            f"{_HOSTS}.asgi",
        ]
    if app.plugin:
        return [f"{_HOSTS}.plugin"]
    if app.command is not None:
        return [f"{_HOSTS}.command"]
    return []
