"""The pipe that a worker prints into, and what is read from it."""

from __future__ import annotations

import os
from typing import Any

from twisted.internet.interfaces import IReadDescriptor
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from serverworker.monitor.worker_output import WorkerOutput
from serverworker.processes.output_pipe import GATHER_SECONDS, READ_BYTES, OutputPipe
from serverworker.testing import FakeReactor
from serverworker.values.lines import OutputLines


class PipeCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = FakeReactor()

    def pipe(self) -> tuple[int, int]:
        """The end to read, which the test gives away, and the end to write."""
        reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.addCleanup(os.close, writing)
        return reading, writing

    def read(self) -> None:
        """As the reactor does it, once for each that waits."""
        for reader in tuple(self.reactor.readers):
            reader.doRead()


class OutputPipeTests(PipeCase):
    """`OutputPipe`."""

    def setUp(self) -> None:
        super().setUp()
        self.received: list[bytes] = []
        reading, self.writing = self.pipe()
        self.output = OutputPipe(self.reactor, reading, self.received.append)
        self.addCleanup(self.output.close)

    def test_descriptor(self) -> None:
        """It is what a reactor reads."""
        self.assertTrue(verifyObject(IReadDescriptor, self.output))
        self.assertTrue(os.fstat(self.output.fileno()))

    def test_not_before_it_is_resumed(self) -> None:
        """Nothing is read, and nobody waits for it, before that."""
        self.assertEqual(self.reactor.readers, [])
        self.output.resume()
        self.assertEqual(self.reactor.readers, [self.output])

    def test_little(self) -> None:
        """A line is read at once; whatever follows within a millisecond is read together."""
        self.output.resume()
        os.write(self.writing, b"one\n")
        self.read()
        os.write(self.writing, b"two\n")
        self.read()
        os.write(self.writing, b"three\n")
        self.assertEqual(self.received, [b"one\n"])
        self.reactor.pass_seconds(GATHER_SECONDS)
        self.read()
        self.assertEqual(self.received, [b"one\n", b"two\nthree\n"])

    def test_much(self) -> None:
        """Who writes faster than is read is read on without a pause, so much at a time that others have their turn."""
        self.output.resume()
        for _ in range(2):
            os.write(self.writing, b"x" * READ_BYTES)
            self.read()
        self.assertEqual([len(data) for data in self.received], [READ_BYTES] * 2)

    def test_paused(self) -> None:
        """Nothing is read while it is paused, a pause for a millisecond being no excuse."""
        self.output.resume()
        os.write(self.writing, b"one\n")
        self.read()
        self.output.pause()
        os.write(self.writing, b"two\n")
        self.reactor.pass_seconds(1)
        self.read()
        self.assertEqual(self.received, [b"one\n"])
        self.output.resume()
        self.read()
        self.assertEqual(self.received, [b"one\n", b"two\n"])

    def test_resumed_within_the_millisecond(self) -> None:
        """That changes nothing of it."""
        self.output.resume()
        os.write(self.writing, b"one\n")
        self.read()
        self.output.pause()
        self.output.resume()
        self.assertEqual(self.reactor.readers, [])
        self.reactor.pass_seconds(GATHER_SECONDS)
        self.assertEqual(self.reactor.readers, [self.output])

    def test_nothing_there(self) -> None:
        """A reactor may be mistaken."""
        self.output.resume()
        self.read()
        self.assertEqual((self.received, self.reactor.readers), ([], [self.output]))

    def test_end(self) -> None:
        """When nobody can write any more it is closed, and nobody waits for it."""
        reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        output = OutputPipe(self.reactor, reading, self.received.append)
        output.resume()
        os.close(writing)
        self.read()
        self.assertEqual((output.fileno(), self.reactor.readers), (-1, []))
        self.assertRaises(OSError, os.fstat, reading)
        output.resume()
        output.read_rest()
        self.assertEqual((self.received, self.reactor.readers), ([], []))

    def test_given_up(self) -> None:
        """What the reactor gives up is closed; no timer is left."""
        self.output.resume()
        os.write(self.writing, b"one\n")
        self.read()
        self.output.connectionLost(Failure(OSError()))
        self.assertEqual((self.output.fileno(), self.reactor.getDelayedCalls()), (-1, []))

    def test_rest(self) -> None:
        """What is left is read though it is paused, and the pipe closed, whoever else may hold it."""
        os.write(self.writing, b"last words")
        self.output.read_rest()
        self.assertEqual(self.received, [b"last words"])
        self.assertEqual(self.output.fileno(), -1)


class WorkerOutputTests(PipeCase):
    """`WorkerOutput`."""

    def setUp(self) -> None:
        super().setUp()
        self.told: list[OutputLines] = []
        self.output = WorkerOutput("worker 3", self.told.append)
        (stdout, self.stdout), (stderr, self.stderr) = self.pipe(), self.pipe()
        self.output.open(self.reactor, stdout, stderr)
        self.addCleanup(self.output.finish)

    def shown(self) -> list[Any]:
        return [(lines.source, lines.stream, *lines.text.split("\n")) for lines in self.told]

    def test_both(self) -> None:
        """Whole lines of each stream, as many as came at once; the last ones are kept."""
        self.output.resume()
        os.write(self.stdout, b"one\ntwo\nthr")
        os.write(self.stderr, b"error\n")
        self.read()
        self.assertEqual(
            self.shown(), [("worker 3", "stdout", "one", "two"), ("worker 3", "stderr", "error")]
        )
        self.assertEqual([line.text for line in self.output.last_lines()], ["one", "two", "error"])

    def test_nothing_whole(self) -> None:
        """Half a line is no line yet."""
        self.output.resume()
        os.write(self.stdout, b"ha")
        self.read()
        self.assertEqual(self.told, [])

    def test_pause(self) -> None:
        """Both streams."""
        self.output.resume()
        self.output.pause()
        self.assertEqual(self.reactor.readers, [])
        self.output.resume()
        self.assertEqual(len(self.reactor.readers), 2)

    def test_finish(self) -> None:
        """What is in the pipes, and the beginning of a line, is told at the end, once."""
        os.write(self.stdout, b"one\ntw")
        self.output.finish()
        self.output.finish()
        self.assertEqual(self.shown(), [("worker 3", "stdout", "one"), ("worker 3", "stdout", "tw")])

    def test_never_started(self) -> None:
        """A worker that could not be started has printed nothing."""
        output = WorkerOutput("worker 4", self.told.append)
        output.pause()
        output.resume()
        output.finish()
        self.assertEqual((self.told, output.last_lines()), ([], ()))
