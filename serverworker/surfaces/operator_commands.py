"""What an operator can type: one declared table, for the console and for every later surface."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred, maybeDeferred

from serverworker.monitor.console_commands import ConsoleCommands
from serverworker.monitor.handle import Monitor
from serverworker.surfaces.status import describe
from serverworker.values.errors import ServerWorkerError, nearest


class BadCommand(ServerWorkerError):
    """A line that is no command. The text says what is allowed."""


@frozen(kw_only=True)
class OperatorCommand:
    """One command: the words it begins with, its arguments, and what it does."""

    words: tuple[str, ...]
    arguments: str
    """As the help shows them."""
    help: str
    run: Callable[[Monitor, Sequence[str]], Any]
    at_any_time: bool = False
    """Whether it may run while another one does."""

    @property
    def usage(self) -> str:
        """How it is typed."""
        return " ".join([*self.words, self.arguments]).rstrip()


# --- what each does ----------------------------------------------------------------------------


def _status(monitor: Monitor, arguments: Sequence[str]) -> str:
    _none("status", arguments)
    seconds = monitor.settings.polling.interval_seconds
    return describe(monitor.state, monitor.ports, seconds, monitor.seconds())


def _restart(monitor: Monitor, arguments: Sequence[str]) -> Deferred[str]:
    return monitor.restart(_mode("restart", arguments), asked_by="the console")


def _exit(monitor: Monitor, arguments: Sequence[str]) -> Deferred[str]:
    mode = _mode("exit", arguments)
    return monitor.kill_session("the operator asked for it", graceful=mode == "clean")


def _set_port(monitor: Monitor, arguments: Sequence[str]) -> Deferred[str]:
    if len(arguments) not in (2, 3) or (len(arguments) == 3 and arguments[2] != "now"):
        raise BadCommand("usage: set port NAME ADDRESS [now], such as: set port server 8081 now")
    name, address, *now = arguments
    return monitor.set_port(name, address, now=bool(now), asked_by="the console")


def _set_polling(monitor: Monitor, arguments: Sequence[str]) -> str:
    if len(arguments) != 1:
        raise BadCommand("usage: set polling SECONDS, such as: set polling 15")
    try:
        seconds = float(arguments[0])
    except ValueError:
        raise BadCommand(f"{arguments[0]!r} is no number of seconds, such as 15 or 0.5") from None
    monitor.set_polling(seconds)
    return f"every worker polls itself every {seconds:g} s"


def _set_workers(monitor: Monitor, arguments: Sequence[str]) -> str:
    if len(arguments) != 1 or not arguments[0].isdecimal():
        raise BadCommand("usage: set workers N, a whole number, such as: set workers 4")
    count = int(arguments[0])
    monitor.set_workers(count)
    return f"{count} workers are to serve" if count > 1 else "1 worker is to serve"


def _none(name: str, arguments: Sequence[str]) -> None:
    if arguments:
        raise BadCommand(f"{name} takes no arguments, not {' '.join(arguments)!r}")


def _mode(name: str, arguments: Sequence[str]) -> str:
    if len(arguments) != 1 or arguments[0] not in ("clean", "force"):
        given = f", not {' '.join(arguments)!r}" if arguments else ""
        raise BadCommand(f"usage: {name} clean|force{given}")
    return arguments[0]


COMMANDS = (
    OperatorCommand(
        words=("status",), arguments="", help="how the session is", run=_status, at_any_time=True
    ),
    OperatorCommand(
        words=("restart",),
        arguments="clean|force",
        help="start the code anew: the old workers finish what they are at, or do not",
        run=_restart,
    ),
    OperatorCommand(
        words=("exit",),
        arguments="clean|force",
        help="end the session: after what is being done, or at once",
        run=_exit,
        at_any_time=True,
    ),
    OperatorCommand(
        words=("set", "port"),
        arguments="NAME ADDRESS [now]",
        help="give a port another address, from the next restart on or now",
        run=_set_port,
    ),
    OperatorCommand(
        words=("set", "polling"),
        arguments="SECONDS",
        help="change how often each worker polls itself",
        run=_set_polling,
    ),
    OperatorCommand(
        words=("set", "workers"), arguments="N", help="change how many workers serve", run=_set_workers
    ),
)


@frozen(kw_only=True)
class Parsed:
    """A line that is a command, ready to run."""

    text: str
    run: Callable[[], Any]
    at_any_time: bool


def parse(line: str, monitor: Monitor, agents: ConsoleCommands) -> Parsed:
    """Find out what a line means. Raises `BadCommand`, which says what is allowed, and the nearest that exists."""
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise BadCommand(f"{line!r} cannot be read: {error}") from error
    if not words:
        raise BadCommand("there is nothing to do in an empty line; help shows what there is")
    if words[:1] == ["help"]:
        return Parsed(text=line, run=partial(help_text, agents), at_any_time=True)
    for command in COMMANDS:
        length = len(command.words)
        if tuple(words[:length]) == command.words:
            own = partial(command.run, monitor, words[length:])
            return Parsed(text=line, run=own, at_any_time=command.at_any_time)
    return _parse_agents(line, words, agents)


def _parse_agents(line: str, words: list[str], agents: ConsoleCommands) -> Parsed:
    name, *arguments = words
    candidates = agents.of(name)
    for candidate in candidates:
        if candidate.matches(arguments):
            return Parsed(text=line, run=partial(candidate.action, *arguments), at_any_time=False)
    if candidates:
        raise BadCommand("usage: " + ", or: ".join(each.usage for each in candidates))
    own = [" ".join(command.words) for command in COMMANDS]
    if name == "set":
        setters = [command for command in COMMANDS if command.words[0] == "set"]
        if not arguments:
            raise BadCommand("usage: " + ", or: ".join(each.usage for each in setters))
        what, settable = arguments[0], [" ".join(each.words) for each in setters]
        raise BadCommand(f"there is nothing to set called {what!r}{nearest(f'set {what}', settable)}")
    known = [*own, "help", *agents.names]
    raise BadCommand(f"there is no command {name!r}{nearest(name, known)}")


def run(parsed: Parsed) -> Deferred[Any]:
    """Do it. Fires with what is to be shown, or fails."""
    return maybeDeferred(parsed.run)


def help_text(agents: ConsoleCommands) -> str:
    """All commands, a line each."""
    rows = [(command.usage, command.help) for command in COMMANDS]
    rows += [("help", "this")]
    rows += [(command.usage, command.help or "a command of the agent's") for command in agents]
    width = max(len(usage) for usage, _ in rows)
    return "\n".join(f"{usage:<{width}}  {text}" for usage, text in rows)
