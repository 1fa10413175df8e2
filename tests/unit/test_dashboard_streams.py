"""What open pages are told: from where, how often, and until when."""

from __future__ import annotations

import json
from typing import Any

from serverworker.monitor.figures import WorkerFigures
from serverworker.surfaces.dashboard import streams
from serverworker.surfaces.dashboard.exchange import Refused
from serverworker.surfaces.dashboard.logins import IDLE_SECONDS
from serverworker.surfaces.dashboard.series import KEPT_SAMPLES, SAMPLE_SECONDS, Series
from serverworker.surfaces.dashboard.streams import (
    BATCH_BYTES,
    BATCH_EVENTS,
    FIRST_EVENTS,
    GATHER_SECONDS,
    MOST_STREAMS,
    SILENCE_SECONDS,
    STALLED_SECONDS,
)
from serverworker.values.causes import Beat
from serverworker.values.events import Heartbeat, Told
from tests.unit.dashboard_case import DashboardCase


class FakePipe:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, Any, str]] = []
        """Name, value and id."""
        self.comments = 0
        self.finished = False
        self.aborted = False
        self.producer: Any = None

    def begin(self) -> None:
        pass

    def write(self, data: bytes) -> None:
        for block in data.decode().split("\n\n"):
            fields = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line)
            self.comments += block.startswith(":")
            if "event" in fields:
                self.messages.append((fields["event"], json.loads(fields["data"]), fields.get("id", "")))

    def finish(self) -> None:
        self.finished = True

    def abort(self) -> None:
        self.aborted = True

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert streaming
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None

    def named(self, name: str) -> list[Any]:
        return [value for each, value, _ in self.messages if each == name]

    @property
    def told(self) -> list[int]:
        """The numbers of all events."""
        return [event["sequence"] for events in self.named("told") for event in events]


class StreamCase(DashboardCase):
    def follow(self, last_event_id: str = "", login: Any = None) -> FakePipe:
        pipe = FakePipe()
        self.streams.open(pipe, login, last_event_id)
        return pipe

    def gather(self) -> None:
        self.clock.advance(GATHER_SECONDS)

    def seconds(self, number: int) -> None:
        for _ in range(number):
            self.clock.advance(1)

    def tearDown(self) -> None:
        self.streams.close()
        self.assertEqual([], self.clock.getDelayedCalls())


class TellingTests(StreamCase):
    """Events and lines."""

    def test_the_first_time(self) -> None:
        """Somebody new is told which session it is, how it is, and what happened lately, lines of output in their place."""
        self.change()
        self.print("<b>hello</b> \\n world")
        self.change()
        pipe = self.follow()
        self.assertEqual(["hello", "status", "told"], [name for name, _, _ in pipe.messages])
        self.assertEqual([{"session": "s"}], pipe.named("hello"))
        self.assertEqual(([1, 2, 3], "s:3"), (pipe.told, pipe.messages[-1][2]))
        self.assertEqual("<b>hello</b> \\n world", pipe.named("told")[0][1]["fields"]["text"])

    def test_how_much_the_first_time(self) -> None:
        """A long session does not bury somebody new: the newest come, bounded in number and bytes."""
        self.change(FIRST_EVENTS + 50)
        self.assertEqual(list(range(51, FIRST_EVENTS + 51)), self.follow().told)
        for _ in range(4):
            self.print("x" * (BATCH_BYTES // 5))  # an event has it twice
        self.assertEqual([self.sequence - 1, self.sequence], self.follow().told)

    def test_gathered(self) -> None:
        """What comes within a tenth of a second is one message; then nothing is sent until more comes."""
        pipe = self.follow()
        self.change(3)
        self.assertEqual([], pipe.told)
        self.gather()
        self.assertEqual(
            [[1, 2, 3]], [[each["sequence"] for each in some] for some in pipe.named("told")][1:]
        )
        self.assertEqual("s:3", pipe.messages[-1][2])

    def test_coming_back(self) -> None:
        """Who comes back is told what came meanwhile, each once, and nothing is said to be missing."""
        self.change(5)
        pipe = self.follow("s:3")
        self.print("six")
        self.gather()
        self.assertEqual([4, 5, 6], pipe.told)
        self.assertEqual([], pipe.named("missed"))

    def test_coming_back_to_another_session(self) -> None:
        """A place in another session, or nonsense, is none: it begins anew."""
        self.change(5)
        for bad in ("t:3", "s:x", "s:-1", "s", ":3", "s:" + "9" * 30):
            self.assertEqual([1, 2, 3, 4, 5], self.follow(bad).told, bad)

    def test_what_is_kept_no_more(self) -> None:
        """Who was away for too long is told so, and goes on from what is kept."""
        self.change(streams.BATCH_EVENTS * 5)
        pipe = self.follow("s:1")
        self.gather()
        self.assertEqual([{}], pipe.named("missed"))
        self.assertEqual(501, pipe.told[0])

    def test_batches(self) -> None:
        """Many events come in several messages, so that none is large."""
        self.change(BATCH_EVENTS + 10)
        pipe = self.follow("s:0")
        self.gather()
        self.assertEqual(BATCH_EVENTS, len(pipe.told))
        self.gather()
        self.assertEqual(list(range(1, BATCH_EVENTS + 11)), pipe.told)
        for _ in range(3):
            self.print("x" * (BATCH_BYTES // 2))
        self.gather()
        self.assertEqual(1, len(pipe.named("told")[-1]))
        self.gather()
        self.gather()
        self.assertEqual(self.sequence, pipe.told[-1])


class FigureTests(StreamCase):
    """The status and the samples."""

    def test_at_most_once_a_second(self) -> None:
        """However much happens, a status comes once a second; and once in five when nothing does."""
        pipe = self.follow()
        for _ in range(20):
            self.change()
            self.clock.advance(0.1)
        self.assertIn(len(pipe.named("status")), (2, 3))
        before = len(pipe.named("status"))
        self.seconds(10)
        self.assertEqual(before + 2, len(pipe.named("status")))

    def test_made_once_for_all(self) -> None:
        """Ten pages cost one look at the figures."""
        pipes = [self.follow() for _ in range(10)]
        looks: list[None] = []

        def figures() -> tuple[()]:
            looks.append(None)
            return ()

        self.monitor.figures = figures
        self.change()
        self.seconds(1)
        self.assertEqual(1, len(looks))
        self.assertEqual({2}, {len(pipe.named("status")) for pipe in pipes})

    def test_a_fault_in_the_figures(self) -> None:
        """Without them the events still come, and the next figures too."""
        pipe = self.follow()
        figures, self.monitor.figures = self.monitor.figures, lambda: 1 / 0
        self.change()
        self.seconds(2)
        self.assertEqual([1], pipe.told)
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))
        self.monitor.figures = figures
        self.seconds(5)
        self.assertEqual(1, pipe.named("status")[-1]["sequence"])

    def test_samples(self) -> None:
        """Each new sample is told once; those from before are in ``/api/series``."""
        self.series.start()
        self.seconds(int(SAMPLE_SECONDS))
        pipe = self.follow()
        self.seconds(int(2 * SAMPLE_SECONDS))
        self.assertEqual(2, len(pipe.named("sample")))
        self.series.stop()

    def test_silence(self) -> None:
        """Where even the status does not come, a comment says that the connection lives."""
        pipe = self.follow()
        self.patch(streams, "FIGURES_SECONDS", 1000.0)
        self.seconds(int(2 * SILENCE_SECONDS))
        self.assertEqual((2, 1), (pipe.comments, len(pipe.named("status"))))


class EndTests(StreamCase):
    """Who does not read, who is gone, and who may not listen any more."""

    def test_a_slow_page(self) -> None:
        """While it does not read nothing is written, nor kept for it; when it does it goes on, with one status."""
        pipe = self.follow()
        pipe.producer.pauseProducing()
        written = len(pipe.messages)
        for _ in range(10):
            self.change(50)
            self.seconds(1)
        self.assertEqual(written, len(pipe.messages))
        pipe.producer.resumeProducing()
        self.gather()
        self.seconds(2)
        self.assertEqual(list(range(1, 501)), pipe.told)
        self.assertEqual(2, len(pipe.named("status")))

    def test_paused_while_gathering(self) -> None:
        """What was about to be written waits as well."""
        pipe = self.follow()
        self.change()
        pipe.producer.pauseProducing()
        self.seconds(1)
        self.assertEqual([], pipe.told)

    def test_one_that_never_reads(self) -> None:
        """After a minute it is let go of; the others are not."""
        slow, other = self.follow(), self.follow()
        slow.producer.pauseProducing()
        self.seconds(int(STALLED_SECONDS) - 1)
        self.assertFalse(slow.aborted)
        self.seconds(1)
        self.assertEqual((True, False), (slow.aborted, other.aborted))

    def test_gone(self) -> None:
        """When the last one is gone nothing ticks, and the history wakes nobody."""
        pipe = self.follow()
        self.change()
        pipe.producer.stopProducing()
        self.assertEqual([], self.clock.getDelayedCalls())
        self.change()
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_logged_out(self) -> None:
        """A stream ends within a second of its login; that of a program with the key, and of another login, goes on."""
        one, other = self.gate.logins.begin()[1], self.gate.logins.begin()[1]
        pipes = [self.follow(login=one), self.follow(login=other), self.follow()]
        self.gate.logins.end(one)
        self.change()
        self.seconds(1)
        self.assertEqual([True, False, False], [pipe.finished for pipe in pipes])

    def test_expired(self) -> None:
        """To listen is not to use: a page that is left open is logged out in the end."""
        pipe = self.follow(login=self.gate.logins.begin()[1])
        self.clock.pump([IDLE_SECONDS / 2, IDLE_SECONDS / 2 + 1])
        self.assertTrue(pipe.finished)

    def test_too_many(self) -> None:
        """There is a limit, and room again when one is gone."""
        pipes = [self.follow() for _ in range(MOST_STREAMS)]
        refused = self.assertRaises(Refused, self.follow)
        self.assertEqual(503, refused.answer.code)
        pipes[0].producer.stopProducing()
        self.follow()

    def test_the_end_of_the_session(self) -> None:
        """What was told last is sent before the stream ends; to one that does not read, it is not."""
        pipe, slow = self.follow(), self.follow()
        slow.producer.pauseProducing()
        self.change()
        self.streams.close()
        self.assertEqual(([1], True), (pipe.told, pipe.finished))
        self.assertEqual(([], True), (slow.told, slow.aborted))


class SeriesTests(DashboardCase):
    """The figures over time."""

    def figures(self, worker: int, ping: float | None) -> WorkerFigures:
        return WorkerFigures(
            worker=worker,
            pid=1,
            connections=0,
            requests_started=0,
            requests_finished=0,
            in_flight=0,
            requests=(),
            resident_bytes=None,
            cpu_seconds=None,
            ping_seconds=ping,
            last_beat=None,
        )

    def beat(self, worker: int, seconds: float, ok: bool = True) -> None:
        beat = Beat(at=0.0, ok=ok, seconds=seconds, text="200")
        self.series(Told(sequence=1, at=0.0, event=Heartbeat(worker=worker, beat=beat)))

    def test_a_sample(self) -> None:
        """The slowest heartbeat since the last one, whether one failed, and the lag; of a worker that is there."""
        self.monitor.figures = lambda: (self.figures(1, 0.001), self.figures(2, None))
        series = Series(self.clock, self.monitor.figures, wall_clock=lambda: 0.0)
        self.series = series
        series.start()
        self.beat(1, 0.01)
        self.beat(1, 0.5, ok=False)
        self.beat(1, 0.02)
        self.beat(9, 0.02)
        self.clock.advance(SAMPLE_SECONDS)
        self.clock.advance(SAMPLE_SECONDS)
        first, second = series.as_json()["samples"]
        self.assertEqual({"1": [0.5, False, 0.001], "2": [None, True, None]}, first["workers"])
        self.assertEqual({"1": [None, True, 0.001], "2": [None, True, None]}, second["workers"])
        self.assertEqual("1970-01-01T00:00:00.000Z", first["at"])
        series.stop()
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_bounded(self) -> None:
        """Half an hour is kept."""
        self.series.start()
        self.clock.pump([SAMPLE_SECONDS] * (KEPT_SAMPLES + 5))
        self.assertEqual((KEPT_SAMPLES, KEPT_SAMPLES + 5), (len(self.series.samples), self.series.taken))

    def test_a_fault(self) -> None:
        """A moment without figures is left out, and the next is not."""
        answers: list[Any] = [1 / 3, ()]
        series = Series(self.clock, lambda: answers.pop(0), wall_clock=lambda: 0.0)
        series.start()
        self.clock.pump([SAMPLE_SECONDS] * 2)
        self.assertEqual(1, len(series.samples))
        self.assertEqual(1, len(self.flushLoggedErrors(TypeError)))
