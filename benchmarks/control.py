"""The control socket: status round trips a second beside supervisor's and circus', and what subscribers cost.

    python benchmarks/control.py --peers /opt/peers/bin/python   # an interpreter that has supervisor and circus

Each answers what it has of two processes, over a unix socket, to one client that asks again when it has the answer:
supervisor `getAllProcessInfo` by its own XML-RPC client, circus `stats` (its figures) by its own zmq client, and
`status`, which is a word for each program and nothing else, for comparison; this session `Status`, by a plain blocking
socket that writes the same box again, and by `serverworker.control` in a Twisted program of its own, which is what a user has.
All in turns, three rounds, the median counts. Owed: faster than supervisor and circus.

Then a hundred subscribers, and a thousand events a second, for three seconds: all are delivered to each.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.fuzz_attacks import box
from benchmarks.verdicts import Verdicts
from serverworker.processes.descendants import cpu_seconds, rss_bytes
from tests.integration.sessions import TestSession, wait_until

SECONDS = 2.0
ROUNDS = 3
SUBSCRIBERS = 100
EVENTS = 3_000
PER_SECOND = 1_000

AGENT = f"""
from twisted.internet.task import LoopingCall
from serverworker import SessionAgent
from serverworker.values import events

class Agent(SessionAgent):
    async def initialize_monitor(self, monitor):
        monitor.on("tell", lambda args: self.tell(monitor))

    def tell(self, monitor):
        left = [{EVENTS}]
        def some():
            for _ in range({PER_SECOND // 50}):
                monitor._session.stream.publish(events.CommandFinished(command="true", status=0))
            left[0] -= {PER_SECOND // 50}
            if left[0] <= 0:
                loop.stop()
        loop = LoopingCall(some)
        loop.start(0.02)

    async def initialize_server_worker(self, worker):
        from twisted.web.resource import Resource
        from twisted.web.server import Site
        worker.listen("server", Site(Resource()))
"""

_RATE = """
import sys, time
{before}
end = time.perf_counter() + {seconds}
number = 0
while time.perf_counter() < end:
    {ask}
    number += 1
print(number / {seconds})
"""
_SUPERVISOR = (
    "import xmlrpc.client; from supervisor.xmlrpc import SupervisorTransport\n"
    "server = xmlrpc.client.ServerProxy('http://x', SupervisorTransport('', '', 'unix://{folder}/supervisor'))",
    "server.supervisor.getAllProcessInfo()",
)
_CIRCUS = (
    "from circus.client import CircusClient\nclient = CircusClient(endpoint='ipc://{folder}/circus')",
    "client.send_message({command!r})",
)
_OURS = """
import sys, time
from twisted.internet import task
from serverworker.control import connect
async def main(reactor):
    client = await connect(reactor, "unix:{path}")
    end, number = time.perf_counter() + {seconds}, 0
    while time.perf_counter() < end:
        await client.status()
        number += 1
    print(number / {seconds})
    client.close()
task.react(main)
"""
_SUBSCRIBERS = """
import sys
from twisted.internet import task
from twisted.internet.defer import Deferred
from serverworker.control import connect
async def main(reactor):
    done, counts, missed = Deferred(), [0] * {number}, []
    def count(each):
        def listener(event):
            counts[each] += 1
            if min(counts) == {events}:
                done.callback(None)
        return listener
    clients = [await connect(reactor, "unix:{path}") for _ in counts]
    for each, client in enumerate(clients):
        await client.subscribe(count(each), kinds=["CommandFinished"], missed=lambda: missed.append(1))
    await clients[0].emit("tell", to="monitor")
    done.addTimeout(60, reactor)
    try:
        await done
    finally:
        print(min(counts), len(missed))
task.react(main)
"""


def program(python: str, text: str) -> str:
    """Run a program, and answer the last line that it prints."""
    checkout = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [python, "-c", text], capture_output=True, text=True, timeout=100, check=True, cwd=checkout
    )
    return done.stdout.strip().splitlines()[-1]


def rate(python: str, before: str, ask: str) -> float:
    """Round trips a second of a blocking client."""
    return float(program(python, _RATE.format(before=before, ask=ask, seconds=SECONDS)))


def plain(path: str) -> float:
    """Round trips a second of a socket that speaks AMP, and reads the JSON."""
    question = box({b"_command": b"Status", b"_ask": b"1"})
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(path)
        end, number = time.perf_counter() + SECONDS, 0
        while time.perf_counter() < end:
            link.sendall(question)
            answer = b""
            while not answer.endswith(b"\x00\x00"):
                answer += link.recv(1 << 16)
            json.loads(answer[answer.index(b"{") : -2])
            number += 1
    return number / SECONDS


def start_peers(folder: Path, python: str) -> dict[str, subprocess.Popen[bytes]]:
    """Those that are installed, with two processes each."""
    (folder / "supervisor.conf").write_text(
        f"[unix_http_server]\nfile={folder}/supervisor\n[supervisord]\nnodaemon=true\nlogfile={folder}/supervisor.log\n"
        f"pidfile={folder}/supervisor.pid\n[rpcinterface:supervisor]\n"
        "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n"
        "[program:a]\ncommand=sleep 1000\nnumprocs=2\nprocess_name=a%(process_num)s\n"
    )
    (folder / "circus.ini").write_text(
        f"[circus]\nendpoint = ipc://{folder}/circus\npubsub_endpoint = ipc://{folder}/circus.pub\n"
        "[watcher:a]\ncmd = sleep 1000\nnumprocesses = 2\n"
    )
    programs = {
        "supervisor": ["supervisor.supervisord", "-c", f"{folder}/supervisor.conf"],
        "circus": ["circus.circusd", f"{folder}/circus.ini"],
    }
    started = {}
    for name, arguments in programs.items():
        if (
            not python
            or subprocess.run([python, "-c", f"import {name}"], capture_output=True, check=False).returncode
        ):
            continue
        quiet = subprocess.DEVNULL
        started[name] = subprocess.Popen([python, "-m", *arguments], stdout=quiet, stderr=quiet)
        wait_until((folder / name).exists, name)
    return started


def compare(folder: Path, session: TestSession, peers: str, verdicts: Verdicts) -> None:
    """Round trips of all, in turns."""
    path = f"{session.state_directory}/run/control"
    started = start_peers(folder, peers)
    rates: dict[str, list[float]] = {}
    try:
        for _ in range(ROUNDS):
            rates.setdefault("ours, plain", []).append(plain(path))
            ours = program(sys.executable, _OURS.format(path=path, seconds=SECONDS))
            rates.setdefault("ours, the client", []).append(float(ours))
            if "supervisor" in started:
                before, ask = _SUPERVISOR
                rates.setdefault("supervisor", []).append(rate(peers, before.format(folder=folder), ask))
            for command in ("stats", "status") if "circus" in started else ():
                before, ask = _CIRCUS[0].format(folder=folder), _CIRCUS[1].format(command=command)
                rates.setdefault(f"circus {command}", []).append(rate(peers, before, ask))
    finally:
        for each in started.values():
            each.terminate()
            each.wait(20)
    middle = {name: median(found) for name, found in rates.items()}
    for name, found in middle.items():
        print(f"{name:18} {found:8,.0f} round trips a second")
    for name in ("supervisor", "circus stats", "circus status"):
        verdicts.ratio(
            f"{name} by ours, plain",
            middle.get(name, 0.0),
            middle["ours, plain"] if name in middle else None,
            1.0,
        )


def subscribers(session: TestSession, verdicts: Verdicts) -> None:
    """A hundred that follow a thousand events a second."""
    pid = session.process.pid
    memory, busy, begun = rss_bytes(pid) or 0, cpu_seconds(pid) or 0.0, time.monotonic()
    path = f"{session.state_directory}/run/control"
    text = _SUBSCRIBERS.format(path=path, number=SUBSCRIBERS, events=EVENTS)
    least, missed = program(sys.executable, text).split()
    seconds = time.monotonic() - begun
    cost = ((cpu_seconds(pid) or 0.0) - busy) / seconds
    print(
        f"{SUBSCRIBERS} subscribers, {EVENTS:,} events in {seconds:.1f} s: {cost:.0%} of a core of the monitor's,",
        end=" ",
    )
    print(f"{((rss_bytes(pid) or 0) - memory) / 2**20:+.1f} MiB")
    verdicts.add(
        "all delivered", (int(least), int(missed)) == (EVENTS, 0), f"{least} each, missed {missed} times"
    )


def main() -> int:
    """Measure, and print what was owed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", default="", help="an interpreter that has supervisor and circus installed")
    options = parser.parse_args()
    verdicts = Verdicts()
    with tempfile.TemporaryDirectory(prefix="control-") as name:
        folder = Path(name)
        (folder / "agent.py").write_text(AGENT)
        session = TestSession(folder, "--agent", "agent:Agent")
        try:
            session.serving()
            session.standby_ready_or_loaded()
            compare(folder, session, options.peers, verdicts)
            subscribers(session, verdicts)
        finally:
            session.clean_up()
    return verdicts.conclude()


if __name__ == "__main__":
    raise SystemExit(main())
