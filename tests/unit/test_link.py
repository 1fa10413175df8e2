"""The link between monitor and worker: nothing that one end does wrong hurts the other."""

from __future__ import annotations

import gc
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.protocols import amp

from serverworker.values.errors import (
    EmitTimeout,
    FailedDispatch,
    LinkDestroyed,
    NotJSON,
    UnhandledMessage,
    ValueTooLarge,
)
from serverworker.wire.commands import CommandFailed, Messages, Ping
from serverworker.wire.emits import Handlers
from serverworker.wire.large import MAX_VALUE_BYTES
from serverworker.wire.link import Link
from tests.unit.link_pair import Do, LinkTestCase, Refused, Responders, ShortText, Stream, Unknown


class AskTests(LinkTestCase):
    """Commands and their answers."""

    def test_answer(self) -> None:
        """A command is answered, of any size, by plain and by async responders."""
        answers = [self.ask({"n": 1}), self.ask("x" * 200_000), self.link.ask(Ping, 1)]
        self.pump()
        self.assertEqual(
            [self.successResultOf(answer) for answer in answers],
            [{"result": {"n": 1}}, {"result": "x" * 200_000}, {}],
        )
        self.assert_alive()

    def test_both_ways(self) -> None:
        """Either end asks, in the same turn; their numbers do not meet."""
        answers = [self.ask("ours"), self.peer.ask(Do, 10, what="theirs")]
        self.pump()
        self.assertEqual(
            [self.successResultOf(answer) for answer in answers], [{"result": "ours"}, {"result": "theirs"}]
        )

    def test_undeclared_error(self) -> None:
        """A responder with a bug is answered as CommandFailed, logged over there, and closes nothing."""
        for answer in (lambda what: 1 / 0, lambda what: fail(ZeroDivisionError("division by zero"))):
            self.responders.answer = answer
            asked = self.ask(1)
            self.pump()
            self.assertEqual(str(self.failed(asked, CommandFailed)), "ZeroDivisionError: division by zero")
            self.flush_faults(ZeroDivisionError)
        self.assert_alive()

    def test_exit_in_a_responder(self) -> None:
        """`sys.exit` in a responder is an error like others."""

        def leave(what: Any) -> None:
            raise SystemExit(3)

        self.responders.answer = leave
        asked = self.ask(1)
        self.pump()
        self.assertEqual(str(self.failed(asked, CommandFailed)), "SystemExit: 3")
        self.flush_faults(SystemExit)
        self.assert_alive()

    def test_no_dict(self) -> None:
        """A responder that returns no dict or a wrong one is answered as CommandFailed; nothing is closed."""
        for result in (None, "text", {}, {"result": object()}, {"other": 1}):
            self.responders.answer = lambda what, result=result: result
            asked = self.ask(1)
            self.pump()
            self.failed(asked, CommandFailed)
            self.flush_faults(amp.BadLocalReturn)
        self.assert_alive()

    def test_answer_too_long(self) -> None:
        """An answer that AMP cannot carry is an error, not silence."""
        asked = self.link.ask(ShortText, 10, text=b"x")
        self.pump()
        self.assertIn(
            "the answer could not be sent: local value b'text' too long: 70000",
            str(self.failed(asked, CommandFailed)),
        )
        self.assert_alive()

    def test_long_error(self) -> None:
        """An error of any length is told."""

        def complain(what: Any) -> None:
            raise CommandFailed("ж" * 200_000)

        self.responders.answer = complain
        asked = self.ask(1)
        self.pump()
        text = str(self.failed(asked, CommandFailed))
        self.assertGreater(len(text), 8000)
        self.assertEqual(set(text), {"ж"})
        self.assert_alive()

    def test_declared_errors(self) -> None:
        """What a command declares keeps its text, and is nobody's bug: nothing is logged."""
        for error in (Refused("not now"), CommandFailed("no port 7")):

            def answer(what: Any, error: Exception = error) -> None:
                raise error

            self.responders.answer = answer
            asked = self.ask(1)
            self.pump()
            self.assertEqual(str(self.failed(asked, type(error))), str(error))
        self.assert_alive()

    def test_unknown_command(self) -> None:
        """A command that nobody answers fails, as AMP's UnhandledCommand on the wire; nothing closes."""
        asked = self.link.ask(Unknown, 10)
        self.clock.advance(0)
        self.peer.dataReceived(b"".join(self.stream.written))
        self.stream.written.clear()
        [box] = amp.parseString(b"".join(self.their_stream.written))
        self.assertEqual(box[amp.ERROR_CODE], amp.UNHANDLED_ERROR_CODE)
        self.pump()
        self.assertEqual(str(self.failed(asked, CommandFailed)), "nobody answers b'Unknown' here")
        self.assert_alive()

    def test_only_the_locator(self) -> None:
        """Commands that AMP itself would answer are unknown here: StartTLS would end the link."""
        self.link.dataReceived(amp.AmpBox({amp.COMMAND: b"StartTLS", amp.ASK: b"1"}).serialize())
        [box] = amp.parseString(b"".join(self.stream.written))
        self.assertEqual(box[amp.ERROR_CODE], amp.UNHANDLED_ERROR_CODE)
        self.stream.written.clear()
        self.assert_alive()

    def test_broken_locator(self) -> None:
        """A locator with a bug is a responder with a bug."""
        self.responders.locateResponder = lambda name: {}[name]  # type: ignore[method-assign]
        asked = self.ask(1)
        self.pump()
        self.failed(asked, CommandFailed)
        self.flush_faults(KeyError)
        del self.responders.locateResponder
        self.assert_alive()

    def test_deadline(self) -> None:
        """Without an answer in time the question fails; the answer, when it comes, is ignored."""
        slow: Deferred[dict[str, Any]] = Deferred()
        self.responders.answer = lambda what: slow
        asked = self.ask(1)
        self.pump()
        self.clock.advance(9.9)
        self.assertNoResult(asked)
        self.clock.advance(0.1)
        self.assertEqual(str(self.failed(asked, EmitTimeout)), "no answer to Do from worker 3 within 10 s")
        self.assert_nothing_left()
        slow.callback({"result": 1})
        self.pump()
        self.assert_alive()

    def test_cancel(self) -> None:
        """A cancelled question leaves nothing; its answer is ignored."""
        asked = self.ask(1)
        asked.cancel()
        self.failed(asked, CancelledError)
        self.assert_nothing_left()
        self.pump()
        self.assert_alive()

    def test_dropped(self) -> None:
        """A failure that nobody waits for is logged by Twisted and closes nothing (twisted #7055)."""
        self.responders.answer = lambda what: 1 / 0
        asked = self.ask(1)
        self.pump()
        del asked
        gc.collect()
        self.assertEqual(len(self.flushLoggedErrors(CommandFailed)), 1)
        self.flush_faults(ZeroDivisionError)
        self.assert_alive()

    def test_callback_fails(self) -> None:
        """What a caller's own callback raises is its own affair, and closes nothing."""
        asked = self.ask(1).addCallback(lambda response: response["no such key"])
        self.pump()
        self.failed(asked, KeyError)
        self.assert_alive()

    def test_bad_arguments(self) -> None:
        """Arguments that do not fit fail at the asker, before anything is sent."""
        self.failed(self.link.ask(Do, 10), amp.InvalidSignature)
        self.failed(self.link.ask(Do, 10, what=1, who=2), amp.InvalidSignature)
        self.failed(self.ask(object()), NotJSON)
        self.failed(self.link.ask(Ping, 0), ValueError)
        self.failed(self.link.ask(Ping, float("inf")), ValueError)
        self.failed(self.ask("x" * MAX_VALUE_BYTES), ValueTooLarge)
        self.failed(self.link.ask(ShortText, 10, text=b"x" * 70_000), amp.TooLong)
        self.assertEqual(self.stream.written, [])
        self.assert_alive()

    def test_ahead_of_emits(self) -> None:
        """A question does not wait behind emits that the stream has no room for."""
        self.stream.producer.pauseProducing()
        emitted = self.link.emit("still there?")
        asked = self.link.ask(Ping, 1)
        self.pump()
        self.assertEqual(self.successResultOf(asked), {})
        self.assertNoResult(emitted)
        self.theirs.on("still there?", lambda args: True)
        self.stream.producer.resumeProducing()
        self.pump()
        self.successResultOf(emitted)

    def test_not_connected(self) -> None:
        """Before there is a stream, a question fails at once and is not kept."""
        link = Link(self.clock, Responders(), Handlers())
        error = self.failed(link.ask(Ping, 1), FailedDispatch)
        self.assertEqual(str(error), "Ping was not sent: not connected yet")
        link.tell(Ping)
        self.assert_nothing_left()


class TellTests(LinkTestCase):
    """Commands whose outcome nobody waits for."""

    def test_tell(self) -> None:
        """It arrives, and nothing comes back."""
        self.link.tell(Do, what=1)
        self.clock.advance(0)
        self.peer.dataReceived(b"".join(self.stream.written))
        self.stream.written.clear()
        self.assertEqual((self.responders.asked, self.their_stream.written), ([1], []))
        self.assert_alive()

    def test_failures(self) -> None:
        """A responder that fails, or is not there, is logged over there at the most, and closes nothing."""
        self.responders.answer = lambda what: 1 / 0
        self.link.tell(Do, what=1)
        self.link.tell(Unknown)
        self.pump()
        self.flush_faults(ZeroDivisionError)
        self.assert_alive()

    def test_bad_arguments(self) -> None:
        """Arguments that do not fit are logged here, and nothing is raised."""
        self.link.tell(Do, what=object())
        self.flush_faults(NotJSON)
        self.link.tell(Do)
        self.flush_faults(amp.InvalidSignature)
        self.assert_alive()

    def test_closed(self) -> None:
        """On a closed link it does nothing."""
        self.link.close()
        self.link.tell(Ping)
        self.assertEqual(self.stream.written, [])


class EmitTests(LinkTestCase):
    """Emits over a link; what they come to is the router's (see test_router)."""

    def test_sizes(self) -> None:
        """A value of every size comes back as it was, the largest too."""
        self.theirs.on("echo", lambda args: args)
        for size in (0, 65_000, 65_535, 65_536, 1_000_000, MAX_VALUE_BYTES - 2):
            answer = self.link.emit("echo", "x" * size)
            self.pump()
            self.assertEqual(self.successResultOf(answer), ["x" * size])
        self.assert_alive()

    def test_too_large(self) -> None:
        """A value over the cap fails at once, and the link lives on."""
        self.failed(self.link.emit("echo", "x" * MAX_VALUE_BYTES), ValueTooLarge)
        self.assert_alive()

    def test_both_ways(self) -> None:
        """Either end emits."""
        self.theirs.on("name", lambda args: "theirs")
        self.handlers.on("name", lambda args: "ours")
        answers = [self.link.emit("name"), self.peer.emit("name"), self.peer.emit("nam")]
        self.pump()
        self.assertEqual(self.successResultOf(answers[0]), ["theirs"])
        self.assertEqual(self.successResultOf(answers[1]), ["ours"])
        self.assertIn("did you mean 'name'?", str(self.failed(answers[2], UnhandledMessage)))
        self.assert_alive()

    def test_before_connection(self) -> None:
        """Emits before there is a stream are sent once there is one."""
        link, stream = Link(self.clock, Responders(), Handlers()), Stream()
        answer = link.emit("n", 1)
        self.clock.advance(0)
        link.makeConnection(stream)
        [box] = amp.parseString(b"".join(stream.written))
        self.assertEqual(box, {amp.COMMAND: b"Messages", b"batch": b'["emit",1,"n",1]'})
        link.close()
        self.failed(answer, LinkDestroyed)

    def test_asked_messages(self) -> None:
        """A peer that wants AMP's own answer to a batch gets it."""
        box = Messages.makeArguments({"batch": b'["emit",1,"n",1]'}, None)
        box.update({amp.COMMAND: b"Messages", amp.ASK: b"1"})
        self.link.dataReceived(box.serialize())
        boxes = amp.parseString(b"".join(self.stream.written))
        self.assertIn({amp.ANSWER: b"1"}, boxes)

    def test_bad_batch(self) -> None:
        """A batch that is not there, too large, or no batch at all is ignored, and closes nothing."""
        for box in (
            {},
            {b"batch": b"rubbish"},
            {b"batch": b""},
            {b"batch": b"\n"},
            {b"batch.1": b'["emit",1,"n",1]'},
            {b"batch": b'["results",7,[1]]', b"batch.1": b"x"},
        ):
            self.link.dataReceived(amp.AmpBox({amp.COMMAND: b"Messages", **box}).serialize())
        self.assertEqual(self.stream.written, [])
        self.assert_alive()
