"""Certificates and private keys: read from PEM files, checked with words for an operator, made ready to serve with."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from serverworker.values.errors import ConfigurationError
from serverworker.values.tls import KeyPair

_SHORTEST_RSA_BITS = 2048
"""What OpenSSL's own default (security level 2) and every browser ask for."""
_LARGEST_FILE = 1024 * 1024
_SHOWN_NAMES = 3


def read_key_pair(table: str, certificate: str, private_key: str | None) -> KeyPair:
    """Read a certificate with its chain and its key; no `private_key`: both are in the one file.

    `table` is that of the configuration, for the texts. Raises `ConfigurationError` where a file cannot be read or
    holds something else, the two do not match, or the certificate cannot be used today. No text holds anything of a key.
    """
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    chain = read_certificates(f"{table}.certificate", certificate)
    key = _private_key(f"{table}.private_key", private_key or certificate)
    _check_dates(f"{table}.certificate", certificate, chain[0])
    _check_strength(f"{table}.certificate", certificate, chain[0])
    pair = KeyPair(
        certificate="".join(each.public_bytes(Encoding.PEM).decode() for each in chain),
        private_key=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
        subject=_subject(chain[0]),
        since=chain[0].not_valid_before_utc.timestamp(),
        until=chain[0].not_valid_after_utc.timestamp(),
    )
    _check_together(table, certificate, private_key or certificate, pair)
    return pair


def certificate_options(
    certificate: str, private_key: str, minimum_version: str = "1.2", trust_root: Any = None
) -> Any:
    """What `twisted.internet.ssl` serves with, from the texts of a `KeyPair`: `CertificateOptions`.

    With `trust_root` only clients get in that show a certificate which it has signed.
    """
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from cryptography.x509 import load_pem_x509_certificates
    from twisted.internet.ssl import CertificateOptions, TLSVersion

    # What Twisted hands on to OpenSSL are cryptography's objects: it takes both, and warns of its own.
    chain: list[Any] = load_pem_x509_certificates(certificate.encode())
    key: Any = load_pem_private_key(private_key.encode(), password=None)
    more: dict[str, Any] = {} if trust_root is None else {"trustRoot": trust_root}
    versions = {"1.2": TLSVersion.TLSv1_2, "1.3": TLSVersion.TLSv1_3}
    return CertificateOptions(
        privateKey=key,
        certificate=chain[0],
        extraCertChain=chain[1:],
        raiseMinimumTo=versions[minimum_version],
        **more,
    )


def read_certificates(key: str, name: str) -> list[Any]:
    """All certificates of a PEM file, as `cryptography` has them, in their order. Raises `ConfigurationError`."""
    from cryptography.x509 import load_pem_x509_certificate

    end = b"-----END CERTIFICATE-----"
    parts = [part + end for part in _read(key, name).split(end)[:-1]]
    begin = b"-----BEGIN CERTIFICATE-----"
    try:
        found = [load_pem_x509_certificate(part[part.index(begin) :]) for part in parts if begin in part]
    except Exception as error:  # whatever it is called in this version
        raise ConfigurationError(f"{key}: {name} holds a certificate that cannot be read") from error
    if not found:
        raise ConfigurationError(
            f"{key}: {name} holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)"
        )
    return found


def _read(key: str, name: str) -> bytes:
    try:
        with Path(name).open("rb") as file:
            content = file.read(_LARGEST_FILE + 1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigurationError(f"{key}: {name} cannot be read: {why}") from error
    if len(content) > _LARGEST_FILE:
        raise ConfigurationError(f"{key}: {name} is larger than a MiB, so it is hardly a PEM file")
    return content


def _private_key(key: str, name: str) -> Any:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    text = _read(key, name)
    try:
        # Not OpenSSL's own way: that asks for a passphrase on the terminal, and waits.
        return load_pem_private_key(text, password=None)
    except TypeError as error:  # what it says of one with a passphrase
        raise ConfigurationError(
            f"{key}: {name} holds no private key that can be read without a passphrase, and nobody is there to be "
            f"asked for it: `openssl pkey -in {name} -out FILE` writes one that has none; keep it from other users"
        ) from error
    except Exception as error:  # whatever it is called in this version
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


def _check_strength(key: str, name: str, certificate: Any) -> None:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    public = certificate.public_key()
    if isinstance(public, RSAPublicKey) and public.key_size < _SHORTEST_RSA_BITS:
        raise ConfigurationError(
            f"{key}: the certificate in {name} is for an RSA key of {public.key_size} bits, which clients refuse: it takes "
            f"{_SHORTEST_RSA_BITS} at least"
        )


def _check_together(table: str, certificate: str, key_file: str, pair: KeyPair) -> None:
    from OpenSSL import SSL

    try:
        certificate_options(pair.certificate, pair.private_key).getContext()
    except (SSL.Error, ValueError, TypeError) as error:
        said = error.args[0][0][2] if isinstance(error, SSL.Error) and error.args and error.args[0] else error
        raise ConfigurationError(
            f"{table}.certificate: {certificate} and the private key in {key_file} cannot be used together: {said}"
        ) from error


def _subject(certificate: Any) -> str:
    """The names that a certificate is for, the first few of them; else what it calls itself."""
    from cryptography.x509 import ExtensionNotFound, SubjectAlternativeName

    try:
        extension = certificate.extensions.get_extension_for_class(SubjectAlternativeName)
    except (ExtensionNotFound, ValueError):
        return str(certificate.subject.rfc4514_string())
    names = [str(each.value) for each in extension.value]
    more = [] if len(names) <= _SHOWN_NAMES else [f"{len(names) - _SHOWN_NAMES} more"]
    return ", ".join([*names[:_SHOWN_NAMES], *more])
