"""The application in the pods under test: it answers, takes its time, hangs in all ways, and leaves a daemon behind."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from serverworker import Monitor, ServerWorker, SessionAgent

DOOMED = Path("/tmp/doomed")
"""While it is there, each new worker hangs before it is ready."""


class Agent(SessionAgent):
    """Hangs the monitor where it is asked to."""

    async def initialize_monitor(self, monitor: Monitor) -> None:
        """Register how."""
        monitor.on("hang", lambda args: time.sleep(3600))


class Page(Resource):
    """One page for all paths."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        if DOOMED.exists():
            time.sleep(3600)

    def render_GET(self, request: Request) -> bytes | int:
        """Do what the path says."""
        _, what, *more = request.path.decode("ascii").split("/")
        turning: Any = reactor
        match what:
            case "slow":
                deferLater(turning, float(more[0]), self.finish, request).addErrback(lambda failure: None)
                return NOT_DONE_YET
            case "hang":
                time.sleep(3600)
            case "doom":
                DOOMED.touch()
                time.sleep(3600)
            case "hang-monitor":
                ServerWorker.current().emit("hang", None).addErrback(lambda failure: None)
            case "daemon":
                subprocess.Popen(
                    ["sleep", more[0]],
                    start_new_session=True,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
                os._exit(1)
        return b"done\n"

    def finish(self, request: Request) -> None:
        """Answer at last."""
        request.write(b"done\n")
        request.finish()
