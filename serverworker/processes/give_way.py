"""How a worker that starts or ends leaves the processor to the one that serves beside it."""

from __future__ import annotations

import time
from contextlib import suppress

GIVE_WAY_SECONDS = 0.001


def give_way() -> None:
    """Sleep for a moment, between two steps of a millisecond or two.

    A process that goes on working is left its processor until the kernel's next tick, 4 ms later, even where others
    wait for it and the next processor is idle (measured, Linux 6.18, on two of them). One that sleeps is not.

    In the reactor's thread too: it sleeps a millisecond in a worker that does not serve yet, or no longer accepts.
    """
    with suppress(OSError):
        # Where the system refuses, as with libfaketime (EINVAL), nobody may die of a courtesy.
        time.sleep(GIVE_WAY_SECONDS)
