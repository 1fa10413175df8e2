"""Being told of events over the control port: all of them, in order, whoever is slow, lost, or comes back."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from serverworker.control import Position
from serverworker.surfaces.control_peer import ANSWER_SECONDS, BATCH_EVENTS, GATHER_SECONDS
from serverworker.values.causes import Beat
from serverworker.values.errors import BadCommand
from serverworker.values.events import CommandFinished, Heartbeat, Lifecycle, OutputLine
from serverworker.values.lines import OutputLines
from tests.unit.control_case import ControlCase, Joined


class SubscribedCase(ControlCase):
    def setUp(self) -> None:
        super().setUp()
        self.heard: list[Any] = []
        self.missed: list[bool] = []
        self.had: Deferred[None] = Deferred()

    def happen(self, *texts: str) -> None:
        """Events of the session, and the time in which they are gathered."""
        for text in texts:
            self.stream.publish(Lifecycle(worker=1, text=text))

    def pass_on(self, *some: Joined) -> None:
        """Time goes by, and what is said arrives."""
        for _ in range(5):
            self.clock.advance(GATHER_SECONDS)
            self.pump(*some)

    def subscribe(self, joined: Joined, **options: Any) -> Position:
        asked = joined.client.subscribe(self.heard.append, missed=lambda: self.missed.append(True), **options)
        position: Position = self.answer(joined, asked)
        return position

    def hear_slowly(self, event: Any) -> Deferred[None]:
        """A listener that takes its time."""
        self.heard.append(event)
        return self.had

    @property
    def texts(self) -> list[str]:
        return [event["fields"]["text"] for event in self.heard]


class SubscriptionTests(SubscribedCase):
    """A subscriber that keeps up."""

    def test_from_now_on(self) -> None:
        """It is told of what happens after it asked, in order, and of each once."""
        self.happen("before")
        joined = self.join()
        self.assertEqual(self.subscribe(joined), Position(session="session 1", sequence=1))
        self.happen("a", "b")
        self.pass_on(joined)
        self.happen("c")
        self.pass_on(joined)
        self.assertEqual(self.texts, ["a", "b", "c"])
        self.assertEqual(joined.client.position, Position(session="session 1", sequence=4))
        self.assertEqual([event["sequence"] for event in self.heard], [2, 3, 4])

    def test_gathered(self) -> None:
        """What happens in one go comes in one message."""
        joined = self.join()
        self.subscribe(joined)
        joined.wire.written.clear()
        self.happen(*"abcdefgh")
        self.clock.advance(GATHER_SECONDS)
        self.assertEqual(len(joined.wire.written), 1)

    def test_resume(self) -> None:
        """Whoever comes back with his position has missed nothing."""
        joined = self.join()
        self.subscribe(joined)
        self.happen("a")
        self.pass_on(joined)
        position = joined.client.position
        self.part(joined)
        self.happen("b", "c")
        joined = self.join()
        self.subscribe(joined, since=position)
        self.happen("d")
        self.pass_on(joined)
        self.assertEqual((self.texts, self.missed), (["a", "b", "c", "d"], []))

    def test_another_session(self) -> None:
        """A position of a session that is gone means all that this one has kept."""
        self.happen("a", "b")
        joined = self.join()
        self.subscribe(joined, since=Position(session="session 0", sequence=700))
        self.pass_on(joined)
        self.assertEqual(self.texts, ["a", "b"])
        self.assertEqual(joined.client.position, Position(session="session 1", sequence=2))

    def test_a_position_that_never_was(self) -> None:
        """One past the newest event, or before the first, does no harm."""
        self.happen("a")
        for sequence in (10**9, -5):
            self.heard.clear()
            joined = self.join()
            self.subscribe(joined, since=Position(session="session 1", sequence=sequence))
            self.pass_on(joined)
            self.happen("later")
            self.pass_on(joined)
            self.assertEqual(self.texts[-1:], ["later"])
            self.part(joined)

    def test_kinds(self) -> None:
        """Only those of the kinds that were asked for; the position goes on all the same."""
        joined = self.join()
        self.subscribe(joined, kinds=["CommandFinished"])
        self.happen("a")
        self.stream.publish(CommandFinished(command="true", status=0))
        self.happen("b")
        self.pass_on(joined)
        self.assertEqual([event["event"] for event in self.heard], ["CommandFinished"])

    def test_output(self) -> None:
        """What workers print comes in its order among the events, to who asked for it alone; heartbeats never."""
        with_output, without = self.join(), self.join()
        self.subscribe(with_output, output=True)
        heard: list[Any] = []
        self.answer(without, without.client.subscribe(heard.append))
        self.stream.publish(OutputLine(source="worker 1", stream="stdout", text="1"))
        self.happen("2")
        lines = OutputLines(source="worker 1", stream="stdout", text="3\n4", count=2)
        self.stream.publish_lines(lines)
        self.stream.publish(Heartbeat(worker=1, beat=Beat(at=1000.0, ok=True, seconds=0.1, text="200")))
        self.pass_on(with_output, without)
        self.assertEqual(self.texts, ["1", "2", "3", "4"])
        self.assertEqual([event["fields"]["text"] for event in heard], ["2"])

    def test_replaced(self) -> None:
        """A second subscription takes the place of the first; one that is refused leaves it as it is."""
        joined = self.join()
        self.subscribe(joined)
        self.refusal(joined, joined.client.subscribe(print, kinds=["Nothing"]), BadCommand)
        self.happen("a")
        self.pass_on(joined)
        second: list[Any] = []
        self.answer(joined, joined.client.subscribe(second.append))
        self.happen("b")
        self.pass_on(joined)
        self.assertEqual((self.texts, len(second)), (["a"], 1))

    def test_unsubscribe(self) -> None:
        """After that nothing comes, and nothing is left behind."""
        joined = self.join()
        self.subscribe(joined)
        self.happen("a")
        self.answer(joined, joined.client.unsubscribe())
        self.pass_on(joined)
        self.assertEqual(self.texts, [])
        self.assertEqual(self.history._wakers, [])

    def test_lost(self) -> None:
        """Nor after the connection is gone."""
        joined = self.join()
        self.subscribe(joined)
        self.happen("a")
        self.part(joined)
        self.clock.advance(1)
        self.assertEqual((self.history._wakers, self.clock.getDelayedCalls()), ([], []))

    def test_the_last(self) -> None:
        """What was still being gathered is told before the port closes the connection."""
        self.port._reader = _Reader()  # type: ignore[assignment]
        joined = self.join()
        self.subscribe(joined)
        self.happen("the end")
        self.port.close()
        self.pump(joined)
        self.assertEqual(self.texts, ["the end"])


class SlowTests(SubscribedCase):
    """A subscriber that does not keep up."""

    def test_one_message_at_a_time(self) -> None:
        """However much happens, one message waits for him; when he has had it, the rest comes, in bounded parts."""
        joined = self.join()
        self.answer(joined, joined.client.subscribe(self.hear_slowly))
        self.happen("first")
        self.pass_on(joined)
        self.happen(*map(str, range(BATCH_EVENTS * 2)))
        self.pass_on(joined)
        self.assertEqual(self.texts, ["first"])
        self.assertEqual(joined.wire.written, [])
        self.had.callback(None)
        self.pass_on(joined)
        self.assertEqual(self.texts, ["first", *map(str, range(BATCH_EVENTS * 2))])

    def test_missed(self) -> None:
        """Where more happened than is kept, he is told that he missed some, and goes on with the oldest there is."""
        joined = self.join()
        asked = joined.client.subscribe(self.hear_slowly, missed=lambda: self.missed.append(True))
        self.answer(joined, asked)
        self.happen("first")
        self.pass_on(joined)
        self.happen(*map(str, range(3000)))
        self.had.callback(None)
        self.pass_on(joined)
        self.assertEqual(self.missed, [True])
        self.assertEqual(self.texts, ["first", *map(str, range(1000, 3000))])

    def test_large_events(self) -> None:
        """A message is bounded in bytes, too; an event that is larger comes alone."""
        joined = self.join()
        self.subscribe(joined)
        self.happen("a" * 300_000, "b" * 200_000, "c" * 200_000)
        sizes = []
        for _ in range(5):
            self.clock.advance(GATHER_SECONDS)
            sizes.append(sum(map(len, joined.wire.written)) // 100_000)
            self.pump(joined)
        self.assertEqual(
            [size for size in sizes if size], [6, 4, 4]
        )  # each text stands in the sentence and in the fields
        self.assertEqual([text[0] for text in self.texts], ["a", "b", "c"])

    def test_never_answers(self) -> None:
        """Who does not answer within a minute is let go of."""
        joined = self.join()
        self.subscribe(joined)
        self.happen("a")
        self.clock.advance(GATHER_SECONDS)
        self.clock.advance(ANSWER_SECONDS)
        self.assertEqual(joined.wire.closed, "aborted")

    def test_listener_fails(self) -> None:
        """A listener that raises is reported, and told of the next event all the same."""

        def listener(event: Any) -> None:
            self.heard.append(event)
            raise ValueError("it cannot read that")

        joined = self.join()
        self.answer(joined, joined.client.subscribe(listener))
        self.happen("a", "b")
        self.pass_on(joined)
        self.assertEqual(self.texts, ["a", "b"])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 2)


class _Reader:
    def stop(self) -> None:
        """Nothing was started."""
