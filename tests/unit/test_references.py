"""What an operator names by ``module:attribute``, and what is said where it is not there."""

from __future__ import annotations

from typing import Any

from serverworker.processes.references import load_agent, resolve, theirs
from serverworker.values.errors import ApplicationError
from tests.unit.written_modules import ModulesTestCase, without_marks


class ReferenceTestCase(ModulesTestCase):
    def refused(self, reference: str) -> str:
        """The text of the error."""
        return str(self.assertRaises(ApplicationError, resolve, reference, "--app"))


class ResolveTests(ReferenceTestCase):
    """Finding it."""

    def test_found(self) -> None:
        """A module's attribute, one in a package, and an attribute of an attribute."""
        self.module("one", "root = 1")
        self.module("site_a.web", "class Part:\n    root = 2")
        self.assertEqual(resolve("one:root", "--app"), 1)
        self.assertEqual(resolve("site_a.web:Part.root", "--app"), 2)

    def test_form(self) -> None:
        """A text of another form is refused before anything is imported."""
        for text in ("one", ":root", "one:", ""):
            self.assertEqual(
                self.refused(text),
                f"--app {text!r} is not of the form module:attribute, such as mysite.web:root",
            )

    def test_no_module(self) -> None:
        """A module that is not there: its name, and where it was looked for."""
        self.assertEqual(
            self.refused("no_such_thing:root").partition("; looked in ")[0],
            "--app no_such_thing:root: there is no module 'no_such_thing'",
        )
        self.assertIn(f"; looked in {self.folder}", self.refused("no_such_thing:root"))

    def test_no_module_in_a_package(self) -> None:
        """Of a dotted name the part that is missing is named, and a module that is no package counts as missing."""
        self.module("site_b.web", "")
        self.module("lonely", "")
        self.assertIn("there is no module 'site_b.wed'", self.refused("site_b.wed:root"))
        self.assertIn("there is no module 'lonely.web'", self.refused("lonely.web:root"))
        self.assertIn("there is no module 'site_c'", self.refused("site_c.web.deep:root"))

    def test_no_attribute(self) -> None:
        """An attribute that is not there: the nearest that is."""
        self.module("two", "root = 1\nother = 2")
        self.assertEqual(
            self.refused("two:rot"), "--app two:rot: two has no attribute 'rot'; did you mean 'root'?"
        )

    def test_no_attribute_like_it(self) -> None:
        """Without a near one: all public ones."""
        self.module("two_a", "root = 1\nother = 2\n_hidden = 3")
        self.assertEqual(
            self.refused("two_a:xyz"), "--app two_a:xyz: two_a has no attribute 'xyz'; allowed: other, root"
        )

    def test_empty_module(self) -> None:
        """A module with nothing in it: that is said."""
        self.module("empty", "")
        self.assertIn("empty has no attribute 'root'; it has no public names", self.refused("empty:root"))

    def test_name_of_pythons_own(self) -> None:
        """Who calls a module `site` gets Python's own, whose attributes would tell nothing."""
        told = "--app site:root: site has no attribute 'root'; this is a module of Python's own: give yours another name"
        self.assertEqual(self.refused("site:root"), told)
        self.module("this", "root = 1")
        self.assertIn("did you mean 'root'?", self.refused("this:rot"))


class FailingModuleTests(ReferenceTestCase):
    """A module that cannot be imported."""

    def test_raises(self) -> None:
        """Its own traceback, shortened to its own lines."""
        self.module(
            "broken",
            """\
            def connect():
                raise OSError("no data base")

            connect()
            """,
        )
        self.assertEqual(
            without_marks(self.refused("broken:root")),
            f"""\
--app broken:root: importing broken failed:
Traceback (most recent call last):
  File "{self.folder}/broken.py", line 4, in <module>
    connect()
  File "{self.folder}/broken.py", line 2, in connect
    raise OSError("no data base")
OSError: no data base""",
        )

    def test_imports_what_is_missing(self) -> None:
        """A module of the application's that is there, and lacks another: it is the other's absence that is shown."""
        self.module("needs", "import no_such_library\n")
        text = self.refused("needs:root")
        self.assertIn("importing needs failed", text)
        self.assertIn("needs.py", text)
        self.assertTrue(text.endswith("ModuleNotFoundError: No module named 'no_such_library'"), text)

    def test_imports_what_is_named_alike(self) -> None:
        """Also where the missing one's name is how the module's own begins."""
        self.module("redis_site", "import redis_\n")
        text = self.refused("redis_site:root")
        self.assertIn("importing redis_site failed", text)
        self.assertIn("redis_site.py", text)

    def test_syntax_error(self) -> None:
        """A syntax error shows the line."""
        self.module("unfinished", "def f(:\n")
        text = self.refused("unfinished:root")
        self.assertIn("unfinished.py", text)
        self.assertIn("def f(:", text)
        self.assertIn("SyntaxError", text)

    def test_exits(self) -> None:
        """A module that calls sys.exit ends nothing: that is told as its error."""
        self.module("leaver", "import sys\nsys.exit(3)\n")
        text = self.refused("leaver:root")
        self.assertIn("importing leaver failed", text)
        self.assertIn("leaver.py", text)
        self.assertTrue(text.endswith("SystemExit: 3"), text)

    def test_chained(self) -> None:
        """Of an error with a cause both tracebacks are shown, each shortened."""
        self.module(
            "chained",
            """\
            try:
                {}["key"]
            except KeyError as error:
                raise RuntimeError("no key") from error
            """,
        )
        text = self.refused("chained:root")
        self.assertEqual(text.count('chained.py", line'), 2)
        self.assertIn("The above exception was the direct cause", text)
        self.assertNotIn("importlib", text)
        self.assertNotIn("references.py", text)


class TheirsTests(ReferenceTestCase):
    """Whose lines a traceback shows."""

    def test_a_broken_error(self) -> None:
        """An error whose own text cannot be read hides nothing else."""

        class Broken(Exception):
            def __str__(self) -> str:
                raise ValueError("no text")

        try:
            raise Broken
        except Broken as error:
            self.assertIn("test_a_broken_error", theirs(error))


class LoadAgentTests(ReferenceTestCase):
    """The agent."""

    def agent(self, reference: str) -> Any:
        return str(self.assertRaises(ApplicationError, load_agent, reference))

    def test_made(self) -> None:
        """An instance of the class that was named."""
        self.module("session_a", "from serverworker import SessionAgent\nclass Wiki(SessionAgent): pass")
        self.assertEqual(type(load_agent("session_a:Wiki")).__name__, "Wiki")

    def test_wrong_kind(self) -> None:
        """An instance, a function and another class are no agent."""
        self.module(
            "session_b",
            """
            from serverworker import SessionAgent
            made = SessionAgent()
            def function(): pass
            class Other: pass
            """,
        )
        for name in ("made", "function", "Other"):
            text = self.agent(f"session_b:{name}")
            self.assertTrue(text.startswith(f"--agent session_b:{name} is <"), text)
            self.assertTrue(text.endswith("; it must be a subclass of serverworker.SessionAgent"), text)

    def test_cannot_be_made(self) -> None:
        """A class that wants arguments, or raises: why, with its own lines."""
        self.module(
            "session_c",
            """\
            from serverworker import SessionAgent
            class Wants(SessionAgent):
                def __init__(self, pages): pass
            class Raises(SessionAgent):
                def __init__(self): raise OSError("no pages")
            """,
        )
        self.assertIn("cannot be made without arguments:\n", self.agent("session_c:Wants"))
        self.assertIn("missing 1 required positional argument: 'pages'", self.agent("session_c:Wants"))
        self.assertIn('session_c.py", line 5', self.agent("session_c:Raises"))
        self.assertIn("OSError: no pages", self.agent("session_c:Raises"))

    def test_not_there(self) -> None:
        """What is not there is told of the option ``--agent``."""
        self.module("session_d", "class Wiki: pass")
        self.assertIn("--agent session_d:Wikki: session_d has no", self.agent("session_d:Wikki"))
        self.assertIn("did you mean 'Wiki'?", self.agent("session_d:Wikki"))
