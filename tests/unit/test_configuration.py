"""The configuration of a running session: read anew at each restart, taken back where the restart fails."""

from __future__ import annotations

from typing import Any, cast

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from serverworker.monitor.configuration import Configuration, policy_of
from serverworker.values.errors import ConfigurationError, PortUnavailable
from serverworker.values.ports import parse_port
from serverworker.values.settings import (
    AppSettings,
    DrainSettings,
    OutputSettings,
    PollingSettings,
    RestartSettings,
    Settings,
    WorkersSettings,
)

FIRST = Settings(app=AppSettings(resource="shop:root"))
OTHER_PORTS = (parse_port("server", 8081),)


class RecordingPorts:
    """Notes what is to be bound, and cannot bind where the test says so."""

    def __init__(self) -> None:
        self.done: list[Any] = []
        self.error: Exception | None = None

    def replace(self, ports: Any, current: Any) -> None:
        if self.error is not None:
            raise self.error
        self.done.append((ports, current))

    def take_back(self) -> None:
        self.done.append("taken back")


class ConfigurationTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.ports: Any = RecordingPorts()
        self.file: Settings | Exception = FIRST
        self.configuration = Configuration(FIRST, cast(Any, self.ports), self.read)

    def read(self) -> Settings:
        if isinstance(self.file, Exception):
            raise self.file
        return self.file

    def restart(self, **changed: Any) -> None:
        """The file changes, and generation 1 is to be replaced."""
        assert isinstance(self.file, Settings)
        self.file = evolve(self.file, **changed)
        self.configuration.read_anew(1)


class ReadTests(ConfigurationTestCase):
    """What is taken over."""

    def test_nothing_to_read(self) -> None:
        """Without options and file to be read, a restart changes nothing."""
        configuration = Configuration(FIRST, self.ports)
        configuration.read_anew(1)
        configuration.take_back()
        self.assertIs(configuration.settings, FIRST)

    def test_changed(self) -> None:
        """What was changed since it was last read holds from now on; the generation that serves keeps what it has."""
        self.restart(polling=PollingSettings(interval_seconds=3))
        self.assertEqual(self.configuration.settings.polling.interval_seconds, 3)
        self.assertEqual(self.configuration.of(2).polling.interval_seconds, 3)
        self.assertEqual(self.configuration.of(1), FIRST)
        self.configuration.keep()
        self.assertEqual(self.configuration.of(1).polling.interval_seconds, 3)

    def test_what_the_console_changed(self) -> None:
        """What the console has changed stays, as long as the file says nothing new about it."""
        console = PollingSettings(interval_seconds=5)
        self.configuration.settings = evolve(FIRST, polling=console)
        self.restart(drain=DrainSettings(timeout_seconds=4))
        self.assertEqual(self.configuration.settings.polling, console)
        self.assertEqual(self.configuration.settings.drain.timeout_seconds, 4)
        self.configuration.keep()
        self.restart(polling=PollingSettings(interval_seconds=6))
        self.assertEqual(self.configuration.settings.polling.interval_seconds, 6)

    def test_ports(self) -> None:
        """Ports that were changed are bound, in the place of those that were."""
        self.restart(ports=OTHER_PORTS)
        self.assertEqual(self.ports.done, [(OTHER_PORTS, FIRST.ports)])

    def test_ports_of_the_application(self) -> None:
        """With ``bind = false`` the application binds them: the new ones are told to it, and left alone here."""
        own = WorkersSettings(bind=False)
        self.configuration = Configuration(evolve(FIRST, workers=own), cast(Any, self.ports), self.read)
        self.restart(ports=OTHER_PORTS, workers=own)
        self.assertEqual(self.configuration.settings.ports, OTHER_PORTS)
        self.configuration.take_back()
        self.assertEqual(self.configuration.settings.ports, FIRST.ports)
        self.assertEqual(self.ports.done, [])

    def test_ports_that_stay(self) -> None:
        """Ports that were not changed are left alone."""
        self.restart(drain=DrainSettings(timeout_seconds=4))
        self.assertEqual(self.ports.done, [])


class RefusedTests(ConfigurationTestCase):
    """What cannot be taken over changes nothing."""

    def assert_refused(self, kind: type[Exception], words: str, **changed: Any) -> None:
        error = self.assertRaises(kind, self.restart, **changed)
        self.assertIn(words, str(error))
        self.assertIs(self.configuration.settings, FIRST)
        self.assertIs(self.configuration.of(1), FIRST)

    def test_broken_file(self) -> None:
        """A file that cannot be read says why."""
        self.file = ConfigurationError("serverworker.toml: line 3: no such key")
        error = self.assertRaises(ConfigurationError, self.configuration.read_anew, 1)
        self.assertIn("line 3", str(error))
        self.assertIs(self.configuration.settings, FIRST)

    def test_port_in_use(self) -> None:
        """A port that cannot be bound too, and what else was changed holds as little."""
        self.ports.error = PortUnavailable("tcp:8081 is in use")
        polling = PollingSettings(interval_seconds=3)
        self.assert_refused(PortUnavailable, "in use", ports=OTHER_PORTS, polling=polling)

    def test_fixed(self) -> None:
        """What a session has for all of its life is named."""
        words = "cannot be changed while the session runs: start a new one"
        self.assert_refused(ConfigurationError, f"state_directory: {words}", state_directory="/var/lib/x")
        self.file = FIRST
        self.assert_refused(
            ConfigurationError, f"output: {words}", output=OutputSettings(show_server_output=False)
        )
        self.file = FIRST
        self.assert_refused(ConfigurationError, f"workers.bind: {words}", workers=WorkersSettings(bind=False))


class TakeBackTests(ConfigurationTestCase):
    """The restart fails."""

    def test_taken_back(self) -> None:
        """What held before holds again, ports too; the next restart tries anew."""
        self.restart(ports=OTHER_PORTS, polling=PollingSettings(interval_seconds=3))
        self.configuration.take_back()
        self.assertEqual(self.configuration.settings, FIRST)
        self.assertEqual(self.configuration.of(2), FIRST)
        self.assertEqual(self.ports.done[1:], ["taken back"])
        self.configuration.read_anew(1)
        self.assertEqual(self.configuration.settings.polling.interval_seconds, 3)

    def test_once(self) -> None:
        """What was kept, or taken back, is not taken back again."""
        self.restart(ports=OTHER_PORTS)
        self.configuration.keep()
        self.configuration.take_back()
        self.assertEqual(self.configuration.settings.ports, OTHER_PORTS)
        self.assertNotIn("taken back", self.ports.done)

    def test_what_the_console_changed_meanwhile(self) -> None:
        """What the console has changed while the restart was under way stays: a port, for one, and an interval."""
        self.restart(drain=DrainSettings(timeout_seconds=4))
        console = PollingSettings(interval_seconds=5)
        self.configuration.settings = evolve(self.configuration.settings, ports=OTHER_PORTS, polling=console)
        self.configuration.take_back()
        self.assertEqual(self.configuration.settings, evolve(FIRST, ports=OTHER_PORTS, polling=console))
        self.assertEqual(self.ports.done, [])


class PolicyTests(SynchronousTestCase):
    """From the settings to the figures that decisions depend on."""

    def test_figures(self) -> None:
        """Each figure comes from its own key."""
        policy = policy_of(
            Settings(
                workers=WorkersSettings(count=3, standby=2, overlap=False),
                drain=DrainSettings(timeout_seconds=11, unready_seconds=12),
                restart=RestartSettings(
                    initial_delay_seconds=1, maximum_delay_seconds=2, reset_after_seconds=4
                ),
            )
        )
        self.assertEqual((policy.count, policy.standby, policy.overlap), (3, 2, False))
        self.assertEqual((policy.drain_seconds, policy.unready_seconds, policy.startup_seconds), (11, 12, 60))
        delays = (policy.initial_delay_seconds, policy.maximum_delay_seconds, policy.reset_after_seconds)
        self.assertEqual(delays, (1, 2, 4))

    def test_own_ports(self) -> None:
        """Who binds by itself must not run twice: its predecessor has the port."""
        self.assertFalse(policy_of(Settings(workers=WorkersSettings(bind=False))).overlap)
        self.assertTrue(policy_of(Settings()).overlap)
