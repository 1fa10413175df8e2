"""Tests of `serverworker.processes.socket_holders`: whose a socket is."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import TestCase

from serverworker.processes import socket_holders
from serverworker.processes.socket_holders import Holder

TCP_HEAD = (
    "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
)


def tcp_row(local: str, state: str, inode: int) -> str:
    """A row of /proc/net/tcp or tcp6, as a little-endian machine prints it."""
    rest = "00000000:00000000 00:00000000 00000000     0        0"
    return f"   0: {local} 00000000:0000 {state} {rest} {inode} 1 0000 100\n"


class TableTests(TestCase):
    """The kernel's tables, from files."""

    def setUp(self) -> None:
        if sys.byteorder != "little":
            self.skipTest("the rows are those of a little-endian machine")
        self.root = Path(self.mktemp())
        (self.root / "net").mkdir(parents=True)

    def write(self, tcp: str = "", tcp6: str = "", unix: str = "") -> None:
        for name, rows in {"tcp": tcp, "tcp6": tcp6, "unix": unix}.items():
            (self.root / "net" / name).write_text(TCP_HEAD + rows)

    def tcp(self, address: str, port: int = 8080) -> set[int]:
        return set(socket_holders.tcp_inodes(address, port, str(self.root)))

    def test_addresses(self) -> None:
        """In the way is who listens on the same address, on all, or on any where all are wanted."""
        self.write(
            tcp_row("0100007F:1F90", "0A", 11)
            + tcp_row("00000000:1F91", "0A", 12)
            + tcp_row("0100007F:1F92", "0A", 13)
        )
        self.assertEqual(self.tcp("127.0.0.1", 8080), {11})
        self.assertEqual(self.tcp("0.0.0.0", 8080), {11})
        self.assertEqual(self.tcp("127.0.0.2", 8080), set())
        self.assertEqual(self.tcp("127.0.0.1", 8081), {12})

    def test_families(self) -> None:
        """Of IPv6 only a socket for all addresses, or one for an IPv4 address, is in an IPv4 port's way."""
        mapped = "0000000000000000FFFF00000100007F"
        loopback = "00000000000000000000000001000000"
        self.write(
            tcp6=tcp_row("0" * 32 + ":1F90", "0A", 21)
            + tcp_row(f"{mapped}:1F91", "0A", 22)
            + tcp_row(f"{loopback}:1F92", "0A", 23)
        )
        self.assertEqual(self.tcp("127.0.0.1", 8080), {21})
        self.assertEqual(self.tcp("127.0.0.1", 8081), {22})
        self.assertEqual(self.tcp("127.0.0.1", 8082), set())
        self.assertEqual(self.tcp("::1", 8082), {23})
        self.assertEqual(self.tcp("::", 8082), {23})

    def test_connections(self) -> None:
        """Connections that use the port count only where nobody listens; one that is over belongs to nobody."""
        self.write(tcp_row("0100007F:1F90", "01", 31) + tcp_row("0100007F:1F91", "06", 0))
        self.assertEqual(self.tcp("127.0.0.1", 8080), {31})
        self.assertEqual(self.tcp("127.0.0.1", 8081), set())
        self.write(tcp_row("0100007F:1F90", "01", 31) + tcp_row("0100007F:1F90", "0A", 32))
        self.assertEqual(self.tcp("127.0.0.1", 8080), {32})

    def test_unix(self) -> None:
        """A path is found whole, spaces included; sockets without one are skipped."""
        self.write(
            unix="0000: 00000002 00000000 00010000 0001 01 41 /run/a b.sock\n"
            "0000: 00000003 00000000 00000000 0001 03 42\n"
        )
        self.assertEqual(set(socket_holders.unix_inodes("/run/a b.sock", str(self.root))), {41})
        self.assertEqual(set(socket_holders.unix_inodes("/run/../run/a b.sock", str(self.root))), {41})
        self.assertEqual(set(socket_holders.unix_inodes("/run/a", str(self.root))), set())

    def test_no_tables(self) -> None:
        """A system that tells nothing is no error."""
        self.assertEqual(socket_holders.tcp_inodes("127.0.0.1", 80, "/nowhere"), frozenset())
        self.assertEqual(socket_holders.unix_inodes("/run/a", "/nowhere"), frozenset())


class HolderTests(TestCase):
    """From sockets to processes, and to words."""

    def test_child(self) -> None:
        """The process that holds a socket is found, with its command line."""
        listening = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listening.close)
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", "import os; os.read(0, 1)", "a name\nof two lines"],
            stdin=subprocess.PIPE,
            pass_fds=[listening.fileno()],
        )
        assert child.stdin is not None
        self.addCleanup(child.wait)
        self.addCleanup(child.stdin.close)
        inodes = socket_holders.tcp_inodes(*listening.getsockname())
        found = {holder.pid: holder.command for holder in socket_holders.holders(inodes)}
        self.assertEqual(set(found), {os.getpid(), child.pid})
        self.assertTrue(
            found[child.pid].endswith("-c import os; os.read(0, 1) a name?of two lines"), found[child.pid]
        )

    def test_not_ours_to_see(self) -> None:
        """Processes whose descriptors may not be read are passed over."""
        root = Path(self.mktemp())
        (root / "12").mkdir(parents=True)
        (root / "12" / "fd").write_text("no folder")
        self.assertEqual(socket_holders.holders({5}, str(root)), ())

    def test_one_process(self) -> None:
        """Of one process it is known whether it has a socket; one that is gone has none."""
        with socket.socket() as one:
            inode = os.fstat(one.fileno()).st_ino
            self.assertTrue(socket_holders.holds(os.getpid(), inode))
        self.assertFalse(socket_holders.holds(os.getpid(), inode))
        self.assertFalse(socket_holders.holds(12, 5, self.mktemp()))

    def test_not_to_be_seen(self) -> None:
        """One that is there, and whose descriptors may not be seen, may have it."""
        root = Path(self.mktemp())
        (root / "12").mkdir(parents=True)
        self.assertTrue(socket_holders.holds(12, 5, str(root)))

    def test_words(self) -> None:
        """Some are named, the rest counted; none is said to be hidden; this process is called by its name."""
        many = [Holder(n, "python") for n in range(1, 6)]
        self.assertEqual(
            socket_holders.describe(many), "pid 1 (python), pid 2 (python), pid 3 (python) and 2 more"
        )
        self.assertEqual(socket_holders.describe(many[:1]), "pid 1 (python)")
        self.assertIn("may not see", socket_holders.describe([]))
        self.assertIn("this very process", socket_holders.describe([Holder(os.getpid(), "x")]))

    def test_long_command(self) -> None:
        """A long command line is cut; a process without one is said to have none."""
        self.assertEqual(len(self.holder(b"x" * 500 + b"\0").command), socket_holders.LONGEST_COMMAND)
        self.assertEqual(self.holder(b"").command, "no command line")

    def holder(self, cmdline: bytes, environ: bytes = b"") -> Holder:
        """The one process of a /proc of files, which holds socket 5."""
        root = Path(self.mktemp())
        (root / "12" / "fd").mkdir(parents=True)
        (root / "12" / "fd" / "3").symlink_to("socket:[5]")
        (root / "12" / "cmdline").write_bytes(cmdline)
        (root / "12" / "environ").write_bytes(environ)
        return socket_holders.holders({5}, str(root))[0]

    def test_of_a_session(self) -> None:
        """A worker is known by its command line, its children by the mark; what is just ending is nobody's."""
        worker = b"/usr/bin/python\0-u\0-m\0serverworker.processes.entry\0--worker=1\0"
        self.assertTrue(self.holder(worker).of_a_session)
        self.assertTrue(self.holder(b"helper\0", b"A=1\0SERVERWORKER_SESSION=77\0").of_a_session)
        self.assertTrue(self.holder(b"").of_a_session)
        for stranger in (b"nginx\0", b"vi\0x serverworker.processes.entry\0", b"twistd\0serverworker\0"):
            self.assertFalse(self.holder(stranger, b"X_SERVERWORKER_SESSION=77\0").of_a_session)
