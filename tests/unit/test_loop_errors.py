"""Which errors of an asyncio event loop are crashes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from serverworker.processes.loop_errors import watch_loop
from serverworker.processes.uncaught import UncaughtErrors
from serverworker.values.errors import ErrorRecord


class LoopErrorsTests(SynchronousTestCase):
    """They go through Twisted's log to the one judge of all."""

    def setUp(self) -> None:
        self.crashes: list[ErrorRecord] = []
        uncaught = UncaughtErrors(self.crashes.append)
        globalLogPublisher.addObserver(uncaught)
        self.addCleanup(globalLogPublisher.removeObserver, uncaught)
        self.said: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: self.said.append(record.getMessage())  # type: ignore[method-assign]
        logging.getLogger("asyncio").addHandler(handler)
        self.addCleanup(logging.getLogger("asyncio").removeHandler, handler)

    def crashes_of(self, scenario: Callable[[], Awaitable[None]]) -> list[str]:
        """What an event loop that runs this tells of."""

        async def main() -> None:
            watch_loop(asyncio.get_running_loop())
            await scenario()
            gc.collect()

        self.crashes.clear()
        asyncio.run(main())
        self.flushLoggedErrors()
        return [str(record) for record in self.crashes]

    def told(self, **context: Any) -> list[str]:
        """What comes of one thing that the event loop is told of."""

        async def scenario() -> None:
            asyncio.get_running_loop().call_exception_handler({"message": "it happened", **context})

        return self.crashes_of(scenario)

    def test_task(self) -> None:
        """A task that failed, and that nobody awaited."""

        async def fail() -> None:
            raise LookupError("of a task")

        async def scenario() -> None:
            task = asyncio.get_running_loop().create_task(fail())
            await asyncio.wait({task})

        self.assertEqual(self.crashes_of(scenario), ["LookupError: of a task"])

    def test_callback(self) -> None:
        """A callback that raised."""

        async def scenario() -> None:
            asyncio.get_running_loop().call_soon(int, "no number")
            await asyncio.sleep(0)

        (crash,) = self.crashes_of(scenario)
        self.assertIn("ValueError: invalid literal", crash)

    def test_cancelled(self) -> None:
        """To be called off is no crash."""

        async def scenario() -> None:
            task = asyncio.get_running_loop().create_task(asyncio.sleep(60))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait({task})

        self.assertEqual(self.crashes_of(scenario), [])

    def test_handled(self) -> None:
        """Nor is what somebody awaited."""

        async def fail() -> None:
            raise LookupError("of a task")

        async def scenario() -> None:
            with contextlib.suppress(LookupError):
                await asyncio.get_running_loop().create_task(fail())

        self.assertEqual(self.crashes_of(scenario), [])

    def test_connections(self) -> None:
        """What a client can bring about by its bytes, or by leaving, is logged as asyncio does it, and is no crash."""

        class Parser(asyncio.Protocol):
            __module__ = "uvicorn.protocols.http.h11_impl"

        for context in (
            {"exception": ssl.SSLError("bad record"), "protocol": object(), "transport": object()},
            {"exception": ConnectionResetError(), "transport": object()},
            {"exception": ValueError("in the parser"), "protocol": Parser()},
        ):
            self.said.clear()
            self.assertEqual(self.told(**context), [])
            self.assertEqual(len(self.said), 1)

    def test_own_protocol(self) -> None:
        """A bug in a protocol of the application's own is one, as with Twisted's protocols."""
        told = self.told(exception=ValueError("in dataReceived"), protocol=asyncio.Protocol())
        self.assertEqual(told, ["ValueError: in dataReceived"])

    def test_no_error(self) -> None:
        """What has no error is said, and is no crash."""
        self.assertEqual(self.told(), [])
        self.assertEqual(self.said, ["it happened"])

    def test_generator(self) -> None:
        """A generator that a client left in the middle may fail to close: no crash."""
        self.assertEqual(self.told(exception=RuntimeError("ignored GeneratorExit"), asyncgen=object()), [])
