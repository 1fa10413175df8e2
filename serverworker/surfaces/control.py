"""The control port: where `serverworkerctl` and other programs steer the session, by AMP (`serverworker.wire.control`).

A unix socket of this user's by default, on which the system says who connects: this user and root get in. Over TCP it
is TLS, and who connects shows a certificate or the session key.
"""

from __future__ import annotations

import os
import pwd
import socket
import struct
from ipaddress import IPv6Address, ip_address
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory
from twisted.logger import Logger

from serverworker.processes.accept import AcceptReader
from serverworker.processes.sockets import describe_bound, file_of
from serverworker.surfaces.control_link import ControlLink
from serverworker.surfaces.control_peer import ControlPeer, Peer
from serverworker.surfaces.desk import Desk
from serverworker.surfaces.session_key import KeyCheck
from serverworker.surfaces.status import RecentStatus

MOST_CONNECTIONS = 500
MOST_STRANGERS = 50
"""Of those that have not shown a key or a certificate yet."""
CLOSE_SECONDS = 2.0
"""How long the last answers have on their way out."""

_CREDENTIALS = struct.Struct("3i")


class ControlPort(Factory):
    """Listens, and makes a `ControlPeer` of each program that connects."""

    noisy = False
    _log = Logger(namespace="serverworker.control")

    def __init__(
        self,
        *,
        reactor: Any,
        desk: Desk,
        keys: KeyCheck,
        bound: socket.socket,
        tls: Any = None,
        certified: bool = False,
    ) -> None:
        """`bound` listens; `tls`: `CertificateOptions`; `certified`: only who has shown a certificate gets in."""
        self.reactor = reactor
        """What time and links are from."""
        self.certified = certified
        self._desk = desk
        self._status = RecentStatus(desk)
        self._keys = keys
        self._bound = bound
        self._file = file_of(bound)
        self._tls = tls
        self._links: set[ControlLink] = set()
        self._reader: AcceptReader | None = None
        self._refused = 0
        self._closed: Deferred[None] | None = None

    @property
    def address(self) -> str:
        """Where it listens, such as ``unix:/run/user/0/serverworker/8080/control``."""
        return describe_bound(self._bound)

    def start(self) -> None:
        """Listen from now on."""
        factory: Any = self
        if self._tls is not None:
            from twisted.protocols.tls import TLSMemoryBIOFactory

            factory = TLSMemoryBIOFactory(self._tls, False, self)
        # Not Twisted's own port: that gives the file of a unix socket the mode 0666.
        self._reader = AcceptReader(self.reactor, self._bound, factory)
        self._reader.start()

    def buildProtocol(self, addr: IAddress | None) -> ControlLink:
        """One more program."""
        return ControlLink(self)

    def connected(self, link: ControlLink) -> ControlPeer | None:
        """Who it is; None for one that is not let in."""
        who = self._who(link)
        if who is None or not self._has_room(stranger=not who.allowed):
            return None
        self._links.add(link)
        return ControlPeer(
            desk=self._desk,
            status=self._status,
            reactor=self.reactor,
            keys=self._keys,
            peer=who,
            link=link,
        )

    def _has_room(self, *, stranger: bool) -> bool:
        """Whether one more may come. Who has waited longest for nothing makes room for it."""
        strangers = [each for each in self._links if not each.allowed]
        if stranger and len(strangers) >= MOST_STRANGERS:
            self._let_go(strangers, f"{MOST_STRANGERS} connections have shown no key yet")
        elif len(self._links) >= MOST_CONNECTIONS:
            idle = [each for each in self._links if each.idle]
            if not idle:
                self._refuse(f"there are {MOST_CONNECTIONS} connections already")
                return False
            self._let_go(strangers or idle, f"there are {MOST_CONNECTIONS} connections")
        return True

    def _let_go(self, some: list[ControlLink], why: str) -> None:
        longest = min(some, key=lambda each: each.heard_at)
        self._links.discard(longest)
        longest.abort()
        self._say(f"the control connection that was idle longest makes room: {why}")

    def _refuse(self, why: str) -> None:
        self._say(f"a connection to the control port is refused: {why}")

    def _say(self, what: str) -> None:
        self._refused += 1
        if self._refused & (self._refused - 1) == 0:  # at the first, second, fourth, eighth…
            self._log.warn("{what} ({count} connections so far)", what=what, count=self._refused)

    def _who(self, link: ControlLink) -> Peer | None:
        transport: Any = link.transport
        if self._bound.family == socket.AF_UNIX:
            return self._local(transport)
        host = transport.getPeer().host
        # A certificate is known, and found good, when the handshake is over: until then this is a stranger too.
        return Peer(who=f"the session key, {host}", origin=_origin(host), allowed=False)

    def _local(self, transport: Any) -> Peer | None:
        try:
            raw = transport.getHandle().getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        except OSError:
            return None
        pid, uid, _ = _CREDENTIALS.unpack(raw)
        who = f"{_user(uid)} (uid {uid}, pid {pid})"
        if uid not in (os.geteuid(), 0):
            self._refuse(f"{who} is another user")
            return None
        return Peer(who=who, origin=f"uid {uid}", allowed=True)

    def gone(self, link: ControlLink) -> None:
        """One program less."""
        self._links.discard(link)
        if not self._links and self._closed is not None:
            closed, self._closed = self._closed, None
            closed.callback(None)

    def close(self) -> Deferred[None]:
        """Listen no more, and let go of everybody; fires when all are gone, or have been for two seconds."""
        if self._reader is None:
            return succeed(None)
        reader, self._reader = self._reader, None
        reader.stop()
        self._bound.close()
        if self._file is not None:
            self._file.unlink()
        if not self._links:
            return succeed(None)
        closed: Deferred[None] = Deferred()
        self._closed = closed
        for link in tuple(self._links):
            if link.peer is not None:
                link.peer.tell_the_last()
            link.close()
        deadline = self.reactor.callLater(CLOSE_SECONDS, self._abort)

        def done(result: Any) -> Any:
            if deadline.active():
                deadline.cancel()
            return result

        return closed.addBoth(done)

    def _abort(self) -> None:
        for link in tuple(self._links):
            link.abort()


def _origin(host: str) -> str:
    """What guessing is counted by: an IPv6 network, since whoever has one address there has them all."""
    address = ip_address(host.partition("%")[0])
    if not isinstance(address, IPv6Address):
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return f"{IPv6Address(int(address) >> 64 << 64)}/64"


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return "somebody"
