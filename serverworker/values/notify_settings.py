"""Who is told of what: ``[notify]``, ``[mail]`` and ``[webhook]``. What is secret in them is never shown."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import Any, get_args
from urllib.parse import SplitResult, urlsplit

from attrs import Attribute, field, frozen

from serverworker.values import rules
from serverworker.values.errors import Problem, nearest
from serverworker.values.events import Event
from serverworker.values.rules import InvalidSettings, shown

_NEVER_TOLD = frozenset(
    {"Heartbeat", "NotificationDelivered", "NotificationFailed", "NotificationsDropped", "OutputLine"}
)
"""Too many to be worth a message, or about the messages themselves, which would never end."""

EVENTS = tuple(sorted(kind.__name__ for kind in get_args(Event) if kind.__name__ not in _NEVER_TOLD))
"""The names of those that can be told of."""

PORTS = {"starttls": 587, "tls": 465, "none": 25}
"""The usual port of a mail server, by how the connection is secured."""

_ATOM = "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = "[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")
_ADDRESS = re.compile(rf"(?=.{{3,254}}\Z)(?=[^@]{{1,64}}@)({_ATOM}(?:\.{_ATOM})*)@({_LABEL}(?:\.{_LABEL})*)")
_URL_TEXT = re.compile(r"[!-~]{1,2048}")


class _Checked:
    """A rule that is a validator in the sense of attrs as well."""

    def problems(self, key: str, value: object) -> list[Problem]:
        """All that is wrong with the value of this key."""
        raise NotImplementedError

    def __call__(self, instance: object, attribute: Attribute[Any], value: object) -> None:
        """Raise `InvalidSettings` where there is a problem."""
        table = type(instance).__name__.removesuffix("Settings").lower()
        _refuse(self.problems(f"{table}.{attribute.name}", value))


@frozen
class _SecretRule(_Checked):
    """A rule for a text that may be secret, unset by default: an error says what is allowed, and not what is there."""

    words: str
    fault: Callable[[str], str]
    """What is wrong with a text, without showing it; empty where it may stand."""

    def problems(self, key: str, value: object) -> list[Problem]:
        """All that is wrong with the value."""
        if value is None:
            return []
        if not isinstance(value, str):
            return [Problem(key, f"must be {self.words}, not {_kind(value)}")]
        fault = self.fault(value)
        return [Problem(key, f"must be {self.words}, not {fault}")] if fault else []


class _EventsRule(_Checked):
    """A rule for the names of events."""

    def problems(self, key: str, value: object) -> list[Problem]:
        """One for each name that there is not."""
        if not isinstance(value, list | tuple):
            return [Problem(key, f"must be an array of the names of events, not {shown(value)}")]
        return [Problem(key, _event_fault(name)) for name in value if name not in EVENTS]


class _RecipientsRule(_Checked):
    """A rule for the addresses that mail goes to."""

    def problems(self, key: str, value: object) -> list[Problem]:
        """One for each that is no address, or is there twice."""
        if not isinstance(value, list | tuple):
            return [Problem(key, f"must be an array of mail addresses, not {shown(value)}")]
        wrong = [Problem(key, _address_fault(each)) for each in value if not is_address(each)]
        twice = [each for index, each in enumerate(value) if each in value[:index] and is_address(each)]
        return wrong + [Problem(key, f"holds {shown(each)} twice") for each in twice]


def is_address(value: object) -> bool:
    """Whether a mail server would take it: ``local@domain`` in ASCII, without a name or brackets around it."""
    return isinstance(value, str) and _ADDRESS.fullmatch(value) is not None


def _kind(value: object) -> str:
    if isinstance(value, bool | list | dict):
        return shown(value)  # "true", "an array": nothing that is secret
    return "a number" if isinstance(value, int | float) else "that"


def _refuse(problems: list[Problem]) -> None:
    if problems:
        raise InvalidSettings(problems)


def _event_fault(name: object) -> str:
    if not isinstance(name, str):
        return f"must be an array of the names of events, not one with {shown(name)}"
    if name in _NEVER_TOLD:
        return f"{name} is never told of: there are too many, or it is about the messages themselves"
    return f"there is no event {shown(name)}{nearest(name, EVENTS)}"


def _address_fault(value: object) -> str:
    return f"{shown(value)} is no mail address; it must be one such as 'ops@example.org', in ASCII and without a name"


def _is_host(value: str) -> bool:
    try:
        ip_address(value)
    except ValueError:
        return _HOST.fullmatch(value) is not None
    return True


def _secret_fault(value: str) -> str:
    if not value:
        return "an empty one"
    return "" if value.isprintable() else "one with control characters"


def _url_fault(value: str) -> str:
    if not _URL_TEXT.fullmatch(value):
        return "one that is empty, too long, or has spaces or characters outside ASCII"
    try:
        parts = urlsplit(value)
        return _parts_fault(parts, parts.port)
    except ValueError:
        return "one whose host or port cannot be read"


def _parts_fault(parts: SplitResult, port: int | None) -> str:
    if parts.scheme not in ("http", "https"):
        return "one that begins otherwise"
    if parts.username is not None or parts.password is not None:
        return "one with a user or password in it"
    if parts.hostname is None or not _is_host(parts.hostname) or port == 0:
        return "one whose host or port cannot be read"
    return "one with a '#'" if parts.fragment else ""


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _secret(words: str, fault: Callable[[str], str] = _secret_fault) -> Any:
    # `repr=False` is what marks a secret: `--check-config` does not show such a field either.
    return field(default=None, validator=_SecretRule(words, fault), repr=False)


def _address() -> Any:
    return rules.text("a mail address, in ASCII and without a name", is_address)


def _host() -> Any:
    return rules.text("the name or address of a mail server, without a port", _is_host)


@frozen(kw_only=True)
class NotifySettings:
    """``[notify]``: of what mail and webhook tell, and how much. They are read when a session starts."""

    events: tuple[str, ...] = field(
        default=("WorkerDied", "RestartFailed", "Fault", "CertificateExpiring", "SessionEnding"),
        validator=_EventsRule(),
        converter=_as_tuple,
    )
    """The events that are told of. `SessionEnding` and `SessionEnded` only where the session ends with an error."""
    group_seconds: float = rules.seconds(300.0, minimum=1.0)
    """The first event of a cause is told at once; what repeats it within so many seconds becomes one message."""
    budget_per_hour: int = rules.whole(20, 1, 1000)
    """So many messages in any hour; what comes on top is summed up in one as soon as there is room."""
    key_at_start: bool = rules.flag(False)
    """Whether the session key is mailed when the server runs, as the original session did. Webhooks never get it."""


@frozen(kw_only=True)
class MailSettings:
    """``[mail]``: messages by mail. Without recipients there is none."""

    recipients: tuple[str, ...] = field(default=(), validator=_RecipientsRule(), converter=_as_tuple)
    """Who is told, such as ``["ops@example.org"]``."""
    sender: str | None = _address()
    """The address that they come from."""
    host: str | None = _host()
    """The mail server. Its certificate must be good for this name."""
    port: int | None = rules.whole(None, 1, 65535)
    """Unset: 587 with ``starttls``, 465 with ``tls``, 25 with ``none``."""
    security: str = rules.one_of("starttls", "starttls", "tls", "none")
    """With ``starttls`` and ``tls`` nothing is sent before the server's certificate is verified."""
    user: str | None = rules.text("one line of text, the name to log in with")
    """Unset: no login."""
    password: str | None = _secret("one line of text")
    """Better kept in a file of its own, `password_file`."""
    password_file: str | None = rules.path()
    """A file that holds nothing but the password; read for each message, by the user that the session runs as."""

    def __attrs_post_init__(self) -> None:
        _refuse(list(_mail_problems(self)))

    @property
    def port_number(self) -> int:
        """The port, chosen or usual."""
        return self.port if self.port is not None else PORTS[self.security]


@frozen(kw_only=True)
class WebhookSettings:
    """``[webhook]``: messages as JSON, in a shape that Slack, Mattermost and Discord take as it is."""

    url: str | None = _secret("the URL of a webhook, by http or https", _url_fault)
    """Where they are posted; unset: nowhere. It is never shown but for its host: whoever knows it can post there."""
    secret: str | None = _secret("one line of text")
    """Signs each message: the header ``X-Serverworker-Signature`` is ``sha256=`` and the HMAC of the body."""
    secret_file: str | None = rules.path()
    """A file that holds nothing but the secret; read for each message, by the user that the session runs as."""
    timeout_seconds: float = rules.seconds(10.0, minimum=0.1, maximum=600.0)
    """Of one attempt, from the look-up of the name to the end of the answer."""

    def __attrs_post_init__(self) -> None:
        _refuse(list(_webhook_problems(self)))


def _mail_problems(mail: MailSettings) -> Iterator[Problem]:
    if mail.recipients:
        if mail.sender is None:
            yield Problem("mail.sender", "is missing: the address that mail comes from")
        if mail.host is None:
            yield Problem("mail.host", "is missing: the mail server, such as 'smtp.example.org'")
    elif mail.host is not None:
        yield Problem("mail.recipients", "is missing: who is to get the mail that mail.host is there for")
    if mail.password is not None and mail.password_file is not None:
        yield Problem("mail.password_file", "stands beside mail.password: keep one of the two")
    has_password = mail.password is not None or mail.password_file is not None
    if mail.user is not None and not has_password:
        yield Problem("mail.user", "needs a password: set mail.password_file (or mail.password)")
    if mail.user is None and has_password:
        yield Problem("mail.user", "is missing: whose password mail.password or mail.password_file is")
    if mail.user is not None and mail.security == "none":
        yield Problem(
            "mail.security", "is 'none', and the password would be read on the way: use 'starttls' or 'tls'"
        )


def _webhook_problems(webhook: WebhookSettings) -> Iterator[Problem]:
    if webhook.secret is not None and webhook.secret_file is not None:
        yield Problem("webhook.secret_file", "stands beside webhook.secret: keep one of the two")
    if webhook.url is None and (webhook.secret is not None or webhook.secret_file is not None):
        yield Problem("webhook.url", "is missing: where the messages are posted that the secret signs")


def notify_problems(notify: NotifySettings, mail: MailSettings) -> Iterator[Problem]:
    """What is wrong between the tables; each by itself is checked already."""
    if notify.key_at_start and not mail.recipients:
        yield Problem("notify.key_at_start", "needs mail.recipients: the session key goes out by mail alone")
    elif notify.key_at_start and mail.security == "none":
        yield Problem(
            "notify.key_at_start",
            "would send the session key for everybody on the way to read, as mail.security is 'none': "
            "use 'starttls' or 'tls'",
        )
