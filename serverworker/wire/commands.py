"""What monitor and worker say to each other: the AMP commands, by direction."""

from __future__ import annotations

import math
from typing import Any

from twisted.protocols import amp

from serverworker.values.errors import ServerWorkerError
from serverworker.wire.large import MAX_VALUE_BYTES, Large, LargeJSON, LargeText

PROTOCOL_VERSION = 1
"""Told at :class:`Join`. A monitor and a worker of different versions do not talk to each other."""

ENVELOPE_BYTES = 4096
"""What a message's name, number and punctuation may add to its value."""


COMMAND_FAILED = b"COMMAND_FAILED"
"""How :class:`CommandFailed` is called on the wire."""


class CommandFailed(ServerWorkerError):
    """The other process could not do what it was asked. The text is its error, in one line."""


class Seconds(amp.Argument):
    """A finite number of seconds, whole or not."""

    def toString(self, inObject: Any) -> bytes:
        """The number in decimal."""
        return repr(_finite(inObject)).encode("ascii")

    def fromString(self, inString: bytes) -> float:
        """The number."""
        return _finite(float(inString))


def _finite(seconds: float) -> float:
    if isinstance(seconds, bool) or not math.isfinite(seconds):
        raise ValueError(f"{seconds!r} is not a finite number of seconds")
    return float(seconds)


class _Asked(amp.Command):
    """A command that answers. Whatever goes wrong in it is answered as `CommandFailed`."""

    errors = {CommandFailed: COMMAND_FAILED}


# Monitor to worker


class Ping(_Asked):
    """Does the reactor turn? Only a turning one answers."""


class Activate(_Asked):
    """Run what was loaded: `work()`, `startService`. Answered at once; `Activated` tells when it is done."""


class Serve(_Asked):
    """Start to accept connections."""


class Unready(_Asked):
    """The end of the session is near: a load balancer is to look away. The worker goes on serving."""


class Leave(_Asked):
    """Stop accepting, finish what there is within `seconds`, and exit."""

    arguments = [
        (b"kind", amp.Unicode()),  # "restart" or "session-end"
        (b"text", LargeText()),
        (b"seconds", Seconds()),
        (b"drain", amp.Boolean()),  # False: do not wait for what is in flight
        (b"last_ports", amp.ListOf(amp.Unicode())),  # those that no successor has: closed for good
    ]


class SetPolling(_Asked):
    """Poll the health route every so many seconds from now on."""

    arguments = [(b"seconds", Seconds())]


class UseCertificates(_Asked):
    """Serve new connections with these certificates. `tls`: a `PortTls` as a dict, by the port's name."""

    arguments = [(b"tls", LargeJSON())]


class ImportedFiles(_Asked):
    """Which source files of the application are imported? For ``--reload``."""

    response = [(b"files", LargeJSON())]


# Worker to monitor


class Join(_Asked):
    """A worker's first words, and the monitor's: what the worker is to run."""

    arguments = [
        (b"version", amp.Integer()),
        (b"worker", amp.Integer()),
        (b"pid", amp.Integer()),
    ]
    response = [
        (b"settings", LargeJSON()),  # `Settings.as_json`
        (b"generation", amp.Integer()),
        (b"key", amp.Unicode()),  # the session key
        (b"tls", LargeJSON(optional=True)),  # as in `UseCertificates`; left out: no port speaks TLS
    ]


class Loaded(_Asked):
    """The application is imported and built."""

    arguments = [
        (b"needs_activation", amp.Boolean()),
        (b"application", LargeText()),
        (b"version", LargeText()),  # what the application calls itself; empty where nobody says
    ]


class LoadFailed(_Asked):
    """The application could not be imported or built. `error` is an `ErrorRecord` as a dict."""

    arguments = [(b"error", LargeJSON())]


class Activated(_Asked):
    """What `Activate` asked for has run."""


class Ready(_Asked):
    """The health route has answered for the first time; so many seconds it took."""

    arguments = [(b"seconds", Seconds())]


class BeatTold(_Asked):
    """One heartbeat. `beat` is a `Beat` as a dict."""

    arguments = [(b"beat", LargeJSON())]


class CrashDetected(_Asked):
    """An exception that nothing handled: the worker is about to end. `error`: an `ErrorRecord` as a dict."""

    arguments = [
        (b"error", LargeJSON()),
        (b"kind", amp.Unicode()),  # the value of a `CauseKind`
    ]


class Terminated(_Asked):
    """SIGTERM came from outside the session: what does it mean? The answer says that the monitor will see to it."""


class Note(_Asked):
    """A lifecycle notification in words."""

    arguments = [(b"text", LargeText())]


class KillSession(_Asked):
    """End the whole session, with this exit status."""

    arguments = [
        (b"reason", LargeText()),
        (b"graceful", amp.Boolean()),
        (b"status", amp.Integer()),
    ]


# Both ways


class Messages(amp.Command):
    """Emits and answers of one reactor turn (see `emits`). It answers nothing, and nothing in it can fail."""

    requiresAnswer = False
    arguments = [
        (b"batch", Large(limit=MAX_VALUE_BYTES + ENVELOPE_BYTES)),
    ]
