"""The wait before a successor is started, when deaths follow one another."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import TestCase

from serverworker.decisions.backoff import draw, respawn_delay
from serverworker.decisions.inputs import Spawn
from serverworker.values.state import Life, Policy
from tests.unit.core_world import CoreWorld, serving

DEATHS = st.integers(min_value=0, max_value=100_000)
CHANCE = st.floats(min_value=0.0, max_value=1.0, exclude_max=True)
POLICIES = st.builds(
    Policy,
    initial_delay_seconds=st.floats(min_value=0.001, max_value=100.0),
    maximum_delay_seconds=st.floats(min_value=0.001, max_value=10_000.0),
)


class DelayTests(TestCase):
    """The figures."""

    def test_the_first_death_waits_for_nothing(self) -> None:
        """A single crash is answered at once."""
        self.assertEqual(0.0, respawn_delay(Policy(), 1, 0.0))

    def test_it_doubles_up_to_the_maximum(self) -> None:
        """Half a second for the second death, then twice as much each time, then a minute for ever."""
        delays = [respawn_delay(Policy(), deaths, 0.0) for deaths in range(2, 12)]
        self.assertEqual([0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0], delays)

    def test_chance_takes_up_to_a_quarter(self) -> None:
        """Sessions that died together do not start together."""
        self.assertEqual(3.5, respawn_delay(Policy(), 5, 0.5))

    def test_chance_can_be_repeated_and_differs(self) -> None:
        """The same seed draws the same number; the seeds that follow each other draw others."""
        first, seed = draw(7)
        self.assertEqual((first, seed), draw(7))
        drawn = set()
        for _ in range(100):
            chance, seed = draw(seed)
            drawn.add(chance)
        self.assertEqual(100, len(drawn))
        self.assertTrue(all(0.0 <= chance < 1.0 for chance in drawn))

    @settings(deadline=None, max_examples=200)
    @given(policy=POLICIES, deaths=DEATHS, chance=CHANCE)
    def test_bounds(self, policy: Policy, deaths: int, chance: float) -> None:
        """From the second death on never under three quarters of the smaller figure, never over the maximum."""
        delay = respawn_delay(policy, deaths, chance)
        if deaths <= 1:
            self.assertEqual(0.0, delay)
            return
        least = 0.75 * min(policy.initial_delay_seconds, policy.maximum_delay_seconds)
        self.assertGreaterEqual(delay, least)
        self.assertLessEqual(delay, policy.maximum_delay_seconds)

    @settings(deadline=None, max_examples=100)
    @given(policy=POLICIES, deaths=DEATHS)
    def test_more_deaths_never_wait_less(self, policy: Policy, deaths: int) -> None:
        """Chance apart, the delay only grows."""
        self.assertLessEqual(respawn_delay(policy, deaths, 0.0), respawn_delay(policy, deaths + 1, 0.0))


class RowOfDeathsTests(TestCase):
    """What the core counts as one death after the other."""

    def starts(self, world: CoreWorld) -> list[int]:
        """The workers that were started so far."""
        return [spawn.worker for spawn in world.ordered(Spawn)]

    def test_a_crash_loop_waits_longer_each_time(self) -> None:
        """A worker that dies at once, again and again: at once, then 0.5, 1, 2, 4 s, each less up to a quarter."""
        world = serving(count=1, standby=0)
        waits = []
        for worker in range(1, 7):
            died_at = world.now
            world.killed(worker)
            if worker + 1 not in self.starts(world):
                world.pass_seconds(world.state.respawn_at - world.now)
            self.assertEqual(worker + 1, self.starts(world)[-1])
            waits.append(world.now - died_at)
        self.assertEqual(0.0, waits[0])
        for wait, full in zip(waits[1:], [0.5, 1.0, 2.0, 4.0, 8.0], strict=True):
            self.assertTrue(0.75 * full <= wait <= full, waits)

    def test_two_sessions_wait_differently(self) -> None:
        """The seed decides the jitter."""
        waits = set()
        for seed in range(20):
            world = CoreWorld(count=1, standby=0, seed=seed)
            world.start()
            world.killed(1)
            world.killed(2)
            waits.add(world.state.respawn_at - world.now)
        self.assertEqual(20, len(waits))

    def test_a_stable_run_begins_a_new_row(self) -> None:
        """Who was ready for a minute has earned a successor at once, whatever was before."""
        world = serving(count=1, standby=0)
        for worker in (1, 2, 3):
            world.killed(worker)
            world.pass_seconds(60.0)
        self.assertEqual(3, world.state.deaths_in_a_row)
        world.bring_up(4)
        world.pass_seconds(60.0)
        self.assertEqual((Spawn(worker=5, generation=1),), world.killed(4).commands)
        self.assertEqual(1, world.state.deaths_in_a_row)

    def test_a_run_that_was_not_stable_does_not(self) -> None:
        """A second short of the minute, and the row goes on."""
        world = serving(count=1, standby=0)
        world.killed(1)
        world.bring_up(2)
        world.pass_seconds(59.0)
        self.assertEqual((), world.killed(2).commands)
        self.assertEqual(2, world.state.deaths_in_a_row)

    def test_a_long_start_is_no_stable_run(self) -> None:
        """The minute counts from ready on, not from the spawning."""
        world = serving(count=1, standby=0, startup_seconds=300.0)
        world.killed(1)
        world.pass_seconds(100.0)
        world.killed(2)
        self.assertEqual(2, world.state.deaths_in_a_row)

    def test_a_standby_that_stood_by_for_long_was_stable(self) -> None:
        """It was never ready, and yet its death is not the eighth of a crash loop that ended last week."""
        world = serving(count=1, standby=1)
        world.killed(1)
        world.ready(2)
        world.load(3)
        self.assertIs(Life.LOADED, world.life(3))
        world.pass_seconds(60.0)
        self.assertEqual((Spawn(worker=4, generation=1),), world.killed(3).commands)
        self.assertEqual(1, world.state.deaths_in_a_row)

    def test_one_blow_that_strikes_all_is_one_death(self) -> None:
        """Eight young workers lose their data base within a second: they are back at once, not in half a minute."""
        world = serving(count=8, standby=0)
        for worker in range(1, 9):
            world.pass_seconds(0.1)
            world.killed(worker)
        self.assertEqual(1, world.state.deaths_in_a_row)
        for worker in range(9, 17):
            world.load(worker)
        self.assertEqual(list(range(9, 17)), self.starts(world))

    def test_their_successors_deaths_count(self) -> None:
        """When those who came after the blow die as well, it is a row."""
        world = serving(count=2, standby=0)
        for worker in (1, 2, 3):
            world.pass_seconds(0.1)
            world.killed(worker)
        self.assertEqual(2, world.state.deaths_in_a_row)
        self.assertGreater(world.state.respawn_at, world.now)

    def test_who_was_asked_to_leave_does_not_count(self) -> None:
        """Fewer workers on purpose is no crash loop, even where one fails on its way out."""
        world = serving(count=3, standby=0)
        world.set_policy(count=1, standby=0)
        world.exited(2)
        world.exited(3, status=1)
        self.assertEqual(0, world.state.deaths_in_a_row)

    def test_a_candidate_does_not_count(self) -> None:
        """A bad deploy delays no successor of the generation that serves."""
        world = serving(count=1, standby=0)
        for worker in (2, 3, 4):
            world.restart()
            world.load_failed(worker)
            world.killed(worker)
        self.assertEqual((Spawn(worker=5, generation=1),), world.killed(1).commands)

    def test_a_new_generation_begins_a_new_row(self) -> None:
        """New code is not punished for the old code's crash loop."""
        world = serving(count=1, standby=0)
        for worker in (1, 2, 3):
            world.killed(worker)
            world.pass_seconds(60.0)
        world.restart()
        world.load(5)
        world.ready(5)
        self.assertEqual((0, 0.0), (world.state.deaths_in_a_row, world.state.respawn_at))

    def test_a_hundred_starts_of_a_crash_loop_take_more_than_an_hour(self) -> None:
        """Back-off holds over time: a worker that never lives costs about one start a minute, and no fewer."""
        world = CoreWorld(count=1, standby=1)
        world.start()
        begin = world.now
        for _ in range(100):
            for worker in world.state.in_life(Life.STARTING):
                world.killed(worker.id)
            world.pass_seconds(max(world.state.respawn_at - world.now, 0.0))
        self.assertTrue(100 <= len(self.starts(world)) <= 102, self.starts(world))
        self.assertGreater(world.now - begin, 3600.0)
