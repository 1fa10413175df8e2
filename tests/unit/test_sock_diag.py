"""The far end of a connection, as the kernel tells it."""

from __future__ import annotations

import errno
import os
import socket
import tempfile
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from serverworker.processes import sock_diag
from serverworker.processes.sock_diag import far_inode


class FarInodeTests(SynchronousTestCase):
    """Nobody's, until it is accepted."""

    def listening(self, family: int, address: Any) -> socket.socket:
        made = socket.socket(family)
        self.addCleanup(made.close)
        try:
            made.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise self.skipTest("no IPv6 on this machine") from error
            raise
        made.listen()
        return made

    def check(self, server: socket.socket) -> None:
        with socket.socket(server.family) as client:
            client.connect(server.getsockname())
            self.assertEqual(far_inode(client), 0)
            accepted, _ = server.accept()
            with accepted:
                self.assertEqual(far_inode(client), os.fstat(accepted.fileno()).st_ino)

    def test_tcp(self) -> None:
        """Over IPv4."""
        self.check(self.listening(socket.AF_INET, ("127.0.0.1", 0)))

    def test_tcp6(self) -> None:
        """Over IPv6."""
        self.check(self.listening(socket.AF_INET6, ("::1", 0)))

    def test_unix(self) -> None:
        """Over a unix socket, whose far end has no address of its own."""
        with tempfile.TemporaryDirectory(prefix="diag-") as folder:
            self.check(self.listening(socket.AF_UNIX, str(Path(folder, "s"))))

    def test_another(self) -> None:
        """Of two connections each has its own end."""
        server = self.listening(socket.AF_INET, ("127.0.0.1", 0))
        with socket.create_connection(server.getsockname()) as one:
            accepted, _ = server.accept()
            with accepted, socket.create_connection(server.getsockname()) as two:
                self.assertEqual(far_inode(two), 0)
                self.assertEqual(far_inode(one), os.fstat(accepted.fileno()).st_ino)

    def test_gone(self) -> None:
        """A connection that was reset has no far end; the listening socket's inode is not taken for one."""
        server = self.listening(socket.AF_INET, ("127.0.0.1", 0))
        with socket.create_connection(server.getsockname()) as client:
            accepted, _ = server.accept()
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            local, peer = client.getsockname(), client.getpeername()
            accepted.close()
            gone: Any = _Closed(local, peer)
            self.assertRaises(ConnectionResetError, far_inode, gone)
            server.close()
            self.assertRaises(ConnectionResetError, far_inode, gone)

    def test_not_told(self) -> None:
        """What the kernel refuses is an OSError, and no lost connection."""
        self.patch(sock_diag, "SOCK_DIAG_BY_FAMILY", 999)
        server = self.listening(socket.AF_INET, ("127.0.0.1", 0))
        with socket.create_connection(server.getsockname()) as client:
            error = self.assertRaises(OSError, far_inode, client)
            self.assertNotIsInstance(error, ConnectionError)


class _Closed:
    """The names that a connection had."""

    family = socket.AF_INET

    def __init__(self, local: Any, peer: Any) -> None:
        self.getsockname = lambda: local
        self.getpeername = lambda: peer
