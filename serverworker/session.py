"""The composition root: what `twistd serverworker` and `twist serverworker` make a service of."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import evolve
from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.threads import deferToThreadPool
from twisted.logger import ILogObserver, Logger
from twisted.python.failure import Failure

from serverworker.listening import check_extras, descriptors, listen, memory_mib, read_certificates
from serverworker.monitor.capacity import check_capacity
from serverworker.monitor.certificates import Files
from serverworker.monitor.exit_status import ExitStatusAtEnd
from serverworker.monitor.ports import Ports
from serverworker.monitor.reload import open_reload
from serverworker.monitor.session import Session
from serverworker.monitor.stream import EventStream, ignore_lines
from serverworker.monitoring import Monitoring
from serverworker.observers.crash_reports import CrashReports
from serverworker.observers.log_choice import choose_log
from serverworker.observers.log_writer import stream_writer
from serverworker.observers.systemd import (
    NotifySocket,
    SystemdObserver,
    take_service_manager,
)
from serverworker.operators import Operators, OperatorSockets, bind_surfaces
from serverworker.options import Options, conclude_check, settle
from serverworker.processes.descendants import set_subreaper
from serverworker.processes.forking import ForkServer
from serverworker.processes.library_pages import give_back_library_pages
from serverworker.processes.reaper import Reaper
from serverworker.processes.references import load_agent
from serverworker.processes.state_directory import (
    StateDirectory,
    StateDirectoryInUse,
    default_path,
    new_key,
    runtime_path,
)
from serverworker.surfaces.console import Console
from serverworker.surfaces.desk import Desk
from serverworker.values.errors import (
    ApplicationError,
    ConfigurationError,
    ErrorRecord,
    PortUnavailable,
)
from serverworker.values.events import Fault
from serverworker.values.exit_status import ExitStatus
from serverworker.values.settings import Settings
from serverworker.values.tls import KeyPair

if TYPE_CHECKING:
    from serverworker.observers.notifications.observer import Notifications

__all__ = ["Options", "makeService"]

_SETTLED_SECONDS = 1.0
"""After the start the libraries have been set up, and what that took can be given back."""
_OWN_FAULT = "the monitor has a fault of its own"
_log = Logger(namespace="serverworker.monitor")


def makeService(options: Options) -> MonitorService:
    """The service of a session. Ports are bound here: before Twisted daemonises, and before it drops privileges."""
    from twisted.internet import reactor

    turning: Any = reactor
    turning.seconds = time.monotonic
    settings = settle(options)
    certificates = read_certificates(settings)
    check_extras(settings)
    conclude_check(options, settings)
    # Settled now: Twisted changes the current folder when it daemonises.
    folder = str(Path.cwd())
    settings = _in_folder(settings, folder)
    manager = take_service_manager(os.environ, os.getpid())
    notify = NotifySocket(manager.notify_socket) if manager is not None else None
    try:
        check_capacity(settings.workers, descriptors=descriptors(), memory_mib=memory_mib())
        ports = listen(settings, notify)
        try:
            surfaces = bind_surfaces(settings)
        except BaseException:
            ports.close()  # with the files of unix sockets
            raise
    except (PortUnavailable, ConfigurationError) as error:
        sys.stderr.write(f"serverworker cannot start:\n  {error}\n")
        unavailable = isinstance(error, PortUnavailable)
        raise SystemExit(ExitStatus.UNAVAILABLE if unavailable else ExitStatus.CONFIG) from error
    return MonitorService(
        reactor=turning,
        settings=settings,
        read=lambda: _in_folder(options.settings(), folder),
        certificates=certificates,
        ports=ports,
        surfaces=surfaces,
        notify=notify,
        watchdog_seconds=manager.watchdog_seconds if manager is not None else None,
        environment=dict(os.environ),
        parent_options=options.parent or {},
        fork_server=options.fork_server,
    )


def _in_folder(settings: Settings, folder: str) -> Settings:
    """The settings, with the folder that the workers run in filled in."""
    return evolve(settings, app=evolve(settings.app, directory=settings.app.directory or folder))


class MonitorService(Service):
    """The monitor, as Twisted starts and stops it."""

    name = "serverworker"
    _log = Logger(namespace="serverworker.monitor")

    def __init__(
        self,
        *,
        reactor: Any,
        settings: Settings,
        read: Callable[[], Settings],
        certificates: Mapping[Files, KeyPair],
        ports: Ports,
        surfaces: OperatorSockets,
        notify: NotifySocket | None,
        watchdog_seconds: float | None,
        environment: Mapping[str, str],
        parent_options: dict[str, Any],
        fork_server: ForkServer | None = None,
    ) -> None:
        self._reactor = reactor
        self._settings = settings
        self._parent_options = parent_options
        self._surfaces = surfaces
        self._notify = notify
        self._watchdog_seconds = watchdog_seconds
        self._environment = environment
        # Kept: twistd puts a LoggingFile in its place when logging begins, and the console would speak into the log.
        self._stdout = sys.stdout
        self._exit = ExitStatusAtEnd()
        self._over: Deferred[None] | None = Deferred()
        self._signals = 0
        self._reaper = Reaper(reactor)
        self.notifications: Notifications | None = None
        """Who tells by mail and webhook, once the session has begun and where it is configured."""
        self.stream = EventStream()
        self._logs = choose_log(
            parent_options, settings.output, self._stdout, environment, self._log_file_failed
        )
        self.session = Session(
            reactor=reactor,
            settings=settings,
            ports=ports,
            stream=self.stream,
            environment=environment,
            key=new_key(),
            seed=random.SystemRandom().getrandbits(48),
            over=self._session_over,
            read=read,
            certificates=certificates,
            fork_server=fork_server,
        )

    def setServiceParent(self, parent: Any) -> None:
        """Take the place of twistd's log observer, unless the command line says otherwise."""
        observer = self._logs.observer
        if observer is not None:
            parent.setComponent(ILogObserver, observer)
            # twist looks for it in its options instead.
            if "fileLogObserverFactory" in self._parent_options:
                self._parent_options["fileLogObserverFactory"] = lambda stream: observer
        super().setServiceParent(parent)

    def startService(self) -> None:
        """Begin the session. What fails here ends it with its status, by way of the reactor's own end."""
        super().startService()
        log = self._logs.begin(show_server_output=self._settings.output.show_server_output)
        self.stream.observe(log, log.lines)
        for sink in self._logs.sinks:
            self.session.flow.watch(sink)
        self.session.at_end(self.session.flow.close)
        self.session.at_end(self._surfaces.release)  # where the session ends before they are opened
        # In the reactor's first turn: Twisted installs its own signal handlers just before it.
        self._reactor.callWhenRunning(self._begin)

    def _begin(self) -> None:
        try:
            self._begin_session()
        except Exception as error:
            # The reactor would log it, and turn for ever with bound ports and no worker.
            self._log.failure("the session cannot begin")
            self.session.give_up(ExitStatus.SOFTWARE, f"{_OWN_FAULT}: {type(error).__name__}: {error}")

    def _begin_session(self) -> None:
        self._install_signals()
        self._adopt_orphans()
        try:
            state = StateDirectory.open(
                default_path(self._environment, self._settings),
                runtime_path(self._environment, self._settings),
            )
            self.session.at_end(state.close)
            state.write_key(self.session.key)
            agent = self._load_agent()
        except StateDirectoryInUse as error:
            self.session.give_up(ExitStatus.UNAVAILABLE, str(error))
            return
        except (ConfigurationError, ApplicationError) as error:
            self.session.give_up(ExitStatus.CONFIG, str(error))
            return
        monitoring = self._open_monitoring(state)
        reports = CrashReports(self._reactor, state.crashes, self.stream.publish, self._in_thread)
        self.stream.observe(reports, ignore_lines)
        self.session.at_end(reports.drain)
        self._open_notifications(state, monitoring)
        self._tell_service_manager()
        if self._settings.app.reload:
            open_reload(self.session)
        operators = self._operators(state, monitoring.session_id)
        operators.open()
        self._open_console(operators.desk)
        self.session.start(str(state.path), agent, state.write_key)
        self._give_back_later()

    def _give_back_later(self) -> None:
        timer = self._reactor.callLater(_SETTLED_SECONDS, self._in_thread, give_back_library_pages)
        self.session.at_end(lambda: timer.cancel() if timer.active() else None)

    def _adopt_orphans(self) -> None:
        """Not before: a process that daemonises is another one afterwards."""
        try:
            set_subreaper()
        except OSError as error:
            self._log.warn(
                "{error}: processes that a worker leaves in sessions of their own live until the session ends",
                error=error,
            )

    def _tell_service_manager(self) -> None:
        if self._notify is None:
            return
        observer = SystemdObserver(
            clock=self._reactor,
            notify=self._notify,
            watchdog_seconds=self._watchdog_seconds,
            state=lambda: self.session.engine.state,
            publish=self.stream.publish,
        )
        self.stream.observe(observer, ignore_lines)
        observer.start()
        self.session.at_end(observer.close)

    def _open_monitoring(self, state: StateDirectory) -> Monitoring:
        monitoring = Monitoring(
            reactor=self._reactor,
            session=self.session,
            settings=self._settings,
            bound=self._surfaces.health,
            state=state,
            in_thread=self._in_thread,
        )
        monitoring.open()
        return monitoring

    def _open_notifications(self, state: StateDirectory, monitoring: Monitoring) -> None:
        """Settled for the session: a restart reads the configuration anew, but who is told stays as it was."""
        settings = self._settings
        if not settings.mail.recipients and settings.webhook.url is None:
            return
        from serverworker.observers.notifications.opening import open_notifications

        self.notifications = notifications = open_notifications(
            reactor=self._reactor,
            settings=settings,
            session=self.session,
            state=state,
            in_thread=self._in_thread,
        )
        monitoring.counts.pending = lambda: notifications.pending
        self.stream.observe(notifications, ignore_lines)
        self.session.at_end(notifications.close)
        notifications.start()

    def _in_thread(self, call: Callable[[], Any]) -> Deferred[Any]:
        return deferToThreadPool(self._reactor, self._reactor.getThreadPool(), call)

    def _load_agent(self) -> Any:
        reference = self._settings.app.agent
        if reference is None:
            return None
        # Of the application the monitor imports the agent alone.
        sys.path.insert(0, str(Path(self._settings.app.directory or ".").resolve()))
        return load_agent(reference)

    def _operators(self, state: StateDirectory, session_id: str) -> Operators:
        return Operators(
            reactor=self._reactor,
            session=self.session,
            stream=self.stream,
            settings=self._settings,
            sockets=self._surfaces,
            state=state,
            session_id=session_id,
            in_thread=self._in_thread,
        )

    def _open_console(self, desk: Desk) -> None:
        nodaemon = self._parent_options.get("nodaemon", True)
        if not nodaemon or not sys.stdin or not sys.stdin.isatty():
            return
        console = Console(
            reactor=self._reactor,
            desk=desk,
            write=stream_writer(self._stdout).write,
        )
        console.attach(sys.stdin.fileno())
        self.session.at_end(console.detach)

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
        signal.signal(signal.SIGQUIT, self._from_signal(self._quit_by_signal))
        signal.signal(signal.SIGUSR1, partial(self._reopen_logs, signal.getsignal(signal.SIGUSR1)))
        # Beside Twisted's own way of hearing of it, which it leaves as it is.
        signal.signal(signal.SIGCHLD, self._from_signal(self._reaper.child_ended))
        signal.siginterrupt(signal.SIGCHLD, False)

    def _from_signal(self, call: Callable[..., Any], *arguments: Any) -> Callable[[int, Any], None]:
        return lambda number, frame: self._reactor.callFromThread(call, *arguments)

    def _end_by_signal(self, name: str) -> None:
        """The first one drains; the second one does not wait."""
        self._signals += 1
        graceful = self._signals == 1
        self.session.handle.kill_session(name if graceful else f"a second {name}", graceful=graceful)

    def _quit_by_signal(self) -> None:
        """SIGQUIT does not wait: as a second SIGTERM, and as gunicorn has it."""
        self._signals += 1
        self.session.handle.kill_session("SIGQUIT", graceful=False)

    def _reopen_logs(self, before: Any, number: int, frame: Any) -> None:
        """SIGUSR1: twistd turns its own log file over; ours is looked for at each line, so a line is all it takes."""
        if callable(before):
            before(number, frame)
        self._reactor.callFromThread(
            self._log.info, "SIGUSR1: what was moved away of the log files is made anew"
        )

    def _log_file_failed(self, name: str, error: OSError) -> None:
        """Called in the thread that writes."""
        fault = Fault(
            where=name,
            error=ErrorRecord.from_exception(error),
            next_step="what is to be in it waits in memory, up to a MiB, and is tried again in 1 s, then ever less often",
        )
        self._reactor.callFromThread(self.stream.publish, fault)

    def _restart_by_signal(self) -> None:
        asking = True

        def failed(failure: Failure) -> None:
            if asking:  # refused at once; what becomes of one that was begun is told as an event
                self._log.error("SIGHUP: {why}", why=failure.getErrorMessage())

        self.session.handle.restart("clean", asked_by="SIGHUP").addErrback(failed)
        asking = False

    def _session_over(self, status: int) -> None:
        over, self._over = self._over, None
        self._exit.settle(status)
        if over is not None:
            over.callback(None)
        if self.running:
            self._reactor.stop()
