"""A child of this process that the reactor has not spawned."""

from __future__ import annotations

import os
import signal
from typing import Any

from twisted.internet import process as twisted_process
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated

from serverworker.processes.forking import ForkedProcess
from tests.unit.forking_case import ForkingCase, Noting


class ForkedProcessTests(ForkingCase):
    """A child that the reactor has not spawned is as one that it has."""

    def forked(self, script: str) -> tuple[ForkedProcess, Noting]:
        protocol = Noting()
        return ForkedProcess(self.child(script), protocol), protocol

    def end_of(self, script: str) -> Any:
        """What its protocol is told of the end, once."""
        process, protocol = self.forked(script)
        assert process.pid is not None or protocol.exits
        if process.pid is not None:
            self.until_ended(process.pid)
            twisted_process.reapAllProcesses()
        (error,) = protocol.exits
        return error

    def ended_with(self, status: int) -> Any:
        """Likewise, for a status as `os.waitpid` has it."""
        process, protocol = self.forked("read nothing")
        process.processEnded(status)
        (error,) = protocol.exits
        return error

    def test_connected(self) -> None:
        """Its protocol has it as its transport, with its pid, before it may end."""
        process, protocol = self.forked("read nothing")
        self.assertIs(protocol.transport, process)
        self.assertIn(process.pid, twisted_process.reapProcessHandlers)
        self.assertEqual(protocol.exits, [])

    def test_good(self) -> None:
        """Status 0 is a good end."""
        error = self.end_of("exit 0")
        self.assertIsInstance(error, ProcessDone)
        self.assertEqual((error.exitCode, error.signal), (0, None))

    def test_exit_status(self) -> None:
        """Any other status is told."""
        error = self.end_of("exit 70")
        self.assertIsInstance(error, ProcessTerminated)
        self.assertEqual((error.exitCode, error.signal), (70, None))

    def test_signal(self) -> None:
        """So is the signal that has ended it, with no exit status."""
        error = self.end_of("kill -KILL $$")
        self.assertIsInstance(error, ProcessTerminated)
        self.assertEqual((error.exitCode, error.signal), (None, signal.SIGKILL))

    def test_core(self) -> None:
        """Whether there is a core file can be read from the status."""
        for core in (False, True):
            error = self.ended_with(signal.SIGSEGV | (0x80 if core else 0))
            self.assertEqual(error.signal, signal.SIGSEGV)
            self.assertEqual(os.WCOREDUMP(error.status), core)

    def test_status_taken(self) -> None:
        """Where somebody else in this process has taken its status, that is 255, and not good."""
        process, protocol = self.forked("read nothing")
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        os.waitpid(process.pid, 0)
        twisted_process.reapAllProcesses()
        (error,) = protocol.exits
        self.assertEqual((error.exitCode, error.signal), (255, None))

    def test_ended_before(self) -> None:
        """Of one that has ended before anybody knew of it the end is told all the same."""
        pid = self.child("exit 3")
        self.until_ended(pid)
        protocol = Noting()
        process = ForkedProcess(pid, protocol)
        self.assertEqual([error.exitCode for error in protocol.exits], [3])
        self.assertIsNone(process.pid)

    def test_once(self) -> None:
        """The end is told once, however often somebody looks; no zombie stays, and no entry with the reactor."""
        process, protocol = self.forked("read nothing")
        pid = process.pid
        assert pid is not None
        process.reapProcess()
        self.assertEqual(protocol.exits, [])
        process.signalProcess("KILL")
        self.until_ended(pid)
        for _ in range(2):
            twisted_process.reapAllProcesses()
            process.reapProcess()
        self.assertEqual(len(protocol.exits), 1)
        self.assertNotIn(pid, twisted_process.reapProcessHandlers)
        self.assertRaises(ChildProcessError, os.waitpid, pid, os.WNOHANG)

    def test_signals(self) -> None:
        """Signals have the names that Twisted gives them, or numbers; after the end nobody else is sent one."""
        for given in ("TERM", int(signal.SIGTERM)):
            process, protocol = self.forked("read nothing")
            pid = process.pid
            assert pid is not None
            process.signalProcess(given)
            self.until_ended(pid)
            twisted_process.reapAllProcesses()
            self.assertEqual([error.signal for error in protocol.exits], [signal.SIGTERM])
            self.assertRaises(ProcessExitedAlready, process.signalProcess, given)
