"""Sessions whose workers are forked, and those that must not have any: who is whose child, and what it has seen."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any
from unittest import SkipTest

from serverworker.processes.descendants import children_of, read_process
from serverworker.processes.guardian import MARK_VARIABLE
from serverworker.processes.spawn import WORKER_VARIABLE
from tests.integration.programs import CHECKOUT
from tests.integration.sessions import SessionTestCase, TestSession, is_alive, wait_until
from tests.integration.test_daemon import Daemon

APPLICATION = """
    import os
    from twisted.web.resource import Resource

    VERSION = "1"

    class Root(Resource):
        isLeaf = True

        def render_GET(self, request):
            return f"{VERSION} {os.environ.get('COLOUR')} {hash('text')}".encode()
    """

SECRET = "hush-" + "4711-0815-hush"
"""Put together, so that no file of ours, and so no .pyc in a process's memory, holds it."""


def command_line(pid: int) -> list[str]:
    """As ps shows it; empty where the process is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode().split("\0")
    return []


def environment(pid: int) -> dict[str, str]:
    """As /proc shows it."""
    text = Path(f"/proc/{pid}/environ").read_bytes().decode()
    return dict(entry.split("=", 1) for entry in text.split("\0") if "=" in entry)


def is_forked(worker: int) -> bool:
    """Whether a worker, by its pid, was forked: an interpreter shows by what path it was started."""
    words = command_line(worker)
    if "serverworker.processes.entry" not in words:
        raise AssertionError(f"{worker} is no worker: {words}")
    return words[0] == "python"


def fork_servers(monitor: int) -> list[int]:
    """The pids of a monitor's fork servers that live."""
    found = [each.pid for each in children_of(monitor) if not each.is_gone]
    return [pid for pid in found if "serverworker.processes.fork_server" in command_line(pid)]


def is_ours(fork_server: int) -> bool:
    """Whether a fork server was forked from twistd's process, whose environment has no mark of the session's."""
    return MARK_VARIABLE not in environment(fork_server)


def holds(pid: int, text: bytes) -> bool:
    """Whether the memory of a process that can be written to holds a text."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for found in (re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", line) for line in lines):
            if found is None:
                continue
            start, end = (int(each, 16) for each in found.groups())
            with contextlib.suppress(OSError, ValueError):
                memory.seek(start)
                if text in memory.read(end - start):
                    return True
    return False


class ForkedSessionTestCase(SessionTestCase):
    """Starts sessions from nothing: those of `programs` are forks themselves."""

    def begin(self, *arguments: str, configuration: str = "", path: str = "", **options: Any) -> TestSession:
        """One with `APPLICATION`, of which one worker serves and one stands by."""
        folder = options.pop("folder", None) or self.folder(site_under_test__py=APPLICATION)
        (folder / "serverworker.toml").write_text(
            f'[app]\nresource = "site_under_test:Root"\n{configuration}'
        )
        search = os.pathsep.join(filter(None, [path, str(CHECKOUT), os.environ.get("PYTHONPATH", "")]))
        session = self.session(
            *("--config", "serverworker.toml", *arguments),
            folder=folder,
            environment={"PYTHONPATH": search},
            **options,
        )
        self.addCleanup(self.end_fork_servers, session)
        session.serving()
        session.standby_ready()
        return session

    def end_fork_servers(self, session: TestSession) -> None:
        """What a test leaves that has failed halfway."""
        for pid in fork_servers(session.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def workers(self, session: TestSession) -> list[int]:
        """The pids of those that live."""
        spawned = [event["pid"] for event in session.events if event["event"] == "WorkerSpawned"]
        return [pid for pid in spawned if is_alive(pid)]

    def successor_of(self, session: TestSession, pid: int) -> int:
        """Kill a worker, and answer the pid of the next one that is ready."""
        after = len(session.events)
        os.kill(pid, signal.SIGKILL)
        worker = session.wait_for("WorkerSpawned", after=after)["worker"]
        session.wait_for("WorkerReady", after=after, matching=lambda event: event["worker"] == worker)
        return session.pid_of(worker)

    def until_forked(self, session: TestSession, attempts: int = 6) -> int:
        """Kill what serves until its successor is forked: a new fork server takes a moment to be ready."""
        for _ in range(attempts):
            pid = self.successor_of(session, session.server_pid)
            if is_forked(pid):
                return pid
        raise AssertionError(f"{attempts} workers in a row were not forked:\n{session.transcript()}")


class ForkedSessionTests(ForkedSessionTestCase):
    """What is forked, from what, and what it is like."""

    def test_foreground(self) -> None:
        """The fork server is a fork of twistd's own, older than the guardian; what it forks is the monitor's child."""
        session = self.begin()
        monitor = session.process.pid
        (server,) = fork_servers(monitor)
        self.assertTrue(is_ours(server))
        self.assertEqual(Path(f"/proc/{server}/comm").read_text().strip(), Path(sys.executable).name)
        entry = read_process(server)
        assert entry is not None
        others = [each for each in children_of(monitor) if each.pid != server]
        self.assertEqual([each for each in others if each.identity[1] < entry.identity[1]], [])
        self.assertEqual(entry.session, server)
        workers = self.workers(session)
        self.assertEqual(len(workers), 2)
        for pid in workers:
            worker = read_process(pid)
            assert worker is not None
            self.assertTrue(is_forked(pid))
            self.assertEqual((worker.parent, worker.session), (monitor, pid))
            variables = environment(pid)
            self.assertIn(MARK_VARIABLE, variables)
            self.assertEqual(session.pid_of(int(variables[WORKER_VARIABLE])), pid)
        self.assertTrue(is_forked(self.successor_of(session, session.server_pid)))
        self.assertEqual(fork_servers(monitor), [server])

    def test_daemon(self) -> None:
        """What daemonises starts a fork server of its own, and has its workers forked all the same."""
        folder = self.folder()
        daemon = Daemon(folder, "--port", "tcp:0:interface=127.0.0.1")
        self.addCleanup(daemon.clean_up)
        self.assertEqual(daemon.launch().returncode, 0)
        self.assertEqual(daemon.get(), b"ok\n")
        self.assert_forks_all_the_same(daemon)

    def test_umask(self) -> None:
        """Likewise, in the foreground, where an option changes what the monitor is after it has read its options."""
        session = self.begin(runner=("twistd", "-n", "--pidfile=", "--umask=027"))
        (server,) = fork_servers(session.process.pid)
        self.assertFalse(is_ours(server))
        worker = self.until_forked(session)
        for pid in (worker, session.process.pid):
            self.assertRegex(Path(f"/proc/{pid}/status").read_text(), r"(?m)^Umask:\t0027$")

    def assert_forks_all_the_same(self, daemon: Daemon) -> None:
        """A fork server was started, and forks; the monitor is the parent of all."""
        (server,) = fork_servers(daemon.pid)
        self.assertFalse(is_ours(server))
        wait_until(
            lambda: any(is_forked(pid) for pid in daemon.worker_pids if is_alive(pid)), "a forked worker"
        )
        for pid in daemon.worker_pids:
            worker = read_process(pid)
            assert worker is not None
            self.assertEqual(worker.parent, daemon.pid)
        monitor = daemon.pid
        os.kill(monitor, signal.SIGTERM)
        wait_until(lambda: not is_alive(monitor), "the end of the daemon")
        wait_until(lambda: not is_alive(server), "the end of its fork server")

    # --- what is no fork ------------------------------------------------------------------------

    def assert_none_is_forked(self, session: TestSession) -> None:
        """Workers are interpreters, and no fork server stays."""
        workers = self.workers(session)
        self.assertEqual(len(workers), 2)
        for pid in workers:
            self.assertEqual(command_line(pid)[0], sys.executable)
        successor = self.successor_of(session, session.server_pid)
        self.assertEqual(command_line(successor)[0], sys.executable)
        wait_until(lambda: not fork_servers(session.process.pid), "the end of the fork server")

    def test_another_interpreter(self) -> None:
        """Workers of another interpreter are started by it."""
        folder = self.folder(site_under_test__py=APPLICATION)
        python = folder / "python"
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        python.chmod(0o755)
        self.assert_none_is_forked(self.begin(configuration=f'python = "{python}"\n', folder=folder))

    def test_interpreter_environment(self) -> None:
        """A variable that Python reads when it starts takes effect, and so takes an interpreter."""
        session = self.begin(configuration='environment = {PYTHONHASHSEED = "7"}\n')
        answer = session.get()[1]
        self.assert_none_is_forked(session)
        self.assertEqual(session.get()[1], answer)

    def test_plain_environment(self) -> None:
        """Any other variable is seen by what is forked."""
        session = self.begin(configuration='environment = {COLOUR = "red"}\n')
        self.assertEqual(session.get()[1].split()[:2], [b"1", b"red"])
        for pid in self.workers(session):
            self.assertTrue(is_forked(pid))

    # --- what is new at a restart ---------------------------------------------------------------

    def test_new_code(self) -> None:
        """The fork server has no module of the application's: a restart has the code as it is now."""
        session = self.begin()
        module = session.folder / "site_under_test.py"
        module.write_text(module.read_text().replace('VERSION = "1"', 'VERSION = "second"'))
        session.process.send_signal(signal.SIGHUP)
        wait_until(lambda: session.get()[1].startswith(b"second"), "the new code")
        self.assertTrue(is_forked(session.server_pid))

    # --- what nobody else may know --------------------------------------------------------------

    def test_secret(self) -> None:
        """What is secret in the configuration is in the monitor's memory, and in that of nothing that is forked."""
        if os.geteuid() != 0:
            raise SkipTest("only root reads any process's memory")
        session = self.begin(configuration=f'[webhook]\nurl = "http://127.0.0.1:9/"\nsecret = "{SECRET}"\n')
        monitor, secret = session.process.pid, SECRET.encode()
        self.assertTrue(holds(monitor, secret))
        successor = self.successor_of(session, session.server_pid)
        for pid in (*fork_servers(monitor), *self.workers(session), successor):
            self.assertTrue(holds(pid, MARK_VARIABLE.encode()))
            self.assertFalse(holds(pid, secret), command_line(pid))
