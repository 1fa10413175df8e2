"""``[notify]``, ``[mail]`` and ``[webhook]``: what is allowed, how mistakes are told, and that no secret ever is."""

from __future__ import annotations

import re
from typing import Any

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.mail.smtp import Address
from twisted.trial.unittest import SynchronousTestCase

from serverworker.values.notify_settings import EVENTS, MailSettings, WebhookSettings, is_address
from serverworker.values.reading import combine, read
from serverworker.values.rules import InvalidSettings
from serverworker.values.settings import Settings

MAIL: dict[str, Any] = {
    "recipients": ["ops@example.org"],
    "sender": "sw@example.org",
    "host": "smtp.example.org",
}
URL = "webhook.url: must be the URL of a webhook, by http or https, not"
ADDRESS = "is no mail address; it must be one such as 'ops@example.org', in ASCII and without a name"
LINE = "must be one line of text, not"

# Tables, and all that is said of them.
BAD: list[tuple[dict[str, Any], str]] = [
    (
        {"notify": {"events": ["WorkerDead"]}},
        "notify.events: there is no event 'WorkerDead'; did you mean 'WorkerDied'?",
    ),
    (
        {"notify": {"events": "WorkerDied"}},
        "notify.events: must be an array of the names of events, not 'WorkerDied'",
    ),
    ({"notify": {"events": [5]}}, "notify.events: must be an array of the names of events, not one with 5"),
    (
        {"notify": {"events": ["OutputLine"]}},
        "notify.events: OutputLine is never told of: there are too many, or it is about the messages themselves",
    ),
    ({"notify": {"budget_per_hour": 0}}, "notify.budget_per_hour: must be a whole number, 1 to 1000, not 0"),
    (
        {"notify": {"key_at_start": True}},
        "notify.key_at_start: needs mail.recipients: the session key goes out by mail alone",
    ),
    (
        {"notify": {"key_at_start": True}, "mail": {**MAIL, "security": "none"}},
        "notify.key_at_start: would send the session key for everybody on the way to read, as mail.security is 'none': "
        "use 'starttls' or 'tls'",
    ),
    ({"mail": {**MAIL, "recipients": ["ops"]}}, f"mail.recipients: 'ops' {ADDRESS}"),
    ({"mail": {**MAIL, "recipients": ["Ops <o@x.org>"]}}, f"mail.recipients: 'Ops <o@x.org>' {ADDRESS}"),
    (
        {"mail": {**MAIL, "recipients": ["o@x.org\r\nBcc: y@z"]}},
        f"mail.recipients: 'o@x.org\\r\\nBcc: y@z' {ADDRESS}",
    ),
    ({"mail": {**MAIL, "recipients": ["ö@x.org"]}}, f"mail.recipients: 'ö@x.org' {ADDRESS}"),
    ({"mail": {**MAIL, "recipients": [5]}}, f"mail.recipients: 5 {ADDRESS}"),
    (
        {"mail": {**MAIL, "recipients": "o@x.org"}},
        "mail.recipients: must be an array of mail addresses, not 'o@x.org'",
    ),
    ({"mail": {**MAIL, "recipients": ["o@x.org", "o@x.org"]}}, "mail.recipients: holds 'o@x.org' twice"),
    (
        {"mail": {**MAIL, "sender": "x"}},
        "mail.sender: must be a mail address, in ASCII and without a name, not 'x'",
    ),
    (
        {"mail": {**MAIL, "host": "x:25"}},
        "mail.host: must be the name or address of a mail server, without a port, not 'x:25'",
    ),
    (
        {"mail": {**MAIL, "host": "a b"}},
        "mail.host: must be the name or address of a mail server, without a port, not 'a b'",
    ),
    ({"mail": {**MAIL, "port": 0}}, "mail.port: must be a whole number, 1 to 65535, not 0"),
    (
        {"mail": {**MAIL, "security": "ssl"}},
        "mail.security: must be 'starttls' or 'tls' or 'none', not 'ssl'",
    ),
    (
        {"mail": {"recipients": ["o@x.org"], "host": "h"}},
        "mail.sender: is missing: the address that mail comes from",
    ),
    (
        {"mail": {"recipients": ["o@x.org"], "sender": "a@b.c"}},
        "mail.host: is missing: the mail server, such as 'smtp.example.org'",
    ),
    (
        {"mail": {"host": "h"}},
        "mail.recipients: is missing: who is to get the mail that mail.host is there for",
    ),
    (
        {"mail": {**MAIL, "user": "u", "password": "hush", "password_file": "/x"}},
        "mail.password_file: stands beside mail.password: keep one of the two",
    ),
    (
        {"mail": {**MAIL, "user": "u"}},
        "mail.user: needs a password: set mail.password_file (or mail.password)",
    ),
    (
        {"mail": {**MAIL, "password": "hush"}},
        "mail.user: is missing: whose password mail.password or mail.password_file is",
    ),
    (
        {"mail": {**MAIL, "user": "u", "password": "hush", "security": "none"}},
        "mail.security: is 'none', and the password would be read on the way: use 'starttls' or 'tls'",
    ),
    ({"mail": {**MAIL, "user": "u", "password": 123456}}, f"mail.password: {LINE} a number"),
    (
        {"mail": {**MAIL, "user": "u", "password": "hush\n"}},
        f"mail.password: {LINE} one with control characters",
    ),
    ({"mail": {**MAIL, "user": "u", "password": ""}}, f"mail.password: {LINE} an empty one"),
    ({"mail": {**MAIL, "user": "u", "password": ["hush"]}}, f"mail.password: {LINE} an array"),
    ({"webhook": {"url": "ftp://hush.example.org"}}, f"{URL} one that begins otherwise"),
    ({"webhook": {"url": "hush"}}, f"{URL} one that begins otherwise"),
    ({"webhook": {"url": "https:///hush"}}, f"{URL} one whose host or port cannot be read"),
    ({"webhook": {"url": "https://x:99999/hush"}}, f"{URL} one whose host or port cannot be read"),
    ({"webhook": {"url": "https://[hush/"}}, f"{URL} one whose host or port cannot be read"),
    ({"webhook": {"url": "https://u:hush@x/"}}, f"{URL} one with a user or password in it"),
    ({"webhook": {"url": "https://x/hush#y"}}, f"{URL} one with a '#'"),
    (
        {"webhook": {"url": "https://x/hush hush"}},
        f"{URL} one that is empty, too long, or has spaces or characters outside ASCII",
    ),
    ({"webhook": {"url": 5}}, f"{URL} a number"),
    (
        {"webhook": {"url": "https://x", "secret": "hush", "secret_file": "/x"}},
        "webhook.secret_file: stands beside webhook.secret: keep one of the two",
    ),
    ({"webhook": "https://hush.example.org"}, "webhook: must be a table, [webhook], not that"),
    (
        {"webhook": {"secret": "hush"}},
        "webhook.url: is missing: where the messages are posted that the secret signs",
    ),
    (
        {"webhook": {"url": "https://x", "timeout_seconds": 0}},
        "webhook.timeout_seconds: must be a number of seconds, 0.1 to 600, not 0",
    ),
]

WHOLE: dict[str, Any] = {
    "mail": {**MAIL, "user": "u", "password": "hush-1"},
    "webhook": {"url": "https://chat.example.org/hush-2", "secret": "hush-3"},
}


def settings_of(data: dict[str, Any]) -> Settings:
    return combine(read(data, label="test"))


class NotifySettingsTests(SynchronousTestCase):
    """What may stand in the tables."""

    def test_each_mistake_is_told(self) -> None:
        """With its key and what is allowed, whatever it is; and nothing that may be secret."""
        for data, text in BAD:
            error = self.assertRaises(InvalidSettings, settings_of, data)
            self.assertEqual(str(error), text)
            self.assertNotIn("hush", str(error))

    def test_mistakes_are_told_by_the_classes_too(self) -> None:
        """Made in Python, a table refuses what a file may not hold."""
        error = self.assertRaises(InvalidSettings, WebhookSettings, url="hush")
        self.assertEqual(str(error), f"{URL} one that begins otherwise")
        self.assertRaises(InvalidSettings, MailSettings, recipients=["x"])

    def test_what_is_fine(self) -> None:
        """Addresses, hosts and URLs of every usual kind."""
        for host in ("smtp.example.org", "localhost", "127.0.0.1", "::1", "mail_1"):
            settings_of({"mail": {**MAIL, "host": host}})
        for url in (
            "https://hooks.slack.com/services/T0/B0/xyz",
            "http://127.0.0.1:8065/hooks/x?y=z",
            "http://[::1]:80/",
            "https://discord.com/api/webhooks/1/a-b_c",
        ):
            settings_of({"webhook": {"url": url}})
        for address in (
            "a@b",
            "first.last+tag@mail.example.org",
            "o'neil@x.org",
            "x@[::1]".replace("[::1]", "y"),
        ):
            self.assertTrue(is_address(address), address)

    def test_usual_ports(self) -> None:
        """Each way to be secure has its own."""
        found = {
            each: MailSettings(**MAIL, security=each).port_number for each in ("starttls", "tls", "none")
        }
        self.assertEqual(found, {"starttls": 587, "tls": 465, "none": 25})
        self.assertEqual(MailSettings(**MAIL, port=2525).port_number, 2525)

    def test_no_secret_shows(self) -> None:
        """Not in a repr of the settings, and no worker is told of any of it."""
        made = settings_of(WHOLE)
        self.assertEqual(made.webhook.secret, "hush-3")
        self.assertNotIn("hush", repr(made))
        self.assertEqual(set(made.for_worker()) & {"mail", "notify", "webhook"}, set())
        self.assertNotIn("hush", repr(made.for_worker()))

    def test_settings_survive_json(self) -> None:
        """As JSON and back they are the same."""
        made = settings_of(WHOLE)
        self.assertEqual(Settings.from_json(made.as_json()), made)

    def test_defaults_are_allowed(self) -> None:
        """The events that are told of by default are events."""
        self.assertTrue(set(Settings().notify.events) <= set(EVENTS))
        self.assertNotIn("NotificationFailed", EVENTS)

    @given(st.from_regex(re.compile(r"[ -~]{1,20}@[ -~]{1,20}"), fullmatch=True) | st.emails())
    @settings(max_examples=400, deadline=None)
    def test_every_address_that_is_taken_can_be_mailed_to(self, address: str) -> None:
        """What the rule lets through Twisted can write into a command, in one piece and as it is."""
        if is_address(address):
            self.assertEqual(str(Address(address)), address)

    def test_a_table_stays_frozen(self) -> None:
        """Nobody changes a table that others hold."""
        self.assertRaises(attrs.exceptions.FrozenInstanceError, setattr, MailSettings(), "host", "x")
