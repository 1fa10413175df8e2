"""The exit statuses of a session, after sysexits.h."""

import enum


class ExitStatus(enum.IntEnum):
    """What the process that `twistd` or `twist` ran ends with."""

    OK = 0
    USAGE = 64
    """An option does not exist, or its value is of the wrong kind."""
    UNAVAILABLE = 69
    """A port cannot be bound, or another session holds the state directory."""
    SOFTWARE = 70
    """The session gave up, or the monitor itself had a fault."""
    CONFIG = 78
    """The configuration or the application cannot be used."""
