"""What ``--wsgi`` may name, and what is said to whoever names something else."""

from __future__ import annotations

import klein  # noqa: F401 - known before the modules below, which are forgotten: it can be imported once only

from serverworker.processes.hosts.guessing import fitting_option
from serverworker.processes.hosts.wsgi import load_wsgi
from serverworker.values.errors import ApplicationError
from serverworker.values.rules import InvalidSettings
from serverworker.values.settings import AppSettings
from tests.unit.written_modules import ModulesTestCase

KINDS = """
    from functools import partial
    from klein import Klein
    from twisted.web.resource import Resource

    class Page(Resource):
        pass

    page, klein, text = Page(), Klein(), "x"

    def app(environ, start_response):
        return []

    class Framework:
        def __call__(self, environ, start_response):
            return []

    framework, method, part = Framework(), Framework().__call__, partial(app)
    anything = lambda *words: []
    compiled = min

    class Iterable:
        def __init__(self, environ, start_response):
            pass

    class Nothing:
        pass

    async def coroutine(scope, receive, send):
        pass

    class Asgi:
        async def __call__(self, scope, receive, send):
            pass

    asgi = Asgi()

    def create_app():
        return Framework()

    def create_page():
        return page

    def broken():
        return undefined

    def work(worker):
        pass
"""


class KindTests(ModulesTestCase):
    """Each kind of thing."""

    def setUp(self) -> None:
        super().setUp()
        self.module("kinds", KINDS)

    def refused(self, name: str) -> str:
        """What is said."""
        return str(self.assertRaises(ApplicationError, load_wsgi, f"kinds:{name}", 1))

    def test_taken(self) -> None:
        """Functions, objects, methods, classes that are called for each request; and what a function makes."""
        names = ("app", "framework", "method", "part", "anything", "Iterable", "create_app()", "Framework()")
        for name in (*names, "compiled"):
            self.assertEqual(load_wsgi(f"kinds:{name}", 3).description, f"WSGI application kinds:{name}")

    def test_other_options(self) -> None:
        """What another option takes names that option."""
        twisteds = "is an application of Twisted's own kinds: give it with --app kinds:"
        for name in ("page", "Page", "klein", "create_page()"):
            self.assertEqual(self.refused(name), f"--wsgi kinds:{name} {twisteds}{name}")
        for name in ("coroutine", "asgi"):
            self.assertEqual(
                self.refused(name),
                f"--wsgi kinds:{name} is an ASGI application: give it with --asgi kinds:{name}",
            )

    def test_factory(self) -> None:
        """A function that makes the application is told how to have it called."""
        for name in ("create_app", "Nothing"):
            text = self.refused(name)
            self.assertIn("a WSGI application is called with environ and start_response; if it makes", text)
        self.assertTrue(self.refused("create_app").endswith("say --wsgi 'kinds:create_app()'"))

    def test_none(self) -> None:
        """What cannot be called at all, with two arguments, or without any where it ought to make something."""
        self.assertIn("is 'x', of type str, which cannot be called; a WSGI", self.refused("text"))
        self.assertEqual(
            self.refused("work"),
            "--wsgi kinds:work is callable as work(worker), and a WSGI application is called with environ and "
            "start_response",
        )
        self.assertIn(
            "--wsgi kinds:text(): it is 'x', which cannot be called; say --wsgi kinds:text",
            self.refused("text()"),
        )
        broken = self.refused("broken()")
        self.assertIn("--wsgi kinds:broken(): calling it failed:\n", broken)
        self.assertIn("NameError: name 'undefined' is not defined", broken)

    def test_guesses(self) -> None:
        """What could be anything is guessed to be nothing."""
        for each in (None, 3, object(), min, lambda *words: None, lambda one: None, type):
            self.assertIsNone(fitting_option(each))

    def test_setting(self) -> None:
        """The keys for WSGI and ASGI take parentheses at the end, and there alone; those for others do not."""
        for key in ("wsgi", "asgi"):
            self.assertEqual(getattr(AppSettings(**{key: "a:b()"}), key), "a:b()")  # type: ignore[arg-type]
            for value in ("a:b(1)", "a()", "a():b", "a:b()()", "a:()", 3):
                self.assertRaises(InvalidSettings, AppSettings, **{key: value})
        self.assertRaises(InvalidSettings, AppSettings, resource="a:b()")
