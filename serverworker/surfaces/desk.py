"""What every operator surface works at: one session, who asks, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred

from serverworker.monitor.console_commands import ConsoleCommands
from serverworker.monitor.handle import Monitor
from serverworker.monitor.history import History
from serverworker.values.events import Event


@frozen(kw_only=True)
class Asker:
    """Who asks."""

    who: str
    """Such as ``alice (uid 1000, pid 4711)`` or ``the console``."""
    surface: str
    """``console``, ``control`` or ``dashboard``."""


@frozen(kw_only=True)
class Outcome:
    """What a command came to."""

    text: str
    """For people."""
    data: Any = None
    """For programs: JSON values. None: there is no more than the text."""


@frozen(kw_only=True)
class Desk:
    """All that a surface may see of a session and do to it."""

    monitor: Monitor
    agents: ConsoleCommands
    history: History
    publish: Callable[[Event], None]
    state_directory: Path
    """With the crash reports and the journal."""
    session: str
    """Tells this session from the one before: the numbers of events begin anew in each."""
    in_thread: Callable[[Callable[[], Any]], Deferred[Any]]
    """Runs what waits for the disk."""
