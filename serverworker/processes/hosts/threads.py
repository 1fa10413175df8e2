"""The threads that run a WSGI application: so many at a time, whoever waits in order, the heartbeat first."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.logger import Logger

MOST_WAITING = 1000
"""Requests that wait for a thread; more are refused."""
MOST_LENT = 100
"""Threads that may be started in the place of those that wait for a slow client."""

Work = Callable[[], None]
"""What a thread does. It must not raise."""


class Starts(Protocol):
    """Starts a thread: `threading.Thread(…).start()`, but for tests."""

    def __call__(self, run: Callable[[], None], name: str) -> None:
        """Run it in a thread of that name. Raises `RuntimeError` where there can be no more."""


def start_daemon(run: Callable[[], None], name: str) -> None:
    """Start a thread that does not keep the process from ending: what hangs in it would do so for ever."""
    threading.Thread(target=run, name=name, daemon=True).start()


class Threads:
    """A pool of `size` threads, started as they are needed.

    A thread that waits for its client is not counted (`lend`), or a few slow readers of long answers would keep
    everybody else from being answered. The books are kept in the reactor's thread alone: without a lock, and every
    method is to be called there.
    """

    _log = Logger(namespace="serverworker.wsgi")

    def __init__(self, reactor: IReactorFromThreads, size: int, start: Starts = start_daemon) -> None:
        self._reactor = reactor
        self._size = size
        self._start = start
        self._works: SimpleQueue[Work | None] = SimpleQueue()
        self._urgent: deque[Work] = deque()
        self._waiting: deque[Work] = deque()
        self._started = 0
        self._busy = 0
        self._lent = 0
        self._idle: list[Deferred[None]] = []

    @property
    def waiting(self) -> int:
        """How many wait for a thread."""
        return len(self._urgent) + len(self._waiting)

    def run(self, work: Work, *, urgent: bool = False) -> bool:
        """Have it done in a thread, before all who wait if it is urgent; False where too many wait already."""
        if urgent:
            self._urgent.append(work)
        elif len(self._waiting) >= MOST_WAITING:
            return False
        else:
            self._waiting.append(work)
        self._go_on()
        return True

    def forget(self, work: Work) -> bool:
        """Take back what still waits; False where it has begun."""
        for queue in (self._urgent, self._waiting):
            if work in queue:
                queue.remove(work)
                return True
        return False

    def lend(self) -> None:
        """One of those that are busy waits for its client: another may work meanwhile."""
        self._lent += 1
        self._go_on()

    def take_back(self) -> None:
        """Its client goes on."""
        self._lent -= 1

    def when_idle(self) -> Deferred[None]:
        """Fires when nothing is being done, and nobody waits."""
        idle: Deferred[None] = Deferred()
        self._idle.append(idle)
        self._look_whether_idle()
        return idle

    def end(self) -> None:
        """End the threads that have nothing to do; the others end with the process."""
        for _ in range(self._started):
            self._works.put(None)

    def _go_on(self) -> None:
        limit = self._size + min(self._lent, MOST_LENT)
        # The heartbeat asks whether the application hangs. Where all that is so is its clients, the answer is no.
        while self._urgent and self._busy < limit + (self._lent > 0):
            self._begin(self._urgent.popleft())
        while self._waiting and self._busy < limit:
            self._begin(self._waiting.popleft())

    def _begin(self, work: Work) -> None:
        self._busy += 1
        if self._busy > self._started:
            try:
                self._start(self._work, f"wsgi-{self._started + 1}")
                self._started += 1
            except RuntimeError as error:
                self._log.warn(
                    "cannot start a thread: {error}; there are {count}, and one of them does it later. Look for a "
                    "limit of processes (`ulimit -u`, systemd: TasksMax=), or lower app.wsgi_threads.",
                    error=error,
                    count=self._started,
                )
        self._works.put(work)

    def _work(self) -> None:
        # In a thread, for as long as the process lives.
        while (work := self._works.get()) is not None:
            work()
            del work  # an idle thread keeps no request alive
            self._reactor.callFromThread(self._done)

    def _done(self) -> None:
        self._busy -= 1
        self._go_on()
        self._look_whether_idle()

    def _look_whether_idle(self) -> None:
        if self._idle and not self._busy and not self.waiting:
            idle, self._idle = self._idle, []
            for each in idle:
                each.callback(None)
