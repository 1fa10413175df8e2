"""The lifespan of an ASGI application: what it does before its first request, and after its last one.

As ASGI's Lifespan Protocol has it, version 2.0. The application is called when it is loaded, and then waits for its
messages: so it is known whether it has a lifespan at all, long before anything of it is started.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from twisted.logger import Logger

from serverworker.processes.hosts.waiting import where_it_waits
from serverworker.processes.references import theirs
from serverworker.values.errors import ApplicationError

Message = MutableMapping[str, Any]

_ANSWERS = (
    "lifespan.startup.complete",
    "lifespan.startup.failed",
    "lifespan.shutdown.complete",
    "lifespan.shutdown.failed",
)

CALL_SECONDS = 1.0
"""An application that has neither ended nor asked for a message after so long has a lifespan."""

END_SECONDS = 1.0
"""How long an application that has said that it failed is waited for: what it raises is more than what it said."""

_log = Logger(namespace="serverworker.worker")


class Lifespan:
    """The lifespan of one application in one worker: `call`, then `start_up`, then `shut_down`.

    All of it runs on the event loop that it is called in.
    """

    def __init__(self, application: Callable[..., Awaitable[None]]) -> None:
        self.state: dict[str, Any] = {}
        """What the application keeps for its requests; each gets a copy."""
        self._application = application
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        self._asks = asyncio.Event()
        self._answered = asyncio.Event()
        self._answer: Message = {}
        self._task: asyncio.Task[Any] | None = None
        self._is_up = False

    async def call(self) -> bool:
        """Call the application; answers whether it has a lifespan, and so waits for a message. Nothing is started.

        One that raises, or returns, has none: so the specification has it.
        """
        self._task = asyncio.get_running_loop().create_task(self._run())
        await self._wait_for(self._asks, CALL_SECONDS)
        if not self._task.done():
            return True
        if not self._task.cancelled():
            self._task.exception()  # looked at: what it raised says that there is no lifespan, and is no crash
        return False

    async def start_up(self, seconds: float) -> None:
        """Have it start up, if it has a lifespan.

        Raises `ApplicationError`, with the application's own traceback, where it says that it failed, and with the
        place where it waits when it has said nothing after so many seconds.
        """
        if self._task is None or self._task.done():
            return
        await self._ask("startup", seconds)
        if self._answered.is_set():
            self._judge("start-up")
            self._is_up = True
            self._task.add_done_callback(self._ended)
        elif self._task.done():
            self._note_refusal(self._task)
        else:
            raise ApplicationError(
                f"the application's lifespan has not completed its start-up within {seconds:g} s; it waits "
                f"{where_it_waits(getattr(self._task.get_coro(), 'cr_await', None))}"
            )

    async def shut_down(self) -> None:
        """Have it shut down, where it is up. Raises `ApplicationError` where it says that it failed, or raises."""
        if self._task is None or self._task.done() or not self._is_up:
            return
        self._is_up = False
        await self._ask("shutdown", None)
        if self._answered.is_set():
            self._judge("shutdown")
        elif self._task.done() and not self._task.cancelled() and self._task.exception() is not None:
            raise ApplicationError(f"the application's lifespan failed to shut down:\n{self._told()}")

    async def _ask(self, what: str, seconds: float | None) -> None:
        self._answered.clear()
        self._answer = {}
        self._messages.put_nowait({"type": f"lifespan.{what}"})
        await self._wait_for(self._answered, seconds)
        if self._answer.get("type", "").endswith(".failed") and self._task is not None:
            await asyncio.wait({self._task}, timeout=END_SECONDS)

    async def _wait_for(self, event: asyncio.Event, seconds: float | None) -> None:
        """Wait until this has happened, or the application has ended, or the time is over."""
        assert self._task is not None
        happens = asyncio.get_running_loop().create_task(event.wait())
        try:
            await asyncio.wait({self._task, happens}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            happens.cancel()

    async def _run(self) -> None:
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self.state,
        }
        await self._application(scope, self._receive, self._send)

    async def _receive(self) -> Message:
        self._asks.set()
        return await self._messages.get()

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if kind not in _ANSWERS:
            raise RuntimeError(f"a lifespan sends one of {', '.join(_ANSWERS)}, not {kind!r}")
        self._answer = message
        self._answered.set()

    def _judge(self, what: str) -> None:
        if self._answer["type"].endswith(".failed"):
            raise ApplicationError(f"the application's lifespan failed at its {what}:\n{self._told()}")

    def _told(self) -> str:
        """Why it failed: what it raised, or else what it said."""
        task = self._task
        if task is not None and task.done() and not task.cancelled():
            error = task.exception()
            if error is not None:
                return theirs(error)
        return str(self._answer.get("message") or "it did not say why").rstrip()

    def _note_refusal(self, task: asyncio.Task[Any]) -> None:
        """It was asked to start up and raised, which is to say, by the specification, that it has no lifespan."""
        if not task.cancelled() and task.exception() is not None:
            _log.warn(
                "asked to start up, the application raised what follows; by ASGI's rules that means that it has no "
                "lifespan, so it is served without:\n{text}",
                text=self._told(),
            )

    def _ended(self, task: asyncio.Task[Any]) -> None:
        """Something of what it had started is broken: a crash, as whatever else nobody handles."""
        if self._is_up and not task.cancelled() and task.exception() is not None:
            self._is_up = False
            task.get_loop().call_exception_handler(
                {"message": "the application's lifespan ended", "exception": task.exception()}
            )
