"""What the emit router sends together, in which order, and what it takes for a message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IPushProducer
from zope.interface.verify import verifyObject

from serverworker.values.errors import (
    EmitError,
    EmitTimeout,
    LinkDestroyed,
    PeerLost,
)
from serverworker.wire.emits import Handlers
from serverworker.wire.router import BATCH_BYTES, EmitRouter
from tests.unit.router_pair import LARGE, Pair, RouterTestCase


class BatchTests(RouterTestCase):
    """What leaves together, and in which order."""

    def setUp(self) -> None:
        super().setUp()
        self.got: list[Any] = []
        self.pair.theirs.on("n", self.note)

    def note(self, args: Any) -> Any:
        self.got.append(args if len(str(args)) < 100 else "large")
        return args

    def test_one_turn(self) -> None:
        """All emits of a reactor turn leave in one batch, and all answers of a turn come back in one."""
        back: list[bytes] = []
        send_back = self.pair.their_router._send

        def send(batch: bytes) -> None:
            back.append(batch)
            send_back(batch)

        self.pair.their_router._send = send
        answers = [self.router.emit("n", number) for number in range(100)]
        self.assertEqual(self.pair.batches, [])
        self.pair.turn()
        self.assertEqual(self.pair.lines(), [100])
        self.assertEqual([batch.count(b"\n") + 1 for batch in back], [100])
        self.assertEqual([self.successResultOf(answer) for answer in answers], [[n] for n in range(100)])
        self.assert_nothing_left()

    def test_answers_of_one_turn(self) -> None:
        """Answers that become ready later, in one turn, leave together too."""
        waiting: list[Deferred[Any]] = [Deferred() for _ in range(3)]
        self.pair.handlers.on("wait", lambda args: waiting[args])
        answers = [self.pair.their_router.emit("wait", number) for number in range(3)]
        self.pair.turn()
        self.assertEqual(self.pair.batches, [])
        for each in waiting:
            each.callback(None)
        self.pair.turn()
        self.assertEqual(self.pair.lines(), [3])
        for answer in answers:
            self.successResultOf(answer)

    def test_emit_in_a_callback(self) -> None:
        """Emits made while a batch is being read leave at its end: no turn later, and in one batch."""
        more: list[Deferred[list[Any]]] = []

        def again(results: list[Any]) -> None:
            more.append(self.router.emit("n", 2))
            self.assertIsNone(self.router._flush_call)

        for _ in range(2):
            self.router.emit("n", 1).addCallback(again)
        self.pair.turn()
        self.assertEqual(self.pair.lines(), [2, 2])
        for answer in more:
            self.successResultOf(answer)
        self.assert_nothing_left()

    def test_split(self) -> None:
        """Small messages travel in batches of 65,535 bytes at the most, in order."""
        got: list[int] = []
        self.pair.theirs.on("numbered", lambda args: got.append(args[0]))
        for number in range(50):
            self.router.emit("numbered", [number, "x" * 5000])
        self.pair.turn()
        self.assertEqual(got, list(range(50)))
        self.assertLessEqual(max(map(len, self.pair.batches)), BATCH_BYTES)
        self.assertEqual(self.pair.lines(), [13, 13, 13, 11])

    def test_exactly_full(self) -> None:
        """Two messages that fill a batch to the byte share it; a byte more, and they do not."""
        envelope = len(b'["emit",1,"n",""]')
        for more, lines in ((0, [2]), (1, [1, 1])):
            pair = Pair()
            pair.theirs.on("n", lambda args: None)
            pair.router.emit("n", "x" * 1000)
            pair.router.emit("n", "x" * (BATCH_BYTES - 1 - 2 * envelope - 1000 + more))
            pair.turn()
            self.assertEqual(pair.lines(), lines)

    def test_large_alone(self) -> None:
        """A large message travels alone, and small ones do not wait behind several of them."""
        for number in range(3):
            self.router.emit("n", [number, LARGE])
        for number in range(3):
            self.router.emit("n", number)
        self.pair.turn()
        self.assertEqual(self.got, [0, 1, 2, "large", "large", "large"])
        self.assertEqual(self.pair.lines(), [3, 1, 1, 1])

    def test_taking_turns(self) -> None:
        """While the transport is often full, small and large take turns: neither starves."""

        def send(batch: bytes) -> None:
            self.pair.batches.append(batch)
            self.router.pauseProducing()  # full after each

        self.router._send = send
        answers = [self.router.emit("n", [number, LARGE]) for number in range(3)]
        answers += [self.router.emit("n", "s" * 30_000) for _ in range(6)]
        for _ in range(6):
            self.router.resumeProducing()
        sizes = [len(batch) > BATCH_BYTES for batch in self.pair.batches]
        self.assertEqual(sizes, [False, True, False, True, False, True])
        self.router.end(PeerLost, "gone")
        for answer in answers:
            self.failed(answer, PeerLost)

    def test_paused(self) -> None:
        """While the transport is full, messages wait here, whatever calls come; then they leave."""
        self.router.pauseProducing()
        answer = self.router.emit("n", 1)
        self.pair.turn()
        self.router.flush()
        self.assertEqual((self.pair.batches, self.router.unsent), ([], 1))
        self.router.resumeProducing()
        self.pair.turn()
        self.assertEqual(self.successResultOf(answer), [1])

    def test_flush(self) -> None:
        """Whoever cannot wait for the end of the turn flushes; then nothing is left to do at its end."""
        answer = self.router.emit("n", 1)
        self.router.flush()
        self.assertEqual(self.pair.lines(), [1])
        self.router._send = self.fail
        self.assertEqual(len(self.pair.clock.getDelayedCalls()), 2)  # its deadline, and the batch on its way
        self.pair.turn()
        self.assertEqual(self.successResultOf(answer), [1])

    def test_before_the_transport(self) -> None:
        """Emits before there is a transport are sent once there is one."""
        sent: list[bytes] = []
        router = EmitRouter(self.pair.clock, Handlers(), sent.append)
        answer = router.emit("n", 1)
        self.pair.turn()
        self.assertEqual(sent, [])
        router.resumeProducing()
        self.assertEqual(sent, [b'["emit",1,"n",1]'])
        router.end(PeerLost, "gone")
        self.failed(answer, PeerLost)

    def test_transport_gone(self) -> None:
        """A transport that takes nothing any more gets nothing."""
        answer = self.router.emit("n", 1)
        self.router.stopProducing()
        self.pair.turn()
        self.assertEqual(self.pair.batches, [])
        self.router.end(PeerLost, "gone")
        self.failed(answer, PeerLost)

    def test_producer(self) -> None:
        """It is the push producer that a transport wants."""
        verifyObject(IPushProducer, self.router)


class GarbageTests(RouterTestCase):
    """Batches that no router sends."""

    def test_among_others(self) -> None:
        """What is no message is ignored with one line in the log; its neighbours live."""
        got: list[Any] = []
        self.pair.handlers.on("n", got.append)
        self.router.batch_received(
            b'["emit",1,"n",1]\nrubbish\n["emit",2,"n",2]\n\n{}\n["results",9,[]]\n["emit",3,"n",3]'
        )
        self.assertEqual(got, [1, 2, 3])
        [line] = self.log
        self.assertEqual(
            line,
            "warn ignored 4 of 7 messages from worker 3;"
            " the first: Expecting value: line 1 column 1 (char 0): b'rubbish'",
        )

    def test_answer_to_nothing(self) -> None:
        """An answer to an emit that never was, or a second one, changes nothing."""
        self.pair.theirs.on("n", lambda args: "right")
        answer = self.router.emit("n")
        self.router.batch_received(b'["results",2,["wrong"]]\n["results",-1,["wrong"]]')
        self.pair.turn()
        self.router.batch_received(b'["results",1,["wrong"]]')
        self.assertEqual(self.successResultOf(answer), ["right"])
        self.assertEqual(len(self.log), 2)
        self.assert_nothing_left()

    def test_wrong_shape(self) -> None:
        """An answer of the wrong shape to a real emit is ignored; the emit ends by its deadline."""
        answer = self.router.emit("n", timeout=1)
        self.router.batch_received(b'["results",1,"wrong"]')
        self.assertNoResult(answer)
        self.router.stopProducing()
        self.pair.clock.advance(1)
        self.failed(answer, EmitTimeout)

    def test_long_garbage(self) -> None:
        """A long batch is one message: megabytes of line ends are no million messages."""
        self.router.batch_received(b"\n" * 10**6)
        self.assertIn("ignored 1 of 1 messages", self.log[0])
        self.assertLess(len(self.log[0]), 600)

    @settings(deadline=None)
    @given(st.lists(st.binary(max_size=30) | st.from_regex(rb'\["[a-z]{4}",[1-9],.*\]\n?'), max_size=5))
    def test_anything(self, batches: list[bytes]) -> None:
        """Whatever bytes arrive, nothing is raised, and the router goes on."""
        pair = Pair()
        pair.theirs.on("n", lambda args: args)
        for batch in batches:
            pair.router.batch_received(batch)
        answer = pair.router.emit("n", 7)
        pair.turn()
        self.assertEqual(self.successResultOf(answer), [7])


class World:
    """A pair of routers, and everything that can happen to them, by name."""

    def __init__(self) -> None:
        self.pair = pair = Pair()
        self.waiting: list[Deferred[Any]] = []
        self.answers: list[Deferred[list[Any]]] = []
        self.ended: list[Any] = []
        for handlers in (pair.handlers, pair.theirs):
            handlers.on("n", lambda args: args)
            handlers.on("wait", self.wait)
            handlers.on("fail", lambda args: args["no such key"])
        self.actions: dict[str, Callable[[], None]] = {
            "emit": lambda: self.emit(pair.router, "n", 1),
            "emit back": lambda: self.emit(pair.their_router, "n", 1),
            "large": lambda: self.emit(pair.router, "n", LARGE),
            "nobody": lambda: self.emit(pair.router, "nobody"),
            "fail": lambda: self.emit(pair.router, "fail"),
            "wait": lambda: self.emit(pair.router, "wait"),
            "fire": self.fire,
            "cancel": self.cancel,
            "turn": pair.turn,
            "second": lambda: pair.clock.advance(1),
            "pause": pair.router.pauseProducing,
            "resume": pair.router.resumeProducing,
            "pause back": pair.their_router.pauseProducing,
            "resume back": pair.their_router.resumeProducing,
            "end": lambda: pair.router.end(LinkDestroyed, "closed"),
            "end back": lambda: pair.their_router.end(PeerLost, "lost"),
        }

    def emit(self, router: EmitRouter, name: str, args: Any = None) -> None:
        self.answers.append(router.emit(name, args, timeout=len(self.answers) % 7 + 1))
        self.answers[-1].addBoth(self.ended.append)

    def wait(self, args: Any) -> Deferred[Any]:
        self.waiting.append(Deferred())
        return self.waiting[-1]

    def fire(self) -> None:
        if self.waiting:
            self.waiting.pop().callback("late")

    def cancel(self) -> None:
        if self.answers:
            self.answers[len(self.ended) % len(self.answers)].cancel()


class LawTests(RouterTestCase):
    """Whatever happens, in whatever order, every emit ends and leaves nothing."""

    @settings(deadline=None, max_examples=200)
    @given(st.lists(st.sampled_from(list(World().actions)), max_size=40))
    def test_every_emit_ends(self, steps: list[str]) -> None:
        """After the longest deadline nothing is pending, queued, timed or counted, at either end."""
        world = World()
        for step in steps:
            world.actions[step]()
        pair = world.pair
        pair.clock.pump([1] * 8)
        self.assertEqual(len(world.ended), len(world.answers))
        for outcome in world.ended:
            if not isinstance(outcome, list):
                self.assertTrue(outcome.check(EmitError, CancelledError), outcome)
        for router in (pair.router, pair.their_router):
            self.assertEqual((router.unanswered, router._in_flight_bytes), (0, 0))
            router.resumeProducing()
            self.assertEqual(router.unsent, 0)
        pair.turn()
        self.assertEqual(pair.clock.getDelayedCalls(), [])
