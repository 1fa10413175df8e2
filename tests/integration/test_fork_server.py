"""A fork server as a process of its own, with this one in the monitor's place."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import SkipTest

from twisted.trial.unittest import SynchronousTestCase

from serverworker.processes import fork_channel
from serverworker.processes.descendants import PR_SET_CHILD_SUBREAPER, read_process, set_subreaper
from serverworker.processes.fork_channel import FORK_SERVER
from serverworker.processes.guardian import MARK_VARIABLE
from serverworker.processes.guardian_child import IGNORED
from serverworker.processes.spawn import ENTRY, WORKER_VARIABLE
from tests.integration.programs import own_environment
from tests.integration.sessions import LONG
from tests.integration.test_forked_session import command_line, environment

PROBE = """
    import json, os, random, signal, subprocess, sys, time
    from pathlib import Path
    from serverworker.processes import entry

    def look(arguments):
        '''In the place of a worker's entry: tells what it sees in one line without its end, then waits.'''
        descriptors = {}
        for name in os.listdir("/proc/self/fd"):
            try:
                descriptors[name] = [os.fstat(int(name)).st_ino, os.get_inheritable(int(name))]
            except OSError:
                pass  # what the folder was read with
        child = subprocess.run(["env", "-0"], stdout=subprocess.PIPE).stdout
        seen = {
            "descriptors": descriptors,
            "arguments": arguments,
            "argv": [sys.argv, sys.orig_argv],
            "environ": dict(os.environ),
            "child": os.fsdecode(child).rstrip("\\0").split("\\0"),
            "status": Path("/proc/self/status").read_text(),
            "interrupt": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
            "random": random.random(),
            "zone": time.tzname[0],
            "main": sys.modules["__main__"].__spec__.name,
        }
        sys.stderr.write("beside")
        sys.stdout.write(json.dumps(seen) + "}")
        sys.stdin.read()
        os._exit(7)

    entry.main = look
    """

STATES = re.compile(r"^(Sig(?:Ign|Blk|Cgt)):\s*(\w+)$", re.MULTILINE)
"""What a process does with signals, in /proc/PID/status."""


class Worker:
    """One that was forked; the tests' ends of what it was given."""

    def __init__(self, pid: int, stdin: int, stdout: int, stderr: int) -> None:
        self.pid = pid
        self.stdin, self.stdout, self.stderr = stdin, stdout, stderr

    def seen(self) -> dict[str, Any]:
        """What the probe tells, which has not come to its end."""
        text = b""
        while not text.endswith(b"}}"):
            readable, _, _ = select.select([self.stdout], [], [], LONG)
            more = os.read(self.stdout, 65536) if readable else b""
            if not more:
                raise AssertionError(f"it told {text!r}, then nothing: {self.complaint()!r}")
            text += more
        seen: dict[str, Any] = json.loads(text[:-1])
        return seen

    def complaint(self) -> bytes:
        """What there is on its standard error."""
        return os.read(self.stderr, 65536) if select.select([self.stderr], [], [], 0)[0] else b""

    def status(self) -> int:
        """Its exit status. Only its parent is told."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


class ForkServerTestCase(SynchronousTestCase):
    """Starts a fork server, whose orphans this process adopts for as long as the test takes."""

    def setUp(self) -> None:
        try:
            set_subreaper()
        except OSError as error:
            raise SkipTest(str(error)) from error
        self.addCleanup(ctypes.CDLL(None).prctl, PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        self.folder = Path(tempfile.mkdtemp(prefix="forks-"))
        self.probe = self.folder / "probe_of_the_test.py"
        self.addCleanup(self.folder.rmdir)
        self.addCleanup(self.probe.unlink, missing_ok=True)
        self.probe.write_text(textwrap.dedent(PROBE))
        self.given = {
            **own_environment({}),
            "PYTHONDONTWRITEBYTECODE": "1",
            MARK_VARIABLE: "0123456789abcdef",
        }
        self.given.pop("PYTHONUNBUFFERED", None)  # with it, nobody would have to see to that
        self.given["PYTHONPATH"] = f"{self.folder}:{self.given['PYTHONPATH']}"
        ours, theirs = socket.socketpair()
        self.channel = ours
        self.channel.settimeout(LONG)
        self.addCleanup(self.channel.close)
        with theirs:
            self.server = subprocess.Popen(
                [sys.executable, "-m", FORK_SERVER, str(theirs.fileno())],
                env=self.given,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        self.addCleanup(self.server.wait, LONG)
        self.addCleanup(self.server.kill)

    def ask(self, content: Any, *descriptors: int) -> Any:
        fork_channel.send(self.channel, content, descriptors)
        return fork_channel.receive(self.channel).content

    def preload(self, *modules: str) -> None:
        self.assertEqual(self.ask({"preload": modules}), {"ready": self.server.pid})

    def order(self, arguments: list[str], environment: Mapping[str, str], count: int) -> dict[str, Any]:
        return {"arguments": arguments, "environment": environment, "count": count}

    def fork(self, *arguments: str, **environment: str) -> Worker:
        """Have a worker forked, whose standard streams are pipes."""
        pipes = [os.pipe() for _ in range(3)]
        (stdin, ours_in), (stdout, theirs_out), (stderr, theirs_err) = pipes
        for each in (ours_in, stdout, stderr):
            self.addCleanup(self.close, each)
        theirs = (stdin, theirs_out, theirs_err)
        answer = self.ask(self.order(list(arguments), environment, 3), *theirs)
        for each in theirs:
            os.close(each)
        self.assertEqual(list(answer), ["pid"], answer)
        self.addCleanup(self.end, answer["pid"])
        return Worker(answer["pid"], ours_in, stdout, stderr)

    def close(self, descriptor: int) -> None:
        with contextlib.suppress(OSError):
            os.close(descriptor)

    def end(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    def open_in(self, pid: int) -> set[str]:
        return {each.name for each in Path(f"/proc/{pid}/fd").iterdir()}


class ForkedWorkerTests(ForkServerTestCase):
    """A fork is to a worker what a new interpreter would be."""

    def setUp(self) -> None:
        super().setUp()
        self.preload(self.probe.stem)

    def test_parent(self) -> None:
        """It is the child of who adopts orphans, at the very moment that the answer comes, and ends to its knowledge."""
        worker = self.fork()
        entry = read_process(worker.pid)
        assert entry is not None
        self.assertEqual(entry.parent, os.getpid())
        worker.seen()
        os.close(worker.stdin)
        self.assertEqual(worker.status(), 7)

    def test_descriptors(self) -> None:
        """Its descriptors are those that were sent, from 0 on in their order and inherited; it has no others."""
        files = [os.memfd_create(f"file {number}") for number in range(6)]
        reading, writing = os.pipe()
        stdin, ours = os.pipe()
        sent = [stdin, writing, *files]
        for each in (reading, writing, stdin, ours, *files):
            self.addCleanup(self.close, each)
        answer = self.ask(self.order([], {}, len(sent)), *sent)
        self.addCleanup(self.end, answer["pid"])
        expected = {str(place): [os.fstat(each).st_ino, True] for place, each in enumerate(sent)}
        seen = Worker(answer["pid"], ours, reading, files[0]).seen()
        self.assertEqual(seen["descriptors"], expected)

    def test_environment(self) -> None:
        """Its environment is the one that was sent and nothing else, for itself and for what it starts."""
        given = {"PATH": os.environ["PATH"], "EMPTY": "", "LINES": "a\nb", "BYTES": os.fsdecode(b"\xff=\xe9")}
        seen = self.fork(**given).seen()
        self.assertEqual(seen["environ"], given)
        self.assertEqual(sorted(seen["child"]), sorted(f"{name}={value}" for name, value in given.items()))

    def test_time_zone(self) -> None:
        """What of it C has read already is read again."""
        zones = [self.fork(TZ=zone).seen()["zone"] for zone in ("ABC-3", "DEF5")]
        self.assertEqual(zones, ["ABC", "DEF"])

    def test_arguments(self) -> None:
        """It has the arguments of the worker's entry, which is its main module."""
        seen = self.fork("--worker=7", "--directory=/srv").seen()
        self.assertEqual(seen["arguments"], ["--worker=7", "--directory=/srv"])
        argv, original = seen["argv"]
        self.assertEqual(Path(argv[0]).name, "entry.py")
        self.assertEqual(argv[1:], seen["arguments"])
        self.assertEqual(original, [sys.executable, *ENTRY, *seen["arguments"]])
        self.assertEqual(seen["main"], "serverworker.processes.entry")

    def test_proc(self) -> None:
        """The system shows a worker's command line, its name and its marks, as whole words, however long the rest."""
        marks = {MARK_VARIABLE: "0123456789abcdef", WORKER_VARIABLE: "7"}
        worker = self.fork(
            "--worker=7", "--directory=/" + "x" * 5000, FIRST="a", LONG="x" * 100_000, LAST="b", **marks
        )
        worker.seen()
        words = command_line(worker.pid)
        wanted = ["python", *ENTRY, "--worker=7"]
        self.assertEqual(words, wanted[: len(words)])
        self.assertGreaterEqual(len(words), 1 + len(ENTRY))
        self.assertEqual(list(environment(worker.pid).items()), [*marks.items(), ("FIRST", "a")])
        self.assertEqual(Path(f"/proc/{worker.pid}/comm").read_text().strip(), Path(sys.executable).name[:15])

    def test_unbuffered(self) -> None:
        """What it prints leaves it at once, a line's end or not, and unchanged."""
        worker = self.fork()
        worker.seen()  # it waits by now, and its line has no end
        self.assertEqual(os.read(worker.stderr, 100), b"beside")

    def test_signals(self) -> None:
        """It does with each signal what a new interpreter does, and blocks none."""
        program = "print(open('/proc/self/status').read())"
        new = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True)
        seen = self.fork().seen()
        self.assertEqual(STATES.findall(seen["status"]), STATES.findall(new.stdout))
        self.assertEqual(len(STATES.findall(seen["status"])), 3)
        self.assertTrue(seen["interrupt"])

    def test_random(self) -> None:
        """No two have the same chance."""
        found = {self.fork().seen()["random"] for _ in range(3)}
        self.assertEqual(len(found), 3)

    def test_server_gone(self) -> None:
        """It does not mind the end of the fork server, and is as much ours."""
        worker = self.fork()
        worker.seen()
        self.channel.close()
        self.assertEqual(self.server.wait(LONG), 0)
        os.close(worker.stdin)
        self.assertEqual(worker.status(), 7)


class ForkServerTests(ForkServerTestCase):
    """The fork server itself."""

    def test_what_it_is(self) -> None:
        """It leads a session, shows what it is, and holds its channel and nothing else."""
        self.preload()
        pid = self.server.pid
        self.assertEqual(os.getsid(pid), pid)
        self.assertEqual(command_line(pid), ["serverworker", "-m", FORK_SERVER])
        self.assertEqual(len(self.open_in(pid)), 4)

    def test_nothing_kept(self) -> None:
        """Whatever it was asked, it keeps no descriptor of a worker's, and no zombie."""
        self.preload(self.probe.stem)
        before = self.open_in(self.server.pid)
        self.fork().seen()
        self.ask(self.order([], {}, 5), 0, 0)
        os.utime(self.probe, (1, 1))
        self.ask(self.order([], {}, 2), 0, 0)
        self.assertEqual(self.open_in(self.server.pid), before)
        children = Path(f"/proc/{self.server.pid}/task/{self.server.pid}/children").read_text()
        self.assertEqual(children, "")

    def test_failed_worker(self) -> None:
        """What a worker raises that cannot even begin is told on its standard error, and its status is 1."""
        self.preload()
        places = ("channel", "stacks", "board", "shares")
        worker = self.fork(
            "--worker=7", "--directory=/none", "--reactor=", *(f"--{each}=0" for each in places)
        )
        self.assertEqual(worker.status(), 1)
        text = os.read(worker.stderr, 65536).decode()
        self.assertIn("Traceback", text)
        self.assertIn("FileNotFoundError: [Errno 2] No such file or directory: '/none'", text)

    def test_cannot_be_imported(self) -> None:
        """What cannot be imported, for whatever reason, is left to the worker."""
        self.probe.write_text("1 / 0")
        self.preload("module_of_nobody", self.probe.stem)
        self.assertIsNone(self.server.poll())

    def test_stale(self) -> None:
        """A file that is another one since it was imported, or is gone, is named, each time, and nothing is forked."""
        self.preload(self.probe.stem)
        self.fork().seen()
        os.utime(self.probe, (1, 1))
        for _ in range(2):
            self.assertEqual(self.ask(self.order([], {}, 1), 0), {"stale": str(self.probe)})
        self.probe.unlink()
        self.assertEqual(self.ask(self.order([], {}, 1), 0), {"stale": str(self.probe)})

    def test_descriptors_lost(self) -> None:
        """Where the kernel has dropped descriptors nothing is forked, and the reason told; the next order is obeyed."""
        self.preload(self.probe.stem)
        self.assertEqual(self.ask(self.order([], {}, 3), 0, 0), {"error": errno.EMFILE})
        self.fork().seen()

    def test_end(self) -> None:
        """The end of its channel is its own, and a good one."""
        self.preload()
        self.channel.close()
        self.assertEqual(self.server.wait(LONG), 0)

    def test_end_while_it_answers(self) -> None:
        """So it is where nobody has waited for its answer."""
        fork_channel.send(self.channel, {"preload": []})
        self.channel.close()
        self.assertEqual(self.server.wait(LONG), 0)

    def test_deaf(self) -> None:
        """Signals that are meant for the monitor do not end it: it still forks."""
        self.preload(self.probe.stem)
        for number in IGNORED:
            self.server.send_signal(number)
        self.fork().seen()
        self.assertIsNone(self.server.poll())
