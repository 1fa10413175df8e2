"""What a program under ``--command`` is put through: the proofs of an application, as far as a program can have them.

It has no requests on the board and no stacks that could be taken, and a crash's status is told in words. It is no mix-in
for what runs its own processes beside: see each test for what is different there.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.integration.sessions import TestSession, is_alive, wait_until
from tests.system.applications import ApplicationProof


def program_of(session: TestSession) -> int:
    """The process id of the program of the worker that began to serve last: its only child."""
    keeper = session.server_pid
    children = Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()
    (program,) = map(int, children)
    return program


class CommandProof(ApplicationProof):
    """A mix-in, as `ApplicationProof`."""

    def check_crash(self, session: TestSession) -> None:
        """A program that ends under a request costs that request alone; its status is told."""
        worker = session.serving()[-1]["worker"]
        with self.clients(session) as clients:
            clients.wait_for_answers(20)
            with self.assertRaises(OSError):
                self.ask_raw(session, "/crash")
            report = session.report_of(worker)
            session.wait_for("ServerRunning", matching=lambda event: event["worker"] > worker)
            clients.wait_for_answers(20)
        self.assertEqual("exit", report["cause"]["kind"])
        self.assertIn("ended by itself with exit status 7", report["cause"]["text"])
        self.assertLessEqual(len(clients.failures), 4)

    def restart(self, session: TestSession) -> None:
        """Restart it, and wait until the next generation serves."""
        after = len(session.events)
        session.process.send_signal(signal.SIGHUP)
        session.wait_for("RestartCompleted", after=after)

    def check_killed(self, session: TestSession) -> None:
        """A program that is killed, with its children where it has some, is followed by the next."""
        worker, program = session.serving()[-1]["worker"], program_of(session)
        os.kill(program, signal.SIGKILL)
        self.assertIn("was killed by SIGKILL", session.report_of(worker)["cause"]["text"])
        session.wait_for("ServerRunning", matching=lambda event: event["worker"] > worker)
        self.check_answers(session)

    def check_keeper_killed(self, session: TestSession) -> None:
        """A program whose worker is killed does not outlive it."""
        worker, program = session.serving()[-1]["worker"], program_of(session)
        os.kill(session.server_pid, signal.SIGKILL)
        session.report_of(worker)
        wait_until(lambda: not is_alive(program), "the program's end")
        session.wait_for("ServerRunning", matching=lambda event: event["worker"] > worker)
        self.check_answers(session)

    def check_stopped(self, session: TestSession) -> None:
        """A program that is stopped is replaced, and the report says that it was."""
        worker, program = session.serving()[-1]["worker"], program_of(session)
        os.kill(program, signal.SIGSTOP)
        report = session.report_of(worker)
        self.assertEqual("heartbeat", report["cause"]["kind"])
        self.assertIn("is stopped (SIGSTOP)", report["cause"]["text"])
        wait_until(lambda: not is_alive(program), "the program's end")
        session.wait_for("ServerRunning", matching=lambda event: event["worker"] > worker)
        self.check_answers(session)

    def check_hang_of(self, session: TestSession, words: str) -> None:
        """A program that hangs is replaced; `words` say what the heartbeat came to."""
        worker, program = session.serving()[-1]["worker"], program_of(session)
        connections = [session.connect() for _ in range(self.hangs)]
        for connection in connections:
            self.addCleanup(connection.close)
            connection.sendall(b"GET /hang HTTP/1.1\r\nHost: a\r\n\r\n")
        report = session.report_of(worker)
        self.assertEqual("heartbeat", report["cause"]["kind"])
        self.assertIn(words, report["cause"]["text"])
        self.assertEqual("", report["stacks"])
        wait_until(lambda: not is_alive(program), "the program's end")
        session.wait_for("ServerRunning", matching=lambda event: event["worker"] > worker)
        self.check_answers(session)
