"""Plugins of twistd (``-- web --path .``), their endpoints rewritten to the session's sockets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from twisted.application.service import IService, IServiceMaker
from twisted.python.usage import UsageError

from serverworker.processes.hosts.interface import Host
from serverworker.processes.hosts.redirection import Redirection
from serverworker.processes.hosts.resource import ServiceHost
from serverworker.processes.references import theirs
from serverworker.values.errors import ApplicationError, nearest

if TYPE_CHECKING:
    from serverworker.processes.server_worker import ServerWorker

_OURS = "serverworker"


def load_plugin(words: Sequence[str]) -> Host:
    """Find the plugin of this name, have it read its arguments, and make its host.

    Raises `ApplicationError` where there is none, or where it refuses its arguments.
    """
    name, *arguments = words
    maker = _find(name)
    try:
        options = maker.options()
        options.parseOptions(arguments)
    except UsageError as error:
        raise ApplicationError(f"-- {name}: {error}; `twistd {name} --help` tells its options") from error
    except SystemExit as error:  # --help and --version end the process that they are given to
        raise ApplicationError(
            f"-- {name} {' '.join(arguments)} ended the process instead of starting anything; "
            f"ask `twistd {name} --help` for help"
        ) from error
    except Exception as error:
        raise ApplicationError(f"-- {name} failed at its arguments:\n{theirs(error)}") from error
    return PluginHost(name, maker, options)


def _find(name: str) -> IServiceMaker:
    from twisted.plugin import getPlugins

    makers = {each.tapname: each for each in getPlugins(IServiceMaker) if each.tapname != _OURS}
    if name == _OURS:
        raise ApplicationError(
            f"-- {name}: a session does not run in another's worker; leave `-- {name}` out"
        )
    if name not in makers:
        raise ApplicationError(
            f"-- {name}: there is no plugin {name!r} of twistd{nearest(name, list(makers))}"
        )
    return makers[name]


class PluginHost(Host):
    """A plugin's service: made when the worker loads, started when it is promoted, stopped when it has drained."""

    needs_activation = True

    def __init__(self, name: str, maker: IServiceMaker, options: object) -> None:
        self.description = f"plugin {name}"
        self._name = name
        self._maker = maker
        self._options = options
        self._redirection: Redirection | None = None
        self._service: ServiceHost | None = None

    def register(self, worker: ServerWorker) -> None:
        """Make the service. What it listens on from now on goes to the session's sockets."""
        if worker.sockets:  # none with bind = false: it binds by itself
            self._redirection = Redirection(worker, f"the plugin {self._name}")
            self._redirection.install()
        try:
            service = self._maker.makeService(self._options)
        except Exception as error:
            raise ApplicationError(f"-- {self._name}: making its service failed:\n{theirs(error)}") from error
        if not IService.providedBy(service):
            raise ApplicationError(f"-- {self._name}: its makeService answered {service!r:.200}, no IService")
        self._service = ServiceHost(self.description, service)

    async def activate(self, worker: ServerWorker) -> None:
        """Start the service."""
        assert self._service is not None
        await self._service.activate(worker)
        if self._redirection is None:
            return
        self._redirection.check()
        if self._redirection.taken and "server" not in self._redirection.taken:
            # It may well speak no HTTP (ssh, ftp): that the worker answers at all is what can be told of it.
            from serverworker.processes.hosts.running_page import running_site

            worker.listen("server", running_site(self.description))

    async def stop(self) -> None:
        """Stop the service."""
        if self._service is not None:
            await self._service.stop()
