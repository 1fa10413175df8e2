"""What a session is configured with: one frozen class for each table of `serverworker.toml`.

Each class checks its values when it is made, and raises `InvalidSettings` (a `ConfigurationError`) that names
the key, the value and what is allowed. `reading` makes them from a file, options or JSON. Durations are seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import attrs
from attrs import field, frozen

from serverworker.values import rules
from serverworker.values.errors import Problem
from serverworker.values.notify_settings import (
    MailSettings,
    NotifySettings,
    WebhookSettings,
    notify_problems,
)
from serverworker.values.ports import PortSettings, port_key
from serverworker.values.rules import InvalidSettings, shown
from serverworker.values.surfaces import ControlSettings, DashboardSettings, HealthSettings
from serverworker.values.tls import TlsSettings, tls_problems

__all__ = [
    "AppSettings",
    "ControlSettings",
    "DashboardSettings",
    "DrainSettings",
    "HealthSettings",
    "IpcSettings",
    "JournalSettings",
    "LimitsSettings",
    "MailSettings",
    "NotifySettings",
    "OutputSettings",
    "PollingSettings",
    "PortSettings",
    "RestartSettings",
    "Settings",
    "StartupSettings",
    "TlsSettings",
    "WatchdogSettings",
    "WebhookSettings",
    "WorkersSettings",
]


_MONITORS_OWN = frozenset({"control", "dashboard", "health", "journal", "mail", "notify", "tls", "webhook"})
"""Tables that no worker is told of; of TLS it is handed what is in the files."""


_KINDS_OF_APPLICATION = ("resource", "wsgi", "asgi", "plugin", "command")
"""Keys of ``[app]``, of which one at most says what the workers run."""


def _must_reach(key: str, value: float, floor_key: str, floor: float) -> None:
    if value < floor:
        raise InvalidSettings(
            [Problem(key, f"must be at least {floor_key}, which is {floor:g}, not {value:g}")]
        )


@frozen(kw_only=True)
class AppSettings:
    """``[app]``: what the workers run."""

    resource: str | None = rules.target("module:attribute, such as 'mysite.web:root'")
    """``module:attribute``: a Resource, a Klein application, an IService, or a `work` callable (``--app``)."""
    wsgi: str | None = rules.target_or_factory(
        "module:attribute, such as 'mysite.wsgi:application', or module:function()"
    )
    """``module:attribute``: a WSGI application, such as Flask's or Django's (``--wsgi``); ``module:create_app()`` for
    what a function makes."""
    wsgi_threads: int = rules.whole(10, 1, 1000)
    """How many requests a worker runs at a time where the application is WSGI; each takes a thread."""
    asgi: str | None = rules.target_or_factory(
        "module:attribute, such as 'mysite.api:app', or module:function()"
    )
    """``module:attribute``: an ASGI application, such as FastAPI's or Starlette's (``--asgi``); ``module:create_app()``
    for what a function makes."""
    plugin: tuple[str, ...] = rules.texts(
        "an array of texts, such as ['web', '--path', '.']", rules.is_argument
    )
    """A plugin of twistd and its arguments (``-- web --path .``)."""
    command: str | None = rules.text("a command in one line, such as 'node server.js {fd}'")
    """A program that takes its socket from its parent, and its arguments (``--command``)."""
    agent: str | None = rules.target("module:Class, such as 'mysite.session:Wiki'")
    """``module:Class``: a SessionAgent subclass."""
    directory: str | None = rules.path()
    """Where the workers run and import from; resolved anew for each worker. None: where the monitor was started."""
    python: str | None = rules.path()
    """The interpreter of the workers; None: the monitor's own. Without a slash it is looked up in ``PATH``."""
    environment: dict[str, str] = field(factory=dict, validator=rules.EnvironmentRule())
    """Added to the workers' environment."""
    version: str | None = rules.text("one line of text, such as '2.4.1'")
    """What surfaces call the code that is deployed; the application may say it itself (`ServerWorker.version`)."""
    reload: bool = rules.flag(False)
    """Whether a change of the code restarts (``--reload``, for development). Settled at the session's start."""

    def __attrs_post_init__(self) -> None:
        if self.reload and self.command is not None:
            text = "watches what Python modules the workers import, and app.command is a program of its own: leave it out"
            raise InvalidSettings([Problem("app.reload", text)])
        given = [name for name in _KINDS_OF_APPLICATION if getattr(self, name)]
        if len(given) > 1:
            text = f"there is an application already, by {', '.join(f'app.{name}' for name in given[:-1])}: give one"
            raise InvalidSettings([Problem(f"app.{given[-1]}", text)])


@frozen(kw_only=True)
class WorkersSettings:
    """``[workers]``."""

    count: int = rules.whole(1, 1, 1000)
    """How many serve."""
    standby: int = rules.whole(1, 0, 1000)
    """How many are kept loaded and waiting."""
    overlap: bool = rules.flag(True)
    """False: the application must not run twice, so the old workers end before new ones are activated."""
    bind: bool = rules.flag(True)
    """False: the application binds its ports by itself. That means ``overlap = false``: no port can be bound twice."""


@frozen(kw_only=True)
class PollingSettings:
    """``[polling]``: the heartbeat."""

    route: str | None = rules.route()
    """None: ``/``, and any full answer below 500 is good. Set: 200 to 399 is good."""
    interval_seconds: float = rules.seconds(10.0, minimum=0.1)
    """From the end of one poll to the start of the next."""
    timeout_seconds: float = rules.seconds(5.0)
    """Of one poll, head and body."""
    failure_tolerance: int = rules.whole(2, 0, 1000)
    """So many failures in a row are borne; one more is a crash."""


@frozen(kw_only=True)
class WatchdogSettings:
    """``[watchdog]``: the monitor's ping."""

    interval_seconds: float = rules.seconds(1.0, minimum=0.1)
    timeout_seconds: float = rules.seconds(10.0, minimum=0.1)
    """A worker that has not answered for so long hangs. Never less than the interval."""

    def __attrs_post_init__(self) -> None:
        floor = self.interval_seconds
        _must_reach("watchdog.timeout_seconds", self.timeout_seconds, "watchdog.interval_seconds", floor)


@frozen(kw_only=True)
class StartupSettings:
    """``[startup]``."""

    timeout_seconds: float = rules.seconds(60.0)
    """From the start of a worker's process until the application is loaded, and again from there until it is ready."""


@frozen(kw_only=True)
class DrainSettings:
    """``[drain]``."""

    timeout_seconds: float = rules.seconds(30.0)
    """For the requests in flight of a worker that leaves."""
    unready_seconds: float = rules.seconds(0.0, minimum=0.0)
    """How long the session goes on serving after its end was decided, so that a load balancer can look away first."""


@frozen(kw_only=True)
class RestartSettings:
    """``[restart]``: the back-off between deaths."""

    initial_delay_seconds: float = rules.seconds(0.5)
    """Before the second start in a row; the first is at once."""
    maximum_delay_seconds: float = rules.seconds(60.0)
    """The delay grows up to this. Never less than the initial delay."""
    give_up_after: int | None = rules.whole(None, 1, 1000)
    """So many deaths within the window, and the session ends with status 70. Unset: it never gives up."""
    give_up_window_seconds: float = rules.seconds(600.0)
    reset_after_seconds: float = rules.seconds(60.0)
    """A worker that lived for so long was stable: the next death counts as the first."""

    def __attrs_post_init__(self) -> None:
        key, floor = "restart.maximum_delay_seconds", self.initial_delay_seconds
        _must_reach(key, self.maximum_delay_seconds, "restart.initial_delay_seconds", floor)


@frozen(kw_only=True)
class LimitsSettings:
    """``[limits]``: when a worker is replaced although nothing is wrong with it; one at a time, and none is lost.

    All are unset by default. Up to a tenth is taken off the first two by chance, so that workers that were started
    together are not replaced together.
    """

    requests: int | None = rules.whole(None, 1, 1_000_000_000)
    """After so many requests."""
    lifetime_seconds: float | None = rules.seconds(None, minimum=1.0, maximum=10_000_000.0)
    """After so long a time of serving."""
    memory_mib: int | None = rules.whole(None, 1, 1_000_000)
    """Above so much resident memory, in `memory_samples` samples one after the other."""
    memory_samples: int = rules.whole(3, 1, 1000)
    """One is taken every five seconds."""


@frozen(kw_only=True)
class OutputSettings:
    """``[output]``."""

    show_server_output: bool = rules.flag(True)
    """Whether what workers print goes to the log; the last lines are kept for a crash report in any case."""
    log_format: str = rules.one_of("text", "text", "json")
    """``text`` or ``json``."""
    file: str | None = rules.path()
    """A file for the whole log of the session, what workers print included, besides where it goes anyhow."""
    file_max_mib: int = rules.whole(100, 0, 1_000_000)
    """The log file is turned over when it is as large as this; 0: never, as logrotate does it."""
    files_kept: int = rules.whole(5, 0, 1000)
    """So many full ones are kept, from ``FILE.1``, the newest, on."""
    access_log: str | None = rules.one_of(None, "common", "combined", "json")
    """A line for each request to a site that the workers serve: as Apache's formats have it, or JSON. None: no line."""
    access_log_file: str | None = rules.path()
    """All workers append to it; it is never turned over by itself. None: the lines are output of the workers."""

    def __attrs_post_init__(self) -> None:
        problems = []
        if self.access_log_file is not None and self.access_log is None:
            text = "needs a format: set output.access_log to 'common', 'combined' or 'json'"
            problems.append(Problem("output.access_log_file", text))
        if self.access_log_file is not None and self.access_log_file == self.file:
            problems.append(
                Problem("output.access_log_file", "is the log file itself (output.file): name another")
            )
        if problems:
            raise InvalidSettings(problems)


@frozen(kw_only=True)
class JournalSettings:
    """``[journal]``: every event on disk, in ``journal.jsonl``, and what operators did, in ``audit.jsonl``."""

    max_mib: int = rules.whole(10, 1, 10_000)
    """A file that has grown so large is closed, and a new one begun."""
    max_days: int = rules.whole(30, 1, 3650)
    """So is one that begins longer ago; a closed one that ends longer ago is removed."""
    files: int = rules.whole(5, 0, 100)
    """So many closed files of each are kept, the newest."""


@frozen(kw_only=True)
class IpcSettings:
    """``[ipc]``: emits between monitor and workers."""

    maximum_bytes: int = rules.whole(16 * 1024 * 1024, 1024, 16 * 1024 * 1024)
    """The largest argument or result, as JSON."""
    timeout_seconds: float = rules.seconds(60.0)
    """An emit that has no answer by then ends with `EmitTimeout`."""


@frozen(kw_only=True)
class Settings:
    """Everything a session is configured with."""

    app: AppSettings = AppSettings()
    ports: tuple[PortSettings, ...] = (PortSettings(name="server", kind="tcp", port=8080),)
    """One of them is named ``server``."""
    tls: tuple[TlsSettings, ...] = ()
    """For each port that speaks TLS."""
    workers: WorkersSettings = WorkersSettings()
    polling: PollingSettings = PollingSettings()
    watchdog: WatchdogSettings = WatchdogSettings()
    startup: StartupSettings = StartupSettings()
    drain: DrainSettings = DrainSettings()
    restart: RestartSettings = RestartSettings()
    limits: LimitsSettings = LimitsSettings()
    output: OutputSettings = OutputSettings()
    journal: JournalSettings = JournalSettings()
    ipc: IpcSettings = IpcSettings()
    control: ControlSettings = ControlSettings()  # noqa: RUF009 - frozen
    dashboard: DashboardSettings = DashboardSettings()  # noqa: RUF009 - frozen
    health: HealthSettings = HealthSettings()  # noqa: RUF009 - frozen
    notify: NotifySettings = NotifySettings()  # noqa: RUF009 - frozen
    mail: MailSettings = MailSettings()  # noqa: RUF009 - frozen
    webhook: WebhookSettings = WebhookSettings()  # noqa: RUF009 - frozen
    state_directory: str | None = rules.path()
    """``--state-dir``; None: where design says (`$STATE_DIRECTORY`, `$XDG_STATE_HOME`)."""

    def __attrs_post_init__(self) -> None:
        bind, command = self.workers.bind, self.app.command
        problems = [
            *_port_problems(self),
            *tls_problems(self.tls, self.ports, bind=bind, command=command),
            *notify_problems(self.notify, self.mail),
        ]
        if problems:
            raise InvalidSettings(problems)

    def as_json(self) -> dict[str, Any]:
        """The settings as JSON values, in the shape of the configuration file. What is unset is left out."""
        tables = attrs.asdict(self, filter=lambda _, value: value is not None)
        tls = {each.pop("name"): each for each in tables["tls"]}
        return tables | {"ports": {port.name: port.describe() for port in self.ports}, "tls": tls}

    def for_worker(self) -> dict[str, Any]:
        """As `as_json`, without the tables that are the monitor's own business, its secrets among them."""
        return {name: value for name, value in self.as_json().items() if name not in _MONITORS_OWN}

    @classmethod
    def from_json(cls, data: object) -> Settings:
        """The settings that `as_json` gave, exactly; raises `InvalidSettings` where they are none."""
        from serverworker.values.reading import (
            combine,
            read,
        )  # made of these classes, so it cannot come first

        return combine(read(data, label="JSON", spell=lambda key: key or "settings"))


def _port_problems(settings: Settings) -> Iterator[Problem]:
    """What is wrong between the ports; each by itself is checked already."""
    names = [port.name for port in settings.ports]
    if "server" not in names:
        yield Problem(
            "ports.server", "is missing: the port that is polled, and that --port without a name sets"
        )
    for first, second in combinations(settings.ports, 2):
        if first.name == second.name:
            yield Problem(port_key(second.name), "there are two ports of this name")
        elif first.overlaps(second):
            yield Problem(
                port_key(second.name),
                f"{shown(second.describe())} cannot be bound beside {port_key(first.name)}, {shown(first.describe())}",
            )
    for port in settings.ports:
        if not settings.workers.bind and port.kind != "unix" and port.port == 0:
            yield Problem(
                port_key(port.name),
                "0 means any free port, which the monitor cannot find out where workers.bind is false",
            )
