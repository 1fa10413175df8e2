"""The commands that an agent adds to the console: by name and by the patterns of their arguments."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from typing import Any

from attrs import frozen

ConsoleAction = Callable[..., Any]
"""What a command does: plain, Deferred or coroutine. Its result is shown."""

_NAME = re.compile(r"[A-Za-z][\w-]*")


@frozen(kw_only=True)
class ConsoleCommand:
    """A command of the agent's."""

    name: str
    patterns: tuple[re.Pattern[str], ...]
    """One for each argument, which has to match the whole of it."""
    action: ConsoleAction
    help: str

    def matches(self, arguments: Sequence[str]) -> bool:
        """Whether these arguments are for this command."""
        return len(arguments) == len(self.patterns) and all(
            pattern.fullmatch(argument) for pattern, argument in zip(self.patterns, arguments, strict=True)
        )

    @property
    def usage(self) -> str:
        """How it is typed, such as ``backup (full|quick)``."""
        return " ".join([self.name, *(pattern.pattern for pattern in self.patterns)])


class ConsoleCommands:
    """The agent's commands, in the order in which they were added."""

    def __init__(self, reserved: Collection[str]) -> None:
        """`reserved`: the names of the console's own commands."""
        self._reserved = reserved
        self._commands: list[ConsoleCommand] = []

    def add(self, name: str, patterns: Sequence[str], action: ConsoleAction, help: str = "") -> None:
        """Add one; see `Monitor.add_console_command`."""
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"a console command's name is one word of letters, digits, - and _, not {name!r}"
            )
        if name in self._reserved:
            raise ValueError(f"{name!r} is a command of the console's own: choose another name")
        if not callable(action):
            raise TypeError(f"the action of console command {name!r} must be callable, not {action!r}")
        if isinstance(patterns, str):
            raise TypeError(
                f"console command {name!r} takes a list of patterns, one for each argument, such as [{patterns!r}]"
            )
        compiled = []
        for pattern in patterns:
            try:
                compiled.append(re.compile(pattern))
            except re.error as error:
                raise ValueError(
                    f"console command {name!r}: the pattern {pattern!r} is no regular expression: {error}"
                ) from error
        self._commands.append(ConsoleCommand(name=name, patterns=tuple(compiled), action=action, help=help))

    @property
    def names(self) -> tuple[str, ...]:
        """The names, each once."""
        return tuple(dict.fromkeys(command.name for command in self._commands))

    def of(self, name: str) -> tuple[ConsoleCommand, ...]:
        """The commands of that name."""
        return tuple(command for command in self._commands if command.name == name)

    def __iter__(self) -> Any:
        return iter(self._commands)
