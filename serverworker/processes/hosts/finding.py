"""Which host runs what the settings name."""

from __future__ import annotations

from serverworker.processes.hosts.interface import Host
from serverworker.processes.server_worker import ServerWorker
from serverworker.values.settings import AppSettings


def find_host(app: AppSettings, worker: ServerWorker) -> Host:
    """Import the application and make its host; `ApplicationError`, for its author, where that cannot be done.

    Each kind is imported where it is wanted: it may need an extra, and brings half a framework along.
    """
    if app.wsgi is not None:
        from serverworker.processes.hosts.wsgi import load_wsgi

        return load_wsgi(app.wsgi, app.wsgi_threads)
    if app.asgi is not None:
        from serverworker.processes.hosts.asgi import load_asgi

        return load_asgi(app.asgi)
    if app.plugin:
        from serverworker.processes.hosts.plugin import load_plugin

        return load_plugin(app.plugin)
    if app.command is not None:
        from serverworker.processes.hosts.command import CommandHost

        return CommandHost(app.command)
    from serverworker.processes.hosts.resource import AgentHost, SiteHost, load

    if app.resource is not None:
        return load(app.resource, worker)
    if app.agent is not None:
        return AgentHost()
    from serverworker.processes.welcome import welcome_site

    return SiteHost("the welcome page", welcome_site())
