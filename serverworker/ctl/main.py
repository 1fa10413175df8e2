"""The command line of `serverworkerctl`."""

from __future__ import annotations

import getopt
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from attrs import frozen

from serverworker.ctl.finding import Unreachable
from serverworker.values.errors import BadCommand, ConfigurationError, PeerLost, ServerWorkerError
from serverworker.values.exit_status import ExitStatus

NOT_DONE = 1
"""The exit status where a session refused what was asked, or could not do it."""

INTERRUPTED = 130
"""As a shell has it for what ^C has ended, but for what only ends by it."""

USAGE = """\
usage: serverworkerctl [options] COMMAND …
       serverworkerctl [options]              an interactive shell

Commands:
  status [--watch]                        how the session is; --watch keeps showing it
  restart clean|force                     start the code anew, and wait until it serves
  exit clean|force                        end the session
  set port NAME ADDRESS [now]             give a port another address
  set polling SECONDS                     change how often each worker polls itself
  set workers N                           change how many workers serve
  emit NAME [JSON] [to workers|monitor|ID]  have handlers of the application run
  events [--since WHEN] [--kind NAME] [--last N] [--follow]
  crashes [ID|last]                       the deaths that nobody asked for
  logs [--worker ID] [--last N] [--follow]
  help                                    all that this session takes, the agent's own commands too
  systemd [--socket] [--user USER] [-- OPTIONS]  the units to run it under systemd, with these options of
                                          `twistd serverworker`, or those of the session that runs
  completion bash|zsh                     a script for the shell; see the documentation

Options:
  --state-dir DIR      the session that keeps its state there (default: the one that runs)
  --connect ENDPOINT   a control port elsewhere, such as tls:ops.example.org:9443
  --key-file FILE      holds the session key, where the control port asks for it
  --authority FILE     PEM file of the authority that has signed the control port's certificate
  --certificate FILE   PEM file with a certificate and its key to show there
  --json               print the answer as JSON
  --timeout SECONDS    how long to wait for the answer (default 3600)
  --version, --help

Exit status: 0 it happened, 1 it did not (the reason is on stderr), 64 wrong usage, 69 no session can be reached,
78 what cannot work under systemd, 130 after ^C.
"""


@frozen(kw_only=True)
class Request:
    """What the operator wants."""

    words: tuple[str, ...] = ()
    """None: a shell."""
    state_directory: str | None = None
    connect: str | None = None
    key_file: str | None = None
    authority: str | None = None
    certificate: str | None = None
    json: bool = False
    watch: bool = False
    follow: bool = False
    timeout: float = 3600.0


def parse(arguments: Sequence[str]) -> Request:
    """What a command line means. Raises `BadCommand`; ends the process for --help and --version."""
    allowed = ["state-dir=", "connect=", "key-file=", "authority=", "certificate=", "json", "timeout="]
    try:
        pairs, words = getopt.getopt(list(arguments), "h", [*allowed, "help", "version"])
    except getopt.GetoptError as error:
        raise BadCommand(f"{error}; `serverworkerctl --help` tells all") from error
    options = dict(pairs)
    if "--help" in options or "-h" in options:
        _print(USAGE)
        raise SystemExit(ExitStatus.OK)
    if "--version" in options:
        _print_version()
    flags = {"json": "--json" in options}
    if words and words[0] in ("status", "events", "logs", "crashes"):
        for flag in ("json", "watch", "follow"):
            if f"--{flag}" in words:
                words.remove(f"--{flag}")
                flags[flag] = True
    _check_flags(words, flags)
    return Request(
        words=tuple(words),
        state_directory=options.get("--state-dir"),
        connect=options.get("--connect"),
        key_file=options.get("--key-file"),
        authority=options.get("--authority"),
        certificate=options.get("--certificate"),
        timeout=_seconds(options.get("--timeout", "3600")),
        **flags,
    )


def _check_flags(words: list[str], flags: dict[str, bool]) -> None:
    command = words[0] if words else ""
    if flags.get("watch") and command != "status":
        raise BadCommand("--watch goes with status")
    if flags.get("follow") and command not in ("events", "logs"):
        raise BadCommand("--follow goes with events and logs")
    if flags.get("watch") and flags.get("json"):
        raise BadCommand(
            "--watch is for people: leave out --json, or follow the events: events --follow --json"
        )


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= 86400:
        raise BadCommand(f"--timeout takes a number of seconds, up to 86400, not {text!r}")
    return seconds


def _print_version() -> NoReturn:
    from serverworker import __version__

    _print(f"serverworkerctl {__version__}\n")
    raise SystemExit(ExitStatus.OK)


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `serverworkerctl`; ends the process."""
    try:
        request = parse(sys.argv[1:] if arguments is None else arguments)
        if request.words[:1] == ("completion",):
            from serverworker.ctl.completion import script

            _print(script(request.words[1:]))
            raise SystemExit(ExitStatus.OK)
        if request.words[:1] == ("systemd",):
            from serverworker.ctl.systemd import run as write_units

            write_units(request.words[1:], request.state_directory, os.environ)
            raise SystemExit(ExitStatus.OK)
    except ServerWorkerError as error:
        sys.stderr.write(f"serverworkerctl: {error}\n")
        raise SystemExit(
            ExitStatus.CONFIG if isinstance(error, ConfigurationError) else _status_of(error)
        ) from None
    if not request.words:
        from serverworker.ctl.shell import install_reactor

        install_reactor()
    from twisted.internet.defer import ensureDeferred
    from twisted.internet.task import react

    react(lambda reactor: ensureDeferred(_run(reactor, request)))


async def _run(reactor: Any, request: Request) -> None:
    """Do it; a failure is told on stderr, and ends the process with its status."""
    from serverworker.ctl.session_link import reach
    from serverworker.ctl.tasks import run

    interrupted: list[bool] = []
    reactor.addSystemEventTrigger("before", "shutdown", interrupted.append, True)
    try:
        await run(reactor, request, await reach(reactor, request, os.environ))
    except ServerWorkerError as error:
        if interrupted:  # whatever it was at lost its connection by that
            raise SystemExit(ExitStatus.OK if request.follow or request.watch else INTERRUPTED) from None
        _fail(request, error, _status_of(error))
    except BrokenPipeError:  # the pager, or whoever read us, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _status_of(error: ServerWorkerError) -> int:
    if isinstance(error, BadCommand):
        return ExitStatus.USAGE
    return ExitStatus.UNAVAILABLE if isinstance(error, Unreachable | PeerLost) else NOT_DONE


def _fail(request: Request, error: Exception, status: int) -> NoReturn:
    if request.json:
        _print(json.dumps({"error": {"type": type(error).__name__, "message": str(error)}}) + "\n")
    sys.stderr.write(f"serverworkerctl: {error}\n")
    raise SystemExit(status)


def read_key(name: str) -> str:
    """The session key in a file. Raises `ServerWorkerError`."""
    try:
        return Path(name).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ServerWorkerError(f"--key-file: {name} cannot be read: {error}") from error
