"""A websocket that is open when its worker is to end, where Twisted serves it: in Klein, and in a site of `twistd web`."""

from __future__ import annotations

import signal
from importlib.util import find_spec

from tests.system import SKIP
from tests.system.applications import ApplicationProof

TALK = """
from serverworker import ServerWorker
from twisted.web.websocket import WebSocketResource

class Talk:
    @classmethod
    def buildProtocol(cls, request):
        return cls()

    def negotiationStarted(self, transport):
        self.transport = transport
        ServerWorker.current().on_drain(self.say_goodbye)

    def say_goodbye(self):
        self.transport.sendTextMessage("goodbye")
        self.transport.loseConnection(1001)

    def textMessageReceived(self, message):
        self.transport.sendTextMessage("echo " + message)

    def negotiationFinished(self):
        pass

    bytesMessageReceived = pongReceived = lambda self, data: None

    def connectionLost(self, reason):
        pass

talk = WebSocketResource(Talk)
"""
"""The module ``talk``: its resource ``talk`` echoes, and says goodbye when its worker begins to drain."""

SKIP_WITHOUT_WEBSOCKETS = SKIP or (
    None
    if find_spec("wsproto") and find_spec("websockets")
    else "needs wsproto and websockets: pip install -e '.[frameworks]'"
)


class WebsocketProof(ApplicationProof):
    """A mix-in, as `ApplicationProof`. The application serves ``talk.talk`` at ``/talk``."""

    def check_drain_with_websocket(self) -> None:
        """It goes on until its worker leaves, is told so by the application, and ends in order; no report."""
        from websockets.exceptions import ConnectionClosed
        from websockets.sync.client import connect

        session = self.begin()
        with connect(f"ws://127.0.0.1:{session.port()}/talk") as websocket:
            websocket.send("one")
            self.assertEqual("echo one", websocket.recv(10))
            after = len(session.events)
            session.process.send_signal(signal.SIGHUP)
            session.wait_for("RestartCompleted", after=after)
            self.assertEqual("goodbye", websocket.recv(10))
            error = self.assertRaises(ConnectionClosed, websocket.recv, 10)
            assert error.rcvd is not None
            self.assertEqual(1001, error.rcvd.code)
        with connect(f"ws://127.0.0.1:{session.port()}/talk") as websocket:
            websocket.send("two")
            self.assertEqual("echo two", websocket.recv(10))
        self.assertEqual([], session.reports())
