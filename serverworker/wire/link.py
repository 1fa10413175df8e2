"""The link between monitor and worker: AMP over one stream, in either process."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, cast

from attrs import define
from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.internet.interfaces import IDelayedCall, IReactorSocket, IReactorTime
from twisted.internet.protocol import ServerFactory
from twisted.logger import Logger
from twisted.protocols import amp
from twisted.python.failure import Failure
from zope.interface import implementer

from serverworker.values.errors import (
    EmitError,
    EmitTimeout,
    ErrorRecord,
    FailedDispatch,
    LinkDestroyed,
    PeerLost,
)
from serverworker.wire.commands import COMMAND_FAILED, ENVELOPE_BYTES, CommandFailed, Messages
from serverworker.wire.emits import Handlers, check_timeout
from serverworker.wire.large import AMP_VALUE_BYTES, MAX_VALUE_BYTES
from serverworker.wire.router import EmitRouter

MAX_BOX_BYTES = MAX_VALUE_BYTES + 16 * ENVELOPE_BYTES
"""No box is larger, unless a link is told another limit."""

MAX_DESCRIPTION_BYTES = 16_384
"""Of an error that is answered to a command."""

_BATCH = b"batch"
_SECOND_PIECE = b"batch.1"


class _Stream(Protocol):
    """What the link needs of its transport besides writing."""

    def registerProducer(self, producer: Any, streaming: bool) -> None: ...
    def unregisterProducer(self) -> None: ...
    def loseConnection(self) -> None: ...
    def abortConnection(self) -> None: ...


@define(eq=False)
class _Asked:
    """A command that waits for its answer."""

    command: type[amp.Command]
    answer: Deferred[dict[str, Any]]
    deadline: IDelayedCall


@implementer(amp.IBoxReceiver)
class Link(amp.BinaryBoxProtocol):
    """One end of the channel between monitor and worker.

    It speaks AMP, but keeps the questions and answers itself instead of being an `AMP`: there, a responder
    with a bug, a failure that nobody waits for (twisted #7055) and an answer that nobody asked for each close
    the connection, an instance's own commands (StartTLS among them) come before its locator's (twisted
    #7761), and a question that got no answer stays in a table for good. Here only garbage below the level of
    boxes, or a box that is neither question nor answer, closes the link, and nothing that a responder or a
    caller does.

    :param clock: the reactor's time.
    :param locator: answers the other process's commands: a `CommandLocator` with responders, or anything with
        its `locateResponder`. Whatever a responder raises is answered as `CommandFailed`.
    :param handlers: answer the other process's emits.
    :param peer: how the other process is called in texts, such as ``worker 3``.
    :param max_box_bytes: a peer that sends more than this without the end of a box sends garbage.
    :param on_lost: called once, when the transport is gone, with the reason: `LinkDestroyed` after `close`,
        else `PeerLost`.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        locator: amp.IResponderLocator,
        handlers: Handlers,
        *,
        peer: str = "the other process",
        on_lost: Callable[[EmitError], None] | None = None,
        max_box_bytes: int = MAX_BOX_BYTES,
    ) -> None:
        super().__init__(self)
        self._clock = clock
        self._locator = locator
        self._peer = peer
        self._on_lost = on_lost
        self._router = EmitRouter(clock, handlers, self._send_batch, peer)
        self._asked: dict[bytes, _Asked] = {}
        self._questions = 0
        self._closed: EmitError | None = None  # why
        self._stream: _Stream | None = None
        self._unfinished_bytes = 0
        self.max_box_bytes = max_box_bytes

    @property
    def closed(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._closed is not None

    @property
    def unanswered(self) -> int:
        """How many emits and commands have not ended."""
        return self._router.unanswered + len(self._asked)

    def limit_values(self, maximum_bytes: int) -> None:
        """Let no value of an emit or its answer be larger than this, in bytes of its JSON; 16 MiB unless told."""
        self._router.limit = maximum_bytes

    def emit(self, name: str, args: Any = None, timeout: float = 60.0) -> Deferred[list[Any]]:
        """Let the other process's handlers of `name` run. See :meth:`EmitRouter.emit`."""
        return self._router.emit(name, args, timeout)

    def ask(self, command: type[amp.Command], /, timeout: float, **args: Any) -> Deferred[dict[str, Any]]:
        """Send a command, ahead of all emits that wait, and wait for its answer.

        Whatever goes wrong comes through the Deferred; nothing is raised here. It may be cancelled, or
        forgotten.

        :param timeout: in seconds; there is always one.
        :return: a Deferred of the response. It fails with `CommandFailed` (whatever went wrong over there),
            `EmitTimeout`, `PeerLost`, `LinkDestroyed`, `FailedDispatch`, or with what is wrong with the
            arguments.
        """
        if self._closed is not None or self._stream is None:
            return fail(
                FailedDispatch(f"{command.__name__} was not sent: {self._closed or 'not connected yet'}")
            )
        tag = b"%x" % (self._questions + 1)
        try:
            check_timeout(timeout)
            box = self._question(command, args)
            box[amp.ASK] = tag
            self.sendBox(box)
        except Exception as error:
            return fail(error)
        self._questions += 1
        answer: Deferred[dict[str, Any]] = Deferred(partial(self._cancelled, tag))
        deadline = self._clock.callLater(timeout, self._expire, tag, timeout)
        self._asked[tag] = _Asked(command, answer, deadline)
        return answer

    def tell(self, command: type[amp.Command], /, **args: Any) -> None:
        """Send a command whose outcome nobody waits for, ahead of emits. What goes wrong is only logged."""
        if self._closed is not None or self._stream is None:
            self._log.debug(
                "{command} was not sent: no link to {peer}", command=command.__name__, peer=self._peer
            )
            return
        with self._log.failuresHandled(
            "{command} could not be sent to {peer}; the link goes on",
            command=command.__name__,
            peer=self._peer,
        ):
            self.sendBox(self._question(command, args))

    def close(self) -> None:
        """Close the link from this side, once what can be sent has been.

        Emits and commands that wait for an answer end with `LinkDestroyed`; later ones with `FailedDispatch`.
        """
        if self._closed is None:
            self._router.flush()
            self._end(LinkDestroyed(f"this process closed the link to {self._peer}"))
            if self._stream is not None:
                self._stream.unregisterProducer()  # a stream with a producer is not closed
                self._stream.loseConnection()

    # What Twisted calls

    def startReceivingBoxes(self, sender: Any) -> None:
        """The transport is there."""
        self._stream = cast(_Stream, self.transport)
        if self._closed is not None:
            self._stream.loseConnection()
            return
        self._stream.registerProducer(self._router, True)
        self._router.resumeProducing()

    def dataReceived(self, data: bytes) -> None:
        """Take what the peer sent, as long as boxes have an end."""
        self._unfinished_bytes += len(data)
        super().dataReceived(data)
        if self._unfinished_bytes > self.max_box_bytes:
            self._abort(f"a box of more than {self.max_box_bytes:,} bytes")

    def lengthLimitExceeded(self, length: int) -> None:  # noqa: N802 - Twisted's name
        """What came is no AMP."""
        self._abort(f"a key of {length:,} bytes")

    def ampBoxReceived(self, box: amp.AmpBox) -> None:
        """Take one box. Never raises."""
        self._unfinished_bytes = 0
        if self._closed is not None:
            return
        if amp.ANSWER in box:
            self._answered(box)
        elif amp.ERROR in box:
            self._failed(box)
        elif amp.COMMAND in box:
            self._command_received(box)
        else:
            self._abort("a box that is neither question nor answer")

    def stopReceivingBoxes(self, reason: Failure) -> None:
        """The transport is gone."""
        self._end(PeerLost(f"{self._peer} ended, or its link broke: {reason.getErrorMessage()}"))
        if self._on_lost is not None:
            assert self._closed is not None
            with self._log.failuresHandled("what was to run when {peer} was lost failed", peer=self._peer):
                self._on_lost(self._closed)

    # Our questions

    def _question(self, command: type[amp.Command], args: dict[str, Any]) -> amp.AmpBox:
        command(**args)  # tells which arguments are missing
        box: amp.AmpBox = command.makeArguments(args, self)
        box[amp.COMMAND] = command.commandName
        return box

    def _answered(self, box: amp.AmpBox) -> None:
        asked = self._forget(box.pop(amp.ANSWER))
        if asked is None:
            return
        try:
            response = asked.command.parseResponse(box, self)
        except Exception as error:
            asked.answer.errback(
                CommandFailed(f"{self._peer} answered {asked.command.__name__} with garbage: {error}")
            )
        else:
            asked.answer.callback(response)

    def _failed(self, box: amp.AmpBox) -> None:
        asked = self._forget(box[amp.ERROR])
        if asked is not None:
            text = box.get(amp.ERROR_DESCRIPTION, b"").decode("utf-8", "replace")
            code = box.get(amp.ERROR_CODE, b"")
            declared: dict[bytes, type[Exception]] = cast(Any, asked.command).reverseErrors
            kind = declared.get(code, CommandFailed)
            asked.answer.errback(kind(text or f"{self._peer} answered the error {code!r}"))

    def _expire(self, tag: bytes, timeout: float) -> None:
        asked = self._forget(tag)
        assert asked is not None
        text = f"no answer to {asked.command.__name__} from {self._peer} within {timeout:g} s"
        asked.answer.errback(EmitTimeout(text))

    def _cancelled(self, tag: bytes, answer: Deferred[dict[str, Any]]) -> None:
        self._forget(tag)

    def _forget(self, tag: bytes) -> _Asked | None:
        """Leave nothing of a question behind; None when it has ended already, or never was."""
        asked = self._asked.pop(tag, None)
        if asked is None:
            self._log.debug("an answer from {peer} that nobody waits for", peer=self._peer)
        elif asked.deadline.active():
            asked.deadline.cancel()
        return asked

    # The peer's questions

    def _command_received(self, box: amp.AmpBox) -> None:
        tag = box.get(amp.ASK)
        if box[amp.COMMAND] == Messages.commandName:
            self._messages_received(box)
            if tag is not None:
                self._respond(tag, amp.AmpBox())
            return
        done = maybeDeferred(self._run_responder, box)
        done.addErrback(partial(self._explain, box[amp.COMMAND]))
        if tag is not None:
            done.addCallback(partial(self._respond, tag))

    def _messages_received(self, box: amp.AmpBox) -> None:
        batch = box.get(_BATCH)
        if batch is None or _SECOND_PIECE in box:
            try:
                batch = Messages.parseArguments(box, self)["batch"]
            except Exception as error:
                self._log.warn("ignored messages from {peer}: {error!r}", peer=self._peer, error=error)
                return
        self._router.batch_received(batch)

    def _run_responder(self, box: amp.AmpBox) -> Any:
        responder = self._locator.locateResponder(box[amp.COMMAND])
        if responder is None:
            raise amp.RemoteAmpError(amp.UNHANDLED_ERROR_CODE, f"nobody answers {box[amp.COMMAND]!r} here")
        return responder(box)

    def _explain(self, command: bytes, failure: Failure) -> amp.AmpBox:
        """The box that tells the peer what went wrong here."""
        error = failure.value
        assert error is not None
        if isinstance(error, amp.RemoteAmpError):  # declared by the command
            code, text = error.errorCode, str(error.description)
        else:
            code, text = COMMAND_FAILED, str(ErrorRecord.from_exception(error))
            self._log.failure(
                "answering {command} of {peer} failed; the link goes on",
                failure,
                command=command.decode("ascii", "replace"),
                peer=self._peer,
            )
        box = amp.AmpBox()
        box[amp.ERROR_CODE] = code
        box[amp.ERROR_DESCRIPTION] = text.encode("utf-8", "replace")[:MAX_DESCRIPTION_BYTES]
        return box

    def _respond(self, tag: bytes, box: amp.AmpBox) -> None:
        if self._closed is not None:
            return
        try:
            box[amp.ERROR if amp.ERROR_CODE in box else amp.ANSWER] = tag
            self.sendBox(box)
        except Exception as error:  # a value that is too long for its key; nothing of the box was sent
            refusal = amp.AmpBox()
            refusal[amp.ERROR] = tag
            refusal[amp.ERROR_CODE] = COMMAND_FAILED
            refusal[amp.ERROR_DESCRIPTION] = f"the answer could not be sent: {error!r}".encode()
            self.sendBox(refusal)

    # Both

    def _send_batch(self, batch: bytes) -> None:
        if len(batch) <= AMP_VALUE_BYTES:  # what `makeArguments` does for a value of one piece, for less
            box = amp.AmpBox()
            box[_BATCH] = batch
        else:
            box = Messages.makeArguments({"batch": batch}, self)
        box[amp.COMMAND] = Messages.commandName
        self.sendBox(box)

    def _abort(self, what: str) -> None:
        if self._closed is not None:
            return
        self._log.error("closing the link to {peer}, which sent garbage: {what}", peer=self._peer, what=what)
        self._end(PeerLost(f"{self._peer} sent garbage: {what}"))
        assert self._stream is not None
        self._stream.abortConnection()

    def _end(self, why: EmitError) -> None:
        """End everything that waits for an answer, once."""
        if self._closed is not None:
            return
        self._closed = why
        self._router.end(type(why), str(why))
        for tag in list(self._asked):
            asked = self._forget(tag)
            if asked is not None:  # an errback may have cancelled it
                asked.answer.errback(type(why)(f"{asked.command.__name__} has no answer: {why}"))


class _OneLink(ServerFactory):
    noisy = False

    def __init__(self, link: Link) -> None:
        self._link = link

    def buildProtocol(self, addr: Any) -> Link:
        return self._link


def adopt(link: Link, reactor: IReactorSocket, descriptor: int) -> None:
    """Run `link` on an inherited descriptor, one end of an AF_UNIX socket pair.

    The descriptor is used up: the transport has a duplicate of its own, and closes that.
    """
    try:
        reactor.adoptStreamConnection(descriptor, socket.AF_UNIX, _OneLink(link))
    finally:
        os.close(descriptor)
