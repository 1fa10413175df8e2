"""Where operators and machines reach a session: ``[control]``, ``[dashboard]`` and ``[health]``."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

from attrs import Attribute, field, frozen

from serverworker.values import rules
from serverworker.values.errors import Problem
from serverworker.values.ports import PortSettings, parse_port
from serverworker.values.rules import InvalidSettings

_HOST_WORDS = "an array of host names, such as ['ops.example.org']"


class EndpointRule:
    """A rule for an address to listen on, unset by default; written as a port is (`parse_port`)."""

    def problems(self, key: str, value: object) -> list[Problem]:
        """All that is wrong with it."""
        if value is None:
            return []
        try:
            parse_endpoint(value)
        except InvalidSettings as error:
            return [Problem(key, problem.text) for problem in error.problems]
        return []

    def __call__(self, instance: object, attribute: Attribute[Any], value: object) -> None:
        """Raise `InvalidSettings` where there is a problem."""
        table = type(instance).__name__.removesuffix("Settings").lower()
        if found := self.problems(f"{table}.{attribute.name}", value):
            raise InvalidSettings(found)


def parse_endpoint(value: object, folder: str = "") -> PortSettings:
    """The address that a text such as ``tcp:9001:interface=127.0.0.1`` or ``unix:/run/site/control`` means.

    Unlike a port of the application's, a unix socket is this user's alone unless ``mode=`` says otherwise.
    Raises `InvalidSettings`.
    """
    port = parse_port("endpoint", value, folder)
    if port.kind == "unix" and isinstance(value, str) and ":mode=" not in value:
        return parse_port("endpoint", f"{value}:mode=600", folder)
    return port


def absolute_endpoint(value: object, folder: str) -> str:
    """The same endpoint as a text, with the path of a unix socket taken from `folder`. Raises as `parse_endpoint`."""
    port = parse_endpoint(value, folder)
    # What a port of the application's need not say, since it is the default there.
    return port.describe() + (":mode=666" if port.kind == "unix" and port.mode == 0o666 else "")


def is_loopback(port: PortSettings) -> bool:
    """Whether nobody on another machine can reach it."""
    return port.kind == "unix" or (bool(port.interface) and ip_address(port.interface).is_loopback)


def _endpoint() -> Any:
    return field(default=None, validator=EndpointRule())


def _tls_problems(table: str, certificate: str | None, key: str | None) -> Iterator[Problem]:
    if key is not None and certificate is None:
        yield Problem(f"{table}.private_key", f"belongs to a certificate: set {table}.certificate too")


@frozen(kw_only=True)
class ControlSettings:
    """``[control]``: where other programs, `serverworkerctl` among them, steer the session by AMP."""

    endpoint: str | None = _endpoint()
    """Unset: ``control``, a unix socket of mode 0600 beside the session's state. ``tcp:`` needs a certificate."""
    certificate: str | None = rules.path()
    """PEM file, with the chain."""
    private_key: str | None = rules.path()
    """PEM file. Unset: it stands in the certificate's file."""
    client_authority: str | None = rules.path()
    """PEM file: clients show a certificate that this authority has signed. Unset: they show the session key."""

    def __attrs_post_init__(self) -> None:
        problems = list(_tls_problems("control", self.certificate, self.private_key))
        kind = "unix" if self.endpoint is None else parse_endpoint(self.endpoint).kind
        if kind != "unix" and self.certificate is None:
            problems.append(
                Problem(
                    "control.endpoint",
                    "over TCP needs TLS, or everybody on the way could take the session over: set control.certificate "
                    "(and control.private_key), or use a unix socket",
                )
            )
        if kind == "unix" and (self.certificate or self.client_authority):
            problems.append(
                Problem(
                    "control.certificate", "is for TCP: on a unix socket the system itself says who connects"
                )
            )
        if problems:
            raise InvalidSettings(problems)


@frozen(kw_only=True)
class DashboardSettings:
    """``[dashboard]``: the page for operators, with its JSON and its event stream. Whoever has the session key gets in."""

    endpoint: str | None = _endpoint()
    """Unset: there is none. Off loopback it needs a certificate."""
    certificate: str | None = rules.path()
    """PEM file, with the chain."""
    private_key: str | None = rules.path()
    """PEM file. Unset: it stands in the certificate's file."""
    hosts: tuple[str, ...] = rules.texts(_HOST_WORDS)
    """Names under which browsers may reach it, besides its own address and ``localhost``."""

    def __attrs_post_init__(self) -> None:
        problems = list(_tls_problems("dashboard", self.certificate, self.private_key))
        port = None if self.endpoint is None else parse_endpoint(self.endpoint)
        if port is not None and not is_loopback(port) and self.certificate is None:
            problems.append(
                Problem(
                    "dashboard.endpoint",
                    f"{port.describe()!r} is reached from other machines, and without TLS the session key would be "
                    "read on the way: set dashboard.certificate, or add :interface=127.0.0.1",
                )
            )
        if problems:
            raise InvalidSettings(problems)


@frozen(kw_only=True)
class HealthSettings:
    """``[health]``: ``/livez``, ``/readyz`` and ``/metrics``; read only, without a key."""

    endpoint: str | None = _endpoint()
    """Unset: there is none."""
