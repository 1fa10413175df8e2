"""Tests of `serverworker.processes.shares`: the table of loads, and to whom the next connection is left."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import TestCase

from serverworker.processes import shares as shares_module
from serverworker.processes.shares import Share, Shares


class SharesCase(TestCase):
    """A table and a socket."""

    def setUp(self) -> None:
        self.descriptor = Shares.create()
        self.addCleanup(os.close, self.descriptor)
        self.socket = self.listening()

    def listening(self) -> int:
        made = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(made.close)
        return made.fileno()

    def join(self, opened: int, listening: int | None = None) -> Share:
        share = Shares(self.descriptor).join(self.socket if listening is None else listening, opened)
        assert share is not None
        return share


class TableTests(SharesCase):
    """Who is in the table."""

    def test_same_socket(self) -> None:
        """Siblings are those with the same socket, whatever number it has; a reader that has left is none."""
        table = Shares(self.descriptor)
        copy = os.dup(self.socket)
        self.addCleanup(os.close, copy)
        self.join(0)
        self.join(0, copy)
        self.join(0, self.listening())
        self.assertEqual(table.siblings(0), [1])
        self.assertEqual(table.siblings(2), [])
        table.leave(1)
        self.assertEqual(table.siblings(0), [])

    def test_row_again(self) -> None:
        """A row that was left is given again, with the newcomer's load."""
        self.join(0)
        self.join(7).leave()
        self.join(3)
        self.assertEqual(list(Shares(self.descriptor).opened[:2]), [0, 3])

    def test_dead(self) -> None:
        """One that died without a word is a sibling no more, and its row is free."""
        table = Shares(self.descriptor)
        self.join(0)
        self.join(0)
        dead = subprocess.Popen([sys.executable, "-I", "-S", "-c", ""])
        dead.wait()
        table.pids[1] = dead.pid
        self.assertEqual(table.siblings(0), [])
        self.assertEqual(table.pids[1], 0)

    def test_another_user(self) -> None:
        """One that may not be signalled is alive."""

        def refuse(pid: int, number: int) -> None:
            raise PermissionError(1, "not permitted")

        self.join(0)
        self.join(0)
        self.patch(os, "kill", refuse)
        self.assertEqual(Shares(self.descriptor).siblings(0), [1])

    def test_full(self) -> None:
        """When all rows are taken the next one gets none."""
        table = Shares(self.descriptor)
        for row in range(shares_module.ROWS):
            table.pids[row] = os.getpid()
        self.assertIsNone(table.join(self.socket, 0))
        table.leave(100)
        self.assertIsNotNone(table.join(self.socket, 0))

    def test_locked(self) -> None:
        """While another process is at it, and is stopped there, nobody waits for long: the reader goes without."""
        program = f"import fcntl, os\nfcntl.lockf({self.descriptor}, fcntl.LOCK_EX)\nos.write(1, b'!')\nos.read(0, 1)"
        other = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[self.descriptor],
        )
        assert other.stdin is not None and other.stdout is not None
        self.addCleanup(other.stdout.close)
        other.stdout.read(1)
        self.assertIsNone(Shares(self.descriptor).join(self.socket, 0))
        other.stdin.close()
        other.wait()
        self.join(0)
        fcntl.lockf(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def test_between_processes(self) -> None:
        """What one process writes another reads, and takes its own row after the first has got one."""
        first = self.join(5)
        program = (
            "import sys\nfrom serverworker.processes.shares import Shares\n"
            f"share = Shares({self.descriptor}).join({self.socket}, 2)\n"
            "print(share.leaves_it(0.0), share._shares.opened[0])"
        )
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            pass_fds=[self.descriptor, self.socket],
            capture_output=True,
            timeout=30,
            check=False,
        )
        self.assertEqual(done.stdout, b"False 5\n", done.stderr)
        first.leave()

    def test_no_table(self) -> None:
        """A descriptor that is no table is refused."""
        self.assertRaises((OSError, ValueError), Shares, self.socket)


class LeavingTests(SharesCase):
    """To whom the next connection is left."""

    def test_alone(self) -> None:
        """Alone, it takes everything."""
        self.assertFalse(self.join(1000).leaves_it(0))

    def test_balance(self) -> None:
        """One more than the least loaded sibling, and a quarter more than many, is near enough."""
        share, other = self.join(0), self.join(0)
        for mine, least, leaves in ((1, 0, False), (2, 0, True), (5, 4, False), (6, 4, False), (7, 4, True)):
            share.tell(mine)
            other.tell(least)
            self.assertEqual(share.leaves_it(0), leaves, (mine, least))
            self.assertFalse(other.leaves_it(0))

    def test_patience(self) -> None:
        """A sibling that does not come is waited for a moment; then for a while nothing is left to anybody."""
        share = self.join(10)
        self.join(0)
        answers = {now: share.leaves_it(now) for now in (5.0, 5.05, 5.099, 5.11, 5.12, 7.1, 7.2, 7.25, 7.31)}
        self.assertEqual(
            answers,
            {
                5.0: True,
                5.05: True,
                5.099: True,
                5.11: False,
                5.12: False,
                7.1: False,
                7.2: True,
                7.25: True,
                7.31: False,
            },
        )

    def test_balanced_meanwhile(self) -> None:
        """Patience begins anew after the sibling has caught up."""
        share, other = self.join(10), self.join(0)
        self.assertTrue(share.leaves_it(5.0))
        other.tell(10)
        self.assertFalse(share.leaves_it(5.09))
        other.tell(0)
        self.assertTrue(share.leaves_it(5.11))
        self.assertTrue(share.leaves_it(5.2))

    def test_newcomer(self) -> None:
        """A sibling that came after the last look through the table is seen soon."""
        share = self.join(10)
        self.assertFalse(share.leaves_it(5.0))
        other = self.join(0)
        self.assertTrue(share.leaves_it(5.0 + shares_module.REFRESH_SECONDS * 2))
        other.leave()
        self.assertFalse(share.leaves_it(5.0 + shares_module.REFRESH_SECONDS * 4))

    @settings(deadline=None, max_examples=60)
    @given(
        loads=st.lists(st.integers(0, 100), min_size=2, max_size=8),
        comers=st.integers(0, 200),
        choose=st.randoms(use_true_random=False),
    )
    def test_law(self, loads: list[int], comers: int, choose: object) -> None:
        """Whatever the loads and whoever wakes up, somebody takes each connection, and loads draw nearer."""
        pick: Callable[[list[int]], int] = choose.choice  # type: ignore[attr-defined]
        descriptor = Shares.create()
        try:
            table = Shares(descriptor)
            members = [table.join(self.socket, load) for load in loads]
        finally:
            os.close(descriptor)
        loads = list(loads)
        before = max(loads) - min(loads)
        for _ in range(comers):
            takers = [n for n, share in enumerate(members) if share is not None and not share.leaves_it(0)]
            self.assertIn(loads.index(min(loads)), takers)
            taker = pick(takers)
            loads[taker] += 1
            table.opened[taker] = loads[taker]
        self.assertLessEqual(max(loads) - min(loads), max(before, 2 + min(loads) // 4))
