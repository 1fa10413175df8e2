"""Which half of a session this process is: one monitor, or one worker, and never both."""

from __future__ import annotations

from serverworker.values.errors import AlreadyLaunched, WrongProcess

_WORDS = {"monitor": "the monitor", "worker": "a server worker"}


class ProcessRole:
    """The role of one process. There is one for the process itself; tests make their own."""

    def __init__(self) -> None:
        self.role: str | None = None

    def take(self, role: str) -> None:
        """Become ``monitor`` or ``worker``.

        Raises `WrongProcess` in a process of the other role, and `AlreadyLaunched` where there is one already
        (rows W1, W2 and M1 of the original: it ended the process instead).
        """
        if self.role is None:
            self.role = role
        elif self.role == role:
            raise AlreadyLaunched(
                f"this process already is {_WORDS[role]}: there is one for each process, and no more"
            )
        else:
            raise WrongProcess(f"this process is {_WORDS[self.role]}, and cannot be {_WORDS[role]} as well")

    def leave(self) -> None:
        """Be nothing again: the session in this process has ended."""
        self.role = None


THIS_PROCESS = ProcessRole()
"""The role of the process that this code runs in."""
