"""What the environment says of who started the monitor, and what of it stays there."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from serverworker.observers.systemd import ServiceManager, take_service_manager

PID = 77


class EnvironmentTests(SynchronousTestCase):
    """What this process was told by who started it."""

    def taken(self, **variables: str) -> ServiceManager | None:
        environ = {"HOME": "/", **variables}
        manager = take_service_manager(environ, PID)
        self.assertEqual(environ, {"HOME": "/"})
        return manager

    def watchdog(self, **variables: str) -> float | None:
        manager = self.taken(NOTIFY_SOCKET="@x", **variables)
        assert manager is not None
        return manager.watchdog_seconds

    def test_nobody(self) -> None:
        """Without a socket nobody is told, and nothing stays in the environment."""
        self.assertIsNone(self.taken())
        self.assertIsNone(self.taken(NOTIFY_SOCKET="", WATCHDOG_USEC="1", WATCHDOG_PID="1"))

    def test_watchdog(self) -> None:
        """A watchdog is fed where it is meant for this process, or for whoever it is."""
        self.assertEqual(self.watchdog(WATCHDOG_USEC="30000000"), 30.0)
        self.assertEqual(self.watchdog(WATCHDOG_USEC="500000", WATCHDOG_PID="77"), 0.5)
        self.assertIsNone(self.watchdog())
        self.assertIsNone(self.watchdog(WATCHDOG_USEC="500000", WATCHDOG_PID="78"))

    def test_nonsense(self) -> None:
        """A period that is no number is told in the log, and no watchdog is fed."""
        for text in ("", "0", "-1", "1s", "1.5", "٣", "9" * 5000):
            self.assertIsNone(self.watchdog(WATCHDOG_USEC=text), text)
