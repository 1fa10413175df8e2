"""Plugins of twistd in a worker: found, their arguments read, their service made, started and stopped."""

from __future__ import annotations

from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import ensureDeferred
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactor
from twisted.python.usage import Options, UsageError
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.server import Site

from serverworker.processes.hosts import plugin as plugin_module
from serverworker.processes.hosts.plugin import PluginHost, load_plugin
from serverworker.values.errors import ApplicationError
from tests.unit.test_redirection import Worker


class Serving(Service):
    """A service that listens on ports, and notes what is done to it."""

    def __init__(self, reactor: Any, numbers: list[int]) -> None:
        self.reactor = reactor
        self.numbers = numbers
        self.done: list[str] = []

    def startService(self) -> None:
        self.done.append("start")
        for number in self.numbers:
            self.reactor.listenTCP(number, Factory())

    def stopService(self) -> None:
        self.done.append("stop")


class Arguments(Options):
    optParameters = [["port", "p", "8080", "Where."]]

    def postOptions(self) -> None:
        if self["port"] == "explode":
            raise ImportError("no module named bcrypt")
        if not self["port"].isdecimal():
            raise UsageError("the port is a number")


class Maker:
    """An IServiceMaker."""

    tapname = "files"
    options = Arguments

    def __init__(self) -> None:
        self.answer: Any = None
        self.given: Any = None

    def makeService(self, options: Any) -> Any:
        self.given = options
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class PluginTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.maker: Any = Maker()
        import twisted.plugin

        self.patch(twisted.plugin, "getPlugins", lambda interface: [self.maker])
        self.reactor = MemoryReactor()
        self.worker: Any = Worker(self.reactor)

    def refused(self, *words: str) -> str:
        return str(self.assertRaises(ApplicationError, load_plugin, words))


class FindTests(PluginTestCase):
    """The name, and what it is given."""

    def test_arguments(self) -> None:
        """The plugin reads its own arguments."""
        host: Any = load_plugin(["files", "--port", "8081"])
        self.assertEqual((host.description, host.needs_activation), ("plugin files", True))
        self.assertEqual(host._options["port"], "8081")

    def test_near(self) -> None:
        """A name that does not exist is told with the nearest one."""
        self.assertEqual(
            self.refused("flies"), "-- flies: there is no plugin 'flies' of twistd; did you mean 'files'?"
        )

    def test_itself(self) -> None:
        """A session in a session's worker is refused."""
        self.assertIn("a session does not run in another's worker", self.refused("serverworker"))

    def test_wrong_usage(self) -> None:
        """The plugin's own words, and where to read more."""
        self.assertEqual(
            self.refused("files", "--port", "x"),
            "-- files: the port is a number; `twistd files --help` tells its options",
        )
        self.assertIn("option --prot not recognized", self.refused("files", "--prot", "1"))

    def test_help(self) -> None:
        """What ends the process is told."""
        import sys

        self.patch(sys, "stdout", __import__("io").StringIO())
        self.assertIn("ended the process instead of starting anything", self.refused("files", "--help"))

    def test_missing_module(self) -> None:
        """What its options raise is told with the traceback."""
        text = self.refused("files", "--port", "explode")
        self.assertIn("-- files failed at its arguments:\n", text)
        self.assertIn("no module named bcrypt", text)


class RunTests(PluginTestCase):
    """The service's life."""

    def host(self, *numbers: int) -> PluginHost:
        self.service = self.maker.answer = Serving(self.reactor, list(numbers))
        host = load_plugin(["files"])
        assert isinstance(host, PluginHost)
        host.register(self.worker)
        return host

    def activate(self, host: PluginHost) -> Any:
        return ensureDeferred(host.activate(self.worker))

    def test_life(self) -> None:
        """Made at load, started when promoted, stopped at the end; what it listens on is the worker's."""
        host = self.host(8080)
        self.assertEqual((self.service.done, self.worker.listens), ([], {}))
        self.successResultOf(self.activate(host))
        self.assertEqual((self.service.done, list(self.worker.listens)), (["start"], ["server"]))
        self.successResultOf(ensureDeferred(host.stop()))
        self.assertEqual(self.service.done, ["start", "stop"])

    def test_stopped_unmade(self) -> None:
        """One that was never made has nothing to stop."""
        host: Any = load_plugin(["files"])
        self.successResultOf(ensureDeferred(host.stop()))

    def test_another_port(self) -> None:
        """On a port of another name it need not speak HTTP: the worker answers on ``server`` itself."""
        self.successResultOf(self.activate(self.host(8080, 9999)))
        self.assertNotIsInstance(self.worker.listens["server"], Site)
        self.worker.listens.clear()
        self.successResultOf(self.activate(self.host_on_local()))
        self.assertEqual(sorted(self.worker.listens), ["local", "server"])
        self.assertIsInstance(self.worker.listens["server"], Site)

    def host_on_local(self) -> PluginHost:
        self.reactor = MemoryReactor()
        self.worker = Worker(self.reactor)
        return self.host(4321)

    def test_elsewhere(self) -> None:
        """One that listens on nothing of the session's fails, and says what there is."""
        failure = self.failureResultOf(self.activate(self.host(9999)), ApplicationError)
        self.assertIn("the plugin files listens on tcp:9999, which is no port of", failure.getErrorMessage())

    def test_binds_by_itself(self) -> None:
        """With bind = false the reactor is left as it is."""
        self.worker.sockets = {}
        self.successResultOf(self.activate(self.host(8080)))
        self.assertEqual((len(self.reactor.tcpServers), self.worker.listens), (1, {}))

    def test_making_fails(self) -> None:
        """What makeService raises is told with its traceback."""
        self.maker.answer = ValueError("Unknown endpoint type: 'foo'")
        host: Any = load_plugin(["files"])
        error = self.assertRaises(ApplicationError, host.register, self.worker)
        self.assertIn("-- files: making its service failed:\n", str(error))
        self.assertIn("Unknown endpoint type", str(error))

    def test_no_service(self) -> None:
        """So is an answer that is no service."""
        self.maker.answer = 7
        host: Any = load_plugin(["files"])
        error = self.assertRaises(ApplicationError, host.register, self.worker)
        self.assertIn("its makeService answered 7, no IService", str(error))


class RealPluginTests(SynchronousTestCase):
    """Twisted's own."""

    def test_web(self) -> None:
        """`twistd web` is found among the real plugins, and reads its arguments."""
        host: Any = load_plugin(["web", "--listen", "tcp:8080"])
        self.assertEqual(host._options["ports"], ["tcp:8080"])
        text = str(self.assertRaises(ApplicationError, load_plugin, ["wbe"]))
        self.assertIn("did you mean 'web'?", text)
        self.assertEqual(plugin_module._OURS, "serverworker")
