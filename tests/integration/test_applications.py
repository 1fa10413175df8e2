"""Every kind of ``--app``, as a real session runs it: found out by interface, served, ended."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import stat
import tempfile
from functools import partial
from pathlib import Path
from typing import Any
from unittest import SkipTest

from tests.integration.sessions import LONG, SessionTestCase, TestSession

HELLO = """
    from twisted.web.resource import Resource
    from twisted.web.server import Site

    class Hello(Resource):
        isLeaf = True

        def render_GET(self, request):
            return b"hello at " + request.path

    hello = Hello()
    site = Site(hello)
    """


def printed(session: TestSession) -> list[str]:
    """What workers have printed so far, each as ``worker 1: text``."""
    return [
        f"{event['source']}: {event['text']}" for event in session.events if event["event"] == "OutputLine"
    ]


def position(session: TestSession, name: str, **fields: Any) -> int:
    """Where the first event of that name and these fields stands among all."""
    return session.events.index(
        session.wait_for(
            name, matching=lambda event: all(event[key] == value for key, value in fields.items())
        )
    )


class SiteTests(SessionTestCase):
    """What has nothing to start is served on the port ``server``."""

    def assert_serves(self, app: str, **files: str) -> None:
        session = self.session("--app", app, folder=self.folder(**files))
        session.serving()
        self.assertEqual(session.get("/here"), (200, b"hello at /here"))

    def test_resource(self) -> None:
        """An instance of a Resource."""
        self.assert_serves("hello:hello", hello__py=HELLO)

    def test_resource_class(self) -> None:
        """A Resource class, which is made without arguments."""
        self.assert_serves("hello:Hello", hello__py=HELLO)

    def test_site(self) -> None:
        """A Site."""
        self.assert_serves("hello:site", hello__py=HELLO)

    def test_klein(self) -> None:
        """A Klein application, whose route may be a coroutine."""
        self.assert_serves(
            "pages:app",
            pages__py="""
            from klein import Klein
            from twisted.internet import reactor
            from twisted.internet.task import deferLater

            app = Klein()

            @app.route("/", branch=True)
            async def page(request):
                return await deferLater(reactor, 0, lambda: b"hello at " + request.path)
            """,
        )


class ServiceTests(SessionTestCase):
    """An IService is started when its worker is promoted, and stopped when it has drained."""

    SERVICE = """
        from twisted.application.service import Service
        from twisted.internet import reactor
        from twisted.internet.task import deferLater
        from twisted.web.server import Site

        from hello import Hello
        from serverworker import ServerWorker

        class Web(Service):
            def startService(self):
                super().startService()
                print("started")
                ServerWorker.current().listen("server", Site(Hello()))

            def stopService(self):
                super().stopService()
                return deferLater(reactor, 0.1, print, "stopped")

        web = Web()
        """

    def test_instance(self) -> None:
        """It listens through `ServerWorker.current()`; a standby is loaded only, until it takes over."""
        folder = self.folder(hello__py=HELLO, service__py=self.SERVICE)
        session = self.session("--app", "service:web", folder=folder)
        first = session.serving()[0]["worker"]
        self.assertEqual(session.get("/"), (200, b"hello at /"))
        standby = session.wait_for("WorkerLoaded", matching=lambda event: event["worker"] != first)["worker"]
        self.assertEqual(printed(session), [f"worker {first}: started"])
        os.kill(session.pid_of(first), signal.SIGKILL)
        self.assertEqual(session.serving(2)[-1]["worker"], standby)
        self.assertEqual(session.get("/"), (200, b"hello at /"))
        self.assertEqual(session.end(), 0)
        # Not awaited before the end, it would be missing; and whoever was never started is not stopped.
        self.assertEqual(
            printed(session)[1:],
            [f"worker {standby}: started", f"worker {standby}: stopped"],
            printed(session),
        )

    def test_class(self) -> None:
        """An IService class is made without arguments."""
        folder = self.folder(hello__py=HELLO, service__py=self.SERVICE)
        session = self.session("--app", "service:Web", folder=folder)
        session.serving()
        self.assertEqual(session.get("/"), (200, b"hello at /"))


class WorkTests(SessionTestCase):
    """The original's `work`: a callable that is given the ServerWorker."""

    def test_order(self) -> None:
        """As in the original: "initializing process…", loading, `work`, polling, "listening on …" (W3, W8)."""
        folder = self.folder(
            hello__py=HELLO,
            app__py="""
            from twisted.web.server import Site
            from hello import Hello

            def work(worker):
                print("work of", worker.id, worker.generation, worker.ports)
                worker.listen("server", Site(Hello()))
                worker.lifecycle_notification("the house is lit")
            """,
        )
        session = self.session("--app", "app:work", "--standby", "0", folder=folder)
        session.serving()
        self.assertEqual(session.get("/"), (200, b"hello at /"))
        address = session.address
        note = session.wait_for("Lifecycle")
        self.assertRegex(
            note["text"], r"^initializing process… \[\S+ .*-m serverworker\.processes\.entry .*\]$"
        )
        order = [
            session.events.index(note),
            position(session, "WorkerLoaded", worker=1),
            position(session, "OutputLine", text=f"work of 1 1 {{'server': '{address}'}}"),
            position(session, "Lifecycle", text="the house is lit"),
            position(session, "WorkerReady", worker=1),
            position(session, "ServerRunning", worker=1, is_first_time=True),
            position(session, "Lifecycle", text=f"listening on {address}… (server)"),
        ]
        # What is printed comes by a pipe, everything else by the link: only the link has an order.
        told = [order[0], order[1], *order[3:]]
        self.assertEqual(told, sorted(told))
        self.assertTrue(order[1] < order[2], order)

    def test_coroutine(self) -> None:
        """`work` may be a coroutine: the worker is ready when what it awaits is over."""
        folder = self.folder(
            hello__py=HELLO,
            app__py="""
            from twisted.internet.task import deferLater
            from twisted.web.server import Site
            from hello import Hello

            async def work(worker):
                worker.listen("server", Site(Hello()))
                await deferLater(worker.reactor, 0.2)
                worker.lifecycle_notification("worked")
            """,
        )
        session = self.session("--app", "app:work", "--standby", "0", folder=folder)
        self.assertLess(
            position(session, "Lifecycle", text="worked"), position(session, "WorkerReady", worker=1)
        )
        self.assertEqual(session.get("/"), (200, b"hello at /"))

    def test_answers_a_service(self) -> None:
        """An IService that `work` answers is started after it, and stopped at the end."""
        folder = self.folder(
            hello__py=HELLO,
            app__py="""
            from twisted.application.service import Service
            from twisted.web.server import Site
            from hello import Hello

            class Told(Service):
                def startService(self):
                    print("started")

                def stopService(self):
                    print("stopped")

            def work(worker):
                worker.listen("server", Site(Hello()))
                return Told()
            """,
        )
        session = self.session("--app", "app:work", "--standby", "0", folder=folder)
        session.serving()
        self.assertEqual(session.end(), 0)
        self.assertEqual(printed(session), ["worker 1: started", "worker 1: stopped"])

    def test_crashes_when_it_starts(self) -> None:
        """A `work` that raises is a crash: followed at once the first time, then after growing delays (M4)."""
        folder = self.folder(
            app__py="""
            def work(worker):
                raise LookupError(f"no data base for worker {worker.id}")
            """
        )
        session = self.session("--app", "app:work", "--standby", "0", folder=folder)
        deaths = [session.wait_for("WorkerDied", matching=partial(_is_of, number)) for number in (1, 2, 3)]
        self.assertEqual(
            [death["cause"]["error"]["message"] for death in deaths],
            [f"no data base for worker {number}" for number in (1, 2, 3)],
        )
        self.assertEqual({death["life"] for death in deaths}, {"activating"})
        self.assertEqual(deaths[0]["next_step"], "worker 2 is started now")
        delays = [float(death["next_step"].split(" s ")[0].split()[-1]) for death in deaths[1:]]
        self.assertTrue(0 < delays[0] <= 0.6, delays)
        self.assertTrue(delays[0] < delays[1] <= 1.2, delays)
        self.assertIsNone(session.process.poll())


class BindFalseTests(SessionTestCase):
    """With ``bind = false`` the application listens by itself, and is polled where everybody finds it."""

    CONFIG = """
        [workers]
        bind = false
        [polling]
        route = "/heartbeat"
        interval_seconds = 0.1
        """

    def own_session(self, app: str, text: str, number: int) -> TestSession:
        folder = self.folder(hello__py=HELLO, app__py=text, serverworker__toml=self.CONFIG)
        config = str(folder / "serverworker.toml")
        return self.session(
            "--config", config, "--app", app, folder=folder, port=f"tcp:{number}:interface=127.0.0.1"
        )

    def test_several_workers(self) -> None:
        """Several workers that bind by themselves have to share the port, which the log says first."""
        folder = self.folder(serverworker__toml="[workers]\nbind = false\ncount = 2\n")
        port = f"tcp:{free_port()}:interface=127.0.0.1"
        session = self.session("--config", "serverworker.toml", folder=folder, port=port)
        self.assertIn("SO_REUSEPORT", session.wait_for_line("workers.bind is false and workers.count is 2"))

    def test_work(self) -> None:
        """`work` binds the port that the session names; a death and a restart leave it to the successor."""
        session = self.own_session(
            "app:work",
            """
            from twisted.web.server import Site
            from hello import Hello

            class Polled(Hello):
                def render_GET(self, request):
                    if request.path == b"/heartbeat":
                        print("polled on", request.getHost().port)
                    return super().render_GET(request)

            def work(worker):
                kind, number, interface = worker.ports["server"].split(":")
                interface = interface.removeprefix("interface=")
                worker.reactor.listenTCP(int(number), Site(Polled()), interface=interface)
            """,
            number := free_port(),
        )
        session.serving()
        session.wait_for("OutputLine", matching=lambda event: event["text"] == f"polled on {number}")
        self.assertEqual(session.get("/"), (200, b"hello at /"))
        os.kill(session.pid_of(1), signal.SIGKILL)
        second = session.serving(2)[-1]["worker"]
        self.assertEqual(session.get("/"), (200, b"hello at /"))
        session.process.send_signal(signal.SIGHUP)
        session.wait_for("RestartCompleted")
        running = session.serving(3)[-1]
        self.assertEqual(running["generation"], 2)
        self.assertEqual(session.get("/"), (200, b"hello at /"))
        # Two at a time cannot have the port: the old one had ended before the new one was activated.
        self.assertLess(position(session, "WorkerExited", worker=second), session.events.index(running))
        self.assertEqual(session.end(), 0)
        with socket.create_server(("127.0.0.1", number)):
            pass

    def test_service(self) -> None:
        """Twisted's own services bind as ever, and let go of the port when they are stopped."""
        session = self.own_session(
            "app:web",
            """
            from twisted.application.internet import StreamServerEndpointService
            from twisted.internet import reactor
            from twisted.internet.endpoints import serverFromString
            from twisted.web.server import Site
            from hello import Hello

            endpoint = serverFromString(reactor, "tcp:NUMBER:interface=127.0.0.1")
            web = StreamServerEndpointService(endpoint, Site(Hello()))
            """.replace("NUMBER", str(number := free_port())),
            number,
        )
        session.serving()
        self.assertEqual(session.get("/"), (200, b"hello at /"))
        self.assertEqual(session.end(), 0)


class PortTests(SessionTestCase):
    """Ports of every kind, and more than one."""

    def test_two_ports(self) -> None:
        """A second port has a name, and need not speak HTTP; both outlive the worker."""
        folder = self.folder(
            hello__py=HELLO,
            app__py="""
            from twisted.internet.protocol import Factory
            from twisted.protocols.basic import LineReceiver
            from twisted.web.server import Site
            from hello import Hello

            class Echo(LineReceiver):
                delimiter = b"\\n"

                def lineReceived(self, line):
                    self.sendLine(line[::-1])

            def work(worker):
                worker.listen("server", Site(Hello()))
                worker.listen("echo", Factory.forProtocol(Echo))
            """,
        )
        arguments = ("--port", "echo=tcp:0:interface=127.0.0.1", "--app", "app:work")
        session = self.session(*arguments, folder=folder)
        session.serving()
        for killed in (False, True):
            if killed:
                os.kill(session.server_pid, signal.SIGKILL)
            self.assertEqual(session.get("/"), (200, b"hello at /"))
            with session.connect("echo") as connection:
                connection.sendall(b"drawer\n")
                self.assertEqual(connection.recv(100), b"reward\n")

    def test_unix(self) -> None:
        """A unix socket has the mode that was asked for, serves HTTP, and its file goes with the session."""
        folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder)
        path = folder / "site.sock"
        session = self.session(port=f"unix:{path}:mode=600")
        session.serving()
        self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600)
        os.kill(session.server_pid, signal.SIGKILL)
        connection = http.client.HTTPConnection("site", timeout=LONG)
        with socket.socket(socket.AF_UNIX) as connection.sock:
            connection.sock.settimeout(LONG)
            connection.sock.connect(str(path))
            connection.request("GET", "/heartbeat")
            self.assertEqual(connection.getresponse().read(), b"ok\n")
        self.assertEqual(session.end(), 0)
        self.assertFalse(path.exists())

    def test_tcp6(self) -> None:
        """A port of IPv6."""
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError as error:
            raise SkipTest(f"there is no IPv6 here: {error}") from None
        session = self.session(port="tcp6:0:interface=::1")
        session.serving()
        connection = http.client.HTTPConnection("::1", session.port(), timeout=LONG)
        self.addCleanup(connection.close)
        connection.request("GET", "/heartbeat")
        self.assertEqual(connection.getresponse().read(), b"ok\n")


def free_port() -> int:
    """A number that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def _is_of(worker: int, event: dict[str, Any]) -> bool:
    return bool(event["worker"] == worker)
