"""The console: what an operator types at the terminal that the monitor runs on, and what comes of it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from functools import partial

from tests.integration.driven import DrivenTestCase, ask
from tests.integration.sessions import TestSession, wait_until
from tests.integration.terminal import Terminal, start

AGENT = """
    class Agent(Driven):
        async def initialize_monitor(self, monitor):
            await super().initialize_monitor(monitor)
            self.gate = Deferred()
            monitor.add_console_command("greet", ["[A-Z]\\\\w+", "once|twice"], self.greet, "say hello")
            monitor.add_console_command("greet", [], lambda: "hello, everybody")
            monitor.add_console_command("wait", [], lambda: self.gate, "wait for `open`, sent by a worker")
            monitor.add_console_command("break", [], self.fail)
            monitor.add_console_command("nothing", [], lambda: None)

        async def greet(self, name, times):
            return f"hello, {name}! " * (1 + (times == "twice"))

        async def fail(self):
            raise LookupError("the house is empty")

        def open(self):
            self.gate.callback("the gate is open")

        async def slow(self):
            self.worker.lifecycle_notification("begun")
            await deferLater(self.worker.reactor, 0.3)
            return "finished"

        def hang(self):
            self.worker.lifecycle_notification("begun")
            return Deferred()
    """


class ConsoleTestCase(DrivenTestCase):
    """Sessions with a terminal. Replies are read where the log goes too: on a pipe, in which they are no JSON."""

    def begin(self, agent: str = AGENT, *arguments: str) -> TestSession:
        self.terminal = Terminal()
        self.addCleanup(self.terminal.close)
        self.running = self.driven(agent, *arguments, stdin=self.terminal.descriptor)
        return self.running

    def reply(self, line: str, expected: str) -> str:
        """Type a line, and wait for the line of its reply that holds `expected`."""
        position = len(self.running.lines)
        self.terminal.type(line)
        return self.running.wait_for_line(expected, after=position)

    def request(self, path: str) -> socket.socket:
        """A connection whose request is under way."""
        connection = self.running.connect()
        self.addCleanup(connection.close)
        position = len(self.running.events)
        connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        self.running.wait_for("Lifecycle", after=position, matching=lambda event: event["text"] == "begun")
        return connection


def all_of(connection: socket.socket) -> bytes:
    """What comes until the end of the connection, which is closed then."""
    answer = b""
    with connection, contextlib.suppress(ConnectionError):
        while piece := connection.recv(1000):
            answer += piece
    return answer


class LineTests(ConsoleTestCase):
    """Lines in, replies out (M8)."""

    def test_lines(self) -> None:
        """`status`, `help`, the agent's commands, and lines that are none of them: each is told what is allowed."""
        session = self.begin()
        session.standby_ready()
        self.assertRegex(
            self.reply("status", "generation 1"),
            rf"^generation 1: 1 of 1 serving; server on tcp:{session.port()}:\S+; polls every 10 s$",
        )
        pid = session.pid_of(1)
        self.assertRegex(
            self.reply("status", "worker 1"),
            rf"^  worker 1: serving for \S+ s, pid {pid}, generation 1, up \S+ s",
        )
        self.assertIn("session agent", session.wait_for_line("  worker 1"))
        session.wait_for_line("  worker 2: ready for")
        for usage in (
            "restart clean|force ",
            "set port NAME ADDRESS [now] ",
            "greet [A-Z]\\w+ once|twice ",
        ):
            self.reply("help", usage)
        for line, expected in (
            ("greet Ann once", "hello, Ann! "),
            ("greet  'Ann'\ttwice", "hello, Ann! hello, Ann! "),
            ("greet", "hello, everybody"),
            ("nothing", "done"),
            ("greet ann once", "usage: greet [A-Z]\\w+ once|twice, or: greet"),
            ("greet Ann", "usage: greet [A-Z]\\w+ once|twice, or: greet"),
            ("break", "'break' failed: LookupError: the house is empty"),
            ("stauts", "there is no command 'stauts'; did you mean 'status'?"),
            ("status please", "status takes no arguments, not 'please'"),
            ("restart", "usage: restart clean|force"),
            ("restart now", "usage: restart clean|force, not 'now'"),
            ("exit", "usage: exit clean|force"),
            ("set", "usage: set port NAME ADDRESS [now], or: set polling SECONDS"),
            ("set prot server 1", "did you mean 'set port'?"),
            ("set port server", "usage: set port NAME ADDRESS [now]"),
            ("set port sever 8081", "there is no port 'sever'; did you mean 'server'?"),
            ("set port server 99999", "0 to 65535"),
            ("set polling often", "'often' is no number of seconds"),
            ("set polling 0", "polling.interval_seconds"),
            ("set workers -1", "usage: set workers N"),
            ("set workers 0", "workers.count"),
            ("greet 'Ann", "cannot be read: No closing quotation"),
            ("\x1b[A\x07ż", "there is no command '\\x1b[A\\x07ż'"),
        ):
            self.reply(line, expected)
        self.terminal.type("   ")
        self.reply("greet", "hello, everybody")
        self.assertEqual(ask(session, ""), None)

    def test_busy(self) -> None:
        """While a command runs, the next one is told so; `status` and `help` are answered, and then all is as before."""
        session = self.begin()
        self.terminal.type("wait")
        self.reply("greet", "busy with 'wait': wait for its end")
        self.reply("restart clean", "busy with 'wait'")
        self.reply("status", "generation 1: 1 of 1 serving")
        self.reply("help", "wait for `open`")
        position = len(session.lines)
        ask(session, "monitor/open")
        session.wait_for_line("the gate is open", after=position)
        self.reply("greet", "hello, everybody")
        self.terminal.type("wait")
        self.reply("exit force", "ended")
        self.assertEqual(session.exit_status(), 0)


class DeedTests(ConsoleTestCase):
    """What the console's own commands do (M8, M9)."""

    def test_restart(self) -> None:
        """`restart clean` lets the old worker finish, `restart force` does not; one that fails says why."""
        session = self.begin()
        gentle = self.request("/slow")
        self.reply("restart clean", "generation 2")
        self.assertTrue(all_of(gentle).endswith(b'"finished"'))
        # Until then it may still accept, and a clean restart would wait for what hangs.
        session.wait_for("WorkerExited", matching=lambda event: event["worker"] == 1)
        hanging = self.request("/hang")
        self.reply("restart force", "generation 3")
        self.assertEqual(all_of(hanging), b"")
        modes = [event["mode"] for event in session.events if event["event"] == "RestartStarted"]
        self.assertEqual(modes, ["clean", "force"])
        # Whoever is started from now on has the new code, of whatever generation: so its standby has to be there.
        running = session.serving(3)[-1]["worker"]
        session.wait_for(
            "WorkerReady", matching=lambda event: event["generation"] == 3 and event["worker"] != running
        )
        (session.folder / "agent.py").write_text("import nothing_of_that_name\n")
        self.reply("restart clean", "'restart clean' failed: ")
        self.assertIn("No module named 'nothing_of_that_name'", session.wait_for("RestartFailed")["text"])
        self.reply("status", "generation 3: 1 of 1 serving")
        self.assertIsNone(ask(session, ""))
        died = session.wait_for("WorkerDied")
        self.assertEqual(session.report_of(died["worker"])["cause"]["kind"], "load")

    def test_exit_clean(self) -> None:
        """`exit clean` ends the session with 0, after what is under way."""
        session = self.begin()
        connection = self.request("/slow")
        self.terminal.type("exit clean")
        self.assertTrue(all_of(connection).endswith(b'"finished"'))
        self.assertEqual(session.exit_status(), 0)
        self.assertEqual(session.wait_for("SessionEnded")["reason"], "the console asked for it")

    def test_exit_force(self) -> None:
        """`exit force` ends it at once, also after an `exit clean` that waits."""
        session = self.begin(AGENT, "--drain-timeout", "600")
        connection = self.request("/hang")
        self.terminal.type("exit clean")
        session.wait_for("WorkerDraining")
        self.terminal.type("exit force")
        self.assertEqual(session.exit_status(), 0)
        self.assertEqual(all_of(connection), b"")

    def test_set_port(self) -> None:
        """`set port` holds from the next restart on, or with `now` at once; one that is in use changes nothing."""
        session = self.begin()
        with socket.create_server(("127.0.0.1", 0)) as taken:
            self.reply(f"set port server tcp:{taken.getsockname()[1]}:interface=127.0.0.1", "in use by pid")
        self.assertIsNone(ask(session, ""))
        for typed in ("set port server {} now", "set port server {}"):
            number = free_port()
            former = session.port()
            position = len(session.events)
            self.terminal.type(typed.format(f"tcp:{number}:interface=127.0.0.1"))
            changed = session.wait_for("PortChanged", after=position)
            self.assertEqual(changed["description"], f"tcp:{number}:interface=127.0.0.1")
            if not typed.endswith("now"):
                self.assertIsNone(ask(session, ""))
                self.terminal.type("restart clean")
            session.wait_for("RestartCompleted", after=position)
            session.moved_to(number)
            self.assertIsNone(ask(session, ""))
            # The old workers hold it until they are gone.
            wait_until(partial(refuses, former), "the end of the former port")

    def test_set_polling(self) -> None:
        """`set polling` takes effect in every worker at once, not after the old interval, and in later ones too (W9)."""
        session = self.begin(
            """
            class Agent(Driven):
                polls = 0

                def beat(self):
                    self.polls += 1
                    if self.polls > 3:  # the first ones are quick in any case
                        print("polled")
            """,
            *("--poll-interval", "600", "--poll-route", "/beat"),
        )
        standby = session.standby_ready()["worker"]
        self.reply("set polling 0.1", "every worker polls itself every 0.1 s")
        self.assertEqual(session.wait_for("PollingChanged")["seconds"], 0.1)
        for worker in (1, standby):
            self.polled(worker)
        os.kill(session.pid_of(1), signal.SIGKILL)
        self.polled(session.standby_ready()["worker"])

    def polled(self, worker: int) -> None:
        self.running.wait_for(
            "OutputLine",
            matching=lambda event: event["text"] == "polled" and event["source"] == f"worker {worker}",
        )

    def test_set_workers(self) -> None:
        """`set workers` starts more at once, and drains those that are too many."""
        session = self.begin()
        self.reply("set workers 3", "3 workers are to serve")
        session.serving(3)
        wait_until(lambda: "3 of 3 serving" in self.reply("status", "serving;"), "three workers")
        self.reply("set workers 1", "1 worker is to serve")
        for _ in range(2):
            session.wait_for("WorkerExited")
        self.assertIn("1 of 1 serving", self.reply("status", "serving;"))
        self.assertIsNone(ask(session, ""))


class TerminalTests(ConsoleTestCase):
    """The terminal itself."""

    def test_not_changed(self) -> None:
        """It stays in blocking mode, as the shell that gets it back expects; ^D ends the console, not the session."""
        session = self.begin()
        self.reply("greet", "hello, everybody")
        self.assertTrue(self.terminal.is_blocking)
        self.terminal.press("\x04")
        self.terminal.type("exit force")
        os.kill(session.pid_of(1), signal.SIGKILL)
        session.serving(2)
        self.assertIsNone(ask(session, ""))
        self.assertEqual(session.end(), 0)
        self.assertTrue(self.terminal.is_blocking)

    def test_gone(self) -> None:
        """A terminal that is gone takes the console with it, and nothing else."""
        session = self.begin()
        self.terminal.close()
        os.kill(session.pid_of(1), signal.SIGKILL)
        session.serving(2)
        self.assertIsNone(ask(session, ""))
        self.assertEqual(session.end(), 0)

    def test_screen(self) -> None:
        """Replies stand on the terminal as they are; one that is stopped with ^S does not stop the monitor."""
        terminal = Terminal()
        self.addCleanup(terminal.close)
        arguments = (
            "-n",
            "--pidfile=",
            "serverworker",
            "--port",
            "tcp:0:interface=127.0.0.1",
            "--standby",
            "0",
        )
        process = start(
            self.folder(),
            *(*arguments, "--state-dir", "state"),
            stdin=terminal.descriptor,
            stdout=terminal.descriptor,
        )
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        number = int(terminal.output.wait_for(r"server=tcp:(\d+)")[1])
        first = int(terminal.output.wait_for(r"worker 1 \(pid (\d+)")[1])
        terminal.output.wait_for("accepts connections")
        position = terminal.type("status")
        terminal.output.wait_for(r"^generation 1: 1 of 1 serving; .*\r\n  worker 1: serving", after=position)
        terminal.press("\x13")
        terminal.type("status")
        os.kill(first, signal.SIGKILL)
        # Whoever answers was started by a monitor that goes on.
        with socket.create_connection(("127.0.0.1", number), timeout=60) as connection:
            connection.sendall(b"GET /heartbeat HTTP/1.0\r\n\r\n")
            self.assertIn(b"200 OK", connection.recv(1000))
        position = len(terminal.output.text)
        terminal.press("\x11")
        terminal.output.wait_for("worker 2 .* accepts connections", after=position)
        position = terminal.type("exit clean")
        self.assertEqual(process.wait(60), 0)
        terminal.output.wait_for("the session has ended", after=position)
        self.assertTrue(terminal.is_blocking)


def free_port() -> int:
    """A number that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def refuses(number: int) -> bool:
    """Whether nobody listens on a port any more."""
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", number)) != 0
