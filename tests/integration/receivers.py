"""Real receivers of notifications: a mail server (aiosmtpd) and an HTTP sink, each in a thread; and certificates."""

from __future__ import annotations

import asyncio
import email
import email.policy
import json
import logging
import os
import socket
import ssl
import threading
import warnings
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword
from attrs import frozen
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

logging.getLogger("mail.log").addHandler(logging.NullHandler())  # or aiosmtpd speaks into the tests' output

USER, PASSWORD = "serverworker", "a very secret password"


def make_certificate(folder: Path, *names: str) -> Path:
    """A PEM file with a key and a self-signed certificate for host names, good for a day; it is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    now = datetime.now(UTC)
    alternatives = [
        x509.IPAddress(ip_address(name)) if name[0].isdigit() else x509.DNSName(name) for name in names
    ]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / f"{names[0]}.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path


@frozen(kw_only=True)
class Mailed:
    """A mail as the server has got it."""

    sender: str
    recipients: tuple[str, ...]
    mail: EmailMessage
    secure: bool
    user: str | None


def trust(certificate: Path) -> Callable[[], None]:
    """Have this process check certificates against this one, as operators do it; answers what undoes it."""
    before = os.environ.get("SSL_CERT_FILE")
    os.environ["SSL_CERT_FILE"] = str(certificate)

    def undo() -> None:
        if before is None:
            del os.environ["SSL_CERT_FILE"]
        else:
            os.environ["SSL_CERT_FILE"] = before

    return undo


class MailServer:
    """An SMTP server on a port of its own, which stays its own while the server is down."""

    def __init__(
        self,
        *,
        certificate: Path | None = None,
        implicit_tls: bool = False,
        login: bool = False,
        refused: tuple[str, ...] = (),
    ) -> None:
        """With a certificate it demands STARTTLS, or begins with TLS; `refused` are recipients that it has not."""
        self.mails: list[Mailed] = []
        self._login = login
        self._refused = refused
        self._implicit = implicit_tls
        self._context: ssl.SSLContext | None = None
        if certificate is not None:
            self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self._context.load_cert_chain(certificate)
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        self.port: int = self._socket.getsockname()[1]
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to serve."""
        ready = threading.Event()

        def run() -> None:
            loop = asyncio.new_event_loop()
            server = loop.run_until_complete(
                loop.create_server(
                    self._protocol, sock=self._socket, ssl=self._context if self._implicit else None
                )
            )
            self._loop = loop
            ready.set()
            loop.run_forever()
            server.close()
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.run_until_complete(asyncio.sleep(0.05))
            loop.close()

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()
        ready.wait(30)

    def _protocol(self) -> SMTP:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of a login that is secure by other means
            return SMTP(
                self,
                hostname="localhost",
                tls_context=None if self._implicit else self._context,
                require_starttls=self._context is not None and not self._implicit,
                authenticator=self._authenticate,
                auth_required=self._login,
                auth_require_tls=self._login and not self._implicit,  # it knows only its own STARTTLS
                ident="test",
            )

    def _authenticate(
        self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any
    ) -> AuthResult:
        good = isinstance(data, LoginPassword) and (data.login, data.password) == (
            USER.encode(),
            PASSWORD.encode(),
        )
        return AuthResult(success=good, handled=False, auth_data=data.login.decode() if good else None)

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        if address in self._refused:
            return "550 no such user here"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        mail = email.message_from_bytes(envelope.content, policy=email.policy.default)
        assert isinstance(mail, EmailMessage)
        secure = server.transport.get_extra_info("sslcontext") is not None
        user = session.auth_data if session.authenticated else None
        self.mails.append(
            Mailed(
                sender=envelope.mail_from,
                recipients=tuple(envelope.rcpt_tos),
                mail=mail,
                secure=secure,
                user=user,
            )
        )
        return "250 queued"

    def stop(self) -> None:
        """End it, and give the port back."""
        if self._loop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(30)
        self._socket.close()


@frozen(kw_only=True)
class Posted:
    """A request as the sink has got it."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        """Its content."""
        content: dict[str, Any] = json.loads(self.body)
        return content


class HTTPSink:
    """An HTTP server that notes what is posted to it, and answers as it is told."""

    def __init__(self, certificate: Path | None = None) -> None:
        """With a certificate it speaks HTTPS."""
        self.posts: list[Posted] = []
        self.status: Callable[[int], int] = lambda number: 200
        """What the nth request is answered with, from 1."""
        sink = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                sink.posts.append(Posted(path=self.path, headers=dict(self.headers.items()), body=body))
                status = sink.status(len(sink.posts))
                self.send_response(status)
                if 300 <= status < 400:
                    self.send_header("Location", "/elsewhere")
                self.end_headers()
                self.wfile.write(b"noted" if status < 300 else b"no, thank you")

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if certificate is not None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(30)
