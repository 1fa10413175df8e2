"""Messages by webhook: one POST of JSON, signed, in a shape that Slack, Mattermost and Discord take as it is.

The keys of the JSON object::

    text                what chats show: the subject, and the body up to a length
    content             the same, shorter, under the name that Discord has for it
    allowed_mentions    for Discord: nobody is called by what an output holds
    id                  the same for every attempt at a message
    attempt             1 for the first; above that an earlier one may have arrived
    at                  when it happened, ISO 8601, UTC
    host, subject, body
    count               how many events it tells of
    event               the event in the shape of `serverworker.values.event_json`, long parts cut; null where the message
                        sums several up
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from functools import partial
from urllib.parse import urlsplit

from attrs import field, frozen
from twisted.internet.defer import Deferred

from serverworker import __version__
from serverworker.observers.notifications.message import Message
from serverworker.observers.notifications.secret_files import secret_of
from serverworker.observers.notifications.spool import Item
from serverworker.observers.notifications.spool_writer import InThread
from serverworker.values.event_json import utc
from serverworker.values.notify_settings import WebhookSettings

LONGEST_TEXT = 3500
LONGEST_CONTENT = 1900
"""Discord refuses more than 2000."""
_CALLS = re.compile("[@<`]")


@frozen(kw_only=True)
class Post:
    """A request, ready to be sent."""

    url: str = field(repr=False)
    headers: dict[str, str] = field(repr=False)
    body: bytes = field(repr=False)


class Webhook:
    """The sink that posts."""

    name = "webhook"

    def __init__(self, reactor: object, settings: WebhookSettings, in_thread: InThread) -> None:
        """`reactor`: for the connection and its deadlines; `in_thread`: for what waits for the disk."""
        assert settings.url is not None
        self.to = urlsplit(settings.url).netloc
        self.deadline_seconds = settings.timeout_seconds
        self._reactor = reactor
        self._settings = settings
        self._in_thread = in_thread

    def send(self, item: Item) -> Deferred[None]:
        """Post an item; fails with `Undelivered`."""
        return Deferred.fromCoroutine(self._send(item))

    def prepare(self) -> Deferred[None]:
        """Load what the first message will need, and see that the secret can be read; fails with `Undelivered`."""
        return self._in_thread(self._load)

    async def _send(self, item: Item) -> None:
        post = await self._in_thread(partial(self._post, item))
        from serverworker.observers.notifications import http_post

        await http_post.send(self._reactor, post)

    def _load(self) -> None:
        from serverworker.observers.notifications import http_post  # noqa: F401 - treq, which takes its time

        self._secret()

    def _secret(self) -> str | None:
        return secret_of(self._settings.secret, self._settings.secret_file, "the webhook's secret_file")

    def _post(self, item: Item) -> Post:
        """In a thread: the request for an item."""
        self._load()
        assert self._settings.url is not None
        body = payload(item.message, item.attempts)
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"serverworker/{__version__}",
            "X-Serverworker-Id": item.message.id,
            "X-Serverworker-Attempt": str(item.attempts),
        }
        if (secret := self._secret()) is not None:
            headers["X-Serverworker-Signature"] = f"sha256={signature(secret, body)}"
        return Post(url=self._settings.url, headers=headers, body=body)


def signature(secret: str, body: bytes) -> str:
    """The HMAC-SHA256 of a body, in hexadecimal."""
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def payload(message: Message, attempt: int) -> bytes:
    """The body of a request: the JSON object described above."""
    content = {
        "text": _for_chat(message, attempt, LONGEST_TEXT),
        "content": _for_chat(message, attempt, LONGEST_CONTENT),
        "allowed_mentions": {"parse": []},
        "id": message.id,
        "attempt": attempt,
        "at": utc(message.at),
        "host": message.host,
        "subject": message.subject,
        "body": message.body,
        "count": message.count,
        "event": message.details or None,
    }
    return json.dumps(content, ensure_ascii=False).encode()


def _for_chat(message: Message, attempt: int, longest: int) -> str:
    again = f"\n(attempt {attempt}: an earlier one may have arrived)" if attempt > 1 else ""
    head = f"{_harmless(message.subject)}{again}\n"
    body = _harmless(message.body.rstrip())
    room = longest - len(head) - len("```\n\n```")
    if len(body) > room:
        cut = "\n… (cut)"
        body = body[: room - len(cut)] + cut
    return f"{head}```\n{body}\n```"


def _harmless(text: str) -> str:
    """The text with a space of no width behind what would call people, make a link or end the block it stands in."""
    return _CALLS.sub("\\g<0>\u200b", text)
