"""TLS on the session's port, by a real client: served, renewed at a restart, refused at the start."""

from __future__ import annotations

import signal
import ssl
from http.client import HTTPSConnection
from pathlib import Path

from tests.integration.sessions import LONG, SessionTestCase, TestSession
from tests.unit.certificates import issue

APP = """
    from twisted.web.resource import Resource
    class Root(Resource):
        isLeaf = True
        def render_GET(self, request):
            return b"secure" if request.isSecure() else b"plain"
    root = Root()
    """
CONFIGURATION = """
    [app]
    resource = "app:root"
    [workers]
    standby = 0
    [tls.server]
    certificate = "site.pem"
    """


def ask(session: TestSession, trusted: Path) -> bytes:
    """One request over TLS, whose server has to show a certificate that is trusted."""
    context = ssl.create_default_context(cafile=str(trusted))
    connection = HTTPSConnection("localhost", session.port(), timeout=LONG, context=context)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read()
    finally:
        connection.close()


class TlsTests(SessionTestCase):
    """A session with ``[tls.server]``."""

    def test_served_and_renewed(self) -> None:
        """The application knows that it is asked over TLS; what lies in the file at a restart is served after it."""
        folder = self.folder(app__py=APP, serverworker__toml=CONFIGURATION)
        file = folder / "site.pem"
        issue("first", days=(-1, 90)).write(file)
        session = self.session("--config", "serverworker.toml", folder=folder)
        session.serving()
        self.assertEqual(ask(session, file), b"secure")
        before = len(session.events)
        issue("second", days=(-1, 90)).write(file)
        session.process.send_signal(signal.SIGHUP)
        session.wait_for("RestartCompleted", after=before)
        session.wait_for("CertificateInUse", after=before)
        self.assertEqual(ask(session, file), b"secure")
        self.assertEqual(session.end(), 0)

    def test_refused(self) -> None:
        """A certificate that has expired ends the start with 78, and says which file."""
        folder = self.folder(app__py=APP, serverworker__toml=CONFIGURATION)
        issue("old", days=(-9, -2)).write(folder / "site.pem")
        session = self.session("--config", "serverworker.toml", folder=folder)
        self.assertEqual(session.exit_status(), 78)
        text = f"tls.server.certificate: the certificate in {folder}/site.pem has expired, at 20"
        self.assertIn(text, session.transcript())
