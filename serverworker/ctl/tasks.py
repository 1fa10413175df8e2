"""What `serverworkerctl` does with a session once it has reached it."""

from __future__ import annotations

import json
import sys
from typing import Any

from serverworker.control import Client, Position
from serverworker.ctl.main import Request
from serverworker.ctl.showing import progress, until_gone


async def run(reactor: Any, request: Request, client: Client) -> None:
    """Do what the operator wants, and print what comes of it."""
    try:
        if not request.words:
            from serverworker.ctl.shell import shell

            await shell(reactor, request, client)
        elif request.watch:
            from serverworker.ctl.watch import watch

            await watch(reactor, client)
        elif request.follow:
            await follow(reactor, request, client)
        else:
            await once(request, client)
    finally:
        client.close()


async def once(request: Request, client: Client) -> None:
    """One command, and its answer."""
    async with progress(client, shown=request.words[0] == "restart" and not request.json):
        answer = await client.run(request.words, timeout=request.timeout)
    show(answer, as_json=request.json)


def show(answer: dict[str, Any], *, as_json: bool) -> None:
    """Print an answer of `Client.run`."""
    if as_json:
        data = answer["data"]
        emit(json.dumps({"text": answer["text"]} if data is None else data, indent=1))
    else:
        emit(answer["text"])


def emit(text: str) -> None:
    """Print a line, at once: somebody may wait for it behind a pipe."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


async def follow(reactor: Any, request: Request, client: Client) -> None:
    """``events --follow`` and ``logs --follow``: what there is, then what comes, until the session ends.

    Raises `PeerLost` when it is gone.
    """
    command, *arguments = request.words
    output = command == "logs"
    now = await client.status()
    first = (await client.run((command, *arguments), timeout=request.timeout))["data"]
    for each in first:
        _show_event(each, request, output=output)
    # Lines of output are of this session alone, events of the journal of earlier ones too.
    own = [each["sequence"] for each in first if output or each["session"] == now["session"]]
    since = Position(session=now["session"], sequence=max(own, default=now["sequence"]))
    kinds, worker = _wanted(arguments)

    def listen(event: dict[str, Any]) -> None:
        if (event["event"] == "OutputLine") is output and worker in ("", event["source"]):
            _show_event(event, request, output=output)

    def missed() -> None:
        sys.stderr.write("serverworkerctl: some were missed here: this end did not keep up\n")

    ended = until_gone(reactor, client)
    await client.subscribe(listen, since=since, kinds=kinds, output=output, missed=missed)
    await ended


def _wanted(arguments: list[str]) -> tuple[tuple[str, ...], str]:
    """The kinds of events, and the source, that are wanted; the session has checked the arguments already."""
    kinds: tuple[str, ...] = ()
    worker = ""
    pairs = iter(" ".join(arguments).replace("=", " ").split())
    for word in pairs:
        if word == "--kind":
            kinds = (next(pairs),)
        elif word == "--worker":
            worker = f"worker {next(pairs)}"
    return kinds, worker


def _show_event(event: dict[str, Any], request: Request, *, output: bool) -> None:
    if request.json:
        emit(json.dumps(event))
        return
    level = "" if event["level"] in ("info", "debug") else f"{event['level']}: "
    text = event["fields"]["text"] if output else f"{level}{event['sentence']}"
    emit(f"{event['at'].replace('T', ' ')} [{event['source']}] {text}")
