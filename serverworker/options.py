"""The command line of `twistd serverworker`: its options, which key of the configuration each sets, bad usage."""

from __future__ import annotations

import getopt
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

import attrs
from attrs import frozen
from twisted.copyright import version as twisted_version
from twisted.python import usage

from serverworker.config_file import read_file
from serverworker.processes.fork_early import fork_early
from serverworker.values.errors import Problem
from serverworker.values.exit_status import ExitStatus
from serverworker.values.ports import port_key
from serverworker.values.reading import Source, combine, read
from serverworker.values.rules import InvalidSettings, key_part, shown
from serverworker.values.settings import Settings
from serverworker.values.tls import tls_key

_DEFAULTS = Settings()
_TARGET = re.compile(r"[\w.]+:[\w.]+")
_NAMED_PORT = re.compile(r"([^:=]*)=(.*)", re.DOTALL)

_HELP = """
The monitor binds the ports and starts workers, which run the application. A
worker that crashes or hangs is replaced, and no connection is refused
meanwhile. Without --app a welcome page is served.

Examples:
  twistd -n serverworker --port 8080 --app mysite.web:root
      serves `root` of mysite/web.py, in the foreground
  twistd -n serverworker --port 8080 --wsgi mysite.wsgi:application
      the same for Flask, Django and their like; --asgi for FastAPI's
  twistd -n serverworker --port 8080 -- web --path .
      runs another plugin of twistd, here the web server for files
  twistd serverworker --config /etc/mysite/serverworker.toml --workers 4
      reads all but the number of workers from the file, in the background

Every option has its key in the configuration file; an option wins over the
file. A relative path in an option starts at the current folder, one in the
file at the file's own folder.
Exit status: 0 fine, 64 wrong usage, 69 a port cannot be bound, 70 gave up,
78 the configuration or the application cannot be used.
"""

_PORT_HELP = (
    "Where to listen: 8080, tcp:8080:interface=127.0.0.1, tcp6:8080 or unix:/run/site.sock (default 8080). Repeats,"
    " with a name for each further port, such as socket=4321; the one without a name is `server`, which is polled."
)


def _number(text: str) -> int | float | str:
    """The number in the text; the text itself where there is none, for the key's own rule to refuse."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _truth(text: str) -> bool | str:
    return {"true": True, "false": False}.get(text, text)


def _value_of(settings: Settings, key: str) -> Any:
    value: Any = settings
    for name in key.split("."):
        value = getattr(value, name)
    return value


def _plainly(value: object) -> str:
    if isinstance(value, str):
        return repr(value)
    if isinstance(value, tuple):
        return ", ".join(shown(each) for each in value) or "none"
    return "unset" if value is None else shown(value).removesuffix(".0")


@frozen
class _Option:
    """An option that sets one key of the configuration."""

    name: str
    key: str
    text: str
    """For --help. ``{}`` stands for the default."""
    convert: Callable[[str], object] = str

    def row(self) -> list[str | None]:
        """As `usage.Options.optParameters` has it. Unset is None, so that the file has its say."""
        return [self.name, None, None, self.text.format(_plainly(_value_of(_DEFAULTS, self.key)))]


_OPTIONS = (
    _Option(
        "app",
        "app.resource",
        "module:attribute to serve: a twisted.web Resource, a Klein application, an IService, or a callable that"
        " gets the ServerWorker (default: a welcome page).",
    ),
    _Option(
        "wsgi", "app.wsgi", "module:attribute of a WSGI application to serve, such as Flask's or Django's."
    ),
    _Option(
        "wsgi-threads",
        "app.wsgi_threads",
        "How many requests a worker runs at a time where the application is WSGI (default {}).",
        _number,
    ),
    _Option("asgi", "app.asgi", "module:attribute of an ASGI application to serve, such as FastAPI's."),
    _Option(
        "command",
        "app.command",
        "A program to run that takes its socket by LISTEN_FDS, or as a number in place of {{fd}}.",
    ),
    _Option("agent", "app.agent", "module:Class, the application's SessionAgent (default: none)."),
    _Option("workers", "workers.count", "How many workers serve (default {}).", _number),
    _Option(
        "standby", "workers.standby", "How many workers are kept loaded and waiting (default {}).", _number
    ),
    _Option(
        "poll-route",
        "polling.route",
        "Path of the health route; good is an answer of 200 to 399 (default: /, and good is any below 500).",
    ),
    _Option(
        "poll-interval",
        "polling.interval_seconds",
        "Seconds from one poll of the health route to the next (default {}).",
        _number,
    ),
    _Option("poll-timeout", "polling.timeout_seconds", "Seconds that a poll may take (default {}).", _number),
    _Option(
        "poll-tolerance",
        "polling.failure_tolerance",
        "How many failed polls in a row are borne; one more and the worker is replaced (default {}).",
        _number,
    ),
    _Option(
        "startup-timeout",
        "startup.timeout_seconds",
        "Seconds that a worker may take from its start until it is ready (default {}).",
        _number,
    ),
    _Option(
        "drain-timeout",
        "drain.timeout_seconds",
        "Seconds that the requests in flight have when a worker leaves (default {}).",
        _number,
    ),
    _Option(
        "control",
        "control.endpoint",
        "Where serverworkerctl and other programs steer the session: unix:/run/site/control, or tcp:9443 with TLS from"
        " the file (default: `control`, a unix socket beside the session's state).",
    ),
    _Option(
        "dashboard",
        "dashboard.endpoint",
        "Where the page for operators is served, such as tcp:9001:interface=127.0.0.1; off loopback only with TLS from"
        " the file (default: nowhere).",
    ),
    _Option(
        "health",
        "health.endpoint",
        "Where /livez, /readyz and /metrics are served, without a key (default: nowhere).",
    ),
    _Option(
        "show-output",
        "output.show_server_output",
        "true or false: whether what workers print goes to the log (default {}).",
        _truth,
    ),
    _Option("log-format", "output.log_format", "'text', or 'json' for one object a line (default {})."),
    _Option(
        "state-dir",
        "state_directory",
        "Folder of the crash reports and the session's own files (default: $STATE_DIRECTORY, else serverworker/PORT"
        " in $XDG_STATE_HOME or ~/.local/state).",
    ),
)
_NAMES = {option.key: f"--{option.name}" for option in _OPTIONS}
_NAMES |= {"app.plugin": "--", "app.reload": "--reload"}


class Options(usage.Options):
    """What stands behind `serverworker` on the command line of twistd or twist.

    Nothing of it is settled when it is parsed: `settings` puts it together with the configuration file, and can be
    asked again when that has changed. Wrong usage ends the process with status 64 and a line that says what is wrong,
    because the traceback and the status 1 that twistd has for it help nobody.
    """

    synopsis = "[--port 8080] [--app module:attribute] [options] [-- PLUGIN ARGUMENTS…]"
    # Twisted would wrap it into one paragraph; `getUsage` adds ours as it is.
    longdesc = ""
    optFlags = [
        ["check-config", None, "Say whether the configuration is fine and what it comes to, and exit."],
        ["reload", None, "For development: restart when the code has changed."],
    ]
    optParameters = [
        ["config", None, None, "The configuration file, serverworker.toml (default: none is read)."],
        *(option.row() for option in _OPTIONS),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.docs["port"] = _PORT_HELP
        self.sources: tuple[Source, ...] = ()
        """What `settings` was made of the last time."""
        # twistd changes it when it daemonises.
        self.folder = str(Path.cwd())
        """Where relative paths start."""
        self._ports: list[tuple[str, str]] = []
        self._plugin: tuple[str, ...] = ()
        self._words: Sequence[str] = ()

    def opt_port(self, value: str) -> None:
        """Take one more port; what --help says of it is `_PORT_HELP`."""
        named = _NAMED_PORT.fullmatch(value)
        self._ports.append((named[1], named[2]) if named else ("server", value))

    def opt_version(self) -> NoReturn:
        """Print the versions of serverworker and Twisted and exit."""
        from importlib import metadata  # half a megabyte that a monitor has no use for

        try:
            version = metadata.version("serverworker")
        except metadata.PackageNotFoundError:
            version = "(not installed)"
        sys.stdout.write(f"serverworker {version}, Twisted {twisted_version}\n")
        raise SystemExit(ExitStatus.OK)

    def getUsage(self, width: int | None = None) -> str:
        """The text of --help below its first line."""
        return f"{super().getUsage(width)}{_HELP}"

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Read the arguments. Wrong usage is told on stderr and ends the process with status 64."""
        self.fork_server = fork_early(self.parent)  # nothing secret has been read yet
        self._words = sys.argv[1:] if options is None else options
        try:
            super().parseOptions(options)
        except usage.UsageError as error:
            _refuse([self._wrong_usage(error)], ExitStatus.USAGE)

    def parseArgs(self, *arguments: str) -> None:
        """Take the plugin and its arguments, which stand behind ``--``; refuse what stands there without one."""
        before = self._words[: len(self._words) - len(arguments)]
        if before and before[-1] == "--":
            if not arguments:
                raise usage.UsageError(
                    "behind -- belongs a plugin of twistd and its arguments, such as -- web --path ."
                )
            self._plugin = arguments
        elif arguments:
            raise usage.UsageError(self._stray(arguments[0]))

    def settings(self) -> Settings:
        """What file and options come to, the file read anew. Raises `InvalidSettings` with every problem."""
        name = self["config"]
        file = () if name is None else (read_file(name, self.folder),)
        self.sources = (*file, self._command_line())
        return combine(*self.sources)

    def _command_line(self) -> Source:
        data: dict[str, Any] = {}
        for option in _OPTIONS:
            if (text := self[option.name]) is not None:
                table, _, name = option.key.rpartition(".")
                (data.setdefault(table, {}) if table else data)[name] = option.convert(text)
        if self["reload"]:
            data.setdefault("app", {})["reload"] = True
        if self._plugin:
            data.setdefault("app", {})["plugin"] = list(self._plugin)
        if self._ports:
            data["ports"] = dict(self._ports)
        source = read(data, label="command line", folder=self.folder, spell=_spelled)
        return attrs.evolve(source, problems=(*source.problems, *self._repeated_ports()))

    def _repeated_ports(self) -> Iterator[Problem]:
        names = [name for name, _ in self._ports]
        for name in dict.fromkeys(names):
            if names.count(name) > 1:
                given = " and ".join(shown(value) for each, value in self._ports if each == name)
                yield Problem(port_key(name), f"is given more than once: {given}")

    def _long_names(self) -> list[str]:
        return [name.removesuffix("=") for name in self.longOpt]

    def _wrong_usage(self, error: usage.UsageError) -> str:
        cause = error.__context__
        if not isinstance(cause, getopt.GetoptError):
            return str(error)
        matches = [name for name in self._long_names() if name.startswith(cause.opt)]
        if len(cause.opt) > 1 and matches:  # it exists: its value is missing, or it is one of several
            several = "" if len(matches) == 1 else f": --{', --'.join(matches)}"
            return f"{cause.msg}{several}"
        name = f"--{cause.opt}" if len(cause.opt) > 1 else f"-{cause.opt}"
        if self.parent is not None and cause.opt in self.parent.synonyms:
            return f"{name} is none of serverworker's own options: write it in front of `serverworker`"
        return f"there is no option {name}{self._nearest(cause.opt)}"

    def _nearest(self, name: str) -> str:
        # Not `errors.nearest`: where nothing is near, all options in one line would be no help.
        close = get_close_matches(name, self._long_names(), n=1)
        return f"; did you mean --{close[0]}?" if close else ""

    def _stray(self, word: str) -> str:
        if word.isdecimal():
            tail = f"; did you mean --port {word}?"
        elif _TARGET.fullmatch(word):
            tail = f"; did you mean --app {word}?"
        else:
            tail = self._nearest(word)
        return f"{shown(word)} is no option{tail}"


def _spelled(key: str) -> str:
    """A key of the configuration as its option."""
    name = key.removeprefix("ports.")
    if name != key:
        return "--port" if name == "server" else f"--port {name}"
    return _NAMES.get(key, key)


def settle(options: Options) -> Settings:
    """The settings, for who makes the service; before anything is started, bound or daemonised.

    What is wrong is told on stderr, all of it, and ends the process: with status 64 where an option is wrong, else
    with 78.
    """
    try:
        return options.settings()
    except InvalidSettings as error:
        lines = [str(problem) for problem in error.problems]
        wrong_usage = any(line.startswith("--") for line in lines)
        _refuse(lines, ExitStatus.USAGE if wrong_usage else ExitStatus.CONFIG)


def conclude_check(options: Options, settings: Settings) -> None:
    """With ``--check-config``: print that all is fine and what it comes to, and end with status 0; else nothing."""
    if options["check-config"]:
        sys.stdout.write(summary(settings, options.sources))
        raise SystemExit(ExitStatus.OK)


def summary(settings: Settings, sources: Sequence[Source]) -> str:
    """Every value in effect and where it is from. Of the environment the names alone: its content may be secret."""
    lines = ["configuration is fine"]
    for key, text in _effective(settings):
        label = next((source.label for source in reversed(sources) if key in source.values), "default")
        lines.append(f"  {key} = {text}  ({label})")
    return "\n".join(lines) + "\n"


def _effective(settings: Settings) -> Iterator[tuple[str, str]]:
    for name, value in attrs.asdict(settings, recurse=False).items():
        if name == "ports":
            yield from ((port_key(port.name), shown(port.describe())) for port in settings.ports)
        elif name == "tls":
            yield from ((tls_key(each.name), each.describe()) for each in settings.tls)
        elif not attrs.has(type(value)):
            yield name, _plainly(value)
        else:
            for field in attrs.fields(type(value)):
                yield f"{name}.{field.name}", _told(field, getattr(value, field.name))


def _told(field: attrs.Attribute[Any], content: Any) -> str:
    if field.name == "environment":
        return _names(content)
    if field.repr is False and content is not None:  # what marks a secret
        return "set, and not shown"
    return _plainly(content)


def _names(variables: Mapping[str, str]) -> str:
    return ", ".join(key_part(name) for name in sorted(variables)) or "none"


def _refuse(problems: Sequence[str], status: ExitStatus) -> NoReturn:
    lines = ["serverworker cannot start:", *(f"  {problem}" for problem in problems)]
    if status is ExitStatus.USAGE:
        lines.append("`twistd serverworker --help` tells all options.")
    sys.stderr.write("\n".join(lines) + "\n")
    raise SystemExit(status)
