"""Workers that die while they serve or while they end: what is reported, and that the session goes on."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from serverworker.processes.descendants import children_of
from tests.integration.doomed import DoomedTestCase, notes, output, standby
from tests.integration.sessions import is_alive, wait_until


class UncaughtTests(DoomedTestCase):
    """An error that nothing handles is a crash, wherever it happens (row W11)."""

    def test_everywhere(self) -> None:
        """In a timed call, a thread, the thread pool, a Deferred, a coroutine: each is one report with its error."""
        session = self.doomed()
        for name, text, function in (
            ("timed_call", "boom in a timed call", "in explode"),
            ("thread", "boom in a thread", "in explode"),
            ("pool", "boom in the pool", "in explode"),
            ("deferred", "boom in a Deferred", "RuntimeError"),
            ("coroutine", "boom in a coroutine", "in explode"),
        ):
            report = self.crash(session, name)
            cause = report["cause"]
            self.assertEqual(
                (cause["kind"], cause["text"], cause["exit_status"], cause["signal"], report["life"]),
                ("exception", f"RuntimeError: {text}", 1, None, "serving"),
            )
            self.assertEqual(cause["error"]["type"], "builtins.RuntimeError")
            self.assertIn(function, cause["error"]["traceback"])
        self.assertEqual(len(session.reports()), 5)
        self.assertEqual(session.end(), 0)

    def test_data_received(self) -> None:
        """In what a protocol does with data."""
        session = self.doomed("--port", "lines=tcp:0:interface=127.0.0.1", "--standby", "0")
        worker = session.serving()[0]["worker"]
        with session.connect("lines") as connection:
            connection.sendall(b"the third line\n")
            report = session.report_of(worker)
            self.assertEqual(connection.recv(100), b"")
        self.assertEqual(report["cause"]["text"], "RuntimeError: boom at the third line")
        self.assertIn("in lineReceived", report["cause"]["error"]["traceback"])
        session.serving(2)
        self.assertEqual(session.get("/")[0], 200)

    def test_two_at_once(self) -> None:
        """Several crashes at once are one death, and one report, of the first of them."""
        session = self.doomed("--standby", "0")
        report = self.crash(session, "twice")
        self.assertIn(
            report["cause"]["error"]["message"], ("the fourth boom", "the third boom", "the first boom")
        )
        self.assertEqual(len([each for each in session.events if each["event"] == "WorkerDied"]), 1)
        self.assertEqual(session.end(), 0)
        self.assertEqual(len(session.reports()), 1)


class ExitTests(DoomedTestCase):
    """Exit handlers that come to harm (row W4): they are reported, and stop neither the others nor the exit."""

    def test_at_the_end(self) -> None:
        """At the session's end one that raises is told, one that never ends is cut short at the drain's deadline."""
        session = self.doomed("--standby", "0", "--drain-timeout", "1", exits="raises never_ends well")
        worker = session.serving()[0]["worker"]
        began = time.monotonic()
        self.assertEqual(session.end(), 0)
        self.assertGreater(time.monotonic() - began, 0.9)
        told = notes(session, worker)
        self.assertIn(
            "exit handler exit_by.<locals>.raises failed: boom while exiting by session-end; the exit goes on",
            told,
        )
        self.assertIn(
            "exit handler exit_by.<locals>.never_ends failed: exit handler exit_by.<locals>.never_ends has not "
            "finished within 1 s; the exit goes on",
            told,
        )
        printed = [event["text"] for event in session.events if event["event"] == "OutputLine"]
        self.assertIn("told session-end: SIGTERM", printed)
        exited = session.wait_for("WorkerExited")
        self.assertEqual((exited["worker"], exited["text"]), (worker, "exit status 0"))
        self.assertEqual(session.reports(), [])

    def test_at_a_crash(self) -> None:
        """At a crash too, within the drain's deadline; others serve meanwhile, and the report is of the crash."""
        session = self.doomed("--drain-timeout", "1", exits="raises never_ends well")
        worker = session.serving()[0]["worker"]
        other = standby(session)
        session.get("/timed_call")
        session.serving(2)
        self.assertTrue(is_alive(session.pid_of(worker)))
        self.assertEqual(session.get("/"), (200, b"%d" % session.pid_of(other)))
        report = session.report_of(worker)
        self.assertEqual(report["cause"]["text"], "RuntimeError: boom in a timed call")
        self.assertIn("told crash: boom in a timed call", output(report))
        told = notes(session, worker)
        self.assertTrue(any("raises failed: boom while exiting by crash" in note for note in told), told)
        self.assertTrue(any("never_ends has not finished within 1 s" in note for note in told), told)

    def test_crash_while_exiting(self) -> None:
        """An error that nothing handles while a worker leaves is a crash of its own, and the session's end goes on."""
        session = self.doomed("--standby", "0", exits="later_raises")
        worker = session.serving()[0]["worker"]
        self.assertEqual(session.end(), 0)
        (report,) = session.reports()
        self.assertEqual((report["worker"], report["life"]), (worker, "draining"))
        self.assertEqual(report["cause"]["text"], "RuntimeError: boom beside the exit")
        self.assertEqual(report["next_step"], "the session ends with status 0")

    def test_exits_while_exiting(self) -> None:
        """A worker that ends by itself in an exit handler has died, with the status that it had."""
        session = self.doomed("--standby", "0", exits="exits")
        self.assertEqual(session.end(), 0)
        (report,) = session.reports()
        self.assertEqual((report["cause"]["kind"], report["cause"]["exit_status"]), ("exit", 7))
        self.assertEqual(output(report)[-1], "before its time")

    def test_blocks_while_exiting(self) -> None:
        """One that blocks the reactor while it exits is killed a little after the drain's deadline."""
        session = self.doomed("--standby", "0", "--drain-timeout", "0.5", exits="blocks")
        pid = session.server_pid
        self.assertEqual(session.end(), 0)
        exited = session.wait_for("WorkerExited")
        self.assertRegex(exited["text"], r"^killed by SIGKILL \(it had not ended within \d\.\d s\)$")
        self.assertFalse(is_alive(pid))


class LeftBehindTests(DoomedTestCase):
    """Nothing is left behind (promise 6)."""

    def children(self, worker_pid: int, printed: str) -> list[int]:
        """The children that the application has started, still alive."""
        pids = [int(pid) for pid in printed.split()[1:]]
        for pid in pids:
            self.addCleanup(_end, pid)
        self.assertTrue(all(map(is_alive, [worker_pid, *pids])))
        return pids

    def test_children_of_a_dead_worker(self) -> None:
        """Its children are killed with a worker that dies; the death waits for none, though one holds its output."""
        session = self.doomed("--standby", "0")
        worker, pid = session.serving()[0]["worker"], session.server_pid
        session.get("/child")
        printed = session.wait_for("OutputLine")["text"]
        children = self.children(pid, printed)
        os.kill(pid, signal.SIGKILL)
        report = session.report_of(worker)
        self.assertEqual(output(report), [printed])
        wait_until(lambda: not any(map(is_alive, children)), "the end of the children")
        self.assertIn(f"{children[0]} (sleep)", session.wait_for_line("had left"))
        session.serving(2)
        self.assertEqual(session.get("/")[0], 200)

    def test_stopped_worker_of_a_killed_monitor(self) -> None:
        """After kill -9 of the monitor a stopped worker goes too, with its children, and so does all else of it."""
        session = self.doomed("--drain-timeout", "1", "--port", "lines=tcp:0")
        standby(session)
        session.get("/child")
        children = self.children(session.server_pid, session.wait_for("OutputLine")["text"])
        workers = [event["pid"] for event in session.events if event["event"] == "WorkerSpawned"]
        guardian = _child_running(session.process.pid, "guardian_child")
        os.kill(session.server_pid, signal.SIGSTOP)
        began = time.monotonic()
        os.kill(session.process.pid, signal.SIGKILL)
        left = [*workers, *children, guardian]
        wait_until(lambda: not any(map(is_alive, left)), "the end of all that the monitor had started")
        self.assertLess(time.monotonic() - began, 20)


def _child_running(parent: int, program: str) -> int:
    """The child of a process that runs this program."""
    for child in children_of(parent):
        if program in _command_line(child.pid):
            return child.pid
    raise AssertionError(f"process {parent} has no child that runs {program}")


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def _end(pid: int) -> None:
    """Ends a child that a failed test has left."""
    if _command_line(pid).startswith("sleep"):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
