"""The engine: feeds the core with what happens, does what it orders, and tells what it says."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from serverworker.decisions import inputs
from serverworker.decisions.session import next_wake, step
from serverworker.decisions.turn import GRACE_SECONDS, KILL_AGAIN_SECONDS
from serverworker.monitor.surroundings import Surroundings
from serverworker.monitor.worker_process import LastWords, WorkerProcess
from serverworker.processes.stacks import hung_at
from serverworker.values import events
from serverworker.values.causes import Beat, CauseKind
from serverworker.values.errors import ErrorRecord, NotDone, ServerWorkerError
from serverworker.values.events import Event
from serverworker.values.exit_status import ExitStatus
from serverworker.values.lines import OutputLines
from serverworker.values.state import Life, Policy, SessionState
from serverworker.wire import commands

_OWN_FAULT = "the monitor has a fault of its own"


class Engine:
    """Runs one session. All its decisions are the core's; all its deeds are of the workers' processes."""

    _log = Logger(namespace="serverworker.monitor")

    def __init__(self, surroundings: Surroundings, policy: Policy, seed: int) -> None:
        """`seed` is where the jitter of the back-off begins."""
        self.takeover_seconds = 0.1
        """How long whoever takes over has the machine to itself, before its predecessor leaves or a next one starts."""
        self.leaving_seconds = 0.4
        """How long after that the old workers of a restart have it for their end, before a next one starts."""
        self.apart_seconds = 0.05
        """How long after one old worker the next one leaves: two that end at once take all of a small machine."""
        self.former_requests = 0
        """How many requests workers that are gone had finished."""
        self._around = surroundings
        self._state = SessionState(policy=policy, seed=seed)
        self._processes: dict[int, WorkerProcess] = {}
        self._inputs: deque[inputs.Input] = deque()
        self._turning = False
        self._wake: IDelayedCall | None = None
        self._answers: dict[int, Deferred[str]] = {}
        self._last_request = 0
        self._wake_at: float | None = None
        self._calm_at = 0.0
        self._broken = False
        self._over = False

    @property
    def state(self) -> SessionState:
        """The state of the session, now."""
        return self._state

    def process(self, worker_id: int) -> WorkerProcess | None:
        """The process of a worker, or None if there is none."""
        return self._processes.get(worker_id)

    def pinged(self) -> Iterable[WorkerProcess]:
        """The workers that owe an answer to a ping: not while they start, which may take one long import."""
        lives = (Life.LOADED, Life.READY, Life.SERVING, Life.DRAINING)
        for worker in self._state.in_life(*lives):
            process = self._processes.get(worker.id)
            if process is not None:
                yield process

    # --- asking ---------------------------------------------------------------------------------

    def ask_restart(self, mode: str, asked_by: str, startup_seconds: float | None = None) -> Deferred[str]:
        """Start a new generation; fires with what came of it, or fails with `NotDone`.

        `startup_seconds` is how long its workers may take to start, if not as long as the policy says.
        """
        request, answer = self._request()
        asked = inputs.AskRestart(
            mode=mode, asked_by=asked_by, request=request, startup_seconds=startup_seconds
        )
        self.happened(asked)
        return answer

    def ask_end(self, reason: str, *, graceful: bool, status: int) -> Deferred[str]:
        """End the session; fires when every worker is gone."""
        request, answer = self._request()
        self.happened(inputs.AskEnd(reason=reason, graceful=graceful, status=status, request=request))
        return answer

    def _request(self) -> tuple[int, Deferred[str]]:
        self._last_request += 1
        answer: Deferred[str] = Deferred()
        self._answers[self._last_request] = answer
        return self._last_request, answer

    # --- the turn -------------------------------------------------------------------------------

    def happened(self, happened: inputs.Input) -> None:
        """Feed the core. An input that comes while one is at work waits for it."""
        self._inputs.append(happened)
        if self._turning:
            return
        self._turning = True
        try:
            while self._inputs:
                self._turn(self._inputs.popleft())
            self._set_wake()
        finally:
            self._turning = False

    def _turn(self, happened: inputs.Input) -> None:
        if self._broken:
            self._turn_broken(happened)
            return
        now = self._around.reactor.seconds()
        try:
            result = step(self._state, happened, now)
            self._wake_at = next_wake(result.state, now)
        except Exception as error:
            self._break(error, happened)
            return
        self._state = result.state
        if any(isinstance(command, inputs.Serve) for command in result.commands):
            self._calm_at = now + self.takeover_seconds
        for command in result.commands:
            self._isolate(self._do, command)
        for event in result.events:
            self._isolate(self._tell, event)

    def _isolate(self, deed: Callable[[Any], None], what: Any) -> None:
        """A deed that fails is reported; what else was decided is done all the same, and deadlines see to the rest."""
        try:
            deed(what)
        except Exception as error:
            where = f"the monitor, at {type(what).__name__}"
            self._log.failure("{where}: {what!r} failed; the session goes on", where=where, what=what)
            self._around.stream.publish(events.Fault(where=where, error=ErrorRecord.from_exception(error)))

    def _set_wake(self) -> None:
        if self._wake is not None and self._wake.active():
            self._wake.cancel()
        if self._wake_at is not None:
            seconds = max(self._wake_at - self._around.reactor.seconds(), 0.001)
            self._wake = self._around.reactor.callLater(seconds, self.happened, inputs.Tick())

    # --- what the core orders -------------------------------------------------------------------

    def _do(self, command: inputs.Command) -> None:
        match command:
            case inputs.Spawn(worker=worker, generation=generation):
                self._spawn_when_calm(worker, generation)
            case inputs.Activate(worker=worker):
                self._order(worker, commands.Activate)
            case inputs.Serve(worker=worker):
                self._order(worker, commands.Serve)
            case inputs.Unready(worker=worker):
                self._order(worker, commands.Unready)
            case inputs.Leave(worker=worker, kind=kind, text=text, seconds=seconds, drain=drain):
                ports = self._around.last_ports(worker)
                self._leave(worker, _how(kind, text, seconds, drain=drain, last_ports=ports))
            case inputs.Kill(worker=worker, dump=dump):
                if worker in self._processes:
                    self._processes[worker].kill(dump=dump)
            case inputs.DumpStacks(worker=worker):
                if worker in self._processes:
                    self._processes[worker].dump_stacks()
            case inputs.Answer(request=request, ok=ok, text=text):
                self._answer(request, ok, text)
            case inputs.Finish(status=status, reason=reason):
                self._around.reactor.callLater(0, self._around.finished, status, reason)

    def _leave(self, worker: int, how: dict[str, Any]) -> None:
        """Not at once where somebody takes over: what ends takes a lot of the machine, and the first answers need it."""
        seconds = self._calm_at - self._around.reactor.seconds()
        if seconds > 0:
            self._calm_at += self.apart_seconds
            self._around.reactor.callLater(seconds, partial(self._order, worker, commands.Leave, **how))
        else:
            self._order(worker, commands.Leave, **how)

    def _order(self, worker: int, command: Any, **arguments: Any) -> None:
        process = self._processes.get(worker)
        if process is not None:
            process.order(command, **arguments)

    def _answer(self, request: int, ok: bool, text: str) -> None:
        answer = self._answers.pop(request, None)
        if answer is None:
            return
        if ok:
            answer.callback(text)
        else:
            answer.errback(NotDone(text))

    def _spawn_when_calm(self, worker_id: int, generation: int) -> None:
        seconds = max(self._calm_at - self._around.reactor.seconds(), 0.0)
        if seconds and self._state.replacing is not None:
            seconds += self.leaving_seconds
        self._around.reactor.callLater(seconds, self._spawn_after_orders, worker_id, generation)

    def _spawn_after_orders(self, worker_id: int, generation: int) -> None:
        """Wait one turn more: what was ordered in this one is written at its end, after its timed calls.

        Whoever takes over has its order first so, by the 3 to 10 ms that it takes to start a process (measured).
        """
        self._around.reactor.callLater(0, self._spawn, worker_id, generation)

    def _spawn(self, worker_id: int, generation: int) -> None:
        worker = self._state.worker(worker_id)
        if self._broken:
            return
        if worker is None or worker.life is Life.DEAD:
            # It was given up before it was there.
            self.happened(inputs.Exited(worker=worker_id, signal="SIGKILL"))
            return
        process = WorkerProcess(
            reactor=self._around.reactor, worker_id=worker_id, owner=self, handlers=self._around.handlers
        )
        self._processes[worker_id] = process
        try:
            pid = process.spawn(self._around.spawner, self._around.recipe(generation))
        except Exception as error:
            del self._processes[worker_id]
            self._spawn_failed(worker_id, error)
            return
        if pid is not None:
            self._around.started(pid)
        self._around.flow.add(process.output)
        self.happened(inputs.Spawned(worker=worker_id, pid=pid or 0))
        process.spawned()

    def _spawn_failed(self, worker_id: int, error: Exception) -> None:
        if not isinstance(error, OSError | ServerWorkerError):
            self._log.failure("starting worker {worker} failed in an unforeseen way", worker=worker_id)
        # What the system lacks now (memory, processes) it may have again; a file that is not there will not come.
        permanent = not isinstance(error, OSError) or isinstance(error, FileNotFoundError | PermissionError)
        text = f"the process cannot be started: {error}"
        self.happened(inputs.SpawnFailed(worker=worker_id, text=text, permanent=permanent))

    # --- what the core says ---------------------------------------------------------------------

    def _tell(self, event: Event) -> None:
        if isinstance(event, events.WorkerDied):
            event = self._with_last_words(event)
        elif isinstance(event, events.WorkerExited):
            self._bury(event.worker)
        self._around.stream.publish(event)

    def _with_last_words(self, died: events.WorkerDied) -> events.WorkerDied:
        words = self._bury(died.worker)
        if words is None:
            return died
        hung = died.cause.kind in (CauseKind.HANG, CauseKind.STARTUP)
        at = hung_at(words.stacks) if words.stacks and hung else None
        return evolve(
            died,
            output=words.output,
            beats=words.beats,
            requests=words.requests,
            stacks=words.stacks,
            hung_at=str(at) if at is not None else "",
        )

    def _bury(self, worker_id: int) -> LastWords | None:
        process = self._processes.pop(worker_id, None)
        if process is None:
            return None
        words = None
        self._around.flow.remove(process.output)
        with self._log.failuresHandled("the last words of worker {worker} are lost", worker=worker_id):
            words = process.last_words()
            self.former_requests += words.requests_finished
        if process.pid is not None:
            with self._log.failuresHandled(
                "what worker {worker} left running is not looked for", worker=worker_id
            ):
                self._around.gone(process.pid)
        return words

    # --- what the workers say (`worker_process.Owner`) ------------------------------------------

    def join_answer(self, worker_id: int) -> Deferred[dict[str, Any]]:
        """What a worker that joins is told."""
        worker = self._state.worker(worker_id)
        return self._around.join_answer(worker_id, 0 if worker is None else worker.generation)

    def beaten(self, worker_id: int, beat: Beat) -> None:
        """A worker has polled itself."""
        self._around.stream.publish(events.Heartbeat(worker=worker_id, beat=beat))
        worker = self._state.worker(worker_id)
        if worker is None or not (beat.failures or worker.failures):
            return  # all is well, as it was: most beats by far, and each turn of the core looks at all workers
        tolerance = self._around.tolerance()
        self.happened(
            inputs.BeatTold(worker=worker_id, failures=beat.failures, text=beat.text, tolerance=tolerance)
        )

    def printed(self, lines: OutputLines) -> None:
        """A worker has printed."""
        self._around.stream.publish_lines(lines)
        self._around.flow.printed()

    def noted(self, worker_id: int, text: str) -> None:
        """A worker tells of itself."""
        self._around.stream.publish(events.Lifecycle(worker=worker_id, text=text))

    def asked_to_end(self, worker_id: int, reason: str, graceful: bool, status: int) -> None:
        """A worker wants the session to end."""
        text = f"worker {worker_id}: {reason}"
        self.happened(inputs.AskEnd(reason=text, graceful=graceful, status=status))

    # --- the core's own fault -------------------------------------------------------------------

    def _break(self, error: Exception, happened: inputs.Input) -> None:
        """The core is not to be trusted any more: every worker is asked to leave, then killed; status 70."""
        self._broken = True
        self._wake_at = None
        seconds = self._state.policy.drain_seconds
        where = f"the monitor's core, at {type(happened).__name__}"
        step_next = (
            f"the workers have {seconds:g} s to finish what they are at, then the session ends with 70"
        )
        self._log.failure("the core failed at {happened}; {next}", happened=happened, next=step_next)
        record = ErrorRecord.from_exception(error)
        self._around.stream.publish(events.Fault(where=where, error=record, next_step=step_next))
        status = int(ExitStatus.SOFTWARE)
        self._around.stream.publish(events.SessionEnding(reason=_OWN_FAULT, graceful=True, status=status))
        for process in tuple(self._processes.values()):
            process.order(commands.Leave, **_how("session-end", _OWN_FAULT, seconds))
        self._around.reactor.callLater(seconds + GRACE_SECONDS, self._kill_all)
        last_moment = seconds + GRACE_SECONDS + KILL_AGAIN_SECONDS
        self._around.reactor.callLater(last_moment, self._finish_broken)
        for request in (*self._answers, getattr(happened, "request", None)):
            self._refuse(request)
        self._finish_if_empty()

    def _turn_broken(self, happened: inputs.Input) -> None:
        match happened:
            case inputs.Exited(worker=worker):
                self._bury(worker)
                self._finish_if_empty()
            case inputs.AskRestart(request=request):
                self._refuse(request)
            case inputs.AskEnd(graceful=graceful, request=request):
                self._refuse(request)
                if not graceful:
                    self._kill_all()
            case _:
                pass

    def _refuse(self, request: int | None) -> None:
        if request is not None:
            self._answer(
                request, False, f"{_OWN_FAULT}: the session ends with status {ExitStatus.SOFTWARE:d}"
            )

    def _kill_all(self) -> None:
        for process in tuple(self._processes.values()):
            process.kill()

    def _finish_if_empty(self) -> None:
        if not self._processes:
            self._finish_broken()

    def _finish_broken(self) -> None:
        """Once; also with processes that even SIGKILL does not end."""
        if self._over:
            return
        self._over = True
        status = int(ExitStatus.SOFTWARE)
        self._around.stream.publish(events.SessionEnded(status=status, reason=_OWN_FAULT))
        self._around.reactor.callLater(0, self._around.finished, status, _OWN_FAULT)


def _how(
    kind: str, text: str, seconds: float, *, drain: bool = True, last_ports: Sequence[str] = ()
) -> dict[str, Any]:
    """The arguments of a `Leave`."""
    return {"kind": kind, "text": text, "seconds": seconds, "drain": drain, "last_ports": list(last_ports)}
