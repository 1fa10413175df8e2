"""What stands behind ``--command``: split into words, its placeholders filled in, its program found."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from attrs import field, frozen

from serverworker.processes.inheritance import FIRST_DESCRIPTOR
from serverworker.values.errors import ApplicationError, nearest
from serverworker.values.ports import PortSettings

_PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)(?::([\w-]*))?\}")
"""Braces with anything else in them, such as JSON, are the program's own."""


def split(command: str) -> list[str]:
    """The words of a command, quoted as for a shell; no shell reads it. `ApplicationError` where the quotes are wrong."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ApplicationError(
            f"--command {command!r} cannot be split into words: {str(error).lower()}"
        ) from error
    if not words or not words[0]:
        raise ApplicationError(f"--command {command!r} names no program")
    return words


@frozen(kw_only=True)
class Places:
    """What the placeholders of a command stand for."""

    ports: Mapping[str, PortSettings]
    """The session's ports by name, in the order in which the program gets their sockets."""
    bind: bool
    """Whether the session binds them."""
    _numbers: dict[str, int] = field(init=False)

    @_numbers.default
    def _number(self) -> dict[str, int]:
        return {name: FIRST_DESCRIPTOR + index for index, name in enumerate(self.ports)}

    def fill(self, words: Sequence[str]) -> list[str]:
        """The words with every placeholder replaced; `ApplicationError` for one that does not exist, or not here."""
        return [_PLACEHOLDER.sub(self._value, word) for word in words]

    def _value(self, match: re.Match[str]) -> str:
        kind, name = match[1], "server" if match[2] is None else match[2]
        if kind not in ("fd", "port"):
            raise ApplicationError(
                f"--command: there is no {match[0]}; allowed: {{fd}}, {{fd:NAME}}, {{port}}, {{port:NAME}} "
                "(no shell reads the command: for variables write `sh -c '…'`, with $NAME)"
            )
        if name not in self.ports:
            raise ApplicationError(
                f"--command: {match[0]}: the session has no port {name!r}{nearest(name, list(self.ports))}"
            )
        if kind == "fd":
            if not self.bind:
                raise ApplicationError(
                    f"--command: {match[0]} is a socket, and with bind = false the session binds none: "
                    f"write {{port}}, or leave bind = false out"
                )
            return str(self._numbers[name])
        if self.bind:
            raise ApplicationError(
                f"--command: {match[0]} is for a program that binds by itself, which needs `bind = false` under "
                "[workers] (and costs: no connection waits while it is replaced); a program that can take a socket is "
                "given {fd}, or finds it by LISTEN_FDS"
            )
        port = self.ports[name]
        if port.kind == "unix":
            raise ApplicationError(
                f"--command: {match[0]}: port {name!r} is {port.describe()}, which has no number"
            )
        return str(port.port)


def find_program(word: str, search_path: str) -> str:
    """The file of a program: looked up in `search_path`, then beside this interpreter, where a venv has its programs.

    A relative path begins at the current folder. Raises `ApplicationError`.
    """
    beside = str(Path(sys.executable).parent)
    found = shutil.which(word, path=os.pathsep.join([search_path, beside]))
    if found is not None:
        return str(Path.cwd() / found)
    if os.sep not in word:
        text = f"there is no program {word!r} in PATH ({search_path}) or in {beside}; give its whole path"
    elif not Path(word).exists():
        text = f"there is no file {word!r}" + ("" if word.startswith("/") else f" in {Path.cwd()}")
    elif Path(word).is_dir():
        text = f"{word!r} is a folder, and no program"
    else:
        text = (
            f"{word!r} may not be executed by this user: `chmod +x` it, or put its interpreter in front of it"
        )
    raise ApplicationError(f"--command: {text}")
