"""The configuration of a running session: read anew at each restart, taken back where the restart fails."""

from __future__ import annotations

import os
from collections.abc import Callable

import attrs
from attrs import frozen

from serverworker.monitor.ports import Ports
from serverworker.values.errors import ConfigurationError
from serverworker.values.settings import Settings
from serverworker.values.state import Policy

_FIXED = ("state_directory", "output")
"""What a session has for all of its life."""


@frozen(kw_only=True)
class _Before:
    """What held before a restart, and what the restart has changed of it."""

    generation: int
    settings: Settings
    last_read: Settings
    changed: tuple[str, ...]


class Configuration:
    """What holds now, and, while a restart is under way, what held before it."""

    def __init__(self, settings: Settings, ports: Ports, read: Callable[[], Settings] | None = None) -> None:
        """`read` reads options and file anew, and raises `ConfigurationError`; None: there is nothing to be read."""
        self.settings = settings
        self._ports = ports
        self._read = read
        self._last_read = settings
        self._before: _Before | None = None

    def read_anew(self, generation: int) -> None:
        """Take over what was changed in options and file since they were last read; `generation` keeps what it has.

        What the console has changed meanwhile stays. Raises `ConfigurationError` and `PortUnavailable`, and changes
        nothing then.
        """
        if self._read is None:
            return
        fresh = self._read()
        changed = {
            field.name: getattr(fresh, field.name)
            for field in attrs.fields(Settings)
            if getattr(fresh, field.name) != getattr(self._last_read, field.name)
        }
        if not changed:
            return
        fixed = [name for name in _FIXED if name in changed]
        if fresh.workers.bind != self.settings.workers.bind:
            fixed.append("workers.bind")
        if fresh.app.reload != self.settings.app.reload:
            fixed.append("app.reload")
        if fixed:
            raise ConfigurationError(
                f"{', '.join(fixed)}: cannot be changed while the session runs: start a new one"
            )
        settings = attrs.evolve(self.settings, **changed)
        if "ports" in changed and settings.workers.bind:
            self._ports.replace(settings.ports, self.settings.ports)
        self._before = _Before(
            generation=generation,
            settings=self.settings,
            last_read=self._last_read,
            changed=tuple(changed),
        )
        self.settings, self._last_read = settings, fresh

    def of(self, generation: int) -> Settings:
        """What a worker of that generation is told: the one that a restart is to replace keeps what it had."""
        if self._before is not None and generation == self._before.generation:
            return self._before.settings
        return self.settings

    def keep(self) -> None:
        """The restart succeeded."""
        self._before = None

    def take_back(self) -> None:
        """The restart failed: what it had changed is as before, and the next restart tries anew.

        What the console has changed meanwhile stays, but for what the restart had changed as well.
        """
        before, self._before = self._before, None
        if before is None:
            return
        if "ports" in before.changed and before.settings.workers.bind:
            self._ports.take_back()
        undone = {name: getattr(before.settings, name) for name in before.changed}
        self.settings, self._last_read = attrs.evolve(self.settings, **undone), before.last_read


def policy_of(settings: Settings) -> Policy:
    """The figures that decisions depend on."""
    return Policy(
        count=settings.workers.count,
        standby=settings.workers.standby,
        # Who binds by itself finds the port taken as long as its predecessor is there.
        overlap=settings.workers.overlap and settings.workers.bind,
        startup_seconds=settings.startup.timeout_seconds,
        drain_seconds=settings.drain.timeout_seconds,
        initial_delay_seconds=settings.restart.initial_delay_seconds,
        maximum_delay_seconds=settings.restart.maximum_delay_seconds,
        reset_after_seconds=settings.restart.reset_after_seconds,
        give_up_after=settings.restart.give_up_after,
        give_up_window_seconds=settings.restart.give_up_window_seconds,
        unready_seconds=settings.drain.unready_seconds,
        starting_at_once=max(2, os.cpu_count() or 1),
    )
