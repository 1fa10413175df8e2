"""What becomes of a lot of output: is any lost, how fast does it get into the log file, and what does it cost the monitor?

    /path/to/venv/bin/python benchmarks/logs.py            # 50 MB in three ways, beside supervisord: a minute
    python benchmarks/logs.py --rounds 5 --megabytes 200
    python benchmarks/logs.py --only lines

A worker that serves HTTP is asked to print, in a thread: `lines` of 100 bytes by print(), lines of a megabyte (`long`)
by print(), and `blocks`, lines of 100 bytes that are written 64 kB at a time. Measured is the time from the request until
the last line is in the log file; each contender's child is the same program, run unbuffered (-u), so that what it said
last is not lost with it. supervisord copies bytes; ours cuts lines, numbers them, says of each when and who, keeps the
last ones and has them at hand for whoever follows. Neither turns its file over meanwhile.

Then the log file is read and compared with what was printed, byte by byte. `growth` is what the monitor's memory rose by
at most. A ping is the monitor's question to the worker, ten a second here; `worst ping` is the longest wait for an answer.

Owed: nothing is lost, at least supervisord's throughput, growth below 32 MB, and every ping answered within a second. Exit
status 1 where that does not hold.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from attrs import frozen

from benchmarks.contenders import CHECKOUT
from benchmarks.load import free_port
from benchmarks.verdicts import Verdicts

KINDS = ("lines", "long", "blocks")
DEADLINE_SECONDS = 120.0
MOST_GROWTH = 32.0
"""In MB."""
MARK = b" [... continues]"
HEAD = re.compile(rb"[-\d]{10} [:.\d]{12}Z \[(worker \d+|monitor)\] ")

PRINTER = """
import hashlib, os, sys
from threading import Thread
from twisted.web.resource import Resource

END = "that was all"

class Printer(Resource):
    isLeaf = True
    def render_GET(self, request):
        _, kind, number = (request.path.decode() + "//").split("/")[:3]
        if kind:
            Thread(target=globals()[kind], args=[int(number)], daemon=True).start()
        return b"fine"

def lines(number):
    for each in range(number * 10_000):
        print(f"{each:08} {'.' * 90}")
    print(END)

def long(number):
    for each in range(number):
        print(f"{each:08} {'.' * 999_990}")
    print(END)

def blocks(number):
    for each in range(number * 10_000 // 625):
        data = "".join(f"{each * 625 + place:08} {'.' * 90}\\n" for place in range(625)).encode()
        while data:
            data = data[os.write(1, data) :]
    print(END)

if __name__ == "__main__":
    from twisted.internet import reactor
    from twisted.web.server import Site
    reactor.listenTCP(int(sys.argv[1]), Site(Printer()), interface="127.0.0.1")
    reactor.run()
"""
AGENT = '''
from pathlib import Path
from twisted.internet.task import LoopingCall
from serverworker import SessionAgent

class Pinged(SessionAgent):
    """Keeps the longest wait for the answer to a ping."""

    async def initialize_monitor(self, monitor):
        self.worst = 0.0
        LoopingCall(self.look).start(0.05)

    def look(self):
        waits = [each.ping_seconds for each in self.monitor.figures() if each.ping_seconds is not None]
        worst = max(waits, default=0.0)
        if worst > self.worst:
            self.worst = worst
            Path(__file__).with_name("worst").write_text(str(worst))
'''
OURS = """
[ports]
server = "tcp:{port}:interface=127.0.0.1"
[app]
resource = "printer:Printer"
agent = "pinged:Pinged"
[workers]
standby = 0
[watchdog]
interval_seconds = 0.1
[output]
file = "out.log"
file_max_mib = 0
"""
SUPERVISORD = """
[supervisord]
pidfile=pid
logfile=supervisord.log
[program:printer]
command={python} -u printer.py {port}
redirect_stderr=true
stdout_logfile=out.log
stdout_logfile_maxbytes=0
"""


@frozen(kw_only=True)
class Result:
    """One contender that printed once."""

    seconds: float
    lost: int
    """Bytes."""
    growth: float
    """MB."""
    ping: float
    """Seconds; 0 where nobody pings."""


class Contender:
    """A monitor in the background, whose child prints into ``out.log``."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.port = free_port()
        folder.mkdir()
        (folder / "printer.py").write_text(PRINTER)
        (folder / "pinged.py").write_text(AGENT)
        settings = OURS if name == "serverworker" else SUPERVISORD
        (folder / "config").write_text(settings.format(port=self.port, python=sys.executable))
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(CHECKOUT)])}
        subprocess.run(self._command(), cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
        self._until(lambda: (folder / "pid").exists() and bool((folder / "pid").read_text().strip()))
        self.pid = int((folder / "pid").read_text())
        self._until(self._answers)

    def _command(self) -> list[str]:
        if self.name == "supervisord":
            return [str(Path(sys.executable).with_name("supervisord")), "-c", "config"]
        run = "import sys; sys.argv[0] = 'twistd'; from twisted.scripts.twistd import run; run()"
        plugin = ("serverworker", "--config", "config", "--state-dir", "state")
        return [sys.executable, "-c", run, "--pidfile=pid", *plugin]

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            return self._get("/") == b"fine"
        return False

    def _get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            return bytes(answer.read())

    def _until(self, holds: object, seconds: float = DEADLINE_SECONDS, step: float = 0.002) -> None:
        deadline = time.monotonic() + seconds
        assert callable(holds)
        while not holds():
            if time.monotonic() > deadline:
                raise SystemExit(f"{self.name}: nothing happens any more; see {self.folder}")
            time.sleep(step)  # between two looks at a process that does not tell

    def measure(self, kind: str, megabytes: int) -> Result:
        """Have it print once, from an empty log file on."""
        log = self.folder / "out.log"
        os.truncate(log, 0)
        time.sleep(0.5)  # calm between two runs: what the last one left to do must not count for this one
        before = self._memory("VmRSS")
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")  # the peak begins anew
        begun = time.monotonic()
        self._get(f"/{kind}/{megabytes}")
        self._until(lambda: self._tail(log).endswith(b"that was all\n"))
        seconds = time.monotonic() - begun
        worst = self.folder / "worst"
        return Result(
            seconds=seconds,
            lost=lost(log.read_bytes(), kind, megabytes),
            growth=self._memory("VmHWM") - before,
            ping=float(worst.read_text()) if worst.exists() else 0.0,
        )

    def _tail(self, log: Path) -> bytes:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 100))
            return file.read()

    def _memory(self, name: str) -> float:
        text = Path(f"/proc/{self.pid}/status").read_text()
        return int(text.partition(f"{name}:")[2].split()[0]) * 1024 / 1e6

    def end(self) -> None:
        """SIGTERM, and wait."""
        os.kill(self.pid, signal.SIGTERM)
        self._until(lambda: not (self.folder / "pid").exists())


def expected(kind: str, megabytes: int) -> Iterator[bytes]:
    """What was printed, a part at a time."""
    if kind == "long":
        yield from (b"%08d %s\n" % (each, b"." * 999_990) for each in range(megabytes))
    else:
        yield from (b"%08d %s\n" % (each, b"." * 90) for each in range(megabytes * 10_000))
    yield b"that was all\n"


def lost(data: bytes, kind: str, megabytes: int) -> int:
    """How many bytes of what was printed are not there; at least one where anything is there that is not right."""
    printed = []
    for line in data.splitlines(keepends=True):
        head = HEAD.match(line)
        if head is not None and head[1] == b"monitor":
            continue
        text = line[head.end() :] if head is not None else line
        printed.append(text[: -len(MARK) - 1] if text.endswith(MARK + b"\n") else text)
    found, wanted = hashlib.sha256(), hashlib.sha256()
    size = 0
    for part in expected(kind, megabytes):
        wanted.update(part)
        size += len(part)
    for part in printed:
        found.update(part)
    missing = size - sum(map(len, printed))
    return 0 if found.digest() == wanted.digest() else max(missing, 1)


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--megabytes", type=int, default=50)
    parser.add_argument("--only", choices=KINDS)
    options = parser.parse_args()
    kinds = [options.only] if options.only else list(KINDS)
    names = ["serverworker"]
    if Path(sys.executable).with_name("supervisord").exists():
        names.append("supervisord")
    else:
        print("left out: supervisord (pip install supervisor)")
    results: dict[tuple[str, str], list[Result]] = {}
    with tempfile.TemporaryDirectory() as root:
        contenders = [Contender(name, Path(root, name)) for name in names]
        for _ in range(options.rounds):
            for kind in kinds:
                for contender in contenders:
                    result = contender.measure(kind, options.megabytes)
                    results.setdefault((contender.name, kind), []).append(result)
        for contender in contenders:
            contender.end()
    print(f"{'':14}{'printed as':>11}{'MB/s':>8}{'lost bytes':>12}{'growth MB':>11}{'worst ping':>12}")
    for (name, kind), found in results.items():
        rate = options.megabytes / statistics.median(each.seconds for each in found)
        growth, ping = max(each.growth for each in found), max(each.ping for each in found)
        missing = sum(each.lost for each in found)
        said = f"{ping * 1000:.0f} ms" if name == "serverworker" else "-"
        print(f"{name:14}{kind:>11}{rate:8.1f}{missing:12}{growth:11.1f}{said:>12}")
    return judge(results, kinds)


def judge(results: dict[tuple[str, str], list[Result]], kinds: list[str]) -> int:
    """The verdicts."""
    verdicts = Verdicts()
    ours = [each for kind in kinds for each in results["serverworker", kind]]
    missing = sum(each.lost for each in ours)
    verdicts.add("nothing is lost", missing == 0, f"{missing} bytes")
    growth = max(each.growth for each in ours)
    verdicts.add(
        f"the monitor grows by less than {MOST_GROWTH:g} MB", growth < MOST_GROWTH, f"{growth:.1f} MB"
    )
    ping = max(each.ping for each in ours)
    verdicts.add("every ping is answered within a second", 0 < ping < 1, f"{ping * 1000:.0f} ms at most")
    for kind in kinds:
        seconds = [
            statistics.median(each.seconds for each in results[name, kind])
            if (name, kind) in results
            else None
            for name in ("serverworker", "supervisord")
        ]
        assert seconds[0] is not None
        verdicts.ratio(f"{kind}: no longer than supervisord, in seconds", seconds[0], seconds[1], 1.0)
    return verdicts.conclude()


if __name__ == "__main__":
    sys.exit(main())
