"""The agent's shell commands: run beside the workers, and ended with the session."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred

from serverworker.processes.guardian import Guardian
from serverworker.processes.shell import ShellResult, run
from serverworker.processes.spawn import passed_on
from serverworker.values.events import CommandFinished, Event


class ShellCommands:
    """Runs them, each known to the guardian as long as it runs."""

    def __init__(self, reactor: Any, publish: Callable[[Event], None], guardian: Guardian) -> None:
        self._reactor = reactor
        self._publish = publish
        self._guardian = guardian

    def run(self, command: str | Sequence[str], timeout: float) -> Deferred[ShellResult]:
        """See `Monitor.exec`."""
        pids: list[int] = []

        def started(pid: int) -> None:
            pids.append(pid)
            self._guardian.watch(pid)

        result = run(
            self._reactor,
            command,
            self._publish,
            timeout,
            environment=passed_on(os.environ),
            started=started,
        )

        def done(result: ShellResult) -> ShellResult:
            text = command if isinstance(command, str) else " ".join(command)
            self._publish(CommandFinished(command=text, status=result.status))
            return result

        def forget(result: Any) -> Any:
            for pid in pids:
                self._guardian.forget(pid)
            return result

        return result.addCallback(done).addBoth(forget)
