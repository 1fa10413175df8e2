"""The events about messages to those who are to be told: mail and webhooks."""

from __future__ import annotations

from attrs import frozen


@frozen(kw_only=True)
class NotificationDelivered:
    """A mail server or a webhook has taken a message."""

    sink: str
    """``mail`` or ``webhook``."""
    to: str
    """In words, such as ``ops@example.org by smtp.example.org:587``."""
    subject: str
    message_id: str
    """The same for every attempt at one message."""
    attempt: int
    """1 for the first."""


@frozen(kw_only=True)
class NotificationFailed:
    """A message did not get through. Told once for each time that a sink fails, not for each attempt."""

    sink: str
    to: str
    subject: str
    attempt: int
    text: str
    """Why."""
    next_step: str


@frozen(kw_only=True)
class NotificationsDropped:
    """Messages that do not go out, or not each by itself."""

    count: int
    text: str
    """Why."""
    next_step: str
