"""What the tests of notifications stand on: a clock, a real spool in a folder, sinks and a disk that fail on demand."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, execute, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from serverworker.observers.notifications.delivery import Undelivered
from serverworker.observers.notifications.message import Message, Whereabouts
from serverworker.observers.notifications.observer import Notifications
from serverworker.observers.notifications.spool import Item, Spool
from serverworker.values.causes import Cause, CauseKind, RequestInFlight
from serverworker.values.errors import ErrorRecord
from serverworker.values.events import Event, OutputLine, Told, WorkerDied
from serverworker.values.notify_settings import NotifySettings
from serverworker.values.state import Policy, SessionState

AT = 1795507637.123

TRACEBACK = (
    "Traceback (most recent call last):\n"
    '  File "/srv/shop/shop.py", line 18, in render\n'
    "    return total / count\n"
    "ZeroDivisionError: division by zero\n"
)

DEATH = WorkerDied(
    worker=3,
    generation=2,
    pid=4711,
    life="serving",
    cause=Cause(
        kind=CauseKind.EXCEPTION,
        text="ZeroDivisionError: division by zero",
        error=ErrorRecord(type="builtins.ZeroDivisionError", message="division by zero", traceback=TRACEBACK),
        exit_status=1,
    ),
    uptime_seconds=12.5,
    next_step="worker 4 takes over now",
    output=(OutputLine(source="worker 3", stream="stderr", text="last words"),),
    requests=(RequestInFlight(method="GET", path="/cart", age_seconds=1.5),),
)

WHERE = Whereabouts(
    host="web1", pid=99, session="5e5510", ports=("server=tcp:8080", "socket=tcp:81"), state_directory="/s"
)


def death_of(text: str) -> WorkerDied:
    """A death with a cause of its own."""
    cause = Cause(kind=CauseKind.EXIT, text=text)
    return WorkerDied(
        worker=1,
        generation=1,
        pid=1,
        life="serving",
        cause=cause,
        uptime_seconds=1.0,
        next_step="worker 2 next",
    )


def message(id: str = "m-1", *, at: float = AT, cause: str = "cause", body: str = "body") -> Message:
    return Message(
        id=id,
        at=at,
        event="WorkerDied",
        cause=cause,
        host="web1",
        subject=f"subject {id}",
        body=body,
        details={},
    )


class FakeSink:
    """A way out that does as it is told: None takes a message, an error refuses it, a Deferred keeps it waiting."""

    deadline_seconds = 20.0

    def __init__(self, name: str = "webhook") -> None:
        self.name = name
        self.to = f"the {name}"
        self.answer: Callable[[Item], Deferred[None] | Exception | None] = lambda item: None
        self.attempts: list[tuple[float, str, int]] = []
        """The clock's time, the message's id and the number of the attempt."""
        self.taken: list[Message] = []
        self.prepared = 0
        self.clock: Clock | None = None

    def prepare(self) -> Deferred[None]:
        self.prepared += 1
        return succeed(None)

    def send(self, item: Item) -> Deferred[None]:
        assert self.clock is not None
        self.attempts.append((self.clock.seconds(), item.message.id, item.attempts))
        answer = self.answer(item)
        if isinstance(answer, Deferred):
            return answer
        if answer is not None:
            return fail(answer)
        self.taken.append(item.message)
        return succeed(None)


def down(item: Item) -> Exception:
    """What a sink answers that is not there."""
    return Undelivered("connection refused")


class NotificationTestCase(SynchronousTestCase):
    """A session's notifications, on a clock and a real folder."""

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="spool-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.spool_folder = self.folder / "spool"
        self.clock = Clock()
        self.sink = FakeSink()
        self.published: list[Event] = []
        self.disk_error: Exception | None = None
        self.sequence = 0

    def wall_clock(self) -> float:
        return AT + self.clock.seconds()

    def in_thread(self, call: Callable[[], Any]) -> Deferred[Any]:
        if self.disk_error is not None:
            return fail(self.disk_error)
        return execute(call)

    def notifications(self, *sinks: FakeSink, **settings: Any) -> Notifications:
        """An observer that has taken up the spool."""
        sinks = sinks or (self.sink,)
        for sink in sinks:
            sink.clock = self.clock
        made = Notifications(
            clock=self.clock,
            wall_clock=self.wall_clock,
            settings=NotifySettings(**settings),
            sinks=sinks,
            spool=Spool(self.spool_folder),
            in_thread=self.in_thread,
            publish=self.publish,
            where=lambda: WHERE,
            state=lambda: SessionState(policy=Policy()),
            key=lambda: "the-key",
            chance=lambda: 0.0,
        )
        made.start()
        return made

    def publish(self, event: Event) -> None:
        self.published.append(event)

    def tell(self, notifications: Notifications, event: Event) -> None:
        """Have an event happen now."""
        self.sequence += 1
        notifications(Told(sequence=self.sequence, at=self.wall_clock(), event=event))

    def pass_time(self, seconds: float, step: float = 1.0) -> None:
        """Let time go by in steps, so that what is set in one is due in the next."""
        for _ in range(round(seconds / step)):
            self.clock.advance(step)

    def told(self, kind: type[Any]) -> list[Any]:
        """What was published of a kind."""
        return [event for event in self.published if isinstance(event, kind)]

    def files(self) -> list[str]:
        """The names of the items on disk."""
        return sorted(path.name for path in self.spool_folder.glob("*.webhook.json"))
