"""What a session costs per request: the same application with and without it, and beside its peers.

    python -m benchmarks.throughput [--seconds 4] [--rounds 5] [--kind resource|wsgi|asgi …]

For each kind of application (a Resource, WSGI, ASGI) all contenders run at the same time, idle but for the one that is
asked; in each round each is loaded once, in another order, by wrk (Debian: ``apt install wrk``) with 32 connections.
Shown are medians over the rounds: requests a second, the 99th percentile of the time to an answer, and how much of a
processor all processes of the contender take for a request. The last is what is judged: on a machine whose cores the
load generator and the servers share, requests a second say more of the scheduler.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from attrs import define, field, frozen

from benchmarks import contenders
from benchmarks.contenders import Contender, Place, Running
from benchmarks.load import free_port
from benchmarks.procfs import activity, family
from benchmarks.verdicts import Verdicts

CONNECTIONS = 32
SESSION_COSTS_AT_MOST = 1.02
ASGI_WITHIN = 1.05
TWO_WORKERS_AT_LEAST = 1.7
CORES_FOR_TWO = 4
"""Two workers and the load generator need that many, or they take each other's time."""

BARE = "alone"
OURS = "serverworker"
READY_SECONDS = 60.0

_WSGI_ALONE = """
import sys
from twisted.internet import reactor
from twisted.web.server import Site
from twisted.web.wsgi import WSGIResource
from pid_wsgi import app

reactor.suggestThreadPoolSize(10)
resource = WSGIResource(reactor, reactor.getThreadPool(), app)
reactor.listenTCP(int(sys.argv[1]), Site(resource), backlog=1024, interface="127.0.0.1")
reactor.run()
"""


@frozen(kw_only=True)
class Load:
    """What one round of load on one contender came to."""

    requests_a_second: float
    p99_ms: float
    cpu_us: float
    """Of a processor, for each request, in microseconds; all of its processes together."""


@define
class Measured:
    """A contender that runs, and what was measured of it so far."""

    name: str
    running: Running
    loads: list[Load] = field(factory=list)

    def of(self, figure: Callable[[Load], float]) -> float:
        """The median of one figure over all rounds."""
        return median(figure(load) for load in self.loads)


def _alone(program: str) -> Contender:
    def command(place: Place) -> list[str]:
        return [sys.executable, program, str(place.port)]

    return Contender(name=f"twisted.web {BARE}", needs="twisted", command=command)


def _session(*options: str, needs: str = "serverworker") -> Contender:
    def command(place: Place) -> list[str]:
        return contenders.twistd(
            *("serverworker", "--port", f"tcp:{place.port}:interface=127.0.0.1", *options),
            *("--workers", str(place.workers), "--state-dir", str(place.folder / "state")),
        )

    return Contender(name=OURS, needs=needs, command=command)


def _uvicorn_alone(place: Place) -> list[str]:
    return [
        *(sys.executable, "-m", "uvicorn", "--host", "127.0.0.1", "--port", str(place.port)),
        *("--log-level", "warning", "--no-access-log", "--workers", str(place.workers), "pid_asgi:app"),
    ]


def _granian(interface: str) -> Contender:
    def command(place: Place) -> list[str]:
        return [
            *(contenders.script("granian"), "--interface", interface, "--host", "127.0.0.1"),
            *("--port", str(place.port), "--workers", str(place.workers), f"pid_{interface}:app"),
        ]

    return Contender(name="granian", needs="granian", command=command)


def _gunicorn(name: str, *options: str, app: str) -> Contender:
    return Contender(name=name, needs="gunicorn", command=contenders.gunicorn(*options, app=app))


KINDS: dict[str, tuple[Contender, ...]] = {
    "resource": (_alone("serve.py"), _session("--app", "pid_twisted:Pid")),
    "wsgi": (
        _alone("serve_wsgi.py"),
        _session("--wsgi", "pid_wsgi:app"),
        _gunicorn("gunicorn sync", app="pid_wsgi:app"),
        _gunicorn("gunicorn gthread", "--threads", "10", app="pid_wsgi:app"),
        _granian("wsgi"),
    ),
    "asgi": (
        Contender(name=f"uvicorn {BARE}", needs="uvicorn", command=_uvicorn_alone),
        _session("--asgi", "pid_asgi:app", needs="uvicorn"),
        _gunicorn("gunicorn asgi", "--worker-class", "asgi", app="pid_asgi:app"),
        _granian("asgi"),
    ),
}


def main() -> int:
    """Run it; 1 where something that is owed does not hold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="of load, each time")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kind", action="append", choices=sorted(KINDS))
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        parser.error("wrk is not installed: apt install wrk")
    verdicts = Verdicts()
    with tempfile.TemporaryDirectory(prefix="throughput-") as root:
        for kind in arguments.kind or KINDS:
            found = {
                workers: _measure(kind, workers, Path(root), arguments.rounds, arguments.seconds)
                for workers in (1, 2)
            }
            _judge(kind, found, verdicts)
    return verdicts.conclude()


def _measure(kind: str, workers: int, root: Path, rounds: int, seconds: float) -> list[Measured]:
    """All contenders of one kind, each with so many workers."""
    wanted = [each for each in contenders.installed(KINDS[kind]) if workers == 1 or " alone" not in each.name]
    with ExitStack() as stack:
        measured = [
            Measured(each.name, stack.enter_context(_start(each, root, f"{kind}-{workers}", workers)))
            for each in wanted
        ]
        for one in measured:
            _wait_for_answer(one.running)
            _load(one.running, 1.0)  # what is compiled or filled at the first requests is not measured
        for number in range(rounds):
            turn = number % len(measured)
            for one in (*measured[turn:], *measured[:turn]):
                one.loads.append(_load(one.running, seconds))
        _show(kind, workers, measured)
    return measured


def _start(contender: Contender, root: Path, label: str, workers: int) -> Running:
    folder = contenders.new_folder(root, f"{label}-{contender.name}", 0.0)
    (folder / "serve_wsgi.py").write_text(_WSGI_ALONE)
    return Running(contender, Place(folder=folder, port=free_port(), workers=workers))


def _wait_for_answer(running: Running) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not _load(running, 1.0).requests_a_second:
        if time.monotonic() > deadline or running.process.poll() is not None:
            raise SystemExit(f"{running.contender.name} does not answer:\n{running.log.read_text()[-4000:]}")


def _url(running: Running) -> str:
    return f"http://127.0.0.1:{running.place.port}/"


def _load(running: Running, seconds: float) -> Load:
    pids = family(running.process.pid)
    before = activity(pids)
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{max(1, round(seconds))}s", "--latency", _url(running)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=False).stdout
    spent = activity(pids).since(before).seconds
    total = int(_number(said, r"(\d+) requests in"))
    wrong = int(_number(said, r"Non-2xx or 3xx responses: (\d+)", "0"))
    if wrong:
        raise SystemExit(f"{running.contender.name} answered {wrong} of {total} requests with an error")
    return Load(
        requests_a_second=_number(said, r"Requests/sec:\s+([\d.]+)", "0"),
        p99_ms=_milliseconds(said),
        cpu_us=spent / total * 1e6 if total else float("inf"),
    )


def _number(text: str, pattern: str, default: str = "0") -> float:
    found = re.search(pattern, text)
    return float(found[1] if found else default)


def _milliseconds(said: str) -> float:
    found = re.search(r"99%\s+([\d.]+)(us|ms|s)\b", said)
    return float(found[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[found[2]] if found else float("nan")


def _show(kind: str, workers: int, measured: Sequence[Measured]) -> None:
    print(
        f"\n{kind}, {workers} worker{'s' if workers > 1 else ''}: medians of {len(measured[0].loads)} rounds"
    )
    print(f"{'':22}{'requests/s':>12}{'p99 ms':>10}{'CPU µs/request':>17}")
    for one in measured:
        rate, p99 = one.of(lambda load: load.requests_a_second), one.of(lambda load: load.p99_ms)
        print(f"{one.name:22}{rate:12,.0f}{p99:10.2f}{one.of(lambda load: load.cpu_us):17.1f}", flush=True)


def _judge(kind: str, found: dict[int, list[Measured]], verdicts: Verdicts) -> None:
    ours = next((one for one in found[1] if one.name == OURS), None)
    alone = next((one for one in found[1] if one.name.endswith(BARE)), None)
    two = next((one for one in found[2] if one.name == OURS), None)
    if ours is None or alone is None or two is None:
        return
    owed, what = (
        (ASGI_WITHIN, "ASGI within 5 % of uvicorn alone")
        if kind == "asgi"
        else (SESSION_COSTS_AT_MOST, f"{kind}: the session costs at most 2 %")
    )
    # Round by round: what the machine does meanwhile is the same for both.
    cost = median(mine.cpu_us / theirs.cpu_us for mine, theirs in zip(ours.loads, alone.loads, strict=True))
    verdicts.add(f"{what}, CPU a request", cost <= owed, f"{cost:.3f}")
    factor = two.of(lambda load: load.requests_a_second) / ours.of(lambda load: load.requests_a_second)
    if (os.cpu_count() or 1) < CORES_FOR_TWO:
        print(f"two workers give {factor:.2f} times the requests of one; not judged: wrk takes a core of few")
    else:
        verdicts.add(f"{kind}: two workers give 1.7 times", factor >= TWO_WORKERS_AT_LEAST, f"{factor:.2f}")


if __name__ == "__main__":
    sys.exit(main())
