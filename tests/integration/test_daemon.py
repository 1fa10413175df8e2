"""Without ``-n``: the session in the background, as any other application of twistd."""

from __future__ import annotations

import contextlib
import http.client
import os
import pwd
import re
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import SkipTest

from tests.integration.sessions import LONG, SessionTestCase, is_alive, wait_until
from tests.integration.terminal import TWISTD, variables


class Daemon:
    """One session in the background, in a folder of its own."""

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        twistd: tuple[str, ...] = (),
        environment: dict[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.pid_file = folder / "session.pid"
        self.log_file = folder / "twistd.log"
        self._environment = variables(**(environment or {}))
        plugin = ("serverworker", "--state-dir", "state", *arguments)
        self._command = [*TWISTD, "--pidfile=session.pid", *twistd, *plugin]

    def launch(self) -> subprocess.CompletedProcess[str]:
        """Start it as a script would, which waits for the pipe's end, so that nothing of the daemon may hold it."""
        return subprocess.run(
            self._command,
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LONG,
            check=False,
        )

    @property
    def log(self) -> str:
        """What twistd's log file holds."""
        return self.log_file.read_text() if self.log_file.exists() else ""

    def wait_for(self, pattern: str) -> re.Match[str]:
        """The first place in the log that matches."""
        wait_until(lambda: re.search(pattern, self.log) is not None, f"{pattern!r} in\n{self.log[-3000:]}")
        found = re.search(pattern, self.log)
        assert found is not None
        return found

    @property
    def pid(self) -> int:
        """What the pid file says."""
        return int(self.pid_file.read_text())

    @property
    def worker_pids(self) -> list[int]:
        """The workers that were ever started."""
        return [int(each) for each in re.findall(r"worker \d+ \(pid (\d+), generation", self.log)]

    def get(self) -> bytes:
        """The answer of the health route."""
        port = int(self.wait_for(r"server=tcp:(\d+)")[1])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LONG)
        try:
            connection.request("GET", "/heartbeat")
            return connection.getresponse().read()
        finally:
            connection.close()

    def clean_up(self) -> None:
        """End what is left."""
        with contextlib.suppress(OSError, ValueError):
            os.kill(self.pid, signal.SIGKILL)
        wait_until(lambda: not any(map(is_alive, self.worker_pids)), "the end of the workers")


class DaemonTests(SessionTestCase):
    """What `twistd serverworker` leaves behind in the background, and in the end."""

    PORT = ("--port", "tcp:0:interface=127.0.0.1")

    def daemon(self, *arguments: str, folder: Path | None = None, says: str = "", **options: Any) -> Daemon:
        """Start one, which `says` this and no more on the terminal, and have it ended after the test."""
        daemon = Daemon(folder or self.folder(), *arguments, **options)
        self.addCleanup(daemon.clean_up)
        launched = daemon.launch()
        self.assertEqual((launched.returncode, launched.stdout), (0, says))
        return daemon

    def test_life(self) -> None:
        """The launcher says nothing and ends; the log tells the story; SIGTERM ends all, the pid file too."""
        daemon = self.daemon(*self.PORT)
        self.assertEqual(daemon.get(), b"ok\n")
        pid = daemon.pid
        self.assertEqual(os.getsid(pid), os.getpgid(pid))
        self.assertNotEqual(os.getsid(pid), os.getsid(0))
        first = int(daemon.wait_for(r"worker 1 \(pid (\d+), ")[1])
        os.kill(first, signal.SIGKILL)
        daemon.wait_for(r"worker 1 .* died while serving .*: killed by SIGKILL")
        self.assertEqual(daemon.get(), b"ok\n")
        workers = daemon.worker_pids
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not is_alive(pid), "the end of the daemon")
        daemon.wait_for("the session has ended .*SIGTERM.*: exit status 0")
        self.assertIn("Server Shut Down.", daemon.log)
        self.assertNotIn("\x1b[", daemon.log)
        self.assertFalse(daemon.pid_file.exists())
        self.assertEqual([each for each in workers if is_alive(each)], [])

    def test_folder(self) -> None:
        """With another ``--rundir`` relative paths still start at the folder in which the session was started."""
        folder = self.folder(
            page__py="""
            from pathlib import Path
            from twisted.web.resource import Resource

            class Page(Resource):
                isLeaf = True

                def render_GET(self, request):
                    return str(Path.cwd()).encode()
            """
        )
        (folder / "run").mkdir()
        arguments = (*self.PORT, "--app", "page:Page", "--standby", "0")
        daemon = self.daemon(*arguments, folder=folder, twistd=("--rundir=run",))
        self.assertEqual(daemon.get(), str(folder).encode())
        self.assertEqual(Path(f"/proc/{daemon.pid}/cwd").readlink(), folder / "run")
        self.assertTrue((folder / "state" / "key").exists())

    def test_pid_file(self) -> None:
        """It is twistd's own: one of a process that is gone is replaced, one of a living process is respected."""
        folder = self.folder()
        child = subprocess.Popen(["true"])
        child.wait()
        (folder / "session.pid").write_text(str(child.pid))
        says = f"Removing stale pidfile {folder}/session.pid\n"
        daemon = self.daemon(*self.PORT, "--standby", "0", folder=folder, says=says)
        self.assertEqual(daemon.get(), b"ok\n")
        self.assertNotEqual(daemon.pid, child.pid)
        second = Daemon(folder, *self.PORT).launch()
        self.assertEqual(second.returncode, 1)
        self.assertIn(f"PID {daemon.pid}", second.stdout)
        self.assertEqual(daemon.get(), b"ok\n")

    def test_fault_at_the_beginning(self) -> None:
        """A fault of our own ends the session with a word in the log: it does not sit there with ports and no worker."""
        folder = self.folder(
            sitecustomize__py="""
            from serverworker.processes import state_directory

            state_directory.default_path = lambda environment, settings: 1 / 0
            """
        )
        path = os.pathsep.join([str(folder), variables()["PYTHONPATH"]])
        daemon = self.daemon(*self.PORT, folder=folder, environment={"PYTHONPATH": path})
        daemon.wait_for("the session cannot begin(.|\n)*ZeroDivisionError")
        daemon.wait_for("the monitor has a fault of its own: ZeroDivisionError: division by zero")
        daemon.wait_for("Server Shut Down")
        wait_until(lambda: not daemon.pid_file.exists(), "the end of the daemon")

    def test_user(self) -> None:
        """``--uid``: a low port is bound before privileges are dropped, the state directory is made after it."""
        if os.geteuid() != 0:
            raise SkipTest("only root can become somebody else")
        nobody = pwd.getpwnam("nobody")
        try:
            subprocess.run([sys.executable, "-c", ""], user=nobody.pw_uid, check=True)
        except OSError as error:
            raise SkipTest(f"only its owner can run {sys.executable}: {error}") from None
        folder = Path(tempfile.mkdtemp())  # below the trial's folder there may be no way for somebody else
        self.addCleanup(lambda: subprocess.run(["rm", "-r", folder], check=True))
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        port = f"tcp:{free_low_port()}:interface=127.0.0.1"
        user = (f"--uid={nobody.pw_uid}", f"--gid={nobody.pw_gid}")
        daemon = self.daemon("--port", port, folder=folder, twistd=user)
        self.assertEqual(daemon.get(), b"ok\n")
        for pid in (daemon.pid, *daemon.worker_pids):
            status = Path(f"/proc/{pid}/status").read_text()
            self.assertRegex(status, rf"(?m)^Uid:(\t{nobody.pw_uid}){{4}}$")
            self.assertRegex(status, rf"(?m)^Gid:(\t{nobody.pw_gid}){{4}}$")
        state = (folder / "state").stat()
        self.assertEqual((state.st_uid, stat.S_IMODE(state.st_mode)), (nobody.pw_uid, 0o700))
        pid = daemon.pid
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not is_alive(pid), "the end of the daemon")
        self.assertFalse(daemon.pid_file.exists())


def free_low_port() -> int:
    """A number below 1024, for which one has to be root, that nobody listens on now."""
    for number in range(800, 1024):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", number)):
            return number
    raise SkipTest("every low port is in use")
