"""The core against a simulated world, and against inputs that no world would bring.

A failure names the call that repeats it, such as ``run(123, 500)``: call that, and debug.
"""

from __future__ import annotations

import secrets
import sys
from collections import Counter
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import TestCase

from serverworker.decisions import inputs
from serverworker.decisions.inputs import Input
from serverworker.decisions.session import step
from serverworker.values import events
from serverworker.values.causes import CauseKind
from serverworker.values.state import Policy, SessionState
from tests.unit.simulation import ERROR, World
from tests.unit.simulation_laws import Laws
from tests.unit.simulation_run import run

EVENTS_IN_ALL = 100_000
"""Inputs played by the run with a new seed; the fixed ones come to it."""


class SimulatedTests(TestCase):
    """Sessions under misfortune, then in peace, then at their end."""

    def test_a_hundred_thousand_events(self) -> None:
        """No law is broken; whoever is left in peace becomes whole; whoever is asked ends. The seed is new each time."""
        seed = secrets.randbelow(2**32)
        sys.stdout.write(f"seed {seed} ")
        self.assert_lively(run(seed, EVENTS_IN_ALL))

    def test_fixed_seeds(self) -> None:
        """The same sessions each time, so that a change is seen to be one."""
        for seed in range(5):
            run(seed, 2_000)

    @settings(deadline=None, max_examples=20)
    @given(seed=st.integers(min_value=0, max_value=2**32))
    def test_any_seed(self, seed: int) -> None:
        """What hypothesis finds it also remembers and tries again."""
        run(seed, 200)

    def test_a_seed_repeats_a_session(self) -> None:
        """The same seed is the same course of things, to the last event: a failure can be looked at again."""
        first, second = World(11), World(11)
        for world in (first, second):
            world.run(500)
        self.assertEqual((first.state, first.now), (second.state, second.now))

    def test_the_seed_is_told(self) -> None:
        """A failure names the call that repeats it."""
        self.patch(World, "advance", lambda world: 1 / 0)
        fault = self.assertRaises(AssertionError, run, 5, 500)
        self.assertRegex(str(fault), r"^run\(5, 500\), session seed \d+: ZeroDivisionError")

    def assert_lively(self, seen: Counter[str]) -> None:
        """The world brought all there is, often: laws about what never happens prove nothing."""
        things: list[type[object]] = [
            *(
                kind
                for kind in vars(inputs).values()
                if isinstance(kind, type) and kind.__module__ == inputs.__name__
            ),
            events.RestartCompleted,
            events.RestartFailed,
            events.RestartProgress,
            events.ServerRunning,
            events.WorkerDied,
            events.WorkerExited,
        ]
        seldom = {kind.__name__: seen[kind.__name__] for kind in things if seen[kind.__name__] < 20}
        self.assertEqual({}, seldom)
        for misfortune in ("crash", "exit", "signal", "freeze", "link", "lie", "beat", "wear", "terminate"):
            self.assertGreater(seen[misfortune], 100, misfortune)


class CrashLoopTests(TestCase):
    """Nobody lives for long, in any of the ways to die."""

    def test_starts_in_an_hour(self) -> None:
        """Each death in a row brings at most one wave of starts, and the waves come at the back-off's pace."""
        for seed in range(10):
            world = World(seed, faults=0.0, operators=0.0, doomed=True)
            world.run_seconds(3600.0)
            policy = world.state.policy
            waves = 10 + 3600.0 / (0.75 * policy.maximum_delay_seconds)
            starts = world.laws.happened["Spawn"]
            self.assertLessEqual(starts, waves * 2 * (policy.count + policy.standby), f"seed {seed}")
            self.assertGreater(starts, 3600.0 / (policy.maximum_delay_seconds + 70.0), f"seed {seed}")


ERRAND = st.tuples(
    st.sampled_from(sorted(kind.__name__ for kind in inputs.Input.__args__)),
    st.integers(min_value=0, max_value=11),
    st.integers(min_value=0, max_value=11),
    st.sampled_from((0.0, 0.0, 0.0, 0.01, 0.5, 3.0, 10.0, 100.0)),
)
"""An input's kind, whom it is about, how it is, and the seconds before it."""


def policy(number: int) -> Policy:
    """One of twelve policies."""
    return Policy(
        count=(1, 2, 4)[number % 3],
        standby=number % 2,
        overlap=number % 4 < 2,
        startup_seconds=5.0,
        drain_seconds=(0.5, 30.0)[number % 2],
        reset_after_seconds=10.0,
        give_up_after=(None, None, 4)[number % 3],
        unready_seconds=(0.0, 3.0)[number // 6],
    )


def errand(kind: str, worker: int, how: int, request: int) -> Input:
    """The input of that kind, about that worker."""
    made: dict[str, Callable[[], Input]] = {
        "Start": inputs.Start,
        "Spawned": lambda: inputs.Spawned(worker=worker, pid=how),
        "SpawnFailed": lambda: inputs.SpawnFailed(worker=worker, text="EAGAIN", permanent=how == 0),
        "Loaded": lambda: inputs.Loaded(worker=worker, needs_activation=how % 2 == 0, application=""),
        "LoadFailed": lambda: inputs.LoadFailed(worker=worker, error=ERROR),
        "Ready": lambda: inputs.Ready(worker=worker),
        "BeatTold": lambda: inputs.BeatTold(worker=worker, failures=how % 3, text="", tolerance=2),
        "Crashed": lambda: inputs.Crashed(
            worker=worker, error=ERROR, kind=list(CauseKind)[how % len(CauseKind)]
        ),
        "Terminated": lambda: inputs.Terminated(worker=worker),
        "Worn": lambda: inputs.Worn(worker=worker, text="a limit"),
        "Hung": lambda: inputs.Hung(worker=worker, seconds=10.0),
        "LinkLost": lambda: inputs.LinkLost(worker=worker, text=""),
        "Exited": lambda: inputs.Exited(
            worker=worker, exit_status=how % 3, signal="SIGTERM" if how > 8 else None
        ),
        "AskRestart": lambda: inputs.AskRestart(
            mode=("clean", "force")[how % 2], asked_by="", request=request if how < 8 else None
        ),
        "AskEnd": lambda: inputs.AskEnd(
            reason="", graceful=how % 2 == 0, status=0, request=request if how < 8 else None
        ),
        "NewPolicy": lambda: inputs.NewPolicy(policy=policy(how)),
        "Tick": inputs.Tick,
    }
    return made[kind]()


class ArbitraryInputTests(TestCase):
    """Inputs in any order, about anybody, plausible or not."""

    @settings(deadline=None, max_examples=150)
    @given(number=st.integers(min_value=0, max_value=11), course=st.lists(ERRAND, max_size=80))
    def test_nothing_breaks_the_core(self, number: int, course: list[tuple[str, int, int, float]]) -> None:
        """It never raises, and all its laws hold: a monitor with a fault of its own does not confuse the decisions."""
        state, now, laws = SessionState(policy=policy(number)), 50.0, Laws()
        for request, (kind, whom, how, wait) in enumerate(course):
            now += wait
            # Mostly somebody who is there, else a worker that is gone, or never was.
            worker = state.workers[whom].id if whom < len(state.workers) else whom
            happened = errand(kind, worker, how, request)
            result = step(state, happened, now)
            laws.check(state, happened, result, now)
            state = result.state
