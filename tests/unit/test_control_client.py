"""The client of the control port: how a connection begins, and how it ends."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, cast

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.interfaces import IStreamClientEndpoint
from zope.interface import implementer

from serverworker import commands, control
from serverworker.control import Client, connect
from serverworker.surfaces.control_link import ControlLink
from serverworker.values.errors import NotAllowed, PeerLost, ServerWorkerError
from serverworker.values.events import OperatorAction
from serverworker.wire import control as wire
from tests.unit.control_case import KEY, ControlCase, Joined, Wire
from tests.unit.link_pair import Stream


@implementer(IStreamClientEndpoint)
class Endpoint:
    """Joins a client to the port of a test."""

    def __init__(self, case: ControlCase) -> None:
        self._case = case
        self.joined: Joined | None = None

    def connect(self, factory: Any) -> Deferred[Any]:
        link, wire, stream = self._case.port.buildProtocol(None), Wire("192.0.2.1", 0), Stream()
        client_link = factory.buildProtocol(None)
        joined = Joined(cast(Client, _Only(client_link)), link, wire, stream)
        client_link.makeConnection(stream)
        link.makeConnection(cast(Any, wire))
        self.joined = joined
        self._case.addCleanup(self._case.part, joined)
        return succeed(client_link)


class _Only:
    def __init__(self, link: Any) -> None:
        self.link = link


@implementer(IStreamClientEndpoint)
class Nobody:
    """An endpoint that does as it is told."""

    def __init__(self, answer: Callable[[], Deferred[Any]]) -> None:
        self._answer = answer

    def connect(self, factory: Any) -> Deferred[Any]:
        return self._answer()


class ConnectTests(ControlCase):
    """`connect`."""

    def connecting(self, key: str | None = None) -> tuple[Deferred[Client], Joined]:
        endpoint = Endpoint(self)
        client = connect(self.clock, endpoint, key=key)
        assert endpoint.joined is not None
        self.pump(endpoint.joined)
        return client, endpoint.joined

    def test_no_key_needed(self) -> None:
        """On a unix socket of one's own a key is neither needed nor shown."""
        connecting, joined = self.connecting(key="whatever")
        client = self.successResultOf(connecting)
        self.assertEqual(self.answer(joined, client.status())["schema"], 1)
        self.assertEqual(self.events, [])

    def test_key(self) -> None:
        """Where one is asked for, the right one lets in; a wrong one, or none, fails and closes."""
        self.port = self.make_port(socket.AF_INET)
        for key, text in ((None, "asks for the session key"), ("wrong", "a wrong session key")):
            connecting, joined = self.connecting(key)
            self.assertIn(text, str(self.failureResultOf(connecting, NotAllowed).value))
            self.assertEqual(joined.stream.closed, "flushed")
        self.clock.advance(2)
        connecting, joined = self.connecting(KEY)
        self.successResultOf(connecting)

    def test_hung_up(self) -> None:
        """A session that hangs up at once says why only in its log, where the text leads."""
        endpoint = Endpoint(self)
        connecting = connect(self.clock, endpoint)
        assert endpoint.joined is not None
        self.part(endpoint.joined)
        text = str(self.failureResultOf(connecting, PeerLost).value)
        self.assertIn("its own user and root", text)
        self.assertIn("its log says why", text)

    def test_version(self) -> None:
        """A session of another version is told from one that is broken."""
        endpoint = Endpoint(self)
        connecting = connect(self.clock, endpoint)
        assert endpoint.joined is not None
        hello = endpoint.joined.stream.written
        self.assertEqual(len(hello), 1)
        self.patch(ControlLink, "dataReceived", lambda link, data: None)
        box = b"\x00\x07_answer\x00\x011\x00\x07version\x00\x013\x00\x07allowed\x00\x04True\x00\x00"
        endpoint.joined.client.link.dataReceived(box)
        text = str(self.failureResultOf(connecting, ServerWorkerError).value)
        self.assertIn("speaks version 3", text)

    def test_nobody(self) -> None:
        """What the endpoint fails with is what it fails with."""
        connecting = connect(self.clock, Nobody(lambda: fail(ConnectionRefusedError())))
        self.failureResultOf(connecting, ConnectionRefusedError)

    def test_deadline(self) -> None:
        """It has one, and so have the questions; a connection that is there is closed."""
        never: Deferred[Any] = Deferred()
        connecting = connect(self.clock, Nobody(lambda: never), timeout=3)
        self.clock.advance(3)
        text = str(self.failureResultOf(connecting).value)
        self.assertIn("connecting to the control port has not finished within 3 s", text)
        endpoint = Endpoint(self)
        connecting = connect(self.clock, endpoint, timeout=3)
        self.clock.advance(3)
        self.failureResultOf(connecting)
        assert endpoint.joined is not None
        self.assertEqual(endpoint.joined.stream.closed, "flushed")

    def test_cancelled(self) -> None:
        """It may be cancelled."""
        endpoint = Endpoint(self)
        connecting = connect(self.clock, endpoint)
        connecting.cancel()
        self.failureResultOf(connecting)
        assert endpoint.joined is not None
        self.assertEqual(endpoint.joined.stream.closed, "flushed")
        self.part(endpoint.joined)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class ClientTests(ControlCase):
    """`Client`."""

    def test_deeds(self) -> None:
        """Each method asks for what it says."""
        joined = self.join()
        client = joined.client
        self.answer(joined, client.restart())
        self.answer(joined, client.exit("force"))
        self.answer(joined, client.set_port("server", 8081, now=True))
        self.answer(joined, client.set_polling(5))
        self.answer(joined, client.set_workers(3))
        who = self.told(OperatorAction)[0].who
        self.assertEqual(
            self.monitor.asked,
            [
                ("restart", "clean", who),
                ("exit", f"{who} asked for it", False),
                ("port", "server", "8081", True, who),
                ("polling", 5.0),
                ("workers", 3),
            ],
        )
        self.assertEqual(len(self.told(OperatorAction)), 5)

    def test_emit(self) -> None:
        """Outcomes by who answered: results, and errors; that a handler fails is no error of the command."""
        joined = self.join()
        outcomes = self.answer(joined, joined.client.emit("forget", {"page": 3}))
        self.assertEqual(outcomes["worker 1"], {"results": ["one"]})
        self.assertEqual(outcomes["worker 2"]["error"]["message"], "worker 2 ended")
        self.assertEqual(
            self.answer(joined, joined.client.emit("a", 7, to=1)), {"worker 1": {"results": [7]}}
        )
        gone = self.answer(joined, joined.client.emit("a", to=9))
        self.assertIn("there is no worker 9", gone["worker 9"]["error"]["message"])
        self.assertEqual(
            self.answer(joined, joined.client.emit("a", to="monitor")), {"monitor": {"results": [None, None]}}
        )
        self.assertEqual([action.ok for action in self.told(OperatorAction)], [True, True, False, True])

    def test_lost(self) -> None:
        """Whoever waits for the end is told why, also when it is over already; questions fail."""
        joined = self.join()
        lost, cancelled = joined.client.lost(), joined.client.lost()
        cancelled.addErrback(lambda failure: None)
        cancelled.cancel()
        asked = joined.client.status()
        self.part(joined)
        self.failureResultOf(asked, PeerLost)
        self.assertIsInstance(self.successResultOf(lost), PeerLost)
        self.assertIsInstance(self.successResultOf(joined.client.lost()), PeerLost)
        self.failureResultOf(joined.client.subscribe(print), PeerLost)
        self.failureResultOf(joined.client.status())

    def test_commands(self) -> None:
        """`serverworker.commands` has every command, and each has a sentence and the errors of all."""
        every = {each.__name__ for each in wire.ControlCommand.__subclasses__()}
        self.assertEqual(every | {"CONTROL_VERSION", "ControlCommand"}, set(commands.__all__))
        for command in wire.ControlCommand.__subclasses__():
            self.assertTrue(command.__doc__)
            self.assertEqual(set(cast(Any, command).allErrors), set(wire.ControlCommand.errors))
        self.assertEqual(control.__all__, ["Client", "Position", "connect"])
