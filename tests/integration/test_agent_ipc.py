"""Messages between an agent's two halves, as they cross from one real process to the other and back."""

from __future__ import annotations

import json
import os
import signal

from tests.integration.driven import DrivenTestCase, ask
from tests.integration.sessions import wait_until


class WorkerToMonitorTests(DrivenTestCase):
    """`worker.emit`: the list of all handlers' results, or the error (rows I1 to I5, W6, W7)."""

    def test_results(self) -> None:
        """Plain, Deferred and coroutine handlers, in the order of registration; JSON of any size goes through."""
        session = self.driven(
            """
            class Agent(Driven):
                async def initialize_monitor(self, monitor):
                    await super().initialize_monitor(monitor)
                    monitor.on("add", lambda args: args["a"] + args["b"])
                    monitor.on("add", lambda args: deferLater(monitor._session.reactor, 0.02, lambda: "late"))
                    monitor.on("add", self.coroutine)
                    monitor.on("same", lambda args: args)

                async def coroutine(self, args):
                    return {"got": args}

                async def add(self):
                    return await self.worker.emit("add", {"a": 1, "b": 2})

                async def same(self):
                    sent = {"text": "żółw\\n" * 200_000, "list": [None, True, -1, 2.5, ""], "key": {"": {}}}
                    (back,) = await self.worker.emit("same", sent)
                    return back == sent
            """
        )
        self.assertEqual(ask(session, "add"), [3, "late", {"got": {"a": 1, "b": 2}}])
        self.assertIs(ask(session, "same"), True)

    def test_errors(self) -> None:
        """Every way in which it can fail has its own error, and the link lives on."""
        session = self.driven(
            """
            class Agent(Driven):
                async def initialize_monitor(self, monitor):
                    await super().initialize_monitor(monitor)
                    monitor.on("mixed", lambda args: "fine")
                    monitor.on("mixed", self.fails)
                    monitor.on("mixed", lambda args: "fine as well")
                    monitor.on("never", lambda args: Deferred())
                    monitor.on("object", lambda args: object())
                    monitor.on("long", lambda size: "x" * size)

                async def fails(self, args):
                    return 1 / args

                async def remote(self):
                    try:
                        await self.worker.emit("mixed", 0)
                    except RemoteError as error:
                        return [error.record.type, error.record.message, error.remote_traceback,
                                [outcome.result for outcome in error.outcomes]]

                async def others(self):
                    emits = [("mixd",), ("mixed", {1j}), ("never", None, 0.3), ("object",),
                             ("long", 2_000_000), ("mixed", "x" * 2_000_000)]
                    return [await self.tried(self.worker.emit(*each)) for each in emits]
            """,
            "--config",
            str(self.folder(s__toml="[ipc]\nmaximum_bytes = 1048576\n") / "s.toml"),
        )
        kind, message, traceback, results = ask(session, "remote")
        self.assertEqual((kind, message), ("builtins.ZeroDivisionError", "division by zero"))
        self.assertIn("in fails", traceback)
        self.assertEqual(results, ["fine", None, "fine as well"])
        others = ask(session, "others")
        kinds = [
            "UnhandledMessage",
            "NotJSON",
            "EmitTimeout",
            "RemoteError",
            "ValueTooLarge",
            "ValueTooLarge",
        ]
        self.assertEqual([each["type"] for each in others], kinds, others)
        self.assertIn("did you mean 'mixed'?", others[0]["text"])
        self.assertIn("NotJSON", others[3]["text"])
        self.assertIn("what the handlers of 'long' answered", others[4]["text"])
        self.assertIn("1,048,576 are allowed", others[5]["text"])
        self.assertEqual(ask(session, "remote")[0], kind)

    def test_taken_back(self) -> None:
        """`off` takes one handler back, `clear_message_listeners` all; in the worker as in the monitor."""
        session = self.driven(
            """
            def one(args):
                return 1

            def two(args):
                return 2

            class Agent(Driven):
                def all_ways(self, half):
                    for handler in (one, two, one):
                        half.on("count", handler)
                    yield
                    half.off("count", one)
                    half.off("count", print)
                    yield
                    half.clear_message_listeners("count")
                    yield

                async def initialize_monitor(self, monitor):
                    await super().initialize_monitor(monitor)
                    ways = self.all_ways(monitor)
                    monitor.on("next", lambda args: next(ways))

                async def to_monitor(self):
                    results = []
                    for _ in range(3):
                        await self.worker.emit("next")
                        results.append(await self.tried(self.worker.emit("count")))
                    return results

                async def to_worker(self):
                    results = []
                    for _ in self.all_ways(self.worker):
                        results += await self.worker.emit("do", "counted_from_monitor")
                    return results

                async def counted_from_monitor(self):
                    return await self.tried(self.monitor.emit("count", worker=1))
            """,
            "--standby",
            "0",
        )
        for where in ("to_monitor", "to_worker"):
            all_three, without_one, none = ask(session, where)
            self.assertEqual((all_three, without_one), ([1, 2, 1], [1, 2]))
            self.assertEqual(none["type"], "UnhandledMessage")

    def test_monitor_is_killed(self) -> None:
        """An emit that waits ends with `PeerLost`, a later one with `FailedDispatch`, though the process is gone."""
        session = self.driven(
            """
            from pathlib import Path

            class Agent(Driven):
                async def initialize_monitor(self, monitor):
                    await super().initialize_monitor(monitor)
                    monitor.on("never", lambda args: print("asked for ever") or Deferred())

                async def initialize_server_worker(self, worker):
                    await super().initialize_server_worker(worker)
                    worker.add_exit_handler(self.bye)

                def begin(self):
                    self.waiting = self.tried(self.worker.emit("never"))
                    self.waiting = ensureDeferred(self.waiting)

                async def bye(self, reason):
                    told = [reason.kind.value, reason.text, await self.waiting]
                    told.append(await self.tried(self.worker.emit("never")))
                    Path("told.part").write_text(json.dumps(told))
                    Path("told.part").rename("told")
            """
        )
        ask(session, "begin")
        session.wait_for_line("asked for ever")
        os.kill(session.process.pid, signal.SIGKILL)
        told = session.folder / "told"
        wait_until(told.exists, "what the worker has to tell")
        kind, text, waiting, later = json.loads(told.read_text())
        self.assertEqual(kind, "session-end")
        self.assertIn("the monitor is gone", text)
        self.assertEqual(waiting["type"], "PeerLost")
        self.assertEqual(later["type"], "FailedDispatch")

    def test_worker_leaves(self) -> None:
        """An emit that still waits when its own process leaves ends with `LinkDestroyed`, a later one is not sent."""
        session = self.driven(
            """
            from pathlib import Path

            class Agent(Driven):
                async def initialize_monitor(self, monitor):
                    await super().initialize_monitor(monitor)
                    monitor.on("never", lambda args: print("asked for ever") or Deferred())

                def begin(self):
                    ensureDeferred(self.wait())

                async def wait(self):
                    told = [await self.tried(self.worker.emit("never")) for _ in range(2)]
                    Path("told").write_text(json.dumps(told))
            """
        )
        ask(session, "begin")
        session.wait_for_line("asked for ever")
        self.assertEqual(session.end(), 0)
        waiting, later = json.loads((session.folder / "told").read_text())
        self.assertEqual((waiting["type"], later["type"]), ("LinkDestroyed", "FailedDispatch"))


class MonitorToWorkerTests(DrivenTestCase):
    """`monitor.emit`: to all that serve, or to one."""

    AGENT = """
        import os, signal

        class Agent(Driven):
            async def initialize_server_worker(self, worker):
                await super().initialize_server_worker(worker)
                worker.on("who", lambda args: worker.id)
                worker.on("who", lambda args: args)
                worker.on("odd", self.odd)
                worker.on("end", self.end)

            def odd(self, args):
                if self.worker.id == args:
                    raise LookupError(f"worker {args} has lost it")
                return "fine"

            def end(self, args):
                if self.worker.id == args:
                    os.kill(os.getpid(), signal.SIGKILL)
                return Deferred() if args is None else "alive"

            async def results(self, *args, **options):
                answers = await self.tried(self.monitor.emit(*args, **options))
                if set(answers) == {"type", "text"}:
                    return answers
                return {id: told(answer) if isinstance(answer, Exception) else answer
                        for id, answer in answers.items()}

            async def to_all(self):
                return await self.results("who", ["a"])

            async def one_fails(self):
                return await self.results("odd", 2)

            def one_dies(self):
                answers = ensureDeferred(self.results("end", 1))
                answers.addCallback(lambda answers: print("answers:", json.dumps(answers)))

            async def late(self):
                return await self.results("end", None, timeout=0.2)

            async def to_one(self):
                return [await self.tried(self.monitor.emit("who", worker=id)) for id in (2, 99)]
        """

    def test_all_and_one(self) -> None:
        """To all: a list of results for each that serves, or its error. To one: its results, or the failure."""
        session = self.driven(self.AGENT, "--workers", "2")
        session.serving(2)
        session.standby_ready()  # which is not asked: it does not serve
        self.assertEqual(ask(session, "monitor/to_all"), {"1": [1, ["a"]], "2": [2, ["a"]]})
        one, nobody = ask(session, "monitor/to_one")
        self.assertEqual(one, [2, None])
        self.assertEqual(nobody["type"], "PeerLost")
        self.assertIn("there is no worker 99", nobody["text"])
        fails = ask(session, "monitor/one_fails")
        self.assertEqual(fails["1"], ["fine"])
        self.assertEqual(fails["2"], {"type": "RemoteError", "text": "LookupError: worker 2 has lost it"})
        late = ask(session, "monitor/late")
        self.assertEqual(
            {id: answer["type"] for id, answer in late.items()}, dict.fromkeys("12", "EmitTimeout")
        )

    def test_one_dies(self) -> None:
        """A worker that dies in the middle of its answer is a `PeerLost` in its place, and costs no other answer."""
        session = self.driven(self.AGENT, "--workers", "2")
        session.serving(2)
        # The worker that is asked may be the one that dies, so nobody waits for its answer: the monitor tells.
        with session.connect() as connection:
            connection.sendall(b"GET /monitor/one_dies HTTP/1.0\r\n\r\n")
            line = json.loads(session.wait_for_line("answers: "))["text"]
        answers = json.loads(line.removeprefix("answers: "))
        self.assertEqual(answers["1"]["type"], "PeerLost")
        self.assertEqual(answers["2"], ["alive"])
