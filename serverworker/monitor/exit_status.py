"""How the monitor's process comes to end with the session's status: neither twistd nor twist has a way to say it."""

from __future__ import annotations

import atexit
import os
import sys


class ExitStatusAtEnd:
    """Makes the process end with a status, once that is settled."""

    def __init__(self) -> None:
        # Registered early, so that it runs last: whatever else wants to be done at exit has been.
        atexit.register(self._end)
        self._status: int | None = None

    def settle(self, status: int) -> None:
        """From now on the process ends with this status."""
        self._status = status

    def _end(self) -> None:
        if self._status is not None:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(self._status)
