"""What a session may be configured with, and how every mistake is told."""

from __future__ import annotations

import json
import os
from datetime import date
from typing import Any

import attrs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from serverworker.values.errors import ConfigurationError
from serverworker.values.ports import PortSettings
from serverworker.values.reading import combine, read
from serverworker.values.rules import InvalidSettings
from serverworker.values.settings import (
    AppSettings,
    DrainSettings,
    IpcSettings,
    OutputSettings,
    PollingSettings,
    RestartSettings,
    Settings,
    StartupSettings,
    WatchdogSettings,
    WorkersSettings,
)
from tests.unit.test_ports import ports

DURATION = "must be a number of seconds, 0.01 to 86400, not"
INTERVAL = "must be a number of seconds, 0.1 to 86400, not"
COUNT = "must be a whole number, 1 to 1000, not"
TRUTH = "must be true or false, not"
FOLDER = "must be the name of a file or folder, not"
ROUTE = (
    "must be the path of a URL, which starts with '/' and holds no spaces, '#' or non-ASCII characters, not"
)
RESOURCE = "must be module:attribute, such as 'mysite.web:root', not"
VARIABLE = "the name of a variable must not be empty, nor hold '=' or a NUL"
OWN = "is the monitor's own business and never reaches a worker; leave it out"
NO_KEY = "there is no such key"

# One wrong key each, and all that is said of it.
BAD: list[tuple[dict[str, object], str]] = [
    ({"workers": {"count": 0}}, f"workers.count: {COUNT} 0"),
    ({"workers": {"count": -1}}, f"workers.count: {COUNT} -1"),
    ({"workers": {"count": 1001}}, f"workers.count: {COUNT} 1001"),
    ({"workers": {"count": "3"}}, f"workers.count: {COUNT} '3'"),
    ({"workers": {"count": 3.0}}, f"workers.count: {COUNT} 3.0"),
    ({"workers": {"count": True}}, f"workers.count: {COUNT} true"),
    ({"workers": {"count": None}}, f"workers.count: {COUNT} null"),
    ({"workers": {"count": [1]}}, f"workers.count: {COUNT} an array"),
    ({"workers": {"count": {}}}, f"workers.count: {COUNT} a table"),
    ({"workers": {"count": 2**20000}}, f"workers.count: {COUNT} a number too long to show"),
    ({"workers": {"count": date(2026, 1, 2)}}, f"workers.count: {COUNT} 2026-01-02"),
    ({"workers": {"count": "x" * 999}}, f"workers.count: {COUNT} '{'x' * 60}'…"),
    ({"workers": {"count": "a\nb\x1b"}}, f"workers.count: {COUNT} 'a\\nb\\x1b'"),
    ({"workers": {"standby": -1}}, "workers.standby: must be a whole number, 0 to 1000, not -1"),
    ({"workers": {"overlap": 1}}, f"workers.overlap: {TRUTH} 1"),
    ({"workers": {"bind": "false"}}, f"workers.bind: {TRUTH} 'false'"),
    ({"workers": {"cuont": 2}}, f"workers.cuont: {NO_KEY}; did you mean 'count'?"),
    ({"workers": {"x": 2}}, f"workers.x: {NO_KEY}; allowed: bind, count, overlap, standby"),
    ({"workers": {"a.b\n": 2}}, f"workers.'a.b\\n': {NO_KEY}; allowed: bind, count, overlap, standby"),
    ({"workers": 3}, "workers: must be a table, [workers], not 3"),
    ({"workers": [{"count": 1}]}, "workers: must be a table, [workers], not an array"),
    ({"polling": {"route": "heartbeat"}}, f"polling.route: {ROUTE} 'heartbeat'"),
    ({"polling": {"route": "/a b"}}, f"polling.route: {ROUTE} '/a b'"),
    ({"polling": {"route": "/a#b"}}, f"polling.route: {ROUTE} '/a#b'"),
    ({"polling": {"route": "/é"}}, f"polling.route: {ROUTE} '/é'"),
    ({"polling": {"route": "/a\r\nX: y"}}, f"polling.route: {ROUTE} '/a\\r\\nX: y'"),
    ({"polling": {"route": ""}}, f"polling.route: {ROUTE} ''"),
    ({"polling": {"interval_seconds": 0}}, f"polling.interval_seconds: {INTERVAL} 0"),
    ({"polling": {"interval_seconds": -1.5}}, f"polling.interval_seconds: {INTERVAL} -1.5"),
    ({"polling": {"interval_seconds": 0.09}}, f"polling.interval_seconds: {INTERVAL} 0.09"),
    ({"polling": {"interval_seconds": 86401}}, f"polling.interval_seconds: {INTERVAL} 86401"),
    ({"polling": {"interval_seconds": True}}, f"polling.interval_seconds: {INTERVAL} true"),
    ({"polling": {"interval_seconds": "10"}}, f"polling.interval_seconds: {INTERVAL} '10'"),
    ({"polling": {"interval_seconds": float("nan")}}, f"polling.interval_seconds: {INTERVAL} nan"),
    ({"polling": {"interval_seconds": float("inf")}}, f"polling.interval_seconds: {INTERVAL} inf"),
    (
        {"polling": {"interval_seconds": 10**400}},
        f"polling.interval_seconds: {INTERVAL} a number too long to show",
    ),
    ({"polling": {"timeout_seconds": 0}}, f"polling.timeout_seconds: {DURATION} 0"),
    (
        {"polling": {"failure_tolerance": 2.5}},
        "polling.failure_tolerance: must be a whole number, 0 to 1000, not 2.5",
    ),
    ({"watchdog": {"interval_seconds": 0}}, f"watchdog.interval_seconds: {INTERVAL} 0"),
    ({"watchdog": {"timeout_seconds": 0.01}}, f"watchdog.timeout_seconds: {INTERVAL} 0.01"),
    (
        {"watchdog": {"interval_seconds": 5, "timeout_seconds": 4.5}},
        "watchdog.timeout_seconds: must be at least watchdog.interval_seconds, which is 5, not 4.5",
    ),
    (
        {"watchdog": {"interval_seconds": 20}},
        "watchdog.timeout_seconds: must be at least watchdog.interval_seconds, which is 20, not 10",
    ),
    ({"startup": {"timeout_seconds": 0}}, f"startup.timeout_seconds: {DURATION} 0"),
    ({"drain": {"timeout_seconds": 0}}, f"drain.timeout_seconds: {DURATION} 0"),
    ({"restart": {"initial_delay_seconds": 0}}, f"restart.initial_delay_seconds: {DURATION} 0"),
    ({"restart": {"maximum_delay_seconds": 0}}, f"restart.maximum_delay_seconds: {DURATION} 0"),
    ({"restart": {"reset_after_seconds": []}}, f"restart.reset_after_seconds: {DURATION} an array"),
    (
        {"restart": {"maximum_delay_seconds": 0.25}},
        "restart.maximum_delay_seconds: must be at least restart.initial_delay_seconds, which is 0.5, not 0.25",
    ),
    ({"output": {"show_server_output": "yes"}}, f"output.show_server_output: {TRUTH} 'yes'"),
    ({"output": {"log_format": "xml"}}, "output.log_format: must be 'text' or 'json', not 'xml'"),
    ({"output": {"log_format": ["json"]}}, "output.log_format: must be 'text' or 'json', not an array"),
    (
        {"output": {"access_log": "apache"}},
        "output.access_log: must be 'common' or 'combined' or 'json', not 'apache'",
    ),
    (
        {"output": {"access_log_file": "a.log"}},
        "output.access_log_file: needs a format: set output.access_log to 'common', 'combined' or 'json'",
    ),
    (
        {"output": {"file": "/l", "access_log": "json", "access_log_file": "/l"}},
        "output.access_log_file: is the log file itself (output.file): name another",
    ),
    ({"output": {"files_kept": -1}}, "output.files_kept: must be a whole number, 0 to 1000, not -1"),
    (
        {"output": {"file_max_mib": 1.5}},
        "output.file_max_mib: must be a whole number, 0 to 1000000, not 1.5",
    ),
    ({"journal": {"max_mib": 0}}, "journal.max_mib: must be a whole number, 1 to 10000, not 0"),
    ({"journal": {"max_days": 3651}}, "journal.max_days: must be a whole number, 1 to 3650, not 3651"),
    ({"journal": {"files": -1}}, "journal.files: must be a whole number, 0 to 100, not -1"),
    (
        {"ipc": {"maximum_bytes": 1023}},
        "ipc.maximum_bytes: must be a whole number, 1024 to 16777216, not 1023",
    ),
    ({"ipc": {"timeout_seconds": 0}}, f"ipc.timeout_seconds: {DURATION} 0"),
    ({"app": {"resource": "mysite.web"}}, f"app.resource: {RESOURCE} 'mysite.web'"),
    ({"app": {"resource": "mysite.web:"}}, f"app.resource: {RESOURCE} 'mysite.web:'"),
    ({"app": {"resource": ":root"}}, f"app.resource: {RESOURCE} ':root'"),
    ({"app": {"resource": "a:b:c"}}, f"app.resource: {RESOURCE} 'a:b:c'"),
    ({"app": {"resource": "my-site:root"}}, f"app.resource: {RESOURCE} 'my-site:root'"),
    ({"app": {"resource": "mysite/web.py:root"}}, f"app.resource: {RESOURCE} 'mysite/web.py:root'"),
    ({"app": {"agent": 5}}, "app.agent: must be module:Class, such as 'mysite.session:Wiki', not 5"),
    ({"app": {"directory": ""}}, f"app.directory: {FOLDER} ''"),
    ({"app": {"directory": "a\0b"}}, f"app.directory: {FOLDER} 'a\\x00b'"),
    ({"app": {"directory": "\ud800"}}, f"app.directory: {FOLDER} '\\ud800'"),
    ({"app": {"python": 3.12}}, f"app.python: {FOLDER} 3.12"),
    ({"app": {"environment": "A=1"}}, "app.environment: must be a table of strings, not 'A=1'"),
    ({"app": {"environment": {"": "x"}}}, f"app.environment.'': {VARIABLE}"),
    ({"app": {"environment": {"A=B": "x"}}}, f"app.environment.'A=B': {VARIABLE}"),
    ({"app": {"environment": {"A\0": "x"}}}, f"app.environment.'A\\x00': {VARIABLE}"),
    ({"app": {"environment": {"A": 5}}}, "app.environment.A: must be a string without a NUL"),
    ({"app": {"environment": {"A": "hush\0"}}}, "app.environment.A: must be a string without a NUL"),
    ({"app": {"environment": {"LISTEN_FDS": "1"}}}, f"app.environment.LISTEN_FDS: {OWN}"),
    ({"app": {"environment": {"NOTIFY_SOCKET": "x"}}}, f"app.environment.NOTIFY_SOCKET: {OWN}"),
    ({"app": {"environment": {"WATCHDOG_USEC": "1"}}}, f"app.environment.WATCHDOG_USEC: {OWN}"),
    ({"state_directory": 5}, f"state_directory: {FOLDER} 5"),
    ({"state_directory": {"path": "x"}}, f"state_directory: {FOLDER} a table"),
    ({"ports": 8080}, "ports: must be a table, [ports], not 8080"),
    (
        {"ports": {"server": 80.5}},
        "ports.server: must be a port's number, or tcp:, tcp6: or unix: with an address, not 80.5",
    ),
    (
        {"ports": {"socket": 4321}},
        "ports.server: is missing: the port that is polled, and that --port without a name sets",
    ),
    (
        {"ports": {"server": 80, "again": "tcp:80:interface=127.0.0.1"}},
        "ports.again: 'tcp:80:interface=127.0.0.1' cannot be bound beside ports.server, 'tcp:80'",
    ),
    (
        {"ports": {"server": 0}, "workers": {"bind": False}},
        "ports.server: 0 means any free port, which the monitor cannot find out where workers.bind is false",
    ),
    ({"port": 8080}, f"port: {NO_KEY}; did you mean 'ports'?"),
    ({"poling": {"route": "/"}}, f"poling: {NO_KEY}; did you mean 'polling'?"),
]

# Keys of later capabilities, and the original's own names: nothing may be taken in silence.
NOT_YET = [
    ("output", "showServerOutput"),
    ("polling", "intervalSeconds"),
]

SECONDS = st.floats(0.1, 86400)
COUNTS = st.integers(0, 1000)
TARGETS = st.sampled_from([None, "a:b", "mysite.web:Root.child", "é:ü"])
FILE_NAMES = st.none() | st.sampled_from(["/srv/a b", "x", "~", "a//b", "/srv/current/../x/", "\udcff"])
VARIABLES = st.dictionaries(
    st.text("ABC é\n", min_size=1), st.text().filter(lambda text: "\0" not in text), max_size=3
)


@st.composite
def ordered(draw: st.DrawFn, /, table: Any, lower: str, upper: str, **rest: st.SearchStrategy[Any]) -> Any:
    """A table in which one duration must not be more than another."""
    first, second = sorted([draw(SECONDS), draw(SECONDS)])
    return table(**{lower: first, upper: second}, **{name: draw(values) for name, values in rest.items()})


WATCHDOGS = ordered(WatchdogSettings, "interval_seconds", "timeout_seconds")
RESTARTS = ordered(
    RestartSettings, "initial_delay_seconds", "maximum_delay_seconds", reset_after_seconds=SECONDS
)
ALL_SETTINGS = st.builds(
    Settings,
    app=st.builds(
        AppSettings,
        resource=TARGETS,
        agent=TARGETS,
        directory=FILE_NAMES,
        python=FILE_NAMES,
        environment=VARIABLES,
    ),
    ports=ports("server").map(lambda port: (port,)),
    workers=st.builds(
        WorkersSettings,
        count=st.integers(1, 1000),
        standby=COUNTS,
        overlap=st.booleans(),
    ),
    polling=st.builds(
        PollingSettings,
        route=st.sampled_from([None, "/", "/heartbeat?a=%20~", "/:"]),
        interval_seconds=SECONDS,
        timeout_seconds=SECONDS,
        failure_tolerance=COUNTS,
    ),
    watchdog=WATCHDOGS,
    startup=st.builds(StartupSettings, timeout_seconds=SECONDS),
    drain=st.builds(DrainSettings, timeout_seconds=SECONDS),
    restart=RESTARTS,
    output=st.builds(
        OutputSettings, show_server_output=st.booleans(), log_format=st.sampled_from(["text", "json"])
    ),
    ipc=st.builds(IpcSettings, maximum_bytes=st.integers(1024, 2**24), timeout_seconds=SECONDS),
    state_directory=FILE_NAMES,
)

TABLES = ["app", "ports", "polling", "watchdog", "workers", "restart", "output", "ipc", "state_directory"]
NAMES = [
    *("resource", "agent", "directory", "python", "environment", "server", "socket", "interval_seconds"),
    *("timeout_seconds", "count", "standby", "initial_delay_seconds", "maximum_delay_seconds", "log_format"),
]
# As TOML or JSON may hold them.
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(20000, 20001).map(lambda bits: 2**bits)
    | st.floats()
    | st.text()
    | st.sampled_from(["tcp:80", "unix:/s", "/", "json", "a:b"])
    | st.datetimes()
    | st.dates()
    | st.times()
)
NESTED = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.sampled_from(NAMES), inner, max_size=5)
    ),
    max_leaves=8,
)
DOCUMENTS = NESTED | st.dictionaries(
    st.sampled_from(TABLES) | st.text(max_size=5),
    NESTED | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), NESTED, max_size=6),
    max_size=6,
)


class BadInputTests(SynchronousTestCase):
    """Every mistake in a table, with the exact text that the operator gets."""

    def test_table(self) -> None:
        """One wrong key gives one line: the key, what is allowed or nearest, and the value."""
        for data, text in BAD:
            error = self.assertRaises(ConfigurationError, Settings.from_json, data)
            self.assertEqual(str(error), text)

    def test_all_at_once(self) -> None:
        """All the mistakes of a configuration are told in one error, in the order of the file."""
        error = self.assertRaises(
            InvalidSettings,
            Settings.from_json,
            {
                "state_directory": False,
                "poling": {},
                "workers": {"count": 0, "standby": "x", "sandby": 1},
                "ports": {"server": "ssl:1", "b": -5},
                "watchdog": {"timeout_seconds": 0.5},
                "restart": {"initial_delay_seconds": 61},
            },
        )
        keys = [problem.key for problem in error.problems]
        self.assertEqual(
            keys,
            [
                "state_directory",
                "poling",
                "workers.count",
                "workers.standby",
                "workers.sandby",
                "ports.server",
                "ports.b",
                "watchdog.timeout_seconds",
                "restart.maximum_delay_seconds",
            ],
        )
        self.assertEqual(str(error).count("\n"), len(keys) - 1)

    def test_no_second_fault(self) -> None:
        """Of a table with a wrong value nothing is said that may only follow from it."""
        for data in (
            {"watchdog": {"interval_seconds": 50, "timeout_seconds": "60"}},
            {"ports": {"server": "no", "socket": 81}},
        ):
            error = self.assertRaises(InvalidSettings, Settings.from_json, data)
            self.assertEqual(len(error.problems), 1)

    def test_keys_of_later(self) -> None:
        """What this version cannot do is refused, and not taken in silence."""
        for table, name in NOT_YET:
            error = self.assertRaises(InvalidSettings, Settings.from_json, {table: {name: "a:b"}})
            self.assertIn(f"{table}.{name}: there is no such key; ", str(error))

    def test_no_table(self) -> None:
        """A document that is no table at all is told so."""
        error = self.assertRaises(InvalidSettings, Settings.from_json, [1])
        self.assertEqual(str(error), "settings: must be a table, not an array")

    def test_environment_is_never_shown(self) -> None:
        """The content of a variable may be a secret, so an error does not repeat it."""
        data = {"app": {"environment": {"TOKEN": ["hush"], "LISTEN_PID": "hush", "A": "hush\0", "=": "hush"}}}
        error = self.assertRaises(InvalidSettings, Settings.from_json, data)
        self.assertEqual(len(error.problems), 4)
        self.assertNotIn("hush", str(error))

    @given(DOCUMENTS)
    @settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=500)
    def test_any_document(self, data: object) -> None:
        """Nothing that TOML or JSON can hold does anything but give settings or the one error."""
        try:
            result = Settings.from_json(data)
        except ConfigurationError as error:
            assert isinstance(error, InvalidSettings)
            self.assertEqual(len(str(error).splitlines()), len(error.problems))
        else:
            self.assertEqual(Settings.from_json(result.as_json()), result)


class MadeInCodeTests(SynchronousTestCase):
    """Settings that are made by calling the classes, as a console command does."""

    def test_checked(self) -> None:
        """A class refuses a wrong value with the key of the configuration."""
        error = self.assertRaises(ConfigurationError, PollingSettings, interval_seconds=0)
        self.assertEqual(str(error), f"polling.interval_seconds: {INTERVAL} 0")
        error = self.assertRaises(ConfigurationError, attrs.evolve, WorkersSettings(), count=0)
        self.assertEqual(str(error), f"workers.count: {COUNT} 0")
        error = self.assertRaises(ConfigurationError, Settings, state_directory="")
        self.assertEqual(str(error), f"state_directory: {FOLDER} ''")
        error = self.assertRaises(ConfigurationError, AppSettings, environment={"A": 5})
        self.assertEqual(str(error), "app.environment.A: must be a string without a NUL")

    def test_ports(self) -> None:
        """Between ports too: a missing `server`, a name and an address that stand twice."""
        port = PortSettings(name="a", kind="tcp", port=1)
        error = self.assertRaises(InvalidSettings, Settings, ports=(port, port))
        self.assertEqual(
            str(error).splitlines(),
            [
                "ports.server: is missing: the port that is polled, and that --port without a name sets",
                "ports.a: there are two ports of this name",
            ],
        )

    def test_unix_without_bind(self) -> None:
        """An application that binds by itself may do so on a path, which the monitor knows."""
        made = Settings.from_json({"ports": {"server": "unix:/s"}, "workers": {"bind": False}})
        self.assertEqual((made.ports[0].path, made.workers.bind), ("/s", False))

    def test_frozen(self) -> None:
        """Nothing can be changed behind the monitor's back."""
        with self.assertRaises(attrs.exceptions.FrozenInstanceError):
            Settings().polling.interval_seconds = 1  # type: ignore[misc]

    def test_durations_are_floats(self) -> None:
        """An int of seconds becomes the float of the same value, which AMP's Float insists on."""
        value = PollingSettings(interval_seconds=7).interval_seconds
        self.assertIs(type(value), float)
        self.assertEqual(value, 7)

    def test_edges(self) -> None:
        """The ends of each range are inside it."""
        PollingSettings(interval_seconds=0.1, timeout_seconds=0.01, failure_tolerance=0)
        PollingSettings(interval_seconds=86400, timeout_seconds=86400.0, failure_tolerance=1000)
        WorkersSettings(count=1, standby=0)
        WorkersSettings(count=1000, standby=1000)
        WatchdogSettings(interval_seconds=3, timeout_seconds=3)
        RestartSettings(initial_delay_seconds=3, maximum_delay_seconds=3)
        IpcSettings(maximum_bytes=1024)
        IpcSettings(maximum_bytes=16 * 1024 * 1024)

    def test_defaults(self) -> None:
        """With nothing configured the figures of the documentation hold."""
        made = Settings()
        self.assertEqual([port.describe() for port in made.ports], ["tcp:8080"])
        self.assertEqual((made.workers.count, made.workers.standby), (1, 1))
        self.assertEqual((made.polling.interval_seconds, made.polling.timeout_seconds), (10, 5))
        self.assertEqual((made.watchdog.interval_seconds, made.watchdog.timeout_seconds), (1, 10))
        self.assertEqual((made.startup.timeout_seconds, made.drain.timeout_seconds), (60, 30))
        self.assertEqual((made.ipc.maximum_bytes, made.ipc.timeout_seconds), (16 * 2**20, 60))


class JSONTests(SynchronousTestCase):
    """The settings on their way to a worker."""

    @given(ALL_SETTINGS)
    @settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=200)
    def test_round_trip(self, made: Settings) -> None:
        """Through JSON text they come back exactly the same."""
        self.assertEqual(Settings.from_json(json.loads(json.dumps(made.as_json()))), made)

    def test_several_ports(self) -> None:
        """The ports keep their order, in which their descriptors are handed over."""
        made = Settings(
            ports=(
                PortSettings(name="z", kind="unix", path="/run/z", mode=0o600),
                PortSettings(name="server", kind="tcp", port=0),
                PortSettings(name="a", kind="tcp6", port=0, interface="::1", backlog=5000),
            )
        )
        self.assertEqual(Settings.from_json(made.as_json()), made)

    def test_shape(self) -> None:
        """It is the shape of the configuration file, so that one reader serves both."""
        told = Settings(app=AppSettings(resource="a:b")).as_json()
        self.assertEqual(
            told["app"],
            {"resource": "a:b", "wsgi_threads": 10, "reload": False, "plugin": (), "environment": {}},
        )
        self.assertEqual(told["ports"], {"server": "tcp:8080"})
        self.assertNotIn("state_directory", told)


class CombiningTests(SynchronousTestCase):
    """Settings from more than one place."""

    def test_later_wins(self) -> None:
        """A later source wins key by key, ports by name; the rest of the earlier one stays."""
        first = read(
            {"ports": {"server": 80, "socket": 81}, "polling": {"route": "/a", "failure_tolerance": 0}},
            label="file",
        )
        second = read({"ports": {"server": 90}, "polling": {"failure_tolerance": 5}}, label="options")
        made = combine(first, second)
        self.assertEqual([port.describe() for port in made.ports], ["tcp:90", "tcp:81"])
        self.assertEqual((made.polling.route, made.polling.failure_tolerance), ("/a", 5))

    def test_zero_and_false_count(self) -> None:
        """A value that Python takes for false is a value and no gap for the default (the original lost it)."""
        source = read(
            {
                "workers": {"standby": 0, "overlap": False},
                "output": {"show_server_output": False},
                "ports": {"server": 0},
            },
            label="file",
        )
        made = combine(source)
        self.assertEqual((made.workers.standby, made.workers.overlap), (0, False))
        self.assertFalse(made.output.show_server_output)
        self.assertEqual(made.ports[0].port, 0)

    def test_spelling(self) -> None:
        """Each problem is told in the words of the source that it comes from; one between two, in the last."""
        file = read(
            {"workers": {"count": 0}, "watchdog": {"interval_seconds": 5}, "ports": {"server": 1, "a": 2}},
            label="f",
            spell="f: {}".format,
        )
        line = read({"watchdog": {"timeout_seconds": 1}, "ports": {"a": 1}}, label="o", spell="--{}".format)
        error = self.assertRaises(InvalidSettings, combine, file, line)
        self.assertEqual(
            [problem.key for problem in error.problems],
            ["f: workers.count", "--watchdog.timeout_seconds", "--ports.a"],
        )

    def test_folder(self) -> None:
        """A relative path starts at the source's folder, `~` at the home; a bare interpreter is left to PATH."""
        self.patch(os, "environ", {"HOME": "/home/jo"})
        data = {
            "state_directory": "state",
            "app": {"directory": "../current", "python": "python3.12"},
            "ports": {"server": "unix:run/s"},
        }
        made = combine(read(data, label="f", folder="/etc/site"))
        self.assertEqual(made.state_directory, "/etc/site/state")
        self.assertEqual(made.app.directory, "/etc/site/../current")
        self.assertEqual(made.app.python, "python3.12")
        self.assertEqual(made.ports[0].path, "/etc/site/run/s")
        data = {"state_directory": "~/s", "app": {"directory": "/srv", "python": "venv/bin/python"}}
        made = combine(read(data, label="f", folder="/etc/site"))
        self.assertEqual(made.state_directory, "/home/jo/s")
        self.assertEqual(made.app.directory, "/srv")
        self.assertEqual(made.app.python, "/etc/site/venv/bin/python")
        made = combine(read({"state_directory": "~nobody-of-this-name/s"}, label="f", folder="/etc"))
        self.assertEqual(made.state_directory, "/etc/~nobody-of-this-name/s")
