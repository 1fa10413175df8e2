"""Back-pressure: who waits, for how long, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from serverworker.monitor.output_flow import PATIENCE_SECONDS, OutputFlow
from serverworker.testing import FakeReactor
from serverworker.values.events import OutputDropped


class FakeSink:
    """A place for the log that is full when the test says so."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_full = False
        self.given_up = 0
        self.dropped: dict[str, int] = {}
        self._call: Callable[[], None] | None = None

    def when_room(self, call: Callable[[], None]) -> None:
        self._call = call

    def give_up(self) -> None:
        self.given_up += 1

    def take_dropped(self) -> dict[str, int]:
        dropped, self.dropped = self.dropped, {}
        return dropped

    def make_room(self) -> None:
        self.is_full = False
        call, self._call = self._call, None
        assert call is not None
        call()


class FakeTap:
    def __init__(self) -> None:
        self.is_open = False

    def pause(self) -> None:
        assert self.is_open
        self.is_open = False

    def resume(self) -> None:
        assert not self.is_open
        self.is_open = True


class OutputFlowTests(SynchronousTestCase):
    """`OutputFlow`."""

    def setUp(self) -> None:
        self.reactor = FakeReactor()
        self.told: list[OutputDropped] = []
        self.flow = OutputFlow(self.reactor, self.told.append)
        self.terminal, self.file = FakeSink("the terminal"), FakeSink("the file")
        self.tap = FakeTap()
        self.flow.add(self.tap)
        for sink in (self.terminal, self.file):
            self.flow.watch(sink)

    def fill(self, sink: FakeSink) -> None:
        sink.is_full = True
        self.flow.printed()

    def test_open(self) -> None:
        """Output comes as long as there is room."""
        self.flow.printed()
        self.assertTrue(self.tap.is_open)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_waits(self) -> None:
        """With one full sink nothing comes, until there is room; then nothing is said and no timer is left."""
        self.fill(self.file)
        self.assertFalse(self.tap.is_open)
        self.flow.printed()
        self.reactor.pass_seconds(PATIENCE_SECONDS - 0.01)
        self.assertFalse(self.tap.is_open)
        self.file.make_room()
        self.reactor.turn()
        self.assertTrue(self.tap.is_open)
        self.assertEqual((self.told, self.file.given_up, self.reactor.getDelayedCalls()), ([], 0, []))

    def test_gives_up(self) -> None:
        """After five seconds it goes on without that sink, and does not wait for it again before it has had room."""
        self.fill(self.file)
        self.reactor.pass_seconds(PATIENCE_SECONDS)
        self.assertEqual((self.tap.is_open, self.file.given_up), (True, 1))
        self.flow.printed()
        self.assertTrue(self.tap.is_open)
        self.file.dropped = {"worker 1": 7, "worker 2": 1}
        self.file.make_room()
        self.reactor.turn()
        self.assertEqual(
            self.told,
            [
                OutputDropped(origin="worker 1", lines=7, sink="the file"),
                OutputDropped(origin="worker 2", lines=1, sink="the file"),
            ],
        )
        self.fill(self.file)
        self.assertFalse(self.tap.is_open)

    def test_two(self) -> None:
        """The slower of two sinks counts; one that has been given up holds up nobody while the other has room."""
        self.fill(self.terminal)
        self.reactor.pass_seconds(1)
        self.fill(self.file)
        self.reactor.pass_seconds(PATIENCE_SECONDS - 1)
        self.assertEqual((self.terminal.given_up, self.tap.is_open), (1, False))
        self.file.make_room()
        self.reactor.turn()
        self.assertTrue(self.tap.is_open)
        self.terminal.make_room()
        self.reactor.turn()
        self.assertTrue(self.tap.is_open)

    def test_new_worker(self) -> None:
        """One that is started meanwhile waits with the others; one that is gone is let alone."""
        self.fill(self.file)
        new = FakeTap()
        self.flow.add(new)
        self.assertFalse(new.is_open)
        self.flow.remove(self.tap)
        self.file.make_room()
        self.reactor.turn()
        self.assertEqual((new.is_open, self.tap.is_open), (True, False))

    def test_shorter_patience(self) -> None:
        """It may be shorter: where workers that wait so long would be taken for hung ones."""
        self.flow = OutputFlow(self.reactor, self.told.append, lambda: 2.0)
        self.flow.watch(self.file)
        self.fill(self.file)
        self.reactor.pass_seconds(2)
        self.assertEqual(self.file.given_up, 1)

    def test_close(self) -> None:
        """At the end what was dropped is said, nothing is waited for, and a sink that has room later is too late."""
        self.fill(self.file)
        self.fill(self.terminal)
        self.file.dropped = {"worker 1": 7}
        self.flow.close()
        self.assertEqual(self.told, [OutputDropped(origin="worker 1", lines=7, sink="the file")])
        self.assertTrue(self.tap.is_open)
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.file.make_room()
        self.reactor.turn()
        self.flow.printed()
        self.assertEqual(len(self.told), 1)
