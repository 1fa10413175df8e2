"""Which files a session reads and writes, and whether it still can where a unit's sandbox surrounds it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from attrs import field, frozen

from serverworker.ctl.present_options import CommandLine
from serverworker.options import Options
from serverworker.values.ports import PortSettings, port_key
from serverworker.values.settings import Settings
from serverworker.values.surfaces import parse_endpoint

_HIDDEN = {
    "/home": "ProtectHome=yes hides it: put it elsewhere, such as below /srv or /opt",
    "/root": "ProtectHome=yes hides it: put it elsewhere, such as below /srv or /opt",
    "/run/user": "ProtectHome=yes hides it: use the folder of the unit's own below /run",
    "/tmp": "PrivateTmp=yes gives the unit another one: put it elsewhere, such as below /srv",  # noqa: S108 - a name, nothing is made there
    "/var/tmp": "PrivateTmp=yes gives the unit another one: put it elsewhere, such as below /srv",  # noqa: S108 - likewise
}
_LOGS = Path("/var/log")


@frozen(kw_only=True)
class Writable:
    """Where the unit has to let a session write."""

    logs: tuple[str, ...] = ()
    """For ``LogsDirectory=``, without /var/log/."""
    paths: tuple[str, ...] = ()
    """For ``ReadWritePaths=``."""


@frozen
class Sandbox:
    """Goes through the settings of one session, and collects what is wrong."""

    options: Options
    """After its `settings`: says how the operator spelled what."""
    settings: Settings
    name: str
    user: str | None
    problems: list[str] = field(factory=list)
    """One a line, each with what to do."""

    def check(self, line: CommandLine, extra: tuple[str, ...], *, sockets: bool) -> Writable:
        """Look at all that the session reads, writes and binds. `extra`: what the operator wants to have writable."""
        readable = {
            "the folder of twistd": line.program,
            "the interpreter of twistd": line.interpreter,
            "the current folder, which is the application's": line.directory,
            **dict(self._read()),
        }
        for what, path in readable.items():
            self._must_be_seen(what, path)
        self._check_state_directory()
        folders = [(what, path) for what, path in self._written(sockets=sockets)]
        logs = [log for _, path in folders if (log := self._log_folder(path))]
        paths = [str(path) for what, path in folders if self._must_be_writable(what, path)]
        for path in extra:
            if self._must_be_seen("--writable", path) and not Path(path).exists():
                self._say("--writable", f"there is no {path}, and the unit would not start: make it")
        return Writable(logs=tuple(dict.fromkeys(logs)), paths=tuple(dict.fromkeys([*paths, *extra])))

    def _say(self, what: str, text: str) -> None:
        self.problems.append(f"{what}: {text}")

    def _spelled(self, key: str) -> str:
        """A key as whoever gave its value wrote it."""
        for source in reversed(self.options.sources):
            if key in source.values:
                return source.spell(key)
        return key

    # --- what is read ---------------------------------------------------------------------------

    def _read(self) -> Iterator[tuple[str, str]]:
        settings = self.settings
        given = {
            "app.directory": settings.app.directory,
            "app.python": settings.app.python,
            "control.certificate": settings.control.certificate,
            "control.private_key": settings.control.private_key,
            "control.client_authority": settings.control.client_authority,
            "dashboard.certificate": settings.dashboard.certificate,
            "dashboard.private_key": settings.dashboard.private_key,
            "mail.password_file": settings.mail.password_file,
            "webhook.secret_file": settings.webhook.secret_file,
        }
        for tls in settings.tls:
            given[f"tls.{tls.name}.certificate"] = tls.certificate
            given[f"tls.{tls.name}.private_key"] = tls.private_key
        for key, path in given.items():
            if path is not None and path.startswith("/"):
                yield self._spelled(key), path
        if self.options["config"] is not None:
            yield "--config", str(Path(self.options.folder, self.options["config"]))

    def _must_be_seen(self, what: str, path: str) -> bool:
        """Note a path that the sandbox hides, or a link that leads to one."""
        for each in dict.fromkeys((path, os.path.realpath(path))):
            for hidden, why in _HIDDEN.items():
                if Path(each).is_relative_to(hidden):
                    leads = "" if each == path else f", which leads to {each},"
                    self._say(what, f"{path}{leads} is below {hidden}, and {why}")
                    return False
        return True

    # --- what is written ------------------------------------------------------------------------

    def _check_state_directory(self) -> None:
        given, own = self.settings.state_directory, f"/var/lib/{self.name}"
        if given is not None and os.path.normpath(given) != own:
            self._say(
                self._spelled("state_directory"),
                f"{given} is not the unit's StateDirectory=, which is {own}: leave it out, or choose another --name",
            )

    def _written(self, *, sockets: bool) -> Iterator[tuple[str, Path]]:
        """Each folder in which something is made, and what."""
        output = self.settings.output
        for key, path in (("output.file", output.file), ("output.access_log_file", output.access_log_file)):
            if path is not None and not path.startswith("/dev/"):
                yield self._spelled(key), Path(path).parent
        for port in () if sockets else self.settings.ports:
            if port.kind == "unix":
                yield self._spelled(port_key(port.name)), Path(port.path).parent
        for key, port in self.endpoints():
            if port.kind == "unix":
                yield self._spelled(key), Path(port.path).parent

    def endpoints(self) -> Iterator[tuple[str, PortSettings]]:
        """The operators' and machines' own addresses, by key."""
        settings = self.settings
        for name in ("control", "dashboard", "health"):
            endpoint = getattr(settings, name).endpoint
            if endpoint is not None:
                yield f"{name}.endpoint", parse_endpoint(endpoint)

    def _log_folder(self, path: Path) -> str:
        return str(path.relative_to(_LOGS)) if path.is_relative_to(_LOGS) and path != _LOGS else ""

    def _must_be_writable(self, what: str, path: Path) -> bool:
        """Whether the folder has to be named in ``ReadWritePaths=``; a problem is noted."""
        if any(path.is_relative_to(own) for own in (f"/var/lib/{self.name}", f"/run/{self.name}")):
            return False
        if self._log_folder(path) or not self._must_be_seen(what, str(path)):
            return False
        own = f"/run/{self.name}, /var/lib/{self.name} or /var/log/{self.name}, which the unit makes"
        if not path.is_dir():
            self._say(what, f"there is no folder {path}: make it, or use {own}")
            return False
        if self.user is None:
            self._say(
                what,
                f"{path} is nothing that the unit's user could write in, who exists while it runs only: use {own}, "
                "or give it a user with --user",
            )
            return False
        return True
