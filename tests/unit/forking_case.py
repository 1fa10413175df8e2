"""What the tests of `serverworker.processes.forking` share: real children, a reactor that records, a fake fork server."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Mapping
from typing import Any

from twisted.internet import process as twisted_process
from twisted.internet.error import ProcessDone, ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from serverworker.processes import fork_channel, forking
from serverworker.processes.fork_channel import FORK_SERVER
from serverworker.processes.forking import ForkedProcess, ForkServer, ForkSpawner
from serverworker.processes.shares import Shares
from serverworker.processes.spawn import BoundPort, Ends, Recipe
from tests.unit.accept_case import open_descriptors

ENVIRONMENT = {"HOME": "/srv", "LANG": "C.UTF-8", "SERVERWORKER_SESSION": "mark"}
"""The monitor's own."""


class Noting(ProcessProtocol):
    """A worker's protocol, which notes what it is told."""

    def __init__(self) -> None:
        self.exits: list[Any] = []

    def processExited(self, reason: Failure) -> None:
        self.exits.append(reason.value)


class ForkingCase(SynchronousTestCase):
    """Real children, none of which stays, and no descriptor either."""

    def child(self, script: str = "read nothing") -> int:
        """The pid of a shell that has nothing but this to do; by itself, it waits until it is killed."""
        reading, writing = os.pipe()
        actions = [(os.POSIX_SPAWN_DUP2, reading, 0)]
        pid = os.posix_spawn("/bin/sh", ["sh", "-c", script], {}, file_actions=actions)
        os.close(reading)
        self.addCleanup(os.close, writing)
        self.addCleanup(self.end_child, pid)
        return pid

    def end_child(self, pid: int) -> None:
        twisted_process.reapProcessHandlers.pop(pid, None)
        try:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):
            return

    def until_ended(self, pid: int) -> None:
        """Wait for a child's end; it stays a zombie."""
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


class FakeProcess:
    """The transport of what a fake reactor has started."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.signals: list[str] = []
        self.has_ended = False

    def signalProcess(self, name: str) -> None:
        if self.has_ended:
            raise ProcessExitedAlready
        self.signals.append(name)


class RecordingReactor(Clock):
    """A clock, and what processes would have been started; keeps a fork server's end of its channel."""

    def __init__(self) -> None:
        super().__init__()
        self.error: OSError | None = None
        self.ends_at_once = False
        self.workers: list[list[str]] = []
        self.servers: list[FakeForkServer] = []
        self.environments: list[Mapping[str, str]] = []

    def spawnProcess(
        self, protocol: Any, executable: str, args: list[str], env: dict[str, str], childFDs: dict[int, int]
    ) -> FakeProcess:
        if FORK_SERVER not in args:
            self.workers.append(args)
            return FakeProcess(90000)
        if self.error is not None:
            raise self.error
        self.environments.append(env)
        theirs = socket.socket(fileno=os.dup(childFDs[int(args[-1])]))
        fake = FakeForkServer(protocol, theirs, 5000 + len(self.servers))
        self.servers.append(fake)
        if self.ends_at_once:
            fake.ends()
        return fake.transport


class FakeForkServer:
    """The other end of a channel. What it is to answer is there before it is asked: nobody waits."""

    def __init__(self, server: ForkServer, channel: socket.socket, pid: int) -> None:
        self.channel = channel
        self.transport = FakeProcess(pid)
        self.server = server
        server.makeConnection(self.transport)

    def answers(self, *answers: Any) -> None:
        for answer in answers:
            fork_channel.send(self.channel, answer)

    def heard(self) -> fork_channel.Message:
        self.channel.settimeout(0)
        return fork_channel.receive(self.channel)

    def was_ended(self) -> bool:
        """Whether it was killed, and its channel closed."""
        try:
            while True:
                for descriptor in self.heard().descriptors:
                    os.close(descriptor)
        except BlockingIOError:
            return False
        except (EOFError, ConnectionResetError):
            return self.transport.signals == ["KILL"]

    def ends(self) -> None:
        """It dies, and the reactor tells."""
        self.channel.close()
        self.transport.has_ended = True
        self.server.processExited(Failure(ProcessDone(0)))


READY = {"ready": 1}


class SpawnerCase(ForkingCase):
    """A spawner whose first fork server is there already."""

    def setUp(self) -> None:
        self.patch(forking, "FIRST_SECONDS", 0.0)
        self.patch(forking, "ANSWER_SECONDS", 0.01)
        self.log: list[str] = []
        observer: Any = self._note
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.port = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(self.port.close)
        self.shares = Shares.create()
        self.addCleanup(os.close, self.shares)
        self.reactor = RecordingReactor()
        self.guardian: list[tuple[str, int]] = []
        self.protocol = Noting()
        self.before = open_descriptors()
        self.addCleanup(self.close_all)
        self.first = self.new_first()

    def _note(self, event: Mapping[str, Any]) -> None:
        if event["log_namespace"].startswith("serverworker."):
            self.log.append(event["log_format"].format(**event))

    def new_first(self) -> FakeForkServer:
        """A new spawner, with this one as its first."""
        ours, theirs = socket.socketpair()
        fake = FakeForkServer(ForkServer(ours), theirs, 4000)
        self.spawner = self.made(fake.server)
        return fake

    def made(self, first: ForkServer | None) -> ForkSpawner:
        return ForkSpawner(
            self.reactor,
            environment=ENVIRONMENT,
            preload=("klein",),
            watch=lambda pid: self.guardian.append(("watch", pid)),
            forget=lambda pid: self.guardian.append(("forget", pid)),
            first=first,
        )

    def close_all(self) -> None:
        """Whatever has been tried, nothing is left open by the monitor's side once its fork servers are gone."""
        self.spawner.close()
        for each in (self.first, *self.reactor.servers):
            each.channel.close()
        self.assertEqual(open_descriptors(), self.before)
        # Closed by whom they belonged to, not by Python when it found that nobody wants them.
        self.assertEqual([each["message"] for each in self.flushWarnings()], [])

    def recipe(self, python: str = sys.executable, **environment: str) -> Recipe:
        return Recipe(
            python=python,
            directory="/srv/site",
            environment={**ENVIRONMENT, **environment},
            ports=(BoundPort(name="server", description="tcp:80", socket=self.port),),
            shares=self.shares,
        )

    def spawn(self, recipe: Recipe | None = None, worker_id: int = 7) -> Any:
        """Start a worker, close what connects it, and answer the transport."""
        ends: Ends = self.spawner.spawn(recipe or self.recipe(), worker_id, self.protocol)
        ends.close()
        return ends.transport

    def assert_forked(self, recipe: Recipe | None = None, by: FakeForkServer | None = None) -> None:
        pid = self.child()
        (by or self.first).answers({"pid": pid})
        transport = self.spawn(recipe)
        self.assertIsInstance(transport, ForkedProcess)
        self.assertEqual(transport.pid, pid)
        self.assertIs(self.protocol.transport, transport)

    def assert_interpreter(self, recipe: Recipe | None = None) -> None:
        before = len(self.reactor.workers)
        self.assertEqual(self.spawn(recipe).pid, 90000)
        self.assertEqual(len(self.reactor.workers), before + 1)

    def assert_replaced(self, why: str) -> FakeForkServer:
        """The next worker is an interpreter, this once; the log says why, and the next fork server is there."""
        self.assert_interpreter()
        self.assertTrue(self.first.was_ended())
        self.assertEqual(self.log, [f"the fork server is replaced: {why}. Worker 7 is started without it"])
        (second,) = self.reactor.servers
        second.answers(READY)
        self.assert_forked(by=second)
        return second
