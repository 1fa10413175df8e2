"""What an agent has of a real session: hooks, exit handlers, commands, the end, and the process it is in."""

from __future__ import annotations

import http.client
import json
import signal
from functools import partial
from typing import Any

from tests.integration.driven import DrivenTestCase, ask
from tests.integration.sessions import TestSession


def said(session: TestSession, words: str) -> str:
    """Wait for a line that the agent prints in the monitor, where it becomes an entry of the log."""
    return str(json.loads(session.wait_for_line(words))["text"])


def printed(session: TestSession, text: str) -> dict[str, Any]:
    """Wait for a line that a worker prints."""
    return session.wait_for("OutputLine", matching=lambda event: event["text"] == text)


class HookTests(DrivenTestCase):
    """What the monitor tells an agent (M5)."""

    def test_hooks(self) -> None:
        """Deaths and beginnings of service are told, events by kind too; a hook that fails is reported only."""
        session = self.driven(
            """
            from serverworker.values.events import CrashReportWritten, ServerRunning

            class Agent(Driven):
                async def initialize_monitor(self, monitor):
                    await super().initialize_monitor(monitor)
                    self.told = []
                    monitor.on_server_running(lambda event: self.note("running", event.worker, event.is_first_time))
                    monitor.on_crash_detected(self.crashed)
                    monitor.on_crash_detected(lambda event: 1 / 0)
                    monitor.subscribe(self.written, CrashReportWritten)
                    self.no_more = monitor.subscribe(self.once, ServerRunning)

                def note(self, *what):
                    self.told.append(what)

                async def crashed(self, died):
                    self.note("died", died.worker, died.cause.signal, [line.text for line in died.output])
                    raise LookupError("the pager is out of order")

                def written(self, told):
                    self.note(told.name, told.event.worker)

                def once(self, told):
                    self.note("once", told.name)
                    self.no_more()

                def all_told(self):
                    return self.told

                def last_words(self):
                    print("famous last words", flush=True)
                    os.kill(os.getpid(), 9)

            import os
            """
        )
        with self.assertRaises((http.client.HTTPException, ConnectionError)):
            ask(session, "last_words")
        session.serving(2)
        session.report_of(1)
        told = ask(session, "monitor/all_told")
        self.assertEqual(
            [each for each in told if each[0] in ("running", "once")],
            [["running", 1, True], ["once", "ServerRunning"], ["running", 2, False]],
        )
        self.assertIn(["died", 1, "SIGKILL", ["famous last words"]], told)
        self.assertIn(["CrashReportWritten", 1], told)
        faults = {event["where"]: event for event in session.events if event["event"] == "Fault"}
        self.assertEqual(len(faults), 2)
        late = next(fault for where, fault in faults.items() if "Agent.crashed" in where)
        self.assertEqual(late["error"]["message"], "the pager is out of order")
        self.assertEqual(late["next_step"], "the session goes on")


class ExitTests(DrivenTestCase):
    """Exit handlers, in both processes (W4, W10)."""

    def test_reasons(self) -> None:
        """Each worker is told why it ends, and IPC still works then; the monitor hears of the session's end alone."""
        session = self.driven(
            """
            class Agent(Driven):
                async def initialize_monitor(self, monitor):
                    await super().initialize_monitor(monitor)
                    monitor.on("bye", lambda args: f"bye, worker {args}")
                    monitor.add_exit_handler(lambda reason: print("monitor:", reason.kind.value, reason.text))

                async def initialize_server_worker(self, worker):
                    await super().initialize_server_worker(worker)
                    worker.add_exit_handler(self.fails)
                    worker.add_exit_handler(self.bye)

                def fails(self, reason):
                    raise LookupError("nothing in the drawer")

                async def bye(self, reason):
                    (answer,) = await self.worker.emit("bye", self.worker.id)
                    print(answer, reason.kind.value, reason.error and reason.error.message, reason.text, sep="|")

                def crash(self):
                    self.worker.reactor.callLater(0, self.explode)

                def explode(self):
                    raise RuntimeError("the fuse was short")
            """
        )
        first = session.serving()[0]["worker"]
        ask(session, "crash")
        report = session.report_of(first)
        self.assertEqual(report["cause"]["exit_status"], 1)
        self.assertEqual(
            [line["text"] for line in report["output"] if "|" in line["text"]],
            [f"bye, worker {first}|crash|the fuse was short|"],
        )
        second = session.serving(2)[-1]["worker"]
        session.process.send_signal(signal.SIGHUP)
        exited = session.wait_for("WorkerExited", matching=lambda event: event["worker"] == second)
        self.assertEqual(exited["text"], "exit status 0")
        restarted = printed(session, f"bye, worker {second}|restart|None|{exited['reason']}")
        self.assertEqual(restarted["source"], f"worker {second}")
        third = session.serving(3)[-1]["worker"]
        session.wait_for("RestartCompleted")
        self.assertEqual(session.end(), 0)
        printed(session, f"bye, worker {third}|session-end|None|SIGTERM")
        said(session, "monitor: session-end SIGTERM")
        for worker in (first, second, third):
            session.wait_for(
                "Lifecycle",
                matching=partial(_fails_in, worker),
            )

    def test_deadline(self) -> None:
        """A handler that outlives the drain deadline is reported, in both processes, and the session ends."""
        session = self.driven(
            """
            class Agent(Driven):
                async def initialize_monitor(self, monitor):
                    await super().initialize_monitor(monitor)
                    monitor.add_exit_handler(self.for_ever)

                async def initialize_server_worker(self, worker):
                    await super().initialize_server_worker(worker)
                    worker.add_exit_handler(self.for_ever)

                def for_ever(self, reason):
                    return Deferred()
            """,
            "--drain-timeout",
            "0.5",
            "--standby",
            "0",
        )
        self.assertEqual(session.end(), 0)
        note = session.wait_for("Lifecycle", matching=lambda event: "for_ever failed" in event["text"])
        self.assertIn("has not finished within 0.5 s", note["text"])
        fault = session.wait_for("Fault")
        self.assertIn("Agent.for_ever", fault["where"])
        self.assertEqual(fault["next_step"], "the exit goes on")


class ExecTests(DrivenTestCase):
    """`exec`: a shell command of the agent's (M7)."""

    def test_exec(self) -> None:
        """Its lines are told one by one while it runs, and its status and output are the result."""
        session = self.driven(
            """
            class Agent(Driven):
                async def shell(self):
                    result = await self.monitor.exec("echo one; echo two >&2; sleep 0.1; printf 'thö'; exit 3")
                    return [result.status, result.stdout, result.stderr]

                async def plain(self):
                    result = await self.monitor.exec(["/usr/bin/env"])
                    return sorted(line.partition("=")[0] for line in result.stdout.splitlines())

                async def others(self):
                    return [await self.tried(self.monitor.exec(["/no/such/program"])),
                            (await self.monitor.exec("sleep 600", timeout=0.1)).timed_out]
            """,
            environment={"NOTIFY_SOCKET": "/run/none", "WATCHDOG_USEC": "1", "OF_THE_OPERATOR": "1"},
        )
        self.assertEqual(ask(session, "monitor/shell"), [3, "one\nthö", "two\n"])
        for text, stream in (("one", "stdout"), ("two", "stderr"), ("thö", "stdout")):
            line = printed(session, text)
            self.assertEqual((line["source"], line["stream"]), ("exec", stream))
        finished = session.wait_for("CommandFinished")
        self.assertEqual(finished["status"], 3)
        names = ask(session, "monitor/plain")
        self.assertIn("OF_THE_OPERATOR", names)
        self.assertEqual([name for name in names if name.startswith(("NOTIFY", "WATCHDOG", "LISTEN"))], [])
        missing, timed_out = ask(session, "monitor/others")
        self.assertEqual(missing["type"], "ServerWorkerError")
        self.assertIn("No such file or directory", missing["text"])
        self.assertIs(timed_out, True)


class KillTests(DrivenTestCase):
    """`kill_session`, from either process, graceful and not (W5, M6)."""

    AGENT = """
        class Agent(Driven):
            async def initialize_monitor(self, monitor):
                await super().initialize_monitor(monitor)
                monitor.add_exit_handler(lambda reason: print("the monitor ends:", reason.text))

            async def slow(self):
                self.worker.lifecycle_notification("begun")
                await deferLater(self.worker.reactor, 0.3)
                return "finished"

            def gentle(self):
                self.worker.kill_session("it is late", error_code=7)

            def rough(self):
                self.worker.kill_session("it is too late", graceful=False, error_code=8)

            def gentle_in_monitor(self):
                self.monitor.kill_session("that was all", error_code=9)

            def rough_in_monitor(self):
                self.monitor.kill_session("that was too much", graceful=False, error_code=10)
        """

    def killed_by(self, name: str) -> tuple[TestSession, bytes]:
        """Have a session killed while a request is under way; the session, and what came of that request."""
        session = self.driven(self.AGENT, "--drain-timeout", "600")
        with session.connect() as connection:
            connection.sendall(b"GET /slow HTTP/1.0\r\n\r\n")
            session.wait_for("Lifecycle", matching=lambda event: event["text"] == "begun")
            try:
                ask(session, name)
            except (http.client.HTTPException, ConnectionError):
                self.assertIn("rough", name)
            answer = b""
            try:
                while piece := connection.recv(1000):
                    answer += piece
            except ConnectionError:
                self.assertIn("rough", name)
        return session, answer

    def assert_ended(self, session: TestSession, status: int, reason: str) -> None:
        self.assertEqual(session.exit_status(), status)
        ended = session.wait_for("SessionEnded")
        self.assertEqual((ended["status"], ended["reason"]), (status, reason))
        said(session, f"the monitor ends: {reason}")
        self.assertEqual(session.reports(), [])

    def test_from_worker(self) -> None:
        """A worker asks for the end: what is under way is finished, and the exit status is the error code."""
        session, answer = self.killed_by("gentle")
        self.assertTrue(answer.endswith(b'"finished"'), answer)
        self.assert_ended(session, 7, "worker 1: it is late")

    def test_from_worker_at_once(self) -> None:
        """Not graceful: the workers are killed, and nobody waits for requests."""
        session, answer = self.killed_by("rough")
        self.assertEqual(answer, b"")
        self.assert_ended(session, 8, "worker 1: it is too late")

    def test_from_monitor(self) -> None:
        """The same from the monitor."""
        session, answer = self.killed_by("monitor/gentle_in_monitor")
        self.assertTrue(answer.endswith(b'"finished"'), answer)
        self.assert_ended(session, 9, "that was all")

    def test_from_monitor_at_once(self) -> None:
        """The same, not graceful."""
        session, answer = self.killed_by("monitor/rough_in_monitor")
        self.assertEqual(answer, b"")
        self.assert_ended(session, 10, "that was too much")


class WrongProcessTests(DrivenTestCase):
    """Each half is in its own process, once (W1, W2, M1, SessionAgent)."""

    def test_wrong_process(self) -> None:
        """What is of the other process, or there already, is a clear error, and the session goes on."""
        session = self.driven(
            """
            from twisted.python.usage import Options as Any

            class Agent(Driven):
                def errors(self, *attempts):
                    errors = []
                    for attempt in attempts:
                        try:
                            attempt()
                            errors.append(None)
                        except Exception as error:
                            errors.append(told(error))
                    return errors

                def a_monitor(self):
                    from serverworker.session import Options, makeService
                    options = Options()
                    options.parseOptions(["--port", "tcp:0:interface=127.0.0.1"])
                    makeService(options)

                def a_worker(self):
                    names = ("worker_id", "generation", "reactor", "link", "handlers", "listeners",
                             "exit_handlers", "drain_hooks")
                    ServerWorker(**dict.fromkeys(names))

                def in_worker(self):
                    return self.errors(lambda: self.monitor, self.a_monitor, self.a_worker, ServerWorker.current)

                def in_monitor(self):
                    return self.errors(lambda: self.worker, self.a_monitor, self.a_worker, ServerWorker.current)

                async def again(self):
                    return [await self.tried(self.launch(worker=self.worker))]

                def crash(self):
                    self.worker.reactor.callLater(0, self.a_worker)
            """
        )
        errors = ask(session, "in_worker")
        self.assertEqual(
            [each and each["type"] for each in errors],
            ["WrongProcess", "WrongProcess", "AlreadyLaunched", None],
        )
        self.assertIn("worker.emit", errors[0]["text"])
        errors = ask(session, "monitor/in_monitor")
        self.assertEqual(
            [each["type"] for each in errors],
            ["WrongProcess", "AlreadyLaunched", "WrongProcess", "WrongProcess"],
        )
        self.assertIn("monitor.emit", errors[0]["text"])
        self.assertEqual(ask(session, "again")[0]["type"], "AlreadyLaunched")
        # Unhandled, a second ServerWorker is a crash like any other.
        ask(session, "crash")
        self.assertIn("AlreadyLaunched", session.report_of(1)["cause"]["error"]["type"])
        session.serving(2)
        self.assertIsNone(ask(session, ""))


def _fails_in(worker: int, event: dict[str, Any]) -> bool:
    said = (
        "Agent.fails failed" in event["text"] and "nothing in the drawer; the exit goes on" in event["text"]
    )
    return bool(event["worker"] == worker) and said
