"""Whether a session is in order: what feeds systemd's watchdog and answers a liveness probe."""

from __future__ import annotations

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from serverworker.decisions.health import LATE_SECONDS, is_healthy, why_unready
from serverworker.values.state import Life, Phase, Policy, SessionState, Worker
from tests.unit.core_world import CoreWorld, serving
from tests.unit.simulation import World

NOW = 1000.0


def worker(life: Life, *, deadline: float | None = None) -> Worker:
    return Worker(id=1, generation=1, life=life, spawned_at=NOW, since=NOW, deadline=deadline)


def state(*workers: Worker, respawn_at: float = 0.0) -> SessionState:
    return SessionState(policy=Policy(), workers=workers, respawn_at=respawn_at)


class StateTests(SynchronousTestCase):
    """States as the core leaves them, and states that it never should."""

    def assert_healthy(self, state: SessionState, now: float = NOW) -> None:
        self.assertTrue(is_healthy(state, now), f"at {now}: {state}")

    def assert_not_healthy(self, state: SessionState, now: float = NOW) -> None:
        self.assertFalse(is_healthy(state, now), f"at {now}: {state}")

    def test_serving(self) -> None:
        """One worker that serves is enough, whatever the others do."""
        self.assert_healthy(state(worker(Life.SERVING)))
        self.assert_healthy(state(evolve(worker(Life.SERVING), id=2), worker(Life.DEAD, deadline=NOW + 1)))

    def test_ready(self) -> None:
        """New connections are welcome while a worker serves, and not from when the end is decided on."""
        self.assertEqual(why_unready(state(worker(Life.SERVING))), "")
        for life in set(Life) - {Life.SERVING}:
            self.assertEqual(why_unready(state(worker(life))), "no worker serves")
        for phase in (Phase.ENDING, Phase.ENDED):
            ending = evolve(state(worker(Life.SERVING)), phase=phase)
            self.assertEqual(why_unready(ending), "the session ends")

    def test_starting(self) -> None:
        """Nobody serves yet, but a worker starts and its deadline is ahead."""
        self.assert_healthy(state(worker(Life.STARTING, deadline=NOW + 60)))

    def test_back_off(self) -> None:
        """A crash loop is not mended by killing the monitor: the next start is planned."""
        world = CoreWorld(standby=0)
        world.start()
        for death in range(1, 12):
            world.spawned(death)
            world.killed(death)
            self.assert_healthy(world.state, world.now)
            world.pass_seconds(60.0)
        self.assertEqual(world.state.deaths_in_a_row, 11)
        self.assert_healthy(world.state, world.now)

    def test_start_that_does_not_come(self) -> None:
        """The time of the next start has come and gone, and nothing was started."""
        waiting = state(respawn_at=NOW)
        self.assert_healthy(waiting, NOW - 60)
        self.assert_healthy(waiting, NOW + LATE_SECONDS)
        self.assert_not_healthy(waiting, NOW + LATE_SECONDS + 0.1)

    def test_nothing_to_come(self) -> None:
        """Nobody serves, and whoever is there waits for nothing that has a time."""
        self.assert_not_healthy(state())
        self.assert_not_healthy(state(worker(Life.LOADED), evolve(worker(Life.READY), id=2)))

    def test_overdue(self) -> None:
        """A deadline that is long over says that the core does not turn, although a worker serves."""
        stuck = state(worker(Life.SERVING), evolve(worker(Life.DRAINING, deadline=NOW), id=2))
        self.assert_healthy(stuck, NOW + LATE_SECONDS)
        self.assert_not_healthy(stuck, NOW + LATE_SECONDS + 0.1)

    def test_end(self) -> None:
        """A session that ends is healthy until its last moment is long over; one that has ended is not to be mended."""
        world = serving(standby=0)
        world.end()
        self.assert_healthy(world.state, world.now)
        world.pass_seconds(world.state.policy.drain_seconds + 2.0)
        self.assert_healthy(world.state, world.now)
        self.assert_not_healthy(world.state, world.now + 60.0)
        world.killed(1)
        self.assertIs(world.state.phase, Phase.ENDED)
        self.assert_healthy(world.state, world.now + 60.0)


class SimulatedTests(SynchronousTestCase):
    """The rule against all that a session may go through."""

    @settings(deadline=None, max_examples=15)
    @given(seed=st.integers(min_value=0, max_value=2**32), doomed=st.booleans())
    def test_no_misfortune_makes_it_sick(self, seed: int, doomed: bool) -> None:
        """Whatever befalls workers, a core that is woken in time is healthy after each step."""
        world = World(seed, doomed=doomed)
        for _ in range(300):
            if world.finished:
                return
            world.advance()
            self.assertTrue(is_healthy(world.state, world.now), f"seed {seed}: {world.state}")
