"""The access log: its forms, what a client cannot do to it, and disks that fail."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.address import UNIXAddress
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http import HTTPChannel
from twisted.web.http_headers import Headers

from serverworker.processes import access_log
from serverworker.processes.access_log import (
    FORMS,
    Access,
    AccessLog,
    FileLines,
    access_log_for,
    combined,
    common,
    to_stdout,
)
from serverworker.processes.appended_file import AppendedFile
from serverworker.processes.drain import track
from serverworker.values.settings import OutputSettings
from tests.unit.drain_wires import GET, DrainTestCase

ACCESS = Access(
    at=1795507637.1234,
    client="192.0.2.7",
    method=b"GET",
    target=b"/a?b=c",
    protocol=b"HTTP/1.1",
    status=200,
    size=1234,
    seconds=0.0123456789,
    referer=b"http://example.org/",
    agent=b"Mozilla/5.0 (X11)",
)
LINE = re.compile(
    rb'[^ ]+ - - \[\d\d/[A-Z][a-z][a-z]/\d{4}:\d\d:\d\d:\d\d \+0000\] "([^" ]+) ([^" ]+) ([^" ]+)" \d+ (\d+|-)'
    rb'( "[^"]*" "[^"]*")?'
)


class FormTests(SynchronousTestCase):
    """How a line looks."""

    def test_common(self) -> None:
        """As Apache and nginx have it; UTC."""
        self.assertEqual(
            common(ACCESS), b'192.0.2.7 - - [24/Nov/2026:08:07:17 +0000] "GET /a?b=c HTTP/1.1" 200 1234'
        )

    def test_combined(self) -> None:
        """With the page that led here and the client's program; a dash for what is not there."""
        self.assertEqual(combined(ACCESS), common(ACCESS) + b' "http://example.org/" "Mozilla/5.0 (X11)"')
        nothing = evolve(ACCESS, size=0, referer=None, agent=b"")
        self.assertTrue(combined(nothing).endswith(b'" 200 - "-" "-"'))

    def test_json(self) -> None:
        """One object, with how long it took."""
        self.assertEqual(
            json.loads(access_log.as_json(ACCESS)),
            {
                "time": "2026-11-24T08:07:17.123Z",
                "client": "192.0.2.7",
                "method": "GET",
                "target": "/a?b=c",
                "protocol": "HTTP/1.1",
                "status": 200,
                "bytes": 1234,
                "seconds": 0.012346,
                "referer": "http://example.org/",
                "user_agent": "Mozilla/5.0 (X11)",
            },
        )

    def test_each_second_has_its_time(self) -> None:
        """The time is kept for a second, and no longer."""
        later = evolve(ACCESS, at=ACCESS.at + 1)
        self.assertIn(b":17 +0000]", common(ACCESS))
        self.assertIn(b":18 +0000]", common(later))
        self.assertIn(b":17 +0000]", common(ACCESS))

    def test_forgery(self) -> None:
        """A client that sends quotes, line ends and terminal commands gets them written out."""
        evil = evolve(ACCESS, target=b'/" 200 1\n\x1b[2J\\', agent=b'a" "b\xff')
        line = combined(evil)
        self.assertIn(rb'"GET /\x22\x20200\x201\x0a\x1b[2J\x5c HTTP/1.1" 200 1234', line)
        self.assertTrue(line.endswith(rb' "a\x22 \x22b\xff"'), line)

    @settings(deadline=None)
    @given(method=st.binary(), target=st.binary(), protocol=st.binary(), text=st.binary() | st.none())
    def test_one_line_whatever_comes(
        self, method: bytes, target: bytes, protocol: bytes, text: bytes | None
    ) -> None:
        """Each form is one line of ASCII that a program can take apart again, whatever a client sends."""
        access = evolve(ACCESS, method=method, target=target, protocol=protocol, referer=text, agent=text)
        for form in FORMS.values():
            line = form(access)
            self.assertNotIn(b"\n", line)
            self.assertTrue(line.decode("ascii").isprintable())
        for line in (common(access), combined(access)):
            self.assertTrue(LINE.fullmatch(line), line)
        self.assertEqual(json.loads(FORMS["json"](access))["status"], 200)


class FakeRequest:
    """What is read of a request of twisted.web."""

    method, uri, clientproto, code, sentLength = b"GET", b"/", b"HTTP/1.1", 200, 5

    def __init__(self, address: object = None) -> None:
        self.requestHeaders = Headers({b"User-Agent": [b"one", b"two"]})
        self._address = address

    def getClientAddress(self) -> object:
        return self._address


class AccessLogTests(SynchronousTestCase):
    """`AccessLog`."""

    def setUp(self) -> None:
        self.lines: list[bytes] = []
        self.log = AccessLog(combined, self.lines.append, key="the key", wall_clock=lambda: ACCESS.at)

    def test_line(self) -> None:
        """One line with its end. A client on a unix socket has no address."""
        self.log(FakeRequest(UNIXAddress(b"/s")), 1.0)
        self.assertEqual(
            self.lines, [b'- - - [24/Nov/2026:08:07:17 +0000] "GET / HTTP/1.1" 200 5 "-" "one"\n']
        )

    def test_key(self) -> None:
        """The session key is in no line, wherever and however a client puts it."""
        for target in (b"/?the key", b"/?the%20key", b"/%74he%20ke%79?x=%zz"):
            request = FakeRequest()
            request.uri = target
            request.requestHeaders.setRawHeaders(b"Referer", [b"x the key"])
            request.requestHeaders.setRawHeaders(b"User-Agent", [b"50 % of the key"])
            for form in FORMS.values():
                AccessLog(form, self.lines.append, key="the key")(request, 1.0)
        self.assertEqual(len(self.lines), 9)
        for line in self.lines:
            self.assertNotIn(b"key", line.replace(b"[session-key]", b""))
            self.assertEqual(line.count(b"[session-key]"), 1 if line.endswith(b"5\n") else 3)

    def test_broken_request(self) -> None:
        """A request of a class with a bug fails no answer: its line is lost, and the log says why."""
        self.log(object(), 1.0)
        self.assertEqual(self.lines, [])
        self.assertEqual(len(self.flushLoggedErrors(AttributeError)), 1)

    def test_configuration(self) -> None:
        """None, or what the keys say."""
        self.assertIsNone(access_log_for(OutputSettings(), "key"))
        path = Path(self.mktemp()).resolve()
        made = access_log_for(OutputSettings(access_log="json", access_log_file=str(path)), "key")
        assert made is not None
        made(FakeRequest(), 1.0)
        self.assertEqual(json.loads(path.read_text())["user_agent"], "one")

    def test_stdout(self) -> None:
        """Without a file the lines are output of the worker, written whole; if nobody reads it any more, nowhere."""
        reading, writing = os.pipe()
        self.patch(os, "write", lambda descriptor, data, write=os.write: write(writing, data[:3]))
        to_stdout(b"a long line\n")
        self.assertEqual(os.read(reading, 100), b"a long line\n")
        os.close(reading)
        to_stdout(b"nobody\n")
        os.close(writing)


class FileLinesTests(SynchronousTestCase):
    """`FileLines`."""

    def test_a_disk_that_fails(self) -> None:
        """It is said once, tried again after a second, and what was lost is counted and said."""
        now = [0.0]
        folder = Path(self.mktemp()).resolve()
        lines = FileLines(AppendedFile(str(folder / "a.log")), lambda: now[0])
        with capturedLogs() as logged:
            for _ in range(3):
                lines(b"lost\n")
            now[0] = 1.0
            lines(b"lost\n")
            folder.mkdir()
            lines(b"lost: too early\n")
            now[0] = 2.0
            lines(b"there\n")
            lines(b"there too\n")
        self.assertEqual((folder / "a.log").read_bytes(), b"there\nthere too\n")
        self.assertEqual([entry["log_level"] for entry in logged], [LogLevel.error, LogLevel.warn])
        self.assertEqual(logged[1]["lost"], 5)
        self.assertIn("No such file", str(logged[0]["error"]))


class ConnectionTests(DrainTestCase):
    """Which requests have a line: those of clients, whatever becomes of them, and not the worker's own polls."""

    def setUp(self) -> None:
        super().setUp()
        self.lines: list[bytes] = []
        self.site.noisy = False
        self.tracked = track(self.site, self.board, self.clock, AccessLog(FORMS["json"], self.lines.append))

    def logged(self) -> list[tuple[str, str, int, int, float]]:
        """Method, target, status, size and seconds of each line."""
        names = ("method", "target", "status", "bytes", "seconds")
        return [tuple(map(json.loads(line).get, names)) for line in self.lines]

    def test_answered(self) -> None:
        """Each answer has its line, pipelined ones too, in their order, with the time that it took."""
        wire = self.connect()
        wire.send(GET + GET.replace(b"/page", b"/kept") + GET)
        self.assertEqual(self.logged(), [("GET", "/page", 200, 4, 0.0)])
        self.clock.advance(3)
        self.page.kept[0].setResponseCode(404)
        self.page.kept[0].finish()
        self.assertEqual(self.logged()[1:], [("GET", "/kept", 404, 0, 3.0), ("GET", "/page", 200, 4, 0.0)])

    def test_own_channel(self) -> None:
        """An application that has a class of its own for its connections has its lines too."""

        class Own(HTTPChannel):
            pass

        site: Any = self.site
        site.protocol = Own
        self.connect().send(GET)
        self.assertEqual(self.logged(), [("GET", "/page", 200, 4, 0.0)])

    def test_client_left(self) -> None:
        """A client that leaves before its answer begins has a line with 499; behind its beginning, with its status."""
        wire = self.connect()
        wire.send(GET.replace(b"/page", b"/kept"))
        self.clock.advance(2)
        wire.end()
        wire = self.connect()
        wire.send(GET.replace(b"/page", b"/kept"))
        self.page.kept[1].write(b"half")
        wire.end()
        self.assertEqual(self.logged(), [("GET", "/kept", 499, 0, 2.0), ("GET", "/kept", 200, 4, 0.0)])

    def test_client_left_while_it_sent(self) -> None:
        """What it was about to send is known from the head of its request."""
        wire = self.connect()
        wire.send(b"POST /upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nabc")
        wire.end()
        self.assertEqual(self.logged(), [("POST", "/upload", 499, 0, 0.0)])

    def test_no_request(self) -> None:
        """A connection without a request, or that waits for its next, has no line of its own."""
        self.connect().end()
        wire = self.connect()
        wire.send(GET)
        wire.end()
        self.assertEqual(len(self.lines), 1)

    def test_own_polls(self) -> None:
        """The worker's heartbeat is nobody's visit."""
        wire = self.connect(self.tracked.untracked_factory)
        wire.send(GET)
        wire.end()
        self.assertEqual(self.lines, [])
