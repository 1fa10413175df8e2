"""Clients that go away, at every point of a request: never a crash, and nothing is left of them (row W11)."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from serverworker.processes.socket_holders import LISTENING
from tests.integration.sessions import SessionTestCase, TestSession, wait_until

PATIENT = r"""
    import gc
    import json
    import os

    from twisted.internet import reactor
    from twisted.internet.defer import Deferred, ensureDeferred
    from twisted.internet.task import LoopingCall
    from twisted.internet.threads import deferToThread
    from twisted.web.resource import Resource
    from twisted.web.server import NOT_DONE_YET, Site

    counts = {"begun": 0, "over": 0}
    waiting = []

    class Patient(Resource):
        isLeaf = True

        def render(self, request):
            name = request.path.decode().strip("/")
            if name == "pid":
                return b"%d" % os.getpid()
            if name == "counts":
                return json.dumps(counts | {"waiting": len(waiting)}).encode()
            if name == "go":
                # Whoever was left comes to its end only now, and knows nothing of it.
                for each in waiting:
                    reactor.callLater(0, each)
                waiting.clear()
                return b"on they go"
            if name == "collect":
                # Twisted tells of a Deferred that failed unheard when it is collected.
                return b"%d" % gc.collect()
            counts["begun"] += 1
            return getattr(self, name)(request)

        def over(self, result=None):
            counts["over"] += 1

        # --- each waits until it is told to go on ---

        def told_of_it(self, request):
            "Is told that the client went, and stops."
            request.notifyFinish().addBoth(self.over)
            return NOT_DONE_YET

        def not_listening(self, request):
            "Asks to be told, and does not mind what: the failure has no errback."
            request.notifyFinish().addCallback(self.over)
            waiting.append(self.over)
            return NOT_DONE_YET

        def blind(self, request):
            "Never asks, and answers somebody who is gone: in a timed call, where nobody catches what is raised."
            def answer():
                self.over()
                request.setResponseCode(201)
                request.setHeader("X-Late", "yes")
                request.write(b"late")
                request.finish()
            waiting.append(answer)
            return NOT_DONE_YET

        def blind_coroutine(self, request):
            "The same in a coroutine: its failure is an unhandled error in a Deferred."
            waits = Deferred()
            async def answer():
                await waits
                self.over()
                request.write(b"late")
                request.finish()
            ensureDeferred(answer())
            waiting.append(lambda: waits.callback(None))
            return NOT_DONE_YET

        def streaming(self, request):
            "Has begun to answer, and goes on piece by piece to the end."
            def piece():
                request.write(b"x" * 10_000)
                if stream.running and self.pieces_left[request] == 0:
                    stream.stop()
                    self.over()
                    request.finish()
                self.pieces_left[request] -= 1
            self.pieces_left = getattr(self, "pieces_left", {})
            self.pieces_left[request] = 20
            request.write(b"begun")
            stream = LoopingCall(piece)
            failed = lambda failure: self.over() or failure
            waiting.append(lambda: stream.start(0.001).addErrback(failed))
            return NOT_DONE_YET

        def producing(self, request):
            "Writes as fast as its client reads, by a producer: three megabytes."
            from twisted.web.static import NoRangeStaticProducer
            import io
            request.write(b"begun")
            request.notifyFinish().addBoth(self.over)
            NoRangeStaticProducer(request, io.BytesIO(b"x" * 3_000_000)).start()
            return NOT_DONE_YET

        def threaded(self, request):
            "Is answered out of a thread."
            def work():
                reactor.callFromThread(answer)
            def answer():
                self.over()
                request.write(b"late")
                request.finish()
            waiting.append(lambda: deferToThread(work))
            return NOT_DONE_YET

        def body(self, request):
            self.over()
            return b"%d bytes" % len(request.content.read())

    def work(worker):
        site = Site(Patient())
        worker.listen("server", site)
    """

HEAD = b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n"
CHUNKED = b"POST /body HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"

UNFINISHED = (
    b"",
    b"P",
    b"POST /bo",
    b"POST /body HTTP/1.1\r",
    b"POST /body HTTP/1.1\r\nHo",
    HEAD,
    HEAD + b"Expect: 100-continue\r\n\r\n",
    HEAD + b"\r\n",
    HEAD + b"\r\nhalf a bod",
    HEAD + b"\r\nbut for one byte...",
    CHUNKED,
    CHUNKED + b"1",
    CHUNKED + b"10\r\nhalf",
    CHUNKED + b"4\r\nhalf\r\n0\r\n",
    b"GET /pid HTTP/1.1\r\nHost: x\r\n\r\nGET /pi",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"\r\n\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET / HTTP/1.1\r\n:\r\n\r\n",
    b"POST /body HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    b"POST /body HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    b"GET /" + b"x" * 100_000,
)
"""What is sent before a client goes: nothing, a part of a request, or what is none."""

ANSWERED_LATE = ("told_of_it", "not_listening", "blind", "blind_coroutine", "threaded")
"""Ways to answer that have said nothing yet when the client goes."""
ANSWERED_IN_PIECES = ("streaming", "producing")
"""Ways to answer that have begun."""


def close(connection: socket.socket) -> None:
    """Go away as a program that ends."""
    connection.close()


def reset(connection: socket.socket) -> None:
    """Go away as a machine that is switched off and on: the server gets an RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def half_close(connection: socket.socket) -> None:
    """Say that nothing more will come, and go when the server has closed, or when nothing comes any more."""
    try:
        connection.shutdown(socket.SHUT_WR)
    except OSError:
        return  # the server has closed first: it was sent what it refuses
    connection.settimeout(0.05)
    try:
        while connection.recv(65536):
            pass
    except OSError:
        pass
    connection.close()


Leaving = Callable[[socket.socket], None]
LEAVINGS: tuple[Leaving, ...] = (close, reset, half_close)


class ClientsThatLeaveTests(SessionTestCase):
    """One worker, whose process must be the same before and after."""

    def patient(self) -> TestSession:
        """A session of this application, once it serves."""
        folder = self.folder(patient__py=PATIENT, quick__toml="[polling]\nroute = '/pid'\n")
        arguments = ("--app", "patient:work", "--config", "quick.toml", "--standby", "0")
        session = self.session(*arguments, folder=folder)
        session.serving()
        return session

    def assert_untouched(self, session: TestSession) -> None:
        """The worker is who it was, nothing was reported, and nothing is left open or unfinished."""
        session.get("/collect")
        self.assertEqual(session.get("/pid"), (200, b"%d" % session.server_pid))
        for name in ("WorkerDied", "HeartbeatFailed", "Fault"):
            self.assertEqual([event for event in session.events if event["event"] == name], [])
        self.assertEqual(len(session.serving()), 1)
        pid = session.server_pid
        wait_until(lambda: connections(pid, session.port()) == 0, "the end of all connections")
        self.assertEqual(session.end(), 0)
        self.assertEqual(session.reports(), [])

    def counts(self, session: TestSession) -> dict[str, Any]:
        """How many requests the application has begun, and how many are over, as it sees it."""
        counts: dict[str, Any] = json.loads(session.get("/counts")[1])
        return counts

    def leave(
        self, session: TestSession, name: str, leaving: Leaving, *, read: int = 0, again: int = 1
    ) -> None:
        """Have a request begun, with others behind it on the connection, read so much of the answer, and go."""
        before = self.counts(session)["begun"]
        connection = session.connect()
        connection.sendall(b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n" % name.encode() * again)
        if read:
            connection.recv(read)
        wait_until(lambda: self.counts(session)["begun"] > before, "the beginning of the request")
        leaving(connection)

    def test_before_the_answer(self) -> None:
        """A client goes before its request is complete, having sent nothing, a part, or nonsense."""
        session = self.patient()
        for leaving in LEAVINGS:
            for sent in UNFINISHED:
                connection = session.connect()
                connection.sendall(sent)
                leaving(connection)
        self.assertEqual(self.counts(session)["begun"], 0)
        self.assert_untouched(session)

    def test_while_it_waits(self) -> None:
        """A client goes while its answer is awaited: applications that notice it, and such that answer nobody."""
        session = self.patient()
        for leaving in LEAVINGS:
            for name in ANSWERED_LATE:
                self.leave(session, name, leaving)
                self.leave(session, name, leaving, again=2)
        self.finish(session)

    def test_while_it_reads(self) -> None:
        """A client goes in the middle of an answer that is being written, whether or not the application asks."""
        session = self.patient()
        for leaving in LEAVINGS:
            for name in ANSWERED_IN_PIECES:
                self.leave(session, name, leaving, read=100)
                self.leave(session, name, leaving)
        self.finish(session)

    def finish(self, session: TestSession) -> None:
        """Let the application go on with what it has, to the end, and look at what became of the worker."""
        pid = session.server_pid
        wait_until(lambda: connections(pid, session.port()) == 0, "the end of all connections")
        session.get("/go")

        def all_over() -> bool:
            counts = self.counts(session)
            return bool(counts["over"] >= counts["begun"] > 0)

        wait_until(all_over, "the end of all answers")
        self.assert_untouched(session)


def connections(pid: int, port: int) -> int:
    """How many connections to a port of this machine a process holds."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inodes = {row[9] for row in rows if row[1].endswith(f":{port:04X}") and row[3] != LISTENING}
    return sum(
        _target(link) in {f"socket:[{inode}]" for inode in inodes}
        for link in Path(f"/proc/{pid}/fd").iterdir()
    )


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:  # closed meanwhile
        return ""
