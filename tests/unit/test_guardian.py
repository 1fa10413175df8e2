"""Tests of the monitor's side of the guardian: no process is started, and the clock is turned by hand."""

from __future__ import annotations

import os
from typing import Any

from twisted.internet.error import ProcessExitedAlready, ProcessTerminated
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from serverworker.processes import guardian as guardian_module
from serverworker.processes import guardian_child
from serverworker.processes.descendants import ProcessEntry
from serverworker.processes.guardian import Guardian


class FakeTransport:
    """A process as `spawnProcess` answers it, which ends when the test says so."""

    def __init__(self, protocol: Any, pid: int) -> None:
        self.protocol = protocol
        self.pid: int | None = pid
        self.signals: list[str] = []

    def signalProcess(self, name: str) -> None:
        if self.pid is None:
            raise ProcessExitedAlready()
        self.signals.append(name)

    def end(self) -> None:
        self.pid = None
        self.protocol.processEnded(Failure(ProcessTerminated(signal=9)))


class FakeReactor(Clock):
    """A clock that starts processes, or raises what it was told to."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list[FakeTransport] = []
        self.arguments: list[dict[str, Any]] = []
        self.readers: list[int] = []
        self.known_at_birth: list[str] = []
        self.failure: OSError | None = None
        self.dies_at_once = False

    def spawnProcess(self, protocol: Any, executable: str, args: list[str], **more: Any) -> FakeTransport:
        if self.failure is not None:
            raise self.failure
        transport = FakeTransport(protocol, 1000 + len(self.started))
        self.started.append(transport)
        self.arguments.append({"executable": executable, "args": args, **more})
        reading = os.dup(more["childFDs"][0])
        os.set_blocking(reading, False)
        self.readers.append(reading)
        self.known_at_birth = self.told()
        protocol.makeConnection(transport)
        if self.dies_at_once:
            transport.end()
        return transport

    def told(self, index: int = -1) -> list[str]:
        """The lines that the guardian of this index was told since last asked."""
        try:
            return os.read(self.readers[index], 1 << 20).decode().splitlines()
        except BlockingIOError:
            return []

    def is_at_end(self, index: int = -1) -> bool:
        """Whether the pipe is closed."""
        try:
            return os.read(self.readers[index], 1) == b""
        except BlockingIOError:
            return False


class GuardianTests(TestCase):
    """The monitor's side."""

    def setUp(self) -> None:
        self.reactor = FakeReactor()
        self.guardian = Guardian(self.reactor)  # type: ignore[arg-type]  # as much of a reactor as it needs
        self.log: list[Any] = []
        observer: Any = self.log.append
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.addCleanup(self.close)
        starts = {10: 100, 11: 110}
        self.patch(guardian_module, "read_process", lambda pid: self.entry(pid, starts))

    def entry(self, pid: int, starts: dict[int, int]) -> ProcessEntry | None:
        if pid not in starts:
            return None
        return ProcessEntry(
            pid=pid, command="", state="S", parent=1, group=1, session=1, threads=1, started=starts[pid]
        )

    def close(self) -> None:
        self.guardian.stop()
        for reading in self.reactor.readers:
            os.close(reading)

    def test_start(self) -> None:
        """It is started with nothing but the pipe, in which stands the deadline, the mark, and what is watched already."""
        self.guardian.watch(10)
        self.guardian.start(30)
        (mark,) = (f"{name}={value}" for name, value in self.guardian.environment.items())
        told = ["deadline 30.000000", f"mark {mark}", "watch 10 100"]
        self.assertEqual(self.reactor.known_at_birth, told)
        started = self.reactor.arguments[0]
        self.assertEqual(started["args"][1:], ["-I", "-S", "-E", guardian_module.CHILD])
        self.assertEqual(sorted(started["childFDs"]), [0, 1, 2])
        self.assertNotIn(mark.partition("=")[0], started["env"])
        self.assertEqual(self.guardian.pid, 1000)

    def test_watch_and_forget(self) -> None:
        """Each change is written before the call returns; a forgotten stranger and a process that is gone are not."""
        self.guardian.start(30)
        self.reactor.told()
        self.guardian.watch(10)
        self.assertEqual(self.reactor.told(), ["watch 10 100"])
        self.assertEqual(self.guardian.started_at(10), 100)
        self.guardian.forget(10)
        self.assertIsNone(self.guardian.started_at(10))
        self.assertEqual(self.reactor.told(), ["forget 10"])
        self.guardian.forget(10)
        self.guardian.watch(99)
        self.guardian.set_deadline(0.5)
        self.assertEqual(self.reactor.told(), ["deadline 0.500000"])

    def test_start_unknown(self) -> None:
        """When the monitor cannot read when a process started, the guardian is told to."""

        def refuse(pid: int) -> None:
            raise OSError(24, "too many open files")

        self.patch(guardian_module, "read_process", refuse)
        self.guardian.start(30)
        self.reactor.told()
        self.guardian.watch(12)
        self.assertEqual(self.reactor.told(), ["watch 12 0"])
        self.assertIsNone(self.guardian.started_at(12))

    def test_dies(self) -> None:
        """A dead guardian is followed by another a second later, which is told everything; the log says so."""
        self.guardian.start(30)
        self.guardian.watch(10)
        self.guardian.watch(11)
        self.guardian.forget(10)
        self.reactor.started[0].end()
        self.assertIsNone(self.guardian.pid)
        self.assertEqual([event["delay"] for event in self.warnings()], [1.0])
        self.reactor.advance(0.9)
        self.assertEqual(len(self.reactor.started), 1)
        self.reactor.advance(0.2)
        self.assertEqual(self.guardian.pid, 1001)
        self.assertEqual(self.reactor.known_at_birth[2:], ["watch 11 110"])

    def test_keeps_dying(self) -> None:
        """One that cannot live is tried less and less often, and at once again after one has lived."""
        self.reactor.dies_at_once = True
        self.guardian.start(30)
        self.reactor.pump([1.0] * 200)
        self.assertEqual([event["delay"] for event in self.warnings()], [1, 2, 4, 8, 16, 32, 60, 60, 60])
        self.reactor.dies_at_once = False
        self.reactor.advance(60)
        self.reactor.advance(100)
        self.reactor.started[-1].end()
        self.assertEqual(self.warnings()[-1]["delay"], 1.0)

    def test_cannot_be_started(self) -> None:
        """A system that starts no process is no error of the monitor's: it is logged, and tried again."""
        self.reactor.failure = OSError(11, "Resource temporarily unavailable")
        self.guardian.start(30)
        self.guardian.watch(10)
        self.assertIn("could not be started", self.warnings()[0]["what"])
        self.reactor.failure = None
        self.reactor.advance(1)
        self.assertEqual(self.reactor.known_at_birth[2:], ["watch 10 100"])

    def test_does_not_read(self) -> None:
        """A guardian that reads nothing until its pipe is full is killed, and the next is told everything."""
        self.guardian.start(30)
        self.guardian.watch(11)
        for _ in range(5000):
            self.guardian.set_deadline(7)
            if self.reactor.started[0].signals:
                break
        self.assertEqual(self.reactor.started[0].signals, ["KILL"])
        self.reactor.started[0].end()
        self.reactor.advance(1)
        self.assertEqual(self.reactor.known_at_birth[0], "deadline 7.000000")
        self.assertEqual(self.reactor.told(), [])

    def test_broken_pipe(self) -> None:
        """A line to a guardian that has just died is no error."""
        self.guardian.start(30)
        os.close(self.reactor.readers.pop())
        self.guardian.watch(10)
        self.reactor.started[0].end()
        self.reactor.advance(1)
        self.assertEqual(self.reactor.known_at_birth[2:], ["watch 10 100"])

    def test_stop(self) -> None:
        """Stopping closes the pipe, and is over when the guardian has ended; no other follows."""
        self.guardian.start(30)
        self.reactor.told()
        first, second = self.guardian.stop(), self.guardian.stop()
        self.assertTrue(self.reactor.is_at_end())
        self.assertNoResult(first)
        self.reactor.started[0].end()
        self.successResultOf(first)
        self.successResultOf(second)
        self.successResultOf(self.guardian.stop())
        self.assertEqual(self.warnings(), [])
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_stop_hung(self) -> None:
        """A guardian that does not end is killed some seconds after its own deadlines."""
        self.guardian.start(30)
        stopped = self.guardian.stop()
        self.reactor.advance(30 + guardian_child.KILLING_SECONDS)
        self.assertEqual(self.reactor.started[0].signals, [])
        self.reactor.advance(guardian_module.STOP_MARGIN_SECONDS)
        self.assertEqual(self.reactor.started[0].signals, ["KILL"])
        self.reactor.started[0].end()
        self.successResultOf(stopped)

    def test_stop_without(self) -> None:
        """Stopping one that never ran, or is waited for, is over at once and cancels the next try."""
        self.successResultOf(Guardian(self.reactor).stop())  # type: ignore[arg-type]
        self.guardian.start(30)
        self.reactor.started[0].end()
        self.successResultOf(self.guardian.stop())
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def warnings(self) -> list[Any]:
        return [
            event
            for event in self.log
            if event["log_namespace"].startswith("serverworker") and event["log_level"].name == "warn"
        ]
