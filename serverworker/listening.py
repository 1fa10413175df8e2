"""What a session listens on, and whether the machine can hold it: settled while the service is made."""

from __future__ import annotations

import os
import resource
import sys
from contextlib import suppress
from importlib.util import find_spec

from twisted.logger import Logger

from serverworker.monitor.activated import environment_at_start, take_activated
from serverworker.monitor.certificates import Files, read_all
from serverworker.monitor.ports import Ports
from serverworker.observers.systemd import EXTEND_SECONDS, NotifySocket, extend_timeout
from serverworker.processes.sockets import bind_all, describe_bound
from serverworker.values.errors import ConfigurationError
from serverworker.values.exit_status import ExitStatus
from serverworker.values.settings import Settings
from serverworker.values.tls import KeyPair

_PATIENCE_SECONDS = 5.0
"""How much longer than a drain a port is waited for that the workers of a killed monitor still hold."""

_log = Logger(namespace="serverworker.monitor")


def descriptors() -> int:
    """How many this process may open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if soft != resource.RLIM_INFINITY else 2**31


def memory_mib() -> int:
    """What the machine has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20


def listen(settings: Settings, notify: NotifySocket | None) -> Ports:
    """The sockets that this process was started with, and for the ports that have none, sockets bound here."""
    activated = take_activated(os.environ, settings, pid=os.getpid(), original=environment_at_start())
    patience = settings.drain.timeout_seconds + _PATIENCE_SECONDS

    def waits(text: str) -> None:
        sys.stderr.write(f"serverworker: {text}\n")
        sys.stderr.flush()
        if notify is not None:
            with suppress(OSError):
                notify.send(extend_timeout(patience + EXTEND_SECONDS), f"STATUS={text}")

    if not settings.workers.bind and settings.workers.count > 1:
        _log.warn(
            "workers.bind is false and workers.count is {count}: the application has to bind its ports in a way that "
            "several processes can (SO_REUSEPORT), or all workers but one will fail",
            count=settings.workers.count,
        )
    # With bind = false the application binds them, in the worker.
    owned = settings.ports if settings.workers.bind else ()
    missing = [port for port in owned if port.name not in activated]
    sockets = bind_all(missing, patience_seconds=patience, waits=waits) | activated
    for port in owned:
        if port.name in activated:
            _log.info(
                "port {name} is the socket that this process was started with, {address}; {configured}, as the "
                "configuration has it, is not bound",
                name=port.name,
                address=describe_bound(activated[port.name]),
                configured=port.describe(),
            )
    return Ports({port.name: sockets[port.name] for port in owned}, activated)


def read_certificates(settings: Settings) -> dict[Files, KeyPair]:
    """The certificates of the ports that speak TLS.

    Read while the service is made: before privileges are dropped, which may be what lets their keys be read. What is
    wrong is told on stderr and ends the process with 78.
    """
    try:
        return read_all(settings.tls)
    except ConfigurationError as error:
        sys.stderr.write(f"serverworker cannot start:\n  {error}\n")
        raise SystemExit(ExitStatus.CONFIG) from error


def check_extras(settings: Settings) -> None:
    """Whether what the settings ask of the monitor is installed; else that is told on stderr and ends it with 78."""
    if settings.app.reload and find_spec("watchfiles") is None:
        sys.stderr.write(
            "serverworker cannot start:\n"
            f"  --reload needs watchfiles, which is not installed for {sys.executable}: "
            f"{sys.executable} -m pip install 'serverworker[reload]'\n"
        )
        raise SystemExit(ExitStatus.CONFIG)
