"""How `serverworkerctl` gets to the session."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.internet.endpoints import clientFromString, wrapClientTLS

from serverworker.control import Client, connect
from serverworker.ctl.finding import Unreachable, find
from serverworker.ctl.main import Request, read_key
from serverworker.values.errors import NotAllowed, ServerWorkerError


async def reach(reactor: Any, request: Request, environ: Mapping[str, str]) -> Client:
    """Connect to the session that is meant. Raises `Unreachable`, or `NotAllowed`."""
    key = None if request.key_file is None else read_key(request.key_file)
    where = request.connect or find(request.state_directory, environ).control
    try:
        return await connect(reactor, _endpoint(reactor, where, request), key=key)
    except NotAllowed as error:
        hint = "" if request.key_file else "; give it with --key-file"
        raise NotAllowed(f"{error}{hint}") from error
    except ServerWorkerError as error:
        raise Unreachable(f"{where} does not answer as a session does: {error}") from error
    except Exception as error:
        raise Unreachable(f"{where} cannot be reached: {str(error) or type(error).__name__}") from error


def _endpoint(reactor: Any, where: str, request: Request) -> Any:
    kind, _, rest = where.partition(":")
    if kind not in ("tls", "tcp", "tcp6"):
        return clientFromString(reactor, where)
    # The session's own note of its port says `tcp:`; it is never without TLS.
    parts = rest.split(":")
    if kind == "tls":
        host, port = (*parts, "")[:2]
    else:
        port = parts[0]
        host = next(
            (each.removeprefix("interface=") for each in parts[1:] if each.startswith("interface=")), ""
        )
        host = host or "localhost"
    if not port.isdecimal():
        raise ServerWorkerError(f"{where!r} is no endpoint, such as tls:ops.example.org:9443")
    plain = clientFromString(reactor, f"tcp:host={host}:port={port}")
    return wrapClientTLS(_tls(host, request), plain)


def _tls(host: str, request: Request) -> Any:
    from twisted.internet.ssl import Certificate, PrivateCertificate, optionsForClientTLS

    trust = own = None
    try:
        if request.authority is not None:
            trust = Certificate.loadPEM(Path(request.authority).read_bytes())
        if request.certificate is not None:
            own = PrivateCertificate.loadPEM(Path(request.certificate).read_bytes())
    except Exception as error:  # OpenSSL's, or the system's
        raise ServerWorkerError(f"--authority or --certificate cannot be read: {error}") from error
    return optionsForClientTLS(host, trustRoot=trust, clientCertificate=own)
