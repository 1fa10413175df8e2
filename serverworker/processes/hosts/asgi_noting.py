"""Around an ASGI application: its requests stand on the board while they run, and in the access log afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from serverworker.processes.access_log import CLIENT_LEFT, AccessLog
from serverworker.processes.board import RequestBoard

Application = Callable[[Any, Any, Any], Any]

_SWITCHING_PROTOCOLS = 101
_FORBIDDEN = 403
_INTERNAL_SERVER_ERROR = 500


def noted(application: Application, board: RequestBoard) -> Application:
    """The same application; each request is on the board from its head until the application has returned.

    So what it does behind its answer is on the board too, where a report of a hang needs it. A websocket is there under
    that word, in the place of a method.
    """
    begin, end = board.begin, board.end

    async def on_board(scope: Any, receive: Any, send: Any) -> Any:
        ticket = begin(scope["method"].encode() if "method" in scope else b"WEBSOCKET", scope["raw_path"])
        try:
            return await application(scope, receive, send)
        finally:
            end(ticket)

    return on_board


def logged(application: Application, access: AccessLog, seconds: Callable[[], float]) -> Application:
    """The same application; each request has its line once it was answered. `seconds` is a clock."""

    async def in_log(scope: Any, receive: Any, send: Any) -> Any:
        answer = _Answer(scope, seconds())

        async def watched(message: Any) -> None:
            await send(message)
            answer.watch(message, access, seconds)

        try:
            return await application(scope, receive, watched)
        except BaseException:
            answer.fail()
            raise
        finally:
            answer.end(access, seconds)

    return in_log


class _Answer:
    """What is known of the answer to one request."""

    def __init__(self, scope: Any, began: float) -> None:
        self._scope = scope
        self._began = began
        self._status = CLIENT_LEFT
        self._size = 0
        self._is_told = False

    def watch(self, message: Any, access: AccessLog, seconds: Callable[[], float]) -> None:
        """A message of the application's was sent."""
        kind = message["type"]
        if kind in ("http.response.start", "websocket.http.response.start"):
            self._status = message["status"]
        elif kind in ("http.response.body", "websocket.http.response.body"):
            self._size += len(message.get("body", b""))
            if not message.get("more_body", False):
                self.end(access, seconds)
        elif kind == "websocket.accept":
            self._status = _SWITCHING_PROTOCOLS
        elif kind == "websocket.close" and self._status == CLIENT_LEFT:
            self._status = _FORBIDDEN

    def fail(self) -> None:
        """The application raised: where it had said nothing yet, the server says 500."""
        if self._status == CLIENT_LEFT:
            self._status = _INTERNAL_SERVER_ERROR

    def end(self, access: AccessLog, seconds: Callable[[], float]) -> None:
        """It is complete, or will never be."""
        if self._is_told:
            return
        self._is_told = True
        scope = self._scope
        client, query = scope.get("client"), scope.get("query_string")
        headers = dict(reversed(scope["headers"]))
        access.answered(
            client=client[0] if client else "-",
            method=scope.get("method", "GET").encode(),
            target=scope["raw_path"] + (b"?" + query if query else b""),
            protocol=b"HTTP/" + scope["http_version"].encode("ascii", "replace"),
            status=self._status,
            size=self._size,
            seconds=seconds() - self._began,
            referer=headers.get(b"referer"),
            agent=headers.get(b"user-agent"),
        )
