"""Joins the operators' surfaces to a session: their sockets and certificates, and what they work at."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from attrs import evolve, frozen
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from serverworker.monitor.history import History
from serverworker.monitor.session import Session
from serverworker.monitor.stream import EventStream, ignore_lines
from serverworker.processes.sockets import bind, bind_all, release
from serverworker.processes.state_directory import (
    CONTROL_FILE,
    StateDirectory,
    check_socket_path,
    write_whole,
)
from serverworker.surfaces.control import ControlPort
from serverworker.surfaces.desk import Desk
from serverworker.surfaces.session_key import KeyCheck
from serverworker.surfaces.tls import tls_options
from serverworker.values.errors import ErrorRecord, ServerWorkerError
from serverworker.values.events import Fault
from serverworker.values.ports import PortSettings
from serverworker.values.settings import Settings
from serverworker.values.surfaces import parse_endpoint

CONTROL_NAME = "control"
"""The default unix socket's, in the runtime directory."""

_log = Logger(namespace="serverworker.monitor")


@frozen(kw_only=True)
class OperatorSockets:
    """What the surfaces listen on, bound before the monitor drops privileges; None: not asked for."""

    control: socket.socket | None = None
    control_tls: Any = None
    dashboard: socket.socket | None = None
    dashboard_tls: Any = None
    health: socket.socket | None = None

    def release(self) -> None:
        """Close them, and remove the files of unix sockets; those whose surface was opened have been released by it."""
        for bound in (self.control, self.dashboard, self.health):
            if bound is not None:
                release(bound)


def bind_surfaces(settings: Settings) -> OperatorSockets:
    """Bind what the configuration names, and read the certificates.

    Raises `PortUnavailable` or `ConfigurationError`, which name the key.
    """
    control, dashboard = settings.control, settings.dashboard
    control_tls = dashboard_tls = None
    if control.certificate is not None:
        control_tls = tls_options(
            "control", control.certificate, control.private_key, control.client_authority
        )
    if dashboard.certificate is not None:
        dashboard_tls = tls_options("dashboard", dashboard.certificate, dashboard.private_key)
    endpoints = {
        "control": control.endpoint,
        "dashboard": dashboard.endpoint,
        "health": settings.health.endpoint,
    }
    bound = bind_all([_named(name, each) for name, each in endpoints.items() if each is not None])
    return OperatorSockets(
        control=bound.get("control"),
        control_tls=control_tls,
        dashboard=bound.get("dashboard"),
        dashboard_tls=dashboard_tls,
        health=bound.get("health"),
    )


def _named(name: str, endpoint: str) -> PortSettings:
    port = evolve(parse_endpoint(endpoint), name=name)
    # Absolute, so that it is found from any folder, by this process too: Twisted changes its own when it daemonises.
    return evolve(port, path=str(Path(port.path).absolute())) if port.kind == "unix" else port


class Operators:
    """The surfaces of one session, from its beginning to its end."""

    def __init__(
        self,
        *,
        reactor: Any,
        session: Session,
        stream: EventStream,
        settings: Settings,
        sockets: OperatorSockets,
        state: StateDirectory,
        session_id: str,
        in_thread: Callable[[Callable[[], Any]], Deferred[Any]],
    ) -> None:
        self._reactor = reactor
        self._session = session
        self._stream = stream
        self._publish = stream.publish
        self._settings = settings
        self._sockets = sockets
        self._state = state
        history = History()
        stream.observe(history, history.lines)
        self.desk = Desk(
            monitor=session.handle,
            agents=session.console_commands,
            history=history,
            publish=stream.publish,
            state_directory=state.path,
            session=session_id,
            in_thread=in_thread,
        )
        self._keys = KeyCheck(reactor, lambda: session.key, stream.publish)

    def open(self) -> None:
        """Open them all. One that cannot be opened is told as a `Fault`: the session goes on without."""
        surfaces = (("the control port", self._open_control), ("the dashboard", self._open_dashboard))
        for name, surface in surfaces:
            try:
                surface()
            except (OSError, ServerWorkerError) as error:
                record = ErrorRecord.from_exception(error)
                self._publish(Fault(where=name, error=record, next_step="the session goes on without it"))

    def _open_control(self) -> None:
        bound = self._sockets.control
        if bound is None:
            path = check_socket_path(self._state.runtime / CONTROL_NAME)
            bound = bind(PortSettings(name="control", kind="unix", path=str(path), mode=0o600))
        port = ControlPort(
            reactor=self._reactor,
            desk=self.desk,
            keys=self._keys,
            bound=bound,
            tls=self._sockets.control_tls,
            certified=self._settings.control.client_authority is not None,
        )
        port.start()
        self._session.at_end(port.close)
        _log.info("the control port is {address}", address=port.address)
        try:
            self._note(port.address)
        except OSError as error:
            record = ErrorRecord.from_exception(error)
            then = "the control port is open, but serverworkerctl does not find it by itself"
            self._publish(Fault(where=CONTROL_FILE, error=record, next_step=then))

    def _open_dashboard(self) -> None:
        bound = self._sockets.dashboard
        if bound is None:
            return
        # Here, so that a monitor without it does not load twisted.web.
        from serverworker.surfaces.dashboard.dashboard import Dashboard

        dashboard = Dashboard(
            reactor=self._reactor,
            desk=self.desk,
            keys=self._keys,
            bound=bound,
            hosts=self._settings.dashboard.hosts,
            tls=self._sockets.dashboard_tls,
        )
        self._stream.observe(dashboard.series, ignore_lines)
        dashboard.start()
        self._session.at_end(dashboard.close)
        _log.info("the dashboard is {address}", address=dashboard.address)

    def _note(self, address: str) -> None:
        """Where `serverworkerctl` finds it."""
        file = self._state.path / CONTROL_FILE
        content = {"control": address, "pid": os.getpid(), "session": self.desk.session}
        write_whole(file, (json.dumps(content) + "\n").encode())

        def forget() -> None:
            with suppress(OSError):
                Path(file).unlink()

        self._session.at_end(forget)
