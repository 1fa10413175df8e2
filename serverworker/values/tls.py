"""TLS on the session's own ports: ``[tls.NAME]``, one table for each port that speaks it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from attrs import field, frozen

from serverworker.values import rules
from serverworker.values.errors import Problem, nearest
from serverworker.values.ports import PortSettings
from serverworker.values.rules import InvalidSettings, key_part


@frozen(kw_only=True)
class TlsSettings:
    """``[tls.NAME]``: TLS on the port of that name, such as ``[tls.server]``."""

    name: str
    """Of the port."""
    certificate: str = rules.path()
    """PEM file, with the chain. Read anew at each restart, and whenever it has changed."""
    private_key: str | None = rules.path()
    """PEM file, without a passphrase. Unset: it stands in the certificate's file."""
    minimum_version: str = rules.one_of("1.2", "1.2", "1.3")
    """What a client has to speak at least: ``1.2`` or ``1.3``."""

    def __attrs_post_init__(self) -> None:
        if not self.certificate:
            text = "is missing: the PEM file that holds the certificate and its chain"
            raise InvalidSettings([Problem(f"{tls_key(self.name)}.certificate", text)])

    @property
    def key_file(self) -> str:
        """The file that holds the private key."""
        return self.private_key or self.certificate

    def describe(self) -> str:
        """In words: the names of the files, nothing of what is in them."""
        key = "" if self.private_key is None else f", private key {self.private_key}"
        return f"certificate {self.certificate}{key}, TLS {self.minimum_version} or later"


@frozen(kw_only=True)
class KeyPair:
    """A certificate and its private key, as PEM texts that were found to go together."""

    certificate: str
    """With its chain, the certificate itself first."""
    private_key: str = field(repr=False)
    subject: str
    """Whom it is for: its first names, such as ``example.org, www.example.org``."""
    since: float
    """From when on it is valid, in seconds since the epoch."""
    until: float
    """Likewise."""


@frozen(kw_only=True)
class PortTls:
    """What a worker serves one port with; it never sees the files."""

    certificate: str
    """As in `KeyPair`."""
    private_key: str = field(repr=False)
    minimum_version: str


def tls_key(name: str) -> str:
    """The table of the port of this name, such as ``tls.server``."""
    return f"tls.{key_part(name)}"


def tls_problems(
    tls: tuple[TlsSettings, ...], ports: tuple[PortSettings, ...], *, bind: bool, command: str | None
) -> Iterator[Problem]:
    """What is wrong between the tables and the rest of the settings."""
    names = [port.name for port in ports]
    for each in tls:
        if each.name not in names:
            yield Problem(tls_key(each.name), f"there is no port of this name{nearest(each.name, names)}")
        elif not bind:
            text = "workers.bind is false, so the application binds the port by itself: it has to speak TLS by itself too"
            yield Problem(tls_key(each.name), text)
        elif command is not None:
            text = "app.command takes the bare socket: give that program the certificate, or have a proxy in front of it"
            yield Problem(tls_key(each.name), text)


def ports_told(told: Mapping[str, Mapping[str, Any]] | None) -> dict[str, PortTls]:
    """What a worker is told of its ports that speak TLS, by their names."""
    return {name: PortTls(**each) for name, each in (told or {}).items()}
