"""The options that a unit is to have: those that were given, or those that the running session was started with."""

from __future__ import annotations

import getopt
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from attrs import frozen

from serverworker.ctl.finding import find
from serverworker.processes.state_directory import LOCK_NAME
from serverworker.values.errors import BadCommand

_WITHOUT_EFFECT = frozenset({"--nodaemon", "-n", "--no_save", "-o", "--pidfile"})
"""Options of twistd's own that a unit has anyhow, or has no use for."""
_KEPT = {"--reactor": "--reactor", "-r": "--reactor"}
_PLUGIN = "serverworker"


@frozen(kw_only=True)
class CommandLine:
    """How a session is, or was, started."""

    words: tuple[str, ...]
    """The options of `twistd serverworker`."""
    directory: str
    """Where relative paths start."""
    program: str
    """The folder that twistd stands in."""
    interpreter: str
    """The interpreter's own file, links followed."""
    twistd: tuple[str, ...] = ()
    """Options of twistd's own that matter under systemd too."""


def given_options(words: Sequence[str], directory: str, program: str, interpreter: str) -> CommandLine:
    """Options as they were given: the whole command line, or what stands behind `serverworker` in it.

    Raises `BadCommand` where twistd has options that have no place in a unit.
    """
    if not words or Path(words[0]).name != "twistd":
        return CommandLine(words=tuple(words), directory=directory, program=program, interpreter=interpreter)
    return _of_twistd(words[1:], directory, program, interpreter)


def running_options(state_directory: str | None, environ: Mapping[str, str]) -> CommandLine:
    """Those of the session that runs. Raises `Unreachable`, or `BadCommand` where they cannot be had."""
    folder = find(state_directory, environ).state_directory
    pid = (folder / LOCK_NAME).read_text(encoding="ascii", errors="replace").strip()
    try:
        words = [os.fsdecode(word) for word in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]]
        directory = str(Path(f"/proc/{pid}/cwd").readlink())
        interpreter = str(Path(f"/proc/{pid}/exe").readlink())
    except OSError as error:
        text = f"how the session with pid {pid} was started cannot be read: {error.strerror}"
        raise BadCommand(f"{text}; {_GIVE_THEM}") from error
    script = next((at for at, word in enumerate(words[:3]) if Path(word).name == "twistd"), None)
    if script is None:
        raise BadCommand(
            f"the session was started by {' '.join(words[:3])}, and a unit has twistd; {_GIVE_THEM}"
        )
    program = Path(directory, words[script]).parent
    return _of_twistd(words[script + 1 :], directory, str(program), interpreter)


_GIVE_THEM = "give its options: serverworkerctl systemd … -- --port 8080 …"


def _of_twistd(words: Sequence[str], directory: str, program: str, interpreter: str) -> CommandLine:
    """Take the options of twistd's own away, which stand before the plugin's name."""
    from twisted.scripts.twistd import ServerOptions  # type: ignore[attr-defined]  # one of several, by platform

    known = ServerOptions()
    try:
        pairs, rest = getopt.getopt(list(words), known.shortOpt, known.longOpt)
    except getopt.GetoptError as error:
        raise BadCommand(f"twistd: {error}") from error
    if rest[:1] != [_PLUGIN]:
        raise BadCommand(
            f"behind -- belongs `twistd serverworker …`, or its options, not {' '.join(words)!r}"
        )
    kept: list[str] = []
    for name, value in pairs:
        if name in _KEPT:
            kept.append(f"{_KEPT[name]}={value}")
        elif name not in _WITHOUT_EFFECT:
            raise BadCommand(
                f"twistd's own option {name} has no place in a unit: systemd starts the session in the foreground, sets "
                "its user (--user) and its folder, and the journal has its log (or [output] file); leave it out"
            )
    return CommandLine(
        words=tuple(rest[1:]),
        directory=directory,
        program=program,
        interpreter=interpreter,
        twistd=tuple(kept),
    )
