"""``--reload`` with real files, a real watcher and a client that keeps its connection, as a browser does."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import time
from importlib.util import find_spec
from pathlib import Path

from twisted.trial.unittest import SkipTest

from tests.integration.sessions import LONG, SessionTestCase, TestSession, wait_until

APP = """
    from twisted.web.resource import Resource
    from parts.words import WORD
    class Root(Resource):
        isLeaf = True
        def render_GET(self, request):
            return WORD
    root = Root()
    """
SOON = 5.0
"""Seconds from an edit to its answer that are borne; it takes a tenth of that on an idle machine."""


class ReloadTests(SessionTestCase):
    """Sessions with ``--reload``."""

    def setUp(self) -> None:
        if os.environ.get("SYSTEM_TESTS") != "1":
            raise SkipTest("it takes half a minute and an extra: SYSTEM_TESTS=1")
        if find_spec("watchfiles") is None:
            raise SkipTest("it takes watchfiles: pip install 'serverworker[reload]'")

    def begin(self, *arguments: str) -> TestSession:
        folder = self.folder(app__py=APP)
        (folder / "parts").mkdir()
        self.words = folder / "parts" / "words.py"
        self.words.write_text('WORD = b"one"\n')
        session = self.session(
            "--reload",
            "--app",
            "app:root",
            *arguments,
            folder=folder,
            environment={"PYTHONDONTWRITEBYTECODE": ""},
        )
        session.serving()
        session.standby_ready()
        return session

    def answered(self, session: TestSession, word: bytes, seconds: float = LONG) -> float:
        """Wait for that answer; how long it took."""
        begun = time.monotonic()
        wait_until(lambda: session.get() == (200, word), f"the answer {word!r}", seconds)
        return time.monotonic() - begun

    def test_edits(self) -> None:
        """Each edit is served soon after, one of the same size in the same second included; no bytecode is left."""
        session = self.begin()
        for number in range(4):
            word = f"{number:03}".encode()
            self.words.write_text(f"WORD = {word!r}\n")
            self.assertLess(self.answered(session, word), SOON)
        self.assertEqual(list(session.folder.rglob("*.pyc")), [])
        self.assertEqual(session.end(), 0)

    def test_same_second(self) -> None:
        """Two edits that Python's bytecode could not tell apart: the later one is served."""
        session = self.begin()
        for word in (b"two", b"ten", b"six"):
            self.words.write_text(f"WORD = {word!r}\n")
            os.utime(self.words, (1_700_000_000, 1_700_000_000))
            self.answered(session, word)

    def test_broken_edit(self) -> None:
        """The last good version serves, the traceback is shown, and the edit that mends it is served.

        What was broken lies in a folder that no good version has imported from.
        """
        session = self.begin()
        new = session.folder / "later"
        new.mkdir()
        (new / "more.py").write_text("MORE = (\n")
        self.words.write_text('import later.more\nWORD = b"two"\n')
        failed = session.wait_for("RestartFailed")
        self.assertIn("SyntaxError", failed["text"])
        died = session.wait_for("WorkerDied")
        self.assertIn('later/more.py", line 1', died["cause"]["error"]["traceback"])
        self.assertEqual(session.get(), (200, b"one"))
        (new / "more.py").write_text("MORE = ()\n")
        self.assertLess(self.answered(session, b"two"), SOON)

    def test_missing_module(self) -> None:
        """The file that a broken edit lacks mends it when it is made."""
        session = self.begin()
        self.words.write_text('import forgotten\nWORD = b"two"\n')
        session.wait_for("RestartFailed")
        (session.folder / "forgotten.py").write_text("")
        self.answered(session, b"two")

    def test_folder_made_anew(self) -> None:
        """A folder that a switch to another branch removes and makes anew is watched as before."""
        session = self.begin()
        shutil.rmtree(self.words.parent)
        self.words.parent.mkdir()
        self.words.write_text('WORD = b"two"\n')
        self.answered(session, b"two")
        time.sleep(1.5)  # until the watch that it replaces has ended
        self.words.write_text('WORD = b"three"\n')
        self.answered(session, b"three", SOON)

    def test_broken_before_the_start(self) -> None:
        """Where there is no good version yet the session ends with 78, as without ``--reload``."""
        folder = self.folder(app__py="root = (\n")
        session = self.session("--reload", "--app", "app:root", folder=folder)
        self.assertEqual(session.exit_status(), 78)
        self.assertIn("SyntaxError", session.transcript())

    def test_a_browser(self) -> None:
        """A connection that was idle does not get one more answer of the old code once the new one has settled."""
        session = self.begin()
        connection = http.client.HTTPConnection("127.0.0.1", session.port(), timeout=LONG)
        self.addCleanup(connection.close)
        connection.request("GET", "/")
        self.assertEqual(connection.getresponse().read(), b"one")
        old = session.server_pid
        self.words.write_text('WORD = b"two"\n')
        session.wait_for("RestartCompleted")
        wait_until(lambda: not Path(f"/proc/{old}").exists(), "the old worker's end", seconds=SOON)
        try:
            connection.request("GET", "/")
            answer = connection.getresponse().read()
        except (http.client.HTTPException, OSError):  # which a browser answers by asking again
            connection.close()
            connection.request("GET", "/")
            answer = connection.getresponse().read()
        self.assertEqual(answer, b"two")

    def test_many_edits(self) -> None:
        """Edits during restarts: one restart at a time, and the last edit is what is served in the end."""
        session = self.begin()
        for number in range(30):
            self.words.write_text(f'WORD = b"edit {number}"\n')
            time.sleep(
                0.1
            )  # somebody saves again and again: slower than the quiet time would be no test of it
        self.answered(session, b"edit 29")
        self.assertEqual([event for event in session.events if event["event"] == "WorkerDied"], [])

    def test_end_during_an_edit(self) -> None:
        """The session ends in order while files change, and the watcher with it."""
        session = self.begin()
        self.words.write_text('WORD = b"two"\n')
        begun = time.monotonic()
        self.assertEqual(session.end(signal.SIGINT), 0)
        self.assertLess(time.monotonic() - begun, SOON)
