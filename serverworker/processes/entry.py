"""The entry of a worker process: ``python -m serverworker.processes.entry``. The monitor starts it; nobody else does.

Standard library only until the descriptors are settled: some of Twisted's modules change ``LISTEN_*`` when imported.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

from serverworker.processes.give_way import give_way
from serverworker.processes.inheritance import inherited_sockets


def main(arguments: list[str]) -> None:
    """Run a worker until it ends. `arguments` are those that `spawn` writes."""
    gc.disable()  # nothing of what is imported is garbage; to look for it takes a tenth of a start
    options = _Options(arguments)
    # A session of its own: a ^C on the terminal does not reach it, and its children can be ended together with it.
    os.setsid()
    os.chdir(options.directory)
    # In the place of the folder that the interpreter was started in, which stands there unless PYTHONSAFEPATH is set.
    sys.path[: 0 if sys.flags.safe_path else 1] = [options.directory]
    os.environ["LISTEN_PID"] = str(os.getpid())
    sockets = inherited_sockets(os.environ, os.getpid())
    for descriptor in (*sockets.values(), options.channel, options.stacks, options.board, options.shares):
        os.set_inheritable(descriptor, False)
    _end_now(_run(options, sockets))


def _end_now(status: int) -> NoReturn:
    """End as the interpreter would, but for taking all modules apart: 50 ms of a CPU in which the successor begins.

    Not by way of `sys.exit` and `atexit`: what a fork server had registered there would come too late.
    """
    give_way()
    threading._shutdown()  # type: ignore[attr-defined]  # what an interpreter calls first of all
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    give_way()
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        signal.raise_signal(-status)
    os._exit(status)


class _Options:
    """What `spawn` has written. Not by argparse, which takes a fifth of the start of a worker that was forked."""

    def __init__(self, arguments: list[str]) -> None:
        given = [word.removeprefix("--").partition("=") for word in arguments]
        values = {name: value for name, _, value in given}
        self.worker = int(values["worker"])
        self.directory = values["directory"]
        self.reactor = values["reactor"]
        self.channel, self.stacks, self.board, self.shares = (
            int(values[name]) for name in ("channel", "stacks", "board", "shares")
        )
        self.ports = [value for name, _, value in given if name == "port"]


_REAP_SECONDS = 0.5


def _install_asyncio() -> bool:
    """Have Twisted run on an event loop of asyncio's kind; answers whether it is uvloop's, which is faster."""
    import asyncio

    from twisted.internet import asyncioreactor

    try:
        import uvloop
    except ImportError:
        loop, is_uvloop = asyncio.new_event_loop(), False
    else:
        loop, is_uvloop = uvloop.new_event_loop(), True
    asyncio.set_event_loop(loop)
    asyncioreactor.install(loop)
    return is_uvloop


def _reap(reactor: Any) -> None:
    """Look for child processes of Twisted's that have ended, again and again.

    uvloop takes SIGCHLD away from Python for as long as asyncio has a child process, and does not give it back.
    """
    from twisted.internet.process import reapAllProcesses

    reapAllProcesses()
    reactor.callLater(_REAP_SECONDS, _reap, reactor)


def _run(options: _Options, sockets: dict[str, int]) -> int:
    is_uvloop = options.reactor == "asyncio" and _install_asyncio()
    from twisted.internet import reactor

    from serverworker.processes.board import RequestBoard
    from serverworker.processes.shares import Shares
    from serverworker.processes.stacks import arm
    from serverworker.processes.worker_log import begin_log
    from serverworker.processes.worker_session import WorkerSession
    from serverworker.wire.link import adopt

    give_way()
    gc.enable()
    turning: Any = reactor
    turning.seconds = time.monotonic
    begin_log(sys.stderr)
    arm(options.stacks)
    end = _End(turning)
    session = WorkerSession(
        reactor=turning,
        worker_id=options.worker,
        pid=os.getpid(),
        ports=_ports(options.ports, sockets),
        board=RequestBoard.attach(options.board),
        shares=Shares(options.shares),
        end=end,
    )
    give_way()
    adopt(session.link, turning, options.channel)
    _take_signals(turning, session.terminated)
    turning.callWhenRunning(session.start)
    if is_uvloop:
        turning.callWhenRunning(_reap, turning)
    turning.run()
    return end.status


class _End:
    """Ends the process: at once, or by way of the reactor's own end."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._stopping = False
        self.status = 0

    def __call__(self, status: int, at_once: bool) -> None:
        self.status = status
        if at_once:
            # Not by the reactor's end: it waits for its threads, and one of them may be what is broken.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        if not self._stopping:
            self._stopping = True
            self._reactor.stop()


def _ports(descriptions: list[str], sockets: dict[str, int]) -> dict[str, Any]:
    from serverworker.processes.listeners import Port

    addresses = dict(each.split("=", 1) for each in descriptions)
    return {
        name: Port(name=name, description=addresses[name], socket=socket.socket(fileno=descriptor))
        for name, descriptor in sockets.items()
    }


def _take_signals(reactor: Any, terminated: Callable[[], None]) -> None:
    """Have SIGTERM call `terminated` once the reactor runs; one that comes sooner waits until then.

    For Twisted installs a handler of its own first, which would end the reactor below a worker that has just joined.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    reactor.callWhenRunning(_install_signals, reactor, terminated)


def _install_signals(reactor: Any, terminated: Callable[[], None]) -> None:
    signal.signal(signal.SIGTERM, lambda *_: reactor.callFromThread(terminated))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


if __name__ == "__main__":
    main(sys.argv[1:])
