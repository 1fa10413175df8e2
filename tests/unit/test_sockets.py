"""Tests of `serverworker.processes.sockets`, with real sockets on loopback and in temporary folders."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import socket
import stat
import tempfile
from pathlib import Path
from typing import Any
from unittest import SkipTest

from twisted.trial.unittest import TestCase

from serverworker.processes import sockets
from serverworker.processes.sockets import PortInUse, SocketFile, bind, bind_all
from serverworker.values.errors import PortUnavailable
from serverworker.values.ports import PortSettings

NOBODY = 65534


def tcp(port: int = 0, **more: Any) -> PortSettings:
    return PortSettings(name="server", kind="tcp", port=port, interface="127.0.0.1", **more)


def open_descriptors() -> int:
    """How many this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))


class SocketCase(TestCase):
    """What all tests here share."""

    def setUp(self) -> None:
        # Not mktemp(): its paths are too long for a unix socket.
        self.folder = Path(tempfile.mkdtemp(prefix="sw-"))
        self.addCleanup(shutil.rmtree, self.folder)

    def bind(self, port: PortSettings) -> socket.socket:
        bound = bind(port)
        self.addCleanup(bound.close)
        return bound

    def refused(self, port: PortSettings) -> str:
        """The text for the operator."""
        text = str(self.assertRaises(PortUnavailable, bind, port))
        self.assertIn(repr(port.name), text)
        self.assertIn(port.describe(), text)
        return text

    def unix(self, name: str = "a.sock", **more: Any) -> PortSettings:
        return PortSettings(name="server", kind="unix", path=str(self.folder / name), **more)

    def become_nobody(self) -> None:
        """Gives up root's rights for the rest of the test; nothing where there are none."""
        if os.geteuid() == 0:
            os.seteuid(NOBODY)
            self.addCleanup(os.seteuid, 0)


class TCPTests(SocketCase):
    """``tcp:`` and ``tcp6:``."""

    def test_flags(self) -> None:
        """A bound socket listens, never blocks, is closed on exec, and may follow one whose connections linger."""
        bound = self.bind(tcp(backlog=2000))
        self.assertTrue(bound.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
        self.assertTrue(bound.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR))
        self.assertTrue(fcntl.fcntl(bound, fcntl.F_GETFL) & os.O_NONBLOCK)
        self.assertFalse(os.get_inheritable(bound.fileno()))
        self.assertEqual(bound.getsockname()[0], "127.0.0.1")

    def test_backlog(self) -> None:
        """The queue is as long as the settings say, as far as the system lets it."""
        rows = self.listen_queue(self.bind(tcp(backlog=7)))
        self.assertEqual(rows, 7)

    def listen_queue(self, bound: socket.socket) -> int:
        """The backlog from struct tcp_info, where tcpi_sacked holds it for a listening socket."""
        info = bound.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        return int.from_bytes(info[28:32], "little")

    def test_both_families(self) -> None:
        """An IPv6 port leaves the same number of IPv4 free."""
        try:
            bound = self.bind(PortSettings(name="six", kind="tcp6", port=0))
        except PortUnavailable as error:
            raise SkipTest("this machine has no IPv6") from error
        number = bound.getsockname()[1]
        self.assertTrue(bound.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))
        self.assertEqual(sockets.describe_bound(bound), f"tcp6:{number}")
        other = self.bind(PortSettings(name="four", kind="tcp", port=number))
        self.assertEqual(sockets.describe_bound(other), f"tcp:{number}")

    def test_describe(self) -> None:
        """The description has the true port where 0 was asked for, and the address where there is one."""
        bound = self.bind(tcp())
        self.assertEqual(sockets.describe_bound(bound), f"tcp:{bound.getsockname()[1]}:interface=127.0.0.1")

    def test_in_use(self) -> None:
        """A port in use is told with the process that has it."""
        other = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(other.close)
        port = tcp(other.getsockname()[1])
        self.assertIn("in use by this very process", self.refused(port))
        self.assertRaises(PortInUse, bind, port)
        self.patch(os, "getpid", lambda: 1)
        self.assertRegex(
            self.refused(port), r"in use by pid \d+ \(.*python.*\); stop that, or choose another port"
        )

    def test_low_port(self) -> None:
        """A port that needs a right is told with what gives it."""
        self.become_nobody()
        if sockets._first_free_port() <= 80:
            raise SkipTest("this machine lets everybody have low ports")
        text = self.refused(tcp(80))
        self.assertIn("ports below 1024 need root or CAP_NET_BIND_SERVICE", text)
        self.assertIn("twistd --uid", text)

    def test_no_such_address(self) -> None:
        """An address that the machine has not got is told; 192.0.2.0/24 is nobody's."""
        port = PortSettings(name="server", kind="tcp", interface="192.0.2.1")
        self.assertIn("this machine has no address '192.0.2.1'", self.refused(port))

    def test_other_errors(self) -> None:
        """What else the system may say has a text as well."""
        texts = {
            errno.EACCES: "security policy",
            errno.EAFNOSUPPORT: "no IPv6",
            errno.EMFILE: "raise the limit",
            errno.ENOBUFS: os.strerror(errno.ENOBUFS),
        }
        for number, text in texts.items():
            error = sockets._unavailable(tcp(8080), OSError(number, os.strerror(number)))
            self.assertIn(text, str(error))
        odd = sockets._unavailable(tcp(8080), socket.gaierror(-2, "Name or service not known"))
        self.assertIn("is no address here (Name or service not known)", str(odd))

    def test_nothing_stays_open(self) -> None:
        """A failure leaves no descriptor behind."""
        other = self.bind(tcp())
        before = open_descriptors()
        self.refused(tcp(other.getsockname()[1]))
        self.refused(PortSettings(name="server", kind="unix", path=str(self.folder / "none" / "a")))
        self.assertEqual(open_descriptors(), before)


class UnixTests(SocketCase):
    """``unix:``."""

    def mode(self, port: PortSettings) -> int:
        return stat.S_IMODE(os.lstat(port.path).st_mode)

    def test_mode(self) -> None:
        """The socket has exactly the mode that was asked for, and the umask is as before."""
        self.addCleanup(os.umask, os.umask(0o077))
        self.bind(self.unix("a", mode=0o666))
        self.bind(self.unix("b", mode=0o600))
        self.assertEqual((self.mode(self.unix("a")), self.mode(self.unix("b"))), (0o666, 0o600))
        self.assertEqual(os.umask(0o077), 0o077)

    def test_never_wider(self) -> None:
        """At no moment has the file a wider mode: nothing changes it after it was made."""
        changed: list[Any] = []
        for name in ("chmod", "fchmod"):
            self.patch(os, name, lambda *args: changed.append(args))
        self.bind(self.unix(mode=0o600))
        self.assertEqual(self.mode(self.unix()), 0o600)
        self.assertEqual(changed, [])

    def test_describe(self) -> None:
        """It is described by its path."""
        self.assertEqual(sockets.describe_bound(self.bind(self.unix())), f"unix:{self.folder}/a.sock")

    def test_stale(self) -> None:
        """A file that nobody listens behind is replaced."""
        bind(self.unix()).close()
        self.bind(self.unix())
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(self.unix().path)

    def test_live(self) -> None:
        """A socket that somebody listens on is in use, and stays; whose it is is told."""
        self.bind(self.unix())
        before = SocketFile.at(self.unix().path)
        self.assertIn("in use by this very process", self.refused(self.unix()))
        self.assertRaises(PortInUse, bind, self.unix())
        self.assertEqual(SocketFile.at(self.unix().path), before)

    def test_full_queue(self) -> None:
        """One whose queue is full is in use as well."""
        self.bind(self.unix(backlog=1))
        for _ in range(2):
            waiting = socket.socket(socket.AF_UNIX)
            self.addCleanup(waiting.close)
            waiting.connect(self.unix().path)
        self.assertRaises(PortInUse, bind, self.unix())

    def test_other_type(self) -> None:
        """A datagram socket that somebody has open is in use."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.bind(self.unix().path)
            self.assertRaises(PortInUse, bind, self.unix())

    def test_abstract(self) -> None:
        """An abstract name, which only an inherited socket has, is described as systemd writes it."""
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind("\0serverworker.test")
            self.assertEqual(sockets.describe_bound(bound), "unix:@serverworker.test")

    def test_no_socket(self) -> None:
        """A file, a folder and a link are never removed."""
        (self.folder / "file").write_text("precious")
        (self.folder / "folder").mkdir()
        (self.folder / "link").symlink_to(self.folder / "nowhere")
        for name in ("file", "folder", "link"):
            self.assertIn("a file that is no socket", self.refused(self.unix(name)))
        self.assertEqual((self.folder / "file").read_text(), "precious")
        self.assertEqual(len(list(self.folder.iterdir())), 3)

    def test_no_folder(self) -> None:
        """A folder that is missing, or is none, is named."""
        (self.folder / "file").write_text("")
        self.assertIn(f"there is no folder {self.folder}/none", self.refused(self.unix("none/a.sock")))
        self.assertIn(f"{self.folder}/file is no folder", self.refused(self.unix("file/a.sock")))

    def test_not_permitted(self) -> None:
        """A folder that may not be written to is named, with the user who may not."""
        self.folder.chmod(0o555)
        self.become_nobody()
        text = self.refused(self.unix())
        self.assertIn(f"the user with id {os.geteuid()} may not", text)
        self.assertIn(str(self.folder), text)

    def test_read_only(self) -> None:
        """A read-only file system is told."""
        error = sockets._unavailable(self.unix(), OSError(errno.EROFS, os.strerror(errno.EROFS)))
        self.assertIn("read-only", str(error))


class SocketFileTests(SocketCase):
    """A unix socket's file at the session's end."""

    def test_ours(self) -> None:
        """Our own file is removed, once."""
        file = sockets.file_of(self.bind(self.unix()))
        assert file is not None
        self.assertTrue(file.unlink())
        self.assertFalse(Path(file.path).exists())
        self.assertFalse(file.unlink())

    def test_replaced(self) -> None:
        """A file that somebody else has put there since stays."""
        first = bind(self.unix())
        # An older kernel's clock for files ticks every 4 ms, and inodes are given again at once.
        os.utime(self.unix().path, (1, 1))
        file = sockets.file_of(first)
        assert file is not None
        first.close()
        self.bind(self.unix())
        self.assertFalse(file.unlink())
        self.assertTrue(Path(file.path).exists())

    def test_changed_mode(self) -> None:
        """It is still ours after somebody has changed its mode."""
        file = sockets.file_of(self.bind(self.unix()))
        assert file is not None
        Path(file.path).chmod(0o600)
        self.assertTrue(file.unlink())

    def test_no_file(self) -> None:
        """A port has no file; a socket whose file is gone has none either."""
        self.assertIsNone(sockets.file_of(self.bind(tcp())))
        bound = self.bind(self.unix())
        Path(self.unix().path).unlink()
        self.assertIsNone(sockets.file_of(bound))


class BindAllTests(SocketCase):
    """Several ports at once."""

    def setUp(self) -> None:
        super().setUp()
        self.time = 0.0

    def sleep(self, seconds: float) -> None:
        self.time += seconds

    def test_all(self) -> None:
        """Every port is there under its name, in order."""
        other = PortSettings(name="other", kind="tcp", interface="127.0.0.1")
        bound = bind_all([self.unix(), other])
        for each in bound.values():
            self.addCleanup(each.close)
        self.assertEqual(list(bound), ["server", "other"])

    def test_all_or_nothing(self) -> None:
        """If one cannot be had, those before it are closed, and their files removed."""
        taken = self.bind(tcp())
        before = open_descriptors()
        self.assertRaises(PortInUse, bind_all, [self.unix(), tcp(taken.getsockname()[1])])
        self.assertFalse(Path(self.unix().path).exists())
        self.assertEqual(open_descriptors(), before)

    def test_no_patience_for_others(self) -> None:
        """What time does not mend is told at once."""
        port = PortSettings(name="server", kind="tcp", interface="192.0.2.1")
        self.assertRaises(
            PortUnavailable, bind_all, [port], patience_seconds=5, now=lambda: self.time, sleep=self.sleep
        )
        self.assertEqual(self.time, 0)


class AdoptTests(SocketCase):
    """Sockets that were inherited."""

    def test_listening(self) -> None:
        """An inherited socket is made non-blocking and close-on-exec."""
        descriptor = socket.create_server(("127.0.0.1", 0)).detach()
        os.set_inheritable(descriptor, True)
        adopted = sockets.adopt("server", descriptor)
        self.addCleanup(adopted.close)
        self.assertEqual(adopted.fileno(), descriptor)
        self.assertFalse(os.get_inheritable(descriptor))
        self.assertTrue(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_NONBLOCK)

    def test_not_listening(self) -> None:
        """A socket that does not listen, one of datagrams, and what is no socket are refused, and stay as they are."""
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            with socket.socket(socket.AF_INET, kind) as other:
                error = self.assertRaises(PortUnavailable, sockets.adopt, "server", other.fileno())
                self.assertIn(f"descriptor {other.fileno()} is no listening stream socket", str(error))
                os.fstat(other.fileno())
        with (self.folder / "file").open("w") as file:
            error = self.assertRaises(PortUnavailable, sockets.adopt, "server", file.fileno())
            self.assertIn("is no socket", str(error))
        self.assertRaises(PortUnavailable, sockets.adopt, "server", 999999)
