"""A session in the monitor: what joins the engine, the agent, the guardian, the ports and the settings."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from random import Random
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred, ensureDeferred, fail, succeed
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure

from serverworker.decisions import inputs
from serverworker.monitor.agent_setup import AgentSetup
from serverworker.monitor.certificates import Certificates, Files
from serverworker.monitor.configuration import Configuration, policy_of
from serverworker.monitor.console_commands import ConsoleCommands
from serverworker.monitor.engine import Engine
from serverworker.monitor.handle import Monitor
from serverworker.monitor.left_behind import LeftBehind
from serverworker.monitor.output_flow import PATIENCE_SECONDS, OutputFlow
from serverworker.monitor.ports import Ports
from serverworker.monitor.shell_commands import ShellCommands
from serverworker.monitor.stream import EventStream, ignore_lines
from serverworker.monitor.surroundings import Surroundings
from serverworker.monitor.watches import Watches
from serverworker.processes.agent import SessionAgent
from serverworker.processes.awaiting import finished, record_of, within
from serverworker.processes.exit_handlers import ExitHandlers
from serverworker.processes.forking import ForkServer, ForkSpawner
from serverworker.processes.guardian import Guardian
from serverworker.processes.hosts.needed import modules_of
from serverworker.processes.role import THIS_PROCESS, ProcessRole
from serverworker.processes.shares import Shares
from serverworker.processes.shell import ShellResult
from serverworker.processes.spawn import Recipe, Spawner, passed_on, resolve_recipe
from serverworker.values import events
from serverworker.values.errors import ConfigurationError, NotDone, PortUnavailable
from serverworker.values.events import Event, Told
from serverworker.values.reasons import ExitKind, ExitReason
from serverworker.values.settings import PollingSettings, Settings, WorkersSettings
from serverworker.values.state import Phase
from serverworker.values.tls import KeyPair
from serverworker.wire import commands
from serverworker.wire.emits import Handlers

OWN_COMMANDS = ("status", "restart", "exit", "set", "emit", "events", "crashes", "logs", "help")
"""The console's own commands; an agent's may not have these names."""

_STEP_SECONDS = 5.0
"""How long each step of the monitor's own end may take."""


class Session:
    """One run of the monitor."""

    _log = Logger(namespace="serverworker.monitor")

    def __init__(
        self,
        *,
        reactor: Any,
        settings: Settings,
        ports: Ports,
        stream: EventStream,
        environment: Mapping[str, str],
        key: str,
        seed: int,
        over: Callable[[int], object],
        read: Callable[[], Settings] | None = None,
        certificates: Mapping[Files, KeyPair] | None = None,
        spawner: Spawner | None = None,
        fork_server: ForkServer | None = None,
        role: ProcessRole = THIS_PROCESS,
    ) -> None:
        """`over(status)` is called when all is gone; `read` reads options and file anew for a restart.

        `certificates` are those of the ports that speak TLS, as `certificates.read_all` has read them; `fork_server`
        is one that runs already.
        Raises `AlreadyLaunched` where a monitor runs already.
        """
        role.take("monitor")
        self.reactor = reactor
        self.certificates = Certificates(
            certificates or {}, clock=reactor, publish=stream.publish, in_thread=self._in_thread
        )
        self.configuration = Configuration(settings, ports, read and partial(self._read_anew, read))
        self.stream = stream
        self.handlers = Handlers()
        self.console_commands = ConsoleCommands(OWN_COMMANDS)
        self.exit_handlers = ExitHandlers(reactor, self._exit_handler_failed)
        self.key = key
        self.handle = Monitor(self)
        self._role = role
        self._ports = ports
        self._environment = environment
        self._over = over
        self._closers: list[Callable[[], Any]] = []
        self._is_over = False
        self.previous: events.PreviousSession | None = None
        """How the session before this one ended, once its journal was read."""
        self._recipes: dict[int, Recipe] = {}
        self._agent_setup = AgentSetup(reactor, take_key=self._take_key, fault=self._fault)
        self._keep_key: Callable[[str], object] = lambda key: None
        self._exits: Deferred[Any] = succeed(None)
        self._guardian = Guardian(reactor)
        self._shell = ShellCommands(reactor, stream.publish, self._guardian)
        self._shares = Shares.create()
        self.flow = OutputFlow(
            reactor,
            stream.publish,
            lambda: min(PATIENCE_SECONDS, self.settings.watchdog.timeout_seconds / 2),
        )
        """Is told of the sinks that what workers print goes to."""
        around = self._surroundings(spawner or self._open_spawner(fork_server))
        self.engine = Engine(around, policy_of(settings), seed)
        self._chance = Random(seed).random  # noqa: S311 - jitter, not a secret
        self._watches = Watches(reactor, self.engine, settings, self._chance)
        stream.observe(self._watch_own_events, ignore_lines)

    def _surroundings(self, spawner: Spawner) -> Surroundings:
        return Surroundings(
            reactor=self.reactor,
            spawner=spawner,
            handlers=self.handlers,
            stream=self.stream,
            recipe=self._recipe,
            join_answer=self._join_answer,
            last_ports=self._last_ports,
            tolerance=lambda: self.settings.polling.failure_tolerance,
            started=self._guardian.watch,
            gone=LeftBehind(self.reactor, self._guardian, lambda: self.engine.state).end,
            finished=self._finished,
            flow=self.flow,
        )

    def _open_spawner(self, fork_server: ForkServer | None) -> Spawner:
        spawner = ForkSpawner(
            self.reactor,
            environment={**passed_on(self._environment), **self._guardian.environment},
            preload=modules_of(self.settings.app),
            watch=self._guardian.watch,
            forget=self._guardian.forget,
            first=fork_server,
        )
        self.at_end(spawner.close)
        return spawner

    @property
    def settings(self) -> Settings:
        """What the session is configured with, now."""
        return self.configuration.settings

    def ports(self) -> tuple[str, ...]:
        """Each as ``name=address``: as it is bound, or as it is configured where the application binds."""
        return self._ports.described() or tuple(
            f"{each.name}={each.describe()}" for each in self.settings.ports
        )

    def ping_seconds(self, worker: int) -> float | None:
        """See `Pinger.seconds`."""
        return self._watches.ping_seconds(worker)

    # --- the beginning --------------------------------------------------------------------------

    def start(
        self,
        state_directory: str,
        agent: SessionAgent | None = None,
        keep_key: Callable[[str], object] = lambda key: None,
    ) -> None:
        """Start the workers, and let the agent set the monitor up meanwhile; `keep_key` is told a key of its own."""
        self._keep_key = keep_key
        self._guardian.start(self.settings.drain.timeout_seconds)
        self._watches.start()
        self.stream.publish(
            events.SessionStarted(pid=os.getpid(), ports=self.ports(), state_directory=state_directory)
        )
        self.certificates.start(self.settings.tls, self._hand_over_certificates)
        if agent is not None:
            self._agent_setup.begin(agent, self.handle)
        self.engine.happened(inputs.Start())

    def _take_key(self, key: str) -> None:
        self._keep_key(key)
        self.key = key

    def _recipe(self, generation: int) -> Recipe:
        """One for each generation, so that a worker that dies is followed by one of the same code."""
        if generation not in self._recipes:
            environment = {**self._environment, **self._guardian.environment}
            self._recipes[generation] = resolve_recipe(
                self.configuration.of(generation).app, self._ports.bound(), environment, self._shares
            )
        return self._recipes[generation]

    def _last_ports(self, worker_id: int) -> list[str]:
        """Those that a worker of a former generation closes for good: no successor has them."""
        state = self.engine.state
        worker = state.worker(worker_id)
        if worker is None or worker.generation >= state.generation:
            return []
        old, new = (self._recipes.get(each) for each in (worker.generation, state.generation))
        if old is None or new is None:
            return []
        kept = [port.socket for port in new.ports]
        return self._ports.own_names([port for port in old.ports if port.socket not in kept])

    async def _told_at_join(self, generation: int) -> dict[str, Any]:
        await self._agent_setup.over()
        settings = self.configuration.of(generation)
        return {
            "settings": settings.for_worker(),
            "generation": generation,
            "key": self.key,
            "tls": self.certificates.for_worker(settings.tls),
        }

    def _join_answer(self, worker: int, generation: int) -> Deferred[dict[str, Any]]:
        process = self.engine.process(worker)
        if process is not None:
            process.link.limit_values(self.settings.ipc.maximum_bytes)
        return ensureDeferred(self._told_at_join(generation))

    # --- what happens meanwhile -----------------------------------------------------------------

    def _watch_own_events(self, told: Told) -> None:
        match told.event:
            case events.SessionEnding() as ending:
                reason = ExitReason(ExitKind.SESSION_END, text=ending.reason)
                seconds = self.settings.drain.timeout_seconds if ending.graceful else _STEP_SECONDS
                self._exits = ensureDeferred(self.exit_handlers.run(reason, seconds))
            case events.RestartCompleted() | events.RestartFailed() as outcome:
                self._settle_configuration(outcome.generation)
                self._forget_recipes()
            case events.PreviousSession() as previous:
                self.previous = previous
            case _:
                pass

    def _settle_configuration(self, generation: int) -> None:
        """A restart is over: its configuration holds if its generation does."""
        if self.engine.state.generation != generation:
            self.configuration.take_back()
            return
        self.configuration.keep()
        self.certificates.settle(self.settings.tls)
        self._watches.stop()
        self._watches = Watches(self.reactor, self.engine, self.settings, self._chance)
        self._watches.start()
        self._guardian.set_deadline(self.settings.drain.timeout_seconds)
        self.engine.happened(inputs.NewPolicy(policy=policy_of(self.settings)))

    def _forget_recipes(self) -> None:
        """Let go of the recipes that no worker is started by any more, and of the sockets that are in no other."""
        restart = self.engine.state.restart
        needed = (self.engine.state.generation, restart.generation if restart is not None else 0)
        self._recipes = {each: recipe for each, recipe in self._recipes.items() if each in needed}
        self._ports.close_former([port.socket for recipe in self._recipes.values() for port in recipe.ports])

    def _read_anew(self, read: Callable[[], Settings]) -> Settings:
        fresh = read()
        self.certificates.read_anew(fresh.tls)
        return fresh

    def _hand_over_certificates(self) -> None:
        for worker in self.engine.state.workers:
            process = self.engine.process(worker.id)
            if process is not None and worker.alive:
                settings = self.configuration.of(worker.generation)
                process.use_certificates(self.certificates.for_worker(settings.tls))

    def _in_thread(self, call: Callable[[], Any]) -> Deferred[Any]:
        return deferToThreadPool(self.reactor, self.reactor.getThreadPool(), call)

    def subscribe(self, callback: Callable[[Told], Any], *kinds: type[Event]) -> Callable[[], None]:
        """See `Monitor.subscribe`."""

        def observer(told: Told) -> None:
            if not kinds or isinstance(told.event, kinds):
                finished(callback, told).addErrback(self._hook_failed, callback, told)

        wants_lines = not kinds or events.OutputLine in kinds
        return self.stream.observe(observer, None if wants_lines else ignore_lines)

    def _hook_failed(self, failure: Failure, callback: Callable[..., Any], told: Told) -> None:
        name = getattr(callback, "__qualname__", repr(callback))
        if isinstance(told.event, events.Fault):  # told of its own failure it would fail again, for ever
            self._log.failure("hook {name} failed at a fault; the session goes on", failure, name=name)
        else:
            self._fault(f"hook {name}", failure)

    def _exit_handler_failed(self, name: str, failure: Failure) -> None:
        self._fault(name, failure, "the exit goes on")

    def _fault(self, where: str, failure: Failure, then: str = "the session goes on") -> None:
        self.stream.publish(events.Fault(where=where, error=record_of(failure), next_step=then))

    # --- deeds (see `Monitor`) ------------------------------------------------------------------

    def exec(self, command: str | Sequence[str], timeout: float) -> Deferred[ShellResult]:
        """Run a shell command."""
        return self._shell.run(command, timeout)

    def restart(self, mode: str, asked_by: str) -> Deferred[str]:
        """Start a new generation, with the configuration as it is written now."""
        state = self.engine.state
        if state.phase is Phase.RUNNING and state.restart is None:
            try:
                self.configuration.read_anew(state.generation)
            except (ConfigurationError, PortUnavailable) as error:
                return fail(NotDone(f"nothing is restarted, and the session goes on as it was: {error}"))
        return self.engine.ask_restart(mode, asked_by, self.settings.startup.timeout_seconds)

    def set_polling(self, seconds: float) -> None:
        """Change the heartbeat's interval."""
        polling: PollingSettings = evolve(self.settings.polling, interval_seconds=seconds)
        self.configuration.settings = evolve(self.settings, polling=polling)
        for worker in self.engine.state.workers:
            process = self.engine.process(worker.id)
            if process is not None and worker.alive:
                process.link.tell(commands.SetPolling, seconds=seconds)
        self.stream.publish(events.PollingChanged(seconds=seconds))

    def set_port(self, name: str, description: int | str, *, now: bool, asked_by: str) -> Deferred[str]:
        """Change a port's address."""
        if not self.settings.workers.bind:
            return fail(
                ConfigurationError(
                    f"port {name!r} cannot be changed here: workers.bind is false, so the application binds it by itself"
                )
            )
        try:
            port = self._ports.change(name, description)
        except Exception as error:
            return fail(error)
        ports = tuple(port if each.name == name else each for each in self.settings.ports)
        self.configuration.settings = evolve(self.settings, ports=ports)
        self.stream.publish(events.PortChanged(name=name, description=port.describe()))
        if now:
            return self.restart("clean", asked_by)
        return succeed(f"port {name} is {port.describe()} from the next restart on")

    def set_workers(self, count: int) -> None:
        """Change how many workers serve."""
        workers: WorkersSettings = evolve(self.settings.workers, count=count)
        self.configuration.settings = evolve(self.settings, workers=workers)
        self.engine.happened(inputs.NewPolicy(policy=policy_of(self.settings)))

    # --- the end --------------------------------------------------------------------------------

    def at_end(self, close: Callable[[], Any]) -> None:
        """Have `close()` called when the workers are gone; it may return a Deferred, and has five seconds.

        What was opened last is closed first.
        """
        self._closers.append(close)

    def give_up(self, status: int, reason: str) -> None:
        """End a session that has not started a worker."""
        self._log.critical("{reason}", reason=reason)
        self._finished(status, reason)

    def _finished(self, status: int, reason: str) -> None:
        if self._is_over:  # it was given up, and then somebody asked for the end as well
            return
        self._is_over = True
        ended = ensureDeferred(self._end())
        ended.addErrback(lambda failure: self._log.failure("the end of the session", failure))
        ended.addBoth(lambda _: self._over(status))

    async def _end(self) -> None:
        """One step after the other; none may take for ever, and none stops the next."""
        self._watches.stop()
        self.certificates.stop()
        await self._step("the monitor's exit handlers", lambda: self._exits)
        for close in reversed(self._closers):
            await self._step(getattr(close, "__qualname__", "an observer"), close)
        self._guardian.set_deadline(0)
        await self._step("the guardian", self._guardian.stop)
        self._ports.close()
        os.close(self._shares)
        self._role.leave()

    async def _step(self, what: str, step: Callable[[], Any]) -> None:
        try:
            await within(self.reactor, _STEP_SECONDS, what, finished(step))
        except Exception:
            self._log.failure("{what} did not end as it should; the end goes on", what=what)
