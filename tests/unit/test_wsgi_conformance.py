"""What the application is given: `wsgiref.validate` around one that uses all of it, and the environment in detail."""

from __future__ import annotations

from typing import Any
from wsgiref.validate import validator

from twisted.internet.address import IPv4Address, UNIXAddress

from serverworker.processes.hosts.wsgi_environ import read_target
from tests.unit.wsgi_case import Connection, WSGICase


class ConformanceTests(WSGICase):
    """The standard library's own check of both sides."""

    def test_validator(self) -> None:
        """It finds nothing wrong with what the server does, for each way to answer and each kind of request."""
        for raw in (
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET /a%20b//c?d=e&f HTTP/1.1\r\nHost: a:80\r\nCookie: a=b\r\nCookie: c=d\r\nX-Y_Z: 1\r\n\r\n",
            b"HEAD /x HTTP/1.0\r\n\r\n",
            b"POST /in HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\nContent-Type: text/plain\r\n\r\none\ntwo\nsix",
            b"POST /in HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nb\r\none\ntwo\nsix\r\n0\r\n\r\n",
            b"GET http://b/in HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET /write HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET /late HTTP/1.1\r\nHost: a\r\n\r\n",
        ):
            answer = self.ask(validator(thorough), raw)
            self.assertEqual(self.flushLoggedErrors(), [], raw)
            self.assertTrue(answer.startswith(b"HTTP/1."), raw)
            self.assertIn(b" 200 ", answer.splitlines()[0], raw)


def thorough(environ: dict[str, Any], start_response: Any) -> Any:
    """Uses everything that PEP 3333 gives."""
    body = environ["wsgi.input"]
    if environ["PATH_INFO"] == "/in":
        lines = [body.readline(), *body.readlines(), body.read(5)]
        assert environ["REQUEST_METHOD"] == "GET" or lines == [b"one\n", b"two\n", b"six", b""], lines
    else:
        assert list(body) == []
    environ["wsgi.errors"].write("")
    environ["wsgi.errors"].writelines([])
    environ["wsgi.errors"].flush()
    if environ["PATH_INFO"] == "/late":
        return late(start_response)
    write = start_response("200 OK", [("Content-Type", "text/plain"), ("X-A", "b")])
    if environ["PATH_INFO"] == "/write":
        write(b"written")
    return [b"a", b"b"]


def late(start_response: Any) -> Any:
    """A generator: it calls start_response when it is first asked."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield b""
    yield b"late"


class EnvironTests(WSGICase):
    """Each key."""

    def environ(self, raw: bytes, threads: int = 2, **addresses: Any) -> dict[str, Any]:
        """What the application is given for a request."""
        seen: list[dict[str, Any]] = []

        def application(environ: dict[str, Any], start_response: Any) -> Any:
            environ["body"] = environ["wsgi.input"].read()
            seen.append(environ)
            start_response("200 OK", [])
            return [b"x"]

        self.serve(application, threads)
        channel: Any = self.factory.buildProtocol(IPv4Address("TCP", "192.0.2.7", 5000))
        transport = Connection()
        transport.host = addresses.get("host", transport.host)
        transport.peerAddr = addresses.get("peer", transport.peerAddr)
        channel.makeConnection(transport)
        channel.dataReceived(raw)
        self.work()
        return seen[0]

    def test_request(self) -> None:
        """Path, query, headers, addresses."""
        environ = self.environ(
            b"GET /a%2Fb%C3%BC/%00?q=%20#f HTTP/1.1\r\nHost: site:81\r\nAccept: a\r\nAccept: b\r\n"
            b"Cookie: c=1\r\nCookie: d=2\r\nX-\r\n\r\n".replace(b"X-\r\n", b"X-Forwarded-For: 10.0.0.1\r\n")
        )
        expected = {
            "REQUEST_METHOD": "GET",
            "SCRIPT_NAME": "",
            "PATH_INFO": "/a/b\xc3\xbc/\0",
            "QUERY_STRING": "q=%20#f",
            "RAW_URI": "/a%2Fb%C3%BC/%00?q=%20#f",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "SERVER_NAME": "192.0.2.1",
            "SERVER_PORT": "8080",
            "REMOTE_ADDR": "192.0.2.7",
            "REMOTE_PORT": "5000",
            "HTTP_HOST": "site:81",
            "HTTP_ACCEPT": "a,b",
            "HTTP_COOKIE": "c=1; d=2",
            "HTTP_X_FORWARDED_FOR": "10.0.0.1",
            "wsgi.url_scheme": "http",
            "wsgi.multithread": True,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
        }
        self.assertEqual({key: environ.get(key) for key in expected}, expected)
        self.assertNotIn("CONTENT_LENGTH", environ)

    def test_one_thread(self) -> None:
        """With one thread it is not multithreaded."""
        self.assertFalse(self.environ(b"GET / HTTP/1.0\r\n\r\n", threads=1)["wsgi.multithread"])

    def test_underscores(self) -> None:
        """A header with an underscore is left out: it would stand where a proxy's own stands."""
        environ = self.environ(b"GET / HTTP/1.1\r\nHost: a\r\nX_Forwarded_For: evil\r\n\r\n")
        self.assertNotIn("HTTP_X_FORWARDED_FOR", environ)

    def test_bodies(self) -> None:
        """A body has its length, also where it came in chunks; one that is large comes from a file."""
        for body in (b"abc", b"", b"x" * 300_000):
            head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Type: a/b\r\n"
            chunks = (b"%x\r\n%s\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
            for raw in (
                b"%sContent-Length: %d\r\n\r\n%s" % (head, len(body), body),
                head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks,
            ):
                environ = self.environ(raw)
                self.assertEqual(
                    (environ["CONTENT_LENGTH"], environ["CONTENT_TYPE"], environ["body"]),
                    (str(len(body)), "a/b", body),
                )
                self.assertNotIn("HTTP_TRANSFER_ENCODING", environ)
                self.assertNotIn("HTTP_CONTENT_LENGTH", environ)

    def test_form(self) -> None:
        """Forms are left for the application, malformed ones too."""
        raw = (
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Type: multipart/form-data\r\n\r\nabc"
        )
        self.assertEqual(self.environ(raw)["body"], b"abc")

    def test_unix_socket(self) -> None:
        """On a unix socket nobody has an address; the name and the port of the server are never empty."""
        environ = self.environ(
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", peer=UNIXAddress(None), host=UNIXAddress(b"/run/x")
        )
        self.assertEqual(
            (environ["REMOTE_ADDR"], environ["SERVER_NAME"], environ["SERVER_PORT"]), ("", "localhost", "80")
        )
        self.assertNotIn("REMOTE_PORT", environ)

    def test_targets(self) -> None:
        """A target with a host in it counts more than the header; what is no path is no application's."""
        environ = self.environ(b"GET HTTP://b:81?x=1 HTTP/1.1\r\nHost: a\r\n\r\n")
        self.assertEqual(
            (environ["HTTP_HOST"], environ["PATH_INFO"], environ["QUERY_STRING"]), ("b:81", "/", "x=1")
        )
        for uri in (b"*", b"a:443", b"", b"ftp://a/", b"javascript:0"):
            self.assertIsNone(read_target(uri), uri)
