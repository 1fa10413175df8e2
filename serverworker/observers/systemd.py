"""Tells systemd, or whoever else has set ``NOTIFY_SOCKET``, how the session is (sd_notify(3)), and feeds its watchdog.

What is told, and when::

    EXTEND_TIMEOUT_USEC=    while the first workers start, a restart runs or the session ends, each within its deadlines
    READY=1                 when the first worker serves, and when a restart is over, whichever way
    RELOADING=1             with MONOTONIC_USEC=, when a restart begins
    STATUS=                 on each change, in words
    WATCHDOG=1              twice in each period that WATCHDOG_USEC gives, while the session is healthy
    STOPPING=1              when the session begins to end
"""

from __future__ import annotations

import errno
import os
import socket
from collections import deque
from collections.abc import Callable, MutableMapping

from attrs import frozen
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from serverworker.decisions.health import is_healthy
from serverworker.values import events
from serverworker.values.errors import ErrorRecord
from serverworker.values.events import Event, Told
from serverworker.values.state import Life, Phase, SessionState

EXTEND_EVERY_SECONDS = 10.0
EXTEND_SECONDS = 30.0
"""How much longer systemd is asked to wait, each time."""
RETRY_SECONDS = 0.2
"""Between two tries to send to somebody whose queue is full."""
WAITING_MESSAGES = 64
"""So many are kept meanwhile."""
LONGEST_STATUS = 400
"""Characters; systemd takes no message of more than 4096 bytes."""

_SICK_SECONDS = 1.0
"""How soon a session that is not healthy is looked at again: after a stop of the whole process, a step is late once."""

_QUIET = (events.OutputLine, events.Lifecycle, events.HeartbeatFailed, events.HeartbeatRecovered)
"""Events that change nothing of what is told, and that may come by the thousand."""

_log = Logger(namespace="serverworker.systemd")


@frozen(kw_only=True)
class ServiceManager:
    """What the environment says of who started this process."""

    notify_socket: str
    """The path of a datagram socket, or ``@`` and an abstract name."""
    watchdog_seconds: float | None = None
    """How long it may be told nothing before it kills; None: for ever."""


def take_service_manager(environ: MutableMapping[str, str], pid: int) -> ServiceManager | None:
    """Who is to be told, or None; takes the variables out of `environ`, so that no child speaks for this process."""
    names = [name for name in environ if name == "NOTIFY_SOCKET" or name.startswith("WATCHDOG_")]
    taken = {name: environ.pop(name) for name in names}
    if not taken.get("NOTIFY_SOCKET"):
        return None
    return ServiceManager(
        notify_socket=taken["NOTIFY_SOCKET"], watchdog_seconds=_watchdog_seconds(taken, pid)
    )


def _watchdog_seconds(taken: MutableMapping[str, str], pid: int) -> float | None:
    text = taken.get("WATCHDOG_USEC")
    if text is None or taken.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and int(text) > 0):
        _log.error("WATCHDOG_USEC is {text!r}, and no number of microseconds: no watchdog is fed", text=text)
        return None
    return int(text) / 1e6


class NotifySocket:
    """Sends messages to where ``NOTIFY_SOCKET`` says. Never blocks."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._socket: socket.socket | None = None

    def send(self, *lines: str) -> None:
        """Send one message. Raises BlockingIOError where the queue is full, OSError where it cannot arrive."""
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
        self._socket.sendto("\n".join(lines).encode("utf-8", "replace"), self._address())

    def _address(self) -> bytes:
        if self.name.startswith("/"):
            return os.fsencode(self.name)
        if self.name.startswith("@"):
            return b"\0" + os.fsencode(self.name[1:])
        raise OSError(errno.EAFNOSUPPORT, "neither a path that begins with / nor @ and an abstract name")

    def close(self) -> None:
        """Give the descriptor back."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def extend_timeout(seconds: float) -> str:
    """The line that asks for so much more time."""
    return f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}"


class SystemdObserver:
    """Tells a service manager what becomes of a session. Whatever becomes of the telling harms nobody."""

    def __init__(
        self,
        *,
        clock: IReactorTime,
        notify: NotifySocket,
        watchdog_seconds: float | None,
        state: Callable[[], SessionState],
        publish: Callable[[Event], None],
    ) -> None:
        """`clock` is monotonic. `publish` is told, once, that nobody can be reached."""
        self._clock = clock
        self._notify = notify
        self._watchdog_seconds = watchdog_seconds
        self._state = state
        self._publish = publish
        self._unsent: deque[str] = deque(maxlen=WAITING_MESSAGES)
        self._timers: dict[Callable[[], None], IDelayedCall] = {}
        self._status = ""
        self._failed_restart = ""
        self._ready = False
        self._ending = ""
        self._reachable = True
        self._sick = False
        self._closed = False

    def start(self) -> None:
        """Feed the watchdog from now on, if there is one."""
        if self._watchdog_seconds is not None:
            self._later(self._watchdog_seconds / 2, self._feed)

    def close(self) -> None:
        """Send what can still be sent, and tell nothing more."""
        self._flush()
        self._closed = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._notify.close()

    def __call__(self, told: Told) -> None:
        """Tell what an event means to a service manager."""
        if self._closed or isinstance(told.event, _QUIET):
            return
        lines = self._lines(told.event)
        if self._needs_time() and self._extend not in self._timers:
            self._later(EXTEND_EVERY_SECONDS, self._extend)
            lines.append(extend_timeout(EXTEND_SECONDS))
        status = self._describe()
        if status != self._status:
            self._status = status
            lines.append(f"STATUS={status}")
        if lines:
            self._send("\n".join(lines))

    def _lines(self, event: Event) -> list[str]:
        match event:
            case events.ServerRunning() if not self._ready:
                self._ready = True
                return ["READY=1"]
            case events.RestartStarted():
                self._failed_restart = ""
                now = int(self._clock.seconds() * 1e6)
                return ["RELOADING=1", f"MONOTONIC_USEC={now}"] if self._ready else []
            case events.RestartCompleted() | events.RestartFailed():
                if isinstance(event, events.RestartFailed):
                    self._failed_restart = (
                        f"the restart to generation {event.generation} failed: {event.text}"
                    )
                return ["READY=1"] if self._ready else []
            case events.SessionEnding() if not self._ending:
                self._ending = event.reason
                return ["STOPPING=1"]
            case _:
                return []

    def _describe(self) -> str:
        text = describe(self._state(), self._clock.seconds(), self._ending)
        if self._failed_restart and not self._ending:
            text += f"; {self._failed_restart}"
        return " ".join(text.split())[:LONGEST_STATUS]

    # --- more time ------------------------------------------------------------------------------

    def _needs_time(self) -> bool:
        """Whether something runs that has an end of its own, which may come later than the service manager expects."""
        if self._ending:
            return True
        state = self._state()
        if not is_healthy(state, self._clock.seconds()):
            return False
        # A first start that fails again and again is for the service manager to give up.
        return state.restart is not None or not (self._ready or state.deaths_in_a_row)

    def _extend(self) -> None:
        if self._needs_time():
            self._later(EXTEND_EVERY_SECONDS, self._extend)
            if not self._unsent:
                self._send(extend_timeout(EXTEND_SECONDS))

    # --- the watchdog ---------------------------------------------------------------------------

    def _feed(self) -> None:
        assert self._watchdog_seconds is not None
        seconds = self._watchdog_seconds / 2
        sick = not is_healthy(self._state(), self._clock.seconds())
        if sick:
            seconds = min(seconds, _SICK_SECONDS)
        elif not self._unsent:
            self._send("WATCHDOG=1")
        if sick and not self._sick:
            _log.critical(
                "the session is not healthy: nobody serves and nothing is planned, or a deadline is long over; the "
                "watchdog is told nothing, and may kill this process within {seconds:g} s",
                seconds=self._watchdog_seconds,
            )
        elif self._sick and not sick:
            _log.info("the session is healthy again; the watchdog is told so")
        self._sick = sick
        self._later(seconds, self._feed)

    # --- sending --------------------------------------------------------------------------------

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        def due() -> None:
            del self._timers[call]
            call()

        self._timers[call] = self._clock.callLater(seconds, due)

    def _send(self, text: str) -> None:
        if self._unsent and all(each.startswith("STATUS=") for each in (self._unsent[-1], text)):
            self._unsent.pop()  # the newer one says it all
        self._unsent.append(text)
        if self._flush not in self._timers:
            self._flush()

    def _flush(self) -> None:
        while self._unsent:
            failed: OSError | None = None
            try:
                self._notify.send(self._unsent[0])
            except BlockingIOError:
                self._later(RETRY_SECONDS, self._flush)
                return
            except OSError as error:
                failed = error
            self._unsent.popleft()
            self._note(failed)

    def _note(self, error: OSError | None) -> None:
        """Tell of a failure once, until something has arrived again. Whoever is told may have us called again."""
        reachable, self._reachable = self._reachable, error is None
        if reachable and error is not None:
            record = ErrorRecord(
                type=f"builtins.{type(error).__name__}", message=error.strerror or str(error)
            )
            self._publish(
                events.Fault(
                    where=f"telling the service manager (NOTIFY_SOCKET={self._notify.name})",
                    error=record,
                    next_step="the session goes on; whatever it has to tell is tried all the same",
                )
            )


def describe(state: SessionState, now: float, ending: str = "") -> str:
    """The session in one line. `ending`: why it ends, if it does."""
    if ending:
        return f"ending ({ending}), workers left: {len(state.workers)}"
    serving = len(state.in_life(Life.SERVING))
    parts = [f"serving {serving} of {state.policy.count}, generation {state.generation}"]
    if not state.ever_served and state.phase is Phase.RUNNING:
        parts = ["starting"]
    if state.restart is not None:
        parts.append(f"restarting to generation {state.restart.generation}")
    if state.replacing is not None:
        done = state.replacing.total - state.replacing.left
        parts.append(f"{done} of {state.replacing.total} replaced")
    if state.respawn_at > now:
        wait = state.respawn_at - now
        parts.append(f"a worker is started in {wait:.0f} s (death {state.deaths_in_a_row} in a row)")
    return "; ".join(parts)
