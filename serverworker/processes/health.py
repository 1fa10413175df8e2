"""A worker's heartbeat, put together: what it polls, and how."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint, UNIXClientEndpoint
from twisted.internet.interfaces import IStreamClientEndpoint

from serverworker.processes.heartbeat import Heartbeat, PollResult
from serverworker.processes.listeners import Listeners
from serverworker.processes.poller import Poller, SocketpairEndpoint
from serverworker.values.causes import Beat
from serverworker.values.ports import PortSettings
from serverworker.values.settings import Settings

_NOBODY = PollResult(
    ok=False,
    text="nothing listens on port 'server': call worker.listen('server', Site(…))",
    seconds=0.0,
)


def heartbeat_for(
    *,
    reactor: Any,
    settings: Settings,
    listeners: Listeners,
    own_endpoint: Callable[[], IStreamClientEndpoint | None],
    told: Callable[[Beat], object],
    first_success: Callable[[], object],
    gave_up: Callable[[Beat], object],
) -> Heartbeat:
    """The heartbeat of a worker, not started.

    It polls `own_endpoint` where the application has one, else what this very worker serves on ``server``, through a pair of sockets of its own, so that its own
    answer comes back and not a sibling's. With ``bind = false`` it polls the public address: whoever listens there.
    """
    pollers: list[Poller] = []

    def poller() -> Poller | None:
        endpoint = own_endpoint()
        if endpoint is not None:
            return Poller(reactor, endpoint, settings.polling)
        factory = listeners.heartbeat_factory("server")
        if factory is not None:
            return Poller(reactor, SocketpairEndpoint(reactor, factory), settings.polling)
        if settings.workers.bind:
            return None
        server = next(port for port in settings.ports if port.name == "server")
        return Poller(reactor, public_endpoint(reactor, server), settings.polling)

    def poll() -> Deferred[PollResult]:
        # An application may listen late, when its data base has answered.
        if not pollers:
            made = poller()
            if made is None:
                return succeed(_NOBODY)
            pollers.append(made)
        return pollers[0].poll()

    return Heartbeat(reactor, poll, settings.polling, told=told, first_success=first_success, gave_up=gave_up)


def public_endpoint(reactor: Any, port: PortSettings) -> IStreamClientEndpoint:
    """Where a client of this machine finds the port."""
    if port.kind == "unix":
        return UNIXClientEndpoint(reactor, port.path)
    if port.kind == "tcp6":
        host = port.interface if port.interface not in ("", "::") else "::1"
        return TCP6ClientEndpoint(reactor, host, port.port)
    host = port.interface if port.interface not in ("", "0.0.0.0") else "127.0.0.1"
    return TCP4ClientEndpoint(reactor, host, port.port)
