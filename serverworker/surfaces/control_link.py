"""One connection to the control port: AMP with somebody who need not be trusted, and who may be slow.

A program may ask faster than it is answered, or not read its answers. So what it has sent is answered a little at a
time, and while something waits here, or there, nothing more is read from it: the kernel's buffers make it wait.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall, IHandshakeListener
from twisted.protocols import amp
from twisted.protocols.amp import IResponderLocator
from twisted.python.failure import Failure
from zope.interface import implementer

from serverworker.surfaces.control_peer import ControlPeer
from serverworker.values.errors import EmitError, ValueTooLarge
from serverworker.wire.commands import Messages
from serverworker.wire.control import ControlCommand
from serverworker.wire.emits import Handlers
from serverworker.wire.link import MAX_BOX_BYTES, Link

KEY_SECONDS = 10.0
"""How long a stranger has to show the key, or to end the TLS handshake with a certificate."""
STRANGER_BYTES = 16 * 1024
"""The largest box of a stranger."""
MOST_KEYS = 600
"""In one box: a value of 16 MiB has 257, and each key costs ten times the memory of its bytes."""
MOST_AT_ONCE = 200
"""Questions of one program that wait for their answers."""
MOST_IN_A_TURN = 10
"""Questions of one program that are answered in one turn of the reactor."""
STUCK_SECONDS = 120.0
"""How long a program may leave unread what it has been sent."""


class Door(Protocol):
    """What a link needs of the port that it came through."""

    reactor: Any
    certified: bool
    """Whether who connects shows a certificate in the TLS handshake, and is let in by that."""

    def connected(self, link: ControlLink) -> ControlPeer | None:
        """Who it is; None for one that is not let in."""

    def gone(self, link: ControlLink) -> None:
        """The connection is over."""


@implementer(IResponderLocator, IHandshakeListener)
class ControlLink(Link):
    """A link to one program; `ControlPeer` answers it."""

    def __init__(self, door: Door) -> None:
        self.peer: ControlPeer | None = None
        self.heard_at = door.reactor.seconds()
        """When it was heard of last, on the reactor's clock."""
        self._door = door
        self._waiting: deque[amp.AmpBox] = deque()
        self._at_once = 0
        self._in_turn = 0
        self._reading = True
        self._full = False
        self._turn: IDelayedCall | None = None
        self._stuck: IDelayedCall | None = None
        self._stranger: IDelayedCall | None = None
        super().__init__(
            door.reactor,
            self,
            Handlers(),
            peer="a control client",
            on_lost=self._gone,
            max_box_bytes=STRANGER_BYTES,
        )

    @property
    def allowed(self) -> bool:
        """Whether it may more than show a key."""
        return self.peer is not None and self.peer.allowed

    @property
    def idle(self) -> bool:
        """Whether it waits for nothing, neither an answer nor events."""
        busy = self._at_once or self._waiting or (self.peer is not None and self.peer.subscribed)
        return not busy

    def abort(self) -> None:
        """Let go of it at once."""
        with suppress(Exception):
            transport: Any = self.transport
            transport.abortConnection()

    # --- who it is ------------------------------------------------------------------------------

    def startReceivingBoxes(self, sender: Any) -> None:
        """The transport is there."""
        super().startReceivingBoxes(sender)
        self.peer = self._door.connected(self)
        if self.peer is None:
            self.abort()
            return
        stream: Any = self._stream
        stream.unregisterProducer()
        stream.registerProducer(_Room(self), True)
        self._let_in()
        if not self.allowed:
            self._stranger = self._door.reactor.callLater(KEY_SECONDS, self._still_a_stranger)

    def handshakeCompleted(self) -> None:  # noqa: N802 - Twisted's name
        """TLS is agreed upon: where the port asks for a certificate, it was shown and is good."""
        if self._door.certified and self.peer is not None:
            transport: Any = self.transport
            self.peer.admit(f"{_common_name(transport)}, {transport.getPeer().host}")
            self._let_in()

    def _let_in(self) -> None:
        if self.allowed:
            self.max_box_bytes = MAX_BOX_BYTES

    def _still_a_stranger(self) -> None:
        self._stranger = None
        if not self.allowed:
            self.abort()

    def _gone(self, reason: EmitError) -> None:
        for call in (self._stranger, self._turn, self._stuck):
            if call is not None:
                call.cancel()
        self._stranger = self._turn = self._stuck = None
        self._waiting.clear()
        if self.peer is not None:
            self.peer.lost(reason)
        self._door.gone(self)

    # --- what it sends --------------------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:
        """Take what it has sent."""
        self._in_turn = 0
        super().dataReceived(data)
        self._read_or_wait()

    def fileDescriptorReceived(self, descriptor: int) -> None:  # noqa: N802 - Twisted's name
        """Nobody has asked for descriptors; kept, they would use up the monitor's own."""
        os.close(descriptor)

    def proto_key(self, key: bytes) -> Any:
        """A key of a box has come, or its end."""
        if key and self._currentBox is not None and len(self._currentBox) >= MOST_KEYS:
            self._currentBox.clear()
            self._abort(f"a box of more than {MOST_KEYS} keys")
        return super().proto_key(key)

    def ampBoxReceived(self, box: amp.AmpBox) -> None:
        """Take one box. What answers a question of ours is taken at once; what asks, when it is its turn."""
        self.heard_at = self._door.reactor.seconds()
        if box.get(amp.COMMAND) == Messages.commandName:
            self._abort("an emit as workers send it")  # it would go past all that is counted here
        elif self.closed or amp.COMMAND not in box or amp.ANSWER in box or amp.ERROR in box:
            super().ampBoxReceived(box)
        else:
            self._unfinished_bytes = 0
            self._waiting.append(box)
            self._answer_some()

    def _answer_some(self) -> None:
        while self._waiting and not self._full and self._in_turn < MOST_IN_A_TURN and not self.closed:
            self._in_turn += 1
            self._command_received(self._waiting.popleft())
            self._let_in()
        if self._waiting and not self._full and self._turn is None and not self.closed:
            self._turn = self._door.reactor.callLater(0, self._next_turn)

    def _next_turn(self) -> None:
        self._turn = None
        self._in_turn = 0
        self._answer_some()
        self._read_or_wait()

    def locateResponder(self, name: bytes) -> Callable[[Any], Any] | None:
        """Who answers a command."""
        return None if self.peer is None else self.peer.locateResponder(name)

    def _run_responder(self, box: amp.AmpBox) -> Any:
        name = box[amp.COMMAND].decode("ascii", "replace")[:100]
        responder = self.locateResponder(box[amp.COMMAND])
        if responder is None:
            raise _bad(f"there is no command {name!r}")
        if self._at_once >= MOST_AT_ONCE:
            raise amp.RemoteAmpError(b"REFUSED", f"{MOST_AT_ONCE} questions wait for their answers already")
        try:
            answer = responder(box)  # reads the arguments; what goes wrong later comes by the Deferred
        except Exception as error:
            raise _bad(f"wrong arguments of {name}: {type(error).__name__}: {str(error)[:500]}") from None
        self._at_once += 1
        return answer.addBoth(self._done)

    def _done(self, result: Any) -> Any:
        self._at_once -= 1
        if isinstance(result, Failure) and isinstance(result.value, amp.BadLocalReturn):
            why = result.value.enclosed.value
            if isinstance(why, ValueTooLarge):
                raise amp.RemoteAmpError(b"REFUSED", f"the answer is too large: {why}; ask for less")
        return result

    # --- room -----------------------------------------------------------------------------------

    def full(self) -> None:
        """It does not read what it was sent."""
        self._full = True
        self._router.pauseProducing()
        if self._stuck is None and not self.closed:
            self._stuck = self._door.reactor.callLater(STUCK_SECONDS, self._still_stuck)
        self._read_or_wait()

    def has_room(self) -> None:
        """It has read all."""
        self._full = False
        self._router.resumeProducing()
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None
        if self._turn is None and not self.closed:
            self._turn = self._door.reactor.callLater(0, self._next_turn)

    def _still_stuck(self) -> None:
        self._stuck = None
        self._log.warn(
            "a control client has not read what it was sent for {seconds:g} s, and is let go of",
            seconds=STUCK_SECONDS,
        )
        self.abort()

    def _read_or_wait(self) -> None:
        """Read on, or not: what was read and is not answered must not grow."""
        if self.closed or self._stream is None:
            return
        wanted = not self._full and not self._waiting
        if wanted is not self._reading:
            self._reading = wanted
            stream: Any = self._stream
            (stream.resumeProducing if wanted else stream.pauseProducing)()


class _Room:
    """The producer that the transport tells whether there is room."""

    def __init__(self, link: ControlLink) -> None:
        self._link = link

    def pauseProducing(self) -> None:
        self._link.full()

    def resumeProducing(self) -> None:
        self._link.has_room()

    def stopProducing(self) -> None:
        """The connection is lost, which the link is told as well."""


def _bad(text: str) -> amp.RemoteAmpError:
    known = ", ".join(sorted(each.__name__ for each in ControlCommand.__subclasses__()))
    return amp.RemoteAmpError(b"BAD_COMMAND", f"{text}; there are {known}: see serverworker.commands")


def _common_name(transport: Any) -> str:
    """The name in a client's certificate, fit for a line in a log."""
    from cryptography.x509.oid import NameOID

    subject = transport.getPeerCertificate().to_cryptography().subject
    names = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    shown = "".join(each for each in str(names[0].value) if each.isprintable())[:64] if names else ""
    return shown or "a certificate without a name"
