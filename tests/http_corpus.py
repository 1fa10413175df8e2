"""HTTP/1.1 requests as nobody should send them, and what a server may answer (RFC 9110, RFC 9112).

Each is sent on a connection of its own. ``/smuggled`` stands where a server that read the bytes in another way than a
proxy in front of it would find a second request: it must never reach an application.
"""

from __future__ import annotations

from attrs import frozen

GOOD = frozenset({200})
BAD = frozenset({400})
REFUSED = frozenset({0, 400, 405, 408, 413, 414, 417, 421, 426, 431, 501, 505})
"""Any refusal; 0 is a connection that is closed without a word."""
EITHER = GOOD | REFUSED

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"


@frozen
class Case:
    """Bytes, and what may come back."""

    name: str
    raw: bytes
    allowed: frozenset[int]
    """The status of the first answer."""
    body: bytes | None = None
    """What the application is to have read as the request's body, where it is asked at all."""


def _get(line: bytes = b"GET / HTTP/1.1", *headers: bytes) -> bytes:
    return b"\r\n".join([line, *(headers or (b"Host: a",)), b"", b""])


def _post(*headers: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join([b"POST / HTTP/1.1", b"Host: a", *headers, b"", body])


def _chunked(body: bytes, coding: bytes = b"Transfer-Encoding: chunked") -> bytes:
    return _post(coding, body=body)


LINES = (
    Case("plain", _get(), GOOD, b""),
    Case("empty line first", b"\r\n" + _get(), EITHER),
    Case("empty lines first", b"\r\n\r\n\r\n" + _get(), EITHER),
    Case("no version", _get(b"GET /"), EITHER),
    Case("version 0.9", _get(b"GET / HTTP/0.9"), EITHER),
    Case("version 1.0", _get(b"GET / HTTP/1.0"), GOOD),
    Case("version 2.0", _get(b"GET / HTTP/2.0"), EITHER),
    Case("version 1.2", _get(b"GET / HTTP/1.2"), EITHER),
    Case("version lower case", _get(b"GET / http/1.1"), REFUSED),
    Case("version with more digits", _get(b"GET / HTTP/1.10"), REFUSED),
    Case("version of letters", _get(b"GET / HTTP/x.y"), REFUSED),
    Case("four words", _get(b"GET / x HTTP/1.1"), REFUSED),
    Case("two spaces", _get(b"GET  / HTTP/1.1"), EITHER),
    Case("tabs for spaces", _get(b"GET\t/\tHTTP/1.1"), REFUSED),
    Case("space in front", _get(b" GET / HTTP/1.1"), REFUSED),
    Case("space behind", _get(b"GET / HTTP/1.1 "), EITHER),
    Case("only a method", _get(b"GET"), REFUSED),
    Case("garbage", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200) + b"\r\n\r\n", REFUSED),
    Case("method with a colon", _get(b"GE:T / HTTP/1.1"), EITHER),
    Case("method not ASCII", _get(b"G\xc3\x89T / HTTP/1.1"), REFUSED),
    Case("method with NUL", _get(b"GE\0T / HTTP/1.1"), REFUSED),
    Case("method unknown", _get(b"BREW / HTTP/1.1"), EITHER),
    Case("method lower case", _get(b"get / HTTP/1.1"), EITHER),
    Case("method very long", _get(b"G" * 15_000 + b" / HTTP/1.1"), EITHER),
    Case("a bare LF", b"GET / HTTP/1.1\nHost: a\n\n" + SMUGGLED, REFUSED),
    Case("a bare CR", b"GET / HTTP/1.1\rHost: a\r\n\r\n", REFUSED),
    Case("NUL in the path", _get(b"GET /a\0b HTTP/1.1"), EITHER),
    Case("DEL in the path", _get(b"GET /a\x7fb HTTP/1.1"), EITHER),
    Case("invalid UTF-8 in the path", _get(b"GET /\xff\xfe HTTP/1.1"), EITHER),
    Case("escaped NUL", _get(b"GET /a%00b HTTP/1.1"), EITHER),
    Case("escaped invalid UTF-8", _get(b"GET /%ff%fe HTTP/1.1"), EITHER),
    Case("half an escape", _get(b"GET /%2 HTTP/1.1"), EITHER),
    Case("escaped line end", _get(b"GET /%0d%0aX:%20y HTTP/1.1"), EITHER),
    Case("dots", _get(b"GET /../../etc/passwd HTTP/1.1"), EITHER),
    Case("a long path", _get(b"GET /" + b"a" * 8000 + b" HTTP/1.1"), EITHER),
    Case("a very long path", _get(b"GET /" + b"a" * 200_000 + b" HTTP/1.1"), REFUSED),
    Case("a line without an end", b"GET /" + b"a" * 1_000_000, REFUSED),
    Case("absolute form", _get(b"GET http://a/ HTTP/1.1"), EITHER),
    Case("absolute form without a path", _get(b"GET http://a HTTP/1.1"), EITHER),
    Case("absolute form, other host", _get(b"GET http://b/x HTTP/1.1"), EITHER),
    Case("authority form", _get(b"GET a:80 HTTP/1.1"), EITHER | {404}),
    Case("asterisk", _get(b"GET * HTTP/1.1"), EITHER),
    Case("OPTIONS *", _get(b"OPTIONS * HTTP/1.1"), EITHER),
    Case("CONNECT", _get(b"CONNECT a:443 HTTP/1.1"), EITHER | {404}),
    Case("TRACE", _get(b"TRACE / HTTP/1.1"), EITHER),
    Case("HEAD with a body", b"HEAD / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", GOOD),
    Case("an HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", REFUSED),
)

HEADERS = (
    Case("no Host", _get(b"GET / HTTP/1.1", b"Accept: a"), EITHER),
    Case("two Hosts", _get(b"GET / HTTP/1.1", b"Host: a", b"Host: b"), EITHER),
    Case("Host with a space", _get(b"GET / HTTP/1.1", b"Host: a b"), EITHER),
    Case("Host that is none", _get(b"GET / HTTP/1.1", b"Host: [::1"), EITHER),
    Case("Host with a strange port", _get(b"GET / HTTP/1.1", b"Host: a:99999999"), EITHER),
    Case("folded", _get(b"GET / HTTP/1.1", b"Host: a", b"X-A: b", b" c"), EITHER),
    Case("folded first", _get(b"GET / HTTP/1.1", b" folded: a", b"Host: a"), REFUSED),
    Case("folded length", _post(b"Content-Length: 0", b" 5", body=b"abcde" + SMUGGLED), REFUSED),
    Case("folded coding", _post(b"Transfer-Encoding:", b" chunked", body=b"0\r\n\r\n"), EITHER),
    Case("no colon", _get(b"GET / HTTP/1.1", b"Host: a", b"nonsense"), REFUSED),
    Case("no name", _get(b"GET / HTTP/1.1", b"Host: a", b": value"), REFUSED),
    Case("a space before the colon", _post(b"Content-Length : 5", body=b"abcde" + SMUGGLED), REFUSED),
    Case("a tab before the colon", _post(b"Content-Length\t: 5", body=b"abcde" + SMUGGLED), REFUSED),
    Case(
        "a space before the coding's colon", _chunked(b"0\r\n\r\n", b"Transfer-Encoding : chunked"), REFUSED
    ),
    Case("a space in the name", _get(b"GET / HTTP/1.1", b"Host: a", b"X A: b"), REFUSED),
    Case("NUL in the name", _get(b"GET / HTTP/1.1", b"Host: a", b"X\0A: b"), REFUSED),
    Case("NUL in the value", _get(b"GET / HTTP/1.1", b"Host: a", b"X-A: b\0c"), REFUSED),
    Case(
        "CR in the value", _get(b"GET / HTTP/1.1", b"Host: a", b"X-A: b\rTransfer-Encoding: chunked"), REFUSED
    ),
    Case(
        "LF in the value", _get(b"GET / HTTP/1.1", b"Host: a", b"X-A: b\nTransfer-Encoding: chunked"), REFUSED
    ),
    Case("not ASCII in the name", _get(b"GET / HTTP/1.1", b"Host: a", b"X-\xc3\xa9: b"), REFUSED),
    Case("not ASCII in the value", _get(b"GET / HTTP/1.1", b"Host: a", b"X-A: \xff\xfe"), EITHER),
    Case("an empty value", _get(b"GET / HTTP/1.1", b"Host: a", b"X-A:"), GOOD),
    Case("a long header", _get(b"GET / HTTP/1.1", b"Host: a", b"X-A: " + b"b" * 100_000), REFUSED),
    Case("many headers", _get(b"GET / HTTP/1.1", b"Host: a", *[b"X: y"] * 20_000), REFUSED),
    Case("headers without an end", b"GET / HTTP/1.1\r\n" + b"X-A: bcdefgh\r\n" * 20_000, REFUSED),
    Case("Expect unknown", _get(b"GET / HTTP/1.1", b"Host: a", b"Expect: the-unexpected"), EITHER),
    Case("Upgrade", _get(b"GET / HTTP/1.1", b"Host: a", b"Connection: Upgrade", b"Upgrade: x/1"), EITHER),
    Case(
        "Connection names what counts",
        _post(b"Connection: Content-Length", b"Content-Length: 2", body=b"ab"),
        EITHER,
    ),
    Case("cookies that are none", _get(b"GET / HTTP/1.1", b"Host: a", b"Cookie: =; ;;==; \xff=\xfe"), EITHER),
)

LENGTHS = (
    Case("a length", _post(b"Content-Length: 5", body=b"abcde"), GOOD, b"abcde"),
    Case("length 0", _post(b"Content-Length: 0"), GOOD, b""),
    Case(
        "two lengths, equal", _post(b"Content-Length: 5", b"Content-Length: 5", body=b"abcde" + SMUGGLED), BAD
    ),
    Case("two lengths", _post(b"Content-Length: 0", b"Content-Length: 5", body=b"abcde" + SMUGGLED), BAD),
    Case("two lengths, turned", _post(b"Content-Length: 5", b"Content-Length: 0", body=SMUGGLED), BAD),
    Case("a list of lengths, equal", _post(b"Content-Length: 5, 5", body=b"abcde" + SMUGGLED), BAD),
    Case("a list of lengths", _post(b"Content-Length: 5, 0", body=b"abcde" + SMUGGLED), BAD),
    *(
        Case(f"length {length!r}", _post(b"Content-Length: " + length, body=b"abcde" + SMUGGLED), BAD)
        for length in (
            b"+5",
            b"-1",
            b"-0",
            b"5.0",
            b"0x5",
            b"5_0",
            b"5 5",
            b"five",
            b"",
            b"\xb2",
            b"5;",
            b"\x0b5",
            b'"5"',
        )
    ),
    Case("a huge length", _post(b"Content-Length: " + b"9" * 400, body=b"abc"), REFUSED | {-1}),
    Case(
        "a length of 10,000 digits", _post(b"Content-Length: " + b"1" * 10_000, body=b"abc"), REFUSED | {-1}
    ),
    Case("leading zeros", _post(b"Content-Length: 0005", body=b"abcde"), EITHER, b"abcde"),
    Case("GET with a body", _get(b"GET / HTTP/1.1", b"Host: a", b"Content-Length: 35") + SMUGGLED, GOOD),
    Case("a body too short", _post(b"Content-Length: 50", body=b"abc"), frozenset({-1})),
)
"""An allowed -1 says that the server may go on waiting: the request is not complete."""

CODINGS = (
    Case("chunked", _chunked(b"5\r\nabcde\r\n0\r\n\r\n"), GOOD, b"abcde"),
    Case(
        "chunked, upper case",
        _chunked(b"5\r\nabcde\r\n0\r\n\r\n", b"Transfer-Encoding: CHUNKED"),
        EITHER,
        b"abcde",
    ),
    Case("chunk extension", _chunked(b'5;a=b;c="d e"\r\nabcde\r\n0;z\r\n\r\n'), EITHER, b"abcde"),
    Case("chunk extension with LF", _chunked(b"5;a\nb\r\nabcde\r\n0\r\n\r\n" + SMUGGLED), REFUSED),
    Case("chunk extension with CR", _chunked(b"5;a\rb\r\nabcde\r\n0\r\n\r\n" + SMUGGLED), REFUSED),
    Case("chunk extension without an end", _chunked(b"5;" + b"a" * 500_000), REFUSED),
    Case("chunk size ended by LF", _chunked(b"5\nabcde\r\n0\r\n\r\n" + SMUGGLED), REFUSED | {-1}),
    Case("chunk ended by LF", _chunked(b"5\r\nabcde\n0\r\n\r\n" + SMUGGLED), REFUSED),
    Case("chunk longer than said", _chunked(b"3\r\nabcde\r\n0\r\n\r\n" + SMUGGLED), REFUSED),
    Case("trailers", _chunked(b"0\r\nX-A: b\r\n\r\n"), EITHER, b""),
    Case("trailer with a length", _chunked(b"0\r\nContent-Length: 50\r\n\r\n"), EITHER, b""),
    Case("trailers without an end", _chunked(b"0\r\n" + b"X-A: bcdefgh\r\n" * 40_000), REFUSED),
    *(
        Case(f"chunk size {size!r}", _chunked(size + b"\r\nabcde\r\n0\r\n\r\n" + SMUGGLED), REFUSED)
        for size in (b"-5", b"+5", b"0x5", b"5_0", b"5 ", b" 5", b"x", b"", b"\xb2", b"5,5", b"5\t")
    ),
    Case("a huge chunk size", _chunked(b"f" * 100 + b"\r\nabc"), REFUSED | {-1}),
    Case(
        "length and coding",
        _post(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n" + SMUGGLED),
        BAD,
    ),
    Case(
        "coding and length",
        _post(b"Transfer-Encoding: chunked", b"Content-Length: 5", body=b"0\r\n\r\n" + SMUGGLED),
        BAD,
    ),
    Case(
        "two codings",
        _post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n" + SMUGGLED),
        BAD,
    ),
    *(
        Case(
            f"coding {coding!r}", _chunked(b"0\r\n\r\n" + SMUGGLED, b"Transfer-Encoding: " + coding), REFUSED
        )
        for coding in (
            b"xchunked",
            b"chunked, chunked",
            b"chunked;a=b",
            b"chunked, identity",
            b"chunkedx",
            b"gzip",
            b"",
            b"chunked,",
            b'"chunked"',
            b"\x0bchunked",
            b"chunked\x0c",
        )
    ),
    # Who reads these by their last word alone reads the body as everybody does: there is no second request in it.
    *(
        Case(f"coding {coding!r}", _chunked(b"0\r\n\r\n", b"Transfer-Encoding: " + coding), EITHER)
        for coding in (b"x, chunked", b"gzip, chunked", b",chunked")
    ),
    Case("coding identity", _post(b"Transfer-Encoding: identity", body=SMUGGLED), REFUSED),
    Case(
        "coding identity, and a length",
        _post(b"Transfer-Encoding: identity", b"Content-Length: 35", body=SMUGGLED),
        REFUSED,
    ),
    Case(
        "coding with HTTP/1.0", _chunked(b"0\r\n\r\n" + SMUGGLED).replace(b"HTTP/1.1", b"HTTP/1.0", 1), EITHER
    ),
)

HALVES = (
    Case("nothing", b"", frozenset({-1})),
    Case("half a line", b"GET / HT", frozenset({-1})),
    Case("half the headers", b"GET / HTTP/1.1\r\nHost: a\r\nX-", frozenset({-1})),
    Case("half a chunk", _chunked(b"5\r\nab"), frozenset({-1})),
    Case("half a chunk's size", _chunked(b"5"), frozenset({-1})),
    Case("only line ends", b"\r\n" * 1000, EITHER | {-1}),
)

CORPUS = (*LINES, *HEADERS, *LENGTHS, *CODINGS, *HALVES)
