"""The spool on disk, and who brings it to what is wanted."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

from serverworker.observers.notifications.spool import LEDGER_NAME, Item, Spool, ledger_as_json
from serverworker.observers.notifications.spool_writer import SpoolWriter
from serverworker.values.events import Fault
from tests.unit.notification_case import NotificationTestCase, message

FULL = OSError(errno.ENOSPC, "No space left on device")


class SpoolTests(NotificationTestCase):
    """`Spool`."""

    def setUp(self) -> None:
        super().setUp()
        self.spool = Spool(self.spool_folder)

    def put(self, item: Item) -> None:
        self.spool.put(item.file_name, item.as_json())

    def test_an_item_comes_back_as_it_was(self) -> None:
        """Message, attempts and who has got it are read as they were written, oldest first."""
        young = Item(message=message("20261124T2-a-2"), sink="mail", attempts=3, done=("a@b.c",))
        old = Item(message=message("20261124T1-a-1"), sink="webhook")
        self.put(young)
        self.put(old)
        found = self.spool.load()
        self.assertEqual([each.message for each in found.items], [old.message, young.message])
        self.assertEqual(
            [(each.sink, each.attempts, each.done) for each in found.items],
            [("webhook", 0, ()), ("mail", 3, ("a@b.c",))],
        )
        self.assertEqual((found.ledger, found.unreadable), (None, ()))

    def test_what_was_half_written_is_removed(self) -> None:
        """A part that a killed monitor left behind is no message."""
        self.put(Item(message=message(), sink="mail"))
        part = self.spool_folder / ".m-2.mail.json.part"
        part.write_text("{")
        self.assertEqual(len(self.spool.load().items), 1)
        self.assertFalse(part.exists())

    def test_other_files_are_left_alone(self) -> None:
        """What has no name of ours is not touched."""
        self.spool_folder.mkdir(mode=0o700)
        (self.spool_folder / "README").write_text("mine")
        self.assertEqual(self.spool.load().unreadable, ())
        self.assertEqual((self.spool_folder / "README").read_text(), "mine")

    def test_a_file_cannot_lead_elsewhere(self) -> None:
        """A message whose id would be another file's name, as far as one outside the spool, is set aside."""
        content = Item(message=message("../../etc/x"), sink="mail").as_json()
        self.spool.put("a.mail.json", content)
        found = self.spool.load()
        self.assertEqual(found.items, ())
        self.assertIn("its content belongs in a file called ../../etc/x.mail.json", found.unreadable[0])

    def test_few_unreadable_files_are_kept(self) -> None:
        """Of what was set aside the newest stay."""
        for number in range(30):
            self.spool.put(f"bad-{number}.mail.json", b"{")
            self.spool.load()
        self.assertEqual(len(list(self.spool_folder.glob("*.unreadable"))), 20)

    def test_the_ledger_comes_back(self) -> None:
        """What the ledger is made of is read as it was written."""
        self.spool.put(LEDGER_NAME, ledger_as_json({"sent": [1.0], "groups": {}, "held": {}, "others": 2}))
        ledger = self.spool.load().ledger
        assert ledger is not None
        self.assertEqual((ledger["sent"], ledger["others"]), ([1.0], 2))

    def test_removing_what_is_not_there(self) -> None:
        """It is no error, and makes no folder."""
        self.spool.put("a.mail.json", None)
        self.assertFalse(self.spool_folder.exists())


class WriterTests(NotificationTestCase):
    """`SpoolWriter`."""

    def setUp(self) -> None:
        super().setUp()
        self.full = False
        self.writer = SpoolWriter(self.clock, _FakeSpool(self), self.in_thread, self.publish)
        self.disk: dict[str, bytes] = {}
        self.writes = 0

    def test_the_last_wish_counts(self) -> None:
        """While one file is written others wait, and of several wishes for one the last is what the disk gets."""
        slow: list[Deferred[None]] = []
        work = self.in_thread

        def first_one_waits(call: Callable[[], Any]) -> Deferred[Any]:
            if slow:
                return work(call)
            slow.append(Deferred())
            return slow[0].addCallback(lambda _: call())

        self.writer = SpoolWriter(self.clock, _FakeSpool(self), first_one_waits, self.publish)
        first = self.writer.want("a", b"1")
        for content in (b"2", b"3"):
            self.writer.want("b", content)
        self.writer.want("a", None)
        self.assertNoResult(first)
        slow[0].callback(None)
        self.successResultOf(first)
        self.assertEqual(self.disk, {"b": b"3"})
        self.assertEqual(self.writes, 3)
        self.assertEqual(self.writer.unwritten, ())

    def test_a_full_disk_is_tried_ever_less_often_and_said_once(self) -> None:
        """After 1, 2, 4, … seconds, at most a minute; whoever wants something does not wait for it."""
        self.full = True
        self.successResultOf(self.writer.want("a", b"1"))
        self.successResultOf(self.writer.want("b", b"1"))
        times = []
        for second in range(200):
            before = self.writes
            self.clock.advance(1)
            times += [second + 1] * (self.writes - before)
        self.assertEqual(times, [1, 3, 7, 15, 31, 63, 123, 183])
        self.assertEqual(len(self.told(Fault)), 1)
        self.assertEqual(self.writer.unwritten, ("a", "b"))
        self.full = False
        self.pass_time(60)
        self.assertEqual(self.disk, {"a": b"1", "b": b"1"})
        self.full = True
        self.writer.want("a", b"2")
        self.assertEqual(len(self.told(Fault)), 2)

    def test_a_full_disk_takes_removals(self) -> None:
        """What is delivered is removed at once, although the disk is full; that makes no second fault."""
        self.successResultOf(self.writer.want("a", b"1"))
        self.full = True
        self.writer.want("b", b"1")
        self.successResultOf(self.writer.want("a", None))
        self.assertEqual(self.disk, {})
        self.assertEqual(len(self.told(Fault)), 1)
        self.full = False
        self.pass_time(5)
        self.assertEqual(self.disk, {"b": b"1"})

    def test_a_disk_that_hangs_counts_as_failed(self) -> None:
        """Nobody waits longer than the deadline."""
        writer = SpoolWriter(self.clock, _FakeSpool(self), lambda call: Deferred(), self.publish)
        wanted = writer.want("a", b"1")
        self.clock.advance(9)
        self.assertNoResult(wanted)
        self.clock.advance(1)
        self.successResultOf(wanted)
        self.assertIn("the disk has not finished within 10 s", self.told(Fault)[0].error.message)

    def test_closing_tries_once_more(self) -> None:
        """At the end the disk has one more chance; then it is over, whatever it says."""
        self.full = True
        self.writer.want("a", b"1")
        self.successResultOf(self.writer.close())
        self.assertEqual(self.writes, 2)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.full = False
        self.successResultOf(self.writer.close())
        self.assertEqual(self.disk, {"a": b"1"})


class _FakeSpool(Spool):
    """A disk in memory that can be full."""

    def __init__(self, case: WriterTests) -> None:
        super().__init__(case.spool_folder)
        self._case = case

    def put(self, name: str, content: bytes | None) -> None:
        self._case.writes += 1
        if content is None:
            self._case.disk.pop(name, None)
        elif self._case.full:
            raise FULL
        else:
            self._case.disk[name] = content
