"""Another user of the machine: nothing of a session can be read, reached or steered by him."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SkipTest

from tests.integration.sessions import SessionTestCase, TestSession, wait_until

STRANGER = 65534

# Runs as the stranger, with nothing of ours imported; says what it got hold of.
_TRIES = """
import json, os, socket, sys
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
got = {}
def tried(name, call):
    try:
        got[name] = repr(call())
    except OSError as error:
        got[name] = type(error).__name__
def ask(path):
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(20)
        link.connect(path)
        link.sendall(b"\\0\\4_ask\\0\\0011\\0\\x08_command\\0\\6Status\\0\\0")
        link.sendall(b"\\0\\x08_command\\0\\4Exit\\0\\4mode\\0\\5force\\0\\0")
        return link.recv(100)
for path in json.loads(sys.argv[1]):
    if path.startswith("unix:"):
        tried(path, lambda: ask(path[5:]))
    elif os.path.isdir(path):
        tried(path, lambda: os.listdir(path))
    else:
        tried(path, lambda: open(path, "rb").read())
print(json.dumps(got))
"""


class AnotherUserTests(SessionTestCase):
    """Promise 8, on one machine."""

    def setUp(self) -> None:
        if os.environ.get("SYSTEM_TESTS") != "1" or os.getuid() != 0:
            raise SkipTest("it takes another user's id: SYSTEM_TESTS=1, as root")

    def tried(self, paths: list[str]) -> dict[str, str]:
        """What another user comes to with each path."""
        done = subprocess.run(
            [sys.executable, "-c", _TRIES, json.dumps(paths)],
            cwd="/",
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        found: dict[str, str] = json.loads(done.stdout)
        return found

    def crashed(self, folder: Path, *arguments: str) -> TestSession:
        """A session that has all that is kept on disk: a crash report, journal, audit, spool, key."""
        session = self.session(*arguments, folder=folder)
        session.serving()
        os.kill(session.server_pid, 9)
        session.report_of(1)
        for name in ("journal.jsonl", "control.json", "key"):
            wait_until((session.state_directory / name).exists, name)
        return session

    def test_nothing(self) -> None:
        """With the folders as the session makes them, he gets at none of it."""
        session = self.crashed(self.folder())
        state = session.state_directory
        (state.parent).chmod(0o755)
        control = f"unix:{state}/run/control"
        paths = [str(state), *map(str, state.rglob("*")), control]
        found = self.tried([path for path in paths if not Path(path).is_socket()])
        self.assertEqual(dict.fromkeys(found, "PermissionError"), found)
        self.assertGreater(len(found), 6)
        self.assertIsNone(session.process.poll())

    def test_opened_folders(self) -> None:
        """Where an operator has opened the folders, as systemd makes them, each file still is this user's alone."""
        folder = self.folder()
        folder.chmod(0o755)
        session = self.crashed(folder)
        state = session.state_directory
        for path in (state, *(each for each in state.rglob("*") if each.is_dir())):
            path.chmod(0o755)
        files = [str(path) for path in state.rglob("*") if path.is_file()]
        found = self.tried([*files, f"unix:{state}/run/control"])
        self.assertEqual(dict.fromkeys(found, "PermissionError"), found)
        self.assertIsNone(session.process.poll())

    def test_opened_socket(self) -> None:
        """Where he may even connect, he is cut off by who he is: nothing is answered, nothing done."""
        folder = self.folder()
        folder.chmod(0o755)
        session = self.session("--control", f"unix:{folder}/steer:mode=666", folder=folder)
        session.serving()
        self.assertEqual((folder / "steer").stat().st_mode & 0o777, 0o666)
        (answer,) = self.tried([f"unix:{folder}/steer"]).values()
        self.assertIn(answer, ("b''", "ConnectionResetError", "BrokenPipeError"))
        line = session.wait_for_line("a connection to the control port is refused")
        self.assertIn("(uid 65534", line)
        self.assertEqual(session.get()[0], 200)
        self.assertNotIn("SessionEnding", [event["event"] for event in session.events])
