"""How a link ends, and what ends it."""

from __future__ import annotations

import gc
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.protocols import amp
from twisted.python.failure import Failure

from serverworker.values.errors import (
    EmitError,
    FailedDispatch,
    LinkDestroyed,
    NotJSON,
    PeerLost,
)
from serverworker.wire.commands import CommandFailed
from serverworker.wire.emits import Handlers
from serverworker.wire.link import MAX_BOX_BYTES, Link
from tests.unit.link_pair import Do, LinkTestCase, Responders, Stream


class CloseTests(LinkTestCase):
    """Both ends of a link's end."""

    def hang(self) -> tuple[Deferred[Any], Deferred[Any]]:
        self.theirs.on("hang", lambda args: Deferred())
        self.responders.answer = lambda what: Deferred()
        pending = (self.ask(1), self.link.emit("hang"))
        self.pump()
        return pending

    def test_close(self) -> None:
        """What is pending ends with LinkDestroyed, what comes later with FailedDispatch; it is told once."""
        asked, emitted = self.hang()
        self.link.close()
        self.link.close()
        for answer in (asked, emitted):
            error = self.failed(answer, LinkDestroyed)
            self.assertIn("has no answer: this process closed the link to worker 3", str(error))
        for answer in (self.ask(1), self.link.emit("n")):
            error = self.failed(answer, FailedDispatch)
            self.assertIn("was not sent: this process closed the link to worker 3", str(error))
        self.assertEqual((self.stream.closed, self.lost), ("flushed", []))
        self.link.connectionLost(Failure(ConnectionDone()))
        self.assertEqual([type(reason) for reason in self.lost], [LinkDestroyed])
        self.assert_nothing_left()

    def test_close_sends(self) -> None:
        """Answers and emits of this turn still leave when the link is closed in it."""
        got: list[Any] = []
        self.theirs.on("n", got.append)
        answer = self.link.emit("n", "farewell")
        self.link.close()
        self.pump()
        self.failed(answer, LinkDestroyed)
        self.assertEqual(got, ["farewell"])

    def test_peer_lost(self) -> None:
        """When the peer is gone, what is pending ends with PeerLost later things fail; it is told once."""
        asked, emitted = self.hang()
        unsent = self.link.emit("hang")
        self.link.connectionLost(Failure(ConnectionLost()))
        for answer in (asked, emitted, unsent):
            text = str(self.failed(answer, PeerLost))
            self.assertIn(
                "has no answer: worker 3 ended, or its link broke: Connection to the other side", text
            )
        for answer in (self.ask(1), self.link.emit("n")):
            self.failed(answer, FailedDispatch)
        self.link.close()
        self.assertEqual([type(reason) for reason in self.lost], [PeerLost])
        self.assert_nothing_left()

    def test_answer_after_the_end(self) -> None:
        """A responder and a handler that end after their link did answer nobody."""
        slow: list[Deferred[Any]] = [Deferred(), Deferred()]
        self.theirs.on("slow", lambda args: slow[0])
        self.responders.answer = lambda what: slow[1]
        answers: list[Deferred[Any]] = [self.link.emit("slow"), self.ask(1)]
        self.pump()
        self.peer.connectionLost(Failure(ConnectionDone()))
        slow[0].callback(1)
        slow[1].callback({"result": 1})
        gc.collect()  # a failure that nobody handles is logged when it is collected
        self.assertEqual(self.flushLoggedErrors(), [])
        self.assertEqual(self.their_stream.written, [])
        self.link.close()
        for answer in answers:
            self.failed(answer, LinkDestroyed)
        self.assert_nothing_left()

    def test_in_the_middle_of_an_answer(self) -> None:
        """A peer that dies in the middle of an answer is a lost peer."""
        self.theirs.on("big", lambda args: "x" * 200_000)
        answer = self.link.emit("big")
        self.clock.advance(0)
        self.peer.dataReceived(b"".join(self.stream.written))
        self.link.dataReceived(b"".join(self.their_stream.written)[:100_000])
        self.assertNoResult(answer)
        self.link.connectionLost(Failure(ConnectionLost()))
        self.failed(answer, PeerLost)
        self.assert_nothing_left()

    def test_close_in_a_callback(self) -> None:
        """Whoever closes the link while a message is read gets no more of what arrived with it."""
        self.handlers.on("n", lambda args: self.link.close())
        answers: list[Deferred[Any]] = [self.peer.emit("n"), self.peer.ask(Do, 10, what=2)]
        self.clock.advance(0)
        data = b"".join(reversed(self.their_stream.written))
        self.their_stream.written.clear()
        self.link.dataReceived(data)
        self.link.dataReceived(data)
        self.assertEqual(self.our_responders.asked, [])
        self.peer.close()
        for answer in answers:
            self.failed(answer, LinkDestroyed)

    def test_garbage_behind_the_end(self) -> None:
        """Garbage after the link was closed changes nothing: what was sent before still leaves."""
        self.handlers.on("n", lambda args: self.link.close())
        box = amp.AmpBox({amp.COMMAND: b"Messages", b"batch": b'["emit",1,"n",1]'}).serialize()
        self.link.dataReceived(box + b"garbage")
        self.assertEqual(self.stream.closed, "flushed")

    def test_close_before_connection(self) -> None:
        """A link that was closed before its stream was there closes that at once."""
        link, stream = Link(self.clock, Responders(), Handlers()), Stream()
        link.close()
        link.makeConnection(stream)
        self.assertEqual(stream.closed, "flushed")

    def test_errbacks_at_the_end(self) -> None:
        """Errbacks may cancel, ask or close again while the link ends."""
        answers: list[Deferred[Any]] = []
        late: list[Deferred[Any]] = []

        def errback(failure: Failure) -> None:
            answers[1].cancel()
            late.append(self.ask(3))
            self.link.close()

        answers += [self.ask(1).addErrback(errback), self.ask(2)]
        self.link.connectionLost(Failure(ConnectionLost()))
        self.failed(answers[1], CancelledError)
        self.failed(late[0], FailedDispatch)
        self.assert_nothing_left()

    def test_on_lost_fails(self) -> None:
        """What `on_lost` raises is logged."""

        def fail(reason: EmitError) -> None:
            raise ZeroDivisionError

        link = Link(self.clock, Responders(), Handlers(), on_lost=fail)
        link.makeConnection(Stream())
        link.connectionLost(Failure(ConnectionLost()))
        self.flush_faults(ZeroDivisionError)


class GarbageTests(LinkTestCase):
    """Bytes that no link sends."""

    def assert_aborted(self, what: str, garbage: bytes) -> None:
        asked, emitted = self.ask(1), self.link.emit("n")
        with capturedLogs() as logged:
            self.link.dataReceived(garbage)
        self.assertEqual(self.stream.closed, "aborted")
        for answer in (asked, emitted):
            self.assertIn(f"worker 3 sent garbage: {what}", str(self.failed(answer, PeerLost)))
        texts = [formatEvent(event) for event in logged if event["log_level"] == LogLevel.error]
        self.assertEqual(texts, [f"closing the link to worker 3, which sent garbage: {what}"])
        self.link.dataReceived(garbage)
        self.link.connectionLost(Failure(ConnectionLost()))
        self.assertEqual([type(reason) for reason in self.lost], [PeerLost])
        self.assert_nothing_left()

    def test_text(self) -> None:
        """Text, such as a stray print into the descriptor, ends this link, and all that waits on it."""
        self.assert_aborted("a key of 18,533 bytes", b"Hello, world!\n")

    def test_empty_box(self) -> None:
        """A box with nothing in it ends the link."""
        self.assert_aborted("a box that is neither question nor answer", b"\0\0")

    def test_other_box(self) -> None:
        """A box that says neither what it asks nor what it answers ends the link, the next is not read."""
        box = amp.AmpBox({b"what": b"1"}).serialize()
        follows = amp.AmpBox({amp.COMMAND: b"Do", b"what": b"1"}).serialize()
        self.assert_aborted("a box that is neither question nor answer", box + follows)
        self.assertEqual(self.our_responders.asked, [])

    def test_endless_box(self) -> None:
        """A box without an end does not fill the memory."""
        key = b"\0\1k\xff\xff" + b"x" * 65_535
        for _ in range(MAX_BOX_BYTES // len(key)):
            self.link.dataReceived(key)
        self.assertEqual(self.stream.closed, "")
        self.assert_aborted(f"a box of more than {MAX_BOX_BYTES:,} bytes", key * 2)

    def test_unknown_answers(self) -> None:
        """Answers and errors that nobody asked for are ignored (evennia #2053: a KeyError there)."""
        for box in (
            {amp.ANSWER: b"77"},
            {amp.ERROR: b"77", amp.ERROR_CODE: b"X", amp.ERROR_DESCRIPTION: b"x"},
            {amp.ERROR: b"78"},
            {amp.ANSWER: b"\xff\0"},
        ):
            self.link.dataReceived(amp.AmpBox(box).serialize())
        self.assert_alive()

    def test_wrong_answers(self) -> None:
        """An answer without what its command promises, or an error without its text, is a CommandFailed."""
        for box, text in (
            ({amp.ANSWER: b"1"}, "worker 3 answered Do with garbage: "),
            ({amp.ANSWER: b"2", b"result": b"{"}, "worker 3 answered Do with garbage: "),
            ({amp.ERROR: b"3"}, "worker 3 answered the error b''"),
            ({amp.ERROR: b"4", amp.ERROR_CODE: b"X", amp.ERROR_DESCRIPTION: b"\xff!"}, "\ufffd!"),
        ):
            asked = self.ask(1)
            self.link.dataReceived(amp.AmpBox(box).serialize())
            self.assertIn(text, str(self.failed(asked, CommandFailed)))
        self.stream.written.clear()
        self.assert_alive()

    def test_wrong_arguments(self) -> None:
        """A command without its arguments, or with unreadable ones, is answered as CommandFailed."""
        for box in ({}, {b"what": b"{"}, {b"what": b"\xff"}):
            self.link.dataReceived(amp.AmpBox({amp.COMMAND: b"Do", amp.ASK: b"1", **box}).serialize())
        boxes = amp.parseString(b"".join(self.stream.written))
        self.assertEqual([box[amp.ERROR_CODE] for box in boxes], [b"COMMAND_FAILED"] * 3)
        self.stream.written.clear()
        self.assertEqual(len(self.flushLoggedErrors(KeyError, NotJSON)), 3)
        self.assert_alive()
