"""Faults of the messages between the processes: each emit ends with an error of its own, and the session goes on."""

from __future__ import annotations

import os
import signal
from typing import Any

from tests.integration.driven import DrivenTestCase, ask
from tests.integration.sessions import TestSession

SMALL_CAP = """
    [ipc]
    maximum_bytes = 100_000
    timeout_seconds = 2
    [polling]
    interval_seconds = 0.5
    """


class FaultyHandlerTests(DrivenTestCase):
    """Handlers in a worker that fail the monitor's emits; what is the other way round is in `test_agent_ipc`."""

    def test_errors(self) -> None:
        """A name nobody handles, arguments that are no JSON, values over the cap, handlers that fail or hang."""
        session = self.driven(
            """
            import sys

            class Agent(Driven):
                async def initialize_monitor(self, monitor):
                    await super().initialize_monitor(monitor)
                    monitor.on("never", lambda args: Deferred())

                async def initialize_server_worker(self, worker):
                    await super().initialize_server_worker(worker)
                    worker.on("reverse", lambda text: text[::-1])
                    worker.on("fails", self.fails)
                    worker.on("leaves", lambda args: sys.exit(5))
                    worker.on("never", lambda args: Deferred())
                    worker.on("object", lambda args: {"handle": object()})
                    worker.on("long", lambda size: "x" * size)

                def fails(self, args):
                    raise LookupError("no page of this name")

                async def emits(self):
                    circle = []
                    circle.append(circle)
                    emits = [("revers", "a"), ("reverse", {1, 2}), ("reverse", float("nan")), ("reverse", circle),
                             ("reverse", "x" * 200_000), ("fails", None), ("leaves", None), ("never", None),
                             ("object", None), ("long", 200_000), ("reverse", "still here")]
                    return [await self.tried(self.monitor.emit(*each, worker=1, timeout=0.3)) for each in emits]

                async def waits(self):
                    return await self.tried(self.worker.emit("never"))
            """,
            "--standby",
            "0",
            "--config",
            str(self.folder(s__toml=SMALL_CAP) / "s.toml"),
        )
        pid = session.server_pid
        results = ask(session, "monitor/emits")
        kinds = [each["type"] if isinstance(each, dict) else each for each in results]
        self.assertEqual(
            kinds,
            [
                "UnhandledMessage",
                "NotJSON",
                "NotJSON",
                "NotJSON",
                "ValueTooLarge",
                "RemoteError",
                "RemoteError",
                "EmitTimeout",
                "RemoteError",
                "ValueTooLarge",
                ["ereh llits"],
            ],
            results,
        )
        texts = [each["text"] if isinstance(each, dict) else "" for each in results]
        self.assertIn("did you mean 'reverse'?", texts[0])
        self.assertIn("100000", texts[4].replace(",", ""))
        self.assertIn("LookupError: no page of this name", texts[5])
        self.assertIn("SystemExit: 5", texts[6])
        self.assertIn("no answer to 'never' from worker 1 within 0.3 s", texts[7])
        self.assertIn("NotJSON", texts[8])
        self.assertIn("what the handlers of 'long' answered has 200,002 bytes", texts[9])
        # The deadline is the configured one, where the emitter gives none of its own.
        text = ask(session, "waits")["text"]
        self.assertIn("no answer to 'never' from the monitor within 2 s", text)
        self.assertEqual((session.server_pid, session.reports()), (pid, []))

    def test_outlives_its_emitter(self) -> None:
        """An answer that comes when its emitter has given up, or is dead, harms nobody."""
        session = self.driven(
            """
            import os

            class Agent(Driven):
                async def initialize_monitor(self, monitor):
                    await super().initialize_monitor(monitor)
                    self.late = []
                    monitor.on("late", self.answer_late)
                    monitor.on("now", lambda args: [each.callback("late") for each in self.late] and None)

                def answer_late(self, args):
                    self.late.append(Deferred())
                    return self.late[-1]

                async def gives_up(self):
                    given_up = await self.tried(self.worker.emit("late", timeout=0.2))
                    # The late answer comes first, then that of this emit.
                    return [given_up, await self.worker.emit("now"), await self.worker.emit("do", "fine")]

                async def fine(self):
                    self.late.clear()
                    return "fine"

                async def dies(self):
                    self.worker.emit("late").addErrback(lambda failure: None)
                    await self.worker.emit("do", "fine_later")
                    os.kill(os.getpid(), 9)

                async def fine_later(self):
                    return len(self.late)

                async def answer_the_dead(self):
                    for each in self.late:
                        each.callback("x" * 1_000_000)
                    return len(self.late)
            """
        )
        first = session.serving()[0]["worker"]
        given_up, now, fine = ask(session, "gives_up")
        self.assertEqual((given_up["type"], now, fine), ("EmitTimeout", [None], ["fine"]))
        with session.connect() as connection:
            connection.sendall(b"GET /dies HTTP/1.0\r\n\r\n")
            self.assertEqual(connection.recv(100), b"")
        session.report_of(first)
        session.serving(2)
        self.assertEqual(ask(session, "monitor/answer_the_dead"), 1)
        self.assertEqual(ask(session, "monitor/fine"), "fine")
        self.assertEqual([event for event in session.events if event["event"] == "Fault"], [])
        self.assertEqual(len(session.reports()), 1)


class BrokenPeerTests(DrivenTestCase):
    """A worker whose end of the channel is no use any more."""

    AGENT = """
        import os
        import struct

        def box(**pairs):
            "As AMP has it on the wire."
            data = b""
            for key, value in pairs.items():
                data += struct.pack("!H", len(key)) + key.encode() + struct.pack("!H", len(value)) + value
            return data + b"\\0\\0"

        class Agent(Driven):
            async def initialize_server_worker(self, worker):
                await super().initialize_server_worker(worker)
                worker.on("much", self.much)
                worker.add_exit_handler(lambda reason: print("exit:", reason.kind.value, reason.text, flush=True))

            def much(self, args):
                "Dies when the first bytes of ten megabytes are on their way."
                self.worker.reactor.callLater(0.0, self.worker.reactor.callLater, 0.0, os.kill, os.getpid(), 9)
                return "x" * 10_000_000

            async def half_an_answer(self):
                return await self.tried(self.monitor.emit("much", worker=1))

            def write(self, data):
                channel = self.worker._link.transport.getHandle()
                channel.setblocking(True)
                try:
                    channel.sendall(data)
                except OSError:
                    pass
                finally:
                    channel.setblocking(False)

            def random(self):
                self.write(b"GET / HTTP/1.1\\r\\n\\r\\n" + bytes(range(256)))

            def endless(self):
                self.write(box(a=b"x" * 60_000)[:-2] * 300)

            def neither(self):
                self.write(box(a=b"what", b="is this?".encode()))

            def unknown(self):
                self.write(box(_command=b"StartTLS", _ask=b"77") + box(_command=b"nonsense"))
                self.write(box(_answer=b"4711") + box(_error=b"4712", _error_code=b"X", _error_description=b""))
                self.write(box(_command=b"Messages", batch=b"no message at all"))
                self.write(box(_command=b"Ready", seconds=b"soon", _ask=b"78") + box(_command=b"BeatTold", beat=b"{"))
        """

    def broken(self) -> TestSession:
        """A session of this agent that waits for nothing."""
        configuration = "[restart]\ninitial_delay_seconds = 0.05\nmaximum_delay_seconds = 0.1\n"
        folder = self.folder(s__toml=configuration)
        return self.driven(self.AGENT, "--config", str(folder / "s.toml"))

    def test_half_an_answer(self) -> None:
        """A worker that dies in the middle of a long answer: the emit ends with `PeerLost`, and its death is told."""
        session = self.broken()
        first = session.serving()[0]["worker"]
        session.standby_ready()
        # The request dies with the worker that it came to; what the monitor made of the emit stands in its log.
        with session.connect() as connection:
            connection.sendall(b"GET /monitor/half_an_answer HTTP/1.0\r\n\r\n")
            self.assertEqual(connection.recv(100), b"")
        report = session.report_of(first)
        self.assertEqual((report["cause"]["kind"], report["cause"]["signal"]), ("signal", "SIGKILL"))
        session.serving(2)
        self.assertEqual(ask(session, "monitor/half_an_answer")["type"], "PeerLost")
        self.assertEqual([event for event in session.events if event["event"] == "Fault"], [])

    def test_garbage(self) -> None:
        """Garbage on the channel: the worker is replaced, its report says what came, and requests are answered."""
        session = self.broken()
        for number, (name, text) in enumerate(
            (
                ("random", "sent garbage: a key of"),
                ("neither", "sent garbage: a box that is neither question nor answer"),
                ("endless", "sent garbage: a box of more than"),
            ),
            2,
        ):
            worker = session.serving()[-1]["worker"]
            pid = session.pid_of(worker)
            session.standby_ready()
            with session.connect() as connection:
                connection.sendall(b"GET /%s HTTP/1.0\r\n\r\n" % name.encode())
                report = session.report_of(worker)
            cause = report["cause"]
            self.assertEqual((cause["kind"], report["life"]), ("link", "serving"), report)
            self.assertIn(f"its link to the monitor broke: worker {worker} {text}", cause["text"])
            session.serving(number)
            self.assertIsNone(ask(session, ""))
            self.assertRaises(ProcessLookupError, os.kill, pid, 0)
        self.assertEqual(len(session.reports()), 3)
        self.assertEqual(session.end(), 0)

    def test_unknown(self) -> None:
        """What is no garbage, but unknown or comes unasked, is refused or ignored: the link lives."""
        session = self.broken()
        pid = session.server_pid
        ask(session, "unknown")
        self.assertIsNone(ask(session, ""))
        self.assertEqual((session.server_pid, session.reports()), (pid, []))

    def test_stopped_monitor(self) -> None:
        """While the monitor is stopped emits end by their deadline; when it goes on, so does all else."""
        session = self.driven(
            """
            class Agent(Driven):
                async def short(self):
                    return await self.tried(self.worker.emit("do", "fine", timeout=0.3))

                def fine(self):
                    return "fine"
            """
        )
        self.assertIsNone(ask(session, ""))  # its order to serve has left the monitor, and not only been told
        session.process.send_signal(signal.SIGSTOP)
        self.addCleanup(session.process.send_signal, signal.SIGCONT)
        result: Any = ask(session, "short")
        self.assertEqual(result["type"], "EmitTimeout")
        session.process.send_signal(signal.SIGCONT)
        self.assertEqual(ask(session, "short"), ["fine"])
        self.assertEqual(session.reports(), [])
