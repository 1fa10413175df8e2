"""What a terminal shows while something runs."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from twisted.internet.defer import Deferred

from serverworker.control import Client
from serverworker.values.errors import PeerLost

_STEPS = (
    "RestartStarted",
    "WorkerSpawned",
    "WorkerLoaded",
    "WorkerReady",
    "WorkerDied",
    "RestartProgress",
    "RestartFailed",
)


@asynccontextmanager
async def progress(client: Client, *, shown: bool) -> AsyncIterator[None]:
    """Show what the session tells of a restart meanwhile, on stderr, where that is a terminal."""
    if not shown or not sys.stderr.isatty():
        yield
        return
    try:
        from rich.console import Console
    except ImportError:  # the extra is not installed: the steps as plain lines
        await client.subscribe(_plainly, kinds=_STEPS)
        yield
        return
    with Console(stderr=True).status("asking for a restart…") as status:

        def step(event: dict[str, Any]) -> None:
            status.update(_safe(event["sentence"]))

        await client.subscribe(step, kinds=_STEPS)
        yield


def _plainly(event: dict[str, Any]) -> None:
    sys.stderr.write(f"{event['sentence']}\n")


def _safe(text: str) -> str:
    """Not markup: a path may hold brackets."""
    from rich.markup import escape

    return str(escape(text.partition("\n")[0]))


def need(module: str) -> str:
    """What to say where an optional package is missing."""
    return f"this needs {module}, which is not installed: pip install 'serverworker[ctl]'"


def until_gone(reactor: Any, client: Client) -> Deferred[None]:
    """Fires at ^C, or fails with `PeerLost` where the session is gone first."""
    ended: Deferred[None] = Deferred()

    def stopped() -> None:
        if not ended.called:
            ended.callback(None)

    def lost(reason: object) -> None:
        if not ended.called:
            ended.errback(PeerLost(f"the session is gone: {reason}"))

    reactor.addSystemEventTrigger("before", "shutdown", stopped)
    client.lost().addCallback(lost)
    return ended
