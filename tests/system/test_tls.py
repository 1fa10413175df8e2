"""TLS on the session's ports under load, through renewals and deploys, and as another user."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SkipTest

from tests.integration.sessions import LONG, SessionTestCase, TestSession, wait_until
from tests.unit.certificates import Issued, issue

TWISTED = """
    from twisted.web.resource import Resource
    class Root(Resource):
        isLeaf = True
        def render_GET(self, request):
            return b"secure" if request.isSecure() else b"plain"
    root = Root()
    """
WSGI = """
    def root(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"secure" if environ["wsgi.url_scheme"] == "https" else b"plain"]
    """
ASGI = """
    async def root(scope, receive, send):
        assert scope["type"] == "http"
        body = b"secure" if scope["scheme"] == "https" else b"plain"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})
    """
CONFIGURATION = """
    [app]
    {kind} = "app:root"
    [polling]
    interval_seconds = 0.5
    [tls.server]
    certificate = "live/site.pem"
    """


IN_ROOTS_HOME = """
at=$(mktemp -d) && mount --bind "$0" "$at" && mount -t tmpfs -o mode=755 none /root && mkdir -p "$0" &&
mount --move "$at" "$0" && exec "$@"
"""
"""Shows a folder of root's home to everybody, and hides the rest of it; in a mount namespace of its own."""


def for_another_user() -> tuple[str, ...]:
    """What a session is started by, so that another user can run this very interpreter."""
    if not sys.base_prefix.startswith("/root/"):
        return ()
    top = "/".join(sys.base_prefix.split("/")[:3])  # such as /root/pythons
    return ("unshare", "--mount", "sh", "-c", IN_ROOTS_HOME, top)


class Load:
    """Clients over TLS: some connect anew for each request, some ask on and on over one connection."""

    def __init__(self, session: TestSession, trusted: ssl.SSLContext) -> None:
        self.answered = 0
        self.failures: list[str] = []
        self._port = session.port()
        self._context = trusted
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(each,)) for each in (1, 1, 1000, 1000)]

    @contextlib.contextmanager
    def running(self) -> Iterator[Load]:
        """While this is entered."""
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._stopping.set()
            for thread in self._threads:
                thread.join(LONG)

    def _run(self, requests: int) -> None:
        while not self._stopping.is_set():
            try:
                self._ask(requests)
            except Exception as error:
                with self._lock:
                    self.failures.append(f"{type(error).__name__}: {error}")

    def _ask(self, requests: int) -> None:
        with contextlib.closing(
            http.client.HTTPSConnection("localhost", self._port, timeout=LONG, context=self._context)
        ) as connection:
            for _ in range(requests):
                connection.request("GET", "/")
                answer = connection.getresponse()
                assert (answer.status, answer.read()) == (200, b"secure")
                with self._lock:
                    self.answered += 1
                if answer.will_close or self._stopping.is_set():
                    return


class TlsTests(SessionTestCase):
    """Sessions with ``[tls.server]``."""

    def setUp(self) -> None:
        if os.environ.get("SYSTEM_TESTS") != "1":
            raise SkipTest("it takes minutes and other servers: SYSTEM_TESTS=1")

    def begin(
        self, issued: Issued, kind: str = "resource", app: str = TWISTED, **options: Any
    ) -> TestSession:
        """A session; its certificate lies behind a link, as certbot and Kubernetes have it."""
        folder = self.folder(app__py=app, serverworker__toml=CONFIGURATION.format(kind=kind))
        (folder / "1").mkdir()
        issued.write(folder / "1" / "site.pem")
        (folder / "live").symlink_to("1")
        session = self.session("--config", "serverworker.toml", folder=folder, **options)
        session.serving()
        return session

    def renew(self, session: TestSession, issued: Issued, number: int = 2) -> None:
        """Switch the link."""
        (session.folder / f"{number}").mkdir()
        issued.write(session.folder / f"{number}" / "site.pem")
        (session.folder / "new").symlink_to(f"{number}")
        (session.folder / "new").rename(session.folder / "live")

    def trusting(self, *issued: Issued) -> ssl.SSLContext:
        context = ssl.create_default_context()
        context.load_verify_locations(cadata="".join(each.certificate_pem() for each in issued))
        return context

    def shown(self, session: TestSession) -> bytes:
        """The certificate that a new connection is shown."""
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with (
            socket.create_connection(("127.0.0.1", session.port()), LONG) as plain,
            context.wrap_socket(plain) as secured,
        ):
            return secured.getpeercert(binary_form=True) or b""

    def check_restarts_under_load(self, session: TestSession, issued: Issued) -> None:
        load = Load(session, self.trusting(issued))
        with load.running():
            for _ in range(3):
                before = len(session.events)
                goal = load.answered + 200
                wait_until(lambda goal=goal: load.answered >= goal or bool(load.failures), "answers")  # type: ignore[misc]
                session.process.send_signal(signal.SIGHUP)
                session.wait_for("RestartCompleted", after=before)
        self.assertEqual(load.failures, [])
        self.assertEqual([event for event in session.events if event["event"] == "WorkerDied"], [])

    def test_restart_of_a_resource(self) -> None:
        """Three restarts under load over TLS: no request fails."""
        issued = issue("site", days=(-1, 90))
        self.check_restarts_under_load(self.begin(issued), issued)

    def test_restart_of_wsgi(self) -> None:
        """The same for WSGI, which is told that it is asked by https."""
        issued = issue("site", days=(-1, 90))
        self.check_restarts_under_load(self.begin(issued, "wsgi", WSGI), issued)

    def test_restart_of_asgi(self) -> None:
        """The same for ASGI."""
        issued = issue("site", days=(-1, 90))
        self.check_restarts_under_load(self.begin(issued, "asgi", ASGI), issued)

    def check_renewed(self, session: TestSession, first: Issued) -> None:
        second, third = issue("second", days=(-1, 90)), issue("third", days=(-1, 90))
        load = Load(session, self.trusting(first, second))
        with load.running():
            before = len(session.events)
            self.renew(session, second)
            session.wait_for("CertificateInUse", after=before)
            wanted = ssl.PEM_cert_to_DER_cert(second.certificate_pem())
            wait_until(lambda: self.shown(session) == wanted, "the second certificate")
        self.assertEqual(load.failures, [])
        (session.folder / "live" / "site.pem").write_text(first.certificate_pem() + third.key_pem())
        fault = session.wait_for("Fault", after=before)
        self.assertIn("cannot be used together", str(fault))
        self.assertEqual(self.shown(session), wanted)
        self.assertEqual(sum(event["event"] == "WorkerSpawned" for event in session.events), 2)

    def test_renewed(self) -> None:
        """A link that is switched is noticed: new connections get the new certificate, and that costs nothing.

        No worker is restarted and no request fails; then a bad one is told of and not used.
        """
        first = issue("first", days=(-1, 90))
        self.check_renewed(self.begin(first), first)

    def test_renewed_with_asgi(self) -> None:
        """The same for ASGI."""
        first = issue("first", days=(-1, 90))
        self.check_renewed(self.begin(first, "asgi", ASGI), first)

    def test_who_speaks_something_else(self) -> None:
        """Plain HTTP, bytes at random and a client that says nothing harm no worker, on either server."""
        for kind, app in (("resource", TWISTED), ("asgi", ASGI)):
            issued = issue("site", days=(-1, 90))
            session = self.begin(issued, kind, app)
            silent = session.connect()
            for said in (
                b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
                os.urandom(500),
                b"\x16\x03\x01\xff\xff" + bytes(70000),
            ):
                with session.connect() as connection, contextlib.suppress(ConnectionError):
                    connection.sendall(said)
                    while connection.recv(4096):
                        pass
            self.assertEqual(self.shown(session), ssl.PEM_cert_to_DER_cert(issued.certificate_pem()))
            self.assertEqual(session.end(), 0)
            self.assertNotIn("has not finished within", str(session.events))  # waited for the silent one
            silent.close()
            self.assertEqual(
                [event for event in session.events if event["event"] in ("WorkerDied", "Fault")], []
            )

    def test_key_of_root(self) -> None:
        """With ``twistd --uid`` the key is root's alone: read before, handed on at each restart, and shown to nobody.

        That a renewed one cannot be read is told at once.
        """
        if os.getuid() != 0:
            raise SkipTest("it takes another user's id: SYSTEM_TESTS=1, as root")
        issued = issue("site", days=(-1, 90))
        folder = self.folder(app__py=TWISTED, serverworker__toml=CONFIGURATION.format(kind="resource"))
        folder.chmod(0o755)
        live = folder / "live"
        live.mkdir()
        issued.write(live / "site.pem")
        live.chmod(0o700)
        state = folder / "state"
        state.mkdir()
        os.chown(state, 65534, 65534)
        runner = ("twistd", "-n", "--pidfile=", "--uid=65534", "--gid=65534")
        session = self.session(
            "--config", "serverworker.toml", folder=folder, runner=runner, prefix=for_another_user()
        )
        session.serving()
        fault = session.wait_for("Fault")
        self.assertIn("a renewed one is not noticed", str(fault))
        wanted = ssl.PEM_cert_to_DER_cert(issued.certificate_pem())
        self.assertEqual(self.shown(session), wanted)
        session.process.send_signal(signal.SIGHUP)
        session.wait_for("RestartCompleted")
        self.assertEqual(self.shown(session), wanted)
        secret = issued.key_pem().splitlines()[1]
        processes = [session.process.pid, session.server_pid]
        shown = [
            Path(f"/proc/{pid}/{name}").read_bytes() for pid in processes for name in ("cmdline", "environ")
        ]
        self.assertEqual(session.end(), 0)
        kept = [path.read_bytes() for path in state.rglob("*") if path.is_file()]
        self.assertNotIn(secret, session.transcript())
        self.assertEqual([text for text in (*shown, *kept) if secret.encode() in text], [])
