"""A real session under test: `twistd -n serverworker …` as a process, read through its JSON log."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.integration.programs import start

LONG = 60.0
"""Seconds: the deadline of every wait. It is far more than anything takes, so that a busy machine fails nothing."""

Event = dict[str, Any]


class TestSession:
    """One `twistd -n serverworker`, in a folder of its own, on a port that the system chose."""

    __test__ = False

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        port: str | None = "tcp:0:interface=127.0.0.1",
        runner: tuple[str, ...] = ("twistd", "-n", "--pidfile="),
        environment: dict[str, str] | None = None,
        stdin: Any = subprocess.DEVNULL,
        prefix: tuple[str, ...] = (),
    ) -> None:
        """`prefix`: a program that starts the monitor, with its own arguments."""
        self.folder = folder
        self.state_directory = folder / "state"
        self.events: list[Event] = []
        self.lines: list[str] = []
        """What was printed and is no event of ours."""
        self.reading = threading.Event()
        """Cleared: what the session writes is left unread for now, but for a few KiB."""
        self.reading.set()
        self._changed = threading.Condition()
        self._moved: dict[str, int] = {}
        ports = () if port is None else ("--port", port)
        command = [
            *runner,
            "serverworker",
            *ports,
            "--state-dir",
            str(self.state_directory),
            "--log-format",
            "json",
            *arguments,
        ]
        self.process = start(command, folder=folder, more=environment or {}, stdin=stdin, prefix=prefix)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for raw in self.process.stdout:
            self.reading.wait()
            line = raw.decode("utf-8", "replace").rstrip("\n")
            try:
                entry = json.loads(line)
                event = {"source": entry["source"], **entry["fields"]}
            except (ValueError, TypeError, KeyError):
                event = {}
            with self._changed:
                if "event" in event:
                    self.events.append(event)
                else:
                    self.lines.append(line)
                self._changed.notify_all()

    # --- waiting --------------------------------------------------------------------------------

    def wait_for(
        self,
        name: str,
        *,
        after: int = 0,
        seconds: float = LONG,
        matching: Callable[[Event], bool] | None = None,
    ) -> Event:
        """The first event of that name, from position `after` of `events` on; AssertionError at the deadline."""

        def found() -> Event | None:
            for event in self.events[after:]:
                if event["event"] == name and (matching is None or matching(event)):
                    return event
            return None

        event: Event = self._wait(found, name, seconds)
        return event

    def wait_for_line(self, text: str, seconds: float = LONG, *, after: int = 0) -> str:
        """The first line that holds `text` and is no event, from position `after` of `lines` on."""
        line: str = self._wait(
            lambda: next((line for line in self.lines[after:] if text in line), None), repr(text), seconds
        )
        return line

    def _wait(self, found: Callable[[], Any], what: str, seconds: float) -> Any:
        deadline = time.monotonic() + seconds
        with self._changed:
            while True:
                result = found()
                if result is not None:
                    return result
                left = deadline - time.monotonic()
                if left <= 0 or (self.process.poll() is not None and not self._reader.is_alive()):
                    result = found()
                    if result is not None:
                        return result
                    raise AssertionError(f"waited in vain for {what}; the session said:\n{self.transcript()}")
                self._changed.wait(min(left, 0.5))

    def transcript(self) -> str:
        """All that the session has said, for a failure's text."""
        return "\n".join([*(json.dumps(event)[:2000] for event in self.events), *self.lines[-100:]])

    def serving(self, count: int = 1) -> list[Event]:
        """Wait until `count` workers have begun to serve, and answer their `ServerRunning`."""
        self._wait(
            lambda: (
                True if sum(event["event"] == "ServerRunning" for event in self.events) >= count else None
            ),
            f"{count} of ServerRunning",
            LONG,
        )
        return [event for event in self.events if event["event"] == "ServerRunning"]

    def standby_ready(self) -> Event:
        """Wait until a worker that does not serve is ready."""

        def found() -> Event | None:
            serving = {event["worker"] for event in self.events if event["event"] == "ServerRunning"}
            gone = {
                event["worker"] for event in self.events if event["event"] in ("WorkerDied", "WorkerExited")
            }
            for event in self.events:
                if event["event"] == "WorkerReady" and event["worker"] not in serving | gone:
                    return event
            return None

        event: Event = self._wait(found, "a standby", LONG)
        return event

    def standby_ready_or_loaded(self) -> Event:
        """Wait until a worker stands by: ready, or loaded where there is something to activate."""

        def found() -> Event | None:
            busy = {event["worker"] for event in self.events if event["event"] == "ServerRunning"}
            busy |= {
                event["worker"] for event in self.events if event["event"] in ("WorkerDied", "WorkerExited")
            }
            for event in self.events:
                if event["event"] == "WorkerLoaded" and event["worker"] not in busy:
                    return event
            return None

        event: Event = self._wait(found, "a standby", LONG)
        return event

    def wait_for_drain_of(self, worker: int) -> None:
        """Wait until a worker that was told to drain has stopped accepting: it notes so on its way."""
        self.wait_for(
            "Lifecycle", matching=lambda event: event["worker"] == worker and "draining" in event["text"]
        )

    def pid_of(self, worker: int) -> int:
        """The process id of a worker."""
        event = self.wait_for("WorkerSpawned", matching=lambda event: event["worker"] == worker)
        return int(event["pid"])

    @property
    def server_pid(self) -> int:
        """The process id of the worker that began to serve last."""
        return self.pid_of(self.serving()[-1]["worker"])

    @property
    def address(self) -> str:
        """The first port's, such as ``tcp:40123:interface=127.0.0.1``."""
        ports = self.wait_for("SessionStarted")["ports"]
        return next(str(port) for port in ports if port.startswith("server=")).removeprefix("server=")

    def port(self, name: str = "server") -> int:
        """The number of a TCP port."""
        if name in self._moved:
            return self._moved[name]
        ports = self.wait_for("SessionStarted")["ports"]
        found = next(str(port) for port in ports if port.startswith(f"{name}="))
        return int(found.split(":")[1])

    def moved_to(self, number: int, name: str = "server") -> None:
        """Find a port under this number from now on."""
        self._moved[name] = number

    # --- acting ---------------------------------------------------------------------------------

    def get(
        self,
        path: str = "/",
        *,
        method: str = "GET",
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, bytes]:
        """One request on a connection of its own: status and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port(), timeout=LONG)
        try:
            connection.request(method, path, body=body, headers=headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def connect(self, name: str = "server") -> socket.socket:
        """A raw connection."""
        return socket.create_connection(("127.0.0.1", self.port(name)), timeout=LONG)

    def reports(self) -> list[dict[str, Any]]:
        """The crash reports on disk, oldest first."""
        folder = self.state_directory / "crashes"
        if not folder.is_dir():
            return []
        return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]

    def report_of(self, worker: int) -> dict[str, Any]:
        """Wait for a worker's crash report, and read it."""
        event = self.wait_for("CrashReportWritten", matching=lambda event: event["worker"] == worker)
        report: dict[str, Any] = json.loads(Path(event["path"]).read_text())
        return report

    def end(self, number: int = signal.SIGTERM, seconds: float = LONG) -> int:
        """End the monitor by a signal, and wait for its exit status."""
        self.process.send_signal(number)
        return self.exit_status(seconds)

    def exit_status(self, seconds: float = LONG) -> int:
        """Wait for the monitor's end."""
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"the session did not end; it said:\n{self.transcript()}") from error
        self._reader.join(LONG)
        return status

    def clean_up(self) -> None:
        """End what is left: the monitor, then what it started."""
        pids = [event["pid"] for event in self.events if event["event"] == "WorkerSpawned"]
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait(LONG)
        for pid in pids:
            if is_worker(pid):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)
        self._reader.join(LONG)
        if self.process.stdout is not None:
            self.process.stdout.close()


def is_worker(pid: int) -> bool:
    """Whether a process id is, still, that of one of our workers: an id may have been given out again."""
    try:
        return b"serverworker.processes.entry" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def is_alive(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition: Callable[[], bool], what: str, seconds: float = LONG) -> None:
    """Look every 20 ms until a condition of the outside world holds; AssertionError at the deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:g} s in vain for {what}")
        time.sleep(0.02)


class SessionTestCase(SynchronousTestCase):
    """Makes sessions that end with the test."""

    def folder(self, **files: str) -> Path:
        """A new folder with these files; ``__`` in a name stands for a dot."""
        # Not trial's own: a unix socket's path ends at 107 bytes, wherever the checkout lies.
        path = Path(tempfile.mkdtemp(prefix="session-"))
        self.addCleanup(shutil.rmtree, path, ignore_errors=True)
        for name, text in files.items():
            (path / name.replace("__", ".")).write_text(textwrap.dedent(text))
        return path

    def session(self, *arguments: str, folder: Path | None = None, **options: Any) -> TestSession:
        """Start one, and have it ended after the test."""
        session = TestSession(folder or self.folder(), *arguments, **options)
        self.addCleanup(session.clean_up)
        return session

    @contextlib.contextmanager
    def clients(self, session: TestSession, path: str = "/", *, keeps: bool = False) -> Iterator[Clients]:
        """Clients that make requests one after the other, until the block ends.

        Each request is on a new connection, or with `keeps` on the last one, for as long as the server keeps it.
        """
        clients = Clients(session, path, keeps=keeps)
        clients.start()
        try:
            yield clients
        finally:
            clients.stop()


class Clients:
    """Counts what becomes of requests that are made without a pause."""

    def __init__(self, session: TestSession, path: str, number: int = 4, *, keeps: bool = False) -> None:
        self.answered = 0
        self.failures: list[str] = []
        self._session = session
        self._path = path
        self._keeps = keeps
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(number)]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End after the requests that are under way."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(LONG)

    def _run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._session.port(), timeout=LONG)
        while not self._stopping.is_set():
            try:
                status = self._ask_again(connection) if self._keeps else self._session.get(self._path)[0]
                failure = None if status == 200 else f"status {status}"
            except Exception as error:
                failure = f"{type(error).__name__}: {error}"
                connection.close()
            with self._lock:
                if failure is None:
                    self.answered += 1
                else:
                    self.failures.append(failure)
        connection.close()

    def _ask_again(self, connection: http.client.HTTPConnection) -> int:
        """A connection that the server has announced to close is made anew by the client's own next request."""
        connection.request("GET", self._path)
        answer = connection.getresponse()
        answer.read()
        return answer.status

    def wait_for_answers(self, number: int, seconds: float = LONG) -> None:
        """Wait until so many more requests have been answered."""
        goal = self.answered + number
        wait_until(lambda: self.answered >= goal, f"{number} more answers", seconds)
