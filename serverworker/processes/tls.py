"""TLS on a worker's ports: what stands before the application's factory, with a certificate that can be exchanged."""

from __future__ import annotations

import os
import ssl
from collections.abc import Sequence
from typing import Any

from OpenSSL import SSL
from twisted.internet.interfaces import (
    IAddress,
    IOpenSSLServerConnectionCreator,
    IProtocol,
    IProtocolFactory,
    IProtocolNegotiationFactory,
    IReactorTime,
)
from twisted.protocols.tls import TLSMemoryBIOFactory
from zope.interface import implementer

from serverworker.processes.certificates import certificate_options
from serverworker.values.tls import PortTls

_NOT_DRAINED = (b"h2",)
"""Not offered: an HTTP/2 connection is not drained, so each restart would cut its requests short."""


@implementer(IOpenSSLServerConnectionCreator)
class Certified:
    """The certificate of one port: new connections get the one that holds, those that are there keep theirs."""

    def __init__(self, tls: PortTls, factory: IProtocolFactory) -> None:
        """`factory` is asked which protocols it can speak inside TLS (ALPN); most speak one, and have no answer."""
        self._protocols: tuple[bytes, ...] = ()
        if IProtocolNegotiationFactory.providedBy(factory):
            offered: Any = factory
            self._protocols = tuple(
                each for each in offered.acceptableProtocols() if each not in _NOT_DRAINED
            )
        self.use(tls)

    def use(self, tls: PortTls) -> None:
        """Serve with this certificate from now on."""
        context = certificate_options(tls.certificate, tls.private_key, tls.minimum_version).getContext()
        # In the place of Twisted's own, which ends the handshake where nothing that a client offers will do.
        context.set_alpn_select_callback(self._select)
        self._context = context

    def serverConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        """The OpenSSL side of a connection that was accepted."""
        connection = SSL.Connection(self._context, None)
        connection.set_app_data(tlsProtocol)
        return connection

    def _select(self, connection: SSL.Connection, theirs: Sequence[bytes]) -> Any:
        for each in self._protocols:
            if each in theirs:
                return each
        return SSL.NO_OVERLAPPING_PROTOCOLS


def behind_tls(factory: IProtocolFactory, certified: Certified, clock: IReactorTime) -> IProtocolFactory:
    """The same factory for clients that speak TLS."""
    served: IProtocolFactory = TLSMemoryBIOFactory(certified, False, _Reserved(factory), clock)
    return served


@implementer(IProtocolFactory)
class _Reserved:
    """A factory that says nothing of the protocols it can speak inside TLS.

    `Certified` has asked it. Older versions of Twisted would ask again at each connection, and write the answer into a
    context that is in use, which pyOpenSSL refuses.
    """

    def __init__(self, factory: IProtocolFactory) -> None:
        self._factory = factory

    def buildProtocol(self, addr: IAddress) -> IProtocol | None:
        return self._factory.buildProtocol(addr)

    def doStart(self) -> None:
        self._factory.doStart()

    def doStop(self) -> None:
        self._factory.doStop()


def ssl_context(tls: PortTls) -> ssl.SSLContext:
    """What the standard library, and so asyncio, serves with."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    versions = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
    context.minimum_version = versions[tls.minimum_version]
    context.set_alpn_protocols(["http/1.1"])
    # It reads files only. This one has no name, and is gone with its descriptor.
    descriptor = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(f"{tls.private_key}{tls.certificate}".encode())
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
    return context
