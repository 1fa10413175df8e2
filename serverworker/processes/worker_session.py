"""A worker's side of the session: it joins, loads, activates, serves and leaves as the monitor says."""

from __future__ import annotations

import gc
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from attrs import asdict, evolve
from twisted.internet.defer import TimeoutError, ensureDeferred
from twisted.logger import Logger, globalLogPublisher
from twisted.python.failure import Failure

from serverworker.processes.access_log import access_log_for
from serverworker.processes.application import Application
from serverworker.processes.awaiting import record_of, within
from serverworker.processes.board import RequestBoard
from serverworker.processes.exit_handlers import ExitHandlers
from serverworker.processes.give_way import give_way
from serverworker.processes.health import heartbeat_for
from serverworker.processes.heartbeat import Heartbeat
from serverworker.processes.imported_files import CodeAnswers
from serverworker.processes.listeners import Listeners, Port
from serverworker.processes.server_worker import ServerWorker
from serverworker.processes.shares import Shares
from serverworker.processes.uncaught import UncaughtErrors
from serverworker.values.causes import Beat, CauseKind
from serverworker.values.errors import ApplicationError, EmitError, ErrorRecord
from serverworker.values.reasons import ExitKind, ExitReason
from serverworker.values.settings import Settings
from serverworker.values.tls import ports_told
from serverworker.wire import commands
from serverworker.wire.emits import Handlers
from serverworker.wire.link import Link

_JOIN_SECONDS = 30.0
"""How long a worker waits for the monitor's answer to its first words."""
_FAREWELL_SECONDS = 2.0
"""How long a worker that crashes waits until the monitor has taken its report."""
_TERM_SECONDS = 2.0
"""How long a worker that was sent SIGTERM waits for the monitor's answer."""
_CRASH_EXIT_SECONDS = 5.0
"""How long a worker that crashes lets its exit handlers run, if the drain's deadline is not shorter."""
_STOP_SECONDS = 0.5
"""How long an application has to stop whose connections were cut short; the monitor kills two seconds after the deadline."""
_ABORT_SECONDS = 1.2
"""How long connections that were cut short at the deadline have to write out what they hold, and to close."""


class WorkerSession(CodeAnswers):
    """One worker's run, from its first words to its exit."""

    _log = Logger(namespace="serverworker.worker")

    def __init__(
        self,
        *,
        reactor: Any,
        worker_id: int,
        pid: int,
        ports: Mapping[str, Port],
        board: RequestBoard,
        shares: Shares,
        end: Callable[[int, bool], None],
    ) -> None:
        """`end(status, at_once)` ends the process, below 0 by that signal: at once, or when the reactor has stopped."""
        self._reactor = reactor
        self._worker_id = worker_id
        self._pid = pid
        self._ports = ports
        self._board = board
        self._shares = shares
        self._end_process = end
        self._handlers = Handlers()
        self._exit_handlers = ExitHandlers(reactor, self._exit_handler_failed)
        self._drain_hooks = ExitHandlers(reactor, self._exit_handler_failed, "drain hook")
        self._ending = False
        self._crashed = False
        self._terminated = False
        self._is_late = False
        self._has_left = False
        self._status = 0
        self._settings = Settings()
        self._listeners: Listeners | None = None
        self._application: Application | None = None
        self._heartbeat: Heartbeat | None = None
        self.link = Link(reactor, self, self._handlers, peer="the monitor", on_lost=self._link_lost)
        """This end of the channel: the protocol for it."""

    # --- the beginning --------------------------------------------------------------------------

    def start(self) -> None:
        """Join the monitor, then load. Call it once the link is connected."""
        uncaught = UncaughtErrors(self._uncaught)
        uncaught.watch_threads()
        globalLogPublisher.addObserver(uncaught)
        begun = ensureDeferred(self._begin())
        begun.addErrback(self._broken)

    async def _begin(self) -> None:
        self._note(f"initializing process… [{sys.executable} {' '.join(sys.orig_argv[1:])}]")
        answer = await self.link.ask(
            commands.Join,
            _JOIN_SECONDS,
            version=commands.PROTOCOL_VERSION,
            worker=self._worker_id,
            pid=self._pid,
        )
        give_way()
        self._settings = Settings.from_json(answer["settings"])
        self.link.limit_values(self._settings.ipc.maximum_bytes)
        self._listeners = Listeners(
            reactor=self._reactor,
            board=self._board,
            shares=self._shares,
            ports=self._ports,
            bind=self._settings.workers.bind,
            configured={port.name: port.describe() for port in self._settings.ports},
            access=access_log_for(self._settings.output, answer["key"]),
            tls=ports_told(answer.get("tls")),
        )
        worker = ServerWorker(
            worker_id=self._worker_id,
            generation=answer["generation"],
            reactor=self._reactor,
            link=self.link,
            handlers=self._handlers,
            listeners=self._listeners,
            exit_handlers=self._exit_handlers,
            drain_hooks=self._drain_hooks,
            emit_seconds=self._settings.ipc.timeout_seconds,
            session_key=answer["key"],
            version=self._settings.app.version or "",
        )
        startup_seconds = self._settings.startup.timeout_seconds
        self._application = Application(self._settings.app, worker, self._crash, startup_seconds)
        try:
            await self._application.load()
        except BaseException as error:  # a module may call sys.exit: that is no load either
            self._load_failed(error)
            return
        self.link.tell(
            commands.Loaded,
            needs_activation=self._application.needs_activation,
            application=self._application.description,
            version=worker.version,
        )

    def _load_failed(self, error: BaseException) -> None:
        self._ending = True
        describe = self._application.describe_error if self._application else ErrorRecord.from_exception
        told = self.link.ask(commands.LoadFailed, _FAREWELL_SECONDS, error=asdict(describe(error)))
        told.addBoth(lambda _: self._end_process(1, True))

    # --- what the monitor says ------------------------------------------------------------------

    @commands.Ping.responder
    def ping(self) -> dict[str, Any]:
        """Answer: that is all it is for."""
        return {}

    @commands.Activate.responder
    def activate(self) -> dict[str, Any]:
        """Start the application, then poll it until it answers."""
        assert self._application is not None and self._listeners is not None
        self._heartbeat = heartbeat_for(
            reactor=self._reactor,
            settings=self._settings,
            listeners=self._listeners,
            own_endpoint=self._application.health_endpoint,
            told=self._beat_told,
            first_success=self._ready,
            gave_up=self._gave_up,
        )
        activated = ensureDeferred(self._application.activate())
        activated.addCallbacks(lambda _: self._activated(), self._broken)
        return {}

    @commands.Serve.responder
    def serve(self) -> dict[str, Any]:
        """Accept connections."""
        assert self._listeners is not None
        if not self._ending:
            self._listeners.accept()
            for name, address in self._listeners.addresses.items():
                secured = " with TLS" if self._listeners.speaks_tls(name) else ""
                self._note(f"listening on {address}{secured}… ({name})")
        return {}

    @commands.Unready.responder
    def unready(self) -> dict[str, Any]:
        """Tell the application that the end is near, and go on serving.

        From now on its health route may well answer 503, which is what load balancers wait for: no crash.
        """
        if self._heartbeat is not None:
            self._heartbeat.stop()
        self._begin_drain(ExitReason(ExitKind.SESSION_END))
        return {}

    def _begin_drain(self, reason: ExitReason) -> None:
        # Beside what follows, not before it: it has the whole of the drain's time, and delays nothing.
        ensureDeferred(self._drain_hooks.run(reason, self._settings.drain.timeout_seconds))

    @commands.Leave.responder
    def leave(
        self, kind: str, text: str, seconds: float, drain: bool, last_ports: list[str]
    ) -> dict[str, Any]:
        """Begin to end; the process's exit is the answer that counts."""
        reason = ExitReason(ExitKind(kind), text=text)
        # In the next turn: an idle worker is gone at once, and its link with it, before this were answered.
        self._reactor.callLater(0, partial(self._leave, reason, seconds, drain=drain, last_ports=last_ports))
        return {}

    @commands.SetPolling.responder
    def set_polling(self, seconds: float) -> dict[str, Any]:
        """Poll at another interval, from now on (`updatePollingInterval` of the original)."""
        # Kept as well: who is not polled yet (a standby) is polled so from the beginning.
        polling = evolve(self._settings.polling, interval_seconds=seconds)
        self._settings = evolve(self._settings, polling=polling)
        if self._heartbeat is not None:
            self._heartbeat.set_interval(seconds)
        return {}

    @commands.UseCertificates.responder
    def use_certificates(self, tls: Any) -> dict[str, Any]:
        """The files have changed: new connections get what is in them now."""
        if self._listeners is not None:  # who has not joined yet is told then
            self._listeners.use_tls(ports_told(tls))
        return {}

    # --- health ---------------------------------------------------------------------------------

    def _activated(self) -> None:
        if not self._ending and self._heartbeat is not None:
            give_way()
            self._heartbeat.start()

    def _broken(self, failure: Failure) -> None:
        error = failure.value
        if self._application is not None and isinstance(error, ApplicationError):
            self._crash(self._application.describe_error(error))
        else:
            self._crash(record_of(failure))

    def _ready(self) -> None:
        self.link.tell(commands.Ready, seconds=time.monotonic())

    def _beat_told(self, beat: Beat) -> None:
        self.link.tell(commands.BeatTold, beat=asdict(beat))
        # A coroutine that failed unheard stands in a circle with its own traceback, and is told only once it is
        # collected: in an idle worker that may take an hour. The young generations take some ten microseconds.
        if gc.isenabled():
            gc.collect(1)

    def _gave_up(self, beat: Beat) -> None:
        error = ErrorRecord(
            type="serverworker.HeartbeatFailed",
            message=f"the health route failed {beat.failures} times in a row: {beat.text}",
        )
        self._crash(error, CauseKind.HEARTBEAT)

    # --- the end --------------------------------------------------------------------------------

    def terminated(self) -> None:
        """SIGTERM came from outside: say so, and go on until the monitor says what it means.

        Where the whole session was sent it (systemd with ``KillMode=control-group``), the session's end has its own
        order and time; where it was this worker alone, somebody else takes over first.
        """
        if self._ending or self._terminated:
            return
        self._terminated = True
        answered = self.link.ask(commands.Terminated, _TERM_SECONDS)
        answered.addErrback(self._terminated_alone)

    def _terminated_alone(self, failure: Failure) -> None:
        """The monitor does not answer (it is stopped, or ending too): drain, and end, without its word."""
        text = f"SIGTERM came from outside the session, and the monitor did not answer: {failure.getErrorMessage()}"
        reason = ExitReason(ExitKind.SESSION_END, text=text)
        # A monitor that turns again may hear of this first, and 0 would be an end for no reason.
        self._status = 0 if self._ending else -signal.SIGTERM
        self._leave(reason, self._settings.drain.timeout_seconds, drain=True)

    def _uncaught(self, error: ErrorRecord) -> None:
        # Told in whatever thread had the error.
        self._reactor.callFromThread(self._crash, error)

    def _link_lost(self, reason: EmitError) -> None:
        """The monitor is gone: nobody will say anything any more. Finish what there is, and end."""
        if self._has_left:
            self._end_process(self._status, False)
            return
        text = f"the monitor is gone: {reason}"
        self._leave(
            ExitReason(ExitKind.SESSION_END, text=text), self._settings.drain.timeout_seconds, drain=True
        )

    def _crash(self, error: ErrorRecord, kind: CauseKind = CauseKind.EXCEPTION) -> None:
        """Something in this process is broken: tell the monitor, run the exit handlers, exit 1. Once."""
        if self._crashed:
            return
        self._crashed = True
        self._ending = True
        if self._listeners is not None:
            self._listeners.stop_accepting()
        if self._heartbeat is not None:
            self._heartbeat.stop()
        crashed = ensureDeferred(self._crash_exit(error, kind))
        crashed.addBoth(lambda _: self._end_process(1, True))

    async def _crash_exit(self, error: ErrorRecord, kind: CauseKind) -> None:
        self.link.tell(commands.CrashDetected, error=asdict(error), kind=kind.value)
        seconds = min(_CRASH_EXIT_SECONDS, self._settings.drain.timeout_seconds)
        await self._exit_handlers.run(ExitReason(ExitKind.CRASH, error), seconds)
        moment = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
        self._note(f"crash event detected @ {moment} UTC")
        # Its answer says that all before it has arrived as well.
        await self.link.ask(commands.Note, _FAREWELL_SECONDS, text=str(error))

    def _leave(
        self, reason: ExitReason, seconds: float, *, drain: bool, last_ports: Sequence[str] = ()
    ) -> None:
        if self._ending:
            return
        self._ending = True
        left = ensureDeferred(self._leave_within(reason, seconds, drain=drain, last_ports=last_ports))
        bounded = within(self._reactor, seconds, "leaving", left)
        bounded.addErrback(self._leaving_failed)
        bounded.addBoth(lambda _: self._left())

    async def _leave_within(
        self, reason: ExitReason, seconds: float, *, drain: bool, last_ports: Sequence[str]
    ) -> None:
        if self._heartbeat is not None:
            self._heartbeat.stop()
        if self._listeners is not None:
            self._listeners.drain(last_ports)
            number = self._listeners.open_connections
            self._note(f"draining: {number} connection{' is' if number == 1 else 's are'} open")
        if drain:
            self._begin_drain(reason)
        give_way()
        await self._exit_handlers.run(reason, seconds)
        if self._listeners is not None and drain:
            # Nor is whoever develops to have one more answer of the old code in a browser that was idle.
            if reason.kind is ExitKind.SESSION_END or self._settings.app.reload:
                self._listeners.close_idle()
            await self._listeners.when_gone()
        if not self._is_late:  # then this was called off, and `_left` sees to it
            await self._stop()

    async def _stop(self) -> None:
        """End what the application had started; once."""
        application, self._application = self._application, None
        if application is not None:
            await application.stop()

    def _leaving_failed(self, failure: Failure) -> None:
        self._is_late = True
        self._note(f"{failure.getErrorMessage()}; what is left is cut short, and the exit goes on")
        if not failure.check(TimeoutError):
            self._log.failure("leaving failed; the exit goes on", failure=failure)

    def _left(self) -> None:
        listeners = self._listeners
        if listeners is None:
            self._farewell()
            return
        # At the deadline some may still be open: their last bytes are written before the process ends.
        listeners.abort()
        gone = within(self._reactor, _ABORT_SECONDS, "closing", listeners.when_gone())
        gone.addErrback(lambda _: None)
        # Nor has the application heard of its end, where the deadline came first: a service, a lifespan.
        gone.addCallback(
            lambda _: within(self._reactor, _STOP_SECONDS, "stopping", ensureDeferred(self._stop()))
        )
        gone.addErrback(self._leaving_failed)
        gone.addCallback(lambda _: listeners.close())
        gone.addBoth(lambda _: self._farewell())

    def _farewell(self) -> None:
        # What was told last has to arrive: the process ends when the link is gone.
        self._has_left = True
        self._reactor.callLater(_FAREWELL_SECONDS, self._end_process, self._status, False)
        self.link.close()

    # --- telling --------------------------------------------------------------------------------

    def _note(self, text: str) -> None:
        self.link.tell(commands.Note, text=text)

    def _exit_handler_failed(self, name: str, failure: Failure) -> None:
        self._note(f"{name} failed: {failure.getErrorMessage()}; the exit goes on")
        self._log.failure("{name} failed; the exit goes on", failure=failure, name=name)
