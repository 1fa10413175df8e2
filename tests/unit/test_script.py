"""Modules that listen and run the reactor by themselves when they are imported, as Klein's first examples do."""

from __future__ import annotations

from typing import Any

from klein import _app
from twisted.internet.testing import MemoryReactor
from twisted.python import log

from serverworker.processes.hosts.resource import load
from serverworker.processes.hosts.script import run_as_script
from serverworker.values.errors import ApplicationError
from tests.unit.test_redirection import Worker
from tests.unit.written_modules import ModulesTestCase

SCRIPT = """
from klein import Klein
app = Klein()

@app.route("/")
def home(request):
    return "Hello, world!"

app.run("localhost", 8080)
"""


class ScriptTests(ModulesTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.reactor: Any = MemoryReactor()
        self.worker: Any = Worker(self.reactor)
        # Klein takes the process's reactor, and its log.
        self.patch(_app, "reactor", self.reactor)
        self.patch(log, "startLogging", lambda stream: None)

    def run_script(self, text: str, port: int = 8080) -> Any:
        """Import a module of this text, named after the test, as an application."""
        name = self.id().rpartition(".")[2]
        self.module(name, text.replace("8080", str(port)))
        return load(f"{name}:app", self.worker)

    def test_listens(self) -> None:
        """What it listens with on a session's port is what is served; its `reactor.run` does not get in the way."""
        host = self.run_script(SCRIPT)
        self.assertEqual(host.description, "script test_listens, which listens by itself")
        self.assertEqual(list(self.worker.listens), ["server"])
        self.assertFalse(host.needs_activation)

    def test_another_port(self) -> None:
        """On another port it is told that the two must be the same."""
        error = self.assertRaises(ApplicationError, self.run_script, SCRIPT, 9999)
        self.assertIn(
            "test_another_port listens on tcp:9999:interface=localhost, which is no port", str(error)
        )

    def test_reactor_afterwards(self) -> None:
        """Afterwards the reactor is as it was, whatever became of the module."""
        before = dict(vars(self.reactor))
        self.assertRaises(ZeroDivisionError, self.run_and_fail)
        self.assertEqual(vars(self.reactor), before)

    def run_and_fail(self) -> None:
        with run_as_script(self.worker, "script:app"):
            self.reactor.run()
            self.assertNotEqual(self.reactor.listenTCP, MemoryReactor.listenTCP)
            raise ZeroDivisionError

    def test_binds_by_itself(self) -> None:
        """With ``bind = false`` its `reactor.run` returns too, and it has its own socket."""
        self.worker.sockets = {}
        self.runs: list[object] = []
        self.patch(MemoryReactor, "run", self.runs.append)
        with run_as_script(self.worker, "script:app") as redirection:
            self.reactor.listenTCP(8080, None)
            self.reactor.run()
        self.assertEqual((redirection.taken, len(self.reactor.tcpServers)), ([], 1))
        self.assertEqual(self.runs, [])
