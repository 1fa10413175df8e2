"""The composition root: what `twistd serverworker` and `twist serverworker` make a service of."""

from __future__ import annotations

import atexit
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attrs import evolve
from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.threads import deferToThreadPool
from twisted.logger import ILogObserver, Logger

from serverworker.monitor.ports import Ports
from serverworker.monitor.session import Session
from serverworker.monitor.stream import EventStream
from serverworker.observers.crash_reports import CrashReports
from serverworker.observers.log import LogObserver
from serverworker.observers.log_format import choose_observer
from serverworker.options import Options, conclude_check, settle
from serverworker.processes.references import load_agent
from serverworker.processes.sockets import bind_all
from serverworker.processes.state_directory import (
    StateDirectory,
    StateDirectoryInUse,
    default_path,
    new_key,
    runtime_path,
)
from serverworker.surfaces.console import Console
from serverworker.values.errors import ApplicationError, ConfigurationError, PortUnavailable
from serverworker.values.exit_status import ExitStatus
from serverworker.values.settings import Settings

__all__ = ["Options", "makeService"]

_PATIENCE_SECONDS = 0.0


def makeService(options: Options) -> MonitorService:
    """The service of a session. Ports are bound here: before Twisted daemonises, and before it drops privileges."""
    from twisted.internet import reactor

    turning: Any = reactor
    turning.seconds = time.monotonic
    settings = settle(options)
    conclude_check(options, settings)
    # Settled now: Twisted changes the current folder when it daemonises.
    directory = settings.app.directory or str(Path.cwd())
    settings = evolve(settings, app=evolve(settings.app, directory=directory))
    try:
        ports = Ports(bind_all(settings.ports, patience_seconds=_PATIENCE_SECONDS))
    except PortUnavailable as error:
        sys.stderr.write(f"serverworker cannot start:\n  {error}\n")
        raise SystemExit(ExitStatus.UNAVAILABLE) from error
    return MonitorService(
        reactor=turning,
        settings=settings,
        ports=ports,
        environment=dict(os.environ),
        parent_options=options.parent or {},
    )


class MonitorService(Service):
    """The monitor, as Twisted starts and stops it."""

    name = "serverworker"
    _log = Logger(namespace="serverworker.monitor")

    def __init__(
        self,
        *,
        reactor: Any,
        settings: Settings,
        ports: Ports,
        environment: Mapping[str, str],
        parent_options: dict[str, Any],
    ) -> None:
        self._reactor = reactor
        self._settings = settings
        self._parent_options = parent_options
        self._environment = environment
        self._exit = _ExitStatus()
        self._over: Deferred[None] | None = Deferred()
        self._signals = 0
        self.stream = EventStream()
        self.session = Session(
            reactor=reactor,
            settings=settings,
            ports=ports,
            stream=self.stream,
            environment=environment,
            key=new_key(),
            seed=random.SystemRandom().getrandbits(48),
            over=self._session_over,
        )

    def setServiceParent(self, parent: Any) -> None:
        """Take the place of twistd's log observer, unless the command line says otherwise."""
        observer = choose_observer(
            self._parent_options, self._settings.output.log_format, sys.stdout, self._environment
        )
        if observer is not None:
            parent.setComponent(ILogObserver, observer)
            # twist looks for it in its options instead.
            if "fileLogObserverFactory" in self._parent_options:
                self._parent_options["fileLogObserverFactory"] = lambda stream: observer
        super().setServiceParent(parent)

    def startService(self) -> None:
        """Begin the session. What fails here ends it with its status, by way of the reactor's own end."""
        super().startService()
        self.stream.observe(LogObserver(show_server_output=self._settings.output.show_server_output))
        # In the reactor's first turn: Twisted installs its own signal handlers just before it.
        self._reactor.callWhenRunning(self._begin)

    def _begin(self) -> None:
        self._install_signals()
        try:
            state = StateDirectory.open(
                default_path(self._environment, self._settings),
                runtime_path(self._environment, self._settings),
            )
            state.write_key(self.session.key)
            agent = self._load_agent()
        except StateDirectoryInUse as error:
            self.session.give_up(ExitStatus.UNAVAILABLE, str(error))
            return
        except (ConfigurationError, ApplicationError) as error:
            self.session.give_up(ExitStatus.CONFIG, str(error))
            return
        self.session.at_end(state.close)
        reports = CrashReports(self._reactor, state.crashes, self.stream.publish, self._in_thread)
        self.stream.observe(reports)
        self.session.at_end(reports.drain)
        self._open_console()
        self.session.start(str(state.path), agent)

    def _in_thread(self, call: Callable[[], Any]) -> Deferred[Any]:
        return deferToThreadPool(self._reactor, self._reactor.getThreadPool(), call)

    def _load_agent(self) -> Any:
        reference = self._settings.app.agent
        if reference is None:
            return None
        # Of the application the monitor imports the agent alone.
        sys.path.insert(0, str(Path(self._settings.app.directory or ".").resolve()))
        return load_agent(reference)

    def _open_console(self) -> None:
        nodaemon = self._parent_options.get("nodaemon", True)
        if not nodaemon or not sys.stdin or not sys.stdin.isatty():
            return
        console = Console(
            reactor=self._reactor,
            monitor=self.session.handle,
            agents=self.session.console_commands,
            write=self._write,
        )
        console.attach(sys.stdin.fileno())
        self.session.at_end(console.detach)

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    def stopService(self) -> Deferred[None]:
        """End the session; fires when all is gone."""
        super().stopService()
        if self._over is None:
            return succeed(None)
        self.session.handle.kill_session("the reactor was stopped").addErrback(lambda _: None)
        return self._over

    # --- the end --------------------------------------------------------------------------------

    def _install_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._from_signal(self._end_by_signal, signal.Signals(number).name))
        signal.signal(signal.SIGHUP, self._from_signal(self._restart_by_signal))

    def _from_signal(self, call: Callable[..., Any], *arguments: Any) -> Callable[[int, Any], None]:
        return lambda number, frame: self._reactor.callFromThread(call, *arguments)

    def _end_by_signal(self, name: str) -> None:
        """The first one drains; the second one does not wait."""
        self._signals += 1
        graceful = self._signals == 1
        self.session.handle.kill_session(name if graceful else f"a second {name}", graceful=graceful)

    def _restart_by_signal(self) -> None:
        def refused(failure: Any) -> None:
            self._log.error("SIGHUP: {why}", why=failure.getErrorMessage())

        self.session.handle.restart("clean", asked_by="SIGHUP").addErrback(refused)

    def _session_over(self, status: int) -> None:
        over, self._over = self._over, None
        self._exit.settle(status)
        if over is not None:
            over.callback(None)
        if self.running:
            self._reactor.stop()


class _ExitStatus:
    """Makes the process end with the session's status: neither twistd nor twist has a way to say it."""

    def __init__(self) -> None:
        # Registered early, so that it runs last: whatever else wants to be done at exit has been.
        atexit.register(self._end)
        self._status: int | None = None

    def settle(self, status: int) -> None:
        """From now on the process ends with this status."""
        self._status = status

    def _end(self) -> None:
        if self._status is not None:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(self._status)
