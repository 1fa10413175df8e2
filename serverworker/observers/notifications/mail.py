"""Messages by mail: what a mail looks like, and the sink that hands it to the server."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial

from attrs import field, frozen
from twisted.internet.defer import Deferred, succeed

from serverworker import __version__
from serverworker.observers.notifications.message import Message
from serverworker.observers.notifications.secret_files import secret_of
from serverworker.observers.notifications.spool import Item
from serverworker.observers.notifications.spool_writer import InThread
from serverworker.values.notify_settings import MailSettings

ATTEMPT_SECONDS = 60.0
"""From the look-up of the server's name until it has taken a mail."""


@frozen(kw_only=True)
class Mail:
    """A mail, ready to be sent."""

    sender: str
    recipients: tuple[str, ...]
    content: bytes = field(repr=False)
    """Lines that end in a line feed, none of which begins with a dot."""
    user: str | None
    password: str | None = field(repr=False)


class MailSink:
    """The sink that mails."""

    name = "mail"
    deadline_seconds = ATTEMPT_SECONDS

    def __init__(self, reactor: object, settings: MailSettings, in_thread: InThread) -> None:
        """`reactor`: for the connection and its deadlines; `in_thread`: for what waits for the disk or the network."""
        self.to = f"{', '.join(settings.recipients)} by {settings.host}:{settings.port_number}"
        self._reactor = reactor
        self._settings = settings
        self._in_thread = in_thread

    def send(self, item: Item) -> Deferred[None]:
        """Mail an item to all who have not got it yet; fails with `Undelivered`."""
        # Who was taken off the list is told no more, who was put on it is.
        left = tuple(each for each in self._settings.recipients if each not in item.done)
        return Deferred.fromCoroutine(self._send(item, left)) if left else succeed(None)

    def prepare(self) -> Deferred[None]:
        """Load what the first message will need, and see that the password can be read; fails with `Undelivered`."""
        return self._in_thread(self._load)

    async def _send(self, item: Item, recipients: tuple[str, ...]) -> None:
        mail = await self._in_thread(partial(self._mail, item, recipients))
        from serverworker.observers.notifications import smtp

        await smtp.send(self._reactor, self._settings, mail)

    def _load(self) -> str | None:
        # twisted.mail asks the network for this host's name while it is imported, which may take its time.
        from serverworker.observers.notifications import smtp  # noqa: F401 - so that it is there when a mail is sent

        return secret_of(self._settings.password, self._settings.password_file, "the mail's password_file")

    def _mail(self, item: Item, recipients: tuple[str, ...]) -> Mail:
        """In a thread: the mail for an item."""
        password = self._load()
        assert self._settings.sender is not None
        return Mail(
            sender=self._settings.sender,
            recipients=recipients,
            content=written(item.message, item.attempts, self._settings.sender, self._settings.recipients),
            user=self._settings.user,
            password=password,
        )


def written(message: Message, attempt: int, sender: str, recipients: tuple[str, ...]) -> bytes:
    """A message as a mail, in RFC 5322's form but for the ends of lines, which are line feeds."""
    from email.header import Header
    from email.mime.text import MIMEText
    from email.utils import format_datetime

    again = (
        f"\n(This is attempt {attempt} at this message; an earlier one may have arrived, with the same Message-ID.)\n"
        if attempt > 1
        else ""
    )
    # In base64, as this class writes UTF-8, no line begins with a dot, and none is too long for a server.
    mail = MIMEText(f"{message.body}{again}", "plain", "utf-8")
    mail["From"] = sender
    mail["To"] = ", ".join(recipients)
    subject = message.subject
    mail["Subject"] = subject if subject.isascii() else Header(subject, "utf-8").encode()
    mail["Date"] = format_datetime(datetime.fromtimestamp(message.at, UTC))
    mail["Message-ID"] = f"<{message.id}@{_domain(sender)}>"
    mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: no absence notes, please
    mail["X-Serverworker-Id"] = message.id
    mail["X-Serverworker-Attempt"] = str(attempt)
    mail["User-Agent"] = f"serverworker/{__version__}"
    return mail.as_bytes()


def _domain(address: str) -> str:
    return address.rpartition("@")[2]
