"""Stacks of real processes that hang: the dump comes, whole, and names the right line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from serverworker.processes.output import read_available
from serverworker.processes.stacks import DUMP_SIGNAL, hung_at

PREAMBLE = """
import os, re, sys, threading, time
from serverworker.processes.stacks import arm
arm(int(sys.argv[1]))
def say_and_hang():
    print('ready', flush=True)
    hang()
"""
HANGS = {
    "a sleep": """
def hang():
    time.sleep(1000)  # HERE
""",
    "a busy loop": """
def hang():
    while True:
        pass  # HERE
""",
    "a regular expression that never ends": """
def hang():
    re.match(r"(a+)+$", "a" * 60 + "b")  # HERE
""",
    "C code that holds the GIL": """
def hang():
    sum(range(10**13))  # HERE
""",
    "a lock that is never released": """
lock = threading.Lock()
def hang():
    lock.acquire()
    lock.acquire()  # HERE
""",
    "a condition of the library": """
def hang():
    threading.Event().wait()  # HERE
""",
    "two threads in each other's lock": """
one, other = threading.Lock(), threading.Lock()
def second():
    with other:
        time.sleep(0.1)
        with one:
            pass
def hang():
    with one:
        threading.Thread(target=second, daemon=True).start()
        time.sleep(0.2)
        with other:  # HERE
            pass
""",
}
SCRIPT = """
import sys
sys.path.insert(0, {folder!r})
import application
from twisted.internet import reactor
reactor.run()
"""
"""As in a worker: code that is not the application's imports it, and runs the reactor."""


class Victim:
    """A process that runs a program of a test's, and the end of the pipe that its stacks come through."""

    def __init__(self, folder: Path, program: str, *, in_reactor: bool) -> None:
        (folder / "bin").mkdir(parents=True)
        self.program = folder / "application.py"
        self.program.write_text(PREAMBLE + program)
        script = folder / "bin" / "worker"
        script.write_text(SCRIPT.format(folder=str(folder)))
        self.stacks, theirs = os.pipe()
        os.set_blocking(self.stacks, False)
        self.process = subprocess.Popen(
            [sys.executable, str(script if in_reactor else self.program), str(theirs)],
            pass_fds=[theirs],
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        os.close(theirs)

    def line_of(self, mark: str) -> int:
        """Where the program bears a comment."""
        lines = self.program.read_text().splitlines()
        return next(number for number, line in enumerate(lines, 1) if line.endswith(f"# {mark}"))

    def wait_for_output(self) -> None:
        """Until it has printed a line, or ended."""
        assert self.process.stdout is not None
        self.process.stdout.readline()

    def dump(self, seconds: float = 10) -> str:
        """A dump, read until its main thread is there."""
        os.kill(self.process.pid, DUMP_SIGNAL)
        text, deadline = "", time.monotonic() + seconds
        while time.monotonic() < deadline:
            text += read_available(self.stacks).decode()
            if (
                "Current thread" in text
                and text.endswith("\n")
                and "<module>" in text.rpartition("Current")[2]
            ):
                break
            time.sleep(0.002)
        return text

    def end(self) -> None:
        """Kill it, and close what is left."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        os.close(self.stacks)


class StacksOfProcessesTests(SynchronousTestCase):
    """What the monitor learns of a worker that hangs."""

    def victim(self, program: str, *, in_reactor: bool = False) -> Victim:
        """A process that has come to its point."""
        victim = Victim(Path(self.mktemp()).resolve(), program, in_reactor=in_reactor)
        self.addCleanup(victim.end)
        victim.wait_for_output()
        return victim

    def expect_hang_at_mark(self, victim: Victim) -> None:
        """The dump names the marked line, once the process has come from its last word to that line."""
        deadline = time.monotonic() + 20
        found = None
        while time.monotonic() < deadline:
            # Seldom, since some interpreters do not survive many dumps of what runs (python/cpython#116008).
            time.sleep(0.02)
            found = hung_at(victim.dump())
            if found is not None and found.function == "hang" and found.line == victim.line_of("HERE"):
                self.assertEqual(found.file, str(victim.program))
                return
        self.fail(f"{found} instead of line {victim.line_of('HERE')} of hang")

    def hang(self, program: str) -> None:
        """See where it hangs, as a plain program and inside a reactor."""
        self.expect_hang_at_mark(self.victim(program + "say_and_hang()\n"))
        timed = "from twisted.internet import reactor\nreactor.callLater(0, say_and_hang)\n"
        self.expect_hang_at_mark(self.victim(program + timed, in_reactor=True))

    def test_sleep(self) -> None:
        """The commonest of all."""
        self.hang(HANGS["a sleep"])

    def test_busy_loop(self) -> None:
        """It never lets go of the GIL by itself."""
        self.hang(HANGS["a busy loop"])

    def test_regular_expression(self) -> None:
        """C code, which no Python code can interrupt."""
        self.hang(HANGS["a regular expression that never ends"])

    def test_c_code(self) -> None:
        """C code that holds the GIL, called without a frame of its own."""
        self.hang(HANGS["C code that holds the GIL"])

    def test_lock(self) -> None:
        """A lock that its own holder wants again."""
        self.hang(HANGS["a lock that is never released"])

    def test_library(self) -> None:
        """The innermost line is the library's; the application's is named first."""
        self.hang(HANGS["a condition of the library"])

    def test_deadlock(self) -> None:
        """Two threads, each in the other's way."""
        self.hang(HANGS["two threads in each other's lock"])

    def test_the_library_line_is_named_too(self) -> None:
        """A reader may want to know what it waited for."""
        victim = self.victim(HANGS["a condition of the library"] + "say_and_hang()\n")
        self.expect_hang_at_mark(victim)
        found = hung_at(victim.dump())
        assert found is not None and found.inside is not None
        self.assertIn("threading.py", found.inside.file)
        self.assertEqual(found.inside.function, "wait")

    def test_an_idle_reactor(self) -> None:
        """It waits for something to do, whatever its threads are at: nothing hangs in the main thread."""
        program = HANGS["a sleep"] + (
            "from twisted.internet import reactor\n"
            "reactor.callInThread(hang)\n"
            "reactor.callLater(0, print, 'ready', flush=True)\n"
        )
        victim = self.victim(program, in_reactor=True)
        deadline, text = time.monotonic() + 20, ""
        while not ("in hang\n" in text and "in doPoll\n" in text.rpartition("Current")[2]):
            self.assertLess(time.monotonic(), deadline, text)
            time.sleep(0.02)
            text = victim.dump()
        self.assertIsNone(hung_at(text))

    def test_a_large_dump_read_late(self) -> None:
        """Forty deep threads write more than the pipe holds: the worker waits, and nothing is lost."""
        program = """
def deep(levels):
    if levels:
        deep(levels - 1)
    else:
        time.sleep(1000)
def hang():
    time.sleep(1000)  # HERE
for _ in range(40):
    threading.Thread(target=deep, args=(60,), daemon=True).start()
"""
        victim = self.victim(program + "say_and_hang()\n")
        self.expect_hang_at_mark(victim)
        os.kill(victim.process.pid, DUMP_SIGNAL)
        time.sleep(0.3)  # late, on purpose
        text = victim.dump()
        self.assertGreater(len(text), 100_000)
        self.assertGreaterEqual(text.count("(most recent call first):"), 41)
        found = hung_at(text)
        assert found is not None
        self.assertEqual(found.line, victim.line_of("HERE"))

    def test_more_threads_than_are_shown(self) -> None:
        """The main thread is not among the first hundred: no line rather than a wrong one."""
        program = """
def hang():
    time.sleep(1000)  # HERE
for _ in range(120):
    threading.Thread(target=hang, daemon=True).start()
"""
        victim = self.victim(program + "say_and_hang()\n")
        os.kill(victim.process.pid, DUMP_SIGNAL)
        text, deadline = "", time.monotonic() + 10
        while not text.endswith("...\n") and time.monotonic() < deadline:
            text += read_available(victim.stacks).decode()
            time.sleep(0.002)
        self.assertTrue(text.endswith("...\n"))
        self.assertIsNone(hung_at(text))

    def test_a_stopped_process(self) -> None:
        """It dumps nothing while it is stopped, and goes on to dump when it is not."""
        victim = self.victim(HANGS["a sleep"] + "say_and_hang()\n")
        os.kill(victim.process.pid, signal.SIGSTOP)
        self.assertIsNone(hung_at(victim.dump(seconds=0.2)))
        os.kill(victim.process.pid, signal.SIGCONT)
        self.expect_hang_at_mark(victim)

    def test_the_process_goes_on(self) -> None:
        """A dump harms nothing: a system call that it interrupts is taken up again."""
        victim = self.victim("print('ready', flush=True)\ntime.sleep(0.3)\nprint('done', flush=True)\n")
        for _ in range(20):
            victim.dump(seconds=0.01)
        victim.wait_for_output()
        self.assertEqual(victim.process.wait(10), 0)

    def test_nobody_reads(self) -> None:
        """A monitor that is gone costs the worker nothing but its dump."""
        victim = self.victim("print('ready', flush=True)\ntime.sleep(0.3)\n")
        os.close(victim.stacks)
        self.addCleanup(setattr, victim, "stacks", os.open("/dev/null", os.O_RDONLY))
        os.kill(victim.process.pid, DUMP_SIGNAL)
        self.assertEqual(victim.process.wait(10), 0)
