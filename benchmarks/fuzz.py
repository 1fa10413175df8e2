"""Hostile input to every port of a session, at random: it serves on, its memory stays flat, nothing gets in.

    python benchmarks/fuzz.py --seconds 30               # half a minute
    python benchmarks/fuzz.py --seconds 28800            # a night
    python benchmarks/fuzz.py --seconds 60 --seed 4711   # the same bytes again

Two sessions: one with its control port on a unix socket of this user's, a dashboard and a health port, one with the
control port behind TLS, where nobody has the key. While attacks go on, up to a thousand connections stay open and
silent. Owed: both monitors answer throughout, in a second; nothing that somebody without the key asked for is done; no
answer holds a key; no error of the monitor's own is logged; after the first third, memory grows by 10 % at most.
`fuzz` is for tests to call.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import secrets
import socket
import ssl
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from attrs import define, field, frozen

from benchmarks.fuzz_attacks import amp_bytes, box, http_bytes, send
from benchmarks.verdicts import Verdicts
from serverworker.processes.descendants import rss_bytes
from tests.integration.sessions import TestSession
from tests.unit.certificates import issue

ANSWERS_SECONDS = 1.0
"""How long a monitor may take for an answer while it is attacked."""
MOST_IDLE = 1000
GROWTH = 0.1
"""How much memory may grow, of what it is after the first third."""


@define
class Outcome:
    """What came of it."""

    attacks: int = 0
    faults: list[str] = field(factory=list)
    """All that may not be."""
    growth: float = 0.0
    """The larger one of both monitors, as a part of what it was after the first third."""
    slowest_seconds: float = 0.0
    """Of an answer to somebody who may ask."""


@frozen
class Target:
    """A port, and what is sent there."""

    name: str
    connect: Callable[[], socket.socket]
    make: Callable[[random.Random], bytes]


class Fuzz:
    """Two sessions under attack."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.outcome = Outcome()
        self._chance = random.Random(seed)  # noqa: S311 - the same bytes again
        self._idle: list[socket.socket] = []
        self._sessions = [self._plain(folder / "plain"), self._with_tls(folder / "tls")]

    def begin(self) -> None:
        """Wait until both serve, and find their ports."""
        for session in self._sessions:
            session.serving()
        self._targets = self._find_targets()
        self._keys = [(session.state_directory / "key").read_bytes().strip() for session in self._sessions]

    def _plain(self, folder: Path) -> TestSession:
        folder.mkdir()
        loopback = "tcp:0:interface=127.0.0.1"
        return TestSession(folder, "--dashboard", loopback, "--health", loopback)

    def _with_tls(self, folder: Path) -> TestSession:
        folder.mkdir()
        certificate = issue("localhost", days=(-1, 30)).write(folder / "a.pem")
        (folder / "a.toml").write_text(
            f'[control]\nendpoint = "tcp:0:interface=127.0.0.1"\ncertificate = "{certificate}"\n'
        )
        return TestSession(folder, "--config", str(folder / "a.toml"))

    def _find_targets(self) -> list[Target]:
        plain, tls = self._sessions
        path = f"{plain.state_directory}/run/control"
        dashboard, health = (_number(plain, text) for text in ("the dashboard is ", "/metrics are at tcp:"))
        control = _number(tls, "the control port is tcp:")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE

        def by_tls() -> socket.socket:
            return context.wrap_socket(_tcp(control))

        return [
            Target("unix", lambda: _unix(path), lambda chance: amp_bytes(chance, stranger=False)),
            Target("TLS", by_tls, lambda chance: amp_bytes(chance, stranger=True)),
            Target("TLS, bare", lambda: _tcp(control), lambda chance: amp_bytes(chance, stranger=True)),
            Target("dashboard", lambda: _tcp(dashboard), http_bytes),
            Target("health", lambda: _tcp(health), http_bytes),
        ]

    def run(self, seconds: float) -> Outcome:
        """Attack for so long."""
        begun = time.monotonic()
        first: list[int] = []
        looked = 0.0
        while (now := time.monotonic()) < begun + seconds:
            self._attack()
            if now > looked + 0.5:
                looked = now
                self._look()
                if not first and now > begun + seconds / 3:
                    first = self._memory()
        self._look()
        grown = [after / before - 1 for after, before in zip(self._memory(), first, strict=True)]
        self.outcome.growth = max(grown)
        self._judge()
        return self.outcome

    def _attack(self) -> None:
        chance = self._chance
        target = chance.choice(self._targets)
        if chance.randrange(3) == 0:
            self._leave_open(target, chance)
        answer = send(target.connect, target.make(chance), chance)
        self.outcome.attacks += 1
        if any(key in answer for key in self._keys):
            self.outcome.faults.append(f"{target.name} answered with a key: {answer[:200]!r}")

    def _leave_open(self, target: Target, chance: random.Random) -> None:
        with suppress(OSError):
            link = target.connect()
            link.settimeout(0.01)
            self._idle.append(link)
            link.sendall(target.make(chance)[: chance.randrange(20)])
        while len(self._idle) > MOST_IDLE:
            self._idle.pop(chance.randrange(len(self._idle))).close()

    def _look(self) -> None:
        """Whether both still answer whoever may ask."""
        unix, _, bare, _, health = self._targets
        self._answers("the control socket", unix, box({b"_command": b"Status", b"_ask": b"1"}), b"schema")
        self._answers("health", health, b"GET /livez HTTP/1.0\r\n\r\n", b" 200 ")
        begun = time.monotonic()
        self._sessions[1].get()
        with suppress(OSError), bare.connect():
            pass
        self.outcome.slowest_seconds = max(self.outcome.slowest_seconds, time.monotonic() - begun)

    def _answers(self, name: str, target: Target, question: bytes, wanted: bytes) -> None:
        begun = time.monotonic()
        answer = b""
        try:
            with target.connect() as link:
                link.settimeout(10)
                link.sendall(question)
                while wanted not in answer and (data := link.recv(1 << 16)):
                    answer += data
        except OSError as error:
            answer += repr(error).encode()
        self.outcome.slowest_seconds = max(self.outcome.slowest_seconds, time.monotonic() - begun)
        if wanted not in answer:
            self.outcome.faults.append(f"{name} answered {answer[:200]!r}")

    def _memory(self) -> list[int]:
        return [rss_bytes(session.process.pid) or 0 for session in self._sessions]

    def _judge(self) -> None:
        faults = self.outcome.faults
        for session in self._sessions:
            if session.process.poll() is not None:
                faults.append("a monitor has ended")
            names = {event["event"] for event in session.events}
            bad = names & {"WorkerDied", "Fault", "SessionEnding", "RestartStarted", "HeartbeatFailed"}
            faults.extend(f"{name} in {session.folder.name}" for name in bad)
            faults.extend(line for line in session.lines if "Traceback" in line or "Unhandled" in line)
        done = [event for event in self._sessions[1].events if event["event"] == "OperatorAction"]
        done += [
            event
            for event in self._sessions[0].events
            if event["event"] == "OperatorAction" and event["surface"] != "control"
        ]
        faults.extend(f"{event['action']} was let in" for event in done)

    def close(self) -> None:
        """End all."""
        for link in self._idle:
            link.close()
        for session in self._sessions:
            session.clean_up()


def _unix(path: str) -> socket.socket:
    link = socket.socket(socket.AF_UNIX)
    link.settimeout(5)
    try:
        link.connect(path)
    except BaseException:
        link.close()
        raise
    return link


def _tcp(number: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", number), timeout=5)


def _number(session: TestSession, text: str) -> int:
    """The number of the port that a line of the log tells of behind a text."""
    found = re.search(rf"{re.escape(text)}\D*?(?:127\.0\.0\.1:)?(\d+)", session.wait_for_line(text))
    assert found is not None
    return int(found[1])


def fuzz(folder: Path, seconds: float, seed: int) -> Outcome:
    """Two sessions, attacked for so long."""
    under_attack = Fuzz(folder, seed)
    try:
        under_attack.begin()
        return under_attack.run(seconds)
    finally:
        under_attack.close()


def main() -> int:
    """Print what came of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**32))
    options = parser.parse_args()
    print(f"seed {options.seed}, pid {os.getpid()}")
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        outcome = fuzz(Path(folder), options.seconds, options.seed)
    print(f"{outcome.attacks:,} attacks")
    for fault in outcome.faults[:50]:
        print(f"  {fault}")
    verdicts = Verdicts()
    verdicts.add("nothing that may not be", not outcome.faults, f"{len(outcome.faults)} faults")
    verdicts.add(
        f"an answer within {ANSWERS_SECONDS:g} s",
        outcome.slowest_seconds <= ANSWERS_SECONDS,
        f"{outcome.slowest_seconds:.2f} s",
    )
    verdicts.add("flat memory", outcome.growth <= GROWTH, f"{outcome.growth:+.1%}")
    return verdicts.conclude()


if __name__ == "__main__":
    raise SystemExit(main())
