"""What a service manager is told of a session, on a real datagram socket, with a clock that is moved by hand."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from pathlib import Path

from attrs import evolve
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from serverworker.observers import systemd
from serverworker.observers.systemd import (
    NotifySocket,
    SystemdObserver,
    describe,
)
from serverworker.values import events
from serverworker.values.events import Event, Told
from serverworker.values.state import Policy, Replacing, SessionState
from tests.unit.core_world import CoreWorld, serving

RUNNING = events.ServerRunning(worker=1, generation=1, is_first_time=True)
RESTART = events.RestartStarted(generation=2, mode="clean", asked_by="SIGHUP")
COMPLETED = events.RestartCompleted(generation=2, seconds=1.0)
FAILED = events.RestartFailed(generation=2, text="no such\nmodule")
ENDING = events.SessionEnding(reason="SIGTERM", graceful=True, status=0)
NOTHING = events.PollingChanged(seconds=1.0)


class Observed(SynchronousTestCase):
    """An observer between a state that the test sets and a socket that the test reads."""

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sw-"))  # a unix socket needs a short path
        self.addCleanup(shutil.rmtree, self.folder)
        self.receiver = self.bind(str(self.folder / "notify"))
        self.clock = Clock()
        self.clock.advance(1000.5)
        self.world = serving(standby=0)
        self.world.now = self.clock.seconds()
        self.published: list[Event] = []
        self.sequence = 0
        self.observer = self.observe(str(self.folder / "notify"))

    def bind(self, name: str) -> socket.socket:
        receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(receiver.close)
        receiver.setblocking(False)
        receiver.bind(name)
        return receiver

    def observe(self, name: str, watchdog_seconds: float | None = None) -> SystemdObserver:
        observer = SystemdObserver(
            clock=self.clock,
            notify=NotifySocket(name),
            watchdog_seconds=watchdog_seconds,
            state=lambda: self.world.state,
            publish=self.published.append,
        )
        self.addCleanup(observer.close)
        return observer

    def tell(self, *happened: Event) -> None:
        for event in happened:
            self.sequence += 1
            self.observer(Told(sequence=self.sequence, at=0.0, event=event))

    def received(self) -> list[str]:
        """All messages that have come since the last call."""
        found = []
        while True:
            try:
                found.append(self.receiver.recv(5000).decode())
            except BlockingIOError:
                return found

    def lines(self, *names: str) -> list[str]:
        """The lines with these variables that have come since the last call; without names all but STATUS."""
        lines = [line for message in self.received() for line in message.split("\n")]
        if names:
            return [line for line in lines if line.partition("=")[0] in names]
        return [line for line in lines if not line.startswith("STATUS=")]


class StateTests(Observed):
    """Ready, reloading, stopping."""

    def setUp(self) -> None:
        super().setUp()
        self.tell(RUNNING)
        self.first = self.lines()

    def test_ready(self) -> None:
        """It is ready when the first worker serves, and says so once; other workers are no news."""
        self.assertEqual(self.first, ["READY=1"])
        self.tell(RUNNING, NOTHING)
        self.assertEqual(self.received(), [])

    def test_reload(self) -> None:
        """A restart is a reload, stamped with the monotonic time, and over when it is completed."""
        self.tell(RESTART)
        self.assertEqual(self.lines(), ["RELOADING=1", "MONOTONIC_USEC=1000500000"])
        self.tell(COMPLETED)
        self.assertEqual(self.lines(), ["READY=1"])

    def test_failed_reload(self) -> None:
        """A restart that failed is over too; that it failed stands in the status until the next one."""
        self.tell(RESTART, FAILED)
        self.assertEqual(
            self.lines("READY", "STATUS")[-2:],
            [
                "READY=1",
                "STATUS=serving 1 of 1, generation 1; the restart to generation 2 failed: no such module",
            ],
        )
        self.tell(RESTART)
        self.assertEqual(self.lines("STATUS"), ["STATUS=serving 1 of 1, generation 1"])

    def test_not_ready_yet(self) -> None:
        """A restart before anybody served is none that a service manager knows of; it is ready when somebody serves."""
        self.observer = self.observe(str(self.folder / "notify"))
        self.tell(RESTART, FAILED)
        self.assertEqual(self.lines("READY", "RELOADING"), [])
        self.tell(RUNNING)
        self.assertEqual(self.lines("READY"), ["READY=1"])

    def test_stopping(self) -> None:
        """The end is told once, however often it is asked for, and the status counts who is left."""
        self.world.end()
        self.tell(ENDING)
        self.assertEqual(
            self.received(),
            ["STOPPING=1\nEXTEND_TIMEOUT_USEC=30000000\nSTATUS=ending (SIGTERM), workers left: 1"],
        )
        self.world.exited(1)
        self.tell(evolve(ENDING, graceful=False))
        self.assertEqual(self.received(), ["STATUS=ending (SIGTERM), workers left: 0"])

    def test_output_is_no_news(self) -> None:
        """What comes by the thousand is not even looked at."""
        self.observer._describe = lambda: 1 / 0  # type: ignore[method-assign,assignment,return-value]
        self.tell(events.OutputLine(source="worker 1", stream="stdout", text="x"))
        self.assertRaises(ZeroDivisionError, self.tell, NOTHING)


class TimeTests(Observed):
    """How a service manager's own deadlines are moved."""

    def extended(self) -> int:
        return len(self.lines("EXTEND_TIMEOUT_USEC"))

    def starting(self) -> None:
        self.world = CoreWorld(startup_seconds=60.0)
        self.world.now = self.clock.seconds()
        self.world.start()
        self.world.spawned(1)

    def test_start(self) -> None:
        """While the first workers start, more time is asked for at intervals that are shorter than it."""
        self.starting()
        self.tell(NOTHING, NOTHING)
        self.assertEqual(self.extended(), 1)
        for _ in range(3):
            self.clock.advance(systemd.EXTEND_EVERY_SECONDS)
            self.assertEqual(self.extended(), 1)
        self.assertLess(systemd.EXTEND_EVERY_SECONDS, systemd.EXTEND_SECONDS)
        self.world.bring_up(1)
        self.tell(RUNNING)
        self.clock.advance(systemd.EXTEND_EVERY_SECONDS)
        self.assertEqual(self.extended(), 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_start_that_fails(self) -> None:
        """A first start that fails and fails again is for the service manager to give up."""
        self.starting()
        self.world.killed(1)
        self.tell(NOTHING)
        self.assertEqual(self.extended(), 0)

    def test_restart(self) -> None:
        """A restart has more time too."""
        self.tell(RUNNING)
        self.world.restart()
        self.tell(RESTART)
        self.assertEqual(self.extended(), 1)
        self.clock.advance(systemd.EXTEND_EVERY_SECONDS)
        self.assertEqual(self.extended(), 1)

    def test_end(self) -> None:
        """The end has as much as it needs: it has a deadline of its own."""
        self.world.end()
        self.tell(ENDING)
        self.assertEqual(self.extended(), 1)
        for _ in range(8):
            self.clock.advance(systemd.EXTEND_EVERY_SECONDS)
            self.assertEqual(self.extended(), 1)

    def test_stuck(self) -> None:
        """A core that does not turn gets no more time."""
        self.starting()
        self.tell(NOTHING)
        for _ in range(10):
            self.clock.advance(systemd.EXTEND_EVERY_SECONDS)
        self.assertEqual(self.extended(), 1 + 6)


class WatchdogTests(Observed):
    """WATCHDOG=1."""

    def setUp(self) -> None:
        super().setUp()
        self.observer = self.observe(str(self.folder / "notify"), 6.0)
        self.observer.start()

    def fed(self, seconds: float) -> int:
        """How often it is fed in so many seconds."""
        self.clock.pump([0.5] * int(seconds * 2))
        return self.lines().count("WATCHDOG=1")

    def test_fed(self) -> None:
        """A healthy session feeds it twice in each period."""
        self.assertEqual(self.fed(30.0), 10)

    def test_none(self) -> None:
        """Without a watchdog no timer runs."""
        self.observer.close()
        self.observe(str(self.folder / "notify")).start()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_back_off(self) -> None:
        """A crash loop is not mended by killing the monitor: it is fed as long as the next start is planned."""
        self.world.state = evolve(self.world.state, workers=(), respawn_at=self.clock.seconds() + 30.0)
        self.assertEqual(self.fed(30.0), 10)
        self.assertEqual(self.fed(30.0), 1)  # late, and no longer planned

    def test_sick(self) -> None:
        """Where nobody serves and nothing is to come it is fed no more; as soon as somebody serves it is, again."""
        healthy = self.world.state
        self.world.state = SessionState(policy=Policy())
        self.assertEqual(self.fed(60.0), 0)
        self.world.state = healthy
        self.assertEqual(self.fed(1.0), 1)
        self.assertEqual(self.fed(6.0), 2)


class TroubleTests(Observed):
    """Whatever becomes of the telling harms nobody."""

    def test_nowhere(self) -> None:
        """A socket that points nowhere is told once; what is to be said is tried all the same, and arrives again."""
        self.observer = self.observe(str(self.folder / "nowhere"))
        self.tell(RUNNING, RESTART, COMPLETED)
        (fault,) = self.published
        assert isinstance(fault, events.Fault)
        self.assertIn(f"NOTIFY_SOCKET={self.folder}/nowhere", fault.where)
        self.assertEqual(str(fault.error), "FileNotFoundError: No such file or directory")
        self.receiver = self.bind(str(self.folder / "nowhere"))
        self.tell(RESTART)
        self.assertEqual(self.lines("RELOADING"), ["RELOADING=1"])
        self.receiver.close()
        self.tell(COMPLETED, RESTART)
        self.assertEqual(len(self.published), 2)

    def test_bad_names(self) -> None:
        """So is a name that is no socket's, one that is too long, and one where something else is."""
        (self.folder / "file").touch()
        for name in ("relative", "vsock:2:1234", "/" + "x" * 200, str(self.folder / "file")):
            self.published.clear()
            self.observer = self.observe(name)
            self.tell(RUNNING, RESTART)
            self.assertEqual([type(event) for event in self.published], [events.Fault], name)

    def test_told_of_its_own_fault(self) -> None:
        """The fault comes back as an event, and leads to nothing more."""
        self.observer = self.observe(str(self.folder / "nowhere"))
        self.observer._publish = self.tell
        self.tell(RUNNING)
        self.tell(ENDING)
        self.assertEqual(self.received(), [])

    def test_abstract(self) -> None:
        """A name with @ is an abstract one."""
        name = f"serverworker.test.{os.getpid()}"
        self.receiver = self.bind(f"\0{name}")
        self.observer = self.observe(f"@{name}")
        self.tell(RUNNING)
        self.assertEqual(self.lines(), ["READY=1"])

    def fill(self) -> int:
        """Fill the receiver's queue; answers how many messages that took."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            for number in range(100_000):
                try:
                    sender.sendto(b"full", str(self.folder / "notify"))
                except BlockingIOError:
                    return number
        raise AssertionError("the queue never fills")

    def test_full(self) -> None:
        """To somebody who does not read nothing is lost and nobody waits: it is sent, in order, when he reads again."""
        self.fill()
        self.tell(RUNNING, RESTART, COMPLETED)
        self.clock.advance(1.0)
        self.assertEqual(set(self.received()), {"full"})
        self.assertEqual(self.published, [])
        self.clock.advance(systemd.RETRY_SECONDS)
        self.assertEqual(self.lines("READY", "RELOADING"), ["READY=1", "RELOADING=1", "READY=1"])

    def test_full_for_long(self) -> None:
        """Of statuses only the last is kept, and of all the rest a bounded number; the watchdog's are not kept."""
        self.observer = self.observe(str(self.folder / "notify"), 1.0)
        self.observer.start()
        self.tell(RUNNING)
        self.fill()
        for number in range(500):
            self.world.state = evolve(self.world.state, policy=Policy(count=number + 1))
            self.tell(NOTHING)
        self.clock.pump([0.1] * 20)
        self.received()
        self.clock.advance(systemd.RETRY_SECONDS)
        self.assertEqual(self.received(), ["STATUS=serving 1 of 500, generation 1"])
        self.fill()
        self.tell(*(event for _ in range(200) for event in (RESTART, COMPLETED)))
        self.received()
        arrived = []
        for _ in range(systemd.WAITING_MESSAGES):  # ten at a time, or what the system lets a queue hold
            self.clock.advance(systemd.RETRY_SECONDS)
            arrived += self.lines("READY", "RELOADING")
        self.assertEqual(arrived, ["RELOADING=1", "READY=1"] * (systemd.WAITING_MESSAGES // 2))

    def test_closed(self) -> None:
        """After its end it says nothing, and has no timer and no descriptor."""
        self.observer.start()
        self.world.end()
        self.tell(ENDING)
        self.observer.close()
        self.received()
        self.tell(RUNNING)
        self.assertEqual(self.received(), [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_long_status(self) -> None:
        """A status is one line, and never so long that the message would not be taken."""
        self.tell(RUNNING, RESTART)
        self.tell(evolve(FAILED, text="x\n" * 10_000))
        (status,) = self.lines("STATUS")[-1:]
        self.assertEqual(len(status), len("STATUS=") + systemd.LONGEST_STATUS)


class WordsTests(SynchronousTestCase):
    """The status in words."""

    def test_all(self) -> None:
        """It says who serves, how far a restart is, and what is waited for."""
        world = CoreWorld(count=2)
        world.start()
        self.assertEqual(describe(world.state, world.now), "starting")
        world = serving(count=2)
        world.restart()
        self.assertEqual(
            describe(world.state, world.now), "serving 2 of 2, generation 1; restarting to generation 2"
        )
        replaced = evolve(
            world.state,
            restart=None,
            replacing=Replacing(generation=2, total=8, left=5),
            respawn_at=world.now + 4.4,
            deaths_in_a_row=3,
        )
        self.assertEqual(
            describe(replaced, world.now),
            "serving 2 of 2, generation 1; 3 of 8 replaced; a worker is started in 4 s (death 3 in a row)",
        )
