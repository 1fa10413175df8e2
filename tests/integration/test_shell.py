"""Commands of the agent's, with real processes."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from serverworker.processes import shell
from serverworker.processes.shell import IShellReactor, ShellResult
from serverworker.values.errors import ServerWorkerError
from serverworker.values.events import OutputLine

CLOCK = cast(IShellReactor, reactor)


def state_of(pid: int) -> str:
    """The letter of a process's state; Z (dead, and nobody has asked yet) and empty are both gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0].replace("Z", "")
    except OSError:
        return ""


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


class ShellTestCase(TestCase):
    """What the tests here share."""

    timeout = 60

    def setUp(self) -> Deferred[None]:  # type: ignore[override]  # trial waits for it
        self.lines: list[OutputLine] = []
        self.pids: list[int] = []
        # Trial starts a test before its reactor runs. A child that ends in that moment ends the test while the
        # reactor is only starting, and the next test then runs without a handler for SIGCHLD.
        return deferLater(CLOCK, 0)

    def run_command(
        self,
        command: str | Sequence[str],
        timeout_seconds: float = 30,
        directory: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Deferred[ShellResult]:
        return shell.run(
            CLOCK, command, self.lines.append, timeout_seconds, directory, environment, self.pids.append
        )

    async def gone(self, pid: int) -> None:
        """Wait until a process is gone."""
        for _ in range(1000):
            if not state_of(pid):
                return
            await deferLater(CLOCK, 0.01)
        self.fail(f"process {pid} is still there after 10 s, in state {state_of(pid)}")


class ResultTests(ShellTestCase):
    """What a command prints, and how it ends."""

    async def test_a_text_is_run_by_a_shell_and_told_line_by_line(self) -> None:
        """Both streams are told and stand in the result; the last line needs no newline."""
        result = await self.run_command("echo one; echo two >&2; printf 'thr%s' ee")
        self.assertEqual((0, "one\nthree", "two\n"), (result.status, result.stdout, result.stderr))
        self.assertFalse(result.timed_out or result.truncated)
        expected = {("stdout", "one"), ("stderr", "two"), ("stdout", "three")}
        self.assertEqual(expected, {(line.stream, line.text) for line in self.lines})
        self.assertEqual({"exec"}, {line.source for line in self.lines})

    async def test_lines_are_told_while_the_command_runs(self) -> None:
        """The first line of a command that goes on is there at once, and the reactor turns meanwhile."""
        first: Deferred[OutputLine] = Deferred()

        def told(line: OutputLine) -> None:
            if not first.called:
                first.callback(line)

        result = shell.run(CLOCK, "echo begun; exec sleep 60", told, 50)
        self.assertEqual("begun", (await first).text)
        self.assertFalse(result.called)
        result.cancel()
        await self.assertFailure(result, CancelledError)

    async def test_a_sequence_is_run_as_it_is(self) -> None:
        """No shell sees its dollar signs and quotes."""
        result = await self.run_command(["printf", "%s|", "$HOME", "a b", "'"])
        self.assertEqual("$HOME|a b|'|", result.stdout)

    async def test_a_command_that_fails_is_a_result(self) -> None:
        """Its exit status, or minus the signal that ended it, and what it said; no exception."""
        result = await self.run_command("echo no >&2; exit 3")
        self.assertEqual((3, "no\n"), (result.status, result.stderr))
        result = await self.run_command("kill -SEGV $$")
        self.assertEqual(-signal.SIGSEGV, result.status)

    async def test_directory_and_environment(self) -> None:
        """The command runs where it is told to; its environment is the one given, or else the monitor's."""
        folder = "/usr"
        result = await self.run_command(
            "pwd -P; echo $WORD-$HOME", directory=folder, environment={"WORD": "x"}
        )
        self.assertEqual(f"{folder}\nx-\n", result.stdout)
        os.environ["SERVERWORKER_TEST"] = "inherited"
        self.addCleanup(os.environ.pop, "SERVERWORKER_TEST")
        result = await self.run_command(["/usr/bin/env"])
        self.assertIn("SERVERWORKER_TEST=inherited", result.stdout)

    async def test_stdin_is_empty(self) -> None:
        """A command that asks for something is not left waiting."""
        self.assertEqual((0, ""), ((result := await self.run_command("cat")).status, result.stdout))

    async def test_long_output_is_bounded_in_the_result_and_told_in_full(self) -> None:
        """The last MiB stands in the result, which says that something is missing; every line is told."""
        result = await self.run_command("seq 1000000 1150000")
        self.assertEqual(1024 * 1024, len(result.stdout))
        self.assertTrue(result.stdout.endswith("\n1150000\n"))
        self.assertTrue(result.truncated)
        self.assertEqual(
            [str(number) for number in range(1000000, 1150001)], [line.text for line in self.lines]
        )

    async def test_last_words_are_never_lost(self) -> None:
        """What is in the pipe when the command ends is told, every time."""
        for _ in range(30):
            result = await self.run_command(["head", "-c", "60000", "/dev/zero"])
            self.assertEqual(60000, len(result.stdout))

    async def test_a_process_in_the_background_delays_nothing(self) -> None:
        """The result comes when the command itself ends, though a grandchild keeps its stdout for a minute."""
        begin = time.monotonic()
        result = await self.run_command("sleep 60 & echo $!")
        pid = int(result.stdout)
        self.addCleanup(os.kill, pid, signal.SIGKILL)
        self.assertLess(time.monotonic() - begin, 20)
        self.assertIn(state_of(pid), ("R", "S"))

    async def test_a_process_in_the_background_that_prints_without_end_delays_nothing(self) -> None:
        """Reading what is there stops at a cap."""
        result = await self.run_command("yes >&1 & echo $! >&2")
        await self.gone(int(result.stderr))  # its next write meets a closed pipe


class StartTests(ShellTestCase):
    """How a command is started, and what it says when it cannot be."""

    async def refused(self, command: str | Sequence[str], **options: str) -> str:
        before = open_descriptors()
        error = await self.assertFailure(self.run_command(command, **options), ServerWorkerError)  # type: ignore[arg-type]
        self.assertEqual(before, open_descriptors())
        self.assertEqual([], self.pids)
        return str(error)

    async def test_a_missing_program_is_named(self) -> None:
        """At once, and not as some exit status."""
        text = await self.refused(["no-such-program", "x"])
        self.assertIn(
            "['no-such-program', 'x'] cannot be run: No such file or directory: 'no-such-program'", text
        )

    async def test_a_missing_directory_is_named(self) -> None:
        """It is the directory that is missing, not the program."""
        self.assertIn(
            "No such file or directory: '/no/such'", await self.refused("true", directory="/no/such")
        )

    async def test_what_cannot_be_run_is_refused(self) -> None:
        """Nothing at all, a folder, a text with a zero in it, arguments past the system's limit, no texts."""
        self.assertIn("it is empty", await self.refused([]))
        self.assertIn("Permission denied", await self.refused(["/tmp"]))
        self.assertIn("null byte", await self.refused("echo \0"))
        long = await self.refused(["true", "x" * 3_000_000])
        self.assertIn("Argument list too long", long)
        self.assertLess(len(long), 400)
        self.assertIn("cannot be run", await self.refused([1]))  # type: ignore[list-item]

    async def test_a_deadline_is_required(self) -> None:
        """A command without one could run for ever."""
        for seconds in (0.0, -1.0, float("nan"), float("inf")):
            error = await self.assertFailure(self.run_command("true", seconds), ServerWorkerError)
            self.assertIn("deadline", str(error))

    async def test_it_leads_a_session_of_its_own(self) -> None:
        """^C on the monitor's terminal does not reach it, and it can be ended as a whole."""
        program = "import os; print(os.getpid() == os.getpgrp() == os.getsid(0))"
        result = await self.run_command([sys.executable, "-c", program])
        self.assertEqual("True\n", result.stdout)

    async def test_who_wants_to_know_is_told_the_process(self) -> None:
        """Before anything else, so that a guardian knows of it."""
        result = await self.run_command("echo $$")
        self.assertEqual([int(result.stdout)], self.pids)

    async def test_it_inherits_nothing(self) -> None:
        """Not even a descriptor that is marked as inheritable, such as a listening socket."""
        fd = os.open("/dev/null", os.O_RDONLY)
        self.addCleanup(os.close, fd)
        os.set_inheritable(fd, True)
        result = await self.run_command("for each in /proc/$$/fd/*; do readlink $each; done")
        self.assertEqual(
            ["/dev/null"], [line for line in result.stdout.split() if not line.startswith("pipe:")]
        )
        self.assertEqual(3, len(result.stdout.split()))

    async def test_nothing_is_left_open_and_no_zombie_stays(self) -> None:
        """Pipes are closed and the status is asked for, also where a command ends faster than it is looked at."""
        await self.run_command("true")
        before = open_descriptors()
        results = [self.run_command("exit 5") for _ in range(20)]
        self.assertEqual([5] * 20, [(await result).status for result in results])
        self.assertEqual(before, open_descriptors())
        for pid in self.pids:
            self.assertRaises(ChildProcessError, os.waitpid, pid, os.WNOHANG)


class EndTests(ShellTestCase):
    """Deadlines, cancelling, and callbacks that fail."""

    FAMILY = "sleep 60 & echo $!; trap '' TERM; wait; sleep 60"
    """A command with a child, that does not listen to SIGTERM."""

    async def test_at_the_deadline_the_whole_group_is_killed(self) -> None:
        """The result says so, and has what was printed until then."""
        result = await self.run_command(self.FAMILY, timeout_seconds=0.5)
        self.assertTrue(result.timed_out)
        self.assertEqual(-signal.SIGKILL, result.status)
        self.assertGreaterEqual(result.seconds, 0.5)
        await self.gone(int(result.stdout))
        await self.gone(self.pids[0])

    async def test_cancelling_kills_the_whole_group(self) -> None:
        """At once, and tells nothing more."""
        first: Deferred[int] = Deferred()
        result = shell.run(
            CLOCK, self.FAMILY, lambda line: first.callback(int(line.text)), 50, started=self.pids.append
        )
        child = await first
        before = open_descriptors()
        result.cancel()
        await self.assertFailure(result, CancelledError)
        self.assertEqual(before - 2, open_descriptors())
        await self.gone(child)
        await self.gone(self.pids[0])

    async def test_a_stopped_command_is_killed_too(self) -> None:
        """SIGSTOP does not save it from the deadline."""
        result = await self.run_command("kill -STOP $$", timeout_seconds=0.3)
        self.assertEqual((True, -signal.SIGKILL), (result.timed_out, result.status))

    async def test_a_command_that_the_kernel_keeps_is_not_waited_for(self) -> None:
        """If its end is not seen soon after the SIGKILL, as with a process stuck in I/O, the result comes anyway."""
        self.patch(shell, "registerReapProcessHandler", lambda pid, process: None)
        self.patch(shell, "KILL_GRACE_SECONDS", 0.1)
        result = await self.run_command("echo one; exec sleep 60", timeout_seconds=0.3)
        self.assertEqual((-signal.SIGKILL, "one\n", True), (result.status, result.stdout, result.timed_out))
        self.addCleanup(os.waitpid, self.pids[0], 0)

    async def test_callbacks_that_fail_harm_nothing(self) -> None:
        """Neither a line nor a start that cannot be told ends the command; both are logged."""

        def broken(what: object) -> None:
            raise RuntimeError(f"no {what}")

        result = await shell.run(CLOCK, "echo one; echo two", broken, 30, started=broken)
        self.assertEqual((0, "one\ntwo\n"), (result.status, result.stdout))
        self.assertEqual(3, len(self.flushLoggedErrors(RuntimeError)))

    async def test_a_status_that_somebody_else_took_is_no_wait_for_ever(self) -> None:
        """Code in the monitor that waits for any child may take ours: then it is 255, and told."""

        def take(pid: int) -> None:
            os.waitpid(pid, 0)

        result = shell.run(CLOCK, "exit 3", self.lines.append, 30, started=take)
        await self.run_command("true")  # whose end has the reactor look at all its children
        self.assertEqual(255, (await result).status)
        self.flushLoggedErrors(ChildProcessError)
