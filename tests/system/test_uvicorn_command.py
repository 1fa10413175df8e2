"""A uvicorn of its own under ``--command``, by ``--fd``; ``--asgi`` is the better way, with more promises."""

from __future__ import annotations

from tests.system import SKIP
from tests.system.command_proof import CommandProof

API = """
import asyncio, os, time

sick = []

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    path = scope["path"]
    if path == "/crash":
        os._exit(7)
    if path == "/hang":
        time.sleep(1000)
    if path == "/sicken":
        sick.append(True)
    status = 500 if sick and path == "/health" else 200
    await send({"type": "http.response.start", "status": status, "headers": []})
    if path == "/stream":
        for number in range(1, 30):
            await send({"type": "http.response.body", "body": b"piece %d;\\n" % number, "more_body": True})
            await asyncio.sleep(0.05)
    await send({"type": "http.response.body", "body": b"end" if path == "/stream" else b"good"})
"""


class UvicornTests(CommandProof):
    """It takes the descriptor's number."""

    skip = SKIP
    options = ("--command", "uvicorn --fd {fd} --lifespan off --no-access-log api:app")
    module = "api.py"

    def files(self) -> dict[str, str]:
        return {"api.py": API}

    def test_deaths(self) -> None:
        """It serves; it exits, is killed, hangs."""
        session = self.begin()
        self.check_served(session)
        self.check_crash(session)
        session.standby_ready_or_loaded()
        self.check_killed(session)
        session.standby_ready_or_loaded()
        self.check_hang_of(session, "does not accept any more")

    def test_restart_under_load(self) -> None:
        """A worker that ends closes what it has accepted and read nothing of yet: one request of a client, seldom.

        That is uvicorn's own way to end; ``--asgi`` has another.
        """
        session = self.begin()
        with self.clients(session) as clients:
            for _ in range(2):
                self.restart(session)
                clients.wait_for_answers(20)
        self.assertLessEqual(len(clients.failures), 4, clients.failures)
        self.assertEqual([], session.reports())

    def test_the_rest(self) -> None:
        """A stream comes to its end; bad code is dropped; the heartbeat sees an answer of 500."""
        self.check_drain_with_stream(self.begin())
        self.check_bad_deploy(self.begin())
        self.check_heartbeat(self.begin())
