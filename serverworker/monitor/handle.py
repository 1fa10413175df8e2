"""`Monitor`: the session as an agent, the console, and every other surface has it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import update_wrapper
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, DeferredList, fail

from serverworker.monitor.console_commands import ConsoleAction
from serverworker.monitor.figures import (
    MonitorFigures,
    WorkerFigures,
    all_figures,
    monitor_figures,
    requests_finished,
)
from serverworker.processes.awaiting import within
from serverworker.processes.exit_handlers import ExitHandler
from serverworker.processes.shell import ShellResult
from serverworker.values import events
from serverworker.values.errors import PeerLost, nearest
from serverworker.values.events import Event, Told
from serverworker.values.exit_status import check_exit_status
from serverworker.values.settings import Settings
from serverworker.values.state import Life, SessionState
from serverworker.wire.emits import results_of

if TYPE_CHECKING:
    from serverworker.monitor.session import Session


class Monitor:
    """The monitor's half of the session. There is one in a monitor process; the session makes it."""

    def __init__(self, session: Session) -> None:
        self._session = session

    # --- what is --------------------------------------------------------------------------------

    @property
    def state(self) -> SessionState:
        """The state of the session, now: one frozen value."""
        return self._session.engine.state

    @property
    def settings(self) -> Settings:
        """What the session is configured with; changed by `set_port` and `set_polling`."""
        return self._session.settings

    @property
    def ports(self) -> tuple[str, ...]:
        """The ports as they are bound now, such as ``server=tcp:8080``; by `set_port` without `now` ahead of workers."""
        return self._session.ports()

    def seconds(self) -> float:
        """The monotonic time that `state` is told in."""
        return float(self._session.reactor.seconds())

    def figures(self) -> tuple[WorkerFigures, ...]:
        """What each worker is at and takes of the machine, now, by id; looked up when asked for.

        It costs a few reads of /proc for each worker, so ask every second and not for every request.
        """
        return all_figures(self._session.engine, self._session.ping_seconds)

    def requests_finished(self) -> int:
        """How many requests all workers have finished, those that are gone and all heartbeats included."""
        return requests_finished(self._session.engine)

    @property
    def previous_session(self) -> events.PreviousSession | None:
        """How the session before this one ended; None where there was none, and until its journal was read."""
        return self._session.previous

    def own_figures(self) -> MonitorFigures:
        """What the monitor itself takes of the machine, now."""
        return monitor_figures()

    # --- IPC ------------------------------------------------------------------------------------

    def on(self, name: str, handler: Callable[[Any], Any]) -> None:
        """Have `handler(args)` called for the workers' emits of that name; plain, Deferred or coroutine."""
        self._session.handlers.on(name, handler)

    def off(self, name: str, handler: Callable[[Any], Any]) -> None:
        """Take a handler back. Nothing happens if it is not registered."""
        self._session.handlers.off(name, handler)

    def clear_message_listeners(self, name: str) -> None:
        """Take back every handler of that name."""
        self._session.handlers.clear(name)

    def emit(
        self, name: str, args: Any = None, timeout: float | None = None, *, worker: int | None = None
    ) -> Deferred[Any]:
        """Call the workers' handlers of that name, with any JSON value.

        To all that serve: answers `{worker id: list of results, or the error}`, and never fails. To one, by its id:
        answers the list of results, or fails as `ServerWorker.emit` does; with `PeerLost` where there is none.
        `timeout` in seconds; None: ``[ipc] timeout_seconds``.
        """
        seconds = self.settings.ipc.timeout_seconds if timeout is None else timeout
        if worker is not None:
            return self._emit_to(worker, name, args, seconds)
        ids = [each.id for each in self.state.in_life(Life.SERVING)]
        emits = DeferredList([self._emit_to(each, name, args, seconds) for each in ids], consumeErrors=True)

        def by_id(outcomes: list[tuple[bool, Any]]) -> dict[int, Any]:
            return {
                each: result if ok else result.value for each, (ok, result) in zip(ids, outcomes, strict=True)
            }

        return emits.addCallback(by_id)

    def _emit_to(self, worker: int, name: str, args: Any, seconds: float) -> Deferred[list[Any]]:
        process = self._session.engine.process(worker)
        if process is None:
            ids = [str(each.id) for each in self.state.workers]
            return fail(PeerLost(f"there is no worker {worker}{nearest(str(worker), ids)}"))
        return process.link.emit(name, args, seconds)

    def dispatch(self, name: str, args: Any = None, timeout: float | None = None) -> Deferred[list[Any]]:
        """Run the monitor's own handlers of that name, as a worker's emit would; answers the list of their results.

        Fails with `UnhandledMessage`, `RemoteError` (one of them failed; all have run), or TimeoutError.
        """
        seconds = self.settings.ipc.timeout_seconds if timeout is None else timeout
        outcomes = self._session.handlers.dispatch(name, args).addCallback(results_of)
        return within(self._session.reactor, seconds, f"emit {name!r}", outcomes)

    # --- hooks ----------------------------------------------------------------------------------

    def subscribe(self, callback: Callable[[Told], Any], *kinds: type[Event]) -> Callable[[], None]:
        """Have `callback(told)` called for every event, or for those of `kinds`; answers a function that ends it.

        What it raises, at once or later, is reported and harms nothing.
        """
        return self._session.subscribe(callback, *kinds)

    def on_crash_detected(self, callback: Callable[[events.WorkerDied], Any]) -> None:
        """Have `callback(event)` called for every death that nobody asked for, with its cause and last output."""
        self.subscribe(_with_event(callback), events.WorkerDied)

    def on_server_running(self, callback: Callable[[events.ServerRunning], Any]) -> None:
        """Have `callback(event)` called whenever a worker begins to serve."""
        self.subscribe(_with_event(callback), events.ServerRunning)

    def add_exit_handler(self, handler: ExitHandler) -> None:
        """Have `handler(reason: ExitReason)` called in the monitor when the session begins to end."""
        self._session.exit_handlers.add(handler)

    def add_console_command(
        self,
        name: str,
        patterns: Sequence[str],
        action: ConsoleAction,
        help: str = "",
    ) -> None:
        """Add a command for the console: `action(*arguments)` when `name` is typed.

        `patterns`: a regular expression for each argument, which must match the whole of it; arguments keep their
        case. Several commands may share a name if they differ in the number of arguments or their patterns.
        Raises `ValueError` for a name that is taken, or is no single word.
        """
        self._session.console_commands.add(name, patterns, action, help)

    # --- deeds ----------------------------------------------------------------------------------

    def exec(self, command: str | Sequence[str], timeout: float = 600.0) -> Deferred[ShellResult]:
        """Run a shell command without blocking; its output goes to the log line by line.

        A text runs in ``/bin/sh``, a sequence without one. Answers its status and output, whatever the status;
        after `timeout` seconds it is killed with its children. Fails with `ServerWorkerError` if it cannot be started.
        """
        return self._session.exec(command, timeout)

    def restart(self, mode: str = "clean", asked_by: str = "the agent") -> Deferred[str]:
        """Start a new generation; ``force`` skips the drain of the old one, never the readiness of the new.

        Fires when the new one serves; fails with `NotDone` when it was dropped, and says why.
        """
        if mode not in ("clean", "force"):
            raise ValueError(f"a restart is clean or force, not {mode!r}")
        return self._session.restart(mode, asked_by)

    def kill_session(self, reason: str, graceful: bool = True, error_code: int = 0) -> Deferred[str]:
        """End the session: exit handlers, every worker drained (or, not graceful, killed), exit with that status.

        Ends within the drain deadline and a few seconds. Fires when every worker is gone. Raises `ValueError` for a
        status that no process can end with.
        """
        check_exit_status(error_code)
        return self._session.engine.ask_end(reason, graceful=graceful, status=error_code)

    def set_polling(self, seconds: float) -> None:
        """Change the heartbeat's interval in every worker, at once. Raises `ConfigurationError` out of range."""
        self._session.set_polling(seconds)

    def set_port(
        self, name: str, description: int | str, *, now: bool = False, asked_by: str = "the agent"
    ) -> Deferred[str]:
        """Give a port another address: from the next restart on, or with a restart `now`.

        Fails with `ConfigurationError` for no such port or no such address, `PortUnavailable` if it cannot be bound
        (it is bound before anything is changed), and `NotDone` if the restart came to nothing.
        """
        return self._session.set_port(name, description, now=now, asked_by=asked_by)

    def set_workers(self, count: int) -> None:
        """Change how many workers serve; going down drains. Raises `ConfigurationError` out of range."""
        self._session.set_workers(count)


def _with_event(callback: Callable[[Any], Any]) -> Callable[[Told], Any]:
    """A subscriber that hands on the event alone. It bears the callback's name, for the report of its failure."""

    def subscriber(told: Told) -> Any:
        return callback(told.event)

    return update_wrapper(subscriber, callback)
