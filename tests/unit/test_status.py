"""The state of a session in words."""

from __future__ import annotations

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from serverworker.decisions import inputs
from serverworker.surfaces.status import describe, duration
from serverworker.values.state import Life
from tests.unit.core_world import CoreWorld, serving

PORTS = ("server=tcp:8080", "socket=unix:/run/a=b")


class DescribeTests(SynchronousTestCase):
    """What `status` shows."""

    def lines(self, world: CoreWorld) -> list[str]:
        return describe(world.state, PORTS, 2.5, world.now).split("\n")

    def test_whole_session(self) -> None:
        """How many serve, on which ports, how often they poll themselves; then a line for each worker."""
        self.assertEqual(
            self.lines(serving()),
            [
                "generation 1: 1 of 1 serving; server on tcp:8080, socket on unix:/run/a=b; polls every 2.5 s",
                "  worker 1: serving for 10 s, pid 101, generation 1, up 10 s, mysite.web:root",
                "  worker 2: loaded for 10 s, pid 102, generation 1, up 10 s, mysite.web:root",
            ],
        )

    def test_before_anything_runs(self) -> None:
        """A worker that is being started has no pid yet, and nobody knows what it runs."""
        world = CoreWorld(standby=0)
        world.start()
        self.assertEqual(self.lines(world)[1:], ["  worker 1: starting for 0.0 s, generation 1, up 0.0 s"])
        self.assertIn("0 of 1 serving", self.lines(world)[0])

    def test_heartbeats(self) -> None:
        """Heartbeats that failed are counted, one or several."""
        world = serving(standby=0)
        for failures, words in ((1, ", 1 heartbeat failed,"), (2, ", 2 heartbeats in a row failed,")):
            world.tell(inputs.BeatTold(worker=1, failures=failures, text="500", tolerance=2))
            self.assertIn(words, self.lines(world)[1])

    def test_crash(self) -> None:
        """One that ends because it failed says why; it serves no more."""
        world = serving(standby=0)
        world.crashed(1)
        self.assertIn("0 of 1 serving", self.lines(world)[0])
        self.assertTrue(self.lines(world)[1].endswith(", ValueError: no such table"), self.lines(world))
        self.assertIn("worker 1: draining for 0.0 s", self.lines(world)[1])

    def test_restart(self) -> None:
        """A restart under way, and afterwards the old workers that have not ended yet."""
        world = serving(count=2, standby=0)
        world.restart()
        world.now += 3
        self.assertIn("2 of 2 serving; generation 2 is being started for 3.0 s;", self.lines(world)[0])
        for worker in (3, 4):
            world.bring_up(worker)
        self.assertIn("generation 2: 2 of 2 serving; 0 of 2 old workers are gone;", self.lines(world)[0])
        self.assertIn("generation 2 takes over", self.lines(world)[1])
        world.exited(1)
        self.assertIn("1 of 2 old workers are gone", self.lines(world)[0])

    def test_back_off(self) -> None:
        """When deaths follow one another: when the next worker is started, and which death that was."""
        world = serving(standby=0)
        world.killed(1)
        world.spawned(2)
        world.killed(2)
        (line,) = self.lines(world)
        self.assertRegex(line, r"; the next worker is started in 0\.\d s \(death 2 in a row\);")

    def test_end(self) -> None:
        """A session that ends says why, as long as it is there."""
        world = serving()
        world.end()
        self.assertTrue(self.lines(world)[0].startswith("ending: exit; server on"), self.lines(world))
        for worker in (1, 2):
            world.exited(worker)
        self.assertTrue(self.lines(world)[0].startswith("ending: exit; "), self.lines(world))

    def test_every_life(self) -> None:
        """A worker in whatever life can be shown."""
        world = serving(standby=0)
        (worker,) = world.state.workers
        for life in Life:
            state = evolve(world.state, workers=(evolve(worker, life=life),))
            shown = describe(state, PORTS, 2.5, world.now)
            self.assertIn(f"worker 1: {life.value} for", shown)


class DurationTests(SynchronousTestCase):
    """How long, in words."""

    def test_units(self) -> None:
        """The two largest units that matter."""
        for seconds, text in (
            (0.0, "0.0 s"),
            (0.26, "0.3 s"),
            (9.94, "9.9 s"),
            (10.0, "10 s"),
            (59.9, "59 s"),
            (60.0, "1 min 0 s"),
            (245.0, "4 min 5 s"),
            (3600.0, "1 h 0 min"),
            (10_925.0, "3 h 2 min"),
            (86_399.0, "23 h 59 min"),
            (86_400.0, "1 d 0 h"),
            (190_800.0, "2 d 5 h"),
        ):
            self.assertEqual(duration(seconds), text)
