"""Telling by its looks which option an application was meant for, so that an error can say so."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from attrs import frozen
from twisted.application.service import IService
from twisted.web.resource import IResource
from twisted.web.server import Site

from serverworker.values.errors import ApplicationError

_WSGI_ARGUMENTS = 2
_ASGI_ARGUMENTS = 3


@frozen
class Fitting:
    """What an application looks like, and the option that it belongs to."""

    option: str
    words: str


_WSGI = Fitting("--wsgi", "a WSGI application")
_ASGI = Fitting("--asgi", "an ASGI application")
_TWISTED = Fitting("--app", "an application of Twisted's own kinds")


def fitting_option(application: Any) -> Fitting | None:
    """The option that fits, None where it could be for more than one, or none. It looks, and calls nothing."""
    if isinstance(application, Site) or any(
        kind.providedBy(application) or (inspect.isclass(application) and kind.implementedBy(application))
        for kind in (IResource, IService)
    ):
        return _TWISTED
    if not callable(application):
        return _TWISTED if callable(getattr(application, "resource", None)) else None  # Klein's
    if inspect.isclass(application):
        return None
    called = application if inspect.isroutine(application) else type(application).__call__
    arguments = _required_arguments(called, bound=not inspect.isroutine(application))
    if inspect.iscoroutinefunction(called):
        return _ASGI if arguments == _ASGI_ARGUMENTS else None
    return _WSGI if arguments == _WSGI_ARGUMENTS else None


def check_fits(application: Any, reference: str, option: str, kind: str, arguments: Sequence[str]) -> None:
    """`ApplicationError` for what cannot be called with these arguments: what it is, and what to do.

    `kind` is the beginning of a sentence about what can, such as ``a WSGI application is called with``.
    """
    fitting = fitting_option(application)
    if fitting is not None and fitting.option != option:
        raise ApplicationError(
            f"{option} {reference} is {fitting.words}: give it with {fitting.option} {reference}"
        )
    wanted = f"{kind} {', '.join(arguments[:-1])} and {arguments[-1]}"
    if not callable(application):
        raise ApplicationError(
            f"{option} {reference} is {application!r:.200}, of type {type(application).__name__}, which cannot be "
            f"called; {wanted}"
        )
    try:
        signature = inspect.signature(application)
    except (TypeError, ValueError):  # written in C, perhaps
        return
    if not _takes(signature, *arguments):
        what = "the class" if inspect.isclass(application) else "callable as"
        name = getattr(application, "__name__", type(application).__name__)
        advice = f"; if it makes the application, say {option} '{reference}()'" if _takes(signature) else ""
        raise ApplicationError(f"{option} {reference} is {what} {name}{signature}, and {wanted}{advice}")


def _takes(signature: inspect.Signature, *arguments: str) -> bool:
    try:
        signature.bind(*arguments)
    except TypeError:
        return False
    return True


def _required_arguments(called: Any, *, bound: bool) -> int | None:
    """How many positional arguments a caller must give; None where that cannot be told."""
    try:
        parameters = inspect.signature(called).parameters.values()
    except (TypeError, ValueError):
        return None
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    required = sum(1 for each in parameters if each.kind in kinds and each.default is inspect.Parameter.empty)
    return required - 1 if bound else required
