"""Which port a socket is that the monitor was started with, with real sockets under a pid that is asked for."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from twisted.trial.unittest import TestCase

from serverworker.monitor import activated
from serverworker.monitor.activated import environment_at_start, match, take_activated
from serverworker.monitor.ports import Ports
from serverworker.processes import inheritance
from serverworker.values.errors import ConfigurationError
from serverworker.values.ports import PortSettings
from serverworker.values.settings import Settings, WorkersSettings

PID = 77


def settings(*names: str, bind: bool = True) -> Settings:
    ports = tuple(PortSettings(name=name, kind="tcp", port=9000 + at) for at, name in enumerate(names))
    return Settings(ports=ports, workers=WorkersSettings(bind=bind))


class MatchTests(TestCase):
    """Names, and nothing else."""

    def refused(self, sockets: list[str], ports: list[str]) -> str:
        return str(self.assertRaises(ConfigurationError, match, sockets, ports))

    def test_by_name(self) -> None:
        """Each socket is the port of its name, in whatever order; a port without one is left out."""
        self.assertEqual(match(["b", "server"], ["server", "a", "b"]), {"b": "b", "server": "server"})
        self.assertEqual(match([], ["server"]), {})

    def test_unnamed(self) -> None:
        """One that nobody has named is the server, beside others that are named too."""
        for name in ("unknown", "mysite.socket"):
            self.assertEqual(match([name], ["server", "a"]), {"server": name})
            self.assertEqual(match([name, "a"], ["server", "a"]), {"server": name, "a": "a"})

    def test_only_one(self) -> None:
        """Where there is one of each, no name is needed."""
        self.assertEqual(match(["web"], ["server"]), {"server": "web"})

    def test_no_port(self) -> None:
        """A socket that is no port is told with all names of both sides, and the nearest."""
        text = self.refused(["server", "sokcet"], ["server", "socket"])
        self.assertIn("'sokcet'; did you mean 'socket'?", text)
        self.assertIn("Sockets: 'server', 'sokcet'; configured ports: 'server', 'socket'", text)
        self.assertIn("FileDescriptorName=", text)
        self.refused(["sokcet"], ["server", "socket"])

    def test_two_unnamed(self) -> None:
        """Two that nobody has named cannot be told apart, and beside a named server there is no place for one."""
        self.refused(["a.socket", "b.socket"], ["server", "a"])
        self.refused(["server", "unknown"], ["server", "a"])


class TakingTests(TestCase):
    """Variables and descriptors."""

    def setUp(self) -> None:
        self.environ = {"HOME": "/", "LISTEN_PIDFDID": "9"}

    def hold(
        self, *, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM, listen: bool = True
    ) -> socket.socket:
        """A socket whose number is taken for the first that is inherited: 3 is trial's own here."""
        held = socket.socket(family, kind)
        self.addCleanup(held.close)
        if family == socket.AF_INET:
            held.bind(("127.0.0.1", 0))
        if listen:
            held.listen()
        self.patch(inheritance, "FIRST_DESCRIPTOR", held.fileno())
        return held

    def variables(self, **more: str) -> dict[str, str]:
        return {"LISTEN_PID": str(PID), "LISTEN_FDS": "1", **more}

    def take(self, wanted: Settings, original: dict[str, str] | None = None) -> dict[str, socket.socket]:
        taken = take_activated(self.environ, wanted, pid=PID, original=original or {})
        for each in taken.values():
            # What was opened by number belongs to the socket that the test holds.
            self.addCleanup(each.detach)
        self.assertEqual(self.environ, {"HOME": "/"})
        return taken

    def refused(self, wanted: Settings) -> str:
        self.environ |= self.variables()
        error = self.assertRaises(ConfigurationError, self.take, wanted)
        return str(error)

    def test_nothing(self) -> None:
        """Mostly there is nothing, or something for another process."""
        self.assertEqual(self.take(settings("server")), {})
        self.environ |= self.variables(LISTEN_PID="78")
        self.assertEqual(self.take(settings("server")), {})

    def test_taken(self) -> None:
        """The socket is that of the port, and the variables are gone from the environment."""
        held = self.hold()
        self.environ |= self.variables(LISTEN_FDNAMES="a")
        taken = self.take(settings("server", "a"))
        self.assertEqual({name: each.fileno() for name, each in taken.items()}, {"a": held.fileno()})

    def test_variables_that_twisted_took(self) -> None:
        """What an import has taken out of the environment is found where the kernel keeps it."""
        held = self.hold()
        self.environ |= {"LISTEN_FDNAMES": "a"}  # which is what twisted.internet.endpoints leaves
        taken = self.take(settings("server", "a"), self.variables(LISTEN_FDNAMES="a"))
        self.assertEqual(taken["a"].fileno(), held.fileno())

    def test_contradiction(self) -> None:
        """Variables that disagree are told, as those of the sockets that the process was started with."""
        self.environ |= {"LISTEN_FDNAMES": "a:b"}
        self.assertIn("was started with: LISTEN_FDS says 1", self.refused(settings("server")))

    def test_kinds(self) -> None:
        """A socket that does not listen, one of datagrams, and one of another family cannot be a port."""
        self.hold(listen=False)
        self.assertIn("no listening stream socket", self.refused(settings("server")))
        self.hold(kind=socket.SOCK_DGRAM, listen=False)
        self.assertIn("Accept=no", self.refused(settings("server")))
        self.hold()
        self.patch(activated, "_FAMILIES", (socket.AF_INET6,))
        self.assertIn("cannot be one of AF_INET", self.refused(settings("server")))

    def test_bind_false(self) -> None:
        """An application that binds by itself has no use for them."""
        self.hold()
        self.assertIn("workers.bind: is false", self.refused(settings("server", bind=False)))

    def test_environment_at_start(self) -> None:
        """The environment that a process was started with is known whatever has become of it."""
        program = (
            "import os\n"
            "import twisted.internet.endpoints\n"
            "from serverworker.monitor.activated import environment_at_start\n"
            "found = environment_at_start()\n"
            "print([found['LISTEN_FDS'], found['ODD'], os.environ.get('LISTEN_FDS')])"
        )
        # The pid is the child's only after exec, so that a shell has to set it.
        line = f'LISTEN_PID=$$ exec "{sys.executable}" -c "$PROGRAM"'
        variables = {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "a", "ODD": "x=\ny", "PROGRAM": program}
        path = os.pathsep.join(sys.path)
        ran = subprocess.run(
            ["/bin/sh", "-c", line],
            env={**os.environ, **variables, "PYTHONPATH": path},
            check=True,
            capture_output=True,
            timeout=60,
        )
        self.assertEqual(ran.stdout.decode().strip(), str(["1", "x=\ny", None]))
        self.assertEqual(environment_at_start().get("PATH"), os.environ.get("PATH"))


class PortsTests(TestCase):
    """What the session does with a socket that is not its own."""

    def test_file_stays(self) -> None:
        """The file of a unix socket that systemd listens on is not removed; the one bound in its place is."""
        # Not mktemp(): its paths are too long for a unix socket.
        folder = Path(tempfile.mkdtemp(prefix="sw-"))
        self.addCleanup(shutil.rmtree, folder)
        theirs = socket.socket(socket.AF_UNIX)
        theirs.bind(str(folder / "a"))
        theirs.listen()
        ports = Ports({"server": theirs}, activated={"server"})
        ports.change("server", f"unix:{folder}/b")
        self.assertEqual({path.name for path in folder.iterdir()}, {"a", "b"})
        ports.close()
        self.assertEqual({path.name for path in folder.iterdir()}, {"a"})
