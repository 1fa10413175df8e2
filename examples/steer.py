"""A second Twisted application, which steers a session by AMP: it counts crashes, and restarts where they pile up.

Beside a session, such as ``twistd -n serverworker --port 8080``, and as the same user::

    python steer.py unix:$HOME/.local/state/serverworker/8080/run/control

(the log of the session says where its control port is). It follows the events of the session, over restarts of the
session and of its own connection, without missing one that is still kept. After three crashes in a row it has the code
started anew. Whatever it is told of a crash it tells the workers, too, by an emit that they may handle or not.
"""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet import task
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError
from twisted.internet.task import deferLater

from serverworker.control import Client, Position, connect
from serverworker.values.errors import NotDone, ServerWorkerError

CRASHES = 3
AGAIN_SECONDS = 1.0


class Operator:
    """Follows one session."""

    def __init__(self, reactor: Any, endpoint: str) -> None:
        self.reactor = reactor
        self.endpoint = endpoint
        self.position: Position | None = None
        self.crashes = 0

    async def follow(self) -> None:
        """Connect, follow until the connection is lost, and again."""
        while True:
            try:
                client = await connect(self.reactor, self.endpoint)
                await self.follow_one(client)
            except (ConnectError, ServerWorkerError) as error:
                print(f"no session: {error}; trying again in {AGAIN_SECONDS:g} s", flush=True)
            await deferLater(self.reactor, AGAIN_SECONDS, lambda: None)

    async def follow_one(self, client: Client) -> None:
        """One connection, from where the last one ended."""
        status = await client.status()
        print(f"generation {status['generation']}, {status['serving']} serving", flush=True)
        await client.subscribe(lambda event: self.told(client, event), since=self.position)
        await client.lost()
        self.position = client.position

    async def told(self, client: Client, event: dict[str, Any]) -> None:
        """One event. The next comes when this is done, so what takes long is begun and not waited for."""
        if event["event"] == "WorkerDied":
            self.crashes += 1
            print(f"crash {self.crashes}: {event['sentence']}", flush=True)
            Deferred.fromCoroutine(self.after_crash(client, event["fields"]["worker"]))
        elif event["event"] == "RestartCompleted":
            self.crashes = 0

    async def after_crash(self, client: Client, worker: int) -> None:
        """Tell the others; have the code started anew where it is the third in a row."""
        try:
            answers = await client.emit("sibling died", worker)
            print(f"told {', '.join(answers) or 'nobody'}", flush=True)
            if self.crashes >= CRASHES:
                self.crashes = 0
                print(await client.restart(), flush=True)
        except NotDone as error:
            print(f"not restarted: {error}", flush=True)
        except ServerWorkerError as error:
            print(f"the session is gone: {error}", flush=True)


def main(reactor: Any, endpoint: str) -> Deferred[None]:
    """For `task.react`."""
    return Deferred.fromCoroutine(Operator(reactor, endpoint).follow())


if __name__ == "__main__":
    task.react(main, sys.argv[1:])
