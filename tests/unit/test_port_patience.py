"""How long a port in use is waited for, and for whom: with real sockets, and a clock that is moved by hand."""

from __future__ import annotations

from serverworker.processes import socket_holders, sockets
from serverworker.processes.socket_holders import Holder
from serverworker.processes.sockets import PortInUse, bind_all
from serverworker.values.ports import PortSettings
from tests.unit.test_sockets import SocketCase, tcp

WORKER = Holder(7, "python entry", of_a_session=True)
STRANGER = Holder(8, "nginx")


class PatienceTests(SocketCase):
    """A port that somebody has."""

    def setUp(self) -> None:
        super().setUp()
        self.time = 0.0

    def sleep(self, seconds: float) -> None:
        self.time += seconds

    def hold(self, *holders: Holder) -> int:
        """A port in use, of which the system says that these have it; its number."""
        self.taken = self.bind(tcp())
        self.patch(socket_holders, "holders", lambda inodes: holders)
        return int(self.taken.getsockname()[1])

    def bind_patiently(self, *ports: PortSettings) -> list[str]:
        """What is said while it waits."""
        said: list[str] = []
        bound = bind_all(
            ports, patience_seconds=5, waits=said.append, now=lambda: self.time, sleep=self.sleep
        )
        for each in bound.values():
            self.addCleanup(each.close)
        return said

    def test_patience(self) -> None:
        """A port that a former session's worker holds is tried again until it is free; that it waits is said once."""
        port = tcp(self.hold(WORKER))

        def sleep(seconds: float) -> None:
            self.time += seconds
            if self.time > 2:
                self.taken.close()

        self.patch(self, "sleep", sleep)
        (said,) = self.bind_patiently(port)
        self.assertLess(self.time, 2.5)
        self.assertIn(f"port 'server' (tcp:{port.port}:interface=127.0.0.1) is still held", said)
        self.assertIn("pid 7 (python entry); waiting for its end, 5 s at most", said)

    def test_patience_ends(self) -> None:
        """When the patience is over the reason is told as ever; it is the patience for all ports together."""
        number = self.hold(WORKER)
        self.assertRaises(PortInUse, self.bind_patiently, self.unix(), tcp(number))
        self.assertApproximates(self.time, 5, 0.2)

    def test_no_patience_for_strangers(self) -> None:
        """A port that a stranger holds, alone or beside a worker, or that one may not see, is refused at once."""
        for holders in ((STRANGER,), (WORKER, STRANGER), ()):
            self.assertRaises(PortInUse, self.bind_patiently, tcp(self.hold(*holders)))
            self.assertEqual(self.time, 0)

    def test_last_one_lets_go(self) -> None:
        """Once it waits it bears the moment in which the last worker is gone and its socket not yet closed."""
        number = self.hold(WORKER)

        def sleep(seconds: float) -> None:
            self.time += seconds
            if self.time > 2:
                self.patch(socket_holders, "holders", lambda inodes: ())

        self.patch(self, "sleep", sleep)
        self.assertRaises(PortInUse, self.bind_patiently, tcp(number))
        self.assertApproximates(self.time, 2 + sockets.LET_GO_SECONDS, 0.3)

    def test_let_go_this_moment(self) -> None:
        """A port whose socket was closed between the try and the look at its holders is tried again, for a second."""
        port = tcp(self.hold())
        self.patch(socket_holders, "tcp_inodes", lambda address, number: frozenset())
        self.assertRaises(PortInUse, self.bind_patiently, port)
        self.assertApproximates(self.time, sockets.LET_GO_SECONDS, 0.2)
