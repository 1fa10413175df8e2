"""Finding out what an application is, and how it is run."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from inspect import isclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from twisted.application.service import IService
from twisted.web.resource import IResource
from twisted.web.server import Site

from serverworker.processes.awaiting import finished
from serverworker.values.errors import ApplicationError, nearest

if TYPE_CHECKING:
    from serverworker.processes.server_worker import ServerWorker

KINDS = (
    "a twisted.web Resource (an instance, or a class that is made without arguments), a Klein application, "
    "a twisted.web Site, an IService (an instance, or a class that is made without arguments), "
    "or a callable work(worker)"
)
"""What an application may be, for an error's text."""


class Host(Protocol):
    """An application that has been built: what a worker runs."""

    description: str
    """In words, such as ``Resource mysite.web:root``."""
    needs_activation: bool
    """Whether it has something to start before it can answer."""

    def register(self, worker: ServerWorker) -> None:
        """Listen on the ports. Starts nothing."""

    async def activate(self, worker: ServerWorker) -> None:
        """Start it."""

    async def stop(self) -> None:
        """End what was started, once its connections are gone."""


class SiteHost:
    """A Resource, Klein application or Site: served on the port ``server``; there is nothing to start."""

    needs_activation = False

    def __init__(self, description: str, site: Site) -> None:
        self.description = description
        self._site = site

    def register(self, worker: ServerWorker) -> None:
        """Listen on the port ``server``."""
        worker.listen("server", self._site)

    async def activate(self, worker: ServerWorker) -> None:
        """Nothing to start."""

    async def stop(self) -> None:
        """Nothing to end."""


class ServiceHost:
    """An IService: started when the worker is promoted, stopped when it has drained."""

    needs_activation = True

    def __init__(self, description: str, service: IService) -> None:
        self.description = description
        self._service = service

    def register(self, worker: ServerWorker) -> None:
        """Nothing: it listens by itself, through `ServerWorker.current().listen`, when it is started."""

    async def activate(self, worker: ServerWorker) -> None:
        """Start the service."""
        self._service.privilegedStartService()
        self._service.startService()

    async def stop(self) -> None:
        """Stop the service, and wait for what its `stopService` returns."""
        await finished(self._service.stopService)


class WorkHost:
    """The original's `work`: a callable that gets the worker, and listens through it."""

    needs_activation = True

    def __init__(self, description: str, work: Callable[[ServerWorker], Any]) -> None:
        self.description = description
        self._work = work
        self._service: ServiceHost | None = None

    def register(self, worker: ServerWorker) -> None:
        """Nothing: `work` has not run yet."""

    async def activate(self, worker: ServerWorker) -> None:
        """Call `work(worker)`, and wait for the Deferred or coroutine that it may return.

        An IService that it answers is started, and stopped at the end.
        """
        result = await finished(self._work, worker)
        if IService.providedBy(result):
            self._service = ServiceHost(self.description, result)
            await self._service.activate(worker)

    async def stop(self) -> None:
        """Stop the service that `work` answered, if it did."""
        if self._service is not None:
            await self._service.stop()


class AgentHost:
    """No application but an agent, which listens by itself."""

    description = "what the session agent listens with"
    needs_activation = False

    def register(self, worker: ServerWorker) -> None:
        """Nothing: the agent does."""

    async def activate(self, worker: ServerWorker) -> None:
        """Nothing to start."""

    async def stop(self) -> None:
        """Nothing to end."""


def load(reference: str) -> Host:
    """Import ``module:attribute`` and find out by interface what it is.

    Raises `ApplicationError`, whose text is for the application's author.
    """
    return host_for(resolve(reference, "--app"), reference)


def host_for(application: Any, reference: str) -> Host:
    """The host for an application of whatever kind; `ApplicationError` where it is of none."""
    if isclass(application):
        if not (IResource.implementedBy(application) or IService.implementedBy(application)):
            raise ApplicationError(
                f"--app {reference} is the class {application.__qualname__}; it may be {KINDS}"
            )
        application = _make(application, reference)
    if IResource.providedBy(application):
        return SiteHost(f"Resource {reference}", Site(application))
    if isinstance(application, Site):
        return SiteHost(f"Site {reference}", application)
    if IService.providedBy(application):
        return ServiceHost(f"IService {reference}", application)
    resource = getattr(application, "resource", None)
    if callable(resource):
        made = resource()
        if IResource.providedBy(made):
            return SiteHost(f"Klein application {reference}", Site(made))
    if callable(application):
        return WorkHost(f"work callable {reference}", application)
    raise ApplicationError(
        f"--app {reference} is {application!r:.200}, of type {type(application).__name__}; it may be {KINDS}"
    )


def _make(kind: type[Any], reference: str) -> Any:
    try:
        return kind()
    except Exception as error:
        raise ApplicationError(
            f"--app {reference}: the class {kind.__qualname__} cannot be made without arguments:\n{theirs(error)}"
        ) from error


def resolve(reference: str, option: str) -> Any:
    """Import a module and find its attribute; `ApplicationError` says which of the two is at fault, and where."""
    module_name, _, attribute = reference.partition(":")
    if not module_name or not attribute:
        raise ApplicationError(
            f"{option} {reference!r} is not of the form module:attribute, such as mysite.web:root"
        )
    try:
        found: Any = import_module(module_name)
    except BaseException as error:
        if isinstance(error, ModuleNotFoundError) and error.name and module_name.startswith(error.name):
            raise ApplicationError(
                f"{option} {reference}: there is no module {error.name!r}; looked in {_searched()}"
            ) from error
        raise ApplicationError(
            f"{option} {reference}: importing {module_name} failed:\n{theirs(error)}"
        ) from error
    for name in attribute.split("."):
        if not hasattr(found, name):
            names = [each for each in dir(found) if not each.startswith("_")]
            close = nearest(name, names) if names else "; it has no public names"
            raise ApplicationError(f"{option} {reference}: {module_name} has no attribute {name!r}{close}")
        found = getattr(found, name)
    return found


def _searched() -> str:
    folders = [folder or str(Path.cwd()) for folder in sys.path]
    return ", ".join(folders[:1] + [folder for folder in folders[1:] if "site-packages" in folder][:1])


def theirs(error: BaseException) -> str:
    """A traceback, shortened to what is the application's: without our frames and the import machinery's."""
    ours = str(Path(__file__).parent)
    shown = traceback.TracebackException.from_exception(error)
    each: traceback.TracebackException | None = shown
    while each is not None:
        kept = [
            frame
            for frame in each.stack
            if not frame.filename.startswith((ours, "<frozen importlib"))
            and "/importlib/__init__" not in frame.filename
        ]
        each.stack = traceback.StackSummary.from_list(kept)
        each = each.__cause__ or each.__context__
    return "".join(shown.format()).rstrip()
