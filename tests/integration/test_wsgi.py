"""A WSGI application in a real session: served, streamed, drained. Frameworks are in tests/system."""

from __future__ import annotations

import signal

from tests.integration.sessions import SessionTestCase

APPLICATION = """
import time

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    if environ["PATH_INFO"] == "/stream":
        return (time.sleep(0.03) or b"piece %d, " % number for number in range(20))
    return [environ["REQUEST_METHOD"].encode(), b" ", environ["wsgi.input"].read()]

def create_app():
    return app
"""


class WSGITests(SessionTestCase):
    """What a user of ``--wsgi`` sees."""

    def test_served_streamed_drained(self) -> None:
        """It answers; a stream that is open at a restart comes to its end, and the session's end is 0."""
        folder = self.folder(shop__py=APPLICATION)
        session = self.session("--wsgi", "shop:create_app()", "--wsgi-threads", "3", folder=folder)
        session.serving()
        self.assertEqual(session.get("/", method="POST", body=b"hello"), (200, b"POST hello"))
        with session.connect() as connection:
            connection.sendall(b"GET /stream HTTP/1.0\r\n\r\n")
            self.assertIn(b"200 OK", connection.recv(1000))
            session.process.send_signal(signal.SIGTERM)
            data = b""
            while piece := connection.recv(65536):
                data += piece
        self.assertTrue(data.endswith(b"piece 19, "), data[-100:])
        self.assertEqual(session.exit_status(), 0)
        self.assertEqual(session.reports(), [])
