"""Probes, metrics and the journal of real sessions."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

from serverworker.monitor.journal_files import read_journal
from tests.integration.programs import own_environment
from tests.integration.refusals import RefusalTestCase
from tests.integration.sessions import LONG, SessionTestCase, TestSession, wait_until

APPLICATION = """
import pathlib, time
from twisted.web.resource import Resource

while not pathlib.Path("go").exists():
    time.sleep(0.02)

class Root(Resource):
    isLeaf = True

    def render_GET(self, request):
        if request.path == b"/hang":
            time.sleep(1000)
        return b"here"

root = Root()
"""

CONFIGURATION = """
[app]
resource = "application:root"
version = "2.4.1"
[health]
endpoint = "unix:health"
[workers]
standby = 0
[watchdog]
interval_seconds = 0.1
timeout_seconds = 1
[drain]
unready_seconds = 1
"""


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=LONG)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(LONG)
        self.sock.connect(str(self._path))


class MonitoringTestCase(SessionTestCase):
    def begin(self, **files: str) -> TestSession:
        """A session whose application loads as soon as it may; its health endpoint is a file in its folder."""
        self.place = self.folder(application__py=APPLICATION, serverworker__toml=CONFIGURATION, **files)
        return self.again()

    def again(self) -> TestSession:
        """One more in the same folder."""
        return self.session("--config", "serverworker.toml", folder=self.place)

    def ask(self, path: str) -> tuple[int, str]:
        """What the health endpoint answers."""
        connection = UnixConnection(self.place / "health")
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def status(self, path: str) -> int:
        return self.ask(path)[0]

    def metrics(self) -> dict[str, float]:
        """Every sample, by its name and labels as they are told."""
        status, text = self.ask("/metrics")
        self.assertEqual(status, 200, text)
        lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in lines}

    def wait_for_metric(self, name: str, value: float) -> dict[str, float]:
        found: dict[str, float] = {}

        def there() -> bool:
            nonlocal found
            found = self.metrics()
            return found.get(name) == value

        wait_until(there, f"{name} to be {value:g}")
        return found

    def let_load(self) -> None:
        (self.place / "go").touch()


class ProbeTests(MonitoringTestCase):
    """`/livez` and `/readyz`."""

    def test_through_a_life(self) -> None:
        """They answer while nothing serves yet, while the worker hangs and is replaced, and at the end."""
        session = self.begin()
        session.wait_for("WorkerSpawned")
        self.assertEqual((self.status("/livez"), self.status("/readyz")), (200, 503))
        self.let_load()
        session.serving()
        self.assertEqual((self.status("/livez"), self.status("/readyz")), (200, 200))
        self.assertEqual(stat.S_IMODE((self.place / "health").stat().st_mode), 0o600)

        (self.place / "go").unlink()
        with session.connect() as client:
            client.sendall(b"GET /hang HTTP/1.1\r\nHost: x\r\n\r\n")
            died = session.wait_for("WorkerDied")
        self.assertEqual(died["cause"]["kind"], "hang")
        self.assertEqual(
            (self.status("/livez"), self.ask("/readyz")), (200, (503, "not ready: no worker serves\n"))
        )
        self.let_load()
        session.serving(2)
        self.assertEqual(self.status("/readyz"), 200)

        session.process.send_signal(signal.SIGTERM)
        session.wait_for("SessionEnding")
        self.assertEqual(self.ask("/readyz"), (503, "not ready: the session ends\n"))
        self.assertEqual((self.status("/livez"), session.get()), (200, (200, b"here")))
        self.assertEqual(session.exit_status(), 0)
        self.assertFalse((self.place / "health").exists())

    def test_restart(self) -> None:
        """A restart is nothing to a probe: it is ready all the while, although the new generation takes its time."""
        session = self.begin()
        self.let_load()
        session.serving()
        (self.place / "go").unlink()
        session.process.send_signal(signal.SIGHUP)
        session.wait_for("WorkerSpawned", matching=lambda event: event["generation"] == 2)
        self.assertEqual((self.status("/livez"), self.status("/readyz")), (200, 200))
        self.let_load()
        session.wait_for("RestartCompleted")
        self.assertEqual(self.status("/readyz"), 200)
        found = self.wait_for_metric("serverworker_generation", 2)
        self.assertEqual(found['serverworker_restarts_total{mode="clean",outcome="completed"}'], 1)

    def test_strangers(self) -> None:
        """Over TCP, with two hundred idle connections and some garbage: the next probe is answered."""
        session = self.session("--health", "tcp:0:interface=127.0.0.1")
        line = session.wait_for_line("/readyz and /metrics are at tcp:")
        port = int(line.partition("are at tcp:")[2].split(":")[0])
        session.serving()
        with contextlib.ExitStack() as idle:
            for number in range(200):
                client = idle.enter_context(socket.create_connection(("127.0.0.1", port), timeout=LONG))
                if number % 4 == 0:
                    client.sendall(os.urandom(100) + b"\r\n\r\n")
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LONG)
            connection.request("GET", "/readyz")
            self.assertEqual(connection.getresponse().read(), b"ready\n")
            connection.close()
        self.assertEqual(session.end(), 0)
        self.assertFalse([line for line in session.lines if "Traceback" in line], session.transcript())


class RefusedTests(RefusalTestCase):
    """A health endpoint that cannot be had."""

    def test_in_use(self) -> None:
        """It ends with 69 and says which, and whose it is; nothing is left bound, and no file of a unix socket."""
        folder = self.folder()
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
            text = self.never_begun(
                69, "--health", address, "--control", "unix:ctl", folder=folder, port="unix:web"
            )
        self.assertIn(f"port 'health' cannot be bound to {address}: in use by pid {os.getpid()} (", text)
        self.assertEqual([name for name in ("web", "ctl") if (folder / name).exists()], [])

    def test_session_that_never_begins(self) -> None:
        """Where something else is wrong, the sockets that were bound for it leave no file behind either."""
        folder = self.folder()
        arguments = ("--agent", "nobody.has:It", "--health", "unix:health", "--control", "unix:ctl")
        self.refused(78, *arguments, folder=folder)
        self.assertEqual([name for name in ("health", "ctl") if (folder / name).exists()], [])


class MetricsTests(MonitoringTestCase):
    """`/metrics`."""

    def test_across_a_crash(self) -> None:
        """Counters move, the session's own go on over the death of a worker, and its series ends with it."""
        session = self.begin()
        self.let_load()
        session.serving()
        for _ in range(5):
            session.get()
        wait_until(
            lambda: self.metrics()["serverworker_requests_total"] >= 6, "five requests and a heartbeat"
        )
        before = self.metrics()
        self.assertEqual(before['serverworker_application_info{version="2.4.1"}'], 1)
        self.assertEqual(before['serverworker_workers{state="serving"}'], 1)
        self.assertGreater(before['serverworker_worker_resident_memory_bytes{worker="1"}'], 10_000_000)
        self.assertGreater(before['serverworker_worker_cpu_seconds_total{worker="1"}'], 0)
        self.assertGreater(before["serverworker_monitor_resident_memory_bytes"], 10_000_000)
        ping = 'serverworker_worker_ping_seconds{worker="1"}'
        wait_until(lambda: ping in self.metrics(), "a ping")
        self.assertLess(self.metrics()[ping], LONG)

        os.kill(session.server_pid, signal.SIGKILL)
        session.serving(2)
        after = self.wait_for_metric('serverworker_crashes_total{cause="signal"}', 1)
        self.assertEqual(after["serverworker_recovery_seconds_count"], 1)
        self.assertGreater(after["serverworker_recovery_seconds_sum"], 0)
        self.assertGreaterEqual(after["serverworker_requests_total"], before["serverworker_requests_total"])
        self.assertGreaterEqual(after['serverworker_heartbeat_seconds_count{outcome="ok"}'], 2)
        self.assertFalse([name for name in after if 'worker="1"' in name])
        self.assertTrue([name for name in after if 'worker="2"' in name])


class JournalTests(MonitoringTestCase):
    """The journal over several sessions in one folder."""

    def journal(self, **options: Any) -> list[dict[str, Any]]:
        return list(read_journal(self.place / "state", **options))

    def test_over_a_kill(self) -> None:
        """A killed session's journal is whole, and the next one tells of it; the one after that, of a clean end."""
        first = self.begin()
        self.let_load()
        first.serving()
        os.kill(first.server_pid, signal.SIGKILL)
        first.serving(2)
        first.wait_for("CrashReportWritten")
        wait_until(lambda: len(self.journal(kinds=("CrashReportWritten",))) == 1, "the report in the journal")
        first.process.kill()
        first.process.wait(LONG)
        path = self.place / "state" / "journal.jsonl"
        with path.open("ab") as file:
            file.write(b'{"session":"half a li')  # as where it was killed in the middle of a write

        second = self.again()
        previous = second.wait_for("PreviousSession")
        self.assertEqual((previous["status"], previous["crashes"]), (None, 1))
        second.serving()
        self.assertEqual(second.end(), 0)
        self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600)

        third = self.again()
        previous = third.wait_for("PreviousSession")
        self.assertEqual((previous["status"], previous["reason"], previous["crashes"]), (0, "SIGTERM", 0))
        third.serving()
        self.assertEqual(third.end(), 0)

        found = self.journal()
        self.assertEqual(len({event["session"] for event in found}), 3)
        self.assertEqual([event["event"] for event in found].count("SessionEnded"), 2)
        self.assertEqual(found[-1]["event"], "SessionEnded")
        (died,) = (event for event in found if event["event"] == "WorkerDied")
        self.assertEqual(died["fields"]["cause"]["signal"], "SIGKILL")
        self.assertFalse({event["event"] for event in found} & {"OutputLine", "Heartbeat"})
        for session in (second, third):
            pid = session.wait_for("SessionStarted")["pid"]
            kept = [event["event"] for event in found if event["session"].endswith(f"/{pid}")]
            told = [event["event"] for event in session.events]
            self.assertEqual(kept, [name for name in told if name not in ("OutputLine", "Heartbeat")])

    def test_full_disk(self) -> None:
        """A disk that takes nothing costs no request; when it takes again, all that was told meanwhile is there."""
        session = self.begin()
        self.let_load()
        session.serving()
        path = self.place / "state" / "journal.jsonl"
        wait_until(lambda: bool(self.journal(kinds=("ServerRunning",))), "the journal")
        path.unlink()
        path.mkdir()  # nothing can be written there, not by root either
        os.kill(session.server_pid, signal.SIGKILL)
        fault = session.wait_for("Fault")
        self.assertEqual(fault["where"], str(path))
        session.serving(2)
        self.assertEqual(session.get(), (200, b"here"))
        path.rmdir()
        resumed = session.wait_for("JournalResumed")
        self.assertEqual(resumed["missing"], 0)
        wait_until(lambda: bool(self.journal(kinds=("JournalResumed",))), "the journal to go on")
        kept = {event["event"] for event in self.journal()}
        self.assertLessEqual({"WorkerDied", "Fault", "WorkerSpawned"}, kept)

    def test_audit(self) -> None:
        """What an operator does stands in the audit log, readable by nobody else."""
        session = self.begin()
        self.let_load()
        session.serving()
        command = [sys.executable, "-m", "serverworker.ctl", "--state-dir", str(session.state_directory)]
        done = subprocess.run(
            [*command, "set", "polling", "7"],
            env=own_environment({}),
            capture_output=True,
            text=True,
            timeout=LONG,
            check=False,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        path = session.state_directory / "audit.jsonl"
        wait_until(path.exists, "the audit log")
        (entry,) = read_journal(session.state_directory, name=path.name)
        self.assertEqual((entry["event"], entry["fields"]["action"]), ("OperatorAction", "set polling 7"))
        self.assertEqual(entry["fields"]["ok"], True)
        self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600)
