"""A request as a WSGI application sees it: PEP 3333's ``environ``."""

from __future__ import annotations

import functools
import io
import re
import sys
from typing import Any, BinaryIO
from urllib.parse import unquote_to_bytes

from attrs import frozen
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.web.http import Request

_ABSOLUTE = re.compile(rb"https?://([^/?#]*)", re.I)
_LARGEST_KEPT_NAMES = 512
"""Names of headers whose key is remembered. Visitors make them up, so that there must be an end."""


@frozen
class Target:
    """What a request's first line asks for."""

    path: bytes
    """As it came, with its escapes; begins with a slash."""
    query: bytes
    authority: bytes | None = None
    """The host that stands in the target itself (``GET http://a/b``); it counts, and not the header (RFC 9112, 3.2.2)."""


def read_target(uri: bytes) -> Target | None:
    """The target of a request; None for what no application is asked for, such as that of CONNECT."""
    authority = None
    if not uri.startswith(b"/"):
        match = _ABSOLUTE.match(uri)
        if match is None:
            return None
        authority = match[1]
        uri = uri[match.end() :]
        if not uri.startswith(b"/"):
            uri = b"/" + uri
    path, _, query = uri.partition(b"?")
    return Target(path, query, authority)


def make_environ(request: Request, target: Target, body: BinaryIO, *, multithread: bool) -> dict[str, Any]:
    """The environment of one request. `body` is there in full."""
    is_secure = request.isSecure()
    scheme = "https" if is_secure else "http"
    environ: dict[str, Any] = {
        "REQUEST_METHOD": request.method.decode("latin-1"),
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(target.path).decode("latin-1"),
        "QUERY_STRING": target.query.decode("latin-1"),
        "RAW_URI": (uri := request.uri.decode("latin-1")),
        "REQUEST_URI": uri,
        "SERVER_PROTOCOL": request.clientproto.decode("latin-1"),
        "SERVER_SOFTWARE": "serverworker",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scheme,
        "wsgi.input": body,
        # The body was read to its end before, so that it ends by itself, whatever its length was said to be.
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": multithread,
        # There may be a second process at any time: a standby, the next generation, a further worker.
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    _add_addresses(environ, request, is_secure=is_secure)
    _add_headers(environ, request)
    if target.authority:
        environ["HTTP_HOST"] = target.authority.decode("latin-1")
    if environ.pop("HTTP_TRANSFER_ENCODING", None) is not None:
        # The chunks are put together already: to the application it is a body of a known length.
        environ["CONTENT_LENGTH"] = str(body.seek(0, io.SEEK_END))
        body.seek(0)
    return environ


def _add_addresses(environ: dict[str, Any], request: Request, *, is_secure: bool) -> None:
    peer, host = request.client, request.host
    if isinstance(peer, IPv4Address | IPv6Address):
        environ["REMOTE_ADDR"] = peer.host
        environ["REMOTE_PORT"] = str(peer.port)
    else:  # a unix socket: whoever it is comes through a proxy, which names him in a header
        environ["REMOTE_ADDR"] = ""
    if isinstance(host, IPv4Address | IPv6Address):
        environ["SERVER_NAME"] = host.host
        environ["SERVER_PORT"] = str(host.port)
    else:
        environ["SERVER_NAME"] = "localhost"
        environ["SERVER_PORT"] = "443" if is_secure else "80"


def _add_headers(environ: dict[str, Any], request: Request) -> None:
    for name, values in request.requestHeaders.getAllRawHeaders():
        key = _key_of(name)
        if key is None:
            continue
        separator = b"; " if key == "HTTP_COOKIE" else b","
        environ[key] = (values[0] if len(values) == 1 else separator.join(values)).decode("latin-1")


@functools.lru_cache(_LARGEST_KEPT_NAMES)
def _key_of(name: bytes) -> str | None:
    """The key of a header; None for one that is left out.

    A name with an underscore would have the key of another one, written with a hyphen: with it a visitor could pass
    for the proxy that sets the other (``X_Forwarded_For``).
    """
    if b"_" in name:
        return None
    key = name.decode("latin-1").upper().replace("-", "_")
    return key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"
