"""A small Debian with systemd as its process 1, in a container of systemd-nspawn: a copy of the run's own, booted.

The application's interpreter is Debian's own; Twisted and the package under test are this run's, mounted read-only.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import serverworker
import twisted
from tests.integration.sessions import wait_until
from tests.system.debian_root import DebianUnavailable, debian_root, why_no_root

PROGRAMS = {"systemd-nspawn": "systemd-container", "nsenter": "util-linux"}
"""What this needs besides debootstrap, and the Debian package that it is in."""

COPY_SECONDS = 120.0
BOOT_SECONDS = 60.0
COMMAND_SECONDS = 60.0

VENV = "/srv/mysite/venv"
SITE = "/srv/mysite"
"""The application's folder inside."""
_PATHS = "/srv/run"
_HIERARCHIES = ("/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified", "/sys/fs/cgroup")
"""Where systemd keeps its processes apart: the first two of version 1, of which there may be both, or else version 2."""


class MachineUnavailable(Exception):
    """This machine does not allow it; the text says why."""


def why_not() -> str | None:
    """What is missing here; None where nothing is known to be."""
    missing = [package for program, package in PROGRAMS.items() if shutil.which(program) is None]
    return f"needs {', '.join(missing)}, of Debian" if missing else why_no_root()


class Machine:
    """The container. `close` it."""

    def __init__(self) -> None:
        """Raises `MachineUnavailable`."""
        self._folder = Path(tempfile.mkdtemp(prefix="machine-"))
        self.root = self._folder / "root"
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._init = 0
        self._groups = [
            Path(each, self._folder.name) for each in _HIERARCHIES if Path(each, "cgroup.procs").exists()
        ]
        try:
            self._copy()
            self._install()
            self._boot()
        except BaseException:
            self.close()
            raise

    # --- making it ------------------------------------------------------------------------------

    def _copy(self) -> None:
        try:
            source = debian_root()
        except DebianUnavailable as error:
            raise MachineUnavailable(str(error)) from None
        subprocess.run(["cp", "-ax", str(source), str(self.root)], check=True, timeout=COPY_SECONDS)
        self.root.chmod(0o755)  # inside, everybody goes through it

    def _install(self) -> None:
        """The interpreter with this run's packages, and the two programs that pip would have made."""
        found = self._chroot("python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])")
        own = f"{sys.version_info[0]}.{sys.version_info[1]}"
        if found.strip() != own:
            raise MachineUnavailable(
                f"this run's packages are for Python {own}, and Debian's is {found.strip()}"
            )
        self._chroot("python3", "-m", "venv", "--without-pip", VENV)
        for name in ("package", "library"):
            (self.root / f".{_PATHS}/{name}").mkdir(parents=True)
        paths = f"{_PATHS}/package\n{_PATHS}/library\n"
        (self.root / f".{VENV}/lib/python{own}/site-packages/run.pth").write_text(paths)
        for name, module, function in (
            ("twistd", "twisted.scripts.twistd", "run"),
            ("serverworkerctl", "serverworker.ctl.main", "main"),
        ):
            script = self.root / f".{VENV}/bin/{name}"
            script.write_text(f"#!{VENV}/bin/python3\nfrom {module} import {function}\n{function}()\n")
            script.chmod(0o755)

    def _chroot(self, *command: str) -> str:
        done = subprocess.run(
            ["chroot", str(self.root), *command],
            capture_output=True,
            check=False,
            timeout=COMMAND_SECONDS,
        )
        if done.returncode:
            raise MachineUnavailable(f"{' '.join(command)} failed inside: {done.stderr.decode()}")
        return done.stdout.decode()

    def _boot(self) -> None:
        binds = {
            Path(serverworker.__file__).resolve().parents[1]: f"{_PATHS}/package",
            Path(twisted.__file__).resolve().parents[1]: f"{_PATHS}/library",
        }
        # Groups of its own: two containers with a service of the same name would kill each other's processes.
        enter = 'for each; do [ "$each" = -- ] && break; echo $$ > "$each/cgroup.procs" || exit; shift; done; shift; exec "$@"'
        try:
            for group in self._groups:
                group.mkdir()
        except OSError as error:
            raise MachineUnavailable(f"a container has no control group of its own here: {error}") from None
        with (self._folder / "console").open("wb") as console:
            self._nspawn = subprocess.Popen(
                [
                    *("sh", "-c", enter, "sh", *map(str, self._groups), "--"),
                    "systemd-nspawn",
                    f"--directory={self.root}",
                    "--register=no",
                    "--keep-unit",
                    "--boot",
                    "--console=pipe",
                    *(f"--bind-ro={outside}:{inside}" for outside, inside in binds.items()),
                ],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            wait_until(self._runs, "a booted container", BOOT_SECONDS)
        except AssertionError as error:
            raise MachineUnavailable(f"{error}; its console: {self._console()}") from None

    def _console(self) -> str:
        """What it has said last."""
        lines = (self._folder / "console").read_text(errors="replace").strip().splitlines()
        return " / ".join(lines[-3:])

    def _runs(self) -> bool:
        assert self._nspawn is not None
        if self._nspawn.poll() is not None:
            raise MachineUnavailable(
                f"systemd-nspawn ended with status {self._nspawn.returncode}: {self._console()}"
            )
        self._init = self._find_init()
        if not self._init:
            return False
        state = self.run("systemctl", "is-system-running", check=False).strip()
        return state in ("running", "degraded")

    def _find_init(self) -> int:
        """The container's process 1, as it is known outside: the child of nspawn that has a PID namespace of its own."""
        assert self._nspawn is not None
        children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children").read_text().split()
        for pid in children:
            status = Path(f"/proc/{pid}/status")
            try:
                names = dict(
                    line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line
                )
            except OSError:
                continue
            if names.get("NSpid", "").split()[1:] == ["1"] and names.get("Name") == "systemd":
                return int(pid)
        return 0

    # --- using it -------------------------------------------------------------------------------

    def run(self, *command: str, check: bool = True, seconds: float = COMMAND_SECONDS) -> str:
        """Run a program inside, and answer what it printed; AssertionError where it fails."""
        entered = [
            "nsenter",
            "--target",
            str(self._init),
            "--all",
            "--root",
            "--wd",
            "env",
            "-i",
            *_ENVIRONMENT,
            *command,
        ]
        done = subprocess.run(
            entered, capture_output=True, check=False, timeout=seconds, stdin=subprocess.DEVNULL
        )
        said = done.stdout.decode(errors="replace") + done.stderr.decode(errors="replace")
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)} ended with status {done.returncode}:\n{said}")
        return said

    def write(self, path: str, text: str) -> None:
        """Write a file inside."""
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", unit, f"--property={name}", "--value").strip()

    def journal(self, unit: str) -> str:
        """What a unit has written so far."""
        return self.run("journalctl", "--unit", unit, "--no-pager", "--output=cat")

    def close(self) -> None:
        """End it, and remove it."""
        if self._nspawn is not None:
            if self._nspawn.poll() is None:
                os.killpg(self._nspawn.pid, signal.SIGKILL)
                if self._init:
                    os.kill(self._init, signal.SIGKILL)  # and with a namespace's process 1 all of it
            self._nspawn.wait(BOOT_SECONDS)
        wait_until(lambda: not Path(f"/proc/{self._init}").exists() or not self._init, "the container's end")
        for group in self._groups:
            for folder in [*sorted(group.glob("**/"), reverse=True)]:
                with contextlib.suppress(OSError):
                    folder.rmdir()
        shutil.rmtree(self._folder, ignore_errors=True)


_ENVIRONMENT = ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin", "LANG=C.UTF-8", "HOME=/root")
