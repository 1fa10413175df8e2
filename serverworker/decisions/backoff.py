"""How long to wait before a successor is started, when deaths follow one another."""

from __future__ import annotations

import random

from serverworker.values.state import Policy


def respawn_delay(policy: Policy, deaths_in_a_row: int, chance: float) -> float:
    """Seconds to wait after the nth death in a row; `chance` is from [0, 1).

    The first is answered at once. From the second on the delay doubles up to the maximum, less up to a quarter by
    chance, so that a machine full of sessions does not start them all in the same moment.
    """
    if deaths_in_a_row <= 1:
        return 0.0
    # The exponent is bounded before it is used: 2.0 ** 5000 is an OverflowError, and crash loops last for days.
    doubled = policy.initial_delay_seconds * 2.0 ** min(deaths_in_a_row - 2, 60)
    return min(doubled, policy.maximum_delay_seconds) * (1.0 - 0.25 * chance)


def draw(seed: int) -> tuple[float, int]:
    """A number from [0, 1) and the next seed: chance that can be repeated."""
    source = random.Random(seed)  # noqa: S311 - jitter, not a secret
    return source.random(), source.getrandbits(48)
