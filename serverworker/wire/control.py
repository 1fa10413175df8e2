"""What another program and the monitor say to each other: the AMP commands of the control port.

A program connects to the monitor's control socket and speaks AMP, each command in one box; `serverworker.control` is
the client in Python. Where the port is TLS without client certificates, `Authenticate` comes first. Any of a command's
errors leaves the connection open. A value past AMP's 65,535 bytes is spread over the keys ``name``, ``name.1``, ….

=======================  =============================================================================
``NOT_ALLOWED``          the session key is wrong, or was not shown
``BAD_COMMAND``          no such command, or wrong arguments; the text says what is allowed
``NOT_DONE``             what was asked for did not happen; the text says why, and what goes on
``BAD_VALUE``            a value that the configuration does not allow
``PORT_UNAVAILABLE``     an address that cannot be bound
``REFUSED``              anything else that the session refuses on purpose
``COMMAND_FAILED``       an error of the session's own; its log has the traceback
=======================  =============================================================================
"""

from __future__ import annotations

from typing import ClassVar

from twisted.protocols import amp

from serverworker.values.errors import (
    BadCommand,
    ConfigurationError,
    NotAllowed,
    NotDone,
    PortUnavailable,
    ServerWorkerError,
)
from serverworker.wire.commands import COMMAND_FAILED, CommandFailed, Seconds
from serverworker.wire.large import LargeJSON, LargeText

CONTROL_VERSION = 1
"""Told by `Hello`. It is raised where an old client would misread an answer; new keys and commands do not raise it."""


class ControlCommand(amp.Command):
    """A command of the control port; see the module for its errors."""

    # The first that fits is sent, so the most general come last.
    errors: ClassVar = {
        NotAllowed: b"NOT_ALLOWED",
        BadCommand: b"BAD_COMMAND",
        NotDone: b"NOT_DONE",
        ConfigurationError: b"BAD_VALUE",
        PortUnavailable: b"PORT_UNAVAILABLE",
        CommandFailed: COMMAND_FAILED,
        ServerWorkerError: b"REFUSED",
    }


class Hello(ControlCommand):
    """Who is there. The one command that needs no key, besides `Authenticate`."""

    response = [
        (b"version", amp.Integer()),  # CONTROL_VERSION
        (b"allowed", amp.Boolean()),  # False: show the session key first
    ]


class Authenticate(ControlCommand):
    """Show the session key. Wrong ones are slowed down, told as `LoginFailed`, and after a few the link is closed."""

    arguments = [(b"key", amp.Unicode())]
    response = [(b"who", amp.Unicode())]  # how the audit log will name this link


class Status(ControlCommand):
    """How the session is; see the reference of the status."""

    response = [(b"status", LargeJSON())]


class Restart(ControlCommand):
    """Start a new generation; answers when it serves, or NOT_DONE when it was dropped."""

    arguments = [(b"mode", amp.Unicode())]  # clean or force
    response = [(b"text", LargeText())]


class Exit(ControlCommand):
    """End the session; answers when every worker is gone, just before the monitor ends."""

    arguments = [(b"mode", amp.Unicode())]  # clean or force
    response = [(b"text", LargeText())]


class SetPort(ControlCommand):
    """Give a port another address, from the next restart on or `now`."""

    arguments = [
        (b"name", amp.Unicode()),
        (b"address", amp.Unicode()),  # as in the configuration: 8081, tcp:8081:interface=127.0.0.1, unix:/…
        (b"now", amp.Boolean()),
    ]
    response = [(b"text", LargeText())]


class SetPolling(ControlCommand):
    """Change how often every worker polls itself."""

    arguments = [(b"seconds", Seconds())]
    response = [(b"text", LargeText())]


class SetWorkers(ControlCommand):
    """Change how many workers serve."""

    arguments = [(b"count", amp.Integer())]
    response = [(b"text", LargeText())]


class Emit(ControlCommand):
    """Have the application's handlers of that name run, in the workers that serve, in one, or in the monitor.

    `outcomes`: ``{"worker 3": {"results": […]}, "worker 4": {"error": {"type", "message", "traceback"}}}``; with a
    target of ``monitor`` its one key is ``monitor``. That a handler fails is an outcome, and no error of the command.
    """

    arguments = [
        (b"name", amp.Unicode()),
        (b"args", LargeJSON()),
        (b"to", amp.Unicode()),  # workers, monitor, or the id of a worker
        (b"seconds", Seconds(optional=True)),  # of the handlers; without it the configuration's
    ]
    response = [(b"outcomes", LargeJSON())]


class Crashes(ControlCommand):
    """A summary of each crash report, newest first: id, at, worker, generation, cause, text, hung_at, next_step."""

    response = [(b"crashes", LargeJSON())]


class Crash(ControlCommand):
    """One crash report, by its id or ``last``; see the reference of crash reports."""

    arguments = [(b"id", amp.Unicode())]
    response = [(b"report", LargeJSON())]


class Logs(ControlCommand):
    """The last lines that workers printed, oldest first, as `OutputLine` events."""

    arguments = [
        (b"limit", amp.Integer()),  # 1 to 10000
        (b"worker", amp.Integer(optional=True)),  # its id; without it all of them
    ]
    response = [(b"lines", LargeJSON())]


class Events(ControlCommand):
    """The newest events of the journal, oldest first, those of earlier sessions too."""

    arguments = [
        (b"limit", amp.Integer()),  # 1 to 10000
        (b"since", Seconds(optional=True)),  # seconds since the epoch
        (b"kinds", amp.ListOf(amp.Unicode())),  # names of events; none: all
    ]
    response = [(b"events", LargeJSON())]


class Run(ControlCommand):
    """Run a command as it would be typed on the console, an agent's own among them, in words."""

    arguments = [(b"words", amp.ListOf(amp.Unicode()))]
    response = [
        (b"text", LargeText()),  # for people
        (b"data", LargeJSON()),  # for programs; null where there is no more than the text
    ]


class Usages(ControlCommand):
    """What can be run, for help and completion: ``[[usage, help], …]``."""

    response = [(b"usages", LargeJSON())]


class Subscribe(ControlCommand):
    """Be told of events from now on, or from those after `since` on, by `Told`. A second one takes the first's place.

    `session` and `since` are those of the last event that a client has had. Where the session is another one by now,
    its events are told from the first that is still kept.
    """

    arguments = [
        (b"session", amp.Unicode()),  # empty: from now on
        (b"since", amp.Integer()),
        (b"kinds", amp.ListOf(amp.Unicode())),  # names of events; none: all
        (b"output", amp.Boolean()),  # whether lines that workers print are told, too
    ]
    response = [
        (b"session", amp.Unicode()),
        (b"sequence", amp.Integer()),  # of the newest event there is
    ]


class Unsubscribe(ControlCommand):
    """Be told no more."""


class Told(ControlCommand):
    """From the monitor: some events, oldest first, as `event_json` has them. The next come when this is answered.

    `missed`: before these were others, which are kept no more because this client did not keep up.
    """

    arguments = [
        (b"events", LargeText()),  # one JSON array
        (b"upto", amp.Integer()),  # to go on from, in `Subscribe`
        (b"missed", amp.Boolean()),
    ]
