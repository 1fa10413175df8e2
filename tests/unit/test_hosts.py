"""What an application may be, and how each kind is run."""

from __future__ import annotations

from typing import Any

from klein import Klein
from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred, ensureDeferred, succeed
from twisted.internet.testing import MemoryReactor
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import Site
from zope.interface import classImplements

from serverworker.processes.hosts.interface import Host
from serverworker.processes.hosts.resource import (
    KINDS,
    AgentHost,
    ServiceHost,
    SiteHost,
    WorkHost,
    host_for,
    load,
)
from serverworker.values.errors import ApplicationError
from tests.unit.test_redirection import Worker
from tests.unit.written_modules import ModulesTestCase


class Listening:
    """The part of a ServerWorker that hosts use."""

    def __init__(self) -> None:
        self.factories: dict[str, Any] = {}

    def listen(self, name: str, factory: Any) -> None:
        self.factories[name] = factory


class Noting(Service):
    """A service that notes what is done to it."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.stopping: Deferred[None] | None = None

    def privilegedStartService(self) -> None:
        self.done.append("privileged")

    def startService(self) -> None:
        self.done.append("start")

    def stopService(self) -> Deferred[None] | None:
        self.done.append("stop")
        return self.stopping


class Page(Resource):
    isLeaf = True


class WantsArguments(Resource):
    def __init__(self, pages: str) -> None:
        super().__init__()


class Explodes(Service):
    def __init__(self) -> None:
        raise OSError("no data base")


class NoKind:
    """Neither a Resource nor a service."""


class HostTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.worker: Any = Listening()

    def host(self, application: Any) -> Host:
        return host_for(application, "mysite.web:root")

    def register(self, host: Host) -> dict[str, Any]:
        """What it listens with."""
        host.register(self.worker)
        return dict(self.worker.factories)

    def done(self, coroutine: Any) -> Any:
        return self.successResultOf(ensureDeferred(coroutine))

    def refused(self, application: Any) -> str:
        return str(self.assertRaises(ApplicationError, self.host, application))


class KindTests(HostTestCase):
    """What is recognised as what."""

    def assert_site(self, host: Host, resource: Any, description: str) -> None:
        self.assertIsInstance(host, SiteHost)
        self.assertEqual(host.description, description)
        self.assertFalse(host.needs_activation)
        site = self.register(host)["server"]
        self.assertIsInstance(site, Site)
        if isinstance(resource, type):
            self.assertIsInstance(site.resource, resource)
        else:
            self.assertIs(site.resource, resource)

    def test_resource(self) -> None:
        """A Resource is served by a Site of ours."""
        page = Page()
        self.assert_site(self.host(page), page, "Resource mysite.web:root")

    def test_resource_class(self) -> None:
        """A Resource's class is made."""
        self.assert_site(self.host(Page), Page, "Resource mysite.web:root")

    def test_site(self) -> None:
        """A Site is served as it is."""
        site = Site(Page())
        host = self.host(site)
        self.assertEqual(host.description, "Site mysite.web:root")
        self.assertIs(self.register(host)["server"], site)

    def test_klein(self) -> None:
        """A Klein application is served by its resource."""
        app = Klein()
        host = self.host(app)
        self.assertEqual(host.description, "Klein application mysite.web:root")
        self.assertFalse(host.needs_activation)
        self.assertIs(self.register(host)["server"].resource._app, app)

    def test_service(self) -> None:
        """A service, or its class, is one; it listens with nothing before it is started."""
        for application in (Noting(), Noting):
            host = self.host(application)
            self.assertIsInstance(host, ServiceHost)
            self.assertEqual(host.description, "IService mysite.web:root")
            self.assertTrue(host.needs_activation)
            self.assertEqual(self.register(host), {})

    def test_service_by_interface(self) -> None:
        """What it is counts, not what it inherits from."""

        class Foreign:
            """Provides nothing of it, but says so."""

        classImplements(Foreign, IService)  # type: ignore[misc]  # what it leaves out is the point
        self.assertIsInstance(self.host(Foreign()), ServiceHost)
        self.assertIsInstance(self.host(Foreign), ServiceHost)

    def test_work(self) -> None:
        """Any other callable is the original's `work`: a function, a method, a partial, an object."""

        class Callable:
            def __call__(self, worker: Any) -> None:
                """Work."""

            def method(self, worker: Any) -> None:
                """Work."""

        for application in (lambda worker: None, Callable(), Callable().method):
            host = self.host(application)
            self.assertIsInstance(host, WorkHost)
            self.assertEqual(host.description, "work callable mysite.web:root")
            self.assertTrue(host.needs_activation)
            self.assertEqual(self.register(host), {})

    def test_agent_alone(self) -> None:
        """Without an application the agent listens by itself, and there is nothing to start or stop."""
        host = AgentHost()
        self.assertEqual(self.register(host), {})
        self.assertFalse(host.needs_activation)
        self.done(host.activate(self.worker))
        self.done(host.stop())


class RefusedTests(HostTestCase):
    """What is none of them."""

    def test_a_value(self) -> None:
        """A value of another kind: what it is, of which type, and all that it may be."""
        self.assertEqual(self.refused(42), f"--app mysite.web:root is 42, of type int; it may be {KINDS}")
        self.assertIn("is None, of type NoneType", self.refused(None))
        self.assertIn("of type NoKind", self.refused(NoKind()))

    def test_a_long_value(self) -> None:
        """Of a long one no more than 200 characters are shown."""
        text = self.refused("x" * 10_000)
        self.assertLess(len(text), 300 + len(KINDS))

    def test_a_module(self) -> None:
        """A module that was named instead of what is in it is none of them."""
        import tests

        self.assertIn("of type module", self.refused(tests))

    def test_another_class(self) -> None:
        """A class that is neither a Resource nor a service is not called to see what comes out."""
        self.assertEqual(
            self.refused(NoKind), f"--app mysite.web:root is the class NoKind; it may be {KINDS}"
        )

    def test_a_class_that_wants_arguments(self) -> None:
        """A class that cannot be made without arguments: which one it wants."""
        text = self.refused(WantsArguments)
        self.assertTrue(
            text.startswith(
                "--app mysite.web:root: the class WantsArguments cannot be made without arguments:\n"
            ),
            text,
        )
        self.assertIn("missing 1 required positional argument: 'pages'", text)

    def test_a_class_that_raises(self) -> None:
        """A class that raises when it is made: its traceback, without our lines."""
        text = self.refused(Explodes)
        self.assertIn('raise OSError("no data base")', text)
        self.assertNotIn("processes/hosts/", text)
        self.assertTrue(text.endswith("OSError: no data base"), text)


class LifeTests(HostTestCase):
    """Started, and stopped."""

    def test_site(self) -> None:
        """A site has nothing to start or to stop."""
        host = self.host(Page())
        self.done(host.activate(self.worker))
        self.done(host.stop())

    def test_service(self) -> None:
        """A service is started as twistd starts it, and what its stopService returns is waited for."""
        service = Noting()
        service.stopping = Deferred()
        host = self.host(service)
        self.register(host)
        self.assertEqual(service.done, [])
        self.done(host.activate(self.worker))
        self.assertEqual(service.done, ["privileged", "start"])
        stopped = ensureDeferred(host.stop())
        self.assertNoResult(stopped)
        service.stopping.callback(None)
        self.successResultOf(stopped)
        self.assertEqual(service.done, ["privileged", "start", "stop"])

    def test_service_that_was_never_started(self) -> None:
        """A standby that leaves stops nothing: some of Twisted's services cannot be stopped before they ran."""
        service = Noting()
        host = self.host(service)
        self.register(host)
        self.done(host.stop())
        self.assertEqual(service.done, [])

    def test_service_that_cannot_start(self) -> None:
        """What startService raises is the activation's failure; what had started is stopped all the same."""

        class Half(Noting):
            def startService(self) -> None:
                raise OSError("no data base")

        service = Half()
        host = self.host(service)
        self.failureResultOf(ensureDeferred(host.activate(self.worker)), OSError)
        self.done(host.stop())
        self.assertEqual(service.done, ["privileged", "stop"])

    def test_work(self) -> None:
        """`work` gets the worker, once, when it is activated; plain, Deferred and coroutine alike."""
        waiting: Deferred[None] = Deferred()

        async def coroutine(worker: Any) -> None:
            await waiting
            worker.listen("server", "by a coroutine")

        def plain(worker: Any) -> None:
            worker.listen("server", "by a function")

        host = self.host(plain)
        self.done(host.activate(self.worker))
        self.assertEqual(self.worker.factories, {"server": "by a function"})
        activated = ensureDeferred(self.host(coroutine).activate(self.worker))
        self.assertNoResult(activated)
        waiting.callback(None)
        self.successResultOf(activated)
        self.assertEqual(self.worker.factories, {"server": "by a coroutine"})
        self.done(self.host(lambda worker: succeed(None)).activate(self.worker))

    def test_work_that_fails(self) -> None:
        """What it raises is the activation's failure."""

        async def later(worker: Any) -> None:
            raise KeyError("later")

        def at_once(worker: Any) -> None:
            raise ValueError("at once")

        self.failureResultOf(ensureDeferred(self.host(later).activate(self.worker)), KeyError)
        self.failureResultOf(ensureDeferred(self.host(at_once).activate(self.worker)), ValueError)

    def test_work_that_returns_a_service(self) -> None:
        """A service that it answers, in whatever way, is started and stopped."""

        def plain(worker: Any) -> Service:
            return made[-1]

        def deferred(worker: Any) -> Deferred[Service]:
            return succeed(made[-1])

        async def coroutine(worker: Any) -> Service:
            return made[-1]

        made: list[Noting] = []
        for work in (plain, deferred, coroutine):
            made.append(Noting())
            host = self.host(work)
            self.done(host.activate(self.worker))
            self.done(host.stop())
            self.assertEqual(made[-1].done, ["privileged", "start", "stop"])

    def test_work_that_was_never_called(self) -> None:
        """A standby that leaves has nothing to stop."""
        host = self.host(lambda worker: Noting())
        self.done(host.stop())


def script_worker() -> Any:
    """The worker of a module that may listen when it is imported."""
    return Worker(MemoryReactor())


class LoadTests(ModulesTestCase):
    """From the name of an application to its host."""

    def test_load(self) -> None:
        """What was named is imported, and its kind is found."""
        self.module("shop.web", "from twisted.web.resource import Resource\nroot = Resource()")
        self.assertEqual(load("shop.web:root", script_worker()).description, "Resource shop.web:root")

    def test_not_there(self) -> None:
        """What is not there is told of the option ``--app``."""
        error = self.assertRaises(ApplicationError, load, "no_shop.web:root", script_worker())
        self.assertIn("--app no_shop.web:root: there is no module 'no_shop'", str(error))
