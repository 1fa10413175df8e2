"""A worker's application and agent: loaded in order, started, ended."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import ensureDeferred
from twisted.internet.testing import MemoryReactor

from serverworker.processes.application import Application
from serverworker.values.causes import CauseKind
from serverworker.values.errors import ApplicationError, ErrorRecord
from serverworker.values.settings import AppSettings
from tests.unit.written_modules import ModulesTestCase, without_marks


class Worker:
    """The part of a ServerWorker that is used here."""

    def __init__(self) -> None:
        self.reactor = MemoryReactor()
        self.ports = {"server": "tcp:8080"}
        self.sockets: dict[str, Any] = {}
        self.listens: dict[str, Any] = {}
        self.notes: list[str] = []

    def listen(self, name: str, factory: Any) -> None:
        self.listens[name] = factory
        self.notes.append(f"listens on {name}")


class ApplicationTestCase(ModulesTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.worker: Any = Worker()

    def application(self, **settings: Any) -> Application:
        return Application(AppSettings(**settings), self.worker)

    def loaded(self, **settings: str) -> Application:
        application = self.application(**settings)
        self.successResultOf(ensureDeferred(application.load()))
        return application


class LoadTests(ApplicationTestCase):
    """Imported, built and registered; nothing is started."""

    def test_nothing_yet(self) -> None:
        """Before it is loaded there is nothing to start, to stop or to tell."""
        application = self.application(resource="shop:root")
        self.assertEqual((application.description, application.needs_activation), ("", False))
        self.successResultOf(ensureDeferred(application.activate()))
        self.successResultOf(ensureDeferred(application.stop()))

    def test_ends_by_itself(self) -> None:
        """What a host tells of an end outside this process goes to whoever runs the application."""
        told: list[Any] = []
        application = Application(AppSettings(), self.worker, lambda *words: told.append(words))
        self.successResultOf(ensureDeferred(application.load()))
        assert application._host is not None
        error = ErrorRecord(type="x", message="it was killed")
        application._host.broken(error, CauseKind.SIGNAL)
        self.assertEqual(told, [(error, CauseKind.SIGNAL)])

    def test_welcome(self) -> None:
        """Without application and agent the welcome page is served."""
        application = self.loaded()
        self.assertEqual(application.description, "the welcome page")
        self.assertFalse(application.needs_activation)
        self.assertEqual(list(self.worker.listens), ["server"])

    def test_application(self) -> None:
        """An application is what it was found to be."""
        self.module("shop_a", "def work(worker): worker.notes.append('works')")
        application = self.loaded(resource="shop_a:work")
        self.assertEqual(application.description, "work callable shop_a:work")
        self.assertTrue(application.needs_activation)
        self.assertEqual(self.worker.notes, [])
        self.successResultOf(ensureDeferred(application.activate()))
        self.assertEqual(self.worker.notes, ["works"])

    def test_agent_alone(self) -> None:
        """An agent without an application listens by itself, and no welcome page is in its way."""
        self.module(
            "shop_b",
            """
            from serverworker import SessionAgent
            class Shop(SessionAgent):
                async def initialize_server_worker(self, worker):
                    worker.listen("server", "the agent's")
            """,
        )
        application = self.loaded(agent="shop_b:Shop")
        self.assertEqual(self.worker.listens, {"server": "the agent's"})
        self.assertEqual(application.description, "what the session agent listens with")
        self.assertFalse(application.needs_activation)

    def test_both(self) -> None:
        """With both, the application registers first, then the agent; an agent's class may be in the same module."""
        self.module(
            "shop_c",
            """
            from serverworker import SessionAgent
            from twisted.web.resource import Resource
            root = Resource()
            class Shop(SessionAgent):
                def initialize_server_worker(self, worker):
                    worker.notes.append("agent")
            """,
        )
        self.loaded(resource="shop_c:root", agent="shop_c:Shop")
        self.assertEqual(self.worker.notes, ["listens on server", "agent"])

    def test_stop(self) -> None:
        """What was started is stopped."""
        self.module(
            "shop_d",
            """
            from twisted.application.service import Service
            class Shop(Service):
                def stopService(self):
                    raise ValueError("stopped")
            """,
        )
        application = self.loaded(resource="shop_d:Shop")
        self.successResultOf(ensureDeferred(application.activate()))
        self.failureResultOf(ensureDeferred(application.stop()), ValueError)


class FailureTests(ApplicationTestCase):
    """What cannot be loaded, and how that is told."""

    def failure(self, **settings: str) -> tuple[Application, BaseException]:
        application = self.application(**settings)
        error = self.failureResultOf(ensureDeferred(application.load())).value
        assert error is not None
        return application, error

    def test_not_there(self) -> None:
        """What is not there is told in a text that is enough: no traceback stands behind it."""
        application, error = self.failure(resource="no_shop:root")
        self.assertIsInstance(error, ApplicationError)
        record = application.describe_error(error)
        self.assertEqual((record.message, record.traceback), (str(error), ""))

    def test_agent_that_raises(self) -> None:
        """Of what the agent raises, the traceback has the agent's lines and none of ours."""
        self.module(
            "shop_e",
            """\
            from serverworker import SessionAgent
            class Shop(SessionAgent):
                async def initialize_server_worker(self, worker):
                    self.open()
                def open(self):
                    raise OSError("no pages")
            """,
        )
        application, error = self.failure(agent="shop_e:Shop")
        record = application.describe_error(error)
        self.assertEqual((record.type, record.message), ("builtins.OSError", "no pages"))
        self.assertEqual(
            without_marks(record.traceback),
            f"""\
Traceback (most recent call last):
  File "{self.folder}/shop_e.py", line 4, in initialize_server_worker
    self.open()
  File "{self.folder}/shop_e.py", line 6, in open
    raise OSError("no pages")
OSError: no pages""",
        )

    def test_agent_is_loaded_first(self) -> None:
        """A misspelt agent is told before the application is imported: that may take long."""
        self.module("shop_f", "raise RuntimeError('imported')")
        _, error = self.failure(resource="shop_f:root", agent="no_agent:Shop")
        self.assertIn("no_agent", str(error))
