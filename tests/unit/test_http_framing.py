"""Where a request ends: what two servers could read in two ways is refused. tests/http_corpus.py has the cases."""

from __future__ import annotations

from tests.http_corpus import CODINGS, CORPUS, LENGTHS, Case
from tests.unit.drain_wires import DrainTestCase

POST = b"POST /page HTTP/1.1\r\nHost: a\r\n"


class FramingTests(DrainTestCase):
    """Twisted's parser, as our connections have it."""

    def outcome(self, raw: bytes) -> tuple[bytes, bool]:
        """What is answered, and whether the connection is closed."""
        wire = self.connect()
        self.addCleanup(wire.end)  # with it the file goes that a body of unknown length is kept in
        wire.send(raw)
        return wire.value(), bool(wire.disconnecting)

    def test_refused(self) -> None:
        """A coding that is none, and a length past all reason, are 400, and nothing behind them is read."""
        for header in (
            b"Transfer-Encoding: identity\r\n",
            b"Transfer-Encoding: Identity\r\nContent-Length: 3\r\n",
            b"Content-Length: 3\r\nTransfer-Encoding: identity\r\n",
            b"Content-Length: " + b"1" * 19 + b"\r\n",
            b"Content-Length: " + b"1" * 10_000 + b"\r\n",
        ):
            raw = POST + header + b"\r\nGET /page HTTP/1.1\r\nHost: a\r\n\r\n"
            self.assertEqual(self.outcome(raw), (b"HTTP/1.1 400 Bad Request\r\n\r\n", True), header)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_taken(self) -> None:
        """Chunks, whatever the case of the word, and a length of a million terabytes are as they were."""
        answer, closed = self.outcome(POST + b"Transfer-Encoding: Chunked\r\n\r\n0\r\n\r\n")
        self.assertFalse(closed)
        self.assertTrue(answer.startswith(b"HTTP/1.1 "), answer)
        self.assertEqual(self.outcome(POST + b"Content-Length: " + b"1" * 18 + b"\r\n\r\n"), (b"", False))

    def test_corpus(self) -> None:
        """No case of the corpus about lengths and codings is an exception, or two requests."""
        for case in (*LENGTHS, *CODINGS):
            answer, _ = self.outcome(case.raw)
            self.assertNotIn(b"/smuggled", b"".join(path.encode() for path in self.paths()), case.name)
            self.assertLessEqual(answer.count(b"HTTP/1.1 "), 1, case.name)
            self.assertEqual(self.flushLoggedErrors(), [], case.name)

    def test_names(self) -> None:
        """Each case has a name of its own."""
        names = [case.name for case in CORPUS]
        self.assertEqual(len(names), len(set(names)))
        self.assertIsInstance(CORPUS[0], Case)
