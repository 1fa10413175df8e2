"""The client of the control port, for other Twisted programs and for `serverworkerctl`.

For instance::

async def main(reactor):
client = await connect(reactor, "unix:/run/user/1000/serverworker/8080/control")
print((await client.status())["generation"])
await client.restart()                            # fires when the new code serves, fails when it was dropped
print(await client.emit("forget", {"page": 3}))   # {"worker 3": {"results": [...]}}
await client.subscribe(print)                     # each event as a dictionary
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred, ensureDeferred, fail, succeed
from twisted.internet.endpoints import clientFromString
from twisted.internet.interfaces import IAddress, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.protocols import amp

from serverworker.processes.awaiting import finished, within
from serverworker.values.errors import EmitError, NotAllowed, PeerLost, ServerWorkerError
from serverworker.wire import control
from serverworker.wire.emits import Handlers
from serverworker.wire.link import Link

__all__ = ["Client", "Position", "connect"]

CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 30.0
"""Of everything that the session answers at once."""
DEED_SECONDS = 3600.0
"""Of a restart or an exit, each of which ends within the session's own deadlines long before."""

Listener = Callable[[dict[str, Any]], Any]
"""Is told of one event; what it answers may be a Deferred or a coroutine, and the next event waits for it."""


@frozen(kw_only=True)
class Position:
    """How far a client has come in a session's events."""

    session: str
    sequence: int


def connect(
    reactor: Any,
    endpoint: str | IStreamClientEndpoint,
    *,
    key: str | None = None,
    timeout: float = CONNECT_SECONDS,
) -> Deferred[Client]:
    """Connect to a session's control port.

    :param endpoint: as `clientFromString` takes it, such as ``unix:/run/…/control`` or ``tls:ops.example.org:9443``, or
        a client endpoint.
    :param key: the session key, where the port asks for one.
    :param timeout: in seconds, for all of it.
    :return: a Deferred of the `Client`. It fails with `NotAllowed`, `PeerLost`, `ServerWorkerError` (it speaks another
        version), `TimeoutError`, or with what the endpoint fails with.
    """
    where = clientFromString(reactor, endpoint) if isinstance(endpoint, str) else endpoint
    connecting = ensureDeferred(_connect(reactor, where, key))
    return within(reactor, timeout, "connecting to the control port", connecting)


async def _connect(reactor: Any, endpoint: IStreamClientEndpoint, key: str | None) -> Client:
    client = Client(reactor)
    await endpoint.connect(_OneLink(client.link))
    try:
        hello = await client._hello()
        if hello["version"] != control.CONTROL_VERSION:
            raise ServerWorkerError(
                f"the session speaks version {hello['version']} of the control protocol, and this client version "
                f"{control.CONTROL_VERSION}: use the serverworkerctl of the same serverworker"
            )
        if not hello["allowed"]:
            if key is None:
                raise NotAllowed("this control port asks for the session key")
            await client.link.ask(control.Authenticate, ANSWER_SECONDS, key=key)
    except BaseException:
        client.close()
        raise
    return client


class _OneLink(Factory):
    noisy = False

    def __init__(self, link: Link) -> None:
        self._link = link

    def buildProtocol(self, addr: IAddress | None) -> Link:
        return self._link


class Client(amp.CommandLocator):
    """A session, from outside. Every method answers a Deferred, which fails as its command in `serverworker.commands` says.

    `connect` makes it.
    """

    _log = Logger(namespace="serverworker.control")

    def __init__(self, reactor: Any) -> None:
        self.link = Link(reactor, self, Handlers(), peer="the session", on_lost=self._link_lost)
        self.position: Position | None = None
        """Up to where events were told: what to give `subscribe` as `since` after a new `connect`."""
        self._listener: Listener | None = None
        self._missed: Callable[[], Any] | None = None
        self._session = ""
        self._waiting: list[Deferred[EmitError]] = []
        self._lost: EmitError | None = None

    async def _hello(self) -> dict[str, Any]:
        try:
            return await self.link.ask(control.Hello, ANSWER_SECONDS)
        except PeerLost as error:
            raise PeerLost(
                f"the session hung up at once ({error}); it lets in its own user and root, or over TLS whoever has the "
                "certificate or the key that it asks for, and its log says why"
            ) from error

    def close(self) -> None:
        """Let go of it. What waits for an answer fails with `LinkDestroyed`."""
        self.link.close()

    def lost(self) -> Deferred[EmitError]:
        """Fires when the connection is gone, with the reason; at once if it is gone already."""
        if self._lost is not None:
            return succeed(self._lost)
        waiting: Deferred[EmitError] = Deferred(self._no_longer)
        self._waiting.append(waiting)
        return waiting

    def _no_longer(self, waiting: Deferred[EmitError]) -> None:
        self._waiting.remove(waiting)

    def _link_lost(self, reason: EmitError) -> None:
        self._lost = reason
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(reason)

    def _ask(
        self,
        command: type[amp.Command],
        what: str | None = None,
        timeout: float = ANSWER_SECONDS,
        **arguments: Any,
    ) -> Deferred[Any]:
        answer: Deferred[Any] = self.link.ask(command, timeout, **arguments)
        return answer if what is None else answer.addCallback(lambda response: response[what])

    # --- looking --------------------------------------------------------------------------------

    def status(self) -> Deferred[dict[str, Any]]:
        """How the session is: a dictionary, as the reference of the status has it."""
        return self._ask(control.Status, "status")

    def crashes(self) -> Deferred[list[dict[str, Any]]]:
        """A summary of each crash report, newest first."""
        return self._ask(control.Crashes, "crashes")

    def crash(self, id: str = "last") -> Deferred[dict[str, Any]]:
        """One crash report."""
        return self._ask(control.Crash, "report", id=id)

    def logs(self, limit: int = 100, worker: int | None = None) -> Deferred[list[dict[str, Any]]]:
        """The last lines that workers printed, oldest first, each as an event."""
        return self._ask(control.Logs, "lines", limit=limit, worker=worker)

    def events(
        self, limit: int = 100, since: float | None = None, kinds: Collection[str] = ()
    ) -> Deferred[list[dict[str, Any]]]:
        """The newest events of the journal, oldest first; `since` in seconds since the epoch."""
        return self._ask(control.Events, "events", limit=limit, since=since, kinds=list(kinds))

    def usages(self) -> Deferred[list[list[str]]]:
        """What `run` takes: ``[[usage, help], …]``."""
        return self._ask(control.Usages, "usages")

    # --- deeds ----------------------------------------------------------------------------------

    def restart(self, mode: str = "clean", timeout: float = DEED_SECONDS) -> Deferred[str]:
        """Start the code anew; ``clean`` or ``force``. Fires when it serves; fails with `NotDone` if it was dropped."""
        return self._ask(control.Restart, "text", timeout, mode=mode)

    def exit(self, mode: str = "clean", timeout: float = DEED_SECONDS) -> Deferred[str]:
        """End the session; ``clean`` or ``force``. Fires when every worker is gone."""
        return self._ask(control.Exit, "text", timeout, mode=mode)

    def set_port(
        self, name: str, address: int | str, *, now: bool = False, timeout: float = DEED_SECONDS
    ) -> Deferred[str]:
        """Give a port another address, from the next restart on or `now`."""
        return self._ask(control.SetPort, "text", timeout, name=name, address=str(address), now=now)

    def set_polling(self, seconds: float) -> Deferred[str]:
        """Change how often every worker polls itself."""
        return self._ask(control.SetPolling, "text", seconds=float(seconds))

    def set_workers(self, count: int) -> Deferred[str]:
        """Change how many workers serve."""
        return self._ask(control.SetWorkers, "text", count=count)

    def emit(
        self, name: str, args: Any = None, *, to: str | int = "workers", timeout: float = 60.0
    ) -> Deferred[dict[str, Any]]:
        """Have the application's handlers run: those of the workers that serve, of one (its id), or of the monitor.

        Answers ``{"worker 3": {"results": […]}, "worker 4": {"error": {…}}}``; `timeout` in seconds.
        """
        return self._ask(
            control.Emit,
            "outcomes",
            timeout + ANSWER_SECONDS,
            name=name,
            args=args,
            to=str(to),
            seconds=timeout,
        )

    def run(self, words: Sequence[str], timeout: float = DEED_SECONDS) -> Deferred[dict[str, Any]]:
        """Run a command as it would be typed on the console; answers ``{"text": …, "data": …}``."""
        return self._ask(control.Run, None, timeout, words=list(words))

    # --- being told -----------------------------------------------------------------------------

    def subscribe(
        self,
        listener: Listener,
        *,
        since: Position | None = None,
        kinds: Collection[str] = (),
        output: bool = False,
        missed: Callable[[], Any] | None = None,
    ) -> Deferred[Position]:
        """Have `listener(event)` called for each event from now on, or for those after `since`, in order.

        :param since: the `position` of an earlier client: so nothing is missed that the session still keeps.
        :param kinds: the names of events; none: all but heartbeats.
        :param output: whether lines that workers print are told, too.
        :param missed: is called where events came that the session keeps no more.
        :return: a Deferred of where the session is now. One client has one subscription: a second takes its place, and
            where that is refused, the first goes on.

        The session sends some hundred events at a time, and waits for the listener to have had them: for a minute.
        Then it lets go of this client, which may `connect` and subscribe anew, from `position` on.
        """
        if self._lost is not None:
            return fail(PeerLost(f"the connection is gone: {self._lost}"))
        asked = self.link.ask(
            control.Subscribe,
            ANSWER_SECONDS,
            session="" if since is None else since.session,
            since=0 if since is None else since.sequence,
            kinds=list(kinds),
            output=output,
        )
        return asked.addCallback(partial(self._subscribed, since, listener, missed))

    def _subscribed(
        self,
        since: Position | None,
        listener: Listener,
        missed: Callable[[], Any] | None,
        response: dict[str, Any],
    ) -> Position:
        # Not before: what comes until then is of the subscription before.
        self._listener, self._missed = listener, missed
        now = Position(session=response["session"], sequence=response["sequence"])
        self._session = now.session
        if since is None:
            self.position = now
        elif since.session == now.session:
            self.position = since
        else:
            self.position = Position(session=now.session, sequence=0)
        return now

    def unsubscribe(self) -> Deferred[None]:
        """Be told no more."""
        self._listener = None
        return self._ask(control.Unsubscribe).addCallback(lambda _: None)

    @control.Told.responder
    async def told(self, events: str, upto: int, missed: bool) -> dict[str, Any]:
        """Some events."""
        listener, session = self._listener, self._session
        if listener is None:
            return {}
        if missed and self._missed is not None:
            await self._safely(self._missed)
        for event in json.loads(events):
            if self._listener is not listener:
                return {}  # another subscription has taken the place of this one
            await self._safely(listener, event)
            self._advance(listener, session, event["sequence"])
        self._advance(listener, session, upto)
        return {}

    def _advance(self, listener: Listener, session: str, sequence: int) -> None:
        if self._listener is listener:
            self.position = Position(session=session, sequence=sequence)

    async def _safely(self, call: Callable[..., Any], *arguments: Any) -> None:
        with self._log.failuresHandled("a listener of events failed; the next event is told all the same"):
            await finished(call, *arguments)
