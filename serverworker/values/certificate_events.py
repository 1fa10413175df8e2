"""The events about certificates of the session's ports."""

from __future__ import annotations

from attrs import frozen


@frozen(kw_only=True)
class CertificateInUse:
    """New connections to some ports get this certificate: at the start, and when its file had changed."""

    ports: tuple[str, ...]
    """Their names."""
    certificate: str
    """The name of the file."""
    subject: str
    """Whom it is for, such as ``example.org, www.example.org``."""
    until: str
    """When it expires, in UTC."""


@frozen(kw_only=True)
class CertificateExpiring:
    """A certificate that is in use ought to have been renewed by now. Told once a day until it is."""

    ports: tuple[str, ...]
    """Their names."""
    certificate: str
    """The name of the file."""
    subject: str
    until: str
    """When it expires, in UTC."""
    seconds: float
    """Until then; negative where it has expired."""
