"""Whether this machine can hold as many workers as are asked for."""

from __future__ import annotations

from serverworker.values.errors import ConfigurationError
from serverworker.values.settings import WorkersSettings

_DESCRIPTORS_EACH = 8
"""Of the monitor's, for one worker: its pipes, its channel, its dump, while two generations are there."""
_DESCRIPTORS_FIXED = 64
_MIB_EACH = 20
"""What a worker takes for itself at the very least, before the application."""


def check_capacity(workers: WorkersSettings, *, descriptors: int, memory_mib: int) -> None:
    """Raise `ConfigurationError` where so many workers cannot be held, a restart's second generation included.

    `descriptors`: how many this process may have open (RLIMIT_NOFILE); `memory_mib`: what the machine has.
    """
    most = 2 * workers.count + workers.standby
    asked = (
        f"workers.count = {workers.count} and workers.standby = {workers.standby}: {most} during a restart"
    )
    needed = most * _DESCRIPTORS_EACH + _DESCRIPTORS_FIXED
    if needed > descriptors:
        fit = max((descriptors - _DESCRIPTORS_FIXED) // _DESCRIPTORS_EACH - workers.standby, 2) // 2
        raise ConfigurationError(
            f"{asked} take {needed} descriptors in the monitor, and the limit is {descriptors}: at most {fit} workers "
            "fit; ask for fewer, or raise it (`ulimit -n`, systemd: LimitNOFILE=)"
        )
    if most * _MIB_EACH > memory_mib:
        raise ConfigurationError(
            f"{asked} take {most * _MIB_EACH} MiB at the very least, and this machine has {memory_mib} MiB: ask for fewer"
        )
