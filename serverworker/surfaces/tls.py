"""TLS for the operators' ports: certificates from PEM files, checked while the service is made."""

from __future__ import annotations

from typing import Any

from serverworker.processes.certificates import certificate_options, read_certificates, read_key_pair


def tls_options(
    table: str, certificate: str, private_key: str | None, client_authority: str | None = None
) -> Any:
    """What `twisted.internet.ssl` needs to listen with a certificate: `CertificateOptions`, TLS 1.2 or later.

    `table` is that of the configuration, for the texts. With `client_authority` only clients get in that show a
    certificate which it has signed.

    Raises `ConfigurationError` where a file cannot be read, holds something else, or key and certificate do not match.
    """
    pair = read_key_pair(table, certificate, private_key)
    authorities = None
    if client_authority is not None:
        authorities = _trust_root(read_certificates(f"{table}.client_authority", client_authority))
    return certificate_options(pair.certificate, pair.private_key, trust_root=authorities)


def _trust_root(authorities: list[Any]) -> Any:
    from cryptography.hazmat.primitives.serialization import Encoding
    from twisted.internet.ssl import Certificate, trustRootFromCertificates

    return trustRootFromCertificates(
        [Certificate.loadPEM(each.public_bytes(Encoding.PEM)) for each in authorities]
    )
