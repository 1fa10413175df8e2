"""The console: plain lines, one command at a time, and nothing that leaves it busy or stops the session."""

from __future__ import annotations

import errno
import os
import pty
import signal
import tty
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from serverworker.monitor.console_commands import ConsoleCommands
from serverworker.monitor.session import OWN_COMMANDS
from serverworker.surfaces.console import Console
from serverworker.testing import FakeReactor
from serverworker.values.errors import ServerWorkerError
from tests.unit.accept_case import open_descriptors
from tests.unit.test_operator_commands import RecordingMonitor, desk_of


class ConsoleTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = FakeReactor()
        self.monitor: Any = RecordingMonitor()
        self.agents = ConsoleCommands(OWN_COMMANDS)
        self.shown: list[str] = []
        self.console = Console(
            reactor=cast(Any, self.reactor),
            desk=desk_of(self.monitor, self.agents),
            write=self.shown.append,
        )

    def type(self, line: str) -> list[str]:
        """What the line shows at once."""
        self.shown.clear()
        self.console.line_received(line)
        return list(self.shown)


class LineTests(ConsoleTestCase):
    """What a line leads to."""

    def test_result(self) -> None:
        """What came of it is shown, with a line's end; nothing is a result too."""
        self.assertEqual(self.type("restart clean"), ["generation 2 serves\n"])
        self.agents.add("pull", [], lambda: None)
        self.assertEqual(self.type("pull"), ["done\n"])
        self.agents.add("count", [], lambda: 0)
        self.assertEqual(self.type("count"), ["0\n"])

    def test_empty(self) -> None:
        """An empty line shows nothing."""
        for line in ("", "   ", "\t", "\N{NO-BREAK SPACE}"):
            self.assertEqual(self.type(line), [])

    def test_bad_line(self) -> None:
        """A bad line is told what is wrong, in one line."""
        self.assertEqual(self.type("restart"), ["usage: restart clean|force\n"])
        self.assertEqual(self.type("stauts"), ["there is no command 'stauts'; did you mean 'status'?\n"])
        self.assertEqual(self.type("'"), ['"\'" cannot be read: No closing quotation\n'])

    def test_failure(self) -> None:
        """A failure of ours is told in its words; one of the agent's by its kind, and its traceback is logged."""

        def refuse() -> None:
            raise ServerWorkerError("not now")

        async def broken() -> None:
            raise OSError("no network")

        self.agents.add("refuse", [], refuse)
        self.agents.add("push", [], broken)
        self.assertEqual(self.type("refuse"), ["'refuse' failed: not now\n"])
        self.assertEqual(self.flushLoggedErrors(), [])
        self.assertEqual(self.type("push"), ["'push' failed: OSError: no network\n"])
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)

    def test_exit_of_a_command(self) -> None:
        """A command that calls sys.exit ends nothing."""

        def leave() -> None:
            raise SystemExit(3)

        self.agents.add("leave", [], leave)
        self.assertEqual(self.type("leave"), ["'leave' failed: SystemExit: 3\n"])
        self.flushLoggedErrors(SystemExit)


class BusyTests(ConsoleTestCase):
    """One command at a time (row M8)."""

    def setUp(self) -> None:
        super().setUp()
        self.running: Deferred[Any] = Deferred()
        self.agents.add("index", [], lambda: self.running)
        self.assertEqual(self.type("index"), [])

    def test_busy(self) -> None:
        """While one runs another is refused, and not run; a bad line is told that it is bad."""
        self.assertEqual(self.type("restart clean"), ["busy with 'index': wait for its end\n"])
        self.assertEqual(self.monitor.asked, [])
        self.assertEqual(self.type("index"), ["busy with 'index': wait for its end\n"])
        self.assertEqual(self.type("xyz")[0][:21], "there is no command '")

    def test_at_any_time(self) -> None:
        """Status, help and exit are there all the same, and do not end the other's being busy."""
        self.assertTrue(self.type("status")[0].startswith("generation 1"))
        self.assertTrue(self.type("help")[0].startswith("status"))
        self.type("exit force")
        self.assertEqual(self.monitor.asked, [("exit", "the console asked for it", False)])
        self.assertEqual(self.type("restart clean"), ["busy with 'index': wait for its end\n"])

    def test_end(self) -> None:
        """When it has ended its result is shown, and the next may be typed."""
        self.running.callback("indexed")
        self.assertEqual(self.shown, ["indexed\n"])
        self.assertEqual(self.type("restart clean"), ["generation 2 serves\n"])

    def test_failure(self) -> None:
        """A command that fails never leaves the console busy."""
        self.running.errback(OSError("no network"))
        self.assertEqual(self.shown, ["'index' failed: OSError: no network\n"])
        self.assertEqual(self.type("restart clean"), ["generation 2 serves\n"])
        self.flushLoggedErrors(OSError)

    def test_failure_at_once(self) -> None:
        """Nor does one that fails before it has begun."""

        def broken() -> None:
            raise OSError("no network")

        self.running.callback(None)
        self.agents.add("push", [], broken)
        self.type("push")
        self.flushLoggedErrors(OSError)
        self.assertEqual(self.type("restart clean"), ["generation 2 serves\n"])

    def test_terminal_that_takes_nothing(self) -> None:
        """Nor one whose result cannot be shown any more; a bad line on such a terminal raises nothing either."""

        def write(text: str) -> None:
            raise OSError(errno.EIO, "Input/output error")

        self.console._write = write
        self.running.callback("indexed")
        self.console.line_received("xyz")
        self.console.line_received("restart clean")
        self.assertEqual(self.monitor.asked, [("restart", "clean", "the console")])


class TerminalTests(ConsoleTestCase):
    """The terminal that lines are typed on."""

    def setUp(self) -> None:
        super().setUp()
        self.keyboard, self.terminal = pty.openpty()
        tty.setraw(self.terminal)
        self.before = open_descriptors()
        self.console.attach(self.terminal)
        self.addCleanup(self.console.detach)

    def close_terminal(self) -> None:
        os.close(self.terminal)
        os.close(self.keyboard)

    def tearDown(self) -> None:
        for descriptor in (self.keyboard, self.terminal):
            try:
                os.close(descriptor)
            except OSError as error:
                self.assertEqual(error.errno, errno.EBADF)

    def test_lines(self) -> None:
        """Lines are run as they are complete, however they come."""
        self.assertEqual(self.reactor.readers, [self.console])
        os.write(self.keyboard, b"restart cl")
        self.console.doRead()
        self.assertEqual(self.shown, [])
        os.write(self.keyboard, b"ean\nset workers 3\n")
        self.console.doRead()
        self.assertEqual(self.shown, ["generation 2 serves\n", "3 workers are to serve\n"])

    def test_nothing_typed(self) -> None:
        """A wake-up for nothing changes nothing."""
        self.console.doRead()
        self.assertEqual(self.reactor.readers, [self.console])

    def test_not_text(self) -> None:
        """Bytes that are no text are a bad line."""
        os.write(self.keyboard, b"\xff\xfe\n")
        self.console.doRead()
        self.assertIn("there is no command", self.shown[0])

    def test_shell_keeps_its_terminal(self) -> None:
        """The descriptor that was inherited stays blocking: it is the shell's as well."""
        self.assertTrue(os.get_blocking(self.terminal))
        self.assertFalse(os.get_blocking(self.console.fileno()))

    def test_gone(self) -> None:
        """When the terminal is gone the console is too, and nothing else."""
        self.close_terminal()
        self.console.doRead()
        self.assertEqual(self.reactor.readers, [])
        self.assertEqual(self.console.fileno(), -1)

    def test_gone_with_an_error(self) -> None:
        """So it is when reading tells an error, and the terminal is nobody's any more."""

        def gone(descriptor: int) -> int:
            raise OSError(errno.ENOTTY, "Inappropriate ioctl for device")

        self.patch(os, "tcgetpgrp", gone)
        undo = self.patch(os, "read", self.fail_to_read)
        self.console.doRead()
        undo.restore()
        self.assertEqual((self.reactor.readers, self.console.fileno()), ([], -1))

    def test_signals(self) -> None:
        """Reading leaves the signals that are blocked as they were."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        os.write(self.keyboard, b"restart clean\n")
        self.console.doRead()
        self.assertEqual(signal.pthread_sigmask(signal.SIG_BLOCK, ()), before)
        self.assertNotIn(signal.SIGTTIN, before)

    def test_detach(self) -> None:
        """It lets go of the terminal, once; so it does when the reactor lets go of it."""
        self.console.detach()
        self.console.detach()
        self.assertEqual((self.reactor.readers, open_descriptors()), ([], self.before))
        self.console.attach(self.terminal)
        self.console.connectionLost(Failure(OSError()))
        self.assertEqual((self.reactor.readers, open_descriptors()), ([], self.before))

    def test_in_the_background(self) -> None:
        """In the background nothing is read, and nothing spins, until the terminal is the monitor's own again."""

        def background(*arguments: Any) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

        foreground = os.getpgrp()
        undo = self.patch(os, "read", background)
        self.patch(os, "tcgetpgrp", lambda descriptor: foreground + 1)
        self.console.doRead()
        self.assertEqual(self.reactor.readers, [])
        self.reactor.pass_seconds(1)
        self.assertEqual(self.reactor.readers, [self.console])
        undo.restore()
        os.write(self.keyboard, b"restart clean\n")
        self.console.doRead()
        self.assertEqual(self.shown, ["generation 2 serves\n"])

    def test_detach_in_the_background(self) -> None:
        """A console in the background can be ended."""
        self.patch(os, "tcgetpgrp", lambda descriptor: os.getpgrp() + 1)
        undo = self.patch(os, "read", self.fail_to_read)
        self.console.doRead()
        undo.restore()
        self.console.detach()
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def fail_to_read(self, *arguments: Any) -> bytes:
        raise OSError(errno.EIO, "Input/output error")


class NoTerminalTests(ConsoleTestCase):
    """A terminal that cannot be opened."""

    def test_no_name(self) -> None:
        """Without a name of its own (another mount namespace) there is no console, which is told, and no error."""
        reading, writing = os.pipe()
        self.addCleanup(os.close, writing)
        self.addCleanup(os.close, reading)
        with capturedLogs() as logged:
            self.console.attach(reading)
        self.assertEqual(self.reactor.readers, [])
        (event,) = logged
        self.assertIn("no console: the terminal cannot be opened:", str(formatEvent(event)))
        self.console.detach()
