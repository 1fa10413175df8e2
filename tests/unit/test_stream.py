"""The stream of events: one order for all, and no observer harms another."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from serverworker.monitor.stream import EventStream, ignore_lines
from serverworker.values.events import Fault, Lifecycle, OutputLine, Told
from serverworker.values.lines import OutputLines, ToldLines


def note(text: str) -> Lifecycle:
    return Lifecycle(worker=1, text=text)


def lines(*texts: str) -> OutputLines:
    return OutputLines(source="worker 1", stream="stdout", text="\n".join(texts), count=len(texts))


class StreamTests(SynchronousTestCase):
    """Who is told what, and in which order."""

    def setUp(self) -> None:
        self.now = 1000.0
        self.stream = EventStream(lambda: self.now)
        self.told: list[Told] = []

    def texts(self) -> list[str]:
        return [each.event.text if isinstance(each.event, Lifecycle) else each.name for each in self.told]

    def test_numbers_and_times(self) -> None:
        """Events are numbered from 1 without a gap, and bear the wall clock's time."""
        self.stream.observe(self.told.append)
        self.stream.publish(note("one"))
        self.now = 1001.5
        self.stream.publish(note("two"))
        self.assertEqual([(each.sequence, each.at) for each in self.told], [(1, 1000.0), (2, 1001.5)])
        self.assertEqual(self.texts(), ["one", "two"])

    def test_numbers_without_observers(self) -> None:
        """An event that nobody heard has its number all the same."""
        self.stream.publish(note("unheard"))
        self.stream.observe(self.told.append)
        self.stream.publish(note("heard"))
        self.assertEqual(self.told[0].sequence, 2)

    def test_everybody_is_told(self) -> None:
        """Each observer is told of each event, in the order of their coming."""
        order: list[str] = []
        self.stream.observe(lambda told: order.append("first"))
        self.stream.observe(lambda told: order.append("second"))
        self.stream.publish(note("one"))
        self.assertEqual(order, ["first", "second"])

    def test_end(self) -> None:
        """An observer that ends it is told no more; to end it twice harms nobody."""
        end = self.stream.observe(self.told.append)
        self.stream.publish(note("one"))
        end()
        end()
        self.stream.publish(note("two"))
        self.assertEqual(self.texts(), ["one"])

    def test_ends_itself_while_it_is_told(self) -> None:
        """An observer may end it from within: the others miss nothing."""

        def once(told: Told) -> None:
            end()

        end = self.stream.observe(once)
        self.stream.observe(self.told.append)
        self.stream.publish(note("one"))
        self.stream.publish(note("two"))
        self.assertEqual(self.texts(), ["one", "two"])

    def test_publishes_while_it_is_told(self) -> None:
        """An event that an observer publishes comes after the present one, for those too who were told later."""

        def echo(told: Told) -> None:
            if isinstance(told.event, Lifecycle) and told.event.text == "call":
                self.stream.publish(note("echo"))

        self.stream.observe(echo)
        self.stream.observe(self.told.append)
        self.stream.publish(note("call"))
        self.assertEqual(self.texts(), ["call", "echo"])
        self.assertEqual([each.sequence for each in self.told], [1, 2])

    def test_one_that_raises(self) -> None:
        """What an observer raises is told as a fault that names it, and the others are told as before."""

        def broken(told: Told) -> None:
            if not isinstance(told.event, Fault):
                raise OSError("disk full")

        self.stream.observe(broken)
        self.stream.observe(self.told.append)
        self.stream.publish(note("one"))
        self.assertEqual(self.texts(), ["one", "Fault"])
        fault = self.told[1].event
        assert isinstance(fault, Fault)
        self.assertIn("broken", fault.where)
        self.assertEqual(fault.error.message, "disk full")
        self.assertEqual(fault.next_step, "the session goes on")
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)

    def test_one_that_always_raises(self) -> None:
        """An observer that fails at its own fault too is told of it once, not for ever."""

        def broken(told: Told) -> None:
            raise OSError("disk full")

        self.stream.observe(broken)
        self.stream.observe(self.told.append)
        self.stream.publish(note("one"))
        self.stream.publish(note("two"))
        self.assertEqual(self.texts(), ["one", "Fault", "two", "Fault"])
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 4)

    def test_an_observer_without_a_name(self) -> None:
        """An object that can be called is named by its class."""

        class Journal:
            def __call__(self, told: Told) -> None:
                raise OSError("disk full")

        self.stream.observe(Journal())
        self.stream.observe(self.told.append)
        self.stream.publish(note("one"))
        fault = self.told[1].event
        assert isinstance(fault, Fault)
        self.assertEqual(fault.where, "observer Journal")
        self.flushLoggedErrors(OSError)

    # --- many lines at once ---------------------------------------------------------------------

    def printed(self) -> list[str]:
        return [each.event.text for each in self.told if isinstance(each.event, OutputLine)]

    def test_lines_one_by_one(self) -> None:
        """An observer that says nothing else is told of each line, numbered among the other events."""
        self.stream.observe(self.told.append)
        self.stream.publish(note("one"))
        self.stream.publish_lines(lines("a", "b"))
        self.stream.publish(note("two"))
        self.assertEqual([each.sequence for each in self.told], [1, 2, 3, 4])
        self.assertEqual(self.printed(), ["a", "b"])

    def test_lines_at_once(self) -> None:
        """One that can take them together gets them as they came; one that ignores them gets none."""
        together: list[ToldLines] = []
        self.stream.observe(self.told.append, together.append)
        self.stream.observe(self.told.append, ignore_lines)
        self.stream.publish_lines(lines("a", "b"))
        self.assertEqual(together, [ToldLines(sequence=1, at=1000.0, lines=lines("a", "b"))])
        self.assertEqual(self.told, [])

    def test_lines_and_what_is_published_meanwhile(self) -> None:
        """An event that an observer publishes at a line comes after all lines that came with it, for everybody."""

        def echo(told: Told) -> None:
            if isinstance(told.event, OutputLine) and told.event.text == "a":
                self.stream.publish(note("echo"))

        self.stream.observe(echo)
        self.stream.observe(self.told.append)
        self.stream.publish_lines(lines("a", "b"))
        self.assertEqual([(each.sequence, each.name) for each in self.told][-1], (3, "Lifecycle"))
        self.assertEqual(self.printed(), ["a", "b"])

    def test_heard_enough(self) -> None:
        """An observer that ends it at one line is not told of the next, though they came together."""

        def once(told: Told) -> None:
            self.told.append(told)
            end()

        end = self.stream.observe(once)
        self.stream.publish_lines(lines("a", "b"))
        self.assertEqual(self.printed(), ["a"])

    def test_one_that_raises_at_lines(self) -> None:
        """It is told as a fault, and the others have the lines."""

        def broken(told: ToldLines) -> None:
            raise OSError("disk full")

        self.stream.observe(lambda told: None, broken)
        self.stream.observe(self.told.append)
        self.stream.publish_lines(lines("a", "b"))
        self.assertEqual(self.printed(), ["a", "b"])
        fault = self.told[-1].event
        assert isinstance(fault, Fault)
        self.assertIn("broken", fault.where)
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)
