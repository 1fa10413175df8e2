"""Holds the layer table of the design against every import in the package."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from attrs import frozen
from twisted.trial.unittest import TestCase

import serverworker

PACKAGE = Path(serverworker.__file__).resolve().parent
"""The package that is imported: the checkout's, or the installed wheel's."""

TESTS = Path(__file__).resolve().parents[1]

LAYERS: tuple[tuple[str, ...], ...] = (
    ("values",),
    ("decisions",),
    ("wire",),
    ("processes",),
    ("monitor",),
    ("observers", "surfaces", "control"),
    ("composition root",),
    ("ctl",),
)
"""First to last. A module imports from its own folder and from earlier layers; two folders of one layer are strangers."""

COMPOSITION_ROOT = frozenset({"options", "config_file", "session", "listening", "operators", "monitoring"})
"""The modules beside the folders that join everything."""

OUTSIDE = frozenset({"serverworker", "serverworker.testing", "serverworker.commands"})
"""The façade and the public fakes: made of all layers, imported by none."""

VERSION = "serverworker.__version__"
"""The one name of the façade that everybody may have: it is there before anything is loaded."""

THIRD_PARTY = {"values": frozenset({"attr", "attrs"}), "decisions": frozenset({"attr", "attrs"})}
"""What a folder may import beyond the standard library; a folder that is not named here is free."""

IMPURE = frozenset({"asyncio", "os", "select", "socket", "subprocess", "threading", "time"})
"""Of the standard library, what the decisions have no use for: they are given "now" and do no I/O."""

REACTOR = "twisted.internet.reactor"
REACTOR_MODULES = frozenset({"serverworker.session", "serverworker.processes.entry"})
"""One function in each of these imports the global reactor; everything else is given one."""

HEAVY = ("treq", "klein", "twisted.web")
"""Imported where it is used, so that a monitor stays small."""

CURE = "import it, or what leads to it, inside the function that uses it"

MONITOR_STARTS = ("serverworker.session", "serverworker.monitor")
"""The modules that a monitor is sure to load, and so all that these load when they are imported."""

KNOWN_FOR_TYPES = frozenset({("serverworker.processes.agent", "serverworker.monitor.handle")})
"""Imports into a later layer that are for the type checker alone, each agreed on.

The agent is one class in both processes: the signature of its hook for the monitor names the monitor.
"""


@frozen(kw_only=True)
class Import:
    """One imported name, and where it is imported."""

    module: str
    """The importing module, dotted."""
    line: int
    target: str
    """What is imported, dotted: ``from a import b`` is ``a.b``."""
    function: str | None
    """The innermost function that it stands in; None where it runs when the module is imported."""
    for_types: bool
    """It stands under ``if TYPE_CHECKING``."""

    def __str__(self) -> str:
        path = self.module.replace(".", "/")
        return f"{path}, line {self.line}: imports {self.target}"

    def reaches(self, name: str) -> bool:
        """Whether the target is that module or something in it."""
        return self.target == name or self.target.startswith(f"{name}.")


class _Reader(ast.NodeVisitor):
    """Collects the imports of one module."""

    def __init__(self, module: str) -> None:
        self.module = module
        self.found: list[Import] = []
        self._function: str | None = None
        self._for_types = False

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._add(node.lineno, alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        source = "." * node.level + (node.module or "")
        for alias in node.names:
            self._add(node.lineno, f"{source}.{alias.name}")

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        outer, self._function = self._function, node.name
        self.generic_visit(node)
        self._function = outer

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self.visit_FunctionDef(node)

    def visit_If(self, node: ast.If) -> None:
        outer = self._for_types
        self._for_types = outer or ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}
        for statement in node.body:
            self.visit(statement)
        self._for_types = outer
        for statement in node.orelse:
            self.visit(statement)

    def _add(self, line: int, target: str) -> None:
        self.found.append(
            Import(
                module=self.module,
                line=line,
                target=target,
                function=self._function,
                for_types=self._for_types,
            )
        )


def imports_of(source: str, module: str) -> list[Import]:
    """Every import in a module's source text, those inside functions too."""
    reader = _Reader(module)
    reader.visit(ast.parse(source))
    return reader.found


def folder_of(name: str) -> str | None:
    """The folder of the layer table that a dotted name of ours lies in; None for a name outside the table."""
    parts = name.split(".")
    if len(parts) < 2 or parts[0] != "serverworker":
        return None
    if parts[1] in COMPOSITION_ROOT:
        return "composition root"
    return parts[1] if any(parts[1] in layer for layer in LAYERS) else None


def depth(folder: str) -> int:
    """The number of a folder's layer, from 1."""
    return next(number for number, layer in enumerate(LAYERS, start=1) if folder in layer)


def layer_fault(found: Import) -> str | None:
    """What is wrong with an import of ours, or None."""
    if found.target.startswith("."):
        return f"{found}: write the full name, a relative import hides the layer that it reaches for"
    if found.module in OUTSIDE or not found.reaches("serverworker") or found.target == VERSION:
        return None
    if found.for_types and any(
        found.module == own and found.reaches(other) for own, other in KNOWN_FOR_TYPES
    ):
        return None
    target = folder_of(found.target)
    if target is None:
        return f"{found}: that is the façade or the fakes; import the module of a layer that defines it"
    own = folder_of(found.module)
    if own is None or own == target or depth(target) < depth(own):
        return None
    if depth(target) == depth(own):
        return f"{found}: {own} and {target} are both of layer {depth(own)} and do not know each other"
    return f"{found}: {own} is layer {depth(own)} and must not know {target}, layer {depth(target)}"


def purity_fault(found: Import) -> str | None:
    """What is wrong with an import of somebody else's code into the pure layers, or None."""
    own = folder_of(found.module)
    allowed = THIRD_PARTY.get(own) if own is not None else None
    top = found.target.partition(".")[0]
    if allowed is None or top == "serverworker":
        return None
    if own == "decisions" and top in IMPURE:
        return f"{found}: decisions are pure functions of values; what {top} would tell is a parameter"
    if top in sys.stdlib_module_names or top in allowed:
        return None
    return f"{found}: {own} may import the standard library and attrs only"


def weight_faults(imports: Iterable[Import]) -> list[str]:
    """What is wrong with heavy imports: each that runs when a monitor is imported, and by what way it gets there."""
    eager: dict[str, list[Import]] = {}
    for found in imports:
        if found.function is None and not found.for_types:
            eager.setdefault(found.module, []).append(found)
    ways = {name: name for name in eager if name.startswith(MONITOR_STARTS)}
    waiting = list(ways)
    faults = []
    while waiting:
        module = waiting.pop()
        for found in eager[module]:
            if any(found.reaches(name) for name in HEAVY):
                faults.append(f"{found} when a monitor is imported ({ways[module]}): {CURE}")
            for name in eager:
                if name not in ways and found.reaches(name):
                    ways[name] = f"{ways[module]} → {name}"
                    waiting.append(name)
    return sorted(faults)


def modules() -> Iterator[tuple[str, str]]:
    """Each module of the package: its dotted name and its source text."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path.read_text(encoding="utf-8")


def all_imports() -> list[Import]:
    """Every import of the package."""
    return [found for name, source in modules() for found in imports_of(source, name)]


class HouseTestCase(TestCase):
    """A test case that fails with a list of what is wrong."""

    def assert_none(self, faults: Iterable[str | None]) -> None:
        """Fail if there is any fault, with all of them, one a line."""
        text = "".join(f"\n  {fault}" for fault in faults if fault is not None)
        if text:
            self.fail(text)


class LayerTests(HouseTestCase):
    """The package as it is."""

    def test_every_module_has_a_layer(self) -> None:
        """A new file or folder says where it belongs before anything imports it."""
        strangers = [name for name, _ in modules() if folder_of(name) is None and name not in OUTSIDE]
        self.assertEqual([], strangers, "these stand in no layer of the table in tests/unit/test_layers.py")

    def test_nobody_imports_from_a_later_layer(self) -> None:
        """Each import of ours, inside functions and for types too, goes to the same folder or an earlier layer."""
        self.assert_none(map(layer_fault, all_imports()))

    def test_values_and_decisions_are_pure(self) -> None:
        """They import attrs, the standard library and each other's earlier layer; decisions do no I/O."""
        self.assert_none(map(purity_fault, all_imports()))

    def test_a_monitor_loads_nothing_heavy(self) -> None:
        """No module that a monitor is sure to load imports treq, Klein or twisted.web, however many steps away."""
        self.assert_none(weight_faults(all_imports()))

    def test_the_facade_is_lazy(self) -> None:
        """`import serverworker` loads nothing of ours: names are looked up when somebody asks for them."""
        eager = [
            f"{found} when it is imported; `__getattr__` must do that"
            for found in all_imports()
            if found.module == "serverworker" and not found.for_types and found.function is None
            if found.target.partition(".")[0] not in sys.stdlib_module_names
        ]
        self.assert_none(eager)

    def test_the_global_reactor_is_imported_in_two_functions_only(self) -> None:
        """One function of the composition root and one of the worker's entry; everything else is given a reactor."""
        found = [each for each in all_imports() if each.reaches(REACTOR) and not each.for_types]
        astray = [each for each in found if each.module not in REACTOR_MODULES or each.function is None]
        self.assert_none(f"{each}: take the reactor as a parameter" for each in astray)
        for module in REACTOR_MODULES:
            functions = {each.function for each in found if each.module == module}
            self.assertEqual(
                1, len(functions), f"{module}: the functions that import the reactor: {functions}"
            )


class CheckTests(TestCase):
    """The checks themselves, against planted faults."""

    def fault(self, module: str, source: str) -> str:
        """What the checks say about a module with that source text."""
        checks = (layer_fault, purity_fault)
        faults = [check(found) for found in imports_of(source, module) for check in checks]
        return "\n".join(fault for fault in faults if fault is not None)

    def test_a_later_layer_is_named(self) -> None:
        """The message says which file and line, and which layer must not know which."""
        fault = self.fault("serverworker.wire.link", "\nfrom serverworker.monitor.service import Monitor\n")
        self.assertIn("serverworker/wire/link, line 2", fault)
        self.assertIn("wire is layer 3 and must not know monitor, layer 5", fault)

    def test_an_import_inside_a_function_counts(self) -> None:
        """Late imports make no hole in the layers, nor do those for the type checker."""
        for source in (
            "def f():\n    import serverworker.surfaces.console",
            "async def f():\n    from serverworker.observers import log",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from serverworker import session",
            "if TYPE_CHECKING:\n    from serverworker.monitor.handle import Monitor",
        ):
            self.assertIn("must not know", self.fault("serverworker.processes.entry", source))

    def test_agreed_imports_are_for_types_alone(self) -> None:
        """What one module may name for the type checker it may not import when it runs."""
        source = "from serverworker.monitor.handle import Monitor"
        self.assertEqual("", self.fault("serverworker.processes.agent", f"if TYPE_CHECKING:\n    {source}"))
        self.assertIn("must not know", self.fault("serverworker.processes.agent", source))

    def test_folders_of_one_layer_are_strangers(self) -> None:
        """Observers and surfaces do not import each other."""
        source = "from serverworker.observers.log import Log"
        self.assertIn("do not know each other", self.fault("serverworker.surfaces.console", source))

    def test_earlier_layers_and_the_own_folder_are_fine(self) -> None:
        """What the table allows is not reported."""
        for module, target in (
            ("serverworker.decisions.core", "serverworker.values.events"),
            ("serverworker.decisions.core", "serverworker.decisions.life"),
            ("serverworker.session", "serverworker.options"),
            ("serverworker.session", "serverworker.surfaces.console"),
            ("serverworker.testing", "serverworker.session"),
            ("serverworker", "serverworker.monitor.service"),
            ("serverworker.processes.welcome", VERSION),
        ):
            self.assertEqual("", self.fault(module, f"import {target}"))

    def test_the_facade_and_the_fakes_are_for_users(self) -> None:
        """A module of ours imports from the layer that defines a name, relatively from nowhere."""
        for source in (
            "import serverworker",
            "from serverworker import SessionAgent",
            "from serverworker.testing import FakeMonitor",
        ):
            self.assertIn("façade or the fakes", self.fault("serverworker.monitor.service", source))
        self.assertIn("full name", self.fault("serverworker.monitor.service", "from . import x"))

    def test_pure_layers_take_no_third_party(self) -> None:
        """Twisted stays out of the values, the clock and the sockets out of the decisions."""
        self.assertIn("attrs only", self.fault("serverworker.values.state", "from twisted.python import log"))
        self.assertIn("attrs only", self.fault("serverworker.decisions.core", "import zope.interface"))
        self.assertIn("parameter", self.fault("serverworker.decisions.core", "from time import monotonic"))
        self.assertEqual("", self.fault("serverworker.values.state", "import enum, attrs, os"))

    def test_heavy_imports_are_followed(self) -> None:
        """A heavy import two steps behind the monitor is found, with the way; one inside a function is not."""
        service = imports_of(
            "from serverworker.processes.spawn import Spawner", "serverworker.monitor.service"
        )
        spawn = imports_of("import serverworker.processes.poller", "serverworker.processes.spawn")
        poller = imports_of("class A:\n    from treq import get", "serverworker.processes.poller")
        (fault,) = weight_faults([*poller, *spawn, *service])
        self.assertIn(
            "serverworker/processes/poller, line 2: imports treq.get when a monitor is imported", fault
        )
        self.assertIn("monitor.service → serverworker.processes.spawn → serverworker.processes.poller", fault)
        self.assertEqual([], weight_faults([*poller, *spawn]))
        for source in (
            "def f():\n    import treq",
            "if TYPE_CHECKING:\n    from twisted.web.server import Site",
        ):
            self.assertEqual(
                [], weight_faults([*imports_of(source, "serverworker.processes.poller"), *spawn, *service])
            )
        other = "if TYPE_CHECKING:\n    pass\nelse:\n    import klein.app"
        self.assertEqual(1, len(weight_faults(imports_of(other, "serverworker.session"))))


class SentenceTests(HouseTestCase):
    """Every test says in a sentence what it holds."""

    def test_every_test_has_a_sentence(self) -> None:
        """Each `test_…` method under tests/ has a docstring."""
        silent = [
            f"{path.relative_to(TESTS)}, line {node.lineno}: {node.name} has no docstring"
            for path in sorted(TESTS.rglob("test_*.py"))
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
            if ast.get_docstring(node) is None
        ]
        self.assert_none(silent)
