"""The journal as it is read: newest first, bounded, whatever stands in its files."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from serverworker.monitor import journal_files
from serverworker.monitor.journal_files import (
    AUDIT_NAME,
    JOURNAL_NAME,
    LONGEST_LINE,
    lines_backwards,
    previous_session,
    read_journal,
    session_id,
)
from serverworker.observers.journal import line_of
from serverworker.values import causes, events
from serverworker.values.errors import ErrorRecord
from serverworker.values.events import Event, Told

NOON = 1_795_521_600.0
"""2026-11-24T12:00:00Z."""
STARTED = events.SessionStarted(pid=1, ports=(), state_directory="/s")
DIED = events.WorkerDied(
    worker=1,
    generation=1,
    pid=9,
    life="serving",
    cause=causes.Cause(kind=causes.CauseKind.EXIT, text="exit status 1"),
    uptime_seconds=1.0,
    next_step="worker 2 takes over now",
)
ENDED = events.SessionEnded(status=0, reason="SIGTERM")


def note(text: str) -> events.Lifecycle:
    return events.Lifecycle(worker=1, text=text)


class JournalFilesTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.sequence = 0

    def write(self, *told: Event, at: float = NOON, session: str = "now", name: str = JOURNAL_NAME) -> None:
        """Each a second after the one before."""
        with (self.folder / name).open("ab") as file:
            for number, event in enumerate(told):
                self.sequence += 1
                file.write(line_of(session, Told(sequence=self.sequence, at=at + number, event=event)))

    def texts(self, **options: Any) -> list[str]:
        return [each["fields"]["text"] for each in read_journal(self.folder, **options)]


class ReadTests(JournalFilesTestCase):
    """`read_journal`."""

    def test_none(self) -> None:
        """Where there is no journal there is nothing to read."""
        self.assertEqual(list(read_journal(self.folder)), [])

    def test_shape(self) -> None:
        """An event as `event_json` has it, with the session that it belongs to."""
        self.write(DIED)
        (event,) = read_journal(self.folder)
        self.assertEqual(
            (event["session"], event["sequence"], event["at"], event["event"], event["level"]),
            ("now", 1, "2026-11-24T12:00:00.000Z", "WorkerDied", "error"),
        )
        self.assertEqual(event["fields"]["cause"]["kind"], "exit")
        self.assertIn("worker 2 takes over now", event["sentence"])

    def test_order(self) -> None:
        """Oldest first, over all files; of too many the newest."""
        self.write(note("1"), note("2"), name="journal.jsonl.2")
        self.write(note("3"), note("4"), name="journal.jsonl.1")
        self.write(note("5"), note("6"))
        self.assertEqual(self.texts(), ["1", "2", "3", "4", "5", "6"])
        self.assertEqual(self.texts(limit=3), ["4", "5", "6"])

    def test_kinds(self) -> None:
        """Only those of the kinds that are asked for count."""
        self.write(note("1"), DIED, note("2"), STARTED, note("3"))
        self.assertEqual(self.texts(kinds=("Lifecycle",), limit=2), ["2", "3"])

    def test_since(self) -> None:
        """None that is older; the one of that very moment is there."""
        self.write(note("1"), note("2"), name="journal.jsonl.1")
        self.write(note("3"), note("4"), at=NOON + 2)
        self.assertEqual(self.texts(since=NOON + 1), ["2", "3", "4"])
        self.assertEqual(self.texts(since=NOON + 2.5), ["4"])

    def test_since_after_a_clock_was_set_back(self) -> None:
        """A younger event before an older one, in the same file, is found."""
        self.write(note("before"), at=NOON + 100)
        self.write(note("old"), at=NOON)
        self.write(note("after"), at=NOON + 90)
        self.assertEqual(self.texts(since=NOON + 80), ["before", "after"])

    def test_no_further_than_needed(self) -> None:
        """Files before one that begins before `since` are not read at all."""
        (self.folder / "journal.jsonl.1").mkdir()  # cannot be read
        self.write(note("1"), note("2"))
        self.assertEqual(self.texts(since=NOON + 1), ["2"])
        self.assertRaises(OSError, self.texts)

    def test_broken_lines(self) -> None:
        """Lines that make no sense are skipped, and cost no other."""
        self.write(note("1"))
        with (self.folder / JOURNAL_NAME).open("ab") as file:
            file.write(b'{"session":"x","sequence":1,"at":"2026-1\n')  # half, then ended
            file.write(b"\n\xff\xfe\n[]\n3\nnull\n" + b"[" * 100_000 + b"\n")
            wrong: Any
            for wrong in ({"at": "noon"}, {"at": 3}, {"fields": []}, {"event": None}, {"session": 1}):
                file.write(
                    json.dumps(
                        {
                            "session": "x",
                            "at": "2026-11-24T12:00:00Z",
                            "event": "Lifecycle",
                            "level": "info",
                            "source": "monitor",
                            "sentence": "",
                            "fields": {"text": "wrong"},
                            **wrong,
                        }
                    ).encode()
                    + b"\n"
                )
        self.write(note("2"))
        with (self.folder / JOURNAL_NAME).open("ab") as file:
            file.write(b'{"session":"half')
        self.assertEqual(self.texts(), ["1", "2"])

    def test_memory(self) -> None:
        """However many are asked for, no more bytes are kept than the bound; the newest are."""
        self.patch(journal_files, "MOST_BYTES", 5000)
        self.write(*(note(f"{number:0500}") for number in range(50)))
        texts = self.texts(limit=10_000)
        self.assertTrue(3 <= len(texts) <= 10, len(texts))
        self.assertEqual(int(texts[-1]), 49)

    def test_rotated_meanwhile(self) -> None:
        """A file that is renamed while somebody reads is not read twice."""
        self.write(note("1"), name="journal.jsonl.1")
        self.write(note("2"))
        found = journal_files._backwards(self.folder, JOURNAL_NAME)
        texts = [next(found)[1]["fields"]["text"]]
        (self.folder / "journal.jsonl.1").rename(self.folder / "journal.jsonl.2")
        (self.folder / JOURNAL_NAME).rename(self.folder / "journal.jsonl.1")
        texts += [event["fields"]["text"] for _, event in found]
        self.assertEqual(texts, ["2", "1"])

    def test_audit(self) -> None:
        """The audit log is read alike."""
        self.write(note("1"))
        self.write(note("2"), name=AUDIT_NAME)
        self.assertEqual(self.texts(name=AUDIT_NAME), ["2"])

    def test_longest_line(self) -> None:
        """The longest line that is ever written is one that is read."""
        error = ErrorRecord(type="t\0" * 10**5, message="\0é" * 10**5, traceback="\0" * 10**6)
        requests = tuple(
            causes.RequestInFlight(method="G" * 16, path="\0" * 216, age_seconds=1.0) for _ in range(128)
        )
        cause = causes.Cause(kind=causes.CauseKind.EXCEPTION, text="\0" * 10**6, error=error)
        died = events.WorkerDied(
            worker=1,
            generation=1,
            pid=9,
            life="serving",
            cause=cause,
            uptime_seconds=1.0,
            next_step="",
            requests=requests,
        )
        line = line_of("now", Told(sequence=1, at=NOON, event=died))
        self.assertLess(len(line), LONGEST_LINE)
        (self.folder / JOURNAL_NAME).write_bytes(line)
        self.assertEqual(len(list(read_journal(self.folder))), 1)


class BackwardsTests(SynchronousTestCase):
    """`lines_backwards`."""

    @given(st.lists(st.binary(max_size=30).map(lambda line: line.replace(b"\n", b"")), max_size=40))
    @settings(max_examples=200, deadline=None)
    def test_law(self, lines: list[bytes]) -> None:
        """The same lines as forwards, whatever the blocks cut; without empty ones."""
        for block in (1, 2, 7, 64):
            self.patch(journal_files, "_BLOCK", block)
            for end in (b"", b"\n"):
                found = list(lines_backwards(BytesIO(b"\n".join(lines) + end)))
                self.assertEqual(found[::-1], [line for line in lines if line])

    def test_too_long(self) -> None:
        """A line without an end, as of a file that is no journal, is left out, and costs no memory."""
        self.patch(journal_files, "_BLOCK", 64)
        self.patch(journal_files, "LONGEST_LINE", 1000)
        content = b"first\n" + b"x" * 5000 + b"\nthird\n" + b"y" * 5000 + b"\nlast\n"
        self.assertEqual(list(lines_backwards(BytesIO(content))), [b"last", b"third", b"first"])
        self.assertEqual(list(lines_backwards(BytesIO(b"z" * 5000))), [])
        self.assertEqual(list(lines_backwards(BytesIO(b"z" * 5000 + b"\nlast"))), [b"last"])


class PreviousSessionTests(JournalFilesTestCase):
    """`previous_session`."""

    def test_none(self) -> None:
        """The first session of all has none before it, nor is it its own."""
        self.assertIsNone(previous_session(self.folder, "now"))
        self.write(STARTED, session="now")
        self.assertIsNone(previous_session(self.folder, "now"))

    def test_ended(self) -> None:
        """It said farewell: when, with which status and why; what was told behind that counts too."""
        self.write(STARTED, DIED, DIED, ENDED, note("last"), session="before")
        self.write(STARTED, DIED, session="now")
        self.assertEqual(
            previous_session(self.folder, "now"),
            events.PreviousSession(
                session="before",
                began="2026-11-24T12:00:00.000Z",
                ended="2026-11-24T12:00:04.000Z",
                status=0,
                reason="SIGTERM",
                crashes=2,
            ),
        )

    def test_killed(self) -> None:
        """It did not, although the one before it did: no status, and when it was last heard of."""
        self.write(STARTED, DIED, ENDED, session="long ago")
        self.write(STARTED, note("running"), session="before", at=NOON + 60)
        found = previous_session(self.folder, "now")
        assert found is not None
        self.assertEqual(
            (found.session, found.status, found.reason, found.crashes, found.ended),
            ("before", None, "", 0, "2026-11-24T12:01:01.000Z"),
        )

    def test_beginning_is_gone(self) -> None:
        """Where the file of its beginning is gone, what is there counts."""
        self.write(DIED, ENDED, session="before")
        found = previous_session(self.folder, "now")
        assert found is not None
        self.assertEqual((found.began, found.crashes, found.status), ("", 1, 0))

    def test_id(self) -> None:
        """A session is called by when it began, and its process."""
        self.assertEqual(session_id(NOON, 4711), "2026-11-24T12:00:00.000Z/4711")
