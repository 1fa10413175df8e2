"""The lifespan of an ASGI application, and the place where a coroutine waits."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from serverworker.processes.hosts import lifespan as module
from serverworker.processes.hosts.lifespan import Lifespan
from serverworker.processes.hosts.waiting import where_it_waits
from serverworker.values.errors import ApplicationError

Scenario = Callable[[], Awaitable[None]]


class Application:
    """One with a lifespan, which does at each step what the test says."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.scope: dict[str, Any] = {}
        self.at_startup: Callable[[Any], Awaitable[None]] = self.complete_startup
        self.at_shutdown: Callable[[Any], Awaitable[None]] = self.complete_shutdown

    async def complete_startup(self, send: Any) -> None:
        await send({"type": "lifespan.startup.complete"})

    async def complete_shutdown(self, send: Any) -> None:
        await send({"type": "lifespan.shutdown.complete"})

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scope = scope
        for step in (self.at_startup, self.at_shutdown):
            message = await receive()
            self.done.append(message["type"])
            await step(send)


class LifespanTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.application = Application()
        self.lifespan = Lifespan(self.application)
        self.broken: list[dict[str, Any]] = []

    def run_in_loop(self, scenario: Scenario) -> None:
        """Run it on an event loop of its own; nothing may be left over."""

        async def main() -> None:
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda _, context: self.broken.append(context))
            await asyncio.wait_for(scenario(), 20)

        asyncio.run(main())

    async def fails_to_start(self, seconds: float = 10.0) -> str:
        await self.lifespan.call()
        try:
            await self.lifespan.start_up(seconds)
        except ApplicationError as error:
            return str(error)
        raise AssertionError("it started")


class LifespanTests(LifespanTestCase):
    """Call, start-up, shutdown."""

    def test_course(self) -> None:
        """It is called and starts nothing; then it starts, keeps its state, and shuts down."""

        async def scenario() -> None:
            self.assertTrue(await self.lifespan.call())
            self.assertEqual(self.application.done, [])
            await self.lifespan.start_up(10)
            self.assertEqual(self.application.done, ["lifespan.startup"])
            self.application.scope["state"]["pool"] = 7
            self.assertEqual(self.lifespan.state, {"pool": 7})
            await self.lifespan.shut_down()
            self.assertEqual(self.application.done, ["lifespan.startup", "lifespan.shutdown"])

        self.run_in_loop(scenario)
        self.assertEqual(self.broken, [])
        self.assertEqual(self.application.scope["type"], "lifespan")
        self.assertEqual(self.application.scope["asgi"], {"version": "3.0", "spec_version": "2.0"})

    def test_none(self) -> None:
        """One that raises, or returns, when it is called has none; there is nothing to start or to shut down."""

        async def raises(scope: Any, receive: Any, send: Any) -> None:
            raise ValueError(scope["type"])

        async def returns(scope: Any, receive: Any, send: Any) -> None:
            return

        async def scenario() -> None:
            for application in (raises, returns):
                lifespan = Lifespan(application)
                self.assertFalse(await lifespan.call())
                await lifespan.start_up(10)
                await lifespan.shut_down()

        self.run_in_loop(scenario)
        gc.collect()  # a task whose error nobody has looked at tells it when it is collected
        self.assertEqual(self.broken, [])

    def test_slow_to_ask(self) -> None:
        """One that does something before it asks for its message is taken to have one."""
        self.patch(module, "CALL_SECONDS", 0.01)

        async def slow(scope: Any, receive: Any, send: Any) -> None:
            await asyncio.sleep(0.1)
            await self.application(scope, receive, send)

        async def scenario() -> None:
            lifespan = Lifespan(slow)
            self.assertTrue(await lifespan.call())
            self.assertEqual(self.application.scope, {})  # it is at something else still
            await lifespan.start_up(10)
            await lifespan.shut_down()

        self.run_in_loop(scenario)
        self.assertEqual(self.application.done, ["lifespan.startup", "lifespan.shutdown"])

    def test_shutdown_without_startup(self) -> None:
        """A worker that never took over has nothing to shut down."""

        async def scenario() -> None:
            await self.lifespan.call()
            await self.lifespan.shut_down()

        self.run_in_loop(scenario)
        self.assertEqual(self.application.done, [])

    def test_fails_and_raises(self) -> None:
        """What it raises says more than what it said: that is told, with its own frames alone."""

        async def fail(send: Any) -> None:
            try:
                raise LookupError("no table")
            except LookupError:
                await send({"type": "lifespan.startup.failed", "message": "it failed"})
                await asyncio.sleep(0.01)  # it tidies up
                raise

        self.application.at_startup = fail

        async def scenario() -> None:
            text = await self.fails_to_start()
            self.assertEqual(text.splitlines()[0], "the application's lifespan failed at its start-up:")
            self.assertEqual(text.splitlines()[-1], "LookupError: no table")
            self.assertNotIn("hosts/lifespan.py", text)

        self.run_in_loop(scenario)
        self.assertEqual(self.broken, [])

    def test_fails_and_says_so(self) -> None:
        """What it said is told where it raises nothing; and that it said nothing."""
        for message, told in (("no table", "no table"), ("", "it did not say why")):
            self.setUp()

            async def fail(send: Any, message: str = message) -> None:
                await send({"type": "lifespan.startup.failed", "message": message})
                self.application.at_shutdown = self.application.complete_shutdown

            self.application.at_startup = fail
            self.patch(module, "END_SECONDS", 0.01)

            async def scenario(told: str = told) -> None:
                text = await self.fails_to_start()
                self.assertEqual(text, f"the application's lifespan failed at its start-up:\n{told}")

            self.run_in_loop(scenario)

    def test_raises_when_asked(self) -> None:
        """To raise without a word means that there is no lifespan; it is served without, and the log says why."""
        events: list[Any] = []
        observer: Any = events.append
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

        async def refuse(send: Any) -> None:
            raise TypeError("what is a lifespan?")

        self.application.at_startup = refuse

        async def scenario() -> None:
            await self.lifespan.call()
            await self.lifespan.start_up(10)
            await self.lifespan.shut_down()

        self.run_in_loop(scenario)
        self.assertIn("what is a lifespan?", " ".join(event.get("text", "") for event in events))
        self.assertEqual(self.broken, [])

    def test_wrong_message(self) -> None:
        """An application that answers a lifespan as if it were a request is told so, and so has none."""

        async def answer(send: Any) -> None:
            await send({"type": "http.response.start", "status": 200})

        self.application.at_startup = answer

        async def scenario() -> None:
            await self.lifespan.call()
            await self.lifespan.start_up(10)

        self.run_in_loop(scenario)

    def test_deadline(self) -> None:
        """One that does not complete in time is told with the place where it waits."""

        @asynccontextmanager
        async def data_base() -> AsyncIterator[None]:
            await asyncio.sleep(600)  # the place
            yield

        async def wait(send: Any) -> None:
            async with data_base():
                await send({"type": "lifespan.startup.complete"})

        self.application.at_startup = wait

        async def scenario() -> None:
            text = await self.fails_to_start(0.05)
            self.assertIn("has not completed its start-up within 0.05 s; it waits at ", text)
            self.assertIn("test_lifespan.py, line ", text.splitlines()[0])
            self.assertIn(", in data_base:", text.splitlines()[0])
            self.assertIn("await asyncio.sleep(600)  # the place", text.splitlines()[-1])
            self.assertNotIn("hosts/lifespan.py", text)

        self.run_in_loop(scenario)

    def test_ends_by_itself(self) -> None:
        """A lifespan that breaks while requests are served is for the event loop's handler: a crash."""
        broke = asyncio.Event()

        async def start(send: Any) -> None:
            await send({"type": "lifespan.startup.complete"})
            await broke.wait()
            raise OSError("the connection to the data base is gone")

        self.application.at_startup = start

        async def scenario() -> None:
            await self.lifespan.call()
            await self.lifespan.start_up(10)
            told = asyncio.Event()

            def handle(loop: object, context: dict[str, Any]) -> None:
                self.broken.append(context)
                told.set()

            asyncio.get_running_loop().set_exception_handler(handle)
            broke.set()
            await told.wait()
            await self.lifespan.shut_down()

        self.run_in_loop(scenario)
        (context,) = self.broken
        self.assertIsInstance(context["exception"], OSError)

    def test_shutdown_that_fails(self) -> None:
        """It is told, whether it says so or raises; neither is a crash."""

        async def say(send: Any) -> None:
            await send({"type": "lifespan.shutdown.failed", "message": "not saved"})

        async def throw(send: Any) -> None:
            raise OSError("not saved")

        for step in (say, throw):
            self.setUp()
            self.application.at_shutdown = step

            async def scenario() -> None:
                await self.lifespan.call()
                await self.lifespan.start_up(10)
                try:
                    await self.lifespan.shut_down()
                except ApplicationError as error:
                    self.assertIn("not saved", str(error))
                else:
                    self.fail("it shut down")

            self.run_in_loop(scenario)
            self.assertEqual(self.broken, [])


class WaitingTests(SynchronousTestCase):
    """The frames of a suspended coroutine."""

    def test_not_begun(self) -> None:
        """One that has ended, or waits in nothing of its own, waits nowhere."""
        self.assertEqual(where_it_waits(None), "at its beginning")

    def test_bounded(self) -> None:
        """A coroutine that calls itself for ever is shown in part."""

        class Never:
            def __await__(self) -> Any:
                yield

        async def deeper(levels: int) -> None:
            if levels:
                await deeper(levels - 1)
            else:
                await Never()

        coroutine = deeper(200)
        coroutine.send(None)
        self.addCleanup(coroutine.close)
        text = where_it_waits(coroutine)
        self.assertLess(text.count("deeper(levels - 1)"), 51)
