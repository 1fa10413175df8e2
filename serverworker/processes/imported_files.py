"""Which of the files that a worker has imported are the application's: what ``--reload`` watches."""

from __future__ import annotations

import sys
import sysconfig
from typing import Any

from twisted.protocols.amp import CommandLocator

from serverworker.wire import commands

MOST_FILES = 10_000
"""No application is told of beyond so many; the rest of it is not watched."""

_LIBRARY_FOLDERS = ("/site-packages/", "/dist-packages/")


def imported_files() -> list[str]:
    """The source files of the modules that are imported, but for Python's own and those of installed packages."""
    standard = tuple({f"{sysconfig.get_path(name)}/" for name in ("stdlib", "platstdlib")})
    found = set()
    for module in tuple(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or not file.endswith(".py") or file.startswith(standard):
            continue
        if not any(folder in file for folder in _LIBRARY_FOLDERS):
            found.add(file)
    return sorted(found)[:MOST_FILES]


class CodeAnswers(CommandLocator):
    """Answers what a worker's code is made of."""

    @commands.ImportedFiles.responder
    def imported_files(self) -> dict[str, Any]:
        """The application's source files that are imported now."""
        return {"files": imported_files()}
