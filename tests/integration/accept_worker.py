"""A worker as far as accepting is concerned: ``python accept_worker.py REACTOR LISTENING SHARES [LIMIT]``.

It serves HTTP on an inherited listening socket through an `AcceptReader` that has an inherited table of shares;
every answer is its pid. With LIMIT it may have that many descriptors. It prints ``ready``, then ``shortage`` when it
could not accept, and ends with its input.
"""

from __future__ import annotations

import importlib
import os
import resource
import socket
import sys
from typing import Any


def main(name: str, listening: int, shares: int, limit: int | None) -> None:
    """Serves until the standard input ends."""
    importlib.import_module(f"twisted.internet.{name}reactor").install()
    from twisted.internet import reactor
    from twisted.internet.protocol import Protocol
    from twisted.internet.stdio import StandardIO
    from twisted.logger import ILogObserver, globalLogBeginner
    from twisted.web.resource import Resource
    from twisted.web.server import Request, Site
    from zope.interface import implementer

    from serverworker.processes.accept import AcceptReader
    from serverworker.processes.shares import Shares

    class Answer(Resource):
        isLeaf = True

        def render_GET(self, request: Request) -> bytes:
            return str(os.getpid()).encode()

    class Input(Protocol):
        def connectionLost(self, reason: Any = None) -> None:
            if turning.running:
                turning.stop()

    @implementer(ILogObserver)
    def told(event: dict[str, Any]) -> None:
        if event["log_namespace"].startswith(AcceptReader.__module__) and event["log_level"].name == "warn":
            os.write(1, b"shortage\n")

    turning: Any = reactor
    attach: Any = StandardIO  # annotated as on Windows, where it has no stdout
    globalLogBeginner.beginLoggingTo([told], redirectStandardIO=False)
    site = Site(Answer())
    site.doStart()
    reader = AcceptReader(turning, socket.socket(fileno=listening), site, Shares(shares))
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    turning.callWhenRunning(reader.start)
    turning.callWhenRunning(os.write, 1, b"ready\n")
    attach(Input(), stdout=os.open(os.devnull, os.O_WRONLY))
    turning.run()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]) if len(sys.argv) > 4 else None)
