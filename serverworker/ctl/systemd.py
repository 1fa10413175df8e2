"""`serverworkerctl systemd`: the units that run a session with the present options under systemd."""

from __future__ import annotations

import getopt
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from attrs import frozen

from serverworker.ctl.present_options import CommandLine, given_options, running_options
from serverworker.ctl.sandbox import Sandbox
from serverworker.ctl.units import Service, service_text, socket_name, socket_text
from serverworker.options import Options, settle
from serverworker.values.errors import BadCommand, ConfigurationError
from serverworker.values.ports import PortSettings
from serverworker.values.settings import Settings

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,30}")
_UNITS = "/etc/systemd/system"
_OPTIONS = ("name=", "user=", "socket", "writable=", "output=")
_PLACED = {
    "state-dir": "state_directory",
    "control": "control.endpoint",
    "dashboard": "dashboard.endpoint",
    "health": "health.endpoint",
}
"""Options with a path in them, and the key whose value has it absolute."""


@frozen(kw_only=True)
class Wanted:
    """What the operator wants to have written."""

    name: str = "serverworker"
    user: str | None = None
    socket: bool = False
    writable: tuple[str, ...] = ()
    output: str | None = None
    words: tuple[str, ...] | None = None
    """The options of the session; None: those of the one that runs."""


def parse(words: Sequence[str]) -> Wanted:
    """The words behind `systemd`. Raises `BadCommand`."""
    own, separator, given = _split(words)
    try:
        pairs, stray = getopt.getopt(list(own), "", list(_OPTIONS))
    except getopt.GetoptError as error:
        raise BadCommand(f"systemd: {error}; it takes {_synopsis()}") from error
    if stray:
        raise BadCommand(f"systemd: {stray[0]!r} is no option of it; it takes {_synopsis()}")
    options = dict(pairs)
    wanted = Wanted(
        name=options.get("--name", "serverworker"),
        user=options.get("--user"),
        socket="--socket" in options,
        writable=tuple(str(Path(text).absolute()) for name, text in pairs if name == "--writable"),
        output=str(Path(options["--output"]).absolute()) if "--output" in options else None,
        words=tuple(given) if separator else None,
    )
    _check(wanted)
    return wanted


def _split(words: Sequence[str]) -> tuple[Sequence[str], bool, Sequence[str]]:
    if "--" not in words:
        return words, False, ()
    at = list(words).index("--")
    return words[:at], True, words[at + 1 :]


def _synopsis() -> str:
    return "[--name NAME] [--user USER] [--socket] [--writable PATH] [--output DIR] [-- OPTIONS of twistd serverworker]"


def _check(wanted: Wanted) -> None:
    if not _NAME.fullmatch(wanted.name):
        raise BadCommand(f"--name must be letters, digits, '-' and '_', 63 at most, not {wanted.name!r}")
    if wanted.user is not None and not _USER.fullmatch(wanted.user):
        raise BadCommand(f"--user must be the name of a user, not {wanted.user!r}")
    if wanted.user == "root":
        text = (
            "--user root: nothing of a session needs root; leave it out, and the unit has a user of its own"
        )
        raise BadCommand(text)


def run(words: Sequence[str], state_directory: str | None, environ: Mapping[str, str]) -> None:
    """Print the units, or write them to ``--output``.

    Raises `BadCommand`, `Unreachable` where no session runs, and `ConfigurationError` for what cannot work under
    systemd; wrong options of `twistd serverworker` end the process, as they do there.
    """
    wanted = parse(words)
    if wanted.words is None:
        line = running_options(state_directory, environ)
    else:
        line = given_options(wanted.words, str(Path.cwd()), _program(), os.path.realpath(sys.executable))
    os.chdir(line.directory)  # where relative paths start
    options = Options()
    options.parseOptions(list(line.words))
    settings = settle(options)
    _write(wanted, units(wanted, line, options, settings))


def _program() -> str:
    """The folder of the twistd beside this interpreter, or else in PATH."""
    beside = Path(sys.executable).parent
    if (beside / "twistd").exists():
        return str(beside)
    found = shutil.which("twistd")
    if found is None:
        raise BadCommand(f"there is no twistd beside {sys.executable}, nor in PATH: install Twisted there")
    return str(Path(found).parent)


def units(wanted: Wanted, line: CommandLine, options: Options, settings: Settings) -> dict[str, str]:
    """The text of each unit, by file name. Raises `ConfigurationError` with all that cannot work under systemd."""
    sandbox = Sandbox(options, settings, wanted.name, wanted.user)
    writable = sandbox.check(line, wanted.writable, sockets=wanted.socket)
    problems = [*sandbox.problems, *_problems(wanted, options, settings)]
    if problems:
        raise ConfigurationError("\n  ".join(["this cannot work under systemd:", *problems]))
    bound = [port for _, port in sandbox.endpoints()] + ([] if wanted.socket else list(settings.ports))
    control = next((port for key, port in sandbox.endpoints() if key == "control.endpoint"), None)
    service = Service(
        name=wanted.name,
        program=line.program,
        twistd=line.twistd,
        options=tuple(absolute_words(options)),
        directory=line.directory,
        user=wanted.user,
        drain_seconds=settings.drain.timeout_seconds,
        unready_seconds=settings.drain.unready_seconds,
        low_port=any(port.kind != "unix" and 0 < port.port < 1024 for port in bound),
        control_is_local=control is None or control.kind == "unix",
        runs_programs=settings.app.command is not None,
        logs=writable.logs,
        writable=writable.paths,
        sockets=settings.ports if wanted.socket else (),
    )
    texts = {f"{wanted.name}.service": service_text(service)}
    return texts | {socket_name(service, port): socket_text(service, port) for port in service.sockets}


def _problems(wanted: Wanted, options: Options, settings: Settings) -> list[str]:
    """What cannot work, beyond files."""
    problems = []
    if options.get("reload"):
        problems.append("--reload is for development: under systemd, `systemctl reload` starts the new code")
    if wanted.socket and not settings.workers.bind:
        problems.append(
            "--socket: workers.bind is false, so the application binds by itself and takes no socket"
        )
    if wanted.socket:
        problems += [
            f"--socket: the port {port.name} is {port.describe()}, any free one, and systemd needs its number"
            for port in settings.ports
            if port.kind != "unix" and port.port == 0
        ]
        problems += [
            f"--socket: the port {port.name} is {port.path}, and {_run(wanted)} goes with everything in it when the "
            f"service stops: put it beside, such as {_run(wanted)}.{port.name}"
            for port in settings.ports
            if port.kind == "unix" and Path(port.path).is_relative_to(_run(wanted))
        ]
    return problems


def _run(wanted: Wanted) -> str:
    return f"/run/{wanted.name}"


def absolute_words(options: Options) -> list[str]:
    """The options as they were given, with every path absolute; after `Options.settings`."""
    values = options.sources[-1].values
    words = []
    for name in (str(row[0]) for row in Options.optParameters):
        text = options[name]
        if text is None:
            continue
        if name == "config":
            text = str(Path(options.folder, text))
        elif name in _PLACED:
            text = str(values[_PLACED[name]])
        words.append(f"--{name}={text}")
    words += [_port_word(value) for value in values.values() if isinstance(value, PortSettings)]
    words += [f"--{name}" for name in _flags() if options[name] and name != "check-config"]
    plugin = values.get("app.plugin")
    return [*words, "--", *plugin] if plugin else words


def _flags() -> list[str]:
    return [str(row[0]) for row in Options.optFlags]


def _port_word(port: PortSettings) -> str:
    plain = port.describe().removeprefix("tcp:")
    return f"--port={plain}" if port.name == "server" else f"--port={port.name}={plain}"


def _write(wanted: Wanted, texts: Mapping[str, str]) -> None:
    if wanted.output is None:
        parts = [f"# {_UNITS}/{name}\n{text}" for name, text in texts.items()]
        sys.stdout.write("\n".join(parts))
        sys.stdout.flush()
        return
    for name, text in texts.items():
        path = Path(wanted.output, name)
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise BadCommand(f"--output: {path} cannot be written: {error.strerror}") from error
        sys.stdout.write(f"{path}\n")
