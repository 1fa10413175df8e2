"""A monitor as far as the guardian is concerned: starts one, starts workers, tells their pids, and waits to be killed.

``python guardian_parent.py DRAIN_SECONDS KIND…``, with workers of these kinds:

- ``polite`` ends half a second after its monitor is gone, and then writes ``finished`` to its standard output;
- ``stubborn`` ignores every signal and the end of its link;
- ``family`` is stubborn, and has two stubborn children in its session, one in a group of its own;
- ``unmarked`` is such a family, of which nothing bears the session's mark;
- ``secluded`` has a stubborn child in a session of its own and ends at once when its monitor is gone;
- ``daemon`` has left a stubborn daemon behind: another session, another parent;
- ``early`` never calls setsid, as one that has only just been started.

Each prints a line ``KIND PID`` for every process of its own once that is settled, and this program ``monitor PID`` and
``guardian PID`` when all are. ``stop`` on standard input stops the guardian in order, as at a session's end.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

LINK = 0
"""The descriptor of a worker whose end means that the monitor is gone."""


def say(kind: str) -> None:
    """Tells of this process, in one write."""
    os.write(1, f"{kind} {os.getpid()}\n".encode())


def be_stubborn(kind: str) -> None:
    """Never ends by itself, nor by a signal that can be ignored."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    say(kind)
    while True:
        time.sleep(1000)


def fork_stubborn(kind: str, *, group: bool = False, session: bool = False, leave: bool = False) -> None:
    """Starts a stubborn child."""
    if os.fork():
        return
    os.close(LINK)
    if group:
        os.setpgid(0, 0)
    if session:
        os.setsid()
    if leave and os.fork():
        os._exit(0)
    be_stubborn(kind)


def work(kind: str) -> None:
    """The whole life of a worker."""
    if kind != "early":
        os.setsid()
    if kind in ("family", "unmarked"):
        fork_stubborn("child")
        fork_stubborn("child", group=True)
    elif kind == "secluded":
        fork_stubborn("child", session=True)
    elif kind == "daemon":
        fork_stubborn("child", session=True, leave=True)
        os.wait()
    if kind in ("stubborn", "family", "unmarked", "early"):
        be_stubborn(kind)
    say(kind)
    os.read(LINK, 1)
    if kind == "polite":
        time.sleep(0.5)
        os.write(1, b"finished 0\n")


class Monitor:
    """Starts everything, as the monitor does."""

    def __init__(self, reactor: Any, drain_seconds: float, kinds: list[str]) -> None:
        from serverworker.processes.guardian import Guardian

        self.reactor = reactor
        self.guardian = Guardian(reactor)
        self.guardian.start(drain_seconds)
        for kind in kinds:
            self.spawn(kind)
        os.write(1, f"guardian {self.guardian.pid}\nmonitor {os.getpid()}\n".encode())

    def spawn(self, kind: str) -> None:
        from twisted.internet.protocol import ProcessProtocol

        transport = self.reactor.spawnProcess(
            ProcessProtocol(),
            sys.executable,
            [sys.executable, "-I", "-S", __file__, "work", kind],
            env={} if kind == "unmarked" else self.guardian.environment,
            childFDs={LINK: "w", 1: 1, 2: 2},
        )
        self.guardian.watch(transport.pid)

    def obey(self) -> None:
        """Stops as told on standard input, with nobody to wait for."""
        self.guardian.set_deadline(0)
        self.guardian.stop().addCallback(lambda _: self.reactor.stop())


def monitor(drain_seconds: float, kinds: list[str]) -> None:
    """The whole life of the monitor."""
    from twisted.internet import reactor
    from twisted.internet.protocol import Protocol
    from twisted.internet.stdio import StandardIO

    turning: Any = reactor
    attach: Any = StandardIO  # annotated as on Windows, where it has no stdout
    everything: list[Monitor] = []
    ears = Protocol()
    ears.dataReceived = lambda data: everything[0].obey()  # type: ignore[method-assign]
    turning.callWhenRunning(lambda: everything.append(Monitor(turning, drain_seconds, kinds)))
    attach(ears, stdout=os.open(os.devnull, os.O_WRONLY))
    turning.run()


if __name__ == "__main__":
    if sys.argv[1] == "work":
        work(sys.argv[2])
    else:
        monitor(float(sys.argv[1]), sys.argv[2:])
