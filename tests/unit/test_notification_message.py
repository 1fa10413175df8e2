"""What messages say: all that an operator needs, bounded, safe to show; and which events are one trouble."""

from __future__ import annotations

import json
from email import message_from_bytes, policy
from typing import Any

import attrs
from hypothesis import given, settings
from twisted.trial.unittest import SynchronousTestCase

from serverworker.observers.notifications.causes import fingerprint
from serverworker.observers.notifications.mail import written
from serverworker.observers.notifications.message import (
    LONGEST_BODY,
    LONGEST_SUBJECT,
    Message,
    Tally,
    Whereabouts,
    compose,
    repeated,
    summed_up,
    with_key,
)
from serverworker.observers.notifications.webhook import LONGEST_CONTENT, LONGEST_TEXT, payload
from serverworker.values import events
from serverworker.values.causes import Cause, CauseKind, RequestInFlight
from serverworker.values.errors import ErrorRecord
from serverworker.values.events import Event, OutputLine, Told
from serverworker.values.state import Life, Policy, SessionState, Worker
from tests.unit.notification_case import AT, DEATH, TRACEBACK, WHERE, message
from tests.unit.test_crash_reports import deaths

STATE = SessionState(
    policy=Policy(),
    workers=(
        Worker(id=4, generation=2, life=Life.SERVING, spawned_at=0.0, since=0.0),
        Worker(id=5, generation=2, life=Life.STARTING, spawned_at=0.0, since=0.0),
    ),
)


def composed(event: Event, where: Whereabouts = WHERE) -> Message:
    return compose(Told(sequence=17, at=AT, event=event), where, STATE)


class MessageTests(SynchronousTestCase):
    """`compose` and its like."""

    def test_the_message_alone_suffices(self) -> None:
        """What, where, since when, the cause with its traceback, the requests, the output, what is done next, and now."""
        told = composed(DEATH, attrs.evolve(WHERE, version="2.4.1"))
        self.assertEqual(
            told.subject, "[web1:8080] worker 3 died while serving: ZeroDivisionError: division by zero"
        )
        for text in (
            "worker 3 (pid 4711) died while serving after 12.5 s: ZeroDivisionError: division by zero",
            "When:      2026-11-24T08:07:17.123Z, as event 17 of its session",
            "Where:     web1, server=tcp:8080, socket=tcp:81; monitor with pid 99",
            "State:     in /s",
            "Version:   2.4.1",
            "Worker:    3 (pid 4711, generation 2), serving, 12.5 s old",
            "Cause:     exception: ZeroDivisionError: division by zero",
            "Next:      worker 4 takes over now",
            "Report:    /s/crashes/2026-11-24T08-07-17.123Z-worker3-17.json",
            "Now:       workers: 1 serving, 1 starting; the session is running",
            'File "/srv/shop/shop.py", line 18, in render',
            "GET /cart, for 1.5 s",
            "stderr: last words",
        ):
            self.assertIn(text, told.body)
        self.assertEqual(told.details["event"], "WorkerDied")
        self.assertEqual(told.id, "20261124T080717123Z-5e5510-17")

    def test_a_hang_names_its_line(self) -> None:
        """The line that a hang was at stands among the first facts, and the stacks below."""
        hang = attrs.evolve(
            DEATH,
            cause=Cause(kind=CauseKind.HANG, text="its reactor hangs"),
            hung_at="shop.py, line 18, in <genexpr>",
            stacks="Thread 0x1:\n  File x\n",
            requests=(),
            output=(),
        )
        body = composed(hang).body
        self.assertIn("Hung at:   shop.py, line 18, in <genexpr>", body)
        self.assertIn("Stacks:\n    Thread 0x1:", body)
        self.assertIn("Requests in flight:\n    none", body)

    def test_other_events(self) -> None:
        """A failed restart and a fault have their traceback too."""
        error = DEATH.cause.error
        assert error is not None
        failed = events.RestartFailed(generation=3, text="worker 5 cannot be loaded", cause=DEATH.cause)
        for event in (failed, events.Fault(where="hook f", error=error)):
            self.assertIn("line 18, in render", composed(event).body)
        self.assertIn("Now:", composed(events.SessionEnding(reason="x", graceful=True, status=70)).body)

    def test_names_of_sessions(self) -> None:
        """A session is called by its host and its server port."""
        for ports, name in (
            (("a=tcp:1", "server=tcp:80:interface=127.0.0.1"), "web1:80"),
            (("server=tcp6:80",), "web1:80"),
            (("server=unix:/run/site.sock",), "web1:/run/site.sock"),
            ((), "web1"),
        ):
            self.assertEqual(attrs.evolve(WHERE, ports=ports).name, name)

    def test_repeats(self) -> None:
        """How often, from when to when, and the last time in full."""
        last = composed(DEATH)
        once, more = repeated(last, 1, AT, AT), repeated(last, 3, AT - 10, AT)
        self.assertTrue(once.subject.endswith("(seen once more)"))
        self.assertIn("at 2026-11-24T08:07:17.123Z. The last time:", once.body)
        self.assertIn("first at 2026-11-24T08:07:07.123Z, last at 2026-11-24T08:07:17.123Z", more.body)
        self.assertIn(last.body, more.body)
        self.assertEqual((more.count, more.id), (3, last.id))

    def test_summary(self) -> None:
        """What was held back, most frequent first, and how many more."""
        tallies = [
            Tally(subject="rare", count=1, first_at=AT, last_at=AT),
            Tally(subject="frequent", count=5, first_at=AT, last_at=AT + 1),
        ]
        told = summed_up(tallies, others=2, budget=20, where=WHERE, at=AT)
        self.assertIn("8 more notifications were held back", told.subject)
        self.assertLess(told.body.index("5 × frequent"), told.body.index("1 × rare"))
        self.assertIn("2 × other causes", told.body)

    def test_secrets_do_not_show_by_accident(self) -> None:
        """A message's text, which may hold the key, is not in its repr."""
        self.assertNotIn("the-key", repr(with_key("the-key", WHERE, AT)))

    def test_what_a_worker_printed_is_harmless(self) -> None:
        """Control characters, turns of direction and half characters are written out."""
        told = composed(
            attrs.evolve(
                DEATH, output=(OutputLine(source="w", stream="stdout", text="\x1b[31m\x00\u202e\ud800é"),)
            )
        )
        self.assertIn("stdout: \\x1b[31m\\x00\\x202e\\xd800é", told.body)
        told.body.encode()

    def test_everything_is_bounded(self) -> None:
        """However much a worker printed, did or said, a message has its limits."""
        huge = "x" * 70_000
        error = ErrorRecord(type="T", message=huge, traceback=f"{huge}\nTHE END\n")
        line = OutputLine(source="w", stream="stderr", text=huge)
        told = composed(
            attrs.evolve(
                DEATH,
                cause=Cause(kind=CauseKind.EXCEPTION, text=huge, error=error),
                output=(line,) * 200,
                requests=(RequestInFlight(method="GET", path=huge, age_seconds=1.0),) * 200,
                stacks=huge * 10,
                hung_at=huge,
                next_step=huge,
            )
        )
        self.assertLessEqual(len(told.body), LONGEST_BODY + 100)
        self.assertLessEqual(len(told.subject), LONGEST_SUBJECT)
        self.assertIn("THE END", told.body)
        self.assertIn("characters cut", told.body)
        self.assertLess(len(json.dumps(attrs.asdict(told))), 300_000)

    @given(deaths)
    @settings(max_examples=60, deadline=None)
    def test_any_death_can_be_told(self, death: Any) -> None:
        """Whatever stands in it: it becomes a mail and a payload, and comes back from the spool as it was."""
        told = composed(death)
        self.assertEqual(Message.from_json(json.loads(json.dumps(attrs.asdict(told)))), told)
        self.assertNotIn("\n", told.subject)
        mail = message_from_bytes(written(told, 2, "sw@example.org", ("a@b.c",)), policy=policy.default)
        self.assertEqual(" ".join(str(mail["Subject"]).split()), " ".join(told.subject.split()))
        self.assertTrue(mail.get_content().startswith(told.body.splitlines()[0][:50]))
        content = json.loads(payload(told, 1))
        self.assertEqual(content["body"], told.body)
        self.assertLessEqual(len(content["text"]), LONGEST_TEXT)
        self.assertLessEqual(len(content["content"]), LONGEST_CONTENT)


class MailTests(SynchronousTestCase):
    """`written`."""

    def test_a_mail(self) -> None:
        """Its headers tell who, what, when, which message and which attempt, and that no answer is wanted."""
        mail = message_from_bytes(
            written(message(), 3, "sw@example.org", ("a@b.c", "d@e.f")), policy=policy.default
        )
        for name, value in (
            ("From", "sw@example.org"),
            ("To", "a@b.c, d@e.f"),
            ("Subject", "subject m-1"),
            ("Date", "Tue, 24 Nov 2026 08:07:17 +0000"),
            ("Message-ID", "<m-1@example.org>"),
            ("X-Serverworker-Id", "m-1"),
            ("X-Serverworker-Attempt", "3"),
            ("Auto-Submitted", "auto-generated"),
        ):
            self.assertEqual(mail[name], value)
        self.assertIn("This is attempt 3", mail.get_content())
        self.assertNotIn(
            "attempt", written(message(), 1, "a@b.c", ("d@e.f",)).decode().lower().split("\n\n")[1]
        )

    def test_lines_are_safe_for_smtp(self) -> None:
        """No line begins with a dot, none is too long, none ends otherwise than in a line feed."""
        body = ".\n..\n.x\n" + "y" * 5000 + "\n"
        content = written(message(body=body), 1, "sw@example.org", ("a@b.c",))
        for line in content.split(b"\n"):
            self.assertFalse(line.startswith(b"."), line)
            self.assertLess(len(line), 998)
        self.assertNotIn(b"\r", content)
        self.assertEqual(message_from_bytes(content, policy=policy.default).get_content(), body)


class ChatTests(SynchronousTestCase):
    """What chats show of a payload."""

    def text_of(self, body: str, attempt: int = 1) -> str:
        return str(json.loads(payload(message(body=body), attempt))["text"])

    def test_nobody_is_called(self) -> None:
        """What a worker printed, or a client sent, calls no one, makes no link and does not end its block."""
        text = self.text_of("@everyone <!channel> <https://x|y> ``` @here")
        for call in ("@everyone", "<!channel", "<https", "@here"):
            self.assertNotIn(call, text)
        self.assertEqual(text.count("```"), 2)
        content = json.loads(payload(message(body="@everyone"), 1))
        self.assertEqual((content["allowed_mentions"], content["body"]), ({"parse": []}, "@everyone"))

    def test_which_attempt_it_is(self) -> None:
        """A second attempt says that an earlier one may have arrived."""
        self.assertNotIn("attempt", self.text_of("x"))
        self.assertIn("(attempt 2: an earlier one may have arrived)", self.text_of("x", 2))

    def test_a_long_body_is_cut(self) -> None:
        """That is said, and the block is closed."""
        text = self.text_of("x" * 50_000)
        self.assertTrue(text.endswith("… (cut)\n```"), text[-30:])


class FingerprintTests(SynchronousTestCase):
    """`fingerprint`."""

    def test_the_same_trouble(self) -> None:
        """Another worker, request or time is no other trouble."""
        error = ErrorRecord(type="builtins.ZeroDivisionError", message="item 17", traceback=TRACEBACK)
        other = attrs.evolve(
            DEATH,
            worker=9,
            pid=1,
            uptime_seconds=1.0,
            output=(),
            cause=attrs.evolve(DEATH.cause, text="ZeroDivisionError: item 17", error=error),
        )
        self.assertEqual(fingerprint(DEATH), fingerprint(other))
        hang = "no answer to the ping for {} s"
        self.assertEqual(
            *(
                fingerprint(attrs.evolve(DEATH, cause=Cause(kind=CauseKind.HANG, text=hang.format(number))))
                for number in ("10.0", "10.2")
            )
        )

    def test_other_troubles(self) -> None:
        """Another line of code, signal, kind, life or event is one."""
        elsewhere = ErrorRecord(
            type="builtins.ZeroDivisionError",
            message="division by zero",
            traceback=TRACEBACK.replace("line 18", "line 19"),
        )
        cause = DEATH.cause
        troubles: list[Event] = [
            DEATH,
            attrs.evolve(DEATH, life="starting"),
            attrs.evolve(DEATH, cause=attrs.evolve(cause, error=elsewhere)),
            attrs.evolve(DEATH, cause=attrs.evolve(cause, kind=CauseKind.LOAD)),
            attrs.evolve(DEATH, cause=Cause(kind=CauseKind.SIGNAL, text="killed", signal="SIGKILL")),
            attrs.evolve(DEATH, cause=Cause(kind=CauseKind.SIGNAL, text="killed", signal="SIGSEGV")),
            attrs.evolve(DEATH, hung_at="shop.py, line 3, f"),
            events.RestartFailed(generation=2, text="x", cause=cause),
            events.RestartFailed(generation=2, text="x"),
            events.Fault(where="a", error=elsewhere),
            events.Fault(where="b", error=elsewhere),
            events.SessionEnding(reason="gave up", graceful=True, status=70),
        ]
        self.assertEqual(len({fingerprint(each) for each in troubles}), len(troubles))
