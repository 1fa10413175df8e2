"""The directive ``.. from-code:: WHAT``: reference made from the code itself, where a page by hand would come to lie.

Each WHAT is a function here that answers lines of reStructuredText. What the code leaves unsaid, such as a key without
a docstring, fails the build.
"""

from __future__ import annotations

import inspect
import json
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import attrs
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective

from serverworker import options as command_line
from serverworker.ctl import main as ctl
from serverworker.decisions import life
from serverworker.monitor import crash_store
from serverworker.observers import journal, metric_families
from serverworker.observers.notifications import message, webhook
from serverworker.surfaces import operator_commands
from serverworker.values import causes, event_json, events, exit_status, ports, reading, settings, state, tls
from serverworker.values.rules import shown
from serverworker.wire import control

_MODULES = (
    causes,
    command_line,
    control,
    crash_store,
    ctl,
    events,
    exit_status,
    life,
    operator_commands,
    ports,
    settings,
    state,
    tls,
)
_DEFAULTS = settings.Settings()

_UNSAID = {
    "WatchdogSettings.interval_seconds": "From one ping to the next.",
    "RestartSettings.give_up_window_seconds": "For `give_up_after`.",
    "ExitStatus.OK": "The session ended as it was asked to: by SIGTERM, SIGINT, `exit` or `kill_session`.",
}
"""For what has no docstring in the code yet; one that is there wins."""


class FromCode(SphinxDirective):
    """``.. from-code:: WHAT``."""

    required_arguments = 1

    def run(self) -> list[Any]:
        what = self.arguments[0]
        if what not in _MAKERS:
            raise self.error(f"there is nothing to make called {what!r}; there is {', '.join(_MAKERS)}")
        for module in _MODULES:
            self.env.note_dependency(str(module.__file__))
        return self.parse_text_to_nodes("\n".join(_MAKERS[what]()), allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directive."""
    app.add_directive("from-code", FromCode)
    return {"parallel_read_safe": True}


# --- the parts ------------------------------------------------------------------------------------------


def _docs(kind: type[Any]) -> dict[str, str]:
    """The docstrings that stand below the fields of a class, by the field's name."""
    found = ModuleAnalyzer.for_module(kind.__module__).find_attr_docs()
    return {name: " ".join(lines).strip() for (owner, name), lines in found.items() if owner == kind.__name__}


def _doc(kind: type[Any], name: str) -> str:
    text = _docs(kind).get(name) or _UNSAID.get(f"{kind.__name__}.{name}")
    if not text:
        raise ExtensionError(f"{kind.__module__}.{kind.__qualname__}.{name} has no docstring")
    return text


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], widths: str = "auto") -> Iterator[str]:
    yield from ("", ".. list-table::", "   :header-rows: 1", f"   :widths: {widths}", "")
    for row in (header, *rows):
        for number, cell in enumerate(row):
            yield f"   {' ' if number else '*'} - {cell}"
    yield ""


def _written(value: object) -> str:
    """A default as it would stand in the configuration file."""
    if isinstance(value, tuple):
        return f"``{json.dumps(value)}``"
    return f"``{shown(value).removesuffix('.0')}``"


# --- options and keys -----------------------------------------------------------------------------------


def _default(key: str) -> Any:
    value: Any = _DEFAULTS
    for name in key.split("."):
        value = getattr(value, name)
    return value


def _allowed(attribute: attrs.Attribute[Any]) -> str:
    """What a key may be, in the very words with which anything else is refused."""
    rule: Any = attribute.validator
    [problem] = rule.problems("", object())
    return str(problem.text.removeprefix("must be ").rpartition(", not ")[0])


def _attribute(key: str) -> attrs.Attribute[Any]:
    table, _, name = key.rpartition(".")
    kind: type[Any] = type(_default(table)) if table else settings.Settings
    found: attrs.Attribute[Any] = attrs.fields_dict(kind)[name]
    return found


def _make_options() -> Iterator[str]:
    keys = {option.name: option.key for option in command_line._OPTIONS}
    parser = command_line.Options()
    takes_value = {name.removesuffix("="): name.endswith("=") for name in parser.longOpt}
    first = ["port", *keys]
    for name in [*first, *sorted(takes_value.keys() - set(first))]:
        yield f".. option:: --{name}{' <value>' if takes_value[name] else ''}"
        yield ""
        yield f"   {parser.docs[name]}"
        if name in keys:
            key = keys[name]
            yield f"   Sets :confval:`{key}`: {_allowed(_attribute(key))}."
        yield ""


def _make_keys() -> Iterator[str]:
    names = {option.key: option.name for option in command_line._OPTIONS}
    yield from _key("state_directory", settings.Settings, names)
    for table in attrs.fields(settings.Settings):
        kind: type[Any] = type(table.default)
        if attrs.has(kind):
            yield from _keys_of(table.name, kind, names)
    yield from _keys_of("tls.NAME", tls.TlsSettings, {})


def _keys_of(table: str, kind: type[Any], names: dict[str, str]) -> Iterator[str]:
    title = f"[{table}]"
    yield from (title, "-" * len(title), "")
    about = str(inspect.getdoc(kind)).removeprefix(f"``{title}``").lstrip(":. ")
    yield from (f"{about[:1].upper()}{about[1:]}", "")
    for attribute in attrs.fields(kind):
        if attribute.name != "name":  # that of a port stands in the table's
            yield from _key(f"{table}.{attribute.name}", kind, names)


def _key(key: str, kind: type[Any], names: dict[str, str]) -> Iterator[str]:
    attribute = attrs.fields_dict(kind)[key.rpartition(".")[2]]
    made: Any = attribute.default
    default = made.factory() if isinstance(made, attrs.Factory) else made  # type: ignore[arg-type]
    yield f".. confval:: {key}"
    yield f"   :type: {_allowed(attribute)}"
    if default is not None and default != {}:
        yield f"   :default: {_written(default)}"
    yield from ("", f"   {_doc(kind, key.rpartition('.')[2]).replace('None:', 'Unset:')}")
    if key in names:
        yield f"   On the command line: :option:`--{names[key]}`."
    yield ""


def _make_port_options() -> Iterator[str]:
    kinds = ports._OPTIONS
    rows = []
    for name in ("interface", "mode", "backlog"):
        default = attrs.fields_dict(ports.PortSettings)[name].default
        written = f"``{default:o}``" if name == "mode" else f"``{default}``" if default else "unset"
        of = ", ".join(f"``{kind}:``" for kind in kinds if name in kinds[kind])
        rows.append((f"``{name}=``", of, written, _doc(ports.PortSettings, name)))
    yield from _table(("option", "of", "default", "what it says"), rows)


def _make_default_file() -> Iterator[str]:
    """A whole file with every key at its default; what is unset by default stands in it as a comment."""
    lines = ["# state_directory =", "", "[ports]"]
    lines += [f"{port.name} = {json.dumps(port.describe())}" for port in _DEFAULTS.ports]
    for table in attrs.fields(settings.Settings):
        if not attrs.has(type(table.default)):
            continue
        lines += ["", f"[{table.name}]"]
        default: Any = table.default
        for name, value in attrs.asdict(default).items():
            unset = value is None or value == {}
            lines.append(f"# {name} =" if unset else f"{name} = {json.dumps(value).removesuffix('.0')}")
    source = reading.read(tomllib.loads("\n".join(lines)), label="the default file")
    if reading.combine(source) != _DEFAULTS:
        raise ExtensionError("the default file does not come to the defaults")
    yield from (".. code-block:: toml", "", *(f"   {line}" for line in lines), "")


# --- the rest -------------------------------------------------------------------------------------------


def _make_exit_statuses() -> Iterator[str]:
    statuses = exit_status.ExitStatus
    rows = [(f"``{status:d}``", f"``{status.name}``", _doc(statuses, status.name)) for status in statuses]
    yield from _table(("status", "name", "what it says"), rows, "10 20 70")


def _make_console() -> Iterator[str]:
    rows = [(f"``{command.usage}``", command.help) for command in operator_commands.COMMANDS]
    yield from _table(("command", "what it does"), [*rows, ("``help``", "all of these, and the agent's own")])


def _make_ctl() -> Iterator[str]:
    """What ``serverworkerctl --help`` prints."""
    yield from (".. code-block:: text", "", *(f"   {line}" for line in ctl.USAGE.splitlines()), "")


def _make_lives() -> Iterator[str]:
    for each in state.Life:
        yield from (each.value, f"   {_doc(state.Life, each.name)}")
    yield ""


def _make_life() -> Iterator[str]:
    def cell(outcome: state.Life | life.Outcome) -> str:
        return f"**{outcome.value}**" if isinstance(outcome, state.Life) else f"*{outcome.name.lower()}*"

    rows = [
        (happening.value, *(cell(life.next_life(each, happening)) for each in state.Life))
        for happening in life.Happening
    ]
    yield from _table(("what happens", *(each.value for each in state.Life)), rows)
    for outcome in life.Outcome:
        yield from (f"*{outcome.name.lower()}*", f"   {outcome.value[0].upper()}{outcome.value[1:]}.")
    yield ""


def _make_crash_report() -> Iterator[str]:
    """The table in the docstring of the module that writes reports, held against a report that it writes."""
    table = str(crash_store.__doc__).partition("::\n")[2].strip("\n").splitlines()
    told = {name for line in table for name in re.split(r"\s{2,}", line.strip())[0].split(", ")}
    death = events.WorkerDied(
        worker=1,
        generation=1,
        pid=None,
        life="serving",
        cause=causes.Cause(kind=causes.CauseKind.HANG, text=""),
        uptime_seconds=0.0,
        next_step="",
    )
    report = crash_store.CrashReport(at=0.0, sequence=1, session_pid=1, death=death)
    written = set(json.loads(report.as_json()))
    if told != written:
        raise ExtensionError(f"the docstring of crash_store and a report differ in {told ^ written}")
    yield from (".. code-block:: text", "", *(f"   {line.removeprefix('    ')}" for line in table), "")


def _make_webhook() -> Iterator[str]:
    """The table in the docstring of the webhook's module, held against a payload."""
    table = str(webhook.__doc__).partition("::\n")[2].strip("\n").splitlines()
    told = {
        name
        for line in table
        if line[4:5] != " "
        for name in re.split(r"\s{2,}", line.strip())[0].split(", ")
    }
    told_of = message.Message(id="", at=0.0, event="", cause="", host="", subject="", body="", details={})
    if told != (written := set(json.loads(webhook.payload(told_of, 1)))):
        raise ExtensionError(f"the docstring of webhook and a payload differ in {told ^ written}")
    yield from (".. code-block:: text", "", *(f"   {line.removeprefix('    ')}" for line in table), "")


def _make_metrics() -> Iterator[str]:
    rows = [
        (
            f"``{each.name}``",
            each.kind,
            ", ".join(f"``{label}``" for label in each.labels) or "none",
            each.help,
        )
        for each in metric_families.FAMILIES
    ]
    yield from _table(("metric", "type", "labels", "what it tells"), rows, "40 12 18 30")


def _make_journal() -> Iterator[str]:
    """The table in the docstring of `event_json`, held against a line of a journal."""
    table = str(event_json.__doc__).partition("::\n")[2].strip("\n").splitlines()
    keys = [re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in table]
    rows = [
        ("session", "when the session began, and its monitor's process id: numbers begin anew in each"),
        *keys,
    ]
    told = events.Told(sequence=1, at=0.0, event=events.PollingChanged(seconds=1.0))
    if [name for name, _ in rows] != list(json.loads(journal.line_of("", told))):
        raise ExtensionError("the docstring of event_json and a line of the journal differ")
    yield from _table(("key", "what it is"), [(f"``{name}``", about) for name, about in rows], "20 80")


def _make_causes() -> Iterator[str]:
    rows = [(f"``{kind.value}``", _doc(causes.CauseKind, kind.name)) for kind in causes.CauseKind]
    yield from _table(("cause.kind", "what it says"), rows, "20 80")


def _make_control() -> Iterator[str]:
    """The commands of the control port: what each takes and answers, with what the source says beside each."""
    yield from (str(inspect.getdoc(control)), "")
    for command in control.ControlCommand.__subclasses__():
        yield from (command.__name__, "-" * len(command.__name__), "", str(inspect.getdoc(command)), "")
        source = inspect.getsource(command)
        rows = []
        for what, fields in (("takes", command.arguments), ("answers", command.response)):
            for name, kind in fields:
                comment = re.search(rf'\(b"{name.decode()}", .*\),(?:  # (.*))?', source)
                optional = ", may be left out" if kind.optional else ""
                said = (comment[1] or "") if comment is not None else ""
                rows.append((what, f"``{name.decode()}``", f"{_amp_kind(kind)}{optional}", said))
        if rows:
            yield from _table(("", "key", "as", "what it says"), rows)


def _amp_kind(kind: Any) -> str:
    """How a value is written in a box."""
    names = {
        "Integer": "a whole number in decimal",
        "Boolean": "``True`` or ``False``",
        "Unicode": "text in UTF-8",
        "Seconds": "a number in decimal",
        "LargeText": "text in UTF-8, in pieces where it is long",
        "LargeJSON": "JSON, in pieces where it is long",
        "ListOf": "texts, each behind its length in two bytes",
    }
    return names[type(kind).__name__]


_MAKERS: dict[str, Callable[[], Iterator[str]]] = {
    "options": _make_options,
    "keys": _make_keys,
    "port-options": _make_port_options,
    "default-file": _make_default_file,
    "exit-statuses": _make_exit_statuses,
    "console": _make_console,
    "ctl": _make_ctl,
    "lives": _make_lives,
    "life": _make_life,
    "crash-report": _make_crash_report,
    "causes": _make_causes,
    "control": _make_control,
    "webhook": _make_webhook,
    "metrics": _make_metrics,
    "journal": _make_journal,
}
