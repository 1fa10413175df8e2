"""Run as a program in front of the user's, in its process: it says for whom the sockets are, then becomes the other.

``LISTEN_PID`` has to hold the pid of the process itself, which nobody knows before it is there. Nothing but C modules
is imported: the interpreter is started without site-packages, and has no longer to live than it takes (10 ms).
"""

import _signal  # type: ignore[import-not-found]  # `signal` wraps it in enums, which take as long as all the rest
import posix
import sys

_IGNORED = (_signal.SIGPIPE, _signal.SIGXFSZ, _signal.SIGINT)
"""Python, and a worker, ignore these, and what is ignored stays so across exec."""
_CANNOT_EXECUTE = 126
"""As a shell ends where a program is there and cannot be run."""


def become(arguments: list[str]) -> int:
    """Become the program ``arguments[0]``, with the arguments behind it; the status to end with where it cannot be.

    It leads a process group of its own, so that it can be killed with its children, and without who started it.
    """
    path, *words = arguments
    for number in _IGNORED:
        _signal.signal(number, _signal.SIG_DFL)
    posix.setpgid(0, 0)
    environment = {**posix.environ}
    if b"LISTEN_FDS" in environment:
        environment[b"LISTEN_PID"] = b"%d" % posix.getpid()
    try:
        posix.execve(path, words, environment)
    except OSError as error:
        posix.write(2, f"{path} cannot be run: {error.strerror}\n".encode(errors="surrogateescape"))
    return _CANNOT_EXECUTE


if __name__ == "__main__":
    sys.exit(become(sys.argv[1:]))
