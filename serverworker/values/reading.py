"""How settings are read from nested tables, key by key, so that every problem is found and told at once.

A file, the command line and the JSON of the handshake each become a `Source`; `combine` makes settings of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs
from attrs import Attribute, frozen

from serverworker.values.errors import Problem, nearest
from serverworker.values.ports import PortSettings, parse_port, port_key
from serverworker.values.rules import InvalidSettings, Rule, key_part, placed, shown
from serverworker.values.settings import Settings
from serverworker.values.surfaces import absolute_endpoint
from serverworker.values.tls import TlsSettings, tls_key

_TABLES: dict[str, type[Any]] = {
    item.name: type(item.default) for item in attrs.fields(Settings) if attrs.has(type(item.default))
}
_TOP_LEVEL: list[str] = [item.name for item in attrs.fields(Settings)]
_FOLDER_KEYS = frozenset(
    {
        "app.directory",
        "output.access_log_file",
        "output.file",
        "state_directory",
        "control.certificate",
        "control.private_key",
        "control.client_authority",
        "dashboard.certificate",
        "dashboard.private_key",
        "mail.password_file",
        "webhook.secret_file",
    }
)
"""Keys whose value is a path, which starts at the folder that it was written in."""


_TLS_FIELDS = {name: each for name, each in attrs.fields_dict(TlsSettings).items() if name != "name"}
_TLS_FILES = (".certificate", ".private_key")

_SECRET_TABLES = frozenset({"mail", "webhook"})
"""What stands in their place is not shown: it may be the URL or the password."""


@frozen(kw_only=True)
class Source:
    """One place that settings come from, read and checked key by key."""

    label: str
    """Where that is, such as the name of a file."""
    values: dict[str, Any]
    """By dotted key, such as ``polling.interval_seconds``; a port is a `PortSettings`, its TLS a `TlsSettings`. Each may
    stand by itself."""
    problems: tuple[Problem, ...] = ()
    """An empty key: the source as a whole cannot be used."""
    spell: Callable[[str], str] = str
    """How a key is written there, such as ``--poll-interval``; for an error's text."""


def read(data: object, *, label: str, folder: str = "", spell: Callable[[str], str] = str) -> Source:
    """Read nested tables, as `tomllib` or `json` give them. Never raises: problems are in the result.

    A relative path in them starts at `folder`.
    """
    reader = _Reader(folder)
    if isinstance(data, Mapping):
        reader.read_all(data)
    else:
        reader.problems.append(Problem("", f"must be a table, not {shown(data)}"))
    return Source(label=label, values=reader.values, problems=tuple(reader.problems), spell=spell)


def combine(*sources: Source) -> Settings:
    """The settings of all sources, a later one first; defaults for the rest.

    Ports are combined by name. Where no source has a port, the default one is there.
    Raises `InvalidSettings` with all problems of all sources, and of how their values go together.
    """
    problems = [_spelled(problem, source) for source in sources for problem in source.problems]
    wrong = {problem.key.partition(".")[0] for source in sources for problem in source.problems}
    if "" in wrong:  # what a broken file was meant to say is not known: no more guesses
        raise InvalidSettings(problems)
    values = {key: value for source in sources for key, value in source.values.items()}
    # A table with a wrong value stays at its defaults here, so that nothing is said of what goes with it.
    arguments = {key: value for key, value in values.items() if key.partition(".")[0] not in wrong}
    together: dict[str, Any] = {}
    for name, table in _TABLES.items():
        try:
            together[name] = table(**_fields_of(name, arguments))
        except InvalidSettings as error:
            problems.extend(_found(problem, sources) for problem in error.problems)
    ports = tuple(value for value in arguments.values() if isinstance(value, PortSettings))
    if ports:
        together["ports"] = ports
    together["tls"] = tuple(value for value in arguments.values() if isinstance(value, TlsSettings))
    try:
        settings = Settings(**together, state_directory=arguments.get("state_directory"))
        if not problems:
            return settings
    except InvalidSettings as error:
        problems.extend(_found(problem, sources) for problem in error.problems)
    raise InvalidSettings(problems)


class _Reader:
    """Collects the values and the problems of one source."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.values: dict[str, Any] = {}
        self.problems: list[Problem] = []

    def read_all(self, data: Mapping[str, object]) -> None:
        for name, value in data.items():
            if name not in _TOP_LEVEL:
                self._unknown("", name, _TOP_LEVEL)
            elif name == "state_directory":
                self._read_value(name, attrs.fields_dict(Settings)[name], value)
            elif not isinstance(value, Mapping):
                what = "that" if name in _SECRET_TABLES else shown(value)
                self.problems.append(Problem(name, f"must be a table, [{name}], not {what}"))
            elif name == "ports":
                self._read_ports(value)
            elif name == "tls":
                self._read_tls(value)
            else:
                self._read_table(name, value)

    def _read_table(self, table: str, data: Mapping[str, object]) -> None:
        self._read_fields(table, attrs.fields_dict(_TABLES[table]), data)

    def _read_fields(
        self, table: str, fields: Mapping[str, Attribute[Any]], data: Mapping[str, object]
    ) -> None:
        for name, value in data.items():
            if name in fields:
                self._read_value(f"{table}.{name}", fields[name], value)
            else:
                self._unknown(f"{table}.", name, list(fields))

    def _read_value(self, key: str, attribute: Attribute[Any], value: Any) -> None:
        rule: Rule = attribute.validator  # type: ignore[assignment]  # each field of a table has one of ours
        problems = rule.problems(key, value)
        self.problems.extend(problems)
        if not problems:
            self.values[key] = self._placed(key, value)

    def _placed(self, key: str, value: Any) -> Any:
        # A bare `python3.12` is looked up in PATH, as a shell would.
        is_file = key in _FOLDER_KEYS or (key.startswith("tls.") and key.endswith(_TLS_FILES))
        if isinstance(value, str) and (is_file or (key == "app.python" and "/" in value)):
            return placed(value, self.folder)
        if isinstance(value, str) and key.endswith(".endpoint") and value.startswith("unix:"):
            return absolute_endpoint(value, self.folder)
        return value

    def _read_ports(self, data: Mapping[str, object]) -> None:
        for name, value in data.items():
            try:
                self.values[port_key(name)] = parse_port(name, value, self.folder)
            except InvalidSettings as error:
                self.problems.extend(error.problems)

    def _read_tls(self, data: Mapping[str, object]) -> None:
        for name, table in data.items():
            key = tls_key(name)
            if not isinstance(table, Mapping):
                text = f"must be a table for the port of that name, such as [tls.server], not {shown(table)}"
                self.problems.append(Problem(key, text))
                continue
            reader = _Reader(self.folder)
            reader._read_fields(key, _TLS_FIELDS, table)
            self.problems.extend(reader.problems)
            try:
                if not reader.problems:
                    self.values[key] = TlsSettings(name=name, **_fields_of(key, reader.values))
            except InvalidSettings as error:
                self.problems.extend(error.problems)

    def _unknown(self, table: str, name: str, known: list[str]) -> None:
        text = f"there is no such key{nearest(name, known)}"
        self.problems.append(Problem(f"{table}{key_part(name)}", text))


def _fields_of(table: str, values: Mapping[str, Any]) -> dict[str, Any]:
    prefix = f"{table}."
    return {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)}


def _spelled(problem: Problem, source: Source) -> Problem:
    return attrs.evolve(problem, key=source.spell(problem.key))


def _found(problem: Problem, sources: tuple[Source, ...]) -> Problem:
    """A problem between values, spelled as the last source that has a say in it would."""
    table = problem.key.partition(".")[0]
    for source in reversed(sources):
        if problem.key in source.values:
            return _spelled(problem, source)
    for source in reversed(sources):
        if any(key.startswith(f"{table}.") for key in source.values):
            return _spelled(problem, source)
    return problem
