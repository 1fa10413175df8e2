"""What an asyncio event loop is told of errors that nothing handled, in Twisted's log: so it is judged as all is.

`uncaught` takes what is logged here for a crash: a task that failed and that nobody awaited is what an unhandled
Deferred is, and a callback that raised is what a timed call is.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

from twisted.logger import Logger
from twisted.python.failure import Failure

_log = Logger()


def watch_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Log from now on what nothing handled on this event loop."""
    loop.set_exception_handler(_tell)


def _tell(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    if error is None or _is_a_connections(context, error) or "asyncgen" in context:
        loop.default_exception_handler(context)
    else:
        _log.failure("{message}", failure=Failure(error), message=context.get("message", "unhandled"))


def _is_a_connections(context: dict[str, Any], error: BaseException) -> bool:
    """Whether it ended one connection, or one request, of the HTTP server's: a visitor could do that on purpose."""
    if isinstance(error, (ssl.SSLError, ConnectionError)) and (
        "protocol" in context or "transport" in context
    ):
        return True
    kind = type(context["protocol"]) if "protocol" in context else None
    if kind is not None and any(each.__module__.startswith("uvicorn.") for each in kind.__mro__):
        return True
    task = context.get("task") or context.get("future")
    code = getattr(task.get_coro(), "cr_code", None) if isinstance(task, asyncio.Task) else None
    return code is not None and "/uvicorn/protocols/" in code.co_filename
