"""The talk with a mail server, line by line: what is said, and what each answer comes to."""

from __future__ import annotations

import attrs
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from serverworker.observers.notifications.delivery import Undelivered
from serverworker.observers.notifications.mail import Mail
from serverworker.observers.notifications.smtp import CLOSING_SECONDS, LONGEST_ANSWER, Talk

MAIL = Mail(
    sender="sw@example.org",
    recipients=("a@example.org", "b@example.org"),
    content=b"Subject: x\n\nbody\n",
    user=None,
    password=None,
)
LOGIN = attrs.evolve(MAIL, user="me", password="hush")


class TalkTests(SynchronousTestCase):
    """`Talk`."""

    def talk(self, mail: Mail = MAIL, starttls: object = None) -> Talk:
        self.clock = Clock()
        self.transport = StringTransport()
        talk = Talk(self.clock, mail, starttls)
        talk.makeConnection(self.transport)
        return talk

    def say(self, talk: Talk, *lines: str) -> list[str]:
        """Let the server say these lines; answers what the client says."""
        self.transport.clear()
        for line in lines:
            talk.dataReceived(line.encode() + b"\r\n")
            while self.transport.producer is not None:  # the mail itself is asked for piece by piece
                self.transport.producer.resumeProducing()
        said: list[str] = self.transport.value().decode().split("\r\n")
        return said[:-1]

    def undelivered(self, talk: Talk) -> Undelivered:
        error = self.failureResultOf(talk.ended, Undelivered).value
        assert isinstance(error, Undelivered)
        return error

    def to_data(self, talk: Talk, *answers: str) -> list[str]:
        """Up to where the server answers the recipients."""
        self.say(talk, "220 hello", "250 fine", "250 sender ok")
        return self.say(talk, *answers)

    def test_a_mail_is_taken(self) -> None:
        """Sender, recipients, content and farewell; it counts as delivered when the server says so."""
        talk = self.talk()
        self.assertTrue(self.say(talk, "220 hello")[0].startswith("EHLO "))
        self.assertEqual(self.say(talk, "250-me", "250 SIZE"), ["MAIL FROM:<sw@example.org>"])
        self.assertEqual(self.say(talk, "250 ok"), ["RCPT TO:<a@example.org>"])
        self.assertEqual(self.say(talk, "250 ok"), ["RCPT TO:<b@example.org>"])
        self.assertEqual(self.say(talk, "250 ok"), ["DATA"])
        self.assertEqual(self.say(talk, "354 go on"), ["Subject: x", "", "body", "."])
        self.assertNoResult(talk.ended)
        self.assertEqual(self.say(talk, "250 queued"), ["RSET"])
        self.successResultOf(talk.ended)
        self.assertEqual(self.say(talk, "250 ok"), ["QUIT"])
        self.say(talk, "221 bye")
        self.assertTrue(self.transport.disconnecting)
        talk.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_some_recipients_are_refused(self) -> None:
        """Who got it is told, so that nobody gets it twice; who was refused is named."""
        talk = self.talk()
        self.to_data(talk, "250 ok", "550 no such user", "354 go on", "250 queued")
        error = self.undelivered(talk)
        self.assertEqual((error.done, error.refused), (("a@example.org",), True))
        self.assertEqual(error.text, "b@example.org: 550 no such user")

    def test_all_recipients_are_refused(self) -> None:
        """For good, or for now."""
        for first, refused in (("550", True), ("450", False)):
            talk = self.talk()
            self.to_data(talk, f"{first} no", f"{first} not you")
            error = self.undelivered(talk)
            self.assertEqual((error.done, error.refused), ((), refused))
            self.assertIn(f"a@example.org: {first} no; b@example.org: {first} not you", error.text)

    def test_the_content_or_the_sender_is_refused(self) -> None:
        """With 5xx for good, with 4xx for now."""
        for answers, text, refused in (
            (("250 ok", "250 ok", "552 too large"), "552 too large", True),
            (("250 ok", "250 ok", "354 go", "451 try later"), "451 try later", False),
        ):
            talk = self.talk()
            self.to_data(talk, *answers)
            error = self.undelivered(talk)
            self.assertEqual((error.text, error.refused, error.done), (text, refused, ()))
        talk = self.talk()
        self.say(talk, "220 hello", "250 fine", "553 not you")
        self.assertTrue(self.undelivered(talk).refused)

    def test_a_server_that_is_busy(self) -> None:
        """It is tried again."""
        talk = self.talk()
        self.say(talk, "421 too busy")
        error = self.undelivered(talk)
        self.assertEqual((error.text, error.refused), ("SMTPConnectError: 421 too busy", False))

    def test_the_connection_breaks(self) -> None:
        """Before the mail was sent it has not arrived; afterwards it may have."""
        talk = self.talk()
        self.to_data(talk, "250 ok")
        talk.connectionLost(Failure(ConnectionLost()))
        self.assertNotIn("may have arrived", self.undelivered(talk).text)
        talk = self.talk()
        self.to_data(talk, "250 ok", "250 ok", "354 go on")
        talk.connectionLost(Failure(ConnectionLost()))
        self.assertIn("it may have arrived", self.undelivered(talk).text)

    def test_no_farewell(self) -> None:
        """A server that does not say goodbye is left after a few seconds."""
        talk = self.talk()
        self.to_data(talk, "250 ok", "250 ok", "354 go on", "250 queued")
        self.successResultOf(talk.ended)
        self.clock.advance(CLOSING_SECONDS)
        self.assertTrue(self.transport.disconnected)

    def test_no_password_without_security(self) -> None:
        """Where STARTTLS is due and the server has none, nothing of the mail or the login is said."""
        talk = self.talk(LOGIN, starttls=object())
        said = self.say(talk, "220 hello", "250-me", "250 AUTH PLAIN LOGIN")
        self.assertEqual([line.split()[0] for line in said], ["EHLO", "QUIT"])
        self.assertIn("TLSRequiredError", self.undelivered(talk).text)

    def test_words_before_the_connection_is_secure(self) -> None:
        """What comes behind the answer to STARTTLS in the same breath would count as secure: the talk ends."""
        talk = self.talk(LOGIN, starttls=object())
        self.say(talk, "220 hello", "250-me", "250 STARTTLS")
        talk.dataReceived(b"220 go\r\n250-me\r\n250 AUTH PLAIN\r\n")
        self.assertIn("spoke on before the connection was secure", self.undelivered(talk).text)
        self.assertNotIn(b"AUTH", self.transport.value())

    def test_a_wrong_password(self) -> None:
        """It is told without the password, in whatever form it went over the wire."""
        talk = self.talk(LOGIN)
        said = self.say(talk, "220 hello", "250-me", "250 AUTH PLAIN")
        self.assertTrue(said[-1].startswith("AUTH PLAIN "))
        self.say(talk, "535 no", "535 go away")
        error = self.undelivered(talk)
        self.assertEqual((error.text, error.refused), ("AUTHDeclinedError: 535 go away", True))
        self.assertNotIn(said[-1].split()[-1], repr(error) + repr(LOGIN))
        self.assertNotIn("hush", repr(LOGIN))
        self.assertEqual(talk.log.str(), b"")

    def test_a_server_without_login(self) -> None:
        """A login that was asked for is not left out in silence."""
        talk = self.talk(LOGIN)
        self.say(talk, "220 hello", "250 me")
        self.assertIn("AUTHRequiredError", self.undelivered(talk).text)

    def test_answers_without_an_end(self) -> None:
        """Neither endless answers nor endless lines fill the memory."""
        talk = self.talk()
        for _ in range(LONGEST_ANSWER // 900 + 1):
            talk.dataReceived(b"220-" + b"x" * 900 + b"\r\n")
        self.assertEqual(self.undelivered(talk).text, "the server's answer has no end")
        talk = self.talk()
        talk.dataReceived(b"2" * 20_000)
        self.assertEqual(self.undelivered(talk).text, "the server's answer has a line without an end")

    def test_garbage(self) -> None:
        """What is no SMTP ends the talk with a reason, safe to show."""
        talk = self.talk()
        talk.dataReceived(b"\x1b[31mHTTP/1.1 400\r\n")
        self.assertIn("SMTPProtocolError", self.undelivered(talk).text)
        self.assertNotIn("\x1b", str(self.transport.value()))
