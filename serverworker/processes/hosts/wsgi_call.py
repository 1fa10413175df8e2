"""One request on its way through a WSGI application (PEP 3333): what happens in the thread."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, BinaryIO, Protocol

from attrs import frozen
from twisted.logger import Logger
from twisted.python.failure import Failure

Application = Callable[[dict[str, Any], Any], Iterable[bytes]]
ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]

_STATUS = re.compile(r"([2-9]\d\d)(?:[ ]([^\x00-\x1f\x7f]*))?")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FORBIDDEN = re.compile(r"[\x00\r\n]")
_NOT_FOR_APPLICATIONS = frozenset(
    {
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization"),
        *("te", "trailer", "trailers", "transfer-encoding", "upgrade"),
    }
)
"""Headers of the connection, not of the answer: the server's own (PEP 3333, "Other HTTP Features")."""
_WITHOUT_BODY = frozenset({204, 304})
_NO_CONTENT = 204


class ClientGone(ConnectionError):
    """The client has closed its connection: nothing more can be sent to it."""


class WrongAnswer(Exception):
    """The application breaks the rules of PEP 3333; the text says how."""


@frozen(kw_only=True)
class Head:
    """Status and headers of an answer."""

    code: int
    reason: bytes
    headers: tuple[tuple[bytes, bytes], ...]


class Outlet(Protocol):
    """Where an answer goes. Its methods may be called in any thread."""

    is_gone: bool
    """The client has left."""

    def give(self, head: Head | None, data: bytes, last: bool) -> None:
        """Send on, with the head in front the first time; waits while the client is behind. Raises `ClientGone`."""

    def cut_short(self) -> None:
        """End the answer where it stands, so that the client sees that it is not whole; before the head: with 500."""


class Call:
    """Calls the application once, and hands its answer over."""

    _log = Logger(namespace="serverworker.wsgi")

    def __init__(
        self, application: Application, environ: dict[str, Any], body: BinaryIO, outlet: Outlet
    ) -> None:
        self._application = application
        self._environ = environ
        self._body = body
        self._outlet = outlet
        self._status: tuple[int, bytes] | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._is_head = environ["REQUEST_METHOD"] == "HEAD"
        self._sent = False
        self._complete = False
        self._left: int | None = None
        """Bytes that the Content-Length has announced and that have not come yet."""

    def __call__(self) -> None:
        """Do it; never raises."""
        try:
            self._run()
        except ClientGone:
            pass
        except BaseException:  # sys.exit() in a view ends that request, and no worker
            self._failed(Failure())
        finally:
            self.close()

    def close(self) -> None:
        """Let go of the request's body."""
        self._body.close()

    def _failed(self, failure: Failure) -> None:
        self._log.failure(
            "the application failed at {method} {path!r}; {what}",
            failure=failure,
            method=self._environ["REQUEST_METHOD"],
            path=self._environ["PATH_INFO"],
            what="the answer was complete" if self._complete else "the client is told so",
        )
        if not self._complete:
            self._outlet.cut_short()

    def _run(self) -> None:
        result = self._application(self._environ, self.start_response)
        try:
            self._send_all(result)
        finally:
            # Whatever became of the answer: it is how an application ends its generators and lets go of what it holds.
            close = getattr(result, "close", None)
            if close is not None:
                close()

    def _send_all(self, result: Iterable[bytes]) -> None:
        pieces = len(result) if isinstance(result, list | tuple) else None
        for piece in result:
            if piece or not isinstance(piece, bytes):
                self._send(piece, length=len(piece) if pieces == 1 else None)
            if self._complete:
                return
            if self._outlet.is_gone:
                raise ClientGone
        self._end(pieces)

    def _end(self, pieces: int | None) -> None:
        if not self._sent:
            self._send(b"", length=0 if pieces == 0 or self._is_head else None)
        if self._complete:
            return
        if self._left:
            self._log.warn(
                "{method} {path!r}: the application ended {left} bytes before its Content-Length; the connection is "
                "closed",
                method=self._environ["REQUEST_METHOD"],
                path=self._environ["PATH_INFO"],
                left=self._left,
            )
            self._outlet.cut_short()
            return
        self._complete = True
        self._outlet.give(None, b"", True)

    # --- what the application calls -------------------------------------------------------------

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None
    ) -> Callable[[bytes], None]:
        """PEP 3333's: status and headers, sent with the first byte of the body. Returns `write`."""
        if exc_info is not None:
            try:
                if self._sent:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        elif self._status is not None:
            raise WrongAnswer("start_response was called a second time, without exc_info")
        self._status = _read_status(status)
        self._headers = [_read_header(header) for header in _list_of(headers)]
        return self.write

    def write(self, data: bytes) -> None:
        """PEP 3333's: for applications that do not return their body. Raises `ClientGone`."""
        if not self._complete:
            self._send(data)

    # --- sending --------------------------------------------------------------------------------

    def _send(self, data: bytes, length: int | None = None) -> None:
        """`length`: of the whole body, where it is known and the application has not said it."""
        if not isinstance(data, bytes):
            raise WrongAnswer(f"a body is made of bytes, not of {type(data).__name__}: {data!r:.100}")
        head = None
        if not self._sent:
            head = self._make_head(length)
        last = False
        if self._has_no_body:
            data, last = b"", True
        elif self._left is not None:
            if len(data) > self._left:
                self._log.warn(
                    "{method} {path!r}: the application's body is longer than its Content-Length; it is cut off there",
                    method=self._environ["REQUEST_METHOD"],
                    path=self._environ["PATH_INFO"],
                )
                data = data[: self._left]
            self._left -= len(data)
            last = not self._left
        self._sent = True
        self._complete = last
        self._outlet.give(head, data, last)

    @property
    def _has_no_body(self) -> bool:
        assert self._status is not None
        return self._is_head or self._status[0] in _WITHOUT_BODY

    def _make_head(self, length: int | None) -> Head:
        if self._status is None:
            raise WrongAnswer("the body begins before start_response was called")
        code, reason = self._status
        headers = [each for each in self._headers if each[0].lower().decode() not in _NOT_FOR_APPLICATIONS]
        given = [value for name, value in headers if name.lower() == b"content-length"]
        if code == _NO_CONTENT:
            headers = [each for each in headers if each[0].lower() != b"content-length"]
        elif given:
            if len(given) > 1 or not given[0].isdigit():
                raise WrongAnswer(
                    f"Content-Length is one whole number, not {b', '.join(given).decode('latin-1')!r}"
                )
            self._left = int(given[0])
        elif length is not None and not self._has_no_body:
            headers.append((b"Content-Length", b"%d" % length))
            self._left = length
        return Head(code=code, reason=reason, headers=tuple(headers))


def _read_status(status: object) -> tuple[int, bytes]:
    match = _STATUS.fullmatch(status) if isinstance(status, str) else None
    if match is None:
        raise WrongAnswer(f"a status is a str such as '200 OK', from 200 to 999, not {status!r:.100}")
    return int(match[1]), _encoded(match[2] or "", "the status")


def _list_of(headers: object) -> list[Any] | tuple[Any, ...]:
    if not isinstance(headers, list | tuple):
        raise WrongAnswer(f"the headers are a list of (name, value), not {headers!r:.100}")
    return headers


def _read_header(header: Any) -> tuple[bytes, bytes]:
    if not (
        isinstance(header, tuple | list)
        and len(header) == 2
        and all(isinstance(each, str) for each in header)
    ):
        raise WrongAnswer(f"a header is a tuple of two str, not {header!r:.100}")
    name, value = header
    if not _NAME.fullmatch(name):
        raise WrongAnswer(f"{name!r:.100} is no header's name")
    if _FORBIDDEN.search(value):
        raise WrongAnswer(f"the header {name} holds a line's end or a NUL: {value!r:.100}")
    return name.encode("ascii"), _encoded(value, f"the header {name}")


def _encoded(text: str, where: str) -> bytes:
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        raise WrongAnswer(
            f"{where} holds what Latin-1 has not, so it must be encoded first: {text!r:.100}"
        ) from None
