"""Applications of Twisted's own kinds (``--app``): finding out which one it is, and how it is run."""

from __future__ import annotations

from collections.abc import Callable
from inspect import isclass
from typing import TYPE_CHECKING, Any

from twisted.application.service import IService
from twisted.web.resource import IResource
from twisted.web.server import Site

from serverworker.processes.awaiting import finished
from serverworker.processes.hosts.guessing import fitting_option
from serverworker.processes.hosts.interface import Host
from serverworker.processes.hosts.script import ScriptHost, run_as_script
from serverworker.processes.references import resolve, theirs
from serverworker.values.errors import ApplicationError

if TYPE_CHECKING:
    from serverworker.processes.server_worker import ServerWorker

KINDS = (
    "a twisted.web Resource (an instance, or a class that is made without arguments), a Klein application, "
    "a twisted.web Site, an IService (an instance, or a class that is made without arguments), "
    "or a callable work(worker)"
)
"""What an application may be, for an error's text."""


class SiteHost(Host):
    """A Resource, Klein application or Site: served on the port ``server``; there is nothing to start."""

    def __init__(self, description: str, site: Site) -> None:
        self.description = description
        self._site = site

    def register(self, worker: ServerWorker) -> None:
        """Listen on the port ``server``."""
        worker.listen("server", self._site)


class ServiceHost(Host):
    """An IService: started when the worker is promoted, stopped when it has drained.

    It listens by itself, through `ServerWorker.current().listen`, when it is started.
    """

    needs_activation = True

    def __init__(self, description: str, service: IService) -> None:
        self.description = description
        self._service = service
        self._started = False

    async def activate(self, worker: ServerWorker) -> None:
        """Start the service."""
        self._started = True
        self._service.privilegedStartService()
        self._service.startService()

    async def stop(self) -> None:
        """Stop the service, and wait for what its `stopService` returns; nothing where it was never started.

        Twisted's own services (TimerService, StreamServerEndpointService) cannot be stopped before they were started.
        """
        if self._started:
            await finished(self._service.stopService)


class WorkHost(Host):
    """The original's `work`: a callable that gets the worker, and listens through it."""

    needs_activation = True

    def __init__(self, description: str, work: Callable[[ServerWorker], Any]) -> None:
        self.description = description
        self._work = work
        self._service: ServiceHost | None = None

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


class AgentHost(Host):
    """No application but an agent, which listens by itself."""

    description = "what the session agent listens with"


def load(reference: str, worker: ServerWorker) -> Host:
    """Import ``module:attribute`` and find out by interface what it is.

    A module that listens on the port ``server`` when it is imported, as a script does, is the application itself.
    Raises `ApplicationError`, whose text is for the application's author.
    """
    with run_as_script(worker, reference) as script:
        found = resolve(reference, "--app")
    return ScriptHost(reference) if "server" in script.taken else host_for(found, reference)


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
    fitting = fitting_option(application)
    if fitting is not None:
        raise ApplicationError(
            f"--app {reference} is {fitting.words}: give it with {fitting.option} {reference}"
        )
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
