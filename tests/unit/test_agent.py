"""The session agent: launched once, in the right process."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.defer import Deferred, ensureDeferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from serverworker import Monitor, ServerWorker, SessionAgent
from serverworker.values.errors import AlreadyLaunched, WrongProcess

MONITOR = cast(Monitor, object())
WORKER = cast(ServerWorker, object())


class Recording(SessionAgent):
    """Notes what it is given, and answers what the test says."""

    def __init__(self) -> None:
        self.given: list[Any] = []
        self.answer: Any = None

    def initialize_monitor(self, monitor: Monitor) -> Any:
        self.given.append(("monitor", monitor))
        return self.answer

    def initialize_server_worker(self, worker: ServerWorker) -> Any:
        self.given.append(("worker", worker))
        return self.answer


class AgentTestCase(SynchronousTestCase):
    def launch(self, agent: SessionAgent, **half: Any) -> Deferred[Any]:
        return ensureDeferred(agent.launch(**half))


class LaunchTests(AgentTestCase):
    """What `launch` does."""

    def test_does_nothing_by_itself(self) -> None:
        """The class as it is can be launched in both processes; it wants a key to be made."""
        self.assertIsNone(self.successResultOf(self.launch(SessionAgent(), monitor=MONITOR)))
        self.assertIsNone(self.successResultOf(self.launch(SessionAgent(), worker=WORKER)))

    def test_each_half_is_given_its_own(self) -> None:
        """In the monitor only `initialize_monitor` runs, with the monitor; in a worker only the other."""
        in_monitor, in_worker = Recording(), Recording()
        self.successResultOf(self.launch(in_monitor, monitor=MONITOR))
        self.successResultOf(self.launch(in_worker, worker=WORKER))
        self.assertEqual(in_monitor.given, [("monitor", MONITOR)])
        self.assertEqual(in_worker.given, [("worker", WORKER)])

    def test_plain_deferred_or_coroutine(self) -> None:
        """Either method may be plain, return a Deferred, or be a coroutine function: the answer is the same."""

        async def coroutine() -> str:
            return "the key"

        for answer in ("the key", succeed("the key"), coroutine()):
            agent = Recording()
            agent.answer = answer
            self.assertEqual(self.successResultOf(self.launch(agent, monitor=MONITOR)), "the key")

    def test_waits(self) -> None:
        """It is launched when what the agent waits for has come."""
        agent = Recording()
        waiting: Deferred[None] = Deferred()
        agent.answer = waiting
        launched = self.launch(agent, worker=WORKER)
        self.assertNoResult(launched)
        waiting.callback(None)
        self.successResultOf(launched)

    def test_error(self) -> None:
        """What the agent raises comes to whoever launches it."""

        class Broken(SessionAgent):
            async def initialize_monitor(self, monitor: Monitor) -> str:
                raise RuntimeError("no data base")

        failure = self.failureResultOf(self.launch(Broken(), monitor=MONITOR), RuntimeError)
        self.assertEqual(failure.getErrorMessage(), "no data base")

    def test_once(self) -> None:
        """A second launch is refused, in either process, and runs nothing; so is one after a failure."""
        for half in ({"monitor": MONITOR}, {"worker": WORKER}):
            agent = Recording()
            self.successResultOf(self.launch(agent, **half))
            failure = self.failureResultOf(self.launch(agent, **half), AlreadyLaunched)
            self.assertIn("launched already", failure.getErrorMessage())
            self.assertEqual(len(agent.given), 1)

    def test_one_of_the_two(self) -> None:
        """A launch with neither half, or with both, is a mistake of the caller's, and leaves the agent as it was."""
        agent = Recording()
        self.failureResultOf(self.launch(agent), TypeError)
        self.failureResultOf(self.launch(agent, monitor=MONITOR, worker=WORKER), TypeError)
        self.successResultOf(self.launch(agent, monitor=MONITOR))


class ReachingTests(AgentTestCase):
    """Reaching for a half of the session."""

    def test_its_own(self) -> None:
        """The half of this process is there, while it is being set up already."""

        class Asking(SessionAgent):
            async def initialize_monitor(self, monitor: Monitor) -> Any:
                return self.monitor

            async def initialize_server_worker(self, worker: ServerWorker) -> Any:
                return self.worker

        self.assertIs(self.successResultOf(self.launch(Asking(), monitor=MONITOR)), MONITOR)
        self.assertIs(self.successResultOf(self.launch(Asking(), worker=WORKER)), WORKER)

    def test_the_other(self) -> None:
        """The half of the other process is a clear error, which says how to reach it."""
        in_monitor, in_worker = SessionAgent(), SessionAgent()
        self.successResultOf(self.launch(in_monitor, monitor=MONITOR))
        self.successResultOf(self.launch(in_worker, worker=WORKER))
        error = self.assertRaises(WrongProcess, lambda: in_worker.monitor)
        self.assertIn("reach it by `worker.emit(name, …)`", str(error))
        error = self.assertRaises(WrongProcess, lambda: in_monitor.worker)
        self.assertIn("reach it by `monitor.emit(name, …)`", str(error))

    def test_before_the_launch(self) -> None:
        """Before the launch, as in `__init__`, there is neither, and the error says so."""
        agent = SessionAgent()
        self.assertIn("has not been launched", str(self.assertRaises(WrongProcess, lambda: agent.monitor)))
        self.assertIn("has not been launched", str(self.assertRaises(WrongProcess, lambda: agent.worker)))
