"""A worker ends: it is asked to leave, or it crashes (rows W4, W10, W11 and W15 of the original)."""

from __future__ import annotations

import signal
import socket
import threading
from importlib import import_module
from typing import Any

from twisted.internet.defer import Deferred

from serverworker.processes.application import Application
from serverworker.processes.drain import Tracked
from serverworker.values.causes import Beat
from serverworker.wire import commands
from tests.unit.worker_session_case import WorkerSessionTestCase


class LeaveTests(WorkerSessionTestCase):
    """It is asked to leave (row W10)."""

    application = """
        stopped = []
        def root(worker):
            from twisted.application.service import Service
            from twisted.internet.protocol import Factory, Protocol
            class Connections(Factory):
                protocol = Protocol
                def stopFactory(self):
                    stopped.append("factory")
            worker.listen("server", Connections())
            class Noting(Service):
                def stopService(self):
                    stopped.append("stopped")
            return Noting()
        """

    def test_order(self) -> None:
        """It accepts no more and polls no more; exit handlers run while IPC works; then it stops, and exits with 0."""
        self.bring_up()
        self.assertEqual(len(self.reactor.readers), 1)
        reasons: list[Any] = []
        answers: list[Any] = []
        self.monitor.handlers.on("save", lambda args: "saved")

        async def handler(reason: Any) -> None:
            reasons.append((reason.kind.value, reason.text))
            answers.extend(await self.worker().emit("save"))

        self.worker().add_exit_handler(handler)
        self.leave()
        self.assertEqual(reasons, [("restart", "generation 3 takes over")])
        self.assertEqual(answers, ["saved"])
        self.assertEqual(self.reactor.readers, [])
        self.assertEqual(self.heartbeats[0].done[-1], "stop")
        self.assertEqual(import_module(self.name).stopped, ["stopped", "factory"])
        self.assertTrue(self.session.link.closed)
        self.assertEqual(self.ended[0], (0, False))

    def test_once(self) -> None:
        """To be asked twice changes nothing; neither does an order to serve that comes too late."""
        self.bring_up()
        calls: list[Any] = []
        waiting: Deferred[None] = Deferred()

        def handler(reason: Any) -> Deferred[None]:
            calls.append(reason)
            return waiting

        self.worker().add_exit_handler(handler)
        self.leave()
        self.leave()
        self.order(commands.Serve)
        self.assertEqual((len(calls), self.reactor.readers, self.ended), (1, [], []))
        self.assertEqual(
            [text for text in self.monitor.notes() if text.startswith("draining")], self.monitor.notes()
        )
        self.assertEqual(len(self.monitor.notes()), 1)
        waiting.callback(None)
        self.reactor.turn()
        self.assertEqual(self.ended[0], (0, False))

    def client(self) -> socket.socket:
        """Somebody who is connected, and stays."""
        (reader,) = self.reactor.readers
        client = socket.create_connection(self.listening.getsockname())
        self.addCleanup(client.close)
        reader.doRead()
        return client

    def test_waits_for_connections(self) -> None:
        """It ends when its last connection has; what is to be done at the drain is done at its beginning."""
        self.bring_up()
        client = self.client()
        calls: list[str] = []
        self.worker().on_drain(lambda: calls.append("drain"))
        self.leave()
        self.reactor.pass_seconds(20)
        self.assertEqual((calls, self.ended), (["drain"], []))
        self.assertEqual(self.monitor.notes(), ["draining: 1 connection is open"])
        client.close()
        self.reactor.turn()
        self.assertEqual(self.ended[0], (0, False))

    def test_connections_at_the_deadline(self) -> None:
        """Whoever is still connected at the deadline is disconnected; then the application is stopped all the same."""
        self.bring_up()
        client = self.client()
        self.leave()
        self.reactor.pass_seconds(31)
        self.assertEqual(self.ended[0], (0, False))
        self.assertEqual(client.recv(1), b"")
        self.assertEqual(import_module(self.name).stopped, ["stopped", "factory"])

    def test_stop_after_the_deadline(self) -> None:
        """An application that is stopped late is stopped behind its connections, and has a moment for it."""
        self.bring_up()
        client = self.client()
        module: Any = import_module(self.name)
        stopping: Deferred[None] = Deferred()
        done: list[str] = []

        async def stop(application: Application) -> None:
            listeners = self.session._listeners
            assert listeners is not None
            done.append(f"stopped with {listeners.open_connections} connections")
            await stopping

        self.patch(Application, "stop", stop)
        self.leave()
        self.reactor.pass_seconds(30.1)
        self.assertEqual((done, self.ended), (["stopped with 0 connections"], []))
        stopping.callback(None)
        self.reactor.turn()
        self.assertEqual(self.ended[0], (0, False))
        self.assertEqual((client.recv(1), module.stopped), (b"", ["factory"]))

    def test_stop_without_an_end(self) -> None:
        """One that is not stopped in time keeps nobody."""
        self.bring_up()
        client = self.client()

        async def stop(application: Application) -> None:
            await Deferred()

        self.patch(Application, "stop", stop)
        self.leave()
        self.reactor.pass_seconds(30.4)
        self.assertEqual(self.ended, [])
        self.reactor.pass_seconds(0.3)
        self.assertEqual(self.ended[0], (0, False))
        self.assertIn("stopping has not finished within 0.5 s", " ".join(self.monitor.notes()))
        client.close()

    def test_no_drain_waits_for_nobody(self) -> None:
        """Where nothing is to be waited for, connections are closed at once."""
        self.bring_up()
        client = self.client()
        self.leave(drain=False)
        self.reactor.turn()
        self.assertEqual(self.ended[0], (0, False))
        self.assertEqual(client.recv(1), b"")

    def closes_idle(self, kind: str) -> int:
        """How often idle connections are to be closed (after a moment: see `test_drain`)."""
        calls: list[Tracked] = []

        def close_idle(tracked: Tracked) -> None:
            calls.append(tracked)

        self.patch(Tracked, "close_idle", close_idle)
        self.bring_up()
        self.client()
        self.leave(kind)
        self.reactor.pass_seconds(2)
        return len(calls)

    def test_idle_connections_at_the_end(self) -> None:
        """At the session's end, where no successor answers, idle connections are closed."""
        self.assertEqual(self.closes_idle("session-end"), 1)

    def test_idle_connections_at_a_restart(self) -> None:
        """At a restart they are not: one of them may be sending its next request just now."""
        self.assertEqual(self.closes_idle("restart"), 0)

    def test_deadline(self) -> None:
        """What is not done at the deadline is cut short, which is told; the exit status is 0 all the same."""
        self.bring_up()
        self.worker().add_exit_handler(lambda reason: Deferred())
        self.leave(seconds=7.0)
        self.reactor.pass_seconds(6.9)
        self.assertEqual(self.ended, [])
        self.reactor.pass_seconds(0.2)
        self.assertEqual(self.ended[0], (0, False))
        text = " ".join(self.monitor.notes())
        self.assertIn("has not finished within 7 s", text)
        self.flushLoggedErrors()

    def test_stop_that_fails(self) -> None:
        """A service that cannot be stopped is told, and the exit goes on."""
        self.bring_up()
        module: Any = import_module(self.name)
        module.stopped = None
        self.leave()
        self.assertIn("what is left is cut short, and the exit goes on", self.monitor.notes()[-1])
        self.assertEqual(self.ended[0], (0, False))
        self.assertEqual(len(self.flushLoggedErrors(AttributeError)), 1)

    def test_exit_handler_that_fails(self) -> None:
        """An exit handler that fails is told by name, and stops nothing (row W4)."""
        self.bring_up()

        def say_goodbye(reason: Any) -> None:
            raise OSError("no network")

        self.worker().add_exit_handler(say_goodbye)
        self.leave()
        told = [text for text in self.monitor.notes() if text.startswith("exit handler ")]
        self.assertRegex(" ".join(told), r"^exit handler .*say_goodbye failed: no network; the exit goes on$")
        self.assertEqual(self.ended[0], (0, False))
        self.flushLoggedErrors(OSError)

    def test_drain_hooks(self) -> None:
        """What is to be done at the drain is done once: when it becomes unready, or else when it leaves."""
        self.bring_up()
        calls: list[int] = []
        self.worker().on_drain(lambda: calls.append(1))
        self.order(commands.Unready)
        self.assertEqual((calls, len(self.reactor.readers)), ([1], 1))
        self.assertEqual(self.heartbeats[0].done[-1], "stop")  # its health route may answer 503 from now on
        self.leave("session-end")
        self.assertEqual(calls, [1])

    def test_no_drain(self) -> None:
        """Where nothing is to be waited for, drain hooks are not called; exit handlers are."""
        self.bring_up()
        calls: list[str] = []
        self.worker().on_drain(lambda: calls.append("drain"))
        self.worker().add_exit_handler(lambda reason: calls.append("exit"))
        self.leave(drain=False)
        self.assertEqual(calls, ["exit"])

    def test_monitor_is_gone(self) -> None:
        """Without a monitor it finishes what there is and ends, its exit handlers told so; it is no crash."""
        self.bring_up()
        reasons: list[Any] = []
        self.worker().add_exit_handler(reasons.append)
        self.monitor.link.close()
        self.reactor.turn()
        (reason,) = reasons
        self.assertEqual(reason.kind.value, "session-end")
        self.assertIn("the monitor is gone", reason.text)
        self.reactor.pass_seconds(3)
        self.assertEqual(self.ended[0], (0, False))

    def test_terminated(self) -> None:
        """SIGTERM from outside is told once, and the worker goes on until the monitor says what it means."""
        self.bring_up()
        reasons: list[Any] = []
        self.worker().add_exit_handler(reasons.append)
        self.session.terminated()
        self.session.terminated()
        self.reactor.pass_seconds(3600)
        self.assertEqual(self.monitor.names().count("Terminated"), 1)
        self.assertEqual((len(self.reactor.readers), reasons, self.ended), (1, [], []))
        self.leave("restart")
        self.assertEqual([reason.kind.value for reason in reasons], ["restart"])
        self.assertEqual(self.ended[0], (0, False))

    def test_terminated_while_leaving(self) -> None:
        """Who is on the way out has no use for it."""
        self.bring_up()
        self.worker().add_exit_handler(lambda reason: Deferred())
        self.leave()
        self.session.terminated()
        self.assertNotIn("Terminated", self.monitor.names())

    def test_terminated_and_no_answer(self) -> None:
        """A monitor that is stopped says nothing: after two seconds the worker drains without its word."""
        self.bring_up()
        reasons: list[Any] = []
        self.worker().add_exit_handler(reasons.append)
        self.monitor.silent = True
        self.session.terminated()
        self.reactor.pass_seconds(1.9)
        self.assertEqual(reasons, [])
        self.reactor.pass_seconds(0.2)
        (reason,) = reasons
        self.assertEqual(reason.kind.value, "session-end")
        self.assertIn("SIGTERM came from outside the session, and the monitor did not answer", reason.text)
        self.reactor.pass_seconds(3)
        # What a monitor that turns again can explain.
        self.assertEqual(self.ended[0], (-signal.SIGTERM, False))


class CrashTests(WorkerSessionTestCase):
    """Something in the worker is broken (rows W11 and W15)."""

    def crash(self) -> dict[str, Any]:
        (crash,) = [given for name, given in self.monitor.heard if name == "CrashDetected"]
        return dict(crash)

    def test_uncaught(self) -> None:
        """An error that nothing handled: told first, then the exit handlers with it, the notes, and exit 1 at once."""
        self.bring_up()
        reasons: list[Any] = []
        self.worker().add_exit_handler(reasons.append)
        self.fail_somewhere(OSError("no data base"))
        self.assertEqual(self.monitor.names(), ["CrashDetected", "Note", "Note"])
        self.assertEqual(
            (self.crash()["kind"], self.crash()["error"]["message"]), ("exception", "no data base")
        )
        self.assertIn("in fail_somewhere", self.crash()["error"]["traceback"])
        ((kind, error),) = [(reason.kind.value, reason.error) for reason in reasons]
        self.assertEqual((kind, error.message), ("crash", "no data base"))
        first, second = self.monitor.notes()
        self.assertRegex(first, r"^crash event detected @ \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC$")
        self.assertEqual(second, "OSError: no data base")
        self.assertEqual(self.ended, [(1, True)])
        self.assertEqual(self.reactor.readers, [])
        self.assertEqual(self.heartbeats[0].done[-1], "stop")

    def test_once(self) -> None:
        """What fails while it crashes is no second crash; the process ends once."""
        self.bring_up()
        waiting: Deferred[None] = Deferred()
        self.worker().add_exit_handler(lambda reason: waiting)
        self.fail_somewhere(OSError("no data base"))
        self.fail_somewhere(KeyError("and so on"))
        self.order(commands.Serve)
        self.assertEqual((self.ended, self.reactor.readers), ([], []))
        waiting.callback(None)
        self.reactor.turn()
        self.assertEqual(self.crash()["error"]["message"], "no data base")
        self.assertEqual(self.ended, [(1, True)])

    def test_exit_handler_hangs(self) -> None:
        """A crash has five seconds for its exit handlers."""
        self.bring_up()
        self.worker().add_exit_handler(lambda reason: Deferred())
        self.fail_somewhere(OSError("no data base"))
        self.reactor.pass_seconds(4.9)
        self.assertEqual(self.ended, [])
        self.reactor.pass_seconds(0.2)
        self.assertEqual(self.ended, [(1, True)])
        self.flushLoggedErrors()

    def test_while_it_leaves(self) -> None:
        """A crash of one that is leaving is a crash; exit handlers that run already have their time."""
        self.bring_up()
        done: list[str] = []
        waiting: Deferred[None] = Deferred()
        waiting.addCallback(lambda _: done.append("saved"))
        self.worker().add_exit_handler(lambda reason: waiting)
        self.leave()
        self.fail_somewhere(OSError("no data base"))
        self.assertEqual((self.crash()["kind"], self.ended), ("exception", []))
        waiting.callback(None)
        self.reactor.turn()
        self.assertEqual(done, ["saved"])
        self.assertIn((1, True), self.ended)

    def test_in_a_thread(self) -> None:
        """An error in a thread of the application's own is one too; what follows happens in the reactor's."""
        self.bring_up()

        def broken() -> None:
            raise OSError("in a thread")

        thread = threading.Thread(target=broken)
        thread.start()
        thread.join()
        self.assertEqual(self.monitor.heard, [])
        self.reactor.turn()
        self.assertEqual(self.crash()["error"]["message"], "in a thread")

    def test_heartbeats(self) -> None:
        """Too many heartbeats that failed are the same end, told as what they are."""
        self.bring_up()
        self.heartbeats[0].gave_up(
            Beat(at=1.0, ok=False, seconds=5.0, text="no answer within 5 s", failures=3)
        )
        self.reactor.turn()
        self.assertEqual(self.crash()["kind"], "heartbeat")
        self.assertEqual(
            self.crash()["error"]["message"],
            "the health route failed 3 times in a row: no answer within 5 s",
        )
        self.assertEqual(self.ended, [(1, True)])

    def test_dead_monitor(self) -> None:
        """A crash that nobody hears of ends the process within two seconds all the same."""
        self.bring_up()
        self.patch(self.monitor.link, "ampBoxReceived", lambda box: None)
        self.fail_somewhere(OSError("no data base"))
        self.reactor.pass_seconds(2.1)
        self.assertEqual(self.ended, [(1, True)])

    def test_noise(self) -> None:
        """What the application itself logged is no crash."""
        self.bring_up()
        self.fail_somewhere(OSError("handled"), namespace="wiki")
        self.assertEqual((self.monitor.heard, self.ended), ([], []))
