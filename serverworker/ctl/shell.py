"""The interactive shell: history, completion, one command after the other."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred

from serverworker.control import Client
from serverworker.ctl.showing import need
from serverworker.values.errors import ServerWorkerError

_QUIT = ("quit", "q", "bye")
_OWN = [["quit", "leave this shell; the session goes on"]]


def install_reactor() -> None:
    """The shell's editor runs on asyncio, and so must Twisted."""
    import asyncio

    from twisted.internet import asyncioreactor

    asyncioreactor.install(asyncio.new_event_loop())


async def shell(reactor: Any, request: Any, client: Client) -> None:
    """Read commands until ^D or ``quit``."""
    try:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.history import FileHistory
    except ImportError as error:
        raise ServerWorkerError(need("prompt-toolkit")) from error
    from serverworker.ctl.main import parse
    from serverworker.ctl.session_link import reach
    from serverworker.ctl.tasks import emit, once

    usages = [*await client.usages(), *_OWN]
    prompt: Any = PromptSession(
        history=FileHistory(str(_history_file())), completer=_completer(usages), complete_while_typing=False
    )
    emit("Tab completes, help tells all commands, ^D leaves; the session goes on.")
    while True:
        try:
            line = await _asyncio(prompt.prompt_async("serverworker> "))
        except EOFError:
            return
        except KeyboardInterrupt:
            continue
        words = _words(line, emit)
        if not words:
            continue
        if words[0] in _QUIT:
            return
        try:
            if client.link.closed:
                client = await reach(reactor, request, os.environ)
            asked = parse(words)
            await once(evolve(request, words=asked.words, json=asked.json), client)
        except ServerWorkerError as error:
            emit(f"error: {error}")


def _words(line: str, emit: Any) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError as error:
        emit(f"error: {line!r} cannot be read: {error}")
        return []


def _asyncio(coroutine: Any) -> Deferred[Any]:
    import asyncio

    return Deferred.fromFuture(asyncio.ensure_future(coroutine))


def _history_file() -> Path:
    """Readable by this user alone: arguments of commands may be private."""
    home = os.environ.get("XDG_STATE_HOME", "")
    folder = (Path(home) if home.startswith("/") else Path("~/.local/state").expanduser()) / "serverworker"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = folder / "ctl_history"
    file.touch(mode=0o600)
    return file


def complete(before: Sequence[str], usages: Sequence[Sequence[str]]) -> Iterator[str]:
    """The words that may follow, for commands as `Client.usages` tells them."""
    seen = set()
    for usage, *_ in usages:
        words = usage.split()
        if len(words) > len(before) and _fits(before, words):
            for choice in words[len(before)].strip("[]").split("|"):
                if choice and not choice.isupper() and choice not in seen and choice.isprintable():
                    seen.add(choice)
                    yield choice


def _fits(before: Sequence[str], words: Sequence[str]) -> bool:
    return all(
        word in allowed.strip("[]").split("|") or allowed.isupper()
        for word, allowed in zip(before, words, strict=False)
    )


def _completer(usages: list[list[str]]) -> Any:
    from prompt_toolkit.completion import Completer, Completion

    class _Completer(Completer):
        def get_completions(self, document: Any, complete_event: Any) -> Any:
            text = document.text_before_cursor
            before = text.split()
            last = "" if text.endswith(" ") or not before else before.pop()
            for word in complete(before, usages):
                if word.startswith(last):
                    yield Completion(word, start_position=-len(last))

    return _Completer()
