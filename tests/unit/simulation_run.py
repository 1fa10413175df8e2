"""Simulated sessions from their start to their end, one after the other, from one seed."""

from __future__ import annotations

from collections import Counter

from serverworker.values.state import Phase
from tests.unit.simulation import World
from tests.unit.simulation_laws import Broken, law


def run(seed: int, steps: int) -> Counter[str]:
    """Play sessions until so many inputs were played; answers what happened. Raises with the seed that shows a fault.

    Each session gets a part of the steps under misfortune; then it is left in peace and must become whole, and then
    it is asked to end and must end.
    """
    seen: Counter[str] = Counter()
    played, number = 0, 0
    while played < steps:
        session = seed * 1_000_003 + number
        number += 1
        try:
            world = _play(session)
        except Exception as fault:
            raise Broken(
                f"run({seed}, {steps}), session seed {session}: {type(fault).__name__}: {fault}"
            ) from fault
        played += world.steps
        seen += world.laws.happened + world.misfortunes
    return seen


def _play(seed: int) -> World:
    world = World(seed, faults=(0.02, 0.25, 0.7)[seed % 3])
    world.run(world.chance.choice((50, 300, 1500)))
    world.calm()
    if world.state.phase is Phase.RUNNING:
        world.run_seconds(world.patience())
        if world.state.phase is Phase.RUNNING:
            world.check_whole()
        world.end(graceful=True, request=0)
    world.run_seconds(world.state.policy.drain_seconds + 60.0)
    law(world.finished, "the session does not end")
    law(not world.laws.unanswered, "somebody waits for an answer")
    return world
