"""A worker's side of a session under test: in front of it a monitor that only listens."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger, globalLogPublisher
from twisted.protocols.amp import CommandLocator

from serverworker.processes import worker_session
from serverworker.processes.board import RequestBoard
from serverworker.processes.listeners import Port
from serverworker.processes.role import THIS_PROCESS
from serverworker.processes.server_worker import ServerWorker
from serverworker.processes.worker_session import WorkerSession
from serverworker.testing import FakeReactor
from serverworker.values.settings import AppSettings, Settings
from serverworker.wire import commands
from serverworker.wire.emits import Handlers
from serverworker.wire.link import Link, adopt
from tests.unit.written_modules import ModulesTestCase


class ListeningMonitor(CommandLocator):
    """The monitor's end: notes what it is told, and answers a worker that joins."""

    def __init__(self, reactor: FakeReactor) -> None:
        self.settings = Settings()
        self.refusal: Exception | None = None
        self.silent = False
        """What a stopped one is: it leaves a `Terminated` without an answer."""
        self.heard: list[tuple[str, Any]] = []
        self.handlers = Handlers()
        self.link = Link(reactor, self, self.handlers, peer="worker 3")

    def names(self) -> list[str]:
        return [name for name, _ in self.heard]

    def notes(self) -> list[str]:
        return [given["text"] for name, given in self.heard if name == "Note"]

    @commands.Join.responder
    def join(self, **given: Any) -> dict[str, Any]:
        self.heard.append(("Join", given))
        if self.refusal is not None:
            raise self.refusal
        return {"settings": self.settings.as_json(), "generation": 2, "key": "the key"}

    def note(self, command: str, given: dict[str, Any]) -> dict[str, Any]:
        self.heard.append((command, given))
        return {}

    @commands.Loaded.responder
    def _loaded(self, **given: Any) -> dict[str, Any]:
        return self.note("Loaded", given)

    @commands.LoadFailed.responder
    def _load_failed(self, **given: Any) -> dict[str, Any]:
        return self.note("LoadFailed", given)

    @commands.Ready.responder
    def _ready(self, **given: Any) -> dict[str, Any]:
        return self.note("Ready", given)

    @commands.BeatTold.responder
    def _beat(self, **given: Any) -> dict[str, Any]:
        return self.note("BeatTold", given)

    @commands.CrashDetected.responder
    def _crash(self, **given: Any) -> dict[str, Any]:
        return self.note("CrashDetected", given)

    @commands.Terminated.responder
    def _terminated(self) -> Any:
        answer = self.note("Terminated", {})
        return Deferred() if self.silent else answer

    @commands.Note.responder
    def _note(self, **given: Any) -> dict[str, Any]:
        return self.note("Note", given)

    @commands.KillSession.responder
    def _kill(self, **given: Any) -> dict[str, Any]:
        return self.note("KillSession", given)


class FakeHeartbeat:
    """Notes what is done to it; the test beats."""

    def __init__(self, **given: Any) -> None:
        self.settings: Settings = given["settings"]
        self.told = given["told"]
        self.first_success = given["first_success"]
        self.gave_up = given["gave_up"]
        self.done: list[Any] = []

    def start(self) -> None:
        self.done.append("start")

    def stop(self) -> None:
        self.done.append("stop")

    def set_interval(self, seconds: float) -> None:
        self.done.append(seconds)


class WorkerSessionTestCase(ModulesTestCase):
    application = """
        from twisted.web.resource import Resource
        root = Resource()
        """

    def setUp(self) -> None:
        super().setUp()
        self.reactor = FakeReactor()
        listening: Any = self.reactor
        listening.listenTCP = listening.listenUNIX = None  # no application here listens by itself
        self.monitor = ListeningMonitor(self.reactor)
        self.heartbeats: list[FakeHeartbeat] = []
        self.ended: list[tuple[int, bool]] = []
        self.patch(worker_session, "heartbeat_for", self.heartbeat_for)
        self.patch(threading, "excepthook", lambda args: None)
        self.patch(ServerWorker, "_current", None)
        self.addCleanup(THIS_PROCESS.leave)
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(self.listening.close)
        board, descriptor = RequestBoard.create()
        self.addCleanup(board.close)
        os.close(descriptor)
        nothing: Any = None
        self.session = WorkerSession(
            reactor=self.reactor,
            worker_id=3,
            pid=4711,
            ports={"server": Port(name="server", description="tcp:8080", socket=self.listening)},
            board=board,
            shares=nothing,
            end=lambda status, at_once: self.ended.append((status, at_once)),
        )
        self.name = self.module(f"app_{self.id().rpartition('.')[2]}", self.application)
        self.monitor.settings = Settings(app=AppSettings(resource=f"{self.name}:root"))
        self.connect()

    def connect(self) -> None:
        reactor: Any = self.reactor
        ours, theirs = socket.socketpair()
        adopt(self.session.link, reactor, ours.detach())
        adopt(self.monitor.link, reactor, theirs.detach())
        self.addCleanup(self.stop_factories)
        self.addCleanup(self.reactor.turn)
        self.addCleanup(self.monitor.link.close)
        self.addCleanup(self.session.link.close)

    def stop_factories(self) -> None:
        """A Site that was started has a timer in the process's own reactor."""
        if self.session._listeners is not None:
            self.session._listeners.close()

    def heartbeat_for(self, **given: Any) -> FakeHeartbeat:
        self.heartbeats.append(FakeHeartbeat(**given))
        return self.heartbeats[-1]

    def start(self) -> None:
        """Up to loaded, or not."""
        before = list(globalLogPublisher._observers)
        self.session.start()
        for observer in set(globalLogPublisher._observers) - set(before):
            self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.reactor.turn()

    def order(self, command: Any, **arguments: Any) -> None:
        """The monitor orders it; it is acknowledged."""
        answer = self.monitor.link.ask(command, 10, **arguments)
        self.reactor.turn()
        self.successResultOf(answer)

    def bring_up(self) -> None:
        """Loaded, activated, ready, serving; what was heard so far is forgotten."""
        self.start()
        self.order(commands.Activate)
        self.heartbeats[0].first_success()
        self.order(commands.Serve)
        self.monitor.heard.clear()

    def leave(
        self,
        kind: str = "restart",
        seconds: float = 30.0,
        drain: bool = True,
        last_ports: Sequence[str] = (),
    ) -> None:
        text = "generation 3 takes over"
        ports = list(last_ports)
        self.order(commands.Leave, kind=kind, text=text, seconds=seconds, drain=drain, last_ports=ports)

    def fail_somewhere(self, error: Exception, namespace: str = "twisted.internet.base") -> None:
        """As Twisted logs what a timed call raised."""
        try:
            raise error
        except Exception:
            Logger(namespace=namespace).failure("while handling timed call")
        self.flushLoggedErrors(type(error))
        self.reactor.turn()

    def worker(self) -> ServerWorker:
        return ServerWorker.current()
