"""The ground that each fault is tried on: a session, clients that count, and what must hold afterwards."""

from __future__ import annotations

import http.client
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import Factory, define, frozen

from tests.integration.faults.application import SOURCE
from tests.integration.sessions import LONG, TestSession, wait_until

CONFIGURATION = """
[app]
resource = "faulty:Faulty"
[polling]
route = "/health"
interval_seconds = 0.2
timeout_seconds = 1
failure_tolerance = 2
[watchdog]
interval_seconds = 0.2
timeout_seconds = 1.5
[startup]
timeout_seconds = 20
[drain]
timeout_seconds = 3
[restart]
initial_delay_seconds = 0.1
reset_after_seconds = 1
"""


@define
class Tally:
    """Clients that make one request after the other, each on a connection of its own."""

    session: TestSession
    answers: list[tuple[float, float, int]] = Factory(list)
    """When it began, when it was answered, and by which process."""
    failures: list[tuple[float, str]] = Factory(list)
    """When it began, and what became of it."""
    _stopping: threading.Event = Factory(threading.Event)
    _threads: list[threading.Thread] = Factory(list)

    def start(self, number: int = 3) -> None:
        """Begin."""
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(number)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End, after the requests that are under way."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(LONG)

    def _run(self) -> None:
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                status, body = self.session.get("/")
                if status != 200:
                    raise http.client.HTTPException(f"status {status}")
                self.answers.append((began, time.monotonic(), int(body)))
            except Exception as error:
                self.failures.append((began, f"{type(error).__name__}: {error}"))

    def answered_since(self, moment: float) -> int:
        """How many requests that began after that moment have been answered."""
        return sum(began >= moment for began, _, _ in tuple(self.answers))


@frozen(kw_only=True)
class Outcome:
    """What a fault came to."""

    lost: int
    """Requests that failed: inside the process that was lost."""
    seconds: float
    """From the blow to the first answer to a request that began after it."""
    report: dict[str, Any] | None


class Ground:
    """A session with clients, ready to be struck."""

    def __init__(self, folder: Path, *options: str) -> None:
        (folder / "faulty.py").write_text(SOURCE)
        (folder / "serverworker.toml").write_text(CONFIGURATION)
        self.session = TestSession(folder, "--config", "serverworker.toml", *options)
        self.session.serving()
        self.session.standby_ready()
        self.tally = Tally(self.session)

    @property
    def serving(self) -> int:
        """The worker that serves."""
        return int(self.session.serving()[-1]["worker"])

    @property
    def monitor(self) -> int:
        """The monitor's pid."""
        return self.session.process.pid

    def ask(self, path: str) -> None:
        """Make a request that may never be answered: it is sent, and nobody waits for it."""
        connection = self.session.connect()
        connection.sendall(f"GET /{path} HTTP/1.0\r\n\r\n".encode())
        self._kept = connection

    def signal(self, number: int, worker: int | None = None) -> None:
        """Send a signal to a worker, to the one that serves unless told."""
        os.kill(self.session.pid_of(self.serving if worker is None else worker), number)

    def strike(self, blow: Callable[[Ground], None], victim: int | None = None) -> Outcome:
        """Let a fault happen under the clients, and wait until the session is whole again."""
        worker = self.serving if victim is None else victim
        self.tally = Tally(self.session)
        events_before = len(self.session.events)
        self.tally.start()
        wait_until(lambda: len(self.tally.answers) > 20, "the clients' first answers")
        struck = time.monotonic()
        blow(self)
        died = self.session.wait_for(
            "WorkerDied", after=events_before, matching=lambda event: event["worker"] == worker
        )
        assert died is not None
        wait_until(lambda: self.tally.answered_since(struck) > 20, "answers after the fault")
        self.session.standby_ready()
        report = self.session.report_of(worker)
        self.tally.stop()
        first = min(end for began, end, _ in self.tally.answers if began >= struck)
        return Outcome(lost=len(self.tally.failures), seconds=first - struck, report=report)

    def is_whole(self) -> bool:
        """Whether one worker serves, and another one stands by."""
        gone = {
            each["worker"] for each in self.session.events if each["event"] in ("WorkerDied", "WorkerExited")
        }
        ready = {each["worker"] for each in self.session.events if each["event"] == "WorkerReady"} - gone
        serving = {each["worker"] for each in self.session.events if each["event"] == "ServerRunning"} - gone
        return len(serving) == 1 and len(ready - serving) == 1

    def close(self) -> None:
        """End everything."""
        self.tally.stop()
        if self.session.process.poll() is None:
            self.session.process.send_signal(signal.SIGTERM)
            self.session.exit_status()
        self.session.clean_up()
