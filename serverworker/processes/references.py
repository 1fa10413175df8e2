"""What an operator names by ``module:attribute``: imported and found, or an error for its author.

The monitor loads this module too, for the agent: nothing here may import `twisted.web`.
"""

from __future__ import annotations

import sys
import traceback
from importlib import import_module
from inspect import isclass
from pathlib import Path
from sysconfig import get_path
from typing import Any

from serverworker.processes.agent import SessionAgent
from serverworker.values.errors import ApplicationError, nearest

_OURS = str(Path(__file__).parent)
_MACHINERY = ("/importlib/__init__.py", "/twisted/internet/defer.py", "/twisted/python/failure.py")
"""What calls the application on our behalf: it stands between all lines of theirs, and is never at fault."""


def resolve(reference: str, option: str) -> Any:
    """Import a module and find its attribute; `ApplicationError` says which of the two is at fault, and where.

    With ``()`` behind it, it is called, and what it returns is taken: a function that makes the application.
    """
    found = _find(reference.removesuffix("()"), option)
    return _call(found, reference, option) if reference.endswith("()") else found


def _call(function: Any, reference: str, option: str) -> Any:
    if not callable(function):
        name = reference.removesuffix("()")
        raise ApplicationError(
            f"{option} {reference}: it is {function!r:.200}, which cannot be called; say {option} {name}"
        )
    try:
        return function()
    except BaseException as error:  # see `_imported`
        raise ApplicationError(f"{option} {reference}: calling it failed:\n{theirs(error)}") from error


def _find(reference: str, option: str) -> Any:
    module_name, _, attribute = reference.partition(":")
    if not module_name or not attribute:
        raise ApplicationError(
            f"{option} {reference!r} is not of the form module:attribute, such as mysite.web:root"
        )
    found = _imported(module_name, f"{option} {reference}")
    for name in attribute.split("."):
        if not hasattr(found, name):
            names = [each for each in dir(found) if not each.startswith("_")]
            close = nearest(name, names) if names else "; it has no public names"
            if _is_pythons_own(module_name):
                close = "; this is a module of Python's own: give yours another name"
            raise ApplicationError(f"{option} {reference}: {module_name} has no attribute {name!r}{close}")
        found = getattr(found, name)
    return found


def _is_pythons_own(name: str) -> bool:
    """Whether a module is of the standard library: one that was imported before it is found in the application's place."""
    top = name.partition(".")[0]
    file = getattr(sys.modules.get(top), "__file__", None)
    return top in sys.stdlib_module_names and (file is None or file.startswith(get_path("stdlib")))


def _imported(name: str, given: str) -> Any:
    try:
        return import_module(name)
    except BaseException as error:  # a module may call sys.exit: that is no import either
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{name}.".startswith(f"{missing}."):
            raise ApplicationError(
                f"{given}: there is no module {missing!r}; looked in {_searched()}"
            ) from error
        raise ApplicationError(f"{given}: importing {name} failed:\n{theirs(error)}") from error


def load_agent(reference: str) -> SessionAgent:
    """Import ``module:Class``, and make the agent.

    Raises `ApplicationError` where it cannot be imported or made, or is no `SessionAgent`.
    """
    kind = resolve(reference, "--agent")
    if not (isclass(kind) and issubclass(kind, SessionAgent)):
        raise ApplicationError(
            f"--agent {reference} is {kind!r:.200}; it must be a subclass of serverworker.SessionAgent"
        )
    try:
        return kind()
    except Exception as error:
        raise ApplicationError(
            f"--agent {reference} cannot be made without arguments:\n{theirs(error)}"
        ) from error


def _searched() -> str:
    folders = [folder or str(Path.cwd()) for folder in sys.path]
    return ", ".join(folders[:1] + [folder for folder in folders[1:] if "site-packages" in folder][:1])


def theirs(error: BaseException) -> str:
    """A traceback, shortened to what is the application's: without our frames and those of what calls it for us."""
    shown = traceback.TracebackException.from_exception(error)
    each: traceback.TracebackException | None = shown
    while each is not None:
        kept = [
            frame
            for frame in each.stack
            if not frame.filename.startswith((_OURS, "<frozen importlib"))
            and not frame.filename.endswith(_MACHINERY)
        ]
        each.stack = traceback.StackSummary.from_list(kept)
        each = each.__cause__ or each.__context__
    return "".join(shown.format()).rstrip()
