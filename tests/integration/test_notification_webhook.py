"""Webhooks over real sockets: a real HTTP sink, and servers that misbehave."""

from __future__ import annotations

import hmac
import shutil
import tempfile
from collections.abc import Generator
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
from serverworker.observers.notifications.http_post import ENOUGH_BYTES
from serverworker.observers.notifications.spool import Item
from serverworker.observers.notifications.webhook import Webhook
from serverworker.processes.awaiting import within
from serverworker.values.notify_settings import WebhookSettings
from tests.integration.receivers import HTTPSink, make_certificate, trust
from tests.unit.notification_case import message

Steps = Generator[Deferred[Any], Any, None]


class _Scripted(Protocol):
    """Answers whatever comes with the factory's bytes, over and over where it says so."""

    factory: Any
    _next: Any = None

    def connectionMade(self) -> None:
        self.factory.open += 1

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.factory.heard += data
        if b"\r\n\r\n" in self.factory.heard and not self.factory.answered:
            self.factory.answered = True
            self.transport.write(self.factory.answer)
            if self.factory.endless:
                self._go_on()
            elif self.factory.closes:
                self.transport.loseConnection()

    def _go_on(self) -> None:
        if self.connected and self.transport is not None:
            self.transport.write(b"x" * 16384)
            self._next = self.factory.clock.callLater(0.001, self._go_on)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._next is not None and self._next.active():
            self._next.cancel()
        self.factory.open -= 1


class WebhookTests(TestCase):
    """`Webhook`."""

    timeout = 60

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="webhook-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.clock: Any = reactor

    def http_sink(self) -> HTTPSink:
        sink = HTTPSink()
        self.addCleanup(sink.stop)
        return sink

    def webhook(self, port: int, **options: Any) -> Webhook:
        settings = WebhookSettings(url=f"http://127.0.0.1:{port}/hush-path", **options)
        return Webhook(reactor, settings, deferToThread)

    def item(self, attempts: int = 1) -> Item:
        return Item(message=message(), sink="webhook", attempts=attempts)

    def undelivered(self, webhook: Webhook) -> Deferred[Undelivered]:
        sent = within(self.clock, 20.0, "the webhook", webhook.send(self.item()))
        return self.assertFailure(sent, Undelivered)

    @inlineCallbacks
    def scripted(
        self, answer: bytes, *, endless: bool = False, closes: bool = True
    ) -> Generator[Deferred[Any], Any, Any]:
        """A server that answers with these bytes."""
        factory: Any = Factory.forProtocol(_Scripted)
        factory.clock, factory.answer, factory.endless, factory.closes = self.clock, answer, endless, closes
        factory.open, factory.heard, factory.answered = 0, b"", False
        port = yield TCP4ServerEndpoint(self.clock, 0, interface="127.0.0.1").listen(factory)
        self.addCleanup(port.stopListening)
        factory.port = port.getHost().port
        return factory

    def closed(self, factory: Any) -> Deferred[None]:
        """Fires when the server has no connection any more."""
        done: Deferred[None] = Deferred()

        def look() -> None:
            if factory.open == 0:
                done.callback(None)
            else:
                self.clock.callLater(0.01, look)

        look()
        return done.addTimeout(20, self.clock)

    @inlineCallbacks
    def test_a_message_is_posted_and_signed(self) -> Steps:
        """JSON that chats take, with its id, its attempt, and a signature that the receiver can check."""
        sink = self.http_sink()
        (self.folder / "secret").write_text("hush\n")
        webhook = self.webhook(sink.port, secret_file=str(self.folder / "secret"))
        yield webhook.prepare()
        yield webhook.send(self.item(attempts=3))
        [post] = sink.posts
        self.assertEqual(post.path, "/hush-path")
        self.assertEqual(post.headers["Content-Type"], "application/json")
        self.assertEqual(post.headers["X-Serverworker-Id"], "m-1")
        self.assertEqual(post.headers["X-Serverworker-Attempt"], "3")
        wanted = f"sha256={hmac.new(b'hush', post.body, 'sha256').hexdigest()}"
        self.assertEqual(post.headers["X-Serverworker-Signature"], wanted)
        content = post.json
        self.assertEqual(
            set(content),
            {
                *("text", "content", "allowed_mentions", "id", "attempt", "at", "host", "subject", "body"),
                *("count", "event"),
            },
        )
        self.assertEqual((content["id"], content["attempt"], content["body"]), ("m-1", 3, "body"))
        self.assertTrue(content["text"].startswith("subject m-1\n(attempt 3"), content["text"])

    @inlineCallbacks
    def test_without_a_secret(self) -> Steps:
        """No signature is made up."""
        sink = self.http_sink()
        yield self.webhook(sink.port).send(self.item())
        self.assertNotIn("X-Serverworker-Signature", sink.posts[0].headers)

    @inlineCallbacks
    def test_answers_that_are_no_delivery(self) -> Steps:
        """What the server said is told; 4xx is for good but for three; a redirect is not followed."""
        sink = self.http_sink()
        for status, refused in (
            (500, False),
            (503, False),
            (302, True),
            (404, True),
            (410, True),
            (429, False),
        ):
            sink.status = lambda number, status=status: status  # type: ignore[misc]
            error = yield self.undelivered(self.webhook(sink.port))
            self.assertIn(f"it answered {status}", error.text)
            self.assertEqual(error.refused, refused, error.text)
            self.assertNotIn("hush", error.text)
            self.assertIn("no, thank you", error.text)
        self.assertEqual({each.path for each in sink.posts}, {"/hush-path"})

    @inlineCallbacks
    def test_the_receiver_asks_for_time(self) -> Steps:
        """`Retry-After` in seconds is told on; anything else in it is ignored."""
        for value, seconds in ((b"120", 120.0), (b"Wed, 21 Oct 2026 07:28:00 GMT", None), (b"-5", None)):
            factory = yield self.scripted(
                b"HTTP/1.1 429 Slow\r\nRetry-After: " + value + b"\r\nContent-Length: 0\r\n\r\n"
            )
            error = yield self.undelivered(self.webhook(factory.port))
            self.assertEqual(error.retry_after, seconds)
            yield self.closed(factory)

    @inlineCallbacks
    def test_an_answer_without_an_end(self) -> Steps:
        """So much is read, then the connection is closed; the status has been said, and counts."""
        factory = yield self.scripted(b"HTTP/1.1 200 OK\r\n\r\n", endless=True)
        yield self.webhook(factory.port).send(self.item())
        yield self.closed(factory)
        self.assertLess(ENOUGH_BYTES, 2**20)

    @inlineCallbacks
    def test_an_answer_that_stalls(self) -> Steps:
        """At the deadline the attempt is cancelled and its connection closed, before the head and in the body."""
        for answer in (b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx"):
            factory = yield self.scripted(answer, closes=False)
            sent = within(self.clock, 0.3, "the webhook", self.webhook(factory.port).send(self.item()))
            yield self.assertFailure(sent, Exception)
            yield self.closed(factory)

    @inlineCallbacks
    def test_answers_that_are_none(self) -> Steps:
        """A connection that breaks may have delivered, garbage is garbage; the URL is never told."""
        for answer in (b"", b"SSH-2.0-x\r\n", b"HTTP/1.1 200"):
            factory = yield self.scripted(answer)
            error = yield self.undelivered(self.webhook(factory.port))
            self.assertIn("no answer: ", error.text)
            self.assertIn("it may have arrived", error.text)
            self.assertNotIn("hush", error.text)
            yield self.closed(factory)

    @inlineCallbacks
    def test_nobody_there(self) -> Steps:
        """A closed port and an unknown host are told in words."""
        sink = self.http_sink()
        port, _ = sink.port, sink.stop()  # type: ignore[func-returns-value]
        error = yield self.undelivered(self.webhook(port))
        self.assertIn("no connection: ConnectionRefusedError", error.text)
        settings = WebhookSettings(url="https://no-such-host.invalid/hush")
        error = yield self.undelivered(Webhook(reactor, settings, deferToThread))
        self.assertIn("no connection: DNSLookupError", error.text)
        self.assertNotIn("hush", error.text)

    @inlineCallbacks
    def test_https(self) -> Steps:
        """Only to a host whose certificate is good anything is sent."""
        certificate = make_certificate(self.folder, "localhost")
        sink = HTTPSink(certificate)
        self.addCleanup(sink.stop)
        webhook = Webhook(reactor, WebhookSettings(url=f"https://localhost:{sink.port}/hush"), deferToThread)
        error = yield self.undelivered(webhook)
        self.assertIn("no secure connection", error.text)
        self.assertEqual(sink.posts, [])
        self.addCleanup(trust(certificate))
        yield webhook.send(self.item())
        self.assertEqual(len(sink.posts), 1)

    @inlineCallbacks
    def test_a_secret_file_that_is_not_good(self) -> Steps:
        """It is named, and nothing is posted unsigned."""
        sink = self.http_sink()
        for content in (b"", b"two\nlines\n", b"\xff\xfe", b"x" * 5000):
            (self.folder / "secret").write_bytes(content)
            error = yield self.undelivered(self.webhook(sink.port, secret_file=str(self.folder / "secret")))
            self.assertIn(str(self.folder / "secret"), error.text)
        self.assertEqual(sink.posts, [])
