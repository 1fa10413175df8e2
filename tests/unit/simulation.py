"""A world that plays the processes, the operators and the misfortunes of a session under a virtual clock."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from attrs import define

from serverworker.decisions import inputs
from serverworker.decisions.health import is_healthy
from serverworker.decisions.inputs import Command, Input
from serverworker.decisions.session import next_wake, step
from serverworker.decisions.turn import GRACE_SECONDS, KILL_AGAIN_SECONDS, TERM_SECONDS
from serverworker.values.causes import CauseKind
from serverworker.values.errors import ErrorRecord
from serverworker.values.state import Life, Phase, Policy, SessionState
from tests.unit.simulation_laws import Laws, law

ERROR = ErrorRecord(type="builtins.ValueError", message="simulated")
CRASH_KINDS = (CauseKind.EXCEPTION, CauseKind.HEARTBEAT)
PING_SECONDS = 10.0
LATE_SECONDS = 0.5
"""How late a tick may come: the monitor has other things to do."""
SLOWEST_KILL_SECONDS = 30.0


@define(kw_only=True)
class Process:
    """The truth about one worker's process, which the core only hears of."""

    generation: int
    born: bool = False
    stage: str = "starting"
    activated: bool = False
    gone: bool = False
    killed: bool = False
    frozen: bool = False
    """It says nothing any more, and nothing happens in it."""
    leaving: bool = False


class World:
    """One session, from its start to its end, decided by a seed."""

    def __init__(
        self, seed: int, *, faults: float = 0.25, operators: float = 0.02, doomed: bool = False
    ) -> None:
        """`faults` and `operators`: how likely each step brings one; `doomed`: no worker lives for long."""
        self.chance = random.Random(seed)  # noqa: S311 - a game, not a secret
        self.now = self.chance.uniform(0.0, 1e6)
        self.faults, self.operators, self.doomed = faults, operators, doomed
        self.needs_activation = self.chance.random() < 0.6
        self.overlap = self.chance.random() < 0.7
        self.state = SessionState(policy=self.policy(), seed=seed)
        self.laws = Laws()
        self.processes: dict[int, Process] = {}
        self.finished = False
        self.steps = 0
        self.misfortunes: Counter[str] = Counter()
        self._agenda: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._requests = 0
        self._end_by = float("inf")
        self._last_tick, self._ticks_at_once = 0.0, 0
        self.feed(inputs.Start())

    def policy(self) -> Policy:
        """Figures such as an operator may set; ``overlap`` changes seldom."""
        self.overlap ^= self.operators > 0.0 and self.chance.random() < 0.1
        return Policy(
            count=self.chance.choice((1, 1, 2, 3, 5)),
            standby=self.chance.choice((0, 1, 1, 2)),
            overlap=self.overlap,
            startup_seconds=self.chance.choice((5.0, 60.0)),
            drain_seconds=self.chance.choice((0.5, 30.0)),
            maximum_delay_seconds=self.chance.choice((2.0, 60.0)),
            reset_after_seconds=self.chance.choice((5.0, 60.0)),
            give_up_after=self.chance.choice((None,) * 15 + (8,)),
            unready_seconds=self.chance.choice((0.0, 0.0, 5.0)),
        )

    # --- the course of things -------------------------------------------------------------------

    def run(self, steps: int) -> None:
        """Play so many inputs, or until the session is over."""
        until = self.steps + steps
        while self.steps < until and not self.finished:
            self.advance()

    def run_seconds(self, seconds: float) -> None:
        """Play so much virtual time, or until the session is over."""
        end = self.now + seconds
        while not self.finished and self._next() <= end:
            self.advance()
        self.now = max(self.now, end) if not self.finished else self.now

    def _next(self) -> float:
        wake = next_wake(self.state, self.now)
        return min(
            self._agenda[0][0] if self._agenda else float("inf"), float("inf") if wake is None else wake
        )

    def advance(self) -> None:
        """The next thing happens: an entry of the agenda, a tick, or a misfortune where neither is left."""
        wake = next_wake(self.state, self.now)
        if wake is not None and (not self._agenda or wake <= self._agenda[0][0]):
            late = (
                self.chance.uniform(0.0, LATE_SECONDS) if self.faults and self.chance.random() < 0.1 else 0.0
            )
            self.now = max(self.now, wake) + late
            self._ticks_at_once = self._ticks_at_once + 1 if self.now == self._last_tick else 0
            self._last_tick = self.now
            law(self._ticks_at_once < 3, "the core spins")
            self.feed(inputs.Tick())
        elif self._agenda:
            at, _, action, arguments = heapq.heappop(self._agenda)
            self.now = max(self.now, at)
            action(*arguments)
        else:
            self.now += self.chance.expovariate(0.1)
            self._misfortune()
        if self.chance.random() < self.faults:
            self.at(self._soon(), self._misfortune)
        if self.chance.random() < self.operators:
            self.at(self._soon(), self._operator)

    def at(self, delay: float, action: Callable[..., None], *arguments: Any) -> None:
        """Have something happen later."""
        self._requests += 1  # one counter serves as the tie-breaker too
        heapq.heappush(self._agenda, (self.now + delay, self._requests, action, arguments))

    def _soon(self) -> float:
        return self.chance.choice((0.0, 0.0, 0.001, 0.1, 1.0, 20.0)) * self.chance.random()

    def feed(self, happened: Input) -> None:
        """Give the core an input, hold what it does against the laws and the truth, and do what it orders."""
        before = self.state
        result = step(before, happened, self.now)
        self.steps += 1
        self.state = result.state
        self.laws.check(before, happened, result, self.now)
        law(is_healthy(self.state, self.now), "a watchdog would end this session")
        if before.phase is Phase.RUNNING and result.state.ending is not None:
            self._end_by = result.state.ending.deadline + KILL_AGAIN_SECONDS + LATE_SECONDS
        law(self.now <= self._end_by or before.phase is Phase.ENDED, "the end takes too long")
        for command in result.commands:
            self._do(command)

    # --- what the core orders -------------------------------------------------------------------

    def _do(self, command: Command) -> None:
        match command:
            case inputs.Spawn():
                self.processes[command.worker] = Process(generation=command.generation)
                self.at(self._soon() * 0.1, self._be_born, command.worker)
            case inputs.Activate():
                self._activate(command.worker)
            case inputs.Serve():
                process = self._living(command.worker, "ready")
                process.stage = "serving"
            case inputs.Leave():
                self._leave(command)
            case inputs.Kill():
                process = self.processes[command.worker]
                law(not process.gone, f"worker {command.worker} is killed, who is gone")
                slow = self.chance.random() < (0.05 if self.faults else 0.0)
                delay = (
                    self.chance.uniform(0.0, SLOWEST_KILL_SECONDS) if slow else 0.01 * self.chance.random()
                )
                if process.born and not process.killed:
                    self.at(delay, self._die, command.worker, None, "SIGKILL")
                process.killed = True
            case inputs.Finish():
                self.finished = True
            case _:
                pass

    def _living(self, worker: int, stage: str) -> Process:
        process = self.processes[worker]
        law(not process.gone, f"an order to worker {worker}, who is gone")
        law(process.stage == stage, f"an order to worker {worker}, who is {process.stage} and not {stage}")
        return process

    def _activate(self, worker: int) -> None:
        process = self._living(worker, "loaded")
        if not self.state.policy.overlap:
            running = [each for each in self.processes.values() if each.activated and not each.gone]
            law(
                len(running) < self.state.policy.count,
                f"{len(running)} applications run beside worker {worker}",
            )
            strangers = [each for each in running if each.generation != process.generation]
            law(not strangers, "old and new code run at once")
        process.stage, process.activated = "activating", True
        slow = self.faults and self.chance.random() < 0.1
        self.at(
            self.chance.uniform(4.0, 70.0) if slow else self.chance.uniform(0.0, 0.3), self._be_ready, worker
        )

    def _leave(self, command: inputs.Leave) -> None:
        process = self.processes[command.worker]
        law(not process.gone and not process.leaving, f"worker {command.worker} is asked to leave again")
        process.leaving = True
        overlong = self.faults and self.chance.random() < 0.2
        delay = self.chance.uniform(0.0, command.seconds * (2.0 if overlong else 0.9))
        status = self.chance.choice((0, 0, 0, 0, 1)) if self.faults else 0
        self.at(delay, self._die, command.worker, status, None)

    # --- what the processes do ------------------------------------------------------------------

    def _be_born(self, worker: int) -> None:
        process = self.processes[worker]
        if (self.faults or self.doomed) and self.chance.random() < 0.05:
            process.gone = True
            permanent = self.chance.random() < 0.1
            self.feed(inputs.SpawnFailed(worker=worker, text="EAGAIN", permanent=permanent))
            return
        if process.killed:  # given up before it was there: as the monitor's engine does
            self._die(worker, None, "SIGKILL")
            return
        process.born = True
        self.feed(inputs.Spawned(worker=worker, pid=1000 + worker))
        if self.doomed:
            fate = self.chance.choice((self._crash, self._exit, self._signal, self._link))
            self.at(0.5 * self.chance.random(), fate, worker)
        slow = self.faults and self.chance.random() < 0.05
        delay = self.chance.uniform(4.0, 70.0) if slow else self.chance.uniform(0.01, 0.5)
        self.at(delay, self._load, worker)

    def _load(self, worker: int) -> None:
        process = self.processes[worker]
        if process.gone or process.frozen:
            return
        if self.faults and self.chance.random() < 0.03:
            self.feed(inputs.LoadFailed(worker=worker, error=ERROR))
            return
        process.stage = "loaded"
        self.feed(
            inputs.Loaded(worker=worker, needs_activation=self.needs_activation, application="simulated")
        )

    def _be_ready(self, worker: int) -> None:
        process = self.processes[worker]
        if not process.gone and not process.frozen and not process.leaving:
            process.stage = "ready"
            self.feed(inputs.Ready(worker=worker))

    def _die(self, worker: int, status: int | None, signal: str | None) -> None:
        process = self.processes[worker]
        if process.gone or (process.frozen and signal is None):
            return
        if process.born and self.chance.random() < 0.5:
            self.feed(inputs.LinkLost(worker=worker, text="end of file"))
        process.gone = True
        self.feed(inputs.Exited(worker=worker, exit_status=status, signal=signal))

    def _watch(self, worker: int) -> None:
        """The ping: a process that says nothing is reported for as long as it is there."""
        process, known = self.processes[worker], self.state.worker(worker)
        if process.gone:
            return
        if known is not None and known.life not in (Life.STARTING, Life.ACTIVATING, Life.DEAD):
            self.feed(inputs.Hung(worker=worker, seconds=PING_SECONDS, stopped=self.chance.random() < 0.5))
        self.at(PING_SECONDS, self._watch, worker)

    # --- misfortunes and operators --------------------------------------------------------------

    def _misfortune(self) -> None:
        if not self.faults or not self.processes:
            return
        name = self.chance.choice(
            ("crash", "exit", "signal", "freeze", "link", "lie", "beat", "wear", "terminate")
        )
        recent = [worker for worker in self.processes if worker > self.state.last_worker - 12]
        worker = self.chance.choice(recent)
        process = self.processes[worker]
        if name == "lie":  # from the dead too: late messages
            self.misfortunes[name] += 1
            self.feed(self._lie(worker))
        elif process.born and not process.gone and not process.frozen:
            self.misfortunes[name] += 1
            getattr(self, f"_{name}")(worker)

    def _lie(self, worker: int) -> Input:
        process = self.processes[worker]
        if process.gone and self.chance.random() < 0.5:
            return inputs.LinkLost(worker=worker, text="late")
        if self.chance.random() < 0.5:
            process.stage = (
                "ready" if process.stage == "activating" else process.stage
            )  # a lie that is believed
            return inputs.Ready(worker=worker)
        process.stage = "loaded" if process.stage == "starting" else process.stage
        return inputs.Loaded(worker=worker, needs_activation=True, application="a lie")

    def _crash(self, worker: int) -> None:
        self.feed(inputs.Crashed(worker=worker, error=ERROR, kind=self.chance.choice(CRASH_KINDS)))
        self.at(self.chance.choice((0.1, 3.0, 20.0)), self._die, worker, 1, None)

    def _exit(self, worker: int) -> None:
        self._die(worker, self.chance.choice((0, 1, 3)), None)

    def _signal(self, worker: int) -> None:
        self._die(worker, None, self.chance.choice(("SIGKILL", "SIGSEGV", "SIGTERM")))

    def _freeze(self, worker: int) -> None:
        self.processes[worker].frozen = True
        self.at(PING_SECONDS, self._watch, worker)

    def _link(self, worker: int) -> None:
        self.processes[worker].frozen = True  # the monitor hears no more of it
        self.feed(inputs.LinkLost(worker=worker, text="garbage on the fd"))
        self.at(self.chance.uniform(0.0, 40.0), self._die, worker, None, "SIGPIPE")

    def _beat(self, worker: int) -> None:
        failures = self.chance.choice((0, 1, 2))
        self.feed(inputs.BeatTold(worker=worker, failures=failures, text="500", tolerance=2))

    def _terminate(self, worker: int) -> None:
        """SIGTERM: who has no handler yet dies of it, who has tells of it and goes on."""
        if self.processes[worker].stage == "starting" and self.chance.random() < 0.5:
            self._die(worker, None, "SIGTERM")
        else:
            self.feed(inputs.Terminated(worker=worker))

    def _terminate_all(self) -> None:
        """SIGTERM to each process of the session, in any order; the monitor's own comes before the moment is over."""
        own = self.chance.uniform(0.0, TERM_SECONDS * 0.9)
        for worker, process in self.processes.items():
            if process.born and not process.gone and not process.frozen:
                self.at(self.chance.uniform(0.0, own), self._terminate_if_there, worker)
        self.at(own, partial(self.end, graceful=True))

    def _terminate_if_there(self, worker: int) -> None:
        if not self.processes[worker].gone:
            self._terminate(worker)

    def _wear(self, worker: int) -> None:
        self.feed(inputs.Worn(worker=worker, text="a limit is reached"))

    def _operator(self) -> None:
        if not self.operators:
            return
        kind = self.chance.choices(("restart", "policy", "end"), (60, 35, 5))[0]
        self._requests += 1
        request = self.chance.choice((None, self._requests))
        if kind == "restart":
            mode = self.chance.choice(("clean", "force"))
            self.feed(inputs.AskRestart(mode=mode, asked_by="operator", request=request))
        elif kind == "policy":
            self.feed(inputs.NewPolicy(policy=self.policy()))
        elif self.chance.random() < 0.5:
            self._terminate_all()
        else:
            self.end(graceful=self.chance.random() < 0.6, request=request)

    def end(self, *, graceful: bool, request: int | None = None) -> None:
        """Ask for the end."""
        self.feed(inputs.AskEnd(reason="operator", graceful=graceful, status=0, request=request))

    # --- calm -----------------------------------------------------------------------------------

    def calm(self) -> None:
        """From now on nothing goes wrong, and nobody wants anything."""
        self.faults = self.operators = 0.0

    def patience(self) -> float:
        """Seconds within which a session that is left in peace must be whole again, whatever it has been through.

        A back-off, a worker that is stuck in each part of its start, another's drain or slow death in its way, the
        ping that finds the silent ones, a second for each start, and a drain for each that is worn, one by one.
        """
        policy, longest = self.state.policy, 60.0
        wait = longest + 2 * longest + 30.0 + GRACE_SECONDS + SLOWEST_KILL_SECONDS + KILL_AGAIN_SECONDS
        wait += policy.count * (policy.drain_seconds + GRACE_SECONDS)
        return wait + 2 * PING_SECONDS + 2 * (policy.count + policy.standby)

    def check_whole(self) -> None:
        """The session is as it was wanted, and waits for nothing but what may happen."""
        state, policy = self.state, self.state.policy
        law(state.restart is None, f"a restart is pending: {state.restart}")
        law(state.replacing is None, f"old workers are being replaced: {state.replacing}")
        lives = Counter(worker.life for worker in state.workers)
        law(lives[Life.SERVING] == policy.count, f"{dict(lives)} where {policy.count} should serve")
        law(
            lives[Life.LOADED] + lives[Life.READY] == policy.standby,
            f"{dict(lives)}, standby {policy.standby}",
        )
        law(len(state.workers) == policy.count + policy.standby, f"{dict(lives)}")
        law(all(worker.generation == state.generation for worker in state.workers), "two generations")
        law(not any(worker.worn for worker in state.workers), "one that is worn serves on")
        law(next_wake(state, self.now) is None, "it waits for something")
        there = [worker for worker, process in self.processes.items() if not process.gone]
        law(there == [worker.id for worker in state.workers], f"{there} are there, and the core knows others")
