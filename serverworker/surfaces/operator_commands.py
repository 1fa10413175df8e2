"""What an operator can type: one declared table, for the console, the control socket and the dashboard."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.failure import Failure

from serverworker.monitor.console_commands import ConsoleCommands
from serverworker.surfaces import deeds, looking
from serverworker.surfaces.desk import Asker, Desk, Outcome
from serverworker.values.errors import BadCommand, nearest
from serverworker.values.events import OperatorAction

_LONGEST_OUTCOME = 500
"""Characters of a deed, and of what it came to, that its entry in the audit log has."""


@frozen(kw_only=True)
class OperatorCommand:
    """One command: the words it begins with, its arguments, and what it does."""

    words: tuple[str, ...]
    arguments: str
    """As the help shows them."""
    help: str
    run: deeds.Deed
    at_any_time: bool = False
    """Whether it may run on a console while another one does."""
    changes: bool = True
    """Whether it does something, so that it stands in the audit log."""

    @property
    def usage(self) -> str:
        """How it is typed."""
        return " ".join([*self.words, self.arguments]).rstrip()


COMMANDS = (
    OperatorCommand(
        words=("status",),
        arguments="",
        help="how the session is",
        run=looking.status,
        at_any_time=True,
        changes=False,
    ),
    OperatorCommand(
        words=("restart",),
        arguments="clean|force",
        help="start the code anew: the old workers finish what they are at, or do not",
        run=deeds.restart,
    ),
    OperatorCommand(
        words=("exit",),
        arguments="clean|force",
        help="end the session: after what is being done, or at once",
        run=deeds.end,
        at_any_time=True,
    ),
    OperatorCommand(
        words=("set", "port"),
        arguments="NAME ADDRESS [now]",
        help="give a port another address, from the next restart on or now",
        run=deeds.set_port,
    ),
    OperatorCommand(
        words=("set", "polling"),
        arguments="SECONDS",
        help="change how often each worker polls itself",
        run=deeds.set_polling,
    ),
    OperatorCommand(
        words=("set", "workers"), arguments="N", help="change how many workers serve", run=deeds.set_workers
    ),
    OperatorCommand(
        words=("emit",),
        arguments="NAME [JSON] [to workers|monitor|ID]",
        help="have handlers of the application run, and see what they answer",
        run=deeds.emit,
    ),
    OperatorCommand(
        words=("events",),
        arguments="[--since WHEN] [--kind NAME] [--last N]",
        help="what happened, in earlier sessions too; WHEN is a time, or how long ago: 15m, 2h",
        run=looking.events,
        at_any_time=True,
        changes=False,
    ),
    OperatorCommand(
        words=("crashes",),
        arguments="[ID|last]",
        help="the deaths that nobody asked for; with an id, the whole report of one",
        run=looking.crashes,
        at_any_time=True,
        changes=False,
    ),
    OperatorCommand(
        words=("logs",),
        arguments="[--worker ID] [--last N]",
        help="what workers printed last",
        run=looking.logs,
        at_any_time=True,
        changes=False,
    ),
)


@frozen(kw_only=True)
class Parsed:
    """A command, ready to run."""

    text: str
    run: Callable[[], Any]
    at_any_time: bool
    changes: bool


def parse(line: str, desk: Desk, asker: Asker) -> Parsed:
    """Find out what a line means. Raises `BadCommand`, which says what is allowed, and the nearest that exists."""
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise BadCommand(f"{line!r} cannot be read: {error}") from error
    return parse_words(words, desk, asker)


def parse_words(words: Sequence[str], desk: Desk, asker: Asker) -> Parsed:
    """As `parse`, of a line that is words already."""
    if not words:
        raise BadCommand("there is nothing to do in an empty line; help shows what there is")
    text = shlex.join(words)
    if words[0] == "help":
        return Parsed(
            text=text, run=lambda: Outcome(text=help_text(desk.agents)), at_any_time=True, changes=False
        )
    for command in COMMANDS:
        length = len(command.words)
        if tuple(words[:length]) == command.words:
            own = partial(command.run, desk, asker, words[length:])
            return Parsed(text=text, run=own, at_any_time=command.at_any_time, changes=command.changes)
    return _parse_agents(text, words, desk.agents)


def _parse_agents(text: str, words: Sequence[str], agents: ConsoleCommands) -> Parsed:
    name, *arguments = words
    candidates = agents.of(name)
    for candidate in candidates:
        if candidate.matches(arguments):
            return Parsed(
                text=text, run=partial(candidate.action, *arguments), at_any_time=False, changes=True
            )
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


def run(parsed: Parsed, desk: Desk, asker: Asker) -> Deferred[Outcome]:
    """Do it. Fires with what came of it, or fails; either way a deed is told as an `OperatorAction`."""
    done = maybeDeferred(parsed.run).addCallback(_as_outcome)
    if parsed.changes:
        done.addBoth(audited, desk, asker, parsed.text)
    return done


def audited(result: Any, desk: Desk, asker: Asker, action: str) -> Any:
    """Tell what a deed came to; answers the result again."""
    ok = not isinstance(result, Failure)
    if ok:
        text = result.text if isinstance(result, Outcome) else str(result)
    else:
        text = result.getErrorMessage()
    first = text.partition("\n")[0][:_LONGEST_OUTCOME]
    action = action if len(action) <= _LONGEST_OUTCOME else f"{action[:_LONGEST_OUTCOME]}…"
    desk.publish(
        OperatorAction(who=asker.who, surface=asker.surface, action=action, ok=ok, outcome=first or "done")
    )
    return result


def _as_outcome(result: Any) -> Outcome:
    """What an agent's own command answers may be anything."""
    if isinstance(result, Outcome):
        return result
    return Outcome(text="done" if result is None else str(result))


def help_text(agents: ConsoleCommands) -> str:
    """All commands, a line each."""
    rows = usages(agents)
    width = max(len(usage) for usage, _ in rows)
    return "\n".join(f"{usage:<{width}}  {text}" for usage, text in rows)


def usages(agents: ConsoleCommands) -> list[tuple[str, str]]:
    """How each command is typed, and what it does."""
    rows = [(command.usage, command.help) for command in COMMANDS]
    rows += [("help", "this")]
    rows += [(command.usage, command.help or "a command of the agent's") for command in agents]
    return rows
