"""What a worker answers on the port ``server`` where its application speaks no HTTP, on ports of other names."""

from __future__ import annotations

from twisted.web.resource import Resource
from twisted.web.server import Request, Site


class _Running(Resource):
    isLeaf = True

    def __init__(self, description: str) -> None:
        super().__init__()
        self._description = description

    def render_GET(self, request: Request) -> bytes:
        request.setHeader(b"Content-Type", b"text/plain; charset=utf-8")
        request.setHeader(b"Cache-Control", b"no-store")
        return f"{self._description} runs\n".encode()


def running_site(description: str) -> Site:
    """A site whose every page says that `description` runs: for the heartbeat, and for probes from outside."""
    return Site(_Running(description))
