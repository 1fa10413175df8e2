"""Being told, as a whole: what becomes a message, when it goes out, and what survives a full disk and a killed monitor."""

from __future__ import annotations

import errno
import json
import stat
from pathlib import Path

from twisted.internet.defer import Deferred, fail
from twisted.logger import capturedLogs, formatEvent

from serverworker.observers.notifications.delivery import Undelivered
from serverworker.observers.notifications.observer import CALM_SECONDS, MOST_EARLY
from serverworker.values import events
from serverworker.values.errors import ErrorRecord
from serverworker.values.events import Fault
from serverworker.values.notification_events import (
    NotificationDelivered,
    NotificationFailed,
    NotificationsDropped,
)
from tests.unit.notification_case import DEATH, FakeSink, NotificationTestCase, death_of, down

FULL = OSError(errno.ENOSPC, "No space left on device")
ENDS = events.SessionEnding(reason="gave up", graceful=True, status=70)


class TellingTests(NotificationTestCase):
    """From an event to a message."""

    def test_a_death_is_told_at_once(self) -> None:
        """A message goes to every sink, a moment after the death, and its delivery is an event."""
        mail = FakeSink("mail")
        self.tell(self.notifications(self.sink, mail), DEATH)
        self.assertEqual(self.sink.attempts, [])
        self.clock.advance(CALM_SECONDS)
        self.assertEqual(len(self.sink.taken), 1)
        self.assertEqual(len(mail.taken), 1)
        delivered = self.told(NotificationDelivered)
        self.assertEqual([(each.sink, each.attempt) for each in delivered], [("webhook", 1), ("mail", 1)])
        self.assertIn("worker 3 died while serving: ZeroDivisionError", delivered[0].subject)

    def test_events_that_were_not_picked_are_not_told(self) -> None:
        """Only the events of `notify.events` become messages; an end that was asked for is no news."""
        notifications = self.notifications()
        for event in (
            events.WorkerReady(worker=1, generation=1, seconds=1.0),
            events.SessionEnding(reason="SIGTERM", graceful=True, status=0),
            events.LoginFailed(origin="x", surface="dashboard", text="wrong", failures=1),
        ):
            self.tell(notifications, event)
        self.tell(notifications, ENDS)
        self.pass_time(5)
        self.assertEqual([each.event for each in self.sink.taken], ["SessionEnding"])
        other = self.notifications(events=["LoginFailed"], group_seconds=1.0)
        self.tell(other, DEATH)
        self.tell(other, events.LoginFailed(origin="x", surface="dashboard", text="wrong", failures=1))
        self.pass_time(1)
        self.assertEqual(self.sink.taken[-1].event, "LoginFailed")

    def test_repeats_become_one_message(self) -> None:
        """The first of a cause is told at once, what repeats it when the time is up: how often, from when to when."""
        notifications = self.notifications(group_seconds=60.0)
        for _ in range(4):
            self.tell(notifications, DEATH)
            self.pass_time(10)
        self.assertEqual(len(self.sink.taken), 1)
        self.pass_time(25)
        [_, again] = self.sink.taken
        self.assertEqual(again.count, 3)
        self.assertTrue(again.subject.endswith("(seen 3 more times)"), again.subject)
        self.assertIn("first at 2026-11-24T08:07:27.123Z, last at 2026-11-24T08:07:47.123Z", again.body)
        self.assertIn("ZeroDivisionError", again.body)
        self.pass_time(300)
        self.assertEqual(len(self.sink.taken), 2)

    def test_the_budget_holds_back_and_sums_up(self) -> None:
        """No hour has more messages than the budget; what comes on top is told in one as soon as there is room."""
        notifications = self.notifications(budget_per_hour=5)
        for name in "abcdefghijkl":
            self.tell(notifications, death_of(f"cause {name}"))
            self.pass_time(1)
        self.tell(notifications, death_of("cause l"))
        self.assertEqual(len(self.sink.taken), 5)
        [held] = self.told(NotificationsDropped)
        self.assertIn("the budget of 5 messages an hour", held.text)
        self.pass_time(3560, 10)
        self.assertEqual(len(self.sink.taken), 5)
        self.pass_time(60, 10)
        self.assertEqual(len(self.sink.taken), 6)
        summary = self.sink.taken[-1]
        self.assertEqual(summary.count, 8)
        self.assertIn("8 more notifications were held back", summary.subject)
        self.assertIn("2 × [web1:8080] worker 1 died while serving: cause l", summary.body)
        # The room is used by the summary: the next trouble is held back again, until an hour has fewer.
        hour = [at for at, _, _ in self.sink.attempts if at > self.clock.seconds() - 3600]
        self.assertLessEqual(len(hour), 5)

    def test_the_key_is_mailed_once_and_never_written(self) -> None:
        """With `key_at_start` the key goes out by mail alone when the server runs, and is on no disk meanwhile."""
        mail = FakeSink("mail")
        mail.answer = down
        notifications = self.notifications(self.sink, mail, key_at_start=True)
        for first in (True, False):
            self.tell(notifications, events.ServerRunning(worker=1, generation=1, is_first_time=first))
        self.pass_time(5)
        on_disk = [path.read_text() for path in self.spool_folder.iterdir()]
        self.assertEqual([text for text in on_disk if "the-key" in text], [])
        self.assertNotIn("the-key", repr(self.published))
        mail.answer = lambda item: None
        self.pass_time(5)
        [told] = mail.taken
        self.assertIn("the-key", told.body)
        self.assertEqual(self.sink.attempts, [])

    def test_no_key_without_being_asked(self) -> None:
        """By default nobody is mailed the key."""
        mail = FakeSink("mail")
        self.tell(self.notifications(mail), events.ServerRunning(worker=1, generation=1, is_first_time=True))
        self.pass_time(5)
        self.assertEqual(mail.attempts, [])

    def test_what_is_wrong_with_a_sink_is_said_beforehand(self) -> None:
        """A few seconds after the start each sink looks whether it has what it needs, and a lack is told."""
        lacking = FakeSink("mail")
        lacking.prepare = lambda: fail(Undelivered("the password cannot be read"))  # type: ignore[method-assign]
        self.notifications(self.sink, lacking)
        self.pass_time(6)
        self.assertEqual(self.sink.prepared, 1)
        [failed] = self.told(NotificationFailed)
        self.assertEqual(
            (failed.sink, failed.text, failed.attempt), ("mail", "the password cannot be read", 0)
        )


class FailingTests(NotificationTestCase):
    """The sink is down, the disk is full, the monitor is killed."""

    def test_a_webhook_that_fails_for_ten_minutes(self) -> None:
        """It is tried ever less often, said once, and delivered once, with the number of the attempt."""
        self.sink.answer = lambda item: Undelivered("it answered 500") if self.clock.seconds() < 600 else None
        self.tell(self.notifications(), DEATH)
        self.pass_time(1500)
        self.assertEqual(len(self.sink.taken), 1)
        [failed] = self.told(NotificationFailed)
        self.assertEqual((failed.attempt, failed.text), (1, "it answered 500"))
        self.assertIn("tried again in 1.0 s", failed.next_step)
        [delivered] = self.told(NotificationDelivered)
        self.assertEqual(
            [number for _, _, number in self.sink.attempts], list(range(1, delivered.attempt + 1))
        )
        waits = [
            round(after - before)
            for (before, *_), (after, *_) in zip(self.sink.attempts, self.sink.attempts[1:], strict=False)
        ]
        self.assertEqual(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512])
        self.assertEqual(self.files(), [])

    def test_killed_while_the_sink_is_down(self) -> None:
        """A new monitor on the same spool goes on, with the next number, and the message arrives once."""
        self.sink.answer = down
        self.tell(self.notifications(), DEATH)
        self.pass_time(5)
        attempts = len(self.sink.attempts)
        self.assertEqual(len(self.files()), 1)
        self.clock.calls.clear()  # kill -9
        after = FakeSink()
        self.notifications(after)
        self.pass_time(30)
        self.assertEqual([number for _, _, number in after.attempts], [attempts + 1])
        self.assertEqual(len(after.taken), 1)
        self.assertEqual(after.attempts[0][1], self.sink.attempts[0][1])
        self.assertEqual(self.files(), [])

    def test_killed_while_the_answer_was_on_its_way(self) -> None:
        """Whether it arrived nobody knows: it is sent again under the same id, as the next attempt."""
        self.sink.answer = lambda item: Deferred()
        self.tell(self.notifications(), DEATH)
        self.pass_time(2)
        self.clock.calls.clear()
        after = FakeSink()
        self.notifications(after)
        self.pass_time(2)
        [(_, first, _)] = self.sink.attempts
        self.assertEqual([(id, number) for _, id, number in after.attempts], [(first, 2)])

    def test_delivered_messages_are_not_sent_again(self) -> None:
        """What was delivered before the monitor was killed stays delivered."""
        self.tell(self.notifications(), DEATH)
        self.pass_time(2)
        self.clock.calls.clear()
        after = FakeSink()
        self.notifications(after)
        self.pass_time(60)
        self.assertEqual((len(self.sink.taken), after.attempts), (1, []))

    def test_a_full_disk(self) -> None:
        """It is said once; messages go out all the same, and what cannot is on disk as soon as there is room."""
        notifications = self.notifications()
        self.disk_error = FULL
        self.tell(notifications, DEATH)
        self.pass_time(1)
        self.assertEqual(len(self.sink.taken), 1)
        self.sink.answer = down
        self.tell(notifications, death_of("other"))
        self.pass_time(120)
        [fault] = self.told(Fault)
        self.assertIn("spool", fault.where)
        self.assertIn("No space left", fault.error.message)
        self.assertEqual(self.files(), [])
        self.disk_error = None
        self.pass_time(70)
        self.assertEqual(len(self.files()), 1)
        self.clock.calls.clear()
        after = FakeSink()
        self.notifications(after)
        self.pass_time(60)
        self.assertIn("other", after.taken[0].subject)

    def test_everything_at_once(self) -> None:
        """The sink is down, the disk full, then the monitor killed and started again: each death is told once."""
        self.sink.answer = down
        notifications = self.notifications()
        self.tell(notifications, death_of("first"))
        self.pass_time(2)
        self.disk_error = FULL
        self.tell(notifications, death_of("second"))
        self.pass_time(100)
        self.disk_error = None
        self.pass_time(600)
        self.clock.calls.clear()
        after = FakeSink()
        after.answer = lambda item: down(item) if self.clock.seconds() < 900 else None
        self.notifications(after)
        self.pass_time(1500)
        self.assertEqual(["first" in each.subject for each in after.taken], [True, False])
        self.assertGreater(after.attempts[0][2], 2)  # the numbers go on, and those of the second began at 1
        self.assertEqual(self.files(), [])

    def test_budget_and_repeats_outlive_the_monitor(self) -> None:
        """A monitor that is started again and again floods nobody: the hour and the group go on."""
        notifications = self.notifications(budget_per_hour=2)
        for name in "abc":
            self.tell(notifications, death_of(f"cause {name}"))
        self.tell(notifications, death_of("cause a"))
        self.pass_time(3)
        self.clock.calls.clear()
        after = FakeSink()
        notifications = self.notifications(after, budget_per_hour=2)
        self.tell(notifications, death_of("cause a"))
        self.tell(notifications, death_of("cause d"))
        self.pass_time(250)
        self.assertEqual(after.taken, [])
        self.pass_time(3600, 10)
        self.assertEqual([each.count for each in after.taken], [4])

    def test_a_bad_ledger_or_message_is_set_aside(self) -> None:
        """Files that cannot be read are said once, kept under another name, and stop nothing."""
        self.sink.answer = down
        self.tell(self.notifications(), DEATH)
        self.pass_time(3)
        [name] = self.files()
        good = (self.spool_folder / name).read_text()
        (self.spool_folder / "a.webhook.json").write_text(good[:100])
        (self.spool_folder / "b.webhook.json").write_text("[]")
        (self.spool_folder / "c.webhook.json").write_text(json.dumps({**json.loads(good), "schema": 7}))
        (self.spool_folder / "d.webhook.json").write_text(good)
        (self.spool_folder / "ledger.json").write_text('{"schema": 1, "sent": 5}')
        (self.spool_folder / "e.mail.json").mkdir()
        self.clock.calls.clear()
        self.published.clear()
        after = FakeSink()
        self.notifications(after)
        self.pass_time(30)
        self.assertEqual(len(after.taken), 1)
        [fault] = self.told(Fault)
        self.assertIn("6 of the files", fault.where)
        self.assertIn("its schema is 7, and this version reads 1", fault.error.message)
        self.assertEqual(len(list(self.spool_folder.glob("*.unreadable"))), 6)

    def test_a_spool_that_cannot_be_read(self) -> None:
        """The session goes on with what happens from now on."""
        self.disk_error = OSError(errno.EIO, "Input/output error")
        notifications = self.notifications()
        self.tell(notifications, DEATH)
        self.pass_time(2)
        self.assertEqual(len(self.sink.taken), 1)
        self.assertIn("reading the notifications' spool", self.told(Fault)[0].where)

    def test_a_disk_that_hangs(self) -> None:
        """Events that come before the spool is loaded wait for it, but not for ever."""
        self.patch(self, "in_thread", lambda call: Deferred())
        notifications = self.notifications()
        self.tell(notifications, DEATH)
        self.pass_time(9)
        self.assertEqual(self.sink.attempts, [])
        self.pass_time(15)
        self.assertEqual(len(self.sink.taken), 1)

    def test_too_many_before_the_spool_is_loaded(self) -> None:
        """What waits for the disk is bounded, and what goes over is counted and said."""
        self.patch(self, "in_thread", lambda call: Deferred())
        notifications = self.notifications(budget_per_hour=3)
        for _ in range(MOST_EARLY + 7):
            self.tell(notifications, DEATH)
        self.pass_time(11)
        self.assertEqual([each.count for each in self.told(NotificationsDropped)], [7])

    def test_no_thread_can_be_started(self) -> None:
        """A sink that cannot even be prepared is told, and stops nobody."""
        broken = FakeSink("mail")
        broken.prepare = lambda: 1 / 0  # type: ignore[method-assign, assignment, return-value]
        self.notifications(broken, self.sink)
        self.pass_time(6)
        self.assertEqual(self.sink.prepared, 1)
        self.assertIn("ZeroDivisionError", self.told(NotificationFailed)[0].text)

    def test_nobody_else_can_read_the_spool(self) -> None:
        """The folder is this user's alone, and so is each file."""
        self.sink.answer = down
        self.tell(self.notifications(), DEATH)
        self.pass_time(3)
        self.assertEqual(stat.S_IMODE(self.spool_folder.stat().st_mode), 0o700)
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in self.spool_folder.iterdir()}
        self.assertEqual(set(modes.values()), {0o600}, modes)
        self.assertIn("ledger.json", modes)

    def test_a_sink_that_is_not_configured_any_more(self) -> None:
        """Its messages wait on disk for a week, in case it comes back; then they are given up, and that is said."""
        self.sink.answer = down
        self.tell(self.notifications(), DEATH)
        self.pass_time(3)
        for days, left in ((6, 1), (8, 0)):
            self.clock.calls.clear()
            self.clock.rightNow = days * 86400.0
            self.notifications(FakeSink("mail"))
            self.pass_time(3)
            self.assertEqual(len(self.files()), left)
        self.assertEqual([each.count for each in self.told(NotificationsDropped)], [1])


class EndTests(NotificationTestCase):
    """The end of the session."""

    def test_an_idle_end_takes_no_time(self) -> None:
        """With nothing to tell, or a sink that is known to fail, the end waits for nobody."""
        self.successResultOf(self.notifications().close())
        self.sink.answer = down
        notifications = self.notifications()
        self.tell(notifications, DEATH)
        self.pass_time(2)
        self.successResultOf(notifications.close())
        self.assertEqual(len(self.files()), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_what_was_not_tried_yet_is_tried(self) -> None:
        """A session that gives up says so before it goes, and what has repeated is told as well."""
        notifications = self.notifications()
        self.tell(notifications, DEATH)
        self.pass_time(1)
        self.tell(notifications, DEATH)
        self.tell(notifications, ENDS)
        self.successResultOf(notifications.close())
        subjects = [each.subject for each in self.sink.taken]
        self.assertEqual(len(subjects), 3, subjects)
        self.assertIn("exit status 70", subjects[1])
        self.assertIn("(seen once more)", subjects[2])

    def test_a_sink_that_does_not_answer(self) -> None:
        """The end waits for less than the five seconds that it has; the message stays for the next session."""
        cancelled: list[object] = []
        self.sink.answer = lambda item: Deferred(cancelled.append)
        notifications = self.notifications()
        self.tell(notifications, DEATH)
        closed = notifications.close()
        self.pass_time(3, 0.5)
        self.assertNoResult(closed)
        self.pass_time(1, 0.5)
        self.successResultOf(closed)
        self.assertEqual((len(cancelled), len(self.files())), (1, 1))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_with_a_full_disk_the_log_gets_it(self) -> None:
        """What is neither delivered nor written goes to the log, and that is said; but never the key."""
        self.sink.name = "mail"
        self.sink.answer = down
        notifications = self.notifications(key_at_start=True)
        self.disk_error = FULL
        self.tell(notifications, DEATH)
        self.tell(notifications, events.ServerRunning(worker=1, generation=1, is_first_time=True))
        self.pass_time(2)
        with capturedLogs() as logs:
            self.successResultOf(notifications.close())
        [entry] = [formatEvent(each) for each in logs]
        self.assertIn("ZeroDivisionError", entry)
        self.assertNotIn("the-key", entry)
        self.assertEqual([each.count for each in self.told(NotificationsDropped)], [1])

    def test_what_happens_after_the_end_is_for_the_next_session(self) -> None:
        """A fault of somebody who is closed later is in the spool."""
        notifications = self.notifications()
        self.successResultOf(notifications.close())
        self.tell(notifications, Fault(where="the end", error=ErrorRecord(type="x", message="y")))
        self.assertEqual(len(self.files()), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        after = FakeSink()
        self.notifications(after)
        self.pass_time(2)
        self.assertEqual(len(after.taken), 1)

    def test_closed_before_the_spool_was_loaded(self) -> None:
        """What a former session left stays as it is, and what was told meanwhile is tried."""
        self.spool_folder.mkdir(mode=0o700)
        ledger = Path(self.spool_folder, "ledger.json")
        ledger.write_text("{}")
        waiting: list[Deferred[object]] = []
        work = self.in_thread

        def first_one_waits(call: object) -> object:
            if not waiting:
                waiting.append(Deferred())
                return waiting[0]
            return work(call)  # type: ignore[arg-type]

        self.patch(self, "in_thread", first_one_waits)
        notifications = self.notifications()
        self.tell(notifications, DEATH)
        self.successResultOf(notifications.close())
        self.assertEqual(len(self.sink.taken), 1)
        self.assertEqual(ledger.read_text(), "{}")
