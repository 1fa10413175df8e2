"""The role of a process: monitor or worker, once."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from serverworker.processes.role import THIS_PROCESS, ProcessRole
from serverworker.values.errors import AlreadyLaunched, WrongProcess


class RoleTests(SynchronousTestCase):
    """Rows W1, W2 and M1 of the original."""

    def setUp(self) -> None:
        self.role = ProcessRole()

    def test_either(self) -> None:
        """A fresh process may become either; until then it is nothing."""
        for role in ("monitor", "worker"):
            fresh = ProcessRole()
            self.assertIsNone(fresh.role)
            fresh.take(role)
            self.assertEqual(fresh.role, role)

    def test_second_of_a_kind(self) -> None:
        """A second monitor, or a second worker, is refused by name, and the first stays."""
        for role, words in (("monitor", "the monitor"), ("worker", "a server worker")):
            process = ProcessRole()
            process.take(role)
            error = self.assertRaises(AlreadyLaunched, process.take, role)
            self.assertEqual(
                str(error), f"this process already is {words}: there is one for each process, and no more"
            )
            self.assertEqual(process.role, role)

    def test_worker_in_the_monitor(self) -> None:
        """A worker cannot be made in the monitor, which goes on."""
        self.role.take("monitor")
        error = self.assertRaises(WrongProcess, self.role.take, "worker")
        self.assertEqual(str(error), "this process is the monitor, and cannot be a server worker as well")
        self.assertEqual(self.role.role, "monitor")

    def test_monitor_in_a_worker(self) -> None:
        """Nor a monitor in a worker."""
        self.role.take("worker")
        error = self.assertRaises(WrongProcess, self.role.take, "monitor")
        self.assertEqual(str(error), "this process is a server worker, and cannot be the monitor as well")
        self.assertEqual(self.role.role, "worker")

    def test_leave(self) -> None:
        """Once the session has ended the process may begin another, of either kind."""
        self.role.take("monitor")
        self.role.leave()
        self.role.take("worker")
        self.assertEqual(self.role.role, "worker")

    def test_this_process(self) -> None:
        """The process that runs the tests is neither: no session was made by importing."""
        self.assertIsNone(THIS_PROCESS.role)
