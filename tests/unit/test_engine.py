"""The engine: what the core orders is done, and what happens is fed to it and told."""

from __future__ import annotations

import signal
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred

from serverworker.decisions import inputs
from serverworker.testing import FakeSpawner, FakeWorkerProcess
from serverworker.values import events
from serverworker.values.causes import Beat, CauseKind, RequestInFlight
from serverworker.values.errors import LinkDestroyed, PeerLost
from serverworker.values.events import OutputLine
from serverworker.values.state import Life
from serverworker.wire import commands
from tests.unit.accept_case import open_descriptors
from tests.unit.engine_case import ERROR, EngineTestCase


class StartTests(EngineTestCase):
    """From the order to start a worker to one that serves."""

    def test_spawned(self) -> None:
        """A worker is started by its generation's recipe, and its pid is told to the guardian."""
        self.begin()
        self.assertEqual(list(self.spawner.processes), [1])
        self.assertEqual(self.recipes, [1])
        pid = self.process(1).pid
        self.assertEqual(self.watched, [("started", pid)])
        self.assertEqual(self.event(events.WorkerSpawned).pid, pid)

    def test_spawned_in_the_next_turn(self) -> None:
        """Starting a process takes time: who takes over now gets its order first."""
        self.begin(standby=1)
        self.bring_up(1)
        self.bring_up(2, needs_activation=False)
        self.process(1).end(by_signal=signal.SIGKILL)
        serving = self.engine.state.in_life(Life.SERVING)
        self.assertEqual([worker.id for worker in serving], [2])
        self.assertNotIn(3, self.spawner.processes)
        self.reactor.turn()
        self.assertIn(3, self.spawner.processes)

    def test_calm_after_a_death(self) -> None:
        """Whoever takes over after a death has the machine to itself for a moment, before the next one is started."""
        self.takeover_seconds = 0.1
        self.begin(standby=1)
        self.bring_up(1)
        self.reactor.pass_seconds(0.1)
        self.bring_up(2, needs_activation=False)
        self.end(1, by_signal=signal.SIGKILL)
        self.reactor.pass_seconds(0.09)
        self.assertNotIn(3, self.spawner.processes)
        self.reactor.pass_seconds(0.01)
        self.assertIn(3, self.spawner.processes)

    def test_calm_after_a_restart(self) -> None:
        """The old ones leave a moment after the new ones have taken over, and the next standby comes when they are gone."""
        self.takeover_seconds = 0.1
        self.begin(standby=1)
        self.bring_up(1)
        self.reactor.pass_seconds(0.1)
        self.bring_up(2, needs_activation=False)
        self.engine.ask_restart("clean", "the test")
        self.reactor.turn()
        self.bring_up(3)
        self.assertEqual(self.life(1), Life.DRAINING)
        self.assertNotIn("Leave", self.orders(1))
        self.reactor.pass_seconds(0.1)
        self.assertEqual([self.orders(worker)[-1] for worker in (1, 2)].count("Leave"), 1)  # not both at once
        self.reactor.pass_seconds(0.05)
        self.assertEqual([self.orders(worker)[-1] for worker in (1, 2)], ["Leave", "Leave"])
        self.reactor.pass_seconds(0.44)
        self.assertNotIn(4, self.spawner.processes)
        self.reactor.pass_seconds(0.01)
        self.assertIn(4, self.spawner.processes)

    def test_join(self) -> None:
        """A worker that joins is told what the session says, by its id and generation."""
        self.begin()
        answer = self.process(1).join()
        self.reactor.turn()
        self.assertEqual(
            self.successResultOf(answer),
            {"settings": {"of": 1}, "generation": 1, "key": "the key", "tls": None},
        )
        self.assertEqual(self.joined, [(1, 1)])

    def test_join_of_another_version(self) -> None:
        """A worker of another version of the protocol is refused, and told what to do."""
        self.begin()
        answer = self.process(1).link.ask(commands.Join, 10, version=99, worker=1, pid=5)
        self.reactor.turn()
        failure = self.failureResultOf(answer, commands.CommandFailed)
        self.assertIn("speaks version 99 of the protocol", failure.getErrorMessage())
        self.assertEqual(self.joined, [])
        self.flushLoggedErrors(commands.CommandFailed)

    def test_orders(self) -> None:
        """Loaded, it is activated; ready, it serves: in this order, each once."""
        self.begin()
        self.load(1)
        self.assertEqual(self.orders(1), ["Activate"])
        self.process(1).ready()
        self.reactor.turn()
        self.assertEqual(self.orders(1), ["Activate", "Serve"])
        self.assertEqual(self.life(1), Life.SERVING)
        kinds = [type(event).__name__ for event in self.told]
        self.assertEqual(kinds, ["WorkerSpawned", "WorkerLoaded", "WorkerReady", "ServerRunning"])

    def test_input_meanwhile(self) -> None:
        """What happens while an order is carried out waits for it: events are told in the order of their causes."""

        class Sudden(FakeWorkerProcess):
            def signalProcess(self, number: int) -> None:
                self.end(by_signal=number)

        self.around = evolve(self.around, spawner=FakeSpawner(self.reactor, Sudden))
        self.begin(count=2)
        self.told.clear()
        self.engine.ask_end("enough", graceful=False, status=0)
        kinds = [type(event).__name__ for event in self.told]
        self.assertEqual(kinds, ["SessionEnding", "WorkerExited", "WorkerExited", "SessionEnded"])

    def test_one_alarm(self) -> None:
        """However much happens, the core is woken once at a time."""
        self.begin()
        for _ in range(50):
            self.engine.happened(inputs.Tick())
        self.assertEqual(len(self.reactor.getDelayedCalls()), 1)

    def test_emits(self) -> None:
        """What a worker emits comes to the monitor's handlers."""
        self.handlers.on("backup", lambda args: [args, "done"])
        self.begin()
        answer = self.process(1).link.emit("backup", 3)
        self.reactor.turn()
        self.assertEqual(self.successResultOf(answer), [[3, "done"]])

    def test_pinged(self) -> None:
        """Who starts or is being activated owes no answer to a ping; who stands by, serves or leaves does."""
        self.begin()
        owing = []
        owing.append([process.id for process in self.engine.pinged()])
        self.process(1).load()
        self.reactor.turn()
        owing.append([process.id for process in self.engine.pinged()])
        self.process(1).ready()
        self.reactor.turn()
        owing.append([process.id for process in self.engine.pinged()])
        self.engine.ask_end("enough", graceful=True, status=0)
        owing.append([process.id for process in self.engine.pinged()])
        self.assertEqual(owing, [[], [], [1], [1]])

    def test_ping(self) -> None:
        """A ping is answered by a worker that turns."""
        self.begin()
        self.bring_up(1)
        (process,) = self.engine.pinged()
        answer = process.ping()
        self.reactor.turn()
        self.successResultOf(answer)


class TellingTests(EngineTestCase):
    """What workers say of themselves."""

    def test_output(self) -> None:
        """Lines are told as they are complete, by worker and stream."""
        self.begin()
        self.process(1).printed("one\ntw")
        self.process(1).printed("o\n", 2)
        self.process(1).printed("o\n")
        lines = [(line.source, line.stream, line.text) for line in self.events(OutputLine)]
        self.assertEqual(
            lines, [("worker 1", "stdout", "one"), ("worker 1", "stderr", "o"), ("worker 1", "stdout", "two")]
        )

    def test_lifecycle(self) -> None:
        """Its notifications are events."""
        self.begin()
        self.process(1).link.tell(commands.Note, text="building the index")
        self.reactor.turn()
        self.assertEqual(self.event(events.Lifecycle).text, "building the index")

    def test_beats(self) -> None:
        """A heartbeat that failed is told with what is tolerated, and so is the recovery."""
        self.begin()
        self.bring_up(1)
        for failures in (1, 2, 0):
            beat = {"at": 1.0, "ok": not failures, "seconds": 0.1, "text": "500", "failures": failures}
            self.process(1).link.tell(commands.BeatTold, beat=beat)
        self.reactor.turn()
        failed = [(beat.failures, beat.tolerance, beat.text) for beat in self.events(events.HeartbeatFailed)]
        self.assertEqual(failed, [(1, 2, "500"), (2, 2, "500")])
        self.assertEqual(self.event(events.HeartbeatRecovered).failures, 2)

    def test_good_beats(self) -> None:
        """One that is good, as the one before, is told, and is nothing to decide: no turn of the core is spent on it."""
        self.begin()
        self.bring_up(1)
        fed: list[inputs.Input] = []
        self.patch(self.engine, "happened", fed.append)
        beat = {"at": 1.0, "ok": True, "seconds": 0.1, "text": "200", "failures": 0}
        self.process(1).link.tell(commands.BeatTold, beat=beat)
        self.reactor.turn()
        self.assertEqual(fed, [])
        self.assertEqual(self.event(events.Heartbeat).beat.text, "200")

    def test_kill_session(self) -> None:
        """A worker that wants the session to end is named as the one who asked (row W5)."""
        self.begin()
        self.bring_up(1)
        self.process(1).link.tell(commands.KillSession, reason="no licence", graceful=True, status=3)
        self.reactor.turn()
        ending = self.event(events.SessionEnding)
        self.assertEqual((ending.reason, ending.status), ("worker 1: no licence", 3))
        self.assertEqual(self.orders(1)[-1], "Leave")

    def test_nonsense(self) -> None:
        """What no worker says is answered with an error, and the link and the session go on."""
        self.begin()
        self.bring_up(1)
        answer = self.process(1).link.ask(commands.CrashDetected, 10, error={"no": "record"}, kind="x")
        self.reactor.turn()
        self.failureResultOf(answer, commands.CommandFailed)
        self.flushLoggedErrors()
        self.assertEqual(self.life(1), Life.SERVING)


class DeathTests(EngineTestCase):
    """A worker dies."""

    def test_last_words(self) -> None:
        """The death is told with its cause, the last output (half a line too) and the last heartbeats."""
        self.begin()
        self.bring_up(1)
        beat = Beat(at=1.0, ok=True, seconds=0.1, text="200")
        self.process(1).link.tell(
            commands.BeatTold, beat={"at": 1.0, "ok": True, "seconds": 0.1, "text": "200", "failures": 0}
        )
        self.reactor.turn()
        self.process(1).printed("before\nin the middle of")
        pid = self.process(1).pid
        self.end(1, by_signal=signal.SIGSEGV)
        died = self.event(events.WorkerDied)
        self.assertEqual((died.worker, died.pid, died.life), (1, pid, "serving"))
        self.assertEqual((died.cause.kind, died.cause.signal), (CauseKind.SIGNAL, "SIGSEGV"))
        self.assertEqual([line.text for line in died.output], ["before", "in the middle of"])
        self.assertEqual(died.beats, (beat,))
        self.assertIn(("gone", pid), self.watched)
        self.assertIsNone(self.engine.process(1))

    def test_requests(self) -> None:
        """The death is told with the requests that it was at, and how old they were."""
        self.begin()
        self.bring_up(1)
        board = self.process(1).board
        board.end(board.begin(b"GET", b"/answered"))
        board.begin(b"POST", b"/hangs?secret=1")
        self.reactor.pass_seconds(3)
        process = self.engine.process(1)
        assert process is not None
        self.assertEqual((process.counters().requests_finished, len(process.requests())), (1, 1))
        self.end(1, by_signal=signal.SIGKILL)
        died = self.event(events.WorkerDied)
        self.assertEqual(died.requests, (RequestInFlight(method="POST", path="/hangs", age_seconds=3.0),))

    def test_lets_go(self) -> None:
        """Of a dead worker the monitor lets go at once, whoever else may hold its output; no descriptor is left."""
        before = open_descriptors()
        self.begin()
        self.bring_up(1)
        self.spawner.error = OSError("no more")
        self.end(1, by_signal=signal.SIGKILL)
        self.assertEqual(open_descriptors(), before)

    def test_unread_output(self) -> None:
        """What lay in the pipes unread at the exit is in the report as well."""
        self.begin()
        self.bring_up(1)
        self.process(1).printed("the last thing that it said\n", 2, unread=True)
        self.end(1, 1)
        died = self.event(events.WorkerDied)
        self.assertEqual([line.text for line in died.output], ["the last thing that it said"])

    def test_last_messages(self) -> None:
        """What a worker said on its channel before its end is heard, though its exit was seen first."""
        self.begin()
        self.bring_up(1)
        process = self.engine.process(1)
        assert process is not None
        self.process(1).handlers.on("save", lambda args: "saved")
        answer = process.link.emit("save")
        self.reactor.advance(0)  # the question is sent
        self.process(1).reactor.turn()
        late = process.link.emit("save")
        self.process(1).link.tell(commands.Note, text="I am dying")
        self.end(1, 1)
        self.assertEqual(self.event(events.Lifecycle).text, "I am dying")
        self.assertEqual(self.successResultOf(answer), ["saved"])
        self.failureResultOf(late, PeerLost)

    def test_channel_that_somebody_holds(self) -> None:
        """A channel that does not end with its process (a child of the worker's holds it) is closed soon."""
        self.begin()
        self.bring_up(1)
        process = self.engine.process(1)
        assert process is not None
        self.patch(self.process(1).link, "close", lambda: None)
        never: Deferred[Any] = Deferred()
        self.process(1).handlers.on("save", lambda args: never)
        answer = process.link.emit("save")
        self.end(1, 1)
        self.assertNoResult(answer)
        self.reactor.pass_seconds(1)
        self.failureResultOf(answer, LinkDestroyed)

    def test_exit_status(self) -> None:
        """A worker that ends by itself has died, whatever its status."""
        for status in (0, 3):
            self.begin()
            self.end(max(self.spawner.processes), status)
            died = self.events(events.WorkerDied)[-1]
            self.assertEqual((died.cause.kind, died.cause.exit_status), (CauseKind.EXIT, status))

    def test_unknown_signal(self) -> None:
        """A real-time signal has no name of its own."""
        self.begin()
        self.end(1, by_signal=signal.SIGRTMIN + 3)
        self.assertEqual(self.event(events.WorkerDied).cause.signal, f"signal {signal.SIGRTMIN + 3}")

    def test_dies_while_it_is_started(self) -> None:
        """A process that is gone before `spawnProcess` returns is told as started, and then as dead."""

        class Stillborn(FakeWorkerProcess):
            def __init__(self, **given: Any) -> None:
                super().__init__(**given)
                self.end(127)

        self.around = evolve(self.around, spawner=FakeSpawner(self.reactor, Stillborn))
        self.begin()
        kinds = [type(event).__name__ for event in self.told[:2]]
        self.assertEqual(kinds, ["WorkerSpawned", "WorkerDied"])
        died = self.events(events.WorkerDied)[0]
        self.assertEqual(died.cause.exit_status, 127)

    def test_crash(self) -> None:
        """A crash that a worker tells of has its error; its exit completes the cause."""
        self.begin()
        self.bring_up(1)
        told = self.process(1).crash(ERROR)
        self.reactor.turn()
        self.successResultOf(told)
        self.assertEqual(self.life(1), Life.DRAINING)
        self.assertEqual(self.events(events.WorkerDied), [])
        self.end(1, 1)
        cause = self.event(events.WorkerDied).cause
        self.assertEqual((cause.kind, cause.error, cause.exit_status), (CauseKind.EXCEPTION, ERROR, 1))

    def test_link_lost(self) -> None:
        """A worker that loses its link while its process stays is killed a moment later."""
        self.begin()
        self.bring_up(1)
        self.process(1).link.close()
        self.reactor.turn()
        self.assertEqual(self.process(1).signals, [])
        self.reactor.pass_seconds(1.5)
        self.assertEqual(self.process(1).signals, [signal.SIGKILL])
        self.assertEqual(self.event(events.WorkerDied).cause.kind, CauseKind.LINK)

    def test_order_that_is_not_acknowledged(self) -> None:
        """A worker that does not even acknowledge an order is as good as lost."""
        self.begin()
        never: Any = Deferred()
        self.patch(self.process(1), "ordered", lambda order, **arguments: never)
        self.load(1)
        self.reactor.pass_seconds(29)
        self.assertEqual(self.process(1).signals, [])
        self.reactor.pass_seconds(3)
        self.assertEqual(self.process(1).signals, [signal.SIGKILL])
        self.assertIn("Activate came to nothing", self.event(events.WorkerDied).cause.text)
