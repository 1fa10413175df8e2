"""The monitor started by `systemd-socket-activate`, which binds, waits for the first connection, and hands it over."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import tempfile
from pathlib import Path

from tests.integration.sessions import LONG, SessionTestCase, TestSession
from tests.system import SKIP

ACTIVATE = shutil.which("systemd-socket-activate")


def free_port() -> int:
    """A number that is free now; nobody else here asks for numbers of this kind at the same time."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class ActivationTests(SessionTestCase):
    """What a user of a ``.socket`` unit gets."""

    skip = SKIP or (None if ACTIVATE else "needs systemd-socket-activate, of Debian's package systemd")

    def activated(self, *options: str, ports: tuple[str, ...] = (), **files: str) -> TestSession:
        """A session behind the activator, which gives it nothing of this environment but what is named."""
        folder = self.folder(**files)
        variables = {"HOME": str(folder), "PATH": os.environ["PATH"], "PYTHONPATH": self.python_path()}
        given = [f"--setenv={name}={value}" for name, value in variables.items()]
        configured = [argument for port in ports for argument in ("--port", port)]
        return self.session(*configured, folder=folder, port=None, prefix=(str(ACTIVATE), *given, *options))

    def python_path(self) -> str:
        checkout = str(Path(__file__).resolve().parents[2])
        return os.pathsep.join(filter(None, [checkout, os.environ.get("PYTHONPATH")]))

    def ask(self, number: int, path: str = "/heartbeat") -> tuple[int, bytes]:
        """One request, which waits for as long as it takes."""
        connection = http.client.HTTPConnection("127.0.0.1", number, timeout=LONG)
        self.addCleanup(connection.close)
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()

    def test_first_request(self) -> None:
        """The request that starts the session waits for its worker and is answered; a restart keeps the socket."""
        number = free_port()
        session = self.activated("--listen", f"127.0.0.1:{number}", ports=("tcp:9",))
        session.wait_for_line("Listening on")
        self.assertEqual(self.ask(number), (200, b"ok\n"))
        self.assertEqual(session.address, f"tcp:{number}:interface=127.0.0.1")
        session.wait_for_line("port server is the socket that this process was started with")
        session.process.send_signal(signal.SIGHUP)
        session.wait_for("RestartCompleted")
        self.assertEqual(self.ask(number), (200, b"ok\n"))
        self.assertEqual(session.end(), 0)

    def test_names(self) -> None:
        """Sockets are matched by name; a port without one is bound as ever; the activator's unix socket keeps its file."""
        number = free_port()
        folder = Path(tempfile.mkdtemp(prefix="sw-"))  # a unix socket needs a short path
        self.addCleanup(shutil.rmtree, folder)
        session = self.activated(
            f"--listen=127.0.0.1:{number}",
            f"--listen={folder}/s",
            "--fdname=server:local",
            ports=("tcp:9", "local=tcp:10", "third=tcp:0:interface=127.0.0.1"),
        )
        session.wait_for_line("Listening on")
        self.assertEqual(self.ask(number), (200, b"ok\n"))
        ports = session.wait_for("SessionStarted")["ports"]
        self.assertEqual(ports[0], f"server=tcp:{number}:interface=127.0.0.1")
        self.assertEqual(ports[1], f"local=unix:{folder}/s")
        self.assertRegex(ports[2], r"third=tcp:\d+:interface=127.0.0.1")
        self.assertEqual(session.end(), 0)
        self.assertTrue((folder / "s").is_socket())

    def test_no_such_port(self) -> None:
        """A socket that is no port ends the start with status 78, and says which there are."""
        number = free_port()
        session = self.activated(
            f"--listen=127.0.0.1:{number}", "--fdname=sokcet", ports=("tcp:9", "socket=tcp:0")
        )
        session.wait_for_line("Listening on")
        socket.create_connection(("127.0.0.1", number), timeout=LONG).close()
        self.assertEqual(session.exit_status(), 78)
        session.wait_for_line("started with a socket that is no port: 'sokcet'; did you mean 'socket'?")

    def test_datagrams(self) -> None:
        """A socket of datagrams is refused, with what a socket unit needs."""
        number = free_port()
        session = self.activated(f"--listen=127.0.0.1:{number}", "--datagram", ports=("tcp:9",))
        session.wait_for_line("Listening on")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(b"x", ("127.0.0.1", number))
        self.assertEqual(session.exit_status(), 78)
        session.wait_for_line("a socket unit needs ListenStream= and Accept=no")
