"""One program at the control port: what it asks for, and what it is told."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.protocols import amp
from twisted.python.failure import Failure

from serverworker.monitor.history import History, oldest_that_fit
from serverworker.surfaces import deeds, looking
from serverworker.surfaces.desk import Asker, Desk, Outcome
from serverworker.surfaces.operator_commands import audited, parse_words, run, usages
from serverworker.surfaces.session_key import KeyCheck
from serverworker.surfaces.status import RecentStatus
from serverworker.values.errors import BadCommand, EmitError, NotAllowed, NotDone
from serverworker.wire import control
from serverworker.wire.emits import check_name

GATHER_SECONDS = 0.05
"""How long events are gathered for one message to a subscriber."""
BATCH_EVENTS = 500
BATCH_BYTES = 256 * 1024
"""Of one message; a single event may be larger."""
ANSWER_SECONDS = 60.0
"""How long a subscriber may take with one message. One that takes longer is let go of."""
MOST_WRONG_KEYS = 3
"""On one connection."""
LONGEST_EMIT_SECONDS = 86_400.0


class Connection(Protocol):
    """What is needed of the link to the program."""

    def ask(self, command: type[amp.Command], /, timeout: float, **args: Any) -> Deferred[dict[str, Any]]:
        """Send a command, and wait for its answer."""

    def close(self) -> None:
        """Close it, once what can be sent has been."""

    def abort(self) -> None:
        """Let go of it at once."""


@frozen(kw_only=True)
class Peer:
    """Who is at the other end, as the system tells."""

    who: str
    """For the audit log."""
    origin: str
    """Its address: who guesses at keys is known by it."""
    allowed: bool
    """Whether it needs no key: it is this user, or root."""


class ControlPeer(amp.CommandLocator):
    """Answers one program. Everything that it may see or do goes through `_seat`, which asks for the key."""

    def __init__(
        self,
        *,
        desk: Desk,
        status: RecentStatus,
        reactor: Any,
        keys: KeyCheck,
        peer: Peer,
        link: Connection,
    ) -> None:
        self._link = link
        self.allowed = peer.allowed
        self._desk = desk
        self._status = status
        self._reactor = reactor
        self._keys = keys
        self._peer = peer
        self._asker = Asker(who=peer.who, surface="control")
        self._wrong_keys = 0
        self._subscription: Subscription | None = None

    def _seat(self) -> Desk:
        """The desk, for who may sit at it."""
        if not self.allowed:
            raise NotAllowed("show the session key first (Authenticate)")
        return self._desk

    @property
    def subscribed(self) -> bool:
        """Whether it is told of events."""
        return self._subscription is not None

    def admit(self, who: str) -> None:
        """It has shown who it is, and may sit at the desk."""
        self.allowed = True
        self._asker = Asker(who=who, surface="control")

    def tell_the_last(self) -> None:
        """Tell what is still to be told, as far as one message goes: the connection is about to be closed."""
        if self._subscription is not None:
            self._subscription.flush()
        self._unsubscribe()

    def lost(self, reason: EmitError) -> None:
        """The connection is gone."""
        self._unsubscribe()

    @control.Hello.responder
    def hello(self) -> dict[str, Any]:
        """Who is there."""
        return {"version": control.CONTROL_VERSION, "allowed": self.allowed}

    @control.Authenticate.responder
    def authenticate(self, key: str) -> dict[str, Any]:
        """The session key. Who needs none is not asked for it."""
        if self.allowed:
            return {"who": self._asker.who}
        try:
            self._keys.check(key, self._peer.origin, "control")
        except NotAllowed:
            self._wrong_keys += 1
            if self._wrong_keys >= MOST_WRONG_KEYS:
                self._reactor.callLater(0, self._link.close)  # behind the answer
            raise
        self.allowed = True
        return {"who": self._asker.who}

    # --- looking --------------------------------------------------------------------------------

    @control.Status.responder
    def status(self) -> dict[str, Any]:
        """How the session is."""
        self._seat()
        return {"status": self._status()}

    @control.Crashes.responder
    async def crashes(self) -> dict[str, Any]:
        """A summary of each report."""
        return {"crashes": await looking.read_crashes(self._seat())}

    @control.Crash.responder
    async def crash(self, id: str) -> dict[str, Any]:
        """One report."""
        report = await looking.read_crash(self._seat(), id)
        return {"report": report.as_dict()}

    @control.Logs.responder
    def logs(self, limit: int, worker: int | None) -> dict[str, Any]:
        """The last lines."""
        source = "" if worker is None else f"worker {worker}"
        kept = self._seat().history.last_lines(_limit(limit), source)
        return {"lines": [each.as_json() for each in kept]}

    @control.Events.responder
    async def events(self, limit: int, since: float | None, kinds: list[str]) -> dict[str, Any]:
        """The newest events of the journal."""
        found = await looking.read_events(
            self._seat(), since=since, kinds=[looking.check_kind(each) for each in kinds], limit=_limit(limit)
        )
        return {"events": found}

    @control.Usages.responder
    def usages(self) -> dict[str, Any]:
        """What can be run."""
        return {"usages": usages(self._seat().agents)}

    # --- deeds ----------------------------------------------------------------------------------

    async def _do(self, *words: str) -> dict[str, Any]:
        outcome = await self._run(words)
        return {"text": outcome.text}

    def _run(self, words: Sequence[str]) -> Deferred[Outcome]:
        desk = self._seat()
        return run(parse_words(words, desk, self._asker), desk, self._asker)

    @control.Restart.responder
    async def restart(self, mode: str) -> dict[str, Any]:
        """Start a new generation."""
        return await self._do("restart", mode)

    @control.Exit.responder
    async def exit(self, mode: str) -> dict[str, Any]:
        """End the session."""
        return await self._do("exit", mode)

    @control.SetPort.responder
    async def set_port(self, name: str, address: str, now: bool) -> dict[str, Any]:
        """Give a port another address."""
        return await self._do("set", "port", name, address, *(["now"] if now else []))

    @control.SetPolling.responder
    async def set_polling(self, seconds: float) -> dict[str, Any]:
        """Change how often every worker polls itself."""
        return await self._do("set", "polling", repr(seconds))

    @control.SetWorkers.responder
    async def set_workers(self, count: int) -> dict[str, Any]:
        """Change how many workers serve."""
        return await self._do("set", "workers", str(count))

    @control.Emit.responder
    async def emit(self, name: str, args: Any, to: str, seconds: float | None) -> dict[str, Any]:
        """Have the application's handlers run."""
        desk = self._seat()
        asked = deeds.Emit(name=_name(name), args=args, to=deeds.check_target(to))
        if seconds is not None and not 0 < seconds <= LONGEST_EMIT_SECONDS:
            raise BadCommand(
                f"seconds must be more than 0, and {LONGEST_EMIT_SECONDS:g} at most, not {seconds:g}"
            )
        outcomes = await deeds.do_emit(desk, asked, seconds)
        failed = [who for who, outcome in outcomes.items() if "error" in outcome]
        text = (
            f"failed in {', '.join(failed)}" if failed else f"answered by {', '.join(outcomes) or 'nobody'}"
        )
        nobody = bool(failed) and len(failed) == len(outcomes)
        audited(
            Failure(NotDone(text)) if nobody else Outcome(text=text),
            desk,
            self._asker,
            shlex.join(["emit", name, "to", to]),
        )
        return {"outcomes": outcomes}

    @control.Run.responder
    async def run(self, words: list[str]) -> dict[str, Any]:
        """Run a command as it would be typed."""
        outcome = await self._run(words)
        return {"text": outcome.text, "data": outcome.data}

    # --- being told -----------------------------------------------------------------------------

    @control.Subscribe.responder
    def subscribe(self, session: str, since: int, kinds: list[str], output: bool) -> dict[str, Any]:
        """Be told of events."""
        desk = self._seat()
        wanted = frozenset(looking.check_kind(each) for each in kinds)
        if not session:
            start = desk.history.sequence
        else:
            start = max(since, 0) if session == desk.session else 0
        self._unsubscribe()
        self._subscription = Subscription(
            self._reactor, self._link, desk.history, start, wanted, output=output
        )
        return {"session": desk.session, "sequence": desk.history.sequence}

    @control.Unsubscribe.responder
    def unsubscribe(self) -> dict[str, Any]:
        """Be told no more."""
        self._unsubscribe()
        return {}

    def _unsubscribe(self) -> None:
        if self._subscription is not None:
            self._subscription.stop()
            self._subscription = None


class Subscription:
    """Tells one program of events: one message at a time, so that whoever is slow costs no memory, but misses some."""

    def __init__(
        self,
        reactor: Any,
        link: Connection,
        history: History,
        start: int,
        kinds: frozenset[str],
        *,
        output: bool,
    ) -> None:
        self._reactor = reactor
        self._link = link
        self._history = history
        self._upto = start
        self._kinds = kinds
        self._output = output
        self._sending = False
        self._gathering: IDelayedCall | None = None
        self._end: Callable[[], None] | None = history.watch(self._wake)
        self._wake()

    def stop(self) -> None:
        """Tell no more."""
        if self._end is not None:
            self._end()
            self._end = None
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None

    def flush(self) -> None:
        """Tell now what is being gathered."""
        if self._gathering is not None:
            self._gathering.cancel()
            self._send()

    def _wake(self) -> None:
        if self._gathering is None and not self._sending:
            self._gathering = self._reactor.callLater(GATHER_SECONDS, self._send)

    def _send(self) -> None:
        self._gathering = None
        since = self._history.since(self._upto, kinds=self._kinds, output=self._output, limit=BATCH_EVENTS)
        some = oldest_that_fit(since.events, BATCH_BYTES)
        upto = since.upto if len(some) == len(since.events) else some[-1].sequence
        if not some and not since.missed:
            self._upto = upto
            return
        self._sending = True
        text = f"[{','.join(each.text for each in some)}]"
        asked = self._link.ask(control.Told, ANSWER_SECONDS, events=text, upto=upto, missed=since.missed)
        asked.addCallbacks(self._answered, self._failed, callbackArgs=(upto,))

    def _answered(self, _: object, upto: int) -> None:
        self._sending = False
        self._upto = upto
        if self._end is not None and upto < self._history.sequence:
            self._wake()

    def _failed(self, failure: Failure) -> None:
        """It does not read, or is gone: a link on which nobody listens is of no use."""
        if self._end is not None:  # nobody has stopped it, and closes the link in order
            self.stop()
            self._link.abort()


def _name(name: str) -> str:
    try:
        check_name(name)
    except ValueError as error:
        raise BadCommand(str(error)) from error
    return name


def _limit(limit: int) -> int:
    if not 1 <= limit <= looking.MOST_SHOWN:
        raise BadCommand(f"limit must be 1 to {looking.MOST_SHOWN}, not {limit}")
    return limit
