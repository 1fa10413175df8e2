"""Who is measured: this project and its peers, each serving the same answer, its worker's pid, on one port.

A peer that is not installed is left out, and said to be. From PyPI: gunicorn, uvicorn, granian, supervisor, circus.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from attrs import frozen

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT))  # so that a checkout that is not installed is found, and measured

_TWISTED = """
import os, sys, time
from twisted.web.resource import Resource
time.sleep({import_seconds})

class Pid(Resource):
    isLeaf = True

    def render_GET(self, request):
        if request.path == b"/hang":
            time.sleep(3600)
        return b"%d" % os.getpid()
"""

_SERVE = """
import sys
from twisted.internet import reactor
from twisted.web.server import Site
from pid_twisted import Pid

reactor.listenTCP(int(sys.argv[1]), Site(Pid()), backlog=1024, interface="127.0.0.1")
reactor.run()
"""

_WSGI = """
import os, time
time.sleep({import_seconds})

def app(environ, start_response):
    if environ["PATH_INFO"] == "/hang":
        time.sleep(3600)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"%d" % os.getpid()]
"""

_ASGI = """
import os, time
time.sleep({import_seconds})

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({{"type": message["type"] + ".complete"}})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["path"] == "/hang":
        time.sleep(3600)
    await send({{"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]}})
    await send({{"type": "http.response.body", "body": b"%d" % os.getpid()}})
"""

_SUPERVISORD = """
[supervisord]
nodaemon=true
pidfile={folder}/supervisord.pid
logfile={folder}/supervisord.log
[program:serve]
command={python} serve.py {port}
directory={folder}
"""

_CIRCUS = """
[circus]
endpoint = ipc://{folder}/circus-endpoint
pubsub_endpoint = ipc://{folder}/circus-pubsub
[watcher:serve]
cmd = {python} serve.py {port}
working_dir = {folder}
copy_env = True
"""


@frozen(kw_only=True)
class Contender:
    """One way to keep the answer coming."""

    name: str
    needs: str
    """The module that it is made of."""
    command: Callable[[Path, int], list[str]]
    """From the folder that the applications are in, and the port."""
    reload: bool = False
    """Whether SIGHUP to it brings fresh code."""

    @property
    def is_there(self) -> bool:
        """Whether it is installed."""
        return find_spec(self.needs) is not None


def _script(name: str) -> str:
    """A console script beside this interpreter."""
    return str(Path(sys.executable).with_name(name))


def _twistd(*arguments: str) -> list[str]:
    run = "import sys; sys.argv[0] = 'twistd'; from twisted.scripts.twistd import run; sys.exit(run())"
    return [sys.executable, "-c", run, "-n", "--pidfile=", *arguments]


def _ours(*options: str) -> Callable[[Path, int], list[str]]:
    def command(folder: Path, port: int) -> list[str]:
        return _twistd(
            *("serverworker", "--port", f"tcp:{port}:interface=127.0.0.1", "--app", "pid_twisted:Pid"),
            *("--state-dir", str(folder / "state"), *options),
        )

    return command


def _procmon(folder: Path, port: int) -> list[str]:
    return _twistd("procmon", sys.executable, "serve.py", str(port))


def _gunicorn(*options: str, app: str) -> Callable[[Path, int], list[str]]:
    return lambda folder, port: [
        *(sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", "--workers", "1", *options, app)
    ]


def _uvicorn(folder: Path, port: int) -> list[str]:
    return [
        *(sys.executable, "-m", "uvicorn", "--host", "127.0.0.1", "--port", str(port)),
        *("--workers", "2", "--log-level", "warning", "pid_asgi:app"),
    ]


def _granian(folder: Path, port: int) -> list[str]:
    return [
        *(_script("granian"), "--interface", "asgi", "--host", "127.0.0.1", "--port", str(port)),
        *("--workers", "1", "--respawn-failed-workers", "pid_asgi:app"),
    ]


def _supervisord(folder: Path, port: int) -> list[str]:
    path = folder / "supervisord.conf"
    path.write_text(_SUPERVISORD.format(folder=folder, python=sys.executable, port=port))
    return [_script("supervisord"), "-c", str(path)]


def _circus(folder: Path, port: int) -> list[str]:
    path = folder / "circus.ini"
    path.write_text(_CIRCUS.format(folder=folder, python=sys.executable, port=port))
    return [_script("circusd"), str(path)]


OURS = Contender(name="serverworker", needs="serverworker", command=_ours(), reload=True)
PROCMON = Contender(name="procmon", needs="twisted", command=_procmon)
CONTENDERS = (
    OURS,
    PROCMON,
    Contender(name="gunicorn sync", needs="gunicorn", command=_gunicorn(app="pid_wsgi:app"), reload=True),
    Contender(
        name="gunicorn asgi",
        needs="gunicorn",
        command=_gunicorn("--worker-class", "asgi", app="pid_asgi:app"),
        reload=True,
    ),
    Contender(name="uvicorn, 2 workers", needs="uvicorn", command=_uvicorn, reload=True),
    Contender(name="granian", needs="granian", command=_granian, reload=True),
    Contender(name="supervisord", needs="supervisor", command=_supervisord),
    Contender(name="circus", needs="circus", command=_circus),
)


def write_applications(folder: Path, import_seconds: float) -> None:
    """The same application in every dialect; its import takes so many seconds more."""
    for name, text in (("pid_twisted", _TWISTED), ("pid_wsgi", _WSGI), ("pid_asgi", _ASGI)):
        (folder / f"{name}.py").write_text(textwrap.dedent(text).format(import_seconds=import_seconds))
    (folder / "serve.py").write_text(_SERVE)


class Running:
    """A contender that runs; it ends, with all that it started, at the end of the `with` block."""

    def __init__(self, contender: Contender, folder: Path, port: int) -> None:
        path = os.pathsep.join(filter(None, [str(folder), str(CHECKOUT), os.environ.get("PYTHONPATH", "")]))
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                contender.command(folder, port),
                cwd=folder,
                env={**os.environ, "PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        """SIGTERM, then SIGKILL to all of its session: some peers leave their workers behind."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pid in _members(self.process.pid):
            os.kill(pid, signal.SIGKILL)


def _members(session: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if os.getsid(int(entry.name)) == session:
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def new_folder(root: Path, name: str, import_seconds: float) -> Path:
    """A folder with the applications in it."""
    folder = root / name.replace(" ", "-").replace(",", "")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_applications(folder, import_seconds)
    return folder
