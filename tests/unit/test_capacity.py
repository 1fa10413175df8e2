"""Whether the machine can hold so many workers."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from serverworker.monitor.capacity import check_capacity
from serverworker.values.errors import ConfigurationError
from serverworker.values.settings import WorkersSettings


class CapacityTests(SynchronousTestCase):
    """Too many are refused before anything is started."""

    def test_enough(self) -> None:
        """Fifty workers fit into a usual machine."""
        check_capacity(WorkersSettings(count=50, standby=5), descriptors=1024, memory_mib=8000)

    def test_descriptors(self) -> None:
        """The limit, what is needed, and how many would fit are named."""
        error = self.assertRaises(
            ConfigurationError,
            check_capacity,
            WorkersSettings(count=200, standby=1),
            descriptors=1024,
            memory_mib=64000,
        )
        self.assertEqual(
            str(error),
            "workers.count = 200 and workers.standby = 1: 401 during a restart take 3272 descriptors in the monitor, "
            "and the limit is 1024: at most 59 workers fit; ask for fewer, or raise it (`ulimit -n`, systemd: "
            "LimitNOFILE=)",
        )
        check_capacity(WorkersSettings(count=59, standby=1), descriptors=1024, memory_mib=64000)

    def test_memory(self) -> None:
        """What they take at the very least is more than there is."""
        error = self.assertRaises(
            ConfigurationError,
            check_capacity,
            WorkersSettings(count=100, standby=0),
            descriptors=100_000,
            memory_mib=2000,
        )
        self.assertIn("take 4000 MiB at the very least, and this machine has 2000 MiB", str(error))
