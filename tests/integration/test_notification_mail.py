"""Mail over real sockets: a real mail server with TLS and login, and some that are none."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from serverworker.observers.notifications.delivery import Undelivered
from serverworker.observers.notifications.mail import MailSink
from serverworker.observers.notifications.spool import Item
from serverworker.processes.awaiting import within
from serverworker.values.notify_settings import MailSettings
from tests.integration.receivers import PASSWORD, USER, MailServer, make_certificate, trust
from tests.unit.notification_case import message

OPS, OTHER = "ops@example.org", "other@example.org"
Steps = Generator[Deferred[Any], Any, None]


class MailCase(TestCase):
    """Makes servers and sinks."""

    timeout = 60

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mail-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.clock: Any = reactor

    def server(self, **options: Any) -> MailServer:
        server = MailServer(**options)
        self.addCleanup(server.stop)
        server.start()
        return server

    def sink(self, port: int, **options: Any) -> MailSink:
        given = {"recipients": [OPS], "sender": "sw@example.org", "host": "localhost", "security": "none"}
        settings = MailSettings(**{**given, **options}, port=port)
        return MailSink(reactor, settings, deferToThread)

    def item(self, body: str = "It died.\n", attempts: int = 1) -> Item:
        return Item(message=message(body=body), sink="mail", attempts=attempts)

    def undelivered(
        self, sink: MailSink, seconds: float = 20.0, item: Item | None = None
    ) -> Deferred[Undelivered]:
        sent = within(self.clock, seconds, "the mail", sink.send(item or self.item()))
        return self.assertFailure(sent, Undelivered)


class MailServerTests(MailCase):
    """A real mail server."""

    @inlineCallbacks
    def test_starttls_and_login(self) -> Steps:
        """With a verified certificate and the password from a file the mail arrives, as it was written."""
        certificate = make_certificate(self.folder, "localhost")
        self.addCleanup(trust(certificate))
        server = self.server(certificate=certificate, login=True)
        (self.folder / "password").write_text(f"{PASSWORD}\n")
        body = ".\nä line\n.. and more\n" + "x" * 20_000 + "\n"
        sink = self.sink(
            server.port,
            security="starttls",
            user=USER,
            password_file=str(self.folder / "password"),
            recipients=[OPS, OTHER],
        )
        yield sink.prepare()
        yield sink.send(self.item(body))
        [got] = server.mails
        self.assertEqual((got.sender, got.recipients), ("sw@example.org", (OPS, OTHER)))
        self.assertEqual((got.secure, got.user), (True, USER))
        self.assertEqual(got.mail.get_content().replace("\r\n", "\n"), body)
        self.assertEqual(got.mail["Message-ID"], "<m-1@example.org>")

    @inlineCallbacks
    def test_tls_from_the_start(self) -> Steps:
        """The same where the connection begins with TLS."""
        certificate = make_certificate(self.folder, "localhost")
        self.addCleanup(trust(certificate))
        server = self.server(certificate=certificate, implicit_tls=True, login=True)
        sink = self.sink(server.port, security="tls", user=USER, password=PASSWORD)
        yield sink.send(self.item())
        self.assertEqual([(each.secure, each.user) for each in server.mails], [(True, USER)])

    @inlineCallbacks
    def test_no_security(self) -> Steps:
        """To a server on this machine mail can go as it is."""
        server = self.server()
        yield self.sink(server.port, host="127.0.0.1").send(self.item(attempts=2))
        [got] = server.mails
        self.assertIn("This is attempt 2", got.mail.get_content())

    @inlineCallbacks
    def test_a_wrong_password(self) -> Steps:
        """It is told as what it is, without the password."""
        certificate = make_certificate(self.folder, "localhost")
        self.addCleanup(trust(certificate))
        server = self.server(certificate=certificate, login=True)
        error = yield self.undelivered(
            self.sink(server.port, security="starttls", user=USER, password="hush-hush")
        )
        self.assertIn("AUTHDeclinedError: 535", error.text)
        self.assertNotIn("hush-hush", error.text)
        self.assertEqual(server.mails, [])

    @inlineCallbacks
    def test_certificates_that_are_not_good(self) -> Steps:
        """Neither an unknown authority nor another host's name is borne, with STARTTLS or TLS; nothing is sent."""
        good = make_certificate(self.folder, "localhost")
        other = make_certificate(self.folder, "smtp.example.org")
        for certificate, trusted in ((good, other), (other, other)):
            self.addCleanup(trust(trusted))
            for implicit, security in ((False, "starttls"), (True, "tls")):
                server = self.server(certificate=certificate, implicit_tls=implicit)
                error = yield self.undelivered(self.sink(server.port, security=security))
                self.assertIn("no secure connection", error.text)
                self.assertEqual(server.mails, [])

    @inlineCallbacks
    def test_no_starttls(self) -> Steps:
        """A server that cannot be spoken to securely gets nothing."""
        server = self.server()
        error = yield self.undelivered(self.sink(server.port, security="starttls"))
        self.assertIn("TLSRequiredError", error.text)
        self.assertEqual(server.mails, [])

    @inlineCallbacks
    def test_one_recipient_is_refused(self) -> Steps:
        """The other gets it once; at the next attempt only who has not got it is tried."""
        server = self.server(refused=(OTHER,))
        sink = self.sink(server.port, recipients=[OPS, OTHER])
        item = self.item()
        error = yield self.undelivered(sink, item=item)
        self.assertEqual((error.done, error.refused), ((OPS,), True))
        item.done = error.done
        error = yield self.undelivered(sink, item=item)
        self.assertEqual([each.recipients for each in server.mails], [(OPS,)])
        # The operator takes the bad address off the list: then there is nothing left to do.
        yield self.sink(server.port).send(item)
        self.assertEqual(len(server.mails), 1)


class NoMailServerTests(MailCase):
    """What listens is no good mail server, or nothing does."""

    @inlineCallbacks
    def test_nobody_listens(self) -> Steps:
        """It is told in words."""
        server = MailServer()
        self.addCleanup(server.stop)
        error = yield self.undelivered(self.sink(server.port, host="127.0.0.1"))
        self.assertIn("no connection: ConnectionRefusedError", error.text)

    @inlineCallbacks
    def test_no_such_host(self) -> Steps:
        """A name that nobody knows is told as such."""
        error = yield self.undelivered(self.sink(25, host="no-such-host.invalid"))
        self.assertIn("no connection: DNSLookupError", error.text)

    @inlineCallbacks
    def test_a_password_file_that_is_not_there(self) -> Steps:
        """The file is named, beforehand and at each mail."""
        sink = self.sink(25, security="tls", user="u", password_file="/no/such/file")
        for attempt in (sink.prepare(), sink.send(self.item())):
            error = yield self.assertFailure(attempt, Undelivered)
            self.assertIn("cannot be read: No such file or directory (/no/such/file)", error.text)

    @inlineCallbacks
    def test_a_server_that_says_nothing(self) -> Steps:
        """At the deadline the attempt is cancelled, and its connection is closed."""
        lost: Deferred[None] = Deferred()

        class Silent(Protocol):
            def connectionLost(self, reason: Failure = connectionDone) -> None:
                lost.callback(None)

        port = yield self.listen(Silent)
        sent = within(self.clock, 0.3, "the mail", self.sink(port, host="127.0.0.1").send(self.item()))
        yield self.assertFailure(sent, Exception)
        yield lost.addTimeout(20, self.clock)

    @inlineCallbacks
    def test_a_server_that_closes_at_once(self) -> Steps:
        """It is told as such, and not taken for a delivery."""

        class Closing(Protocol):
            def connectionMade(self) -> None:
                assert self.transport is not None
                self.transport.loseConnection()

        port = yield self.listen(Closing)
        error = yield self.undelivered(self.sink(port, host="127.0.0.1"))
        self.assertIn("closed the connection", error.text)

    @inlineCallbacks
    def listen(self, protocol: Callable[[], Protocol]) -> Generator[Deferred[Any], Any, int]:
        endpoint = TCP4ServerEndpoint(self.clock, 0, interface="127.0.0.1")
        port = yield endpoint.listen(Factory.forProtocol(protocol))
        self.addCleanup(port.stopListening)
        return int(port.getHost().port)
