"""TLS for the operators' ports: certificates from PEM files, checked while the service is made."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from serverworker.values.errors import ConfigurationError


def tls_options(
    table: str, certificate: str, private_key: str | None, client_authority: str | None = None
) -> Any:
    """What `twisted.internet.ssl` needs to listen with a certificate: `CertificateOptions`, TLS 1.2 or later.

    `table` is that of the configuration, for the texts. With `client_authority` only clients get in that show a
    certificate which it has signed.

    Raises `ConfigurationError` where a file cannot be read, holds something else, or key and certificate do not match.
    """
    from OpenSSL import SSL
    from twisted.internet.ssl import CertificateOptions, TLSVersion, trustRootFromCertificates

    # What Twisted hands on to OpenSSL are cryptography's objects: it takes both, and warns of its own.
    chain = [each.original.to_cryptography() for each in _certificates(f"{table}.certificate", certificate)]
    key = _private_key(table, private_key or certificate)
    _check_dates(f"{table}.certificate", certificate, chain[0])
    more: dict[str, Any] = {}
    if client_authority is not None:
        authorities = _certificates(f"{table}.client_authority", client_authority)
        more["trustRoot"] = trustRootFromCertificates(authorities)
    options = CertificateOptions(
        privateKey=key,
        certificate=chain[0],
        extraCertChain=chain[1:],
        raiseMinimumTo=TLSVersion.TLSv1_2,
        **more,
    )
    try:
        options.getContext()
    except SSL.Error as error:
        raise ConfigurationError(
            f"{table}.certificate: {certificate} and the private key in {private_key or certificate} cannot be used "
            f"together: {error.args[0][0][2] if error.args and error.args[0] else error}"
        ) from error
    return options


def _read(key: str, name: str) -> bytes:
    try:
        return Path(name).read_bytes()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigurationError(f"{key}: {name} cannot be read: {why}") from error


def _certificates(key: str, name: str) -> list[Any]:
    """All certificates of a PEM file, in their order."""
    from twisted.internet.ssl import Certificate

    end = b"-----END CERTIFICATE-----"
    text = _read(key, name)
    parts = [part[part.index(b"-----BEGIN CERTIFICATE-----") :] + end for part in _ended(text, end)]
    try:
        found = [Certificate.loadPEM(part) for part in parts]
    except Exception as error:  # OpenSSL's, whatever it is called in this version
        raise ConfigurationError(f"{key}: {name} holds a certificate that cannot be read") from error
    if not found:
        raise ConfigurationError(
            f"{key}: {name} holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)"
        )
    return found


def _ended(text: bytes, end: bytes) -> list[bytes]:
    return [part for part in text.split(end)[:-1] if b"-----BEGIN CERTIFICATE-----" in part]


def _private_key(table: str, name: str) -> Any:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = f"{table}.private_key"
    text = _read(key, name)
    try:
        # Not OpenSSL's own way: that asks for a passphrase on the terminal, and waits.
        return load_pem_private_key(text, password=None)
    except Exception as error:  # whatever it is called in this version; a key with a passphrase among them
        raise ConfigurationError(
            f"{key}: {name} holds no private key in PEM form that can be read without a passphrase"
        ) from error


def _check_dates(key: str, name: str, certificate: Any) -> None:
    now, until, since = datetime.now(UTC), certificate.not_valid_after_utc, certificate.not_valid_before_utc
    if until < now:
        raise ConfigurationError(f"{key}: the certificate in {name} has expired, at {until}")
    if since > now:
        raise ConfigurationError(
            f"{key}: the certificate in {name} is not valid before {since}; is the clock right?"
        )
