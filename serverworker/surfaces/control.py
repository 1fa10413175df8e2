"""The control port: where `serverworkerctl` and other programs steer the session, by AMP (`serverworker.wire.control`).

A unix socket of this user's by default, on which the system says who connects: this user and root get in. Over TCP it
is TLS, and who connects shows a certificate or the session key.
"""

from __future__ import annotations

import os
import pwd
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress, IDelayedCall
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.protocols.amp import IResponderLocator
from zope.interface import implementer

from serverworker.processes.accept import AcceptReader
from serverworker.processes.sockets import describe_bound, release
from serverworker.surfaces.control_peer import ControlPeer, Peer
from serverworker.surfaces.desk import Desk
from serverworker.surfaces.session_key import KeyCheck
from serverworker.values.errors import EmitError
from serverworker.wire.emits import Handlers
from serverworker.wire.link import MAX_BOX_BYTES, Link

MOST_CONNECTIONS = 500
MOST_STRANGERS = 50
"""Of those that have not shown a key yet."""
KEY_SECONDS = 10.0
"""How long a stranger has to show it."""
STRANGER_BYTES = 16 * 1024
"""The largest box of somebody who has not shown the key."""
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
        self._reactor = reactor
        self._desk = desk
        self._keys = keys
        self._bound = bound
        self._tls = tls
        self.certified = certified
        self._links: set[_ControlLink] = set()
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
        self._reader = AcceptReader(self._reactor, self._bound, factory)
        self._reader.start()

    def buildProtocol(self, addr: IAddress | None) -> Link:
        """One more program."""
        return _ControlLink(self)

    def connected(self, link: _ControlLink) -> ControlPeer | None:
        """Who it is; None for one that is not let in."""
        strangers = sum(not each.peer.allowed for each in self._links if each.peer is not None)
        if len(self._links) >= MOST_CONNECTIONS:
            self._refuse(f"there are {MOST_CONNECTIONS} connections already")
            return None
        who = self._who(link)
        if who is None:
            return None
        if not who.allowed and strangers >= MOST_STRANGERS:
            self._refuse(f"{MOST_STRANGERS} connections have not shown the session key yet")
            return None
        self._links.add(link)
        peer = ControlPeer(self._desk, self._reactor, self._keys, who)
        peer.link = link
        return peer

    def _refuse(self, why: str) -> None:
        self._refused += 1
        if self._refused & (self._refused - 1) == 0:  # said at the first, second, fourth, eighth…
            self._log.warn(
                "a connection to the control port is refused: {why} ({count} so far)",
                why=why,
                count=self._refused,
            )

    def _who(self, link: _ControlLink) -> Peer | None:
        transport: Any = link.transport
        if self._bound.family == socket.AF_UNIX:
            return self._local(transport)
        host = transport.getPeer().host
        if self.certified:
            # The handshake is over when the first bytes come: who has no certificate never gets so far.
            return Peer(who=f"a certificate, {host}", origin=host, allowed=True)
        return Peer(who=f"the session key, {host}", origin=host, allowed=False)

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

    def gone(self, link: _ControlLink) -> None:
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
        release(self._bound)
        if not self._links:
            return succeed(None)
        closed: Deferred[None] = Deferred()
        self._closed = closed
        for link in tuple(self._links):
            link.close()
        deadline = self._reactor.callLater(CLOSE_SECONDS, self._abort)

        def done(result: Any) -> Any:
            if deadline.active():
                deadline.cancel()
            return result

        return closed.addBoth(done)

    def _abort(self) -> None:
        for link in tuple(self._links):
            link.abort()

    @property
    def reactor(self) -> Any:
        """What time and links are from."""
        return self._reactor


@implementer(IResponderLocator)
class _ControlLink(Link):
    """A link to somebody who need not be trusted: what it may send is bounded, and while it does not read, it is not read."""

    def __init__(self, port: ControlPort) -> None:
        self.peer: ControlPeer | None = None
        self._port = port
        self._named = False
        self._deadline: IDelayedCall | None = None
        super().__init__(
            port.reactor,
            self,
            Handlers(),
            peer="a control client",
            on_lost=self._gone,
            max_box_bytes=STRANGER_BYTES,
        )

    def locateResponder(self, name: bytes) -> Callable[[Any], Any] | None:
        """Who answers a command."""
        return None if self.peer is None else self.peer.locateResponder(name)

    def startReceivingBoxes(self, sender: Any) -> None:
        """The transport is there."""
        super().startReceivingBoxes(sender)
        self.peer = self._port.connected(self)
        if self.peer is None:
            self.abort()
            return
        stream: Any = self._stream
        stream.unregisterProducer()
        stream.registerProducer(_BothWays(self._router, stream), True)
        if self.peer.allowed:
            self.max_box_bytes = MAX_BOX_BYTES
        else:
            self._deadline = self._port.reactor.callLater(KEY_SECONDS, self._no_key)

    def ampBoxReceived(self, box: Any) -> None:
        """Take one box."""
        certificate = self._certificate()
        if certificate is not None and self.peer is not None:
            self.peer.named(certificate)
        super().ampBoxReceived(box)
        if self.peer is not None and self.peer.allowed:
            self.max_box_bytes = MAX_BOX_BYTES

    def _certificate(self) -> str | None:
        """Whose certificate it has shown; known only after the handshake, so with the first box."""
        if not self._port.certified or self._named:
            return None
        self._named = True
        transport: Any = self.transport
        subject = transport.getPeerCertificate().get_subject()
        return f"{subject.CN or 'a certificate'}, {transport.getPeer().host}"

    def _no_key(self) -> None:
        self._deadline = None
        if self.peer is not None and not self.peer.allowed:
            self.abort()

    def abort(self) -> None:
        """Let go of it at once."""
        with suppress(Exception):
            transport: Any = self.transport
            transport.abortConnection()

    def _gone(self, reason: EmitError) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if self.peer is not None:
            self.peer.lost(reason)
        self._port.gone(self)


class _BothWays:
    """A producer that, while the other end does not read, is not read either: answers cannot pile up."""

    def __init__(self, router: Any, stream: Any) -> None:
        self._router = router
        self._stream = stream

    def pauseProducing(self) -> None:
        self._router.pauseProducing()
        self._stream.pauseProducing()

    def resumeProducing(self) -> None:
        self._router.resumeProducing()
        self._stream.resumeProducing()

    def stopProducing(self) -> None:
        self._router.stopProducing()


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return "somebody"
