"""A port that is in use when a session starts: by what a killed monitor left, and by somebody else."""

from __future__ import annotations

import os
import signal
import socket
import time

from tests.integration.sessions import SessionTestCase, TestSession

SLOW = """
    from twisted.internet import reactor
    from twisted.web.resource import Resource
    from twisted.web.server import NOT_DONE_YET

    class Slow(Resource):
        isLeaf = True

        def render_GET(self, request):
            if request.path != b"/slow":
                return b"quick"
            request.write(b"begun")
            reactor.callLater(2.0, self.finish, request)
            return NOT_DONE_YET

        def finish(self, request):
            request.write(b", finished")
            request.finish()
    """


class TakeoverTests(SessionTestCase):
    """Who is waited for, and who is not."""

    def slow(self, port: str = "tcp:0:interface=127.0.0.1") -> TestSession:
        return self.session("--app", "slow:Slow", folder=self.folder(slow__py=SLOW), port=port)

    def test_killed_monitor(self) -> None:
        """After kill -9 the next monitor says that it waits for the former workers' drain, and serves after it."""
        session = self.slow()
        session.serving()
        with session.connect() as connection:
            connection.sendall(b"GET /slow HTTP/1.0\r\n\r\n")
            answer = connection.recv(1000)
            os.kill(session.process.pid, signal.SIGKILL)
            session.process.wait()
            again = self.slow(f"tcp:{session.port()}:interface=127.0.0.1")
            said = again.wait_for_line("is still held by what is left of a session that is gone")
            self.assertIn("serverworker.processes.entry", said)
            self.assertIn("waiting for its end, 35 s at most", said)
            while piece := connection.recv(1000):
                answer += piece
        self.assertTrue(answer.endswith(b"begun, finished"), answer)
        again.serving()
        self.assertEqual(again.get("/"), (200, b"quick"))
        self.assertEqual(again.end(), 0)

    def test_living_session(self) -> None:
        """The port of a session that lives is refused at once, though workers hold it too."""
        session = self.slow()
        session.serving()
        again = self.slow(f"tcp:{session.port()}:interface=127.0.0.1")
        self.assert_refused_at_once(again)

    def test_stranger(self) -> None:
        """So is somebody else's."""
        with socket.create_server(("127.0.0.1", 0)) as stranger:
            again = self.slow(f"tcp:{stranger.getsockname()[1]}:interface=127.0.0.1")
            self.assert_refused_at_once(again)

    def assert_refused_at_once(self, session: TestSession) -> None:
        began = time.monotonic()
        self.assertEqual(session.exit_status(), 69)
        self.assertLess(time.monotonic() - began, 30.0)  # it would wait for 35 s
        session.wait_for_line("cannot be bound to")
        self.assertEqual([line for line in session.lines if "still held" in line], [])
