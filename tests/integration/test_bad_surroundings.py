"""Ports, sockets and folders that a session cannot have: it says which, whose and what to do, and ends."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
from pathlib import Path
from unittest import SkipTest

from tests.integration.refusals import DAEMON, RUNNERS, TWIST, RefusalTestCase

ANY_PORT = "tcp:0:interface=127.0.0.1"

WITHOUT_PRIVILEGE = """
import ctypes, os, sys
PR_CAPBSET_DROP, CAP_NET_BIND_SERVICE = 24, 10
if os.geteuid() == 0 and ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_NET_BIND_SERVICE) != 0:
    sys.exit("this root must not give its capabilities away")
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Runs a program that must not bind low ports, also where the tests are run by root."""


class SurroundingsTestCase(RefusalTestCase):
    """Starts sessions in folders whose sockets have short paths."""

    def short_folder(self) -> Path:
        """A new folder near the root: a socket's path ends at 107 bytes, and a checkout may be deep."""
        folder = Path(tempfile.mkdtemp(prefix="sw"))
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        return folder


class PortTests(SurroundingsTestCase):
    """A port that cannot be bound: status 69, before anything was made, on the terminal of whoever starts it."""

    def test_in_use(self) -> None:
        """It is told which port, and whose it is: the process id and its command."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
            text = self.never_begun(69, port=port, runners=RUNNERS)
        self.assertTrue(text.startswith("serverworker cannot start:\n"), text)
        self.assertIn(f"port 'server' cannot be bound to {port}: in use by pid {os.getpid()} (", text)
        self.assertIn(Path(sys.executable).name, text)
        self.assertIn("); stop that, or choose another port or interface", text)

    def test_second_port_in_use(self) -> None:
        """Where only one of several ports is in use, none is left bound: not even the file of a unix socket."""
        folder = self.short_folder()
        with socket.create_server(("127.0.0.1", 0)) as taken:
            number = taken.getsockname()[1]
            text = self.never_begun(
                69, "--port", f"mail={number}", folder=folder, port=f"unix:{folder}/web.sock"
            )
        self.assertIn(f"port 'mail' cannot be bound to tcp:{number}: in use by pid {os.getpid()} (", text)

    def test_of_another_session(self) -> None:
        """A port of a session that lives is refused at once, naming its monitor; that session goes on."""
        first = self.session()
        first.serving()
        self.never_begun(69, port=f"tcp:{first.port()}:interface=127.0.0.1")
        second = self.session("--state-dir", str(first.folder / "other"), port=f"tcp:{first.port()}")
        text = self.ends(second, 69)
        self.assertIn(f"in use by pid {first.process.pid} ({sys.executable} ", text)
        self.assertNotIn("waiting for its end", text)
        self.assertEqual(first.get("/heartbeat"), (200, b"ok\n"))

    def test_not_permitted(self) -> None:
        """A low port that this user may not bind is told with the ways to get it."""
        first_free = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
        if first_free < 2:
            raise SkipTest("this system lets everybody bind every port")
        prefix = (sys.executable, "-c", WITHOUT_PRIVILEGE)
        text = self.never_begun(69, port="tcp:1:interface=127.0.0.1", prefix=prefix, runners=RUNNERS)
        self.assertIn("port 'server' cannot be bound to tcp:1:interface=127.0.0.1: not permitted", text)
        self.assertIn(f"ports below {first_free} need root or CAP_NET_BIND_SERVICE", text)
        self.assertIn(f"or choose a port from {first_free} up", text)

    def test_no_such_address(self) -> None:
        """An address that is none of this machine's is told as that."""
        text = self.never_begun(69, port="tcp:0:interface=203.0.113.7")
        self.assertIn("this machine has no address '203.0.113.7'; give one of its own, or none", text)


class SocketFileTests(SurroundingsTestCase):
    """A unix socket that cannot be had."""

    def test_too_long(self) -> None:
        """A path that is too long is told with its length; one from the file is a wrong configuration, 78."""
        folder = self.folder(long__toml=f'[ports]\nserver = "unix:/tmp/{"d" * 120}"\n')
        text = self.never_begun(78, "--config", "long.toml", folder=folder, port=None)
        self.assert_lines(
            text, "long.toml: ports.server: the path of a socket must be at most 107 bytes long, not 125"
        )

    def test_in_use(self) -> None:
        """A socket that somebody listens behind is refused with 69, and stays; whose it is, is told."""
        folder = self.short_folder()
        path = folder / "web.sock"
        with socket.socket(socket.AF_UNIX) as taken:
            taken.bind(str(path))
            taken.listen()
            text = self.never_begun(69, folder=folder, port=f"unix:{path}", runners=[DAEMON])
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
        self.assertIn(f"cannot be bound to unix:{path}: in use by pid {os.getpid()} (", text)
        self.assertIn("; stop that, or choose another path", text)

    def test_no_socket(self) -> None:
        """A file that is no socket is refused with 69, and not removed."""
        folder = self.short_folder()
        (folder / "web.sock").write_text("precious")
        text = self.never_begun(69, folder=folder, port=f"unix:{folder}/web.sock", runners=[TWIST])
        self.assertIn("there is a file that is no socket, and it is not removed; move it away", text)
        self.assertEqual((folder / "web.sock").read_text(), "precious")

    def test_no_folder(self) -> None:
        """A folder that is not there is told."""
        folder = self.short_folder()
        text = self.never_begun(69, folder=folder, port=f"unix:{folder}/nowhere/web.sock")
        self.assertIn(f"there is no folder {folder}/nowhere; make it first", text)


class StateDirectoryTests(SurroundingsTestCase):
    """A state directory that cannot be used."""

    def test_second_session(self) -> None:
        """A second session on the same state directory is refused with 69, naming the pid; the first goes on."""
        first = self.session()
        first.serving()
        key = (first.state_directory / "key").read_text()
        again = [self.session(folder=first.folder, runner=runner) for runner in (RUNNERS[0], TWIST)]
        for second in again:
            text = self.ends(second, 69)
            self.assertIn(
                f"the state directory {first.state_directory} is held by the session with pid "
                f"{first.process.pid}: end that one first, or give this one a directory of its own",
                text,
            )
            self.assertEqual(second.events, [])
        self.assertEqual((first.state_directory / "key").read_text(), key)
        self.assertEqual(first.get("/heartbeat"), (200, b"ok\n"))
        self.assertEqual(first.end(), 0)
        # What it held is free again.
        self.session(folder=first.folder).serving()

    def test_cannot_be_made(self) -> None:
        """A path that leads through a file, or into a file system that takes nothing, is told with 78."""
        folder = self.folder(file="")
        below, proc = (
            self.session("--state-dir", path, folder=folder, runner=runner)
            for path, runner in ((f"{folder}/file/state", RUNNERS[0]), ("/proc/1/state", TWIST))
        )
        text = self.ends(below, 78)
        self.assertIn(f"the session cannot keep its state in {folder}/file/state: Not a directory", text)
        self.assertIn("a part of its path is a file; choose another with --state-dir", text)
        self.assertIn("the session cannot keep its state in /proc/1/state: ", self.ends(proc, 78))
        self.assertEqual((below.events, proc.events), ([], []))

    def test_others_can_write(self) -> None:
        """One in which others can write is refused with 78: they could put their files in the place of ours."""
        folder = self.folder()
        state = folder / "state"
        state.mkdir()
        state.chmod(0o777)
        text = self.refused(78, folder=folder)
        self.assertIn(f"others can write in {state} (mode 0777)", text)
        self.assertIn(f"run `chmod go-w {state}`", text)
        self.assertEqual(list(state.iterdir()), [])

    def test_socket_file_goes(self) -> None:
        """Where the state directory is refused, the file of a unix socket that was bound before goes again."""
        folder = self.short_folder()
        (folder / "file").touch()
        arguments = ("--state-dir", f"{folder}/file/state")
        self.refused(78, *arguments, folder=folder, port=f"unix:{folder}/web.sock")
        self.assertEqual([path.name for path in folder.iterdir()], ["file"])
