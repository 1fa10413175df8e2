"""`ServerWorker`: what an application in a worker process has of its session."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from functools import wraps
from hmac import compare_digest
from typing import Any, ClassVar, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocolFactory, IReactorTime
from twisted.protocols.amp import Command

from serverworker.processes.exit_handlers import ExitHandler, ExitHandlers
from serverworker.processes.listeners import Listeners
from serverworker.processes.role import THIS_PROCESS, ProcessRole
from serverworker.values.errors import WrongProcess
from serverworker.values.exit_status import check_exit_status
from serverworker.values.reasons import ExitReason
from serverworker.wire import commands
from serverworker.wire.emits import Handlers

_LONGEST_VERSION = 100


class WorkerLink(Protocol):
    """What a ServerWorker needs of its link to the monitor."""

    def tell(self, command: type[Command], /, **args: Any) -> None:
        """Send a command, and care for no answer."""

    def emit(self, name: str, args: Any = None, timeout: float = 60.0) -> Deferred[list[Any]]:
        """Emit to the monitor's handlers."""


class ServerWorker:
    """The worker's own end of the session. There is one in a worker process; the session makes it."""

    _current: ClassVar[ServerWorker | None] = None

    def __init__(
        self,
        *,
        worker_id: int,
        generation: int,
        reactor: IReactorTime,
        link: WorkerLink,
        handlers: Handlers,
        listeners: Listeners,
        exit_handlers: ExitHandlers,
        drain_hooks: ExitHandlers,
        emit_seconds: float = 60.0,
        session_key: str = "",
        version: str = "",
        role: ProcessRole = THIS_PROCESS,
    ) -> None:
        """Raises `WrongProcess` in a monitor, and `AlreadyLaunched` where there is a worker already."""
        role.take("worker")
        self.id = worker_id
        """1 for the first worker of the session; never used twice."""
        self.generation = generation
        """Which version of code and configuration this is: a restart starts the next."""
        self.reactor = reactor
        """The reactor of this process."""
        self._link = link
        self._handlers = handlers
        self._listeners = listeners
        self._exit_handlers = exit_handlers
        self._drain_hooks = drain_hooks
        self._emit_seconds = emit_seconds
        self._session_key = session_key
        self._version = version
        ServerWorker._current = self

    @classmethod
    def current(cls) -> ServerWorker:
        """The worker of this process. Raises `WrongProcess` where there is none."""
        if cls._current is None:
            raise WrongProcess(
                "this process is no server worker: it was not started by `twistd serverworker`"
            )
        return cls._current

    @property
    def version(self) -> str:
        """What surfaces call the code that is deployed: ``[app] version``, or what the application says here.

        To be set in `initialize_server_worker`: it is told when the application is loaded. One line of at most 100
        printable characters, such as ``2.4.1``; anything else raises `ValueError`.
        """
        return self._version

    @version.setter
    def version(self, version: str) -> None:
        if not _is_version(version):
            raise ValueError(
                f"a version is one line of at most {_LONGEST_VERSION} printable characters, not {version!r:.120}"
            )
        self._version = version

    # --- ports ----------------------------------------------------------------------------------

    @property
    def ports(self) -> Mapping[str, str]:
        """The session's ports: name to address, such as ``{"server": "tcp:8080"}``.

        With ``bind = false`` they are bound by nobody yet: the application does that itself.
        """
        return self._listeners.addresses

    @property
    def sockets(self) -> Mapping[str, socket.socket]:
        """The session's listening sockets by name, for who hands them on to another program; else `listen` is the way.

        They are shared by all workers and are not to be closed. None with ``bind = false``.
        """
        return self._listeners.sockets

    def listen(self, name: str, factory: IProtocolFactory) -> None:
        """Serve a port of the session with a protocol factory, such as a `twisted.web.server.Site`.

        The monitor has bound the port; the worker accepts once the monitor lets it serve, whenever this is called.
        Raises `ValueError` for a name that is no port of the session (they are named in the text), for one that is
        listened on already, and with ``bind = false``; `TypeError` for what is no factory, such as a bare Resource.
        """
        self._listeners.listen(name, factory)

    # --- IPC ------------------------------------------------------------------------------------

    def emit(self, name: str, args: Any = None, timeout: float | None = None) -> Deferred[list[Any]]:
        """Call the monitor's handlers of that name, with any JSON value.

        Answers a Deferred of their results, in the order they were registered. It always ends: it fails with
        `UnhandledMessage`, `RemoteError`, `NotJSON`, `ValueTooLarge`, `EmitTimeout` (after `timeout` seconds; None:
        ``[ipc] timeout_seconds``, 60 if unset), `PeerLost`, `LinkDestroyed` or `FailedDispatch`.
        """
        return self._link.emit(name, args, self._emit_seconds if timeout is None else timeout)

    def on(self, name: str, handler: Callable[[Any], Any]) -> None:
        """Have `handler(args)` called for the monitor's emits of that name; plain, Deferred or coroutine."""
        self._handlers.on(name, handler)

    def off(self, name: str, handler: Callable[[Any], Any]) -> None:
        """Take a handler back. Nothing happens if it is not registered."""
        self._handlers.off(name, handler)

    def clear_message_listeners(self, name: str) -> None:
        """Take back every handler of that name."""
        self._handlers.clear(name)

    # --- the session ----------------------------------------------------------------------------

    def authorizes(self, candidate: str | bytes) -> bool:
        """Whether `candidate` is the session key: for routes that only the administrator may use.

        Compared in constant time. Take it from a header or a form's field, never from a URL: those stand in logs.
        """
        given = candidate.encode("utf-8", "replace") if isinstance(candidate, str) else candidate
        return bool(self._session_key) and compare_digest(given, self._session_key.encode())

    def lifecycle_notification(self, event: str) -> None:
        """Have the monitor tell `event`, a text, to all who listen: it stands in the log."""
        self._link.tell(commands.Note, text=str(event))

    def on_drain(self, callback: Callable[[], Any]) -> None:
        """Have `callback()` called once, when this worker is about to end and its connections are to finish.

        Plain, Deferred or coroutine. With ``[drain] unready_seconds`` that is while it still serves: let your health
        route answer 503 from then on, and load balancers look away in time. Otherwise it is when it stops accepting.
        Streams and websockets that know how to say goodbye do it here; at the deadline they are closed. What fails is
        reported, and stops nothing.
        """

        @wraps(callback)
        def hook(reason: ExitReason) -> Any:
            return callback()

        self._drain_hooks.add(hook)

    def add_exit_handler(self, handler: ExitHandler) -> None:
        """Have `handler(reason: ExitReason)` called when this worker ends: by crash, restart or session end.

        All run at the same time, and IPC still works. One that raises or outlives its deadline is reported, and stops
        neither the others nor the exit.
        """
        self._exit_handlers.add(handler)

    def kill_session(self, reason: str, graceful: bool = True, error_code: int = 0) -> None:
        """Ask the monitor to end the whole session, this process included, with that exit status.

        Graceful: the drain deadline holds. Otherwise every worker is killed at once. Raises `ValueError` for a status
        that no process can end with.
        """
        check_exit_status(error_code)
        self._link.tell(commands.KillSession, reason=reason, graceful=graceful, status=error_code)


def _is_version(value: object) -> bool:
    return isinstance(value, str) and value.isprintable() and len(value) <= _LONGEST_VERSION
