"""What an application in a worker has of its session."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from serverworker.processes.role import ProcessRole
from serverworker.processes.server_worker import ServerWorker
from serverworker.values.errors import AlreadyLaunched, WrongProcess
from serverworker.wire import commands
from serverworker.wire.emits import Handlers


class RecordingLink:
    """The far end hears nothing; what was said is kept."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, dict[str, Any]]] = []
        self.emitted: list[tuple[str, Any, float]] = []

    def tell(self, command: Any, /, **args: Any) -> None:
        self.told.append((command, args))

    def emit(self, name: str, args: Any = None, timeout: float = 60.0) -> Deferred[list[Any]]:
        self.emitted.append((name, args, timeout))
        return Deferred()


class Recorder:
    """Stands for listeners, and for exit handlers."""

    addresses = {"server": "tcp:8080", "socket": "tcp:4321"}
    sockets = {"server": "a socket"}

    def __init__(self) -> None:
        self.given: list[Any] = []

    def listen(self, name: str, factory: Any) -> None:
        self.given.append((name, factory))

    def add(self, handler: Any) -> None:
        self.given.append(handler)


class ServerWorkerTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.patch(ServerWorker, "_current", None)
        self.link = RecordingLink()
        self.handlers = Handlers()
        self.listeners = Recorder()
        self.exit_handlers = Recorder()
        self.drain_hooks = Recorder()

    def make(
        self, *, role: ProcessRole | None = None, key: str = "secret", emit_seconds: float = 60.0
    ) -> ServerWorker:
        listeners: Any = self.listeners
        exit_handlers: Any = self.exit_handlers
        drain_hooks: Any = self.drain_hooks
        return ServerWorker(
            worker_id=3,
            generation=2,
            reactor=Clock(),
            link=self.link,
            handlers=self.handlers,
            listeners=listeners,
            exit_handlers=exit_handlers,
            drain_hooks=drain_hooks,
            emit_seconds=emit_seconds,
            session_key=key,
            role=role or ProcessRole(),
        )


class IdentityTests(ServerWorkerTestCase):
    """There is one in a worker, and none elsewhere (rows W1 and W2)."""

    def test_who_it_is(self) -> None:
        """Its number, its generation and the reactor of its process are public."""
        worker = self.make()
        self.assertEqual((worker.id, worker.generation), (3, 2))
        self.assertIsInstance(worker.reactor, Clock)

    def test_current(self) -> None:
        """`current` is the one of this process; without one it is a clear error."""
        error = self.assertRaises(WrongProcess, ServerWorker.current)
        self.assertIn("was not started by `twistd serverworker`", str(error))
        worker = self.make()
        self.assertIs(ServerWorker.current(), worker)

    def test_second(self) -> None:
        """A second one is refused, and the first stays the current one."""
        role = ProcessRole()
        first = self.make(role=role)
        self.assertRaises(AlreadyLaunched, self.make, role=role)
        self.assertIs(ServerWorker.current(), first)

    def test_in_the_monitor(self) -> None:
        """In a monitor it cannot be made, and none is the current one afterwards."""
        role = ProcessRole()
        role.take("monitor")
        self.assertRaises(WrongProcess, self.make, role=role)
        self.assertRaises(WrongProcess, ServerWorker.current)
        self.assertEqual(role.role, "monitor")


class VersionTests(ServerWorkerTestCase):
    """What the code that is deployed is called."""

    def test_said(self) -> None:
        """The application says it; until then it is what the configuration says, here nothing."""
        worker = self.make()
        self.assertEqual(worker.version, "")
        worker.version = "2.4.1 (a1b2c3d)"
        self.assertEqual(worker.version, "2.4.1 (a1b2c3d)")

    def test_bad(self) -> None:
        """It is one short line of text: whatever else is refused, and changes nothing."""
        worker = self.make()
        bad: Any
        for bad in (None, 2.4, "2.4\n", "x" * 101):
            with self.assertRaises(ValueError) as caught:
                worker.version = bad
            self.assertIn("one line of at most 100 printable characters, not ", str(caught.exception))
        self.assertEqual(worker.version, "")


class PortTests(ServerWorkerTestCase):
    """The session's ports."""

    def test_ports(self) -> None:
        """Their names and addresses are there to be read."""
        self.assertEqual(self.make().ports, {"server": "tcp:8080", "socket": "tcp:4321"})

    def test_sockets(self) -> None:
        """So are their sockets, for who hands them on."""
        self.assertEqual(self.make().sockets, {"server": "a socket"})

    def test_listen(self) -> None:
        """What is to serve a port goes to the listeners."""
        factory: Any = object()
        self.make().listen("socket", factory)
        self.assertEqual(self.listeners.given, [("socket", factory)])


class IpcTests(ServerWorkerTestCase):
    """Emits and handlers (rows W6 and W7)."""

    def test_emit(self) -> None:
        """An emit goes to the monitor, with the session's deadline or its own."""
        worker = self.make(emit_seconds=12.0)
        worker.emit("backup", {"full": True})
        worker.emit("note")
        worker.emit("backup", [1], timeout=3)
        self.assertEqual(
            self.link.emitted,
            [("backup", {"full": True}, 12.0), ("note", None, 12.0), ("backup", [1], 3)],
        )

    def test_handlers(self) -> None:
        """Handlers come and go by name: one, or all of a name."""
        worker = self.make()

        def first(args: Any) -> None:
            """Handle."""

        def second(args: Any) -> None:
            """Handle."""

        worker.on("forget", first)
        worker.on("forget", second)
        worker.on("other", first)
        self.assertEqual(self.handlers.registered("forget"), (first, second))
        worker.off("forget", first)
        self.assertEqual(self.handlers.registered("forget"), (second,))
        worker.off("forget", first)
        worker.clear_message_listeners("forget")
        self.assertEqual(self.handlers.names, ("other",))


class SessionTests(ServerWorkerTestCase):
    """What it asks of the session."""

    def test_kill_session(self) -> None:
        """The whole session is asked to end, gently and with 0 unless said otherwise (row W5)."""
        worker = self.make()
        worker.kill_session("the licence has run out")
        worker.kill_session("now", graceful=False, error_code=9)
        self.assertEqual(
            self.link.told,
            [
                (commands.KillSession, {"reason": "the licence has run out", "graceful": True, "status": 0}),
                (commands.KillSession, {"reason": "now", "graceful": False, "status": 9}),
            ],
        )

    def test_kill_session_with_a_wrong_status(self) -> None:
        """A status that no process can end with is refused at once: 256 would be told as 0."""
        worker = self.make()
        wrong: Any
        for wrong in (-1, 256, "1", 1.0, None, True):
            error = self.assertRaises(ValueError, worker.kill_session, "enough", error_code=wrong)
            self.assertIn(f"0 to 255, not {wrong!r}", str(error))
        worker.kill_session("enough", error_code=255)
        self.assertEqual(len(self.link.told), 1)

    def test_lifecycle_notification(self) -> None:
        """A notification goes to the monitor as text, whatever it is (row W8)."""
        worker = self.make()
        worker.lifecycle_notification("the index is being built")
        notification: Any = 42
        worker.lifecycle_notification(notification)
        self.assertEqual(
            self.link.told,
            [(commands.Note, {"text": "the index is being built"}), (commands.Note, {"text": "42"})],
        )

    def test_add_exit_handler(self) -> None:
        """An exit handler is kept for the end (row W4)."""

        def handler(reason: Any) -> None:
            """Tell the clients."""

        self.make().add_exit_handler(handler)
        self.assertEqual(self.exit_handlers.given, [handler])

    def test_on_drain(self) -> None:
        """What is to be done when the worker drains is called without arguments."""
        calls: list[str] = []
        self.make().on_drain(lambda: calls.append("drains"))
        (hook,) = self.drain_hooks.given
        hook(None)
        self.assertEqual(calls, ["drains"])


class KeyTests(ServerWorkerTestCase):
    """The session key (row M12)."""

    def test_authorizes(self) -> None:
        """The key itself does, as text and as bytes; nothing else does, and nothing raises."""
        worker = self.make(key="schlüssel")
        self.assertTrue(worker.authorizes("schlüssel"))
        self.assertTrue(worker.authorizes("schlüssel".encode()))
        for wrong in ("", b"", "schlussel", "schlüssel ", "schlüsse", b"\xff", "\ud800", "x" * 100_000):
            self.assertFalse(worker.authorizes(wrong), wrong[:20])

    def test_without_a_key(self) -> None:
        """Where there is no key, nothing is one: the empty text least of all."""
        worker = self.make(key="")
        self.assertFalse(worker.authorizes(""))
        self.assertFalse(worker.authorizes(b""))

    def test_is_not_shown(self) -> None:
        """The key stands in no repr."""
        self.assertNotIn("secret", repr(self.make(key="secret")))
