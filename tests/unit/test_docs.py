"""Holds the pages under docs/ against the code: what they name is there, and what can ring has its advice."""

from __future__ import annotations

import ast
import contextlib
import io
import re
import shlex
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

import serverworker
from serverworker import Monitor, ServerWorker
from serverworker.ctl import main as ctl
from serverworker.options import Options
from serverworker.surfaces.operator_commands import COMMANDS
from serverworker.values.causes import CauseKind
from serverworker.values.errors import ConfigurationError
from serverworker.values.exit_status import ExitStatus
from serverworker.values.reading import read
from serverworker.values.sentences import level_and_sentence
from serverworker.values.state import Life, Phase
from tests.unit.test_log import EXAMPLES

DOCS = Path(__file__).resolve().parents[2] / "docs"
PACKAGE = Path(serverworker.__file__).resolve().parent

_ENDS_A_COMMAND = frozenset({"&&", "||", ";", "&", "|"})


def pages() -> list[Path]:
    """All pages, by name."""
    if not DOCS.exists():
        raise SkipTest("the wheel's tests run without the documentation")
    return sorted(path for path in DOCS.rglob("*.rst") if "_build" not in path.parts)


def blocks(text: str, language: str) -> Iterator[str]:
    """The content of each ``code-block`` in that language, as it is indented."""
    pattern = rf"^( *)\.\. code-block:: {language}\n((?:\1 +.*\n|\n)+)"
    for found in re.finditer(pattern, text, re.MULTILINE):
        yield found[2]


def typed(text: str) -> Iterator[list[str]]:
    """Each command that a page has somebody type, as words: of the terminal's blocks, and in the running text."""
    for block in blocks(text, "console"):
        for line in re.findall(r"^ *[$#] (.*)$", block.replace("\\\n", ""), re.MULTILINE):
            yield from commands(line)
    for line in re.findall(r"``((?:serverworkerctl|twistd?) [^`]*)``", text):
        yield from commands(line.replace("…", ""))


def commands(line: str) -> Iterator[list[str]]:
    """The commands of one line of a shell, each as words; good enough for what stands in a page."""
    words: list[str] = []
    for word in shlex.split(line.replace(";", " ; "), comments=True):
        if word in _ENDS_A_COMMAND:
            yield words
            words = []
        else:
            words.append(word)
    yield words


def behind(program: str, words: Iterable[str]) -> list[str] | None:
    """What a program is given, whatever folder it is called from; None where it is not in the command."""
    rest = list(words)
    for number, word in enumerate(rest):
        if word == program or word.endswith(f"/{program}"):
            return rest[number + 1 :]
    return None


def session_options(words: list[str]) -> list[str] | None:
    """The options of ``twistd serverworker`` in a command, or in one that prints units for them."""
    of_ctl = behind("serverworkerctl", words)
    if of_ctl is not None and "systemd" in of_ctl and "--" in of_ctl:
        return of_ctl[of_ctl.index("--") + 1 :]
    if behind("twistd", words) is None and behind("twist", words) is None:
        return None
    return behind("serverworker", words)


class PagerTests(SynchronousTestCase):
    """``docs/when-the-pager-rings.rst``: nothing that can go wrong is without advice."""

    def text(self) -> str:
        pages()
        return (DOCS / "when-the-pager-rings.rst").read_text()

    def test_each_kind_of_death(self) -> None:
        """Each cause of a death has a section of its own, with what is printed and what to do."""
        text = self.text()
        for kind in CauseKind:
            title = f"``{kind.value}``"
            section = text.partition(f"\n{title}\n{'~' * len(title)}\n")[2].partition("~~~")[0]
            self.assertIn(".. code-block:: text", section, kind)
            self.assertIn("**Do**", section, kind)

    def test_each_event_that_warns(self) -> None:
        """Each event that is ever told as a warning or an error is there."""
        troubles = {
            type(event).__name__
            for event, *_ in EXAMPLES
            if level_and_sentence(event)[0] in ("warn", "error")
        }
        self.assertIn("WorkerDied", troubles)
        told = set(re.findall(r":class:`~serverworker\.values\.[\w.]+?\.(\w+)`", self.text()))
        self.assertEqual(troubles - told, set())

    def test_each_life_and_phase(self) -> None:
        """Each life of a worker has its row; each phase of a session is told of."""
        text = self.text()
        for life in Life:
            self.assertIn(f"\n   * - ``{life.value}``\n", text)
        for phase in Phase:
            self.assertIn(f"``{phase.value}``", text)

    def test_each_exit_status(self) -> None:
        """Each exit status has its row."""
        for status in ExitStatus:
            self.assertIn(f"\n   * - {status:d}\n", self.text())

    def test_each_fault(self) -> None:
        """What a `Fault` may say that failed, as far as the code has it in words, has its row."""
        text = self.text()
        begins = set(faults())
        self.assertGreater(len(begins), 5)
        self.assertEqual({each for each in begins if f"``{each}" not in text}, set())


def faults() -> Iterator[str]:
    """How the texts begin that the package gives a `Fault` as ``where``, up to what is put into them."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            where = [keyword.value for keyword in node.keywords if keyword.arg == "where"]
            if name == "_fault":
                where = node.args[:1]
            elif name != "Fault":
                continue
            for value in where:
                first = value.values[0] if isinstance(value, ast.JoinedStr) else value
                if isinstance(first, ast.Constant):
                    yield re.split(r"[(,]", str(first.value))[0].strip()


class PagesTests(SynchronousTestCase):
    """All pages: what is typed and written in them is what the program takes."""

    def test_configuration(self) -> None:
        """Each piece of a configuration file in a page, and each such file beside it, is one that is accepted."""
        texts = [(page, block) for page in pages() for block in blocks(page.read_text(), "toml")]
        texts += [(path, path.read_text()) for path in sorted(DOCS.rglob("*.toml"))]
        self.assertGreater(len(texts), 10)
        for path, text in texts:
            problems = read(tomllib.loads(text.replace("…", "etc")), label=path.name).problems
            self.assertEqual([str(problem) for problem in problems], [], f"{path}:\n{text}")

    def test_command_lines(self) -> None:
        """Each command line of ``twistd serverworker`` in a page is one that is accepted, but for the file it names."""
        number = 0
        for page in pages():
            for words in typed(page.read_text()):
                arguments = session_options(words)
                if arguments is None or set(arguments) & {"--help", "--version"}:
                    continue
                if "--config" in arguments:
                    at = arguments.index("--config")
                    del arguments[at : at + 2]
                number += 1
                self.accepted(page, arguments)
        self.assertGreater(number, 10)

    def accepted(self, page: Path, arguments: list[str]) -> None:
        told = io.StringIO()
        try:
            with contextlib.redirect_stderr(told):
                options = Options()
                options.parseOptions(arguments)
                options.settings()
        except (SystemExit, ConfigurationError) as error:
            self.fail(f"{page}: {shlex.join(arguments)}\n{told.getvalue()}{error}")

    def test_names_in_python(self) -> None:
        """Whatever a page says that a monitor or a worker has, it has."""
        kinds = {"monitor": Monitor, "worker": ServerWorker}
        number = 0
        for page in pages():
            for which, name in re.findall(r"``(?:await )?(monitor|worker)\.(\w+)", page.read_text()):
                number += 1
                there = hasattr(kinds[which], name) or (which, name) == ("worker", "reactor")
                self.assertTrue(there, f"{page}: {which}.{name}")
        self.assertGreater(number, 10)

    def test_operators_commands(self) -> None:
        """Each command for ``serverworkerctl`` in a page is one that there is."""
        known = [command.words for command in COMMANDS] + [("help",), ("completion",), ("systemd",)]
        number = 0
        for page in pages():
            for words in typed(page.read_text()):
                arguments = behind("serverworkerctl", words)
                if not arguments or set(arguments) & {"--help", "--version"}:
                    continue
                number += 1
                said = ctl.parse(arguments).words
                fits = not said or any(said[: len(each)] == each for each in known)
                self.assertTrue(fits, f"{page}: serverworkerctl {shlex.join(arguments)}")
        self.assertGreater(number, 10)
