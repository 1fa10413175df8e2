"""A pseudo-terminal for a process under test, and what a session writes to where its lines are meant for people."""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import os
import pty
import re
import select
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tests.integration.programs import CHECKOUT
from tests.integration.sessions import LONG

TWISTD = (
    sys.executable,
    "-c",
    "import sys; sys.argv[0] = 'twistd'; import twisted.scripts.twistd as t; t.run()",
)
"""As its console script does it; this may not be on the path."""


def variables(**more: str) -> dict[str, str]:
    """The environment of a session: ours, with the checkout on the path, and nothing that changes its behaviour."""
    ours = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    path = os.pathsep.join([str(CHECKOUT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return {**ours, "PYTHONPATH": path, **more}


class Output:
    """What comes out of a descriptor, read by a thread, so that a test can wait for a part of it."""

    def __init__(self, descriptor: int) -> None:
        self.text = ""
        self._descriptor = descriptor
        self._waker, self._wake = os.pipe()
        self._changed = threading.Condition()
        self._over = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        while not self._over:
            data = b""
            ready, _, _ = select.select([self._descriptor, self._waker], [], [])
            if self._descriptor in ready:
                with contextlib.suppress(OSError):  # EIO: nobody has the other end of a terminal any more
                    data = os.read(self._descriptor, 65536)
            with self._changed:
                self.text += decoder.decode(data)
                self._over = not data
                self._changed.notify_all()

    def wait_for(self, pattern: str, *, after: int = 0, seconds: float = LONG) -> re.Match[str]:
        """The first match of a regular expression, from position `after` on; AssertionError at the deadline."""
        deadline = time.monotonic() + seconds
        expression = re.compile(pattern, re.MULTILINE)
        with self._changed:
            while (found := expression.search(self.text, after)) is None:
                left = deadline - time.monotonic()
                if left <= 0 or self._over:
                    raise AssertionError(f"waited in vain for {pattern!r}; there came:\n{self.text[-5000:]}")
                self._changed.wait(left)
            return found

    def close(self) -> None:
        """Read no more, and close the descriptor."""
        os.write(self._wake, b".")
        self._thread.join(LONG)
        for descriptor in (self._descriptor, self._waker, self._wake):
            os.close(descriptor)

    def wait_for_end(self) -> str:
        """Wait until nobody writes any more, and answer all that came."""
        self._thread.join(LONG)
        return self.text


class Terminal:
    """A pseudo-terminal: a test types at one end of it, and reads what is shown."""

    def __init__(self) -> None:
        self._master, self.descriptor = pty.openpty()
        """`descriptor` is the end of the process under test."""
        self.output = Output(self._master)

    def type(self, line: str) -> int:
        """Type a line; answers the position in the output from which on its consequences can come."""
        position = len(self.output.text)
        os.write(self._master, f"{line}\n".encode())
        return position

    def press(self, key: str) -> None:
        """Press a key; ^D is ``chr(4)``."""
        os.write(self._master, key.encode())

    @property
    def is_blocking(self) -> bool:
        """Whether the descriptor that the process was given blocks, as a shell expects."""
        return not fcntl.fcntl(self.descriptor, fcntl.F_GETFL) & os.O_NONBLOCK

    def close(self) -> None:
        """Close the window. Twice is no error."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.output.close()
            self.descriptor = -1


def start(folder: Path, *arguments: str, stdin: Any = subprocess.DEVNULL, stdout: Any, **more: str) -> Any:
    """`twistd` with these arguments as a process."""
    return subprocess.Popen(
        [*TWISTD, *arguments],
        cwd=folder,
        env=variables(**more),
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
