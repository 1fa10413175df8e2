"""What is said to whoever gives ``--asgi`` something else than an ASGI application."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from serverworker.processes.hosts.asgi import load_asgi
from serverworker.values.errors import ApplicationError

SOURCE = """
from twisted.web.resource import Resource

page = Resource()
number = 5

def wsgi(environ, start_response):
    return []

class Old:
    def __init__(self, scope):
        pass

async def short(scope, receive):
    pass

def create():
    raise KeyError("no configuration")
"""

STARTS = """
import asyncio

async def main():
    pass

def run():
    raise RuntimeError("asyncio.run() cannot be called from a running event loop")

run()
"""


class LoadTests(SynchronousTestCase):
    """Each mistake is named, with what to do."""

    def setUp(self) -> None:
        self.patch(sys, "modules", {**sys.modules, "uvicorn": ModuleType("uvicorn")})

    def refused(self, attribute: str, source: str = SOURCE) -> str:
        folder = Path(self.mktemp())
        folder.mkdir()
        (folder / "asgi_shop.py").write_text(source)
        self.patch(sys, "path", [str(folder), *sys.path])
        sys.modules.pop("asgi_shop", None)
        return str(self.assertRaises(ApplicationError, load_asgi, f"asgi_shop:{attribute}"))

    def test_missing_extra(self) -> None:
        """Without uvicorn the text has the command that installs it, for the interpreter of the workers."""
        modules: Any = {**sys.modules, "uvicorn": None}
        self.patch(sys, "modules", modules)
        self.assertIn(f"{sys.executable} -m pip install 'serverworker[asgi]'", self.refused("wsgi"))

    def test_other_kinds(self) -> None:
        """An application of another kind is told its option."""
        self.assertIn("is a WSGI application: give it with --wsgi asgi_shop:wsgi", self.refused("wsgi"))
        self.assertIn("give it with --app asgi_shop:page", self.refused("page"))

    def test_no_application(self) -> None:
        """What cannot be called with three arguments is shown with those that it has."""
        wanted = "an ASGI application is awaited, called with scope, receive and send"
        for name, what in (
            ("number", "is 5, of type int, which cannot be called"),
            ("Old", "is the class Old(scope)"),
            ("short", "is callable as short(scope, receive)"),
        ):
            text = self.refused(name)
            self.assertIn(what, text)
            self.assertIn(wanted, text)

    def test_factory(self) -> None:
        """A function that makes the application is told how to have it called; what it raises is its author's."""
        self.assertIn("say --asgi 'asgi_shop:create()'", self.refused("create"))
        self.assertIn("KeyError: 'no configuration'", self.refused("create()"))

    def test_server_of_its_own(self) -> None:
        """A module that starts a server when it is imported is told where that belongs."""
        text = self.refused("app", STARTS)
        self.assertIn("under `if __name__ == '__main__':`", text.splitlines()[0])
        self.assertIn("cannot be called from a running event loop", text.splitlines()[-1])
