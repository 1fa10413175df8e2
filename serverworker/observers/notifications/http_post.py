"""The request itself. Imported when the first message goes out, and in a thread: treq takes its time."""

from __future__ import annotations

from typing import Any

import treq
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError, ConnectionClosed, DNSLookupError
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web._newclient import RequestNotSent, RequestTransmissionFailed
from twisted.web.client import Agent, HTTPConnectionPool, ResponseFailed
from twisted.web.http_headers import Headers

from serverworker.observers.notifications.delivery import Undelivered
from serverworker.observers.notifications.message import one_line
from serverworker.observers.notifications.webhook import Post

ENOUGH_BYTES = 64 * 1024
"""So much of an answer is read; what comes then is not waited for."""
SHOWN_CHARACTERS = 200
"""So much of a refusal's body is shown."""
_NOT_FOR_GOOD = frozenset({408, 425, 429})
_CONNECT_SECONDS = 30.0
_NOT_CONNECTED = (ConnectError, DNSLookupError, RequestNotSent)
_BROKEN = (*_NOT_CONNECTED, ConnectionClosed, RequestTransmissionFailed, ResponseFailed)


async def send(reactor: Any, post: Post) -> None:
    """Send a request and read its answer. Raises `Undelivered`; cancelling it closes the connection.

    No redirect is followed: whoever could answer one would get the message. No proxy is asked, no cookie kept.
    """
    agent = Agent(
        reactor, connectTimeout=_CONNECT_SECONDS, pool=HTTPConnectionPool(reactor, persistent=False)
    )
    try:
        response = await treq.post(
            post.url,
            data=post.body,
            headers=Headers({name: [value] for name, value in post.headers.items()}),
            agent=agent,
            reactor=reactor,
            allow_redirects=False,
            unbuffered=True,
        )
    except _BROKEN as error:
        raise Undelivered(_broken(error)) from error
    body = _Body()
    response.deliverBody(body)
    text = await body.ended
    if 200 <= response.code < 300:
        return
    said = one_line(text.decode("utf-8", "replace"), SHOWN_CHARACTERS)
    where = ", a redirect, which is not followed" if 300 <= response.code < 400 else ""
    raise Undelivered(
        f"it answered {response.code}{where}{f': {said}' if said else ''}",
        refused=response.code < 500 and response.code not in _NOT_FOR_GOOD,
        retry_after=_seconds(response.headers.getRawHeaders("Retry-After")),
    )


def _seconds(values: Any) -> float | None:
    """Of ``Retry-After`` the form in seconds; a date is not worth a parser."""
    value = values[0].strip() if values else ""
    return float(value) if value.isascii() and value.isdigit() and len(value) < 10 else None


def _broken(error: Exception) -> str:
    """Why there is no answer, in words; never with the URL, which is a secret."""
    if isinstance(error, _NOT_CONNECTED):
        return f"no connection: {_named(error)}"
    reasons = [reason.value for reason in getattr(error, "reasons", [])] or [error]
    reason = next((each for each in reasons if not isinstance(each, ConnectionClosed)), reasons[0])
    if type(reason).__module__.startswith(("OpenSSL", "service_identity")):
        return f"no secure connection: {_named(reason)}"
    return f"no answer: {_named(reason)}; it may have arrived"


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {one_line(str(error), SHOWN_CHARACTERS)}"


class _Body(Protocol):
    """Reads an answer's body to its end, or until it is enough.

    The ready-made readers of treq and Twisted leave the connection open when they are cancelled.
    """

    def __init__(self) -> None:
        self._read: list[bytes] = []
        self._missing = ENOUGH_BYTES
        self.ended: Deferred[bytes] = Deferred(lambda _: self._close())

    def dataReceived(self, data: bytes) -> None:
        self._read.append(data[: self._missing])
        self._missing -= len(data)
        if self._missing <= 0:
            self._end()
            self._close()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._end()  # however it ended: the status has been said, and a body that breaks off changes nothing

    def _end(self) -> None:
        if not self.ended.called:
            self.ended.callback(b"".join(self._read))

    def _close(self) -> None:
        if self.transport is not None:
            self.transport.loseConnection()
