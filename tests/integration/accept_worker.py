"""A worker as far as accepting is concerned: ``python accept_worker.py REACTOR DESCRIPTOR [LIMIT]``.

It serves HTTP on an inherited listening socket through an `AcceptReader`; every answer is its pid. With LIMIT it may
have that many descriptors. It prints ``ready``, then ``shortage`` when it could not accept, and ends with its input.
"""

from __future__ import annotations

import importlib
import os
import resource
import socket
import sys
from typing import Any


def main(name: str, descriptor: int, limit: int | None) -> None:
    """Serves until the standard input ends."""
    importlib.import_module(f"twisted.internet.{name}reactor").install()
    from twisted.internet import reactor
    from twisted.internet.protocol import Protocol
    from twisted.internet.stdio import StandardIO
    from twisted.logger import globalLogBeginner
    from twisted.web.resource import Resource
    from twisted.web.server import Request, Site

    from serverworker.processes.accept import AcceptReader

    class Answer(Resource):
        isLeaf = True

        def render_GET(self, request: Request) -> bytes:
            return str(os.getpid()).encode()

    class Input(Protocol):
        def connectionLost(self, reason: Any = None) -> None:
            if turning.running:
                turning.stop()

    def told(event: dict[str, Any]) -> None:
        if event["log_namespace"] == AcceptReader.__module__ and event["log_level"].name == "warn":
            os.write(1, b"shortage\n")

    turning: Any = reactor
    globalLogBeginner.beginLoggingTo([told], redirectStandardIO=False)
    site = Site(Answer())
    site.doStart()
    reader = AcceptReader(turning, socket.socket(fileno=descriptor), site)
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    turning.callWhenRunning(reader.start)
    turning.callWhenRunning(os.write, 1, b"ready\n")
    StandardIO(Input(), stdout=os.open(os.devnull, os.O_WRONLY))
    turning.run()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else None)
