"""What a request must show before anything else looks at it, and what every answer tells the browser."""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import IPv6Address, ip_address

from serverworker.surfaces.dashboard.exchange import Call, Refused

_POLICY = (
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "connect-src 'self'",
    "img-src 'self'",
    "form-action 'self'",
    "frame-ancestors 'none'",
    "base-uri 'none'",
    "require-trusted-types-for 'script'",
)

ANSWER_HEADERS = (
    ("Content-Security-Policy", "; ".join(_POLICY)),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cross-Origin-Embedder-Policy", "require-corp"),
    ("Cache-Control", "no-store"),
)
"""Of every answer: nothing from elsewhere runs in the page, nobody frames it, and nothing of it is kept."""

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def check_host(call: Call, names: Collection[str]) -> None:
    """Raise `Refused` where the page was asked for by a name that it does not have.

    Somebody else's name that leads to this address is how a page from elsewhere would get at it (DNS rebinding). An
    address of this machine can be no such name. The port is not looked at: a proxy may have another.
    """
    name = host_name(call.headers.get("host", ""))
    if name in _LOOPBACK or name in names or (name and name == _plain(call.here)):
        return
    raise Refused(421, "the dashboard is not known by that name: add it to dashboard.hosts")


def host_name(host: str) -> str:
    """The name in a ``Host`` header, in lower case and without brackets; empty where it makes no sense."""
    host = host.strip().lower()
    if host.startswith("["):
        name, bracket, port = host[1:].partition("]")
        colon, number = port[:1], port[1:]
        if not bracket or (port and colon != ":"):
            return ""
        name = _plain(name)
    else:
        name, _, number = host.partition(":")
    return name if not number or (number.isascii() and number.isdecimal()) else ""


def _plain(address: str) -> str:
    """An address as it is written alone: without a scope, and an IPv4 one without its IPv6 form."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(found)


def check_origin(call: Call) -> None:
    """Raise `Refused` for a deed that a page from elsewhere, or from another port of this machine, asks for.

    Programs send neither header. That a browser sends the cookie to another port of the same host is why the port
    counts here.
    """
    site = call.headers.get("sec-fetch-site", "same-origin")
    origin = call.headers.get("origin")
    if origin is not None:
        scheme, separator, place = origin.lower().partition("://")
        own = (
            bool(separator) and scheme in ("http", "https") and place == call.headers.get("host", "").lower()
        )
    else:
        own = True
    if site != "same-origin" or not own:
        raise Refused(403, "another page may not ask for this")
