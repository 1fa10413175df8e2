"""A worker begins: it joins, loads, activates, is ready, serves (rows W3, W9 and W13 of the original)."""

from __future__ import annotations

from importlib import import_module

from attrs import evolve
from twisted.python.failure import Failure

from serverworker.values.causes import Beat
from serverworker.values.errors import ValueTooLarge
from serverworker.values.settings import AppSettings, IpcSettings, PollingSettings, Settings
from serverworker.wire import commands
from tests.unit.worker_session_case import WorkerSessionTestCase


class StartTests(WorkerSessionTestCase):
    """From the first words to serving."""

    def test_order(self) -> None:
        """It says that it initialises, and how it was started; joins; loads (row W3). Nothing is polled yet."""
        self.start()
        self.assertEqual(self.monitor.names(), ["Note", "Join", "Loaded"])
        self.assertTrue(self.monitor.notes()[0].startswith("initializing process… ["))
        self.assertEqual(self.monitor.heard[1][1], {"version": 1, "worker": 3, "pid": 4711})
        loaded = self.monitor.heard[2][1]
        self.assertEqual(
            loaded,
            {"needs_activation": False, "application": f"Resource {self.name}:root", "version": ""},
        )
        self.assertEqual(self.heartbeats, [])
        self.assertEqual((self.worker().id, self.worker().generation), (3, 2))
        self.assertTrue(self.worker().authorizes("the key"))

    def test_version(self) -> None:
        """It tells what the application calls its code; else what the configuration does."""
        app = AppSettings(resource=f"{self.name}:root", version="2.4.1")
        self.monitor.settings = Settings(app=app)
        self.start()
        self.assertEqual(self.monitor.heard[2][1]["version"], "2.4.1")

    def test_activate(self) -> None:
        """Activated, it polls itself; its first success is told, and so is each beat (row W13)."""
        self.start()
        self.order(commands.Activate)
        self.assertEqual(self.heartbeats[0].done, ["start"])
        beat = Beat(at=1.0, ok=True, seconds=0.1, text="200")
        self.heartbeats[0].told(beat)
        self.heartbeats[0].first_success()
        self.reactor.turn()
        self.assertEqual(self.monitor.names()[-2:], ["BeatTold", "Ready"])
        self.assertEqual(self.monitor.heard[-2][1]["beat"]["text"], "200")

    def test_serve(self) -> None:
        """Only when it is to serve does it accept, and says on which ports."""
        self.start()
        self.order(commands.Activate)
        self.assertEqual(self.reactor.readers, [])
        self.order(commands.Serve)
        self.assertEqual(len(self.reactor.readers), 1)
        self.assertIn("(server)", self.monitor.notes()[-1])
        self.assertIn("listening on ", self.monitor.notes()[-1])

    def test_refused(self) -> None:
        """A monitor that refuses it is told what that means, and the process ends with 1."""
        self.monitor.refusal = commands.CommandFailed("install the same serverworker for both")
        self.start()
        self.assertEqual(self.monitor.names()[:3], ["Note", "Join", "CrashDetected"])
        self.assertIn("install the same", self.monitor.heard[2][1]["error"]["message"])
        self.assertEqual(self.ended, [(1, True)])
        self.flushLoggedErrors()

    def test_cannot_be_loaded(self) -> None:
        """An application that cannot be loaded is told as that, before the process ends with 1; it is no crash."""
        self.monitor.settings = Settings(app=AppSettings(resource="no_such_site:root"))
        self.start()
        self.assertEqual(self.monitor.names(), ["Note", "Join", "LoadFailed"])
        self.assertIn("no module 'no_such_site'", self.monitor.heard[-1][1]["error"]["message"])
        self.assertEqual(self.ended, [(1, True)])

    def test_leaves_while_loading(self) -> None:
        """A module that calls sys.exit is one that cannot be loaded."""
        self.module("leaver", "raise SystemExit(0)")
        self.monitor.settings = Settings(app=AppSettings(resource="leaver:root"))
        self.start()
        self.assertEqual(self.monitor.names()[-1], "LoadFailed")
        self.assertEqual(self.ended, [(1, True)])

    def test_set_polling_of_a_standby(self) -> None:
        """A new interval counts for a worker that is not polled yet as well (row W9)."""
        self.start()
        self.order(commands.SetPolling, seconds=3.0)
        self.order(commands.Activate)
        self.assertEqual(self.heartbeats[0].settings.polling, PollingSettings(interval_seconds=3.0))

    def test_set_polling(self) -> None:
        """One that is polled is polled so at once."""
        self.bring_up()
        self.order(commands.SetPolling, seconds=3.0)
        self.assertEqual(self.heartbeats[0].done[-1], 3.0)

    def test_large_values(self) -> None:
        """The session's own cap on values holds in the worker too."""
        self.monitor.settings = evolve(self.monitor.settings, ipc=IpcSettings(maximum_bytes=1024))
        self.start()
        self.failureResultOf(self.worker().emit("keep", "x" * 2000), ValueTooLarge)

    def test_ping(self) -> None:
        """A ping is answered, whatever it is at."""
        self.order(commands.Ping)


class WorkTests(WorkerSessionTestCase):
    """`work` fails, or is slow."""

    application = """
        from twisted.internet.defer import Deferred
        result = Deferred()
        def root(worker):
            return result
        """

    def test_slow(self) -> None:
        """Nothing is polled before it has done."""
        self.start()
        self.order(commands.Activate)
        self.assertEqual(self.heartbeats[0].done, [])
        import_module(self.name).result.callback(None)
        self.assertEqual(self.heartbeats[0].done, ["start"])

    def test_fails(self) -> None:
        """What it fails with is a crash."""
        self.start()
        self.order(commands.Activate)
        import_module(self.name).result.errback(Failure(OSError("no data base")))
        self.reactor.turn()
        self.assertEqual(self.monitor.heard[3][0], "CrashDetected")
        self.assertEqual(self.monitor.heard[3][1]["error"]["message"], "no data base")
        self.assertEqual(self.ended, [(1, True)])

    def test_too_late(self) -> None:
        """What is done when it leaves already is polled no more."""
        self.start()
        self.order(commands.Activate)
        self.leave()
        import_module(self.name).result.callback(None)
        self.assertNotIn("start", self.heartbeats[0].done)
