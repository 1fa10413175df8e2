"""A gunicorn under ``--command``: a program with processes of its own, which takes its socket by ``LISTEN_FDS``."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.integration.sessions import TestSession, is_alive, wait_until
from tests.system import SKIP
from tests.system.command_proof import CommandProof, program_of

SHOP = """
import os, threading, time

sick = threading.Event()

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/crash":
        os._exit(7)
    if path == "/hang":
        time.sleep(1000)
    if path == "/sicken":
        sick.set()
    start_response("500 Sick" if sick.is_set() and path == "/health" else "200 OK", [("Content-Type", "text/plain")])
    if path == "/stream":
        return stream()
    return [b"good"]

def stream():
    for number in range(1, 30):
        yield b"piece %d;\\n" % number
        time.sleep(0.05)
    yield b"end"
"""


class GunicornTests(CommandProof):
    """Its own master starts one worker with four threads."""

    skip = SKIP
    options = ("--command", "gunicorn shop:app --workers 1 --threads 4 --no-control-socket")
    module = "shop.py"
    hangs = 4

    def files(self) -> dict[str, str]:
        return {"shop.py": SHOP}

    def test_deaths(self) -> None:
        """Its worker is its own business; its master's death is ours, and takes the worker along."""
        session = self.begin()
        self.check_served(session)
        (worker,) = children(program_of(session))
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: children(program_of(session)) not in ([], [worker]), "gunicorn's next worker")
        self.check_answers(session)
        self.assertEqual([], session.reports())
        (orphan,) = children(program_of(session))
        self.check_killed(session)
        wait_until(lambda: not is_alive(orphan), "the end of the orphan")
        session.standby_ready_or_loaded()
        self.check_stopped_worker(session)
        session.standby_ready_or_loaded()
        self.check_keeper_killed(session)

    def check_stopped_worker(self, session: TestSession) -> None:
        """A worker of its own that is stopped accepts nothing: the master is replaced, with all that is its."""
        worker = session.serving()[-1]["worker"]
        (stopped,) = children(program_of(session))
        os.kill(stopped, signal.SIGSTOP)
        self.assertIn("does not accept any more", session.report_of(worker)["cause"]["text"])
        wait_until(lambda: not is_alive(stopped), "the end of the stopped one")
        session.wait_for("ServerRunning", matching=lambda event: event["worker"] > worker)
        self.check_answers(session)

    def test_hang(self) -> None:
        """Where all threads hang a connection is accepted, and not answered."""
        self.check_hang_of(self.begin(), "no answer within 1 s")

    def test_restart_under_load(self) -> None:
        """No request fails on a new connection: gunicorn closes those that wait for a next request, as it always does."""
        session = self.begin()
        with self.clients(session) as clients:
            for _ in range(2):
                self.restart(session)
                clients.wait_for_answers(20)
        self.assertEqual([], clients.failures)
        self.assertEqual([], session.reports())

    def test_bad_deploy(self) -> None:
        """Code that cannot be imported is dropped; the old one goes on."""
        self.check_bad_deploy(self.begin())

    def test_the_rest(self) -> None:
        """A stream comes to its end; the heartbeat sees an answer of 500; the agent's exit handlers run."""
        self.check_drain_with_stream(self.begin())
        self.check_heartbeat(self.begin())
        self.check_exit_handlers(self.begin())


def children(pid: int) -> list[int]:
    """The direct children of a process."""
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
