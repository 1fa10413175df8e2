"""A program under ``--command``: started, found out about, ended."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from serverworker.processes.hosts import command as command_module
from serverworker.processes.hosts import program as program_module
from serverworker.processes.hosts.command import VERDICT_SECONDS, CommandHost
from serverworker.processes.hosts.exec_shim import __file__ as shim
from serverworker.processes.hosts.program import Program
from serverworker.processes.own_answer import AcceptedBy
from serverworker.processes.stacks import DUMP_SIGNAL
from serverworker.values.causes import CauseKind
from serverworker.values.errors import ApplicationError, ErrorRecord
from serverworker.values.reasons import ExitKind, ExitReason

PID = 4711


class Spawning(Clock):
    """A reactor that starts processes in name only."""

    def __init__(self) -> None:
        super().__init__()
        self.spawned: list[dict[str, Any]] = []
        self.error: OSError | None = None

    def spawnProcess(self, protocol: Any, executable: str, args: Any, **options: Any) -> Any:
        if self.error is not None:
            raise self.error
        self.spawned.append({"protocol": protocol, "executable": executable, "args": args, **options})
        transport: Any = type("Transport", (), {"pid": PID})()
        return transport


class Worker:
    """The part of a ServerWorker that is used here."""

    def __init__(self, reactor: Spawning, sockets: dict[str, socket.socket]) -> None:
        self.reactor = reactor
        self.sockets = sockets
        self.ports = {"server": "tcp:8080", "socket": "tcp:4321"}
        self.exit_handlers: list[Any] = []

    def add_exit_handler(self, handler: Any) -> None:
        self.exit_handlers.append(handler)


class CommandTestCase(SynchronousTestCase):
    command = f"{sys.executable} serve.py --fd {{fd:socket}}"
    short = command if len(command) <= 60 else f"{Path(sys.executable).name} …"
    """What it is called in the log: its interpreter may lie deep down."""

    def setUp(self) -> None:
        self.reactor = Spawning()
        self.sockets = {name: socket.socket() for name in ("server", "socket")}
        for each in self.sockets.values():
            self.addCleanup(each.close)
        self.worker: Any = Worker(self.reactor, self.sockets)
        self.told: list[tuple[ErrorRecord, CauseKind]] = []
        self.signals: list[tuple[str, int, int]] = []
        self.patch(os, "kill", lambda pid, number: self.signals.append(("kill", pid, number)))
        self.patch(os, "killpg", lambda pid, number: self.signals.append(("killpg", pid, number)))
        self.patch(signal, "signal", lambda number, how: self.signals.append(("set", number, how)))

    def registered(self, command: str | None = None) -> CommandHost:
        host = CommandHost(command or self.command)
        host.broken = lambda error, kind: self.told.append((error, kind))
        host.register(self.worker)
        return host

    def started(self, command: str | None = None) -> CommandHost:
        host = self.registered(command)
        self.successResultOf(ensureDeferred(host.activate(self.worker)))
        return host

    def exits(self, status: int) -> None:
        reason: Any = ProcessTerminated(status=status) if status else ProcessDone(0)
        self.reactor.spawned[0]["protocol"].processExited(Failure(reason))

    def end(self, kind: ExitKind = ExitKind.RESTART) -> Any:
        return self.worker.exit_handlers[0](ExitReason(kind))


class StartTests(CommandTestCase):
    """What the program is given."""

    def test_nothing_before_activation(self) -> None:
        """A worker that stands by has started nothing; that it has to is known."""
        host = self.registered()
        self.assertEqual((self.reactor.spawned, host.needs_activation), ([], True))
        self.assertEqual(host.description, f"command {self.command}")

    def test_start(self) -> None:
        """It gets the sockets as 3, 4 with their names, this process's output, and the shim in front."""
        self.started()
        (spawned,) = self.reactor.spawned
        self.assertEqual(spawned["executable"], sys.executable)
        self.assertEqual(spawned["args"][:6], [sys.executable, "-I", "-S", "-E", shim, sys.executable])
        self.assertEqual(spawned["args"][6:], [sys.executable, "serve.py", "--fd", "4"])
        numbers = [each.fileno() for each in self.sockets.values()]
        self.assertEqual(spawned["childFDs"], {0: 0, 1: 1, 2: 2, 3: numbers[0], 4: numbers[1]})
        self.assertEqual(spawned["env"]["LISTEN_FDS"], "2")
        self.assertEqual(spawned["env"]["LISTEN_FDNAMES"], "server:socket")
        self.assertEqual(spawned["env"]["PATH"], os.environ["PATH"])

    def test_without_sockets(self) -> None:
        """With bind = false it gets none, and no variables that would promise them."""
        self.worker.sockets = {}
        self.started(f"{sys.executable} serve.py {{port}}")
        (spawned,) = self.reactor.spawned
        self.assertEqual(spawned["childFDs"], {0: 0, 1: 1, 2: 2})
        self.assertNotIn("LISTEN_FDS", spawned["env"])
        self.assertEqual(spawned["args"][-1], "8080")

    def test_refused_at_load(self) -> None:
        """What is wrong with the command is known before anything is started."""
        self.assertRaises(ApplicationError, CommandHost, "node 'x")
        self.assertRaises(ApplicationError, self.registered, "nonesuch-program")
        self.assertRaises(ApplicationError, self.registered, f"{sys.executable} {{nope}}")

    def test_cannot_be_started(self) -> None:
        """A system without processes left is told with the program."""
        self.reactor.error = OSError(11, "Resource temporarily unavailable")
        host = self.registered()
        failure = self.failureResultOf(ensureDeferred(host.activate(self.worker)), ApplicationError)
        self.assertIn(f"{sys.executable} cannot be started", failure.getErrorMessage())
        self.assertIsNone(self.end())


class EndOfItsOwnTests(CommandTestCase):
    """A program that ends without having been asked is a crash of the worker's."""

    def text(self) -> str:
        ((error, _),) = self.told
        return error.message

    def test_exit_status(self) -> None:
        """The status is told, at once."""
        self.started()
        self.exits(7 << 8)
        self.assertIn("ended by itself with exit status 7, before it had accepted a connection", self.text())
        self.assertIs(self.told[0][1], CauseKind.EXIT)

    def test_signal(self) -> None:
        """So is the signal, by name; a number has none."""
        self.started()
        self.exits(signal.SIGSEGV)
        self.assertIn("was killed by SIGSEGV", self.text())
        self.assertIs(self.told[0][1], CauseKind.SIGNAL)
        self.assertEqual(command_module._name_of(63), "signal 63")

    def test_address_in_use(self) -> None:
        """One that takes no {fd} and ends before it accepts has perhaps bound the port; one that takes it has not."""
        self.started(f"{sys.executable} serve.py")
        self.exits(1 << 8)
        self.assertIn("it binds the port itself, and has to take the socket", self.text())
        self.told.clear()
        self.reactor.spawned.clear()
        self.started()
        self.exits(1 << 8)
        self.assertNotIn("binds the port itself", self.text())

    def test_after_it_has_accepted(self) -> None:
        """One that has served ended by something else."""
        host = self.started(f"{sys.executable} serve.py")
        endpoint: Any = host.health_endpoint()
        endpoint.has_been_own = True
        self.exits(1 << 8)
        self.assertTrue(self.text().endswith("ended by itself with exit status 1"), self.text())

    def test_sigterm_for_all(self) -> None:
        """A SIGTERM may have been meant for the whole session: then the order to leave comes in a moment."""
        for status in (signal.SIGTERM, 143 << 8, 0):
            self.reactor.spawned.clear()
            self.worker.exit_handlers.clear()
            self.started()
            self.exits(status)
            self.reactor.advance(VERDICT_SECONDS - 0.1)
            self.assertEqual(self.told, [])
            self.assertIsNone(self.end(ExitKind.SESSION_END))
            self.reactor.advance(VERDICT_SECONDS)
            self.assertEqual(self.told, [])

    def test_sigterm_for_it_alone(self) -> None:
        """Where no order comes it was meant for this one alone, or nobody sent it."""
        self.started()
        self.exits(signal.SIGTERM)
        self.reactor.advance(VERDICT_SECONDS)
        self.assertIn("was killed by SIGTERM", self.text())


class LeavingTests(CommandTestCase):
    """It ends with its worker."""

    def test_asked(self) -> None:
        """SIGTERM goes to the program alone; the worker waits for its end, which is no crash."""
        self.started()
        ending: Deferred[None] = self.end()
        self.assertEqual(self.signals, [("kill", PID, signal.SIGTERM)])
        self.assertNoResult(ending)
        self.exits(1 << 8)
        self.successResultOf(ending)
        self.reactor.advance(VERDICT_SECONDS)
        self.assertEqual(self.told, [])

    def test_deadline(self) -> None:
        """At the drain's deadline it is killed with its children."""
        self.started()
        ending: Deferred[None] = self.end()
        ending.addErrback(lambda _: None)
        ending.cancel()
        self.assertEqual(self.signals[1:], [("killpg", PID, signal.SIGKILL)])
        self.exits(signal.SIGKILL)
        self.assertEqual(self.told, [])

    def test_crash(self) -> None:
        """A worker that crashes takes it along at once; this process's stacks are not dumped: they say nothing of it."""
        self.started()
        ending: Deferred[None] = self.end(ExitKind.CRASH)
        self.assertEqual(
            self.signals, [("set", DUMP_SIGNAL, signal.SIG_IGN), ("killpg", PID, signal.SIGKILL)]
        )
        self.exits(signal.SIGKILL)
        self.successResultOf(ending)
        self.assertEqual(self.told, [])

    def test_standby(self) -> None:
        """One that was never started has nothing to end."""
        self.registered()
        self.assertIsNone(self.end())
        self.assertEqual(self.signals, [])

    def test_gone_already(self) -> None:
        """No signal is sent to a pid that may be another's by now."""
        host = self.started()
        self.exits(7 << 8)
        assert host._program is not None
        host._program.kill()
        self.assertIsNone(self.end(ExitKind.CRASH))
        self.assertEqual([each for each in self.signals if each[0] != "set"], [])

    def test_name_in_the_log(self) -> None:
        """What has outlived the deadline is told by a name that says what it is."""
        self.registered()
        self.assertEqual(self.worker.exit_handlers[0].__qualname__, f"(the end of {self.short})")


class WordsTests(CommandTestCase):
    """Why nobody accepts, in words."""

    def why(self, host: CommandHost) -> str:
        return host._why_nobody_accepts()

    def test_never(self) -> None:
        """What it has to do is told with its name."""
        host = self.started()
        self.patch(command_module, "is_stopped", lambda pid: False)
        self.assertIn(
            f"{self.short} (pid {PID}) accepts nothing on the port 'server': it has to", self.why(host)
        )

    def test_no_more(self) -> None:
        """One that had accepted hangs."""
        host = self.started()
        self.patch(command_module, "is_stopped", lambda pid: False)
        endpoint: Any = host.health_endpoint()
        endpoint.has_been_own = True
        self.assertIn("does not accept any more: it hangs", self.why(host))

    def test_stopped(self) -> None:
        """One that is stopped says so."""
        host = self.started()
        self.patch(command_module, "is_stopped", lambda pid: pid == PID)
        self.assertIn("is stopped (SIGSTOP)", self.why(host))

    def test_not_started(self) -> None:
        """So does one that is not there."""
        self.assertEqual(self.why(self.registered()), "the program does not run")

    def test_long_command(self) -> None:
        """A long command is told by its program's name."""
        host = self.started(f"{sys.executable} {'x' * 100}")
        self.assertIn("python", host._short)
        self.assertLess(len(host._short), 30)


class AcceptanceTests(CommandTestCase):
    """Whose a connection is."""

    def setUp(self) -> None:
        super().setUp()
        self.inode: int | OSError = 99
        self.holders: set[int] = set()
        self.program = Program(self.reactor, "/bin/serve", ["serve"], lambda status: None)
        self.program.start({})
        self.patch(program_module, "far_inode", self.far_inode)
        self.patch(program_module, "holds", lambda pid, inode: inode == 99 and pid in self.holders)
        self.patch(program_module, "processes", list)
        self.patch(program_module, "with_offspring", lambda entries, pids: {*pids, 4712})

    def far_inode(self, connection: Any) -> int:
        if isinstance(self.inode, OSError):
            raise self.inode
        return self.inode

    def accepted(self) -> AcceptedBy:
        nothing: Any = None
        return self.program.has_accepted(nothing)

    def test_by_itself_or_a_child(self) -> None:
        """The program's own processes count."""
        for pid in (PID, 4712):
            self.holders = {pid}
            self.assertIs(self.accepted(), AcceptedBy.OWN)

    def test_by_another(self) -> None:
        """Nobody else's do."""
        self.holders = {4713}
        self.assertIs(self.accepted(), AcceptedBy.OTHER)

    def test_by_nobody(self) -> None:
        """Nobody has it yet, or it is gone."""
        for self.inode in (0, ConnectionResetError()):
            self.assertIs(self.accepted(), AcceptedBy.NOBODY)

    def test_cannot_be_told(self) -> None:
        """Where the kernel does not tell, whoever answers counts; it is asked once and told once."""
        self.inode = OSError(93, "Protocol not supported")
        self.assertIs(self.accepted(), AcceptedBy.OWN)
        self.inode = 0
        self.assertIs(self.accepted(), AcceptedBy.OWN)
