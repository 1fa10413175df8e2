"""The table of a worker's life: complete, and true to the words of the design."""

from __future__ import annotations

from itertools import product

from twisted.trial.unittest import TestCase

from serverworker.decisions.life import TABLE, Happening, Outcome, next_life
from serverworker.decisions.turn import Fault, Turn
from serverworker.values.state import Life, Policy, SessionState, Worker

ALIVE = tuple(life for life in Life if life not in (Life.DRAINING, Life.DEAD))
ORDERS = (Happening.ACTIVATE, Happening.SERVE, Happening.LEAVE, Happening.KILL)
FORWARD = (Life.STARTING, Life.LOADED, Life.ACTIVATING, Life.READY, Life.SERVING, Life.DRAINING, Life.DEAD)


class LifeTableTests(TestCase):
    """The cells."""

    def test_every_cell_is_written(self) -> None:
        """Each life meets each happening, and the table holds nothing else."""
        self.assertEqual(set(product(Life, Happening)), set(TABLE))

    def test_life_goes_forward_only(self) -> None:
        """No cell leads back: a worker never serves twice."""
        for (life, happening), cell in TABLE.items():
            if isinstance(cell, Life):
                self.assertLessEqual(FORWARD.index(life), FORWARD.index(cell), (life, happening))

    def test_the_way_to_serving(self) -> None:
        """Starting, loaded, activating, ready, serving: each step by its own happening, and by no other."""
        steps = {
            Happening.LOADED: (Life.STARTING, Life.LOADED),
            Happening.ACTIVATE: (Life.LOADED, Life.ACTIVATING),
            Happening.READY: (Life.ACTIVATING, Life.READY),
            Happening.SERVE: (Life.READY, Life.SERVING),
        }
        for happening, (before, after) in steps.items():
            self.assertIs(after, next_life(before, happening))
        for (life, happening), cell in TABLE.items():
            if isinstance(cell, Life) and cell in ALIVE:
                self.assertEqual((life, cell), steps[happening])

    def test_an_exit_is_the_end_from_anywhere(self) -> None:
        """Whatever it was at, a worker whose process is gone is gone."""
        for life in Life:
            self.assertIs(Outcome.GONE, next_life(life, Happening.EXITED))

    def test_nobody_alive_survives_a_failure(self) -> None:
        """A crash drains; a broken link is death at once, and so is a hang once the application is loaded."""
        for life in ALIVE:
            self.assertIs(Life.DRAINING, next_life(life, Happening.CRASHED))
            self.assertIs(Life.DEAD, next_life(life, Happening.LINK_LOST))
        for turning in (Life.LOADED, Life.READY, Life.SERVING, Life.DRAINING):
            self.assertIs(Life.DEAD, next_life(turning, Happening.HUNG))

    def test_only_the_deadline_ends_a_long_start(self) -> None:
        """While it imports or activates, a worker may not turn for long: no ping kills it, the start-up deadline does."""
        for life in (Life.STARTING, Life.ACTIVATING):
            self.assertIs(Outcome.STAY, next_life(life, Happening.HUNG))
            self.assertIs(Life.DEAD, next_life(life, Happening.OVERDUE))

    def test_what_comes_too_late_changes_nothing(self) -> None:
        """Messages of a worker that is dead already were under way when it died; they are no breach."""
        for happening in Happening:
            if happening not in (*ORDERS, Happening.EXITED, Happening.OVERDUE):
                self.assertIs(Outcome.STAY, next_life(Life.DEAD, happening))

    def test_progress_that_nobody_can_make_is_a_breach(self) -> None:
        """A second Loaded, a Ready without activation: no sane worker says so."""
        for happening, sane in ((Happening.LOADED, Life.STARTING), (Happening.READY, Life.ACTIVATING)):
            for life in ALIVE:
                if life is not sane:
                    self.assertIs(Outcome.BREACH, next_life(life, happening))

    def test_only_decisions_of_the_monitor_can_be_its_own_fault(self) -> None:
        """NEVER stands in rows that the core itself brings about: nothing that a worker says is a fault of ours."""
        for (life, happening), cell in TABLE.items():
            if cell is Outcome.NEVER:
                self.assertIn(happening, (Happening.ACTIVATE, Happening.SERVE, Happening.OVERDUE), life)

    def test_who_has_no_deadline_cannot_be_overdue(self) -> None:
        """The lives in which the start-up deadline or an end is not pending wait for as long as they like."""
        never = {life for life in Life if next_life(life, Happening.OVERDUE) is Outcome.NEVER}
        self.assertEqual({Life.LOADED, Life.READY, Life.SERVING}, never)

    def test_a_decision_against_the_table_is_a_fault(self) -> None:
        """The core does not go on with a contradiction: it says which worker, in which life, and what."""
        worker = Worker(id=3, generation=1, life=Life.STARTING, spawned_at=0.0, since=0.0)
        turn = Turn(SessionState(policy=Policy(), workers=(worker,)), 1.0)
        fault = self.assertRaises(Fault, turn.serve, worker)
        self.assertEqual("worker 3 is starting, and yet it is to serve", str(fault))
