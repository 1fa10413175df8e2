"""Requests as nobody should send them, against a session of each kind: nothing is smuggled, and no worker minds."""

from __future__ import annotations

import contextlib
import importlib.util
from concurrent.futures import ThreadPoolExecutor

from attrs import frozen

from tests.http_corpus import CORPUS, SMUGGLED, Case
from tests.integration.sessions import SessionTestCase, TestSession
from tests.system import SKIP

APPLICATIONS = """
from twisted.web.resource import Resource

class Root(Resource):
    isLeaf = True

    def render(self, request):
        return b"[%s %s %s]" % (request.method, request.uri, request.content.read())

root = Root()

def wsgi(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    method, uri = (environ[key].encode("latin-1") for key in ("REQUEST_METHOD", "RAW_URI"))
    return [b"[%s %s %s]" % (method, uri, environ["wsgi.input"].read())]

async def asgi(scope, receive, send):
    while scope["type"] == "lifespan":
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    answer = b"[%s %s %s]" % (scope["method"].encode(), scope["raw_path"], body)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(answer))]})
    await send({"type": "http.response.body", "body": answer})
"""

WITHOUT_HTTPTOOLS = """
import sys

sys.modules["httptools"] = None

from asked import asgi
"""

READ_BY_H11 = frozenset(
    {
        *("a bare LF", "LF in the value", "an HTTP/2 preface", "CONNECT"),
        *("two lengths, equal", "a list of lengths, equal", "length and coding", "coding and length"),
        *("chunk extension with CR", "chunk size b'5 '", "chunk size b'5\\t'"),
    }
)
"""What h11 reads, most of it as RFC 9112 allows, where the other parsers refuse it."""

QUIET_SECONDS = 1.5
"""So long nothing comes until it is taken that nothing will."""
AT_ONCE = 16
INCOMPLETE = -1


@frozen
class Outcome:
    """What a server made of a case."""

    data: bytes
    closed: bool

    @property
    def status(self) -> int:
        """The first answer's; 0 where the connection was closed without one, -1 where nothing came."""
        if not self.data:
            return 0 if self.closed else INCOMPLETE
        return int(self.data[9:12])


class CorpusTests(SessionTestCase):
    """Each kind of application, the same requests."""

    skip = SKIP

    def test_resource(self) -> None:
        """Twisted's own parser, in front of a Resource."""
        self.check("--app", "asked:root")

    def test_wsgi(self) -> None:
        """The same, in front of a WSGI application."""
        self.check("--wsgi", "asked:wsgi")

    def test_asgi(self) -> None:
        """The same, in front of an ASGI application: httptools, with a bound of ours."""
        self.check("--asgi", "asked:asgi")

    def test_asgi_h11(self) -> None:
        """The same, where httptools is not installed."""
        self.check("--asgi", "without_httptools:asgi", besides=READ_BY_H11)

    if importlib.util.find_spec("uvicorn") is None:
        test_asgi.skip = "needs uvicorn: python -m pip install -e '.[frameworks]'"  # type: ignore[attr-defined]
        test_asgi_h11.skip = test_asgi.skip  # type: ignore[attr-defined]

    def check(self, option: str, reference: str, *, besides: frozenset[str] = frozenset()) -> None:
        """All of the corpus besides these, then whether the worker is well."""
        folder = self.folder(asked__py=APPLICATIONS, without_httptools__py=WITHOUT_HTTPTOOLS)
        session = self.session(option, reference, folder=folder)
        session.serving()
        session.standby_ready_or_loaded()
        pid = session.server_pid
        cases = [case for case in CORPUS if case.name not in besides]
        self.assertEqual(len(cases), len(CORPUS) - len(besides))
        with ThreadPoolExecutor(AT_ONCE) as pool:
            outcomes = list(pool.map(lambda case: self.send(session, case), cases))
        faults = [
            f"{case.name}: {fault}"
            for case, each in zip(cases, outcomes, strict=True)
            for fault in faults_of(case, each)
        ]
        self.assertEqual(faults, [], "\n".join(faults))
        self.assertEqual(session.get("/well"), (200, b"[GET /well ]"))
        self.assertEqual((session.server_pid, session.reports()), (pid, []))
        told = [str(event.get("text")) for event in session.events if event["event"] == "OutputLine"]
        self.assertEqual([line for line in told if "Traceback" in line or "Error" in line], [])
        self.assertEqual(session.end(), 0)

    def send(self, session: TestSession, case: Case) -> Outcome:
        """One case, on a connection of its own."""
        data = b""
        with session.connect() as connection:
            with contextlib.suppress(OSError):  # refused before all was sent, which is what some are about
                connection.sendall(case.raw)
            connection.settimeout(QUIET_SECONDS)
            try:
                while piece := connection.recv(65536):
                    data += piece
            except TimeoutError:
                return Outcome(data, closed=False)
            except OSError:
                pass  # reset: what was left unread was too much
            return Outcome(data, closed=True)


def faults_of(case: Case, outcome: Outcome) -> list[str]:
    """What is wrong with an outcome, in words."""
    faults = []
    if outcome.status not in case.allowed:
        faults.append(f"answered {outcome.status} {outcome.data[:100]!r}")
    if b"[GET /smuggled" in outcome.data:
        faults.append(f"a second request was read out of it: {outcome.data[-200:]!r}")
    if outcome.status == 400 and not outcome.closed:
        faults.append("the connection stays after 400")
    if case.body is not None and outcome.status == 200 and b" %s]" % case.body not in outcome.data:
        faults.append(f"the body was read as {outcome.data[-100:]!r}")
    return faults


class CorpusItselfTests(SessionTestCase):
    """The corpus is what it says."""

    def test_names(self) -> None:
        """Each case has a name of its own; what looks for smuggling finds it where two are asked for honestly."""
        names = [case.name for case in CORPUS]
        self.assertEqual(len(names), len(set(names)))
        honest = Case("honest", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" + SMUGGLED, frozenset({200}))
        outcome = Outcome(
            b"HTTP/1.1 200 OK\r\n\r\n[GET / ]HTTP/1.1 200 OK\r\n\r\n[GET /smuggled ]", closed=False
        )
        self.assertEqual(len(faults_of(honest, outcome)), 1)
