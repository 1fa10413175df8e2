"""The monitor's side of the fork server, with a fake one at the other end of its channel."""

from __future__ import annotations

import errno
import os
import socket

from attrs import evolve
from twisted.internet import process as twisted_process

from serverworker.processes import forking
from serverworker.processes.forking import AGAIN_SECONDS, ForkServer
from tests.unit.forking_case import ENVIRONMENT, READY, SpawnerCase


class ForkTests(SpawnerCase):
    """What is forked, and what is not."""

    def test_forked(self) -> None:
        """The fork server is told what to import, then what the worker is started with, descriptors and all."""
        self.first.answers(READY)
        self.assert_forked()
        self.assertEqual(self.first.heard().content, {"preload": ["klein"]})
        message = self.first.heard()
        for descriptor in message.descriptors:
            os.close(descriptor)
        self.assertEqual(message.content["arguments"][:2], ["--worker=7", "--directory=/srv/site"])
        self.assertEqual(
            message.content["environment"],
            {**ENVIRONMENT, "SERVERWORKER_WORKER": "7", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "server"},
        )
        self.assertEqual((message.content["count"], len(message.descriptors)), (8, 8))
        self.assertEqual((self.reactor.workers, self.reactor.servers), ([], []))

    def test_again_and_again(self) -> None:
        """One fork server forks all workers."""
        self.first.answers(READY)
        for _ in range(3):
            self.assert_forked()
        self.assertEqual((self.reactor.workers, self.reactor.servers), ([], []))

    def test_plain_variable(self) -> None:
        """A variable that is read when it is needed is no reason to start an interpreter."""
        self.first.answers(READY)
        self.assert_forked(self.recipe(DEBUG="1", LC="x", MY_PYTHON="y"))

    def test_another_python(self) -> None:
        """Another interpreter is started, and the fork server, which is of no use to anyone, ended."""
        self.first.answers(READY)
        self.assert_interpreter(self.recipe("/srv/venv/bin/python"))
        self.assertEqual(self.reactor.workers[0][0], "/srv/venv/bin/python")
        self.assertEqual((self.reactor.servers, self.log), ([], []))
        self.assertTrue(self.first.was_ended())

    def test_read_at_start(self) -> None:
        """So is one for each variable that Python, the C library or OpenSSL reads when a process starts."""
        for beginning in forking._READ_AT_START:
            self.first.answers(READY)
            self.assert_interpreter(self.recipe(**{f"{beginning}_MORE": "1"}))
            self.assertTrue(self.first.was_ended(), beginning)
            self.assertEqual((self.reactor.servers, self.log), ([], []))
            self.first.channel.close()
            self.first = self.new_first()

    def test_read_at_start_elsewise(self) -> None:
        """Likewise where such a variable has another value, or is there no more."""
        self.assert_interpreter(self.recipe(LANG="pl_PL.UTF-8"))
        self.first.channel.close()
        self.first = self.new_first()
        with_less = self.recipe()
        less = {name: value for name, value in with_less.environment.items() if name != "LANG"}
        self.assert_interpreter(evolve(with_less, environment=less))
        self.assertTrue(self.first.was_ended())
        self.assertEqual((self.reactor.servers, self.log), ([], []))

    def test_back_again(self) -> None:
        """A recipe that may be forked again, after one that might not, has a fork server started."""
        self.first.answers(READY)
        self.assert_interpreter(self.recipe(PYTHONHASHSEED="7"))
        self.assert_interpreter()
        (second,) = self.reactor.servers
        second.answers(READY)
        self.assert_forked(by=second)

    def test_not_this_time(self) -> None:
        """What the system says comes to the caller, who tries later: no interpreter would fare better."""
        self.first.answers(READY, {"error": errno.EMFILE}, {"error": None})
        for expected in (errno.EMFILE, errno.EAGAIN):
            error = self.assertRaises(OSError, self.spawn)
            self.assertEqual((error.errno, error.strerror), (expected, os.strerror(expected)))
        self.assertEqual((self.reactor.workers, self.reactor.servers), ([], []))
        self.assert_forked()


class ReadinessTests(SpawnerCase):
    """Who waits for a fork server that still imports."""

    def test_patience(self) -> None:
        """The session's first worker waits for it, and none after that."""
        self.patch(forking, "FIRST_SECONDS", 0.5)
        seconds: list[float] = []

        def is_ready(server: ForkServer, patience: float) -> bool:
            seconds.append(patience)
            return False

        self.patch(ForkServer, "is_ready", is_ready)
        self.spawner.close()
        self.spawner = self.made(None)
        for _ in range(3):
            self.assert_interpreter()
        self.assertEqual(seconds, [0.5, 0.0, 0.0])

    def test_not_ready(self) -> None:
        """While it imports, workers are interpreters; then they are forked, by the same one."""
        for _ in range(2):
            self.assert_interpreter()
        self.first.answers(READY)
        self.assert_forked()
        self.assertEqual((self.reactor.servers, self.log), ([], []))

    def test_both_answers(self) -> None:
        """One that was asked to import twice is ready when it has answered twice."""
        self.first.server.preload(())
        self.first.answers(READY)
        self.assert_interpreter()
        self.first.answers(READY)
        self.assert_forked()

    def test_deadline_of_an_answer(self) -> None:
        """After the question whether it is ready, an answer has its own deadline again."""
        self.first.answers(READY)
        self.assertTrue(self.first.server.is_ready(0.0))
        self.assertEqual(self.first.server._channel.gettimeout(), forking.ANSWER_SECONDS)


class LossTests(SpawnerCase):
    """A fork server that is no good any more is replaced, and no worker waits for that."""

    def test_stale(self) -> None:
        """One that has imported what has changed since then says so."""
        self.first.answers(READY, {"stale": "/srv/venv/klein/__init__.py"})
        self.assert_replaced("/srv/venv/klein/__init__.py has changed since it was imported")

    def test_lost(self) -> None:
        """One that is gone, before the reactor has told of it."""
        self.first.answers(READY)
        self.assertTrue(self.first.server.is_ready(0.0))
        self.first.channel.shutdown(socket.SHUT_WR)
        self.assert_replaced("it does not answer: the other end is closed")

    def test_lost_while_it_imports(self) -> None:
        """One that is gone before it was ready keeps nobody waiting."""
        self.first.channel.shutdown(socket.SHUT_WR)
        self.assert_replaced("it does not answer: the other end is closed")

    def test_hung(self) -> None:
        """One that does not answer in time."""
        self.first.answers(READY)
        self.assert_replaced("it does not answer: timed out")

    def test_does_not_read(self) -> None:
        """One that does not even read."""
        self.first.answers(READY)
        self.assertTrue(self.first.server.is_ready(0.0))
        channel = self.first.server._channel
        channel.setblocking(False)
        try:
            while True:
                channel.send(b"x" * 1000)
        except BlockingIOError:
            channel.settimeout(forking.ANSWER_SECONDS)
        self.assert_replaced("it does not answer: timed out")

    def test_not_adopted(self) -> None:
        """One whose forks become the children of somebody else, so that nobody here would see them die."""
        self.first.answers(READY, {"pid": os.getpid()})
        self.assert_replaced(f"what it forks is not adopted by this process, but by {os.getppid()}")
        self.assertNotIn(os.getpid(), twisted_process.reapProcessHandlers)

    def test_nobody_can_look(self) -> None:
        """Where no descriptor is left to look whose child the fork is, it is kept: it is there."""

        def read_process(pid: int) -> None:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        self.patch(forking, "read_process", read_process)
        self.first.answers(READY)
        self.assert_forked(by=self.first)

    def test_told(self) -> None:
        """One of whose end the reactor tells is asked nothing, and the log says how it ended."""
        self.first.answers(READY)
        self.first.ends()
        self.assert_interpreter()
        (why,) = self.log
        self.assertTrue(why.startswith("the fork server has ended: "), why)
        (second,) = self.reactor.servers
        second.answers(READY)
        self.assert_forked(by=second)

    def test_late_news(self) -> None:
        """That the former one has ended, as it was told to, changes nothing about its successor."""
        self.first.answers(READY, {"stale": "x.py"})
        second = self.assert_replaced("x.py has changed since it was imported")
        self.first.ends()
        self.assert_forked(by=second)
        self.assertEqual(len(self.log), 1)

    # --- the next one ---------------------------------------------------------------------------

    def test_next(self) -> None:
        """The next one has the monitor's environment, with the session's mark."""
        self.first.ends()
        self.assert_interpreter()
        self.assertEqual(self.reactor.environments, [ENVIRONMENT])
        self.assertEqual(self.reactor.servers[0].heard().content, {"preload": ["klein"]})

    def test_not_at_once(self) -> None:
        """Of fork servers that end and end, one is started every `AGAIN_SECONDS`; workers come all the same."""
        self.first.ends()
        for count in (1, 2, 3):
            self.assert_interpreter()
            self.assertEqual(len(self.reactor.servers), count)
            self.reactor.servers[-1].ends()
            self.assert_interpreter()
            self.reactor.advance(AGAIN_SECONDS - 0.5)
            self.assert_interpreter()
            self.assertEqual(len(self.reactor.servers), count)
            self.reactor.advance(0.5)

    def test_cannot_be_started(self) -> None:
        """Where none can be started the log says so, and it is tried again as late."""
        self.first.ends()
        self.reactor.error = OSError(errno.EAGAIN, "no process")
        self.log.clear()
        for _ in range(2):
            self.assert_interpreter()
        self.assertEqual(
            self.log,
            [
                f"no fork server can be started ([Errno {errno.EAGAIN}] no process): workers take longer to start"
            ],
        )
        self.reactor.error = None
        self.reactor.advance(AGAIN_SECONDS)
        self.assert_interpreter()
        self.assertEqual(len(self.reactor.servers), 1)

    def test_gone_at_once(self) -> None:
        """One that is gone already when `spawnProcess` returns is taken for what it is."""
        self.first.ends()
        self.reactor.ends_at_once = True
        self.assert_interpreter()
        self.reactor.ends_at_once = False
        self.assert_interpreter()
        self.reactor.advance(AGAIN_SECONDS)
        self.assert_interpreter()
        second = self.reactor.servers[1]
        second.answers(READY)
        self.assert_forked(by=second)


class SessionTests(SpawnerCase):
    """From the session's beginning to its end."""

    def test_guardian(self) -> None:
        """The guardian is told of each fork server when it is there, and when it has gone."""
        self.assertEqual(self.guardian, [("watch", 4000)])
        self.first.ends()
        self.assert_interpreter()
        self.assertEqual(self.guardian[1:], [("forget", 4000), ("watch", 5000)])
        self.spawner.close()
        self.assertEqual(len(self.guardian), 3)  # it has been killed, and is not gone
        self.reactor.servers[0].ends()
        self.assertEqual(self.guardian[3:], [("forget", 5000)])

    def test_without_first(self) -> None:
        """Without a fork server to begin with, the first worker has one started."""
        self.spawner.close()
        self.spawner = self.made(None)
        self.assertEqual(self.reactor.servers, [])
        self.assert_interpreter()
        self.reactor.servers[0].answers(READY)
        self.assert_forked(by=self.reactor.servers[0])

    def test_close(self) -> None:
        """The end of the session ends it, and none is started afterwards."""
        self.first.answers(READY)
        self.spawner.close()
        self.assertTrue(self.first.was_ended())
        self.reactor.advance(AGAIN_SECONDS)
        self.assert_interpreter()
        self.first.ends()
        self.assert_interpreter()
        self.assertEqual(self.reactor.servers, [])

    def test_close_twice(self) -> None:
        """To end it once more does nothing."""
        for _ in range(2):
            self.spawner.close()
        self.assertEqual(self.first.transport.signals, ["KILL"])

    def test_close_what_has_ended(self) -> None:
        """Nor does it matter that it has ended by itself."""
        self.first.transport.has_ended = True
        self.spawner.close()
        self.assertEqual(self.first.transport.signals, [])
