"""``status --watch``: the session as a table that keeps up."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import DeferredList
from twisted.internet.task import deferLater

from serverworker.control import Client
from serverworker.ctl.showing import need, until_gone
from serverworker.values.errors import ServerWorkerError

REFRESH_SECONDS = 1.0
_LEVELS = {"serving": "green", "ready": "cyan", "loaded": "cyan", "draining": "yellow", "dead": "red"}
_MIB = 1024 * 1024


async def watch(reactor: Any, client: Client) -> None:
    """Show it until ^C, or until the session is gone: then it raises `PeerLost`."""
    try:
        from rich.live import Live
    except ImportError as error:
        raise ServerWorkerError(need("rich")) from error
    told: list[dict[str, Any]] = []

    def listen(event: dict[str, Any]) -> None:
        told.append(event)
        del told[:-5]

    ended = until_gone(reactor, client)
    await client.subscribe(listen)
    with Live(auto_refresh=False, screen=False) as live:
        while True:
            live.update(table(await client.status(), told), refresh=True)
            pause = deferLater(reactor, REFRESH_SECONDS, lambda: None)
            await DeferredList(
                [pause, ended], fireOnOneCallback=True, fireOnOneErrback=True, consumeErrors=True
            )
            if ended.called:
                return


def table(status: dict[str, Any], told: list[dict[str, Any]]) -> Any:
    """The status and the last events, for rich to draw."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    rows = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in ("id", "state", "pid", "gen", "up", "reqs", "open", "memory", "cpu", "lag", "heartbeat"):
        left = name in ("state", "heartbeat")
        rows.add_column(name, justify="left" if left else "right", no_wrap=not left)
    for worker in status["workers"]:
        rows.add_row(*(Text(cell, style=style) for cell, style in cells(worker)))
    lines = [
        Text(f"{each['at'][11:19]} {each['sentence'].partition(chr(10))[0]}", style="dim") for each in told
    ]
    return Group(Text(headline(status), style="bold"), rows, *lines)


def headline(status: dict[str, Any]) -> str:
    """The session in one line."""
    ports = ", ".join(status["ports"])
    parts = [f"generation {status['generation']}: {status['serving']} of {status['count']} serve on {ports}"]
    if status["restart"]:
        parts.append(f"generation {status['restart']['generation']} is being started")
    if status["replacing"]:
        parts.append(
            f"{status['replacing']['replaced']} of {status['replacing']['total']} old workers are gone"
        )
    if status["ending"]:
        parts.append(f"ending: {status['ending']['reason']}")
    if status["next_start_in_seconds"] > 0:
        parts.append(f"the next worker is started in {status['next_start_in_seconds']:.0f} s")
    return "; ".join(parts)


def cells(worker: dict[str, Any]) -> list[tuple[str, str]]:
    """One worker's row: each cell with its style."""
    figures = worker["figures"] or {}
    beat = figures.get("last_beat")
    failures = worker["heartbeat_failures"]
    state = worker["life"] if not worker["leaving"] else f"{worker['life']} ({worker['leaving']})"
    return [
        (str(worker["id"]), "bold"),
        (state, _LEVELS.get(worker["life"], "")),
        (str(worker["pid"] or ""), ""),
        (str(worker["generation"]), ""),
        (f"{worker['uptime_seconds']:.0f} s", ""),
        (str(figures.get("requests_finished", "")), ""),
        (str(figures.get("connections", "")), ""),
        (_sized(figures.get("resident_bytes")), ""),
        (_timed(figures.get("cpu_seconds"), "s", 1), ""),
        (_timed(figures.get("ping_seconds"), "ms", 1000), ""),
        (
            f"{beat['text']}, {failures} failed" if failures and beat else (beat or {}).get("text", ""),
            "red" if failures else "",
        ),
    ]


def _sized(size: int | None) -> str:
    return "" if size is None else f"{size / _MIB:.0f} M"


def _timed(seconds: float | None, unit: str, factor: int) -> str:
    return "" if seconds is None else f"{seconds * factor:.1f} {unit}"
