"""Who is measured: this project and its peers, each serving the same answer, its worker's pid, on one port.

A peer that is not installed is left out, and said to be. From PyPI: gunicorn, uvicorn, granian, supervisor, circus.
Each is configured as its documentation has it for a service that is to stay up; what is particular stands beside it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path

from attrs import frozen

from benchmarks.applications import write_applications
from benchmarks.procfs import command_line, family, in_session

CHECKOUT = Path(__file__).resolve().parents[1]
"""On the path of all that is started, so that a checkout that is not installed is found, and measured."""

_SUPERVISORD = """
[supervisord]
nodaemon=true
pidfile={folder}/supervisord.pid
logfile={folder}/supervisord.log
[unix_http_server]
file={folder}/supervisor.sock
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl=unix://{folder}/supervisor.sock
[program:serve]
command={python} serve.py {port}
directory={folder}
numprocs={workers}
process_name=serve%(process_num)d
"""

# With the socket in circusd, so that nobody is refused: the best that it has.
_CIRCUS = """
[circus]
endpoint = ipc://{folder}/circus-endpoint
pubsub_endpoint = ipc://{folder}/circus-pubsub
[watcher:serve]
cmd = {python} serve.py fd=$(circus.sockets.web)
use_sockets = True
numprocesses = {workers}
working_dir = {folder}
copy_env = True
[socket:web]
host = 127.0.0.1
port = {port}
"""

# `twistd procmon` keeps one process; this is the same, by the same way through twistd, for several.
_PROCMON_PLUGIN = """
from twisted.application.service import ServiceMaker
procmons = ServiceMaker("procmons", "procmons", "several processes", "procmons")
"""
_PROCMONS = """
import os, sys
from twisted.python import usage
from twisted.runner.procmon import ProcessMonitor

class Options(usage.Options):
    pass

def makeService(options):
    monitor = ProcessMonitor()
    for number in range({workers}):
        command = [sys.executable, "serve.py", "{port}"]
        monitor.addProcess(f"serve{{number}}", command, env=os.environ)
    return monitor
"""


@frozen(kw_only=True)
class Place:
    """What a contender is started with."""

    folder: Path
    port: int
    """0 where each of several children, which share nothing, is to take one of its own."""
    workers: int = 1


@frozen(kw_only=True)
class Contender:
    """One way to keep the answer coming."""

    name: str
    needs: str
    """The module that it is made of."""
    command: Callable[[Place], list[str]]
    reload: Callable[[Running], None] | None = None
    """Has it bring fresh code in, in its own gentlest way; None where it has none."""
    servers: int = 1
    """How many workers serve where one is wanted."""
    ready_says: bytes = b""
    """What its log says of each worker that is ready, where more than the first answer is waited for."""

    @property
    def is_there(self) -> bool:
        """Whether it is installed."""
        return find_spec(self.needs) is not None


class Running:
    """A contender that runs; it ends, with all that it started, at the end of the `with` block."""

    def __init__(self, contender: Contender, place: Place) -> None:
        path = [str(place.folder), str(CHECKOUT), os.environ.get("PYTHONPATH", "")]
        self.contender = contender
        self.place = place
        self.log = place.folder / "log"
        self.environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                contender.command(place),
                cwd=place.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def ready_workers(self) -> int:
        """How many workers its log has called ready so far."""
        return self.log.read_bytes().count(self.contender.ready_says) if self.contender.ready_says else 0

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        """SIGTERM, then SIGKILL to all that it leaves: some peers leave their workers behind."""
        # Looked for before its end: who is a session of its own is found by its parent alone.
        before = {pid: command_line(pid) for pid in family(self.process.pid)}
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        left = {pid for pid, command in before.items() if command and command_line(pid) == command}
        for pid in left | in_session(self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def new_folder(root: Path, name: str, import_seconds: float) -> Path:
    """A new folder with the applications in it."""
    folder = root / "".join(each if each.isalnum() else "-" for each in name)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_applications(folder, import_seconds)
    return folder


def installed(wanted: Iterable[Contender]) -> list[Contender]:
    """Those that are there; of the others a line is printed."""
    there = []
    for contender in wanted:
        if contender.is_there:
            there.append(contender)
        else:
            print(f"left out: {contender.name} (pip install {contender.needs})")
    return there


# --- how each is started and reloaded ------------------------------------------------------------------


def script(name: str) -> str:
    """A console script beside this interpreter."""
    return str(Path(sys.executable).with_name(name))


def twistd(*arguments: str) -> list[str]:
    """twistd in the foreground, with this interpreter."""
    run = "import sys; sys.argv[0] = 'twistd'; from twisted.scripts.twistd import run; sys.exit(run())"
    return [sys.executable, "-c", run, "-n", "--pidfile=", *arguments]


def _hang_up(running: Running) -> None:
    running.process.send_signal(signal.SIGHUP)


def _control(*command: str) -> Callable[[Running], None]:
    """Run a command, whose words may name the contender's folder."""

    def run(running: Running) -> None:
        words = [word.format(folder=running.place.folder) for word in command]
        subprocess.Popen(
            [script(words[0]), *words[1:]],
            cwd=running.place.folder,
            env=running.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    return run


def ours(name: str = "serverworker", *options: str) -> Contender:
    """This project, with more options than it needs."""

    def command(place: Place) -> list[str]:
        return twistd(
            *("serverworker", "--port", f"tcp:{place.port}:interface=127.0.0.1", "--app", "pid_twisted:Pid"),
            *("--workers", str(place.workers), "--state-dir", str(place.folder / "state"), *options),
        )

    says = b" is ready: its health route answered"
    return Contender(name=name, needs="serverworker", command=command, reload=_hang_up, ready_says=says)


def _procmon(place: Place) -> list[str]:
    if place.workers == 1:
        return twistd("procmon", sys.executable, "serve.py", str(place.port))
    plugins = place.folder / "twisted" / "plugins"
    plugins.mkdir(parents=True)
    (plugins / "procmons_plugin.py").write_text(_PROCMON_PLUGIN)
    (place.folder / "procmons.py").write_text(_PROCMONS.format(port=place.port, workers=place.workers))
    return twistd("procmons")


def gunicorn(*options: str, app: str) -> Callable[[Place], list[str]]:
    """gunicorn with these options."""
    return lambda place: [
        *(sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{place.port}"),
        *("--workers", str(place.workers), *options, app),
    ]


def _uvicorn(place: Place) -> list[str]:
    # With one worker it has no parent that would bring it back.
    return [
        *(sys.executable, "-m", "uvicorn", "--host", "127.0.0.1", "--port", str(place.port)),
        *("--workers", str(max(2, place.workers)), "--log-level", "warning", "pid_asgi:app"),
    ]


def _granian(place: Place) -> list[str]:
    return [
        *(script("granian"), "--interface", "asgi", "--host", "127.0.0.1", "--port", str(place.port)),
        *("--workers", str(place.workers), "--respawn-failed-workers", "pid_asgi:app"),
    ]


def _configured(program: str, option: str, text: str) -> Callable[[Place], list[str]]:
    """Write a configuration file, and run a program with it."""

    def command(place: Place) -> list[str]:
        path = place.folder / f"{program}.conf"
        path.write_text(
            text.format(folder=place.folder, python=sys.executable, port=place.port, workers=place.workers)
        )
        return [script(program), *option.split(), str(path)]

    return command


OURS = ours()
PROCMON = Contender(name="procmon", needs="twisted", command=_procmon)
GUNICORN_SYNC = Contender(
    name="gunicorn sync", needs="gunicorn", command=gunicorn(app="pid_wsgi:app"), reload=_hang_up
)
GUNICORN_ASGI = Contender(
    name="gunicorn asgi",
    needs="gunicorn",
    command=gunicorn("--worker-class", "asgi", app="pid_asgi:app"),
    reload=_hang_up,
)
SUPERVISORD = Contender(
    name="supervisord",
    needs="supervisor",
    command=_configured("supervisord", "-c", _SUPERVISORD),
    reload=_control("supervisorctl", "-c", "{folder}/supervisord.conf", "restart", "all"),
)
CIRCUS = Contender(
    name="circus",
    needs="circus",
    command=_configured("circusd", "", _CIRCUS),
    reload=_control("circusctl", "--endpoint", "ipc://{folder}/circus-endpoint", "reload", "serve"),
)
CONTENDERS = (
    OURS,
    GUNICORN_SYNC,
    GUNICORN_ASGI,
    Contender(name="uvicorn, 2 workers", needs="uvicorn", command=_uvicorn, reload=_hang_up, servers=2),
    Contender(name="granian", needs="granian", command=_granian, reload=_hang_up),
    CIRCUS,
    SUPERVISORD,
    PROCMON,
)
