"""Modules of an application, written by a test and forgotten after it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from textwrap import dedent

from twisted.trial.unittest import SynchronousTestCase


def without_marks(traceback: str) -> str:
    """A traceback without the lines ``~~~^^``, which Python puts below a line of code, each version in its own way."""
    return "\n".join(line for line in traceback.split("\n") if line.strip(" ~^") or not line)


class ModulesTestCase(SynchronousTestCase):
    """A folder at the head of `sys.path`."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).resolve()
        self.folder.mkdir()
        known = set(sys.modules)
        self.patch(sys, "path", [str(self.folder), *sys.path])
        self.patch(sys, "dont_write_bytecode", True)
        self.addCleanup(lambda: [sys.modules.pop(name) for name in set(sys.modules) - known])

    def module(self, name: str, text: str) -> str:
        """Write a module, dots making packages; answers its name."""
        path = self.folder.joinpath(*name.split("."))
        for package in path.relative_to(self.folder).parents[:-1]:
            (self.folder / package).mkdir(exist_ok=True)
            (self.folder / package / "__init__.py").touch()
        path.with_suffix(".py").write_text(dedent(text))
        importlib.invalidate_caches()
        return name
