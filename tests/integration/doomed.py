"""An application that comes to harm as a request asks it to, or as its environment does at its start and end."""

from __future__ import annotations

from typing import Any

from tests.integration.sessions import SessionTestCase, TestSession

DOOMED = r'''
    """`GET /name` calls `Doomed.name`; what is asked for happens in a later turn, outside of the request."""

    import gc
    import os
    import signal
    import subprocess
    import sys
    import threading
    import time
    from pathlib import Path

    from twisted.internet import reactor
    from twisted.internet.defer import Deferred, ensureDeferred, fail
    from twisted.internet.protocol import Factory
    from twisted.internet.task import deferLater
    from twisted.logger import Logger
    from twisted.protocols.basic import LineReceiver
    from twisted.python import log
    from twisted.web.resource import Resource
    from twisted.web.server import Site

    from serverworker import ServerWorker

    def explode(text="boom"):
        raise RuntimeError(text)

    class Lines(LineReceiver):
        delimiter = b"\n"

        def lineReceived(self, line):
            explode(f"boom at {line.decode()}")

    class Doomed(Resource):
        isLeaf = True

        def render_GET(self, request):
            name = request.path.decode().strip("/")
            if name:
                # Once the answer has been written, which is the turn after the next.
                reactor.callLater(0, reactor.callLater, 0, getattr(self, name))
            return b"%d" % os.getpid()

        # --- what nothing handles ---

        def timed_call(self):
            explode("boom in a timed call")

        def thread(self):
            threading.Thread(target=explode, args=["boom in a thread"]).start()

        def pool(self):
            reactor.callInThread(explode, "boom in the pool")

        def deferred(self):
            fail(RuntimeError("boom in a Deferred"))

        def coroutine(self):
            # Its failure is told when the collector finds it, and this one would hardly ever run by itself.
            gc.set_threshold(1_000_000)
            async def run():
                explode("boom in a coroutine")
            ensureDeferred(run())

        def twice(self):
            reactor.callLater(0, explode, "the first boom")
            reactor.callLater(0, explode, "the second boom")
            threading.Thread(target=explode, args=["the third boom"]).start()
            fail(RuntimeError("the fourth boom"))

        # --- words and children ---

        def child(self):
            # It must not hold the worker's pipes, or they never end.
            nothing = dict(stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            sleep = ["sleep", "3600"]
            started = [subprocess.Popen(sleep, **nothing), subprocess.Popen(sleep)]
            started.append(subprocess.Popen(sleep, start_new_session=True, **nothing))
            print("children", *(each.pid for each in started))

        def says_much(self):
            # Less than a pipe holds, and nothing of it is read when the process is gone.
            lines = [f"line {number} {'.' * 40}" for number in range(1000)]
            self.last_words(1, "\n".join([*lines, "no line end"]).encode())

        def says_a_long_line(self):
            self.last_words(1, b"x" * 100_000 + b"\nthe end\n")

        def says_junk(self):
            os.write(2, b"on the other stream\n")
            self.last_words(1, bytes(range(256)) + "\n\u0436\u0443\u043a\r\n".encode() + b"\n\xd0")

        def says_by_log(self):
            Logger("mysite").error("{free} bytes are free", free=0)
            log.msg("and so it ends")
            os.kill(os.getpid(), signal.SIGKILL)

        def last_words(self, descriptor, words):
            os.write(descriptor, words)
            os.kill(os.getpid(), signal.SIGKILL)

    def exit_by(name):
        """Exit handlers, each named by the harm that it does."""

        def raises(reason):
            explode(f"boom while exiting by {reason.kind.value}")

        def never_ends(reason):
            return Deferred()

        def later_raises(reason):
            reactor.callLater(0, explode, "boom beside the exit")
            return deferLater(reactor, 0.2)

        def exits(reason):
            print("before its time", flush=True)
            os._exit(7)

        def blocks(reason):
            time.sleep(3600)

        def well(reason):
            print(f"told {reason.kind.value}: {reason.error.message if reason.error else reason.text}")

        return locals()[name]

    def work(worker):
        for name in os.environ.get("EXITS", "").split():
            worker.add_exit_handler(exit_by(name))
        if "lines" in worker.ports:
            worker.listen("lines", Factory.forProtocol(Lines))
        worker.listen("server", Site(Doomed()))
    '''

QUICK = """
    [polling]
    interval_seconds = 0.2
    [restart]
    initial_delay_seconds = 0.05
    maximum_delay_seconds = 0.1
    """
"""A configuration with which nobody waits long."""


class DoomedTestCase(SessionTestCase):
    """Sessions of that application."""

    def doomed(
        self, *arguments: str, exits: str = "", configuration: str = QUICK, **options: Any
    ) -> TestSession:
        """Start one, and wait until it serves. `exits`: the names of its exit handlers."""
        folder = self.folder(doomed__py=DOOMED, quick__toml=configuration)
        arguments = ("--app", "doomed:work", "--config", "quick.toml", *arguments)
        session = self.session(*arguments, folder=folder, environment={"EXITS": exits}, **options)
        session.serving()
        return session

    def crash(self, session: TestSession, name: str) -> dict[str, Any]:
        """Have the serving worker come to this harm; answers its report, once a successor serves."""
        running = session.serving()
        worker = running[-1]["worker"]
        self.assertEqual(session.get(f"/{name}")[0], 200)
        report = session.report_of(worker)
        session.serving(len(running) + 1)
        return report


def standby(session: TestSession) -> int:
    """Wait until the second worker stands by, loaded, and answer its number."""
    return int(session.wait_for("WorkerLoaded", matching=lambda event: event["worker"] == 2)["worker"])


def notes(session: TestSession, worker: int) -> list[str]:
    """What a worker told of itself."""
    return [
        event["text"]
        for event in session.events
        if event["event"] == "Lifecycle" and event["worker"] == worker
    ]


def output(report: dict[str, Any]) -> list[str]:
    """The lines of output in a report."""
    return [line["text"] for line in report["output"]]
