"""The control port of real sessions: all that a client can do, on its unix socket."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import threading
import time
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import deferLater

from serverworker.control import Client
from serverworker.values.errors import BadCommand, ConfigurationError, NotDone, PortUnavailable
from tests.integration.controlled import ControlledCase
from tests.integration.sessions import LONG, wait_until


class Heard:
    """Collects the events of a subscription."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self._waiting: list[tuple[str, Deferred[dict[str, Any]]]] = []

    def __call__(self, event: dict[str, Any]) -> None:
        self.events.append(event)
        for each in tuple(self._waiting):
            if each[0] == event["event"]:
                self._waiting.remove(each)
                each[1].callback(event)

    def next(self, name: str) -> Deferred[dict[str, Any]]:
        """The next event of that name."""
        found: Deferred[dict[str, Any]] = Deferred()
        self._waiting.append((name, found))
        return found.addTimeout(LONG, reactor)

    @property
    def names(self) -> list[str]:
        return [event["event"] for event in self.events]


class LookingTests(ControlledCase):
    """What can be asked."""

    async def test_looking(self) -> None:
        """Status, commands, output, events, crash reports; and emits to workers, one of them, and the monitor."""
        session = self.controlled("--workers", "2")
        session.serving(2)
        client = await self.client(session)
        status = await client.status()
        self.assertEqual(
            (status["pid"], status["serving"], status["phase"]), (session.process.pid, 2, "running")
        )
        self.assertIn(["greet .+", "say hello"], await client.usages())
        self.assertEqual((await client.run(["greet", "Ada"]))["text"], "hello, Ada")

        echoed = await client.emit("echo", {"a": [1, "ż"]})
        self.assertEqual(echoed, {f"worker {each}": {"results": [{"a": [1, "ż"]}]} for each in (1, 2)})
        self.assertEqual(
            await client.emit("echo", "x" * 3_000_000, to=2), {"worker 2": {"results": ["x" * 3_000_000]}}
        )
        self.assertEqual(await client.emit("count", 41, to="monitor"), {"monitor": {"results": [42]}})
        failed = (await client.emit("fail", 7, to=1))["worker 1"]["error"]
        self.assertEqual(
            (failed["type"], failed["message"]),
            ("serverworker.values.errors.RemoteError", "ValueError: not 7"),
        )
        missing = (await client.emit("ecko", to=1))["worker 1"]["error"]["message"]
        self.assertIn("did you mean 'echo'?", missing)

        await client.emit("print", "printed by one", to=1)
        session.wait_for("OutputLine", matching=lambda event: event["text"] == "printed by one")
        lines = await client.logs(10, worker=1)
        self.assertEqual(lines[-1]["fields"]["text"], "printed by one")
        self.assertEqual([line for line in await client.logs(worker=2) if "printed by one" in str(line)], [])

        self.assertEqual(await client.crashes(), [])
        await client.emit("die", to=1)
        session.report_of(1)
        (summary,) = await client.crashes()
        self.assertEqual((summary["worker"], summary["cause"]), (1, "exit"))
        self.assertEqual(await client.crash(summary["id"]), await client.crash())
        self.assertIn("no crash report '../key'", await self.failure(client.crash("../key"), BadCommand))

        wait_until((session.state_directory / "journal.jsonl").exists, "the journal")
        died: list[Any] = []
        while not died:  # the journal is written behind the events
            died = await client.events(kinds=["WorkerDied"])
        self.assertEqual(died[0]["fields"]["worker"], 1)
        self.assertEqual(
            await client.events(kinds=["WorkerDied"], since=died[0]["fields"].get("at", 0) + 4e9), []
        )
        actions = [event for event in session.events if event["event"] == "OperatorAction"]
        self.assertIn("emit die to 1", [action["action"] for action in actions])
        self.assertTrue(
            all(action["who"].endswith(f"(uid {os.geteuid()}, pid {os.getpid()})") for action in actions)
        )


class DeedTests(ControlledCase):
    """What can be done."""

    async def test_deeds(self) -> None:
        """Polling, workers, ports, restarts that work and one that is dropped, and the end of the session."""
        session = self.controlled()
        client = await self.client(session)
        await client.set_polling(5)
        await client.set_workers(2)
        session.serving(2)
        status = await client.status()
        self.assertEqual((status["polling_interval_seconds"], status["count"]), (5, 2))
        self.assertIn("workers.count", await self.failure(client.set_workers(0), ConfigurationError))
        self.assertIn("polling", await self.failure(client.set_polling(-1), ConfigurationError))

        self.assertEqual(await client.restart(), "generation 2 serves")
        with socket.create_server(("127.0.0.1", 0)) as taken:
            number = taken.getsockname()[1]
            moving = client.set_port("server", f"tcp:{number}:interface=127.0.0.1", now=True)
            self.assertIn("in use", await self.failure(moving, PortUnavailable))
        await client.set_port("server", f"tcp:{number}:interface=127.0.0.1", now=True)
        session.moved_to(number)
        self.assertEqual(session.get(), (200, b"hello"))
        self.assertIn("port", await self.failure(client.set_port("sever", 1), ConfigurationError))

        module = session.folder / "agent.py"
        module.write_text("import nothing_of_that_name\n" + module.read_text())
        text = await self.failure(client.restart(), NotDone)
        self.assertIn("nothing_of_that_name", text)
        self.assertEqual(session.get(), (200, b"hello"))

        lost = client.lost()
        self.assertIn("the session has ended", await client.exit())
        await lost
        self.assertEqual(session.exit_status(), 0)
        self.assertFalse((session.state_directory / "control.json").exists())
        self.assertFalse((session.state_directory / "run" / "control").exists())

    async def test_two_at_once(self) -> None:
        """Of two operators who restart at once one does, and the other is told so."""
        session = self.controlled()
        clients = [await self.client(session) for _ in range(2)]
        outcomes = await DeferredList([each.restart() for each in clients], consumeErrors=True)
        self.assertEqual(sorted(ok for ok, _ in outcomes), [False, True])
        refused: Any
        (refused,) = [result for ok, result in outcomes if not ok]
        self.assertIsInstance(refused.value, NotDone)
        self.assertIn("restart", str(refused.value))
        self.assertEqual((await clients[0].status())["generation"], 2)


class EventTests(ControlledCase):
    """Following events."""

    async def test_reconnect(self) -> None:
        """A client that comes back goes on where it was, without a gap; in a new session it begins anew."""
        session = self.controlled()
        heard = Heard()
        client = await self.client(session)
        begun = await client.subscribe(heard, output=True)
        printed, spawned = heard.next("OutputLine"), heard.next("WorkerSpawned")
        await client.emit("print", "a line", to=1)
        await printed
        await client.emit("die", to=1, timeout=1)
        await spawned
        await deferLater(reactor, 0, lambda: None)  # it has been told
        position = client.position
        assert position is not None
        client.close()
        await client.lost()
        other = await self.client(session)
        await other.restart()
        client = await self.client(session)
        completed = heard.next("RestartCompleted")
        await client.subscribe(heard, since=position, output=True)
        await completed
        numbers = [event["sequence"] for event in heard.events]
        in_log = [event["sequence"] for event in session.events if event["event"] != "Heartbeat"]
        wanted = [each for each in in_log if begun.sequence < each <= numbers[-1]]
        self.assertEqual(numbers, wanted)
        for name in ("WorkerDied", "RestartStarted", "OutputLine"):
            self.assertIn(name, heard.names)

        position = client.position
        session.end()
        await client.lost()
        again = self.controlled(folder=session.folder)
        client = await self.client(again)
        started = heard.next("SessionStarted")
        now = await client.subscribe(heard, since=position)
        assert position is not None
        self.assertNotEqual(now.session, position.session)
        self.assertEqual((await started)["fields"]["pid"], again.process.pid)


class SocketTests(ControlledCase):
    """The socket itself."""

    async def test_mode(self) -> None:
        """Its file has the mode 0600 and never had another; its folder is this user's alone."""
        folder, modes = self.folder(), set()
        path = folder / "state" / "run" / "control"
        stop = threading.Event()

        def watch() -> None:
            while not stop.is_set():
                with contextlib.suppress(OSError):
                    modes.add(stat.S_IMODE(path.lstat().st_mode))
                time.sleep(0.0005)

        watching = threading.Thread(target=watch)
        watching.start()
        try:
            session = self.controlled(folder=folder)
            await self.client(session)
        finally:
            stop.set()
            watching.join()
        self.assertEqual(modes, {0o600})
        self.assertEqual(stat.S_IMODE(path.parent.stat().st_mode), 0o700)
        note = session.state_directory / "control.json"
        self.assertEqual(stat.S_IMODE(note.stat().st_mode), 0o600)
        self.assertEqual(json.loads(note.read_text())["control"], f"unix:{path}")

    async def test_named(self) -> None:
        """It may be elsewhere, by option, relative to the folder that the monitor was started in."""
        session = self.controlled("--control", "unix:steer")
        client = await self.client(session, f"unix:{session.folder}/steer")
        await client.status()
        note = json.loads((session.state_directory / "control.json").read_text())
        self.assertEqual(note["control"], f"unix:{session.folder}/steer")
        self.assertEqual(stat.S_IMODE((session.folder / "steer").stat().st_mode), 0o600)
        session.end()
        self.assertFalse((session.folder / "steer").exists())

    async def test_killed(self) -> None:
        """The socket that a killed monitor leaves behind is replaced by the next."""
        session = self.controlled()
        session.process.kill()
        session.exit_status()
        again = self.controlled(folder=session.folder)
        self.assertEqual((await (await self.client(again)).status())["pid"], again.process.pid)

    async def test_too_long(self) -> None:
        """With a path that no socket can have the session goes on without, and says what to do."""
        folder = self.folder()
        deep = folder / ("d" * 90)
        session = self.session("--state-dir", str(deep), folder=folder)
        fault = session.wait_for("Fault")
        self.assertEqual(fault["where"], "the control port")
        self.assertIn("choose a shorter", fault["error"]["message"])
        session.serving()
        self.assertEqual(session.get()[0], 200)

    async def test_many_idle(self) -> None:
        """A thousand connections that say nothing keep nobody out."""
        session = self.controlled()
        idle: list[socket.socket] = []
        for _ in range(1000):
            connection = socket.socket(socket.AF_UNIX)
            self.addCleanup(connection.close)
            idle.append(connection)
            connection.connect(f"{session.state_directory}/run/control")
        client: Client = await self.client(session)
        self.assertEqual((await client.status())["serving"], 1)
        self.assertLess((await client.status())["monitor"]["descriptors"], 600)
        self.assertEqual(session.get(), (200, b"hello"))
