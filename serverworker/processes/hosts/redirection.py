"""What an application asks the reactor to listen on goes to the session's sockets, where it is one of its ports.

The reactor is where all ways to listen end: endpoints of any kind, ``strports``, `TCPServer`, TLS (whose `listenSSL`
calls `listenTCP`), a plugin's own code. Rewriting their descriptions instead would need to know every plugin's options.
"""

from __future__ import annotations

import os
import socket
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress, IListeningPort, IProtocolFactory
from zope.interface import implementer

from serverworker.values.errors import ApplicationError
from serverworker.values.ports import PortSettings, parse_port

if TYPE_CHECKING:
    from serverworker.processes.server_worker import ServerWorker


_LOOPBACK = {"localhost": "127.0.0.1"}


class Redirection:
    """Stands in front of a worker's reactor, and takes over what is listened on."""

    def __init__(self, worker: ServerWorker, who: str) -> None:
        """`who` listens, such as ``the plugin web``."""
        self._worker = worker
        self._reactor = cast(Any, worker.reactor)
        self._who = who
        self._ports = {name: parse_port(name, text) for name, text in worker.ports.items()}
        self._listen_tcp = self._reactor.listenTCP
        self._listen_unix = self._reactor.listenUNIX
        self.taken: list[str] = []
        """Names of the session's ports that are listened on by way of this."""
        self.left: list[str] = []
        """What is listened on beside them, each as ``tcp:9999``."""

    def install(self) -> None:
        """From now on, until `remove`, or until the process ends."""
        self._reactor.listenTCP = self.listen_tcp
        self._reactor.listenUNIX = self.listen_unix

    def remove(self) -> None:
        """From now on the reactor listens by itself again."""
        for name in ("listenTCP", "listenUNIX"):
            vars(self._reactor).pop(name, None)

    def check(self) -> None:
        """Raises `ApplicationError` where something is listened on, and nothing of it is the session's."""
        if self.left and not self.taken:
            ports = ", ".join(f"{name}={port.describe()}" for name, port in self._ports.items())
            raise ApplicationError(
                f"{self._who} listens on {', '.join(self.left)}, which is no port of the session ({ports}): "
                "tell both of them the same"
            )

    def listen_tcp(
        self, port: int, factory: IProtocolFactory, backlog: int = 50, interface: str = ""
    ) -> IListeningPort:
        """`IReactorTCP.listenTCP`."""
        kind = "tcp6" if ":" in interface else "tcp"
        for name, own in self._ports.items():
            if own.kind == kind and own.port == port and _meet(own, interface):
                return self._take(name, factory, interface, port)
        address = f"{kind}:{port}" + (f":interface={interface}" if interface else "")
        listening: IListeningPort = self._listen_tcp(port, factory, backlog, interface)
        self._leave(address)
        return listening

    def listen_unix(
        self, address: str, factory: IProtocolFactory, *options: Any, **more: Any
    ) -> IListeningPort:
        """`IReactorUNIX.listenUNIX`."""
        path = os.path.realpath(os.fsdecode(address))
        for name, own in self._ports.items():
            if own.kind == "unix" and os.path.realpath(own.path) == path:
                return self._take(name, factory, path, own.port)
        listening: IListeningPort = self._listen_unix(address, factory, *options, **more)
        self._leave(f"unix:{os.fsdecode(address)}")
        return listening

    def _take(self, name: str, factory: IProtocolFactory, where: str, port: int) -> IListeningPort:
        try:
            self._worker.listen(name, factory)
        except (ValueError, TypeError) as error:
            raise CannotListenError(where, port, error) from error
        self.taken.append(name)
        return TakenPort(self._worker.sockets[name], factory)

    def _leave(self, address: str) -> None:
        self.left.append(address)
        self._worker.lifecycle_notification(
            f"{self._who} listens on {address} by itself: it is no port of the session. No two workers can have it at "
            "the same time: a restart fails unless [workers] overlap = false, and a worker's death refuses connections"
        )


@implementer(IListeningPort)
class TakenPort:
    """Stands for a listening port that the session has. When it accepts is the session's to say."""

    _type = "TCP"  # `listenSSL` writes another

    def __init__(self, listening: socket.socket, factory: IProtocolFactory) -> None:
        self._socket = listening
        self.factory = factory

    def startListening(self) -> None:
        """Nothing: the monitor listens."""

    def stopListening(self) -> None:
        """Nothing: a worker that leaves stops accepting by itself, before its application is stopped."""

    def getHost(self) -> IAddress:
        """The address that the monitor has bound."""
        name = self._socket.getsockname()
        match self._socket.family:
            case socket.AF_INET:
                return IPv4Address("TCP", name[0], name[1])
            case socket.AF_INET6:
                return IPv6Address("TCP", *name)
            case _:
                return UNIXAddress(name)


def _meet(own: PortSettings, interface: str) -> bool:
    """Whether an address of the same number is the session's own, or could not be bound beside it."""
    if own.interface == interface:
        return True
    try:
        named = (_LOOPBACK.get(each, each.partition("%")[0]) for each in (own.interface, interface))
        addresses = [ip_address(each) for each in named if each]
    except ValueError:
        return False  # a host's name, which the reactor may know
    return len(set(addresses)) <= 1 or any(each.is_unspecified for each in addresses)
