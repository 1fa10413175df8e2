"""The table: for each fault of a worker, how it is made, and what the report has to say."""

from __future__ import annotations

import signal
from collections.abc import Callable

from attrs import frozen

from tests.integration.faults.ground import Ground


@frozen(kw_only=True)
class Fault:
    """One way in which a worker can fail."""

    name: str
    blow: Callable[[Ground], None]
    kind: str
    """Of the cause in the report."""
    says: str
    """What stands in the report, in the cause's text, the hung line or the traceback."""
    seconds: float
    """Longer than this nobody waits for an answer that was asked for after the blow (a busy machine's, not ours)."""


def _signal(number: int) -> Callable[[Ground], None]:
    return lambda ground: ground.signal(number)


def _ask(path: str) -> Callable[[Ground], None]:
    return lambda ground: ground.ask(path)


AT_ONCE, AFTER_PING, AFTER_POLLS = 10.0, 15.0, 25.0

FAULTS = (
    Fault(name="SIGKILL", blow=_signal(signal.SIGKILL), kind="signal", says="SIGKILL", seconds=AT_ONCE),
    Fault(name="SIGSEGV", blow=_signal(signal.SIGSEGV), kind="signal", says="SIGSEGV", seconds=AT_ONCE),
    Fault(name="SIGSTOP", blow=_signal(signal.SIGSTOP), kind="hang", says="SIGSTOP", seconds=AFTER_PING),
    Fault(name="SIGTERM", blow=_signal(signal.SIGTERM), kind="signal", says="SIGTERM", seconds=AT_ONCE),
    Fault(name="os._exit", blow=_ask("exit_now"), kind="exit", says="exit status 3", seconds=AT_ONCE),
    Fault(name="a segfault", blow=_ask("segfault"), kind="signal", says="SIGSEGV", seconds=AT_ONCE),
    Fault(
        name="an exception in a callback",
        blow=_ask("raise_in_callback"),
        kind="exception",
        says="boom",
        seconds=AT_ONCE,
    ),
    Fault(
        name="an exception in a Deferred",
        blow=_ask("raise_in_deferred"),
        kind="exception",
        says="boom in a Deferred",
        seconds=AT_ONCE,
    ),
    Fault(
        name="an exception in a thread",
        blow=_ask("raise_in_thread"),
        kind="exception",
        says="boom",
        seconds=AT_ONCE,
    ),
    Fault(name="time.sleep", blow=_ask("sleep"), kind="hang", says="in sleep", seconds=AFTER_PING),
    Fault(name="a busy loop", blow=_ask("spin"), kind="hang", says="in spin", seconds=AFTER_PING),
    Fault(name="an endless search", blow=_ask("search"), kind="hang", says="in search", seconds=AFTER_PING),
    Fault(name="a deadlock", blow=_ask("deadlock"), kind="hang", says="in deadlock", seconds=AFTER_PING),
    Fault(
        name="all threads taken",
        blow=_ask("take_all_threads"),
        kind="heartbeat",
        says="no answer within 1 s",
        seconds=AFTER_POLLS,
    ),
    Fault(
        name="memory eaten",
        blow=_ask("eat_memory"),
        kind="exception",
        says="MemoryError",
        seconds=AT_ONCE,
    ),
    Fault(
        name="descriptors eaten",
        blow=_ask("eat_descriptors"),
        kind="heartbeat",
        says="",
        seconds=AFTER_POLLS,
    ),
    Fault(
        name="a fork that outlives",
        blow=_ask("fork_and_outlive"),
        kind="exit",
        says="exit status 0",
        seconds=AT_ONCE,
    ),
)
