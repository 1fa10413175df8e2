"""Round trips between two processes: emits, bare AMP calls, and `multiprocessing.Pipe`, in one run.

Run from a checkout::

    python benchmarks/ipc.py                # rates and latencies, beside AMP and Pipe, in turns
    python benchmarks/ipc.py --steady 60    # 10,000 emits a second: memory of both ends over time
    python benchmarks/ipc.py --mixed 10     # 100 B emits alone, and while others carry 1 MB

Every contender has a child process of its own at the other end of an AF_UNIX socket pair, which sends back
what it gets. A value is a string. AMP carries bytes as they are, in pieces of 60,000 where they are longer,
one call each, since its values end at 65,535; a pipe pickles; an emit is JSON, which is most of its time at 1
MB. The ratio is the median over the rounds of this round's rate by AMP's in the same round: other load on the
machine comes and goes, but meets both. Owed: at 100 B, 0.6 or more.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from attrs import field, frozen
from twisted.internet import task
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.protocol import ServerFactory, connectionDone
from twisted.protocols import amp
from twisted.python.failure import Failure

from serverworker.wire.emits import Handlers
from serverworker.wire.link import Link, adopt

SIZES = {"100 B": 100, "100 kB": 100_000, "1 MB": 1_000_000}
IN_FLIGHT = (1, 100)
PIECE_BYTES = 60_000
STEADY_PER_SECOND = 10_000
STEADY_TICK_SECONDS = 0.01


class Echo(amp.Command):
    """What the bare AMP contender calls."""

    arguments = [(b"value", amp.String())]
    response = [(b"value", amp.String())]


class EchoAMP(amp.AMP):
    """Bare AMP, at both ends."""

    @Echo.responder
    def echo(self, value: bytes) -> dict[str, bytes]:
        """Send it back."""
        return {"value": value}

    def __init__(self, lost: Callable[[], None]) -> None:
        super().__init__()
        self._lost = lost

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """End with the parent."""
        super().connectionLost(reason)
        self._lost()


class EchoFactory(ServerFactory):
    """Makes the one protocol."""

    def __init__(self, protocol: amp.AMP) -> None:
        self.only = protocol

    def buildProtocol(self, addr: Any) -> amp.AMP:
        """The one protocol."""
        return self.only


@frozen
class Sample:
    """What one turn of one contender measured."""

    rate: float
    """Round trips a second."""
    latencies: list[float]
    """Seconds each."""


@frozen
class Contender:
    """One way to reach another process and back."""

    name: str
    child: subprocess.Popen[bytes]
    measure: Callable[[str, int, float], Coroutine[Any, Any, Sample]]
    """Takes the value, how many are in flight, and for how many seconds."""
    end: Callable[[], None]
    link: Any = field(default=None)


# The child


def serve(kind: str, descriptor: int) -> None:
    """Send everything back, until the parent is gone."""
    if kind == "pipe":
        connection = Connection(descriptor)
        while True:
            try:
                connection.send(connection.recv())
            except (EOFError, BrokenPipeError, ConnectionResetError):
                return
    from twisted.internet import reactor

    running: Any = reactor
    if kind == "emit":
        handlers = Handlers()
        handlers.on("echo", lambda value: value)
        locator = amp.CommandLocator()
        adopt(Link(running, locator, handlers, on_lost=lambda _: running.stop()), running, descriptor)
    else:
        adopt_amp(running, descriptor, running.stop)
    running.run()


def adopt_amp(reactor: Any, descriptor: int, lost: Callable[[], None]) -> EchoAMP:
    """Bare AMP on a descriptor, which is used up."""
    protocol = EchoAMP(lost)
    reactor.adoptStreamConnection(descriptor, socket.AF_UNIX, EchoFactory(protocol))
    os.close(descriptor)
    return protocol


def spawn(kind: str) -> tuple[subprocess.Popen[bytes], int]:
    """A child, and the descriptor of our end."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with theirs:
        command = [sys.executable, __file__, "--child", kind, str(theirs.fileno())]
        child = subprocess.Popen(command, pass_fds=[theirs.fileno()])
    return child, ours.detach()


# The contenders


def emits(reactor: Any) -> Contender:
    """This project's emits."""
    child, descriptor = spawn("emit")
    link = Link(reactor, amp.CommandLocator(), Handlers())
    adopt(link, reactor, descriptor)
    return Contender("emit", child, turn_of(lambda value: link.emit("echo", value)), link.close, link)


def bare_amp(reactor: Any) -> Contender:
    """A `callRemote` for each value, or each piece of one."""
    child, descriptor = spawn("amp")
    protocol = adopt_amp(reactor, descriptor, lambda: None)

    def call(value: str) -> Deferred[Any]:
        data = value.encode()
        pieces = [data[at : at + PIECE_BYTES] for at in range(0, len(data), PIECE_BYTES)]
        if len(pieces) == 1:
            whole: Deferred[Any] = protocol.callRemote(Echo, value=data)
            return whole
        return gatherResults([protocol.callRemote(Echo, value=piece) for piece in pieces])

    assert protocol.transport is not None
    return Contender("amp", child, turn_of(call), protocol.transport.loseConnection)


def turn_of(call: Callable[[str], Deferred[Any]]) -> Callable[[str, int, float], Coroutine[Any, Any, Sample]]:
    """Measure `call`, with so many callers that each wait for their answer before they call again."""

    async def measure(value: str, in_flight: int, seconds: float) -> Sample:
        latencies: list[float] = []
        started = perf_counter()

        async def caller() -> None:
            while (asked := perf_counter()) - started < seconds:
                await call(value)
                latencies.append(perf_counter() - asked)

        await gatherResults([Deferred.fromCoroutine(caller()) for _ in range(in_flight)])
        return Sample(len(latencies) / (perf_counter() - started), latencies)

    return measure


def pipe() -> Contender:
    """`multiprocessing.Pipe`: pickles, and blocks. Nothing else happens in this process meanwhile."""
    child, descriptor = spawn("pipe")
    connection = Connection(descriptor)

    async def measure(value: str, in_flight: int, seconds: float) -> Sample:
        asked: list[float] = []
        latencies: list[float] = []
        room = threading.Semaphore(in_flight)
        started = perf_counter()

        def send() -> None:
            while perf_counter() - started < seconds:
                room.acquire()
                asked.append(perf_counter())
                connection.send(value)
            connection.send(None)

        sender = threading.Thread(target=send)  # else two full sockets would wait for each other
        sender.start()
        while connection.recv() is not None:
            latencies.append(perf_counter() - asked[len(latencies)])
            room.release()
        sender.join()
        return Sample(len(latencies) / (perf_counter() - started), latencies)

    async def alone(value: str, in_flight: int, seconds: float) -> Sample:
        if in_flight > 1:
            return await measure(value, in_flight, seconds)
        latencies: list[float] = []
        started = perf_counter()
        while (asked := perf_counter()) - started < seconds:
            connection.send(value)
            connection.recv()
            latencies.append(perf_counter() - asked)
        return Sample(len(latencies) / (perf_counter() - started), latencies)

    return Contender("pipe", child, alone, connection.close)


@contextmanager
def ended(*contenders: Contender) -> Iterator[None]:
    """End the children."""
    try:
        yield
    finally:
        for contender in contenders:
            contender.end()


# The modes


async def compare(reactor: Any, rounds: int, seconds: float, sizes: list[str]) -> None:
    """Every size and number in flight, every contender in turns; then a table."""
    contenders = [emits(reactor), bare_amp(reactor), pipe()]
    print(f"{'value':>7} {'in flight':>9} {'':5} {'per second':>10} {'of amp':>7} {'median':>10} {'p99':>10}")
    with ended(*contenders):
        for size in sizes:
            value = "x" * SIZES[size]
            for in_flight in IN_FLIGHT:
                for contender in contenders:
                    await contender.measure(value, in_flight, 0.1)  # warm up
                samples: dict[str, list[Sample]] = {contender.name: [] for contender in contenders}
                for number in range(rounds):
                    for contender in contenders if number % 2 else reversed(contenders):
                        samples[contender.name].append(await contender.measure(value, in_flight, seconds))
                for name, taken in samples.items():
                    print(row(size, in_flight, name, taken, samples["amp"]), flush=True)


def row(size: str, in_flight: int, name: str, taken: list[Sample], amps: list[Sample]) -> str:
    """One line of the table."""
    rate = median(sample.rate for sample in taken)
    ratio = median(sample.rate / amp.rate for sample, amp in zip(taken, amps, strict=True))
    latencies = sorted(latency for sample in taken for latency in sample.latencies)
    return (
        f"{size:>7} {in_flight:>9} {name:5} {rate:>10,.0f} {ratio:>7.2f}"
        f" {milliseconds(latencies, 0.5):>10} {milliseconds(latencies, 0.99):>10}"
    )


def milliseconds(latencies: list[float], part: float) -> str:
    """A percentile of sorted latencies."""
    return f"{latencies[int(part * (len(latencies) - 1))] * 1000:.3f} ms"


async def steady(reactor: Any, seconds: int) -> None:
    """10,000 emits a second, evenly, and what the two processes hold."""
    contender = emits(reactor)
    latencies: list[float] = []
    held: list[tuple[float, float]] = []
    total = 0

    def tick(ticks: int) -> None:
        nonlocal total
        for _ in range(int(ticks * STEADY_PER_SECOND * STEADY_TICK_SECONDS)):
            total += 1
            contender.link.emit("echo", {"n": total, "text": "x" * 80}).addCallback(answered, perf_counter())

    def answered(results: list[Any], asked: float) -> None:
        latencies.append(perf_counter() - asked)

    with ended(contender):
        await contender.measure("", 1, 0.1)  # until the child is there
        ticking = task.LoopingCall.withCount(tick)
        ticking.clock = reactor
        ticking.start(STEADY_TICK_SECONDS)
        print(f"{'second':>6} {'emits':>9} {'unanswered':>10} {'our RSS':>10} {'their RSS':>10} {'p99':>10}")
        for second in range(1, seconds + 1):
            await task.deferLater(reactor, 1)
            latencies.sort()
            held.append((resident(os.getpid()), resident(contender.child.pid)))
            if second % 5 == 0 or second == 1:
                print(
                    f"{second:>6} {total:>9,} {contender.link.unanswered:>10} {held[-1][0]:>7.1f} MB"
                    f" {held[-1][1]:>7.1f} MB {milliseconds(latencies, 0.99):>10}",
                    flush=True,
                )
            latencies.clear()
        ticking.stop()
    if seconds >= 20:
        early, late = held[len(held) // 4], held[-1]
        print(
            f"from second {len(held) // 4 + 1} to {seconds}:"
            f" {late[0] - early[0]:+.1f} MB here, {late[1] - early[1]:+.1f} MB there"
        )


async def mixed(reactor: Any, seconds: float) -> None:
    """Emits of 100 B, one every 2 ms, while others carry 1 MB there and back without a pause."""
    contender = emits(reactor)
    small, large = "x" * SIZES["100 B"], "x" * SIZES["1 MB"]
    print(
        f"{'1 MB in flight':>14} {'1 MB a second':>13} {'100 B: median':>14} {'p99':>10} {'worst':>10}"
        f" {'our RSS':>10} {'their RSS':>10}"
    )
    with ended(contender):
        await contender.measure(small, 1, 0.1)  # until the child is there
        for in_flight in (0, 1, 10, 100):
            latencies: list[float] = []
            heavy = (
                Deferred.fromCoroutine(contender.measure(large, in_flight, seconds)) if in_flight else None
            )
            started = perf_counter()
            while (asked := perf_counter()) - started < seconds:
                await contender.link.emit("echo", small)
                latencies.append(perf_counter() - asked)
                await task.deferLater(reactor, 0.002)
            rate = (await heavy).rate if heavy is not None else 0
            latencies.sort()
            print(
                f"{in_flight:>14} {rate:>13,.0f} {milliseconds(latencies, 0.5):>14}"
                f" {milliseconds(latencies, 0.99):>10} {milliseconds(latencies, 1):>10}"
                f" {resident(os.getpid()):>7.1f} MB"
                f" {resident(contender.child.pid):>7.1f} MB",
                flush=True,
            )


def resident(pid: int) -> float:
    """Resident memory of a process, in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    """Read the options and run the mode."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rounds", type=int, default=5, help="turns of each contender, each cell (default 5)"
    )
    parser.add_argument("--seconds", type=float, default=0.5, help="length of a turn (default 0.5)")
    parser.add_argument("--size", action="append", choices=SIZES, help="only this size; repeats")
    parser.add_argument("--steady", type=int, metavar="SECONDS", help="emit 10,000 a second for so long")
    parser.add_argument(
        "--mixed", type=float, metavar="SECONDS", help="small emits beside large ones, so long each"
    )
    parser.add_argument("--child", nargs=2, metavar=("KIND", "FD"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        serve(options.child[0], int(options.child[1]))
        return

    async def run(reactor: Any) -> None:
        if options.steady:
            await steady(reactor, options.steady)
        elif options.mixed:
            await mixed(reactor, options.mixed)
        else:
            await compare(reactor, options.rounds, options.seconds, options.size or list(SIZES))

    task.react(lambda reactor: Deferred.fromCoroutine(run(reactor)))


if __name__ == "__main__":
    main()
