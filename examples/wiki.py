"""An agent that does for a small wiki what the original application did with its own.

    twistd -n serverworker --port 8080 --agent wiki:Wiki

- In the monitor: a console command ``backup full|quick``, a message ``backup`` that does the same for the workers, a
  command ``index start|stop`` that runs a program, and a hook that is told of every crash.
- In each worker: the wiki itself; ``POST /backup``, for whoever has the session key, which emits to the monitor and
  shows the result or the error; ``/events``, a stream whose readers are told why the server goes away.

The pages lie as files in ``$WIKI``, so that a worker has nothing to lose.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.python.failure import Failure
from twisted.web.http import Request
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from serverworker import ExitReason, Monitor, ServerWorker, SessionAgent
from serverworker.values.events import WorkerDied

PAGES = Path(os.environ.get("WIKI", "wiki-pages"))
BACKUPS = Path(os.environ.get("WIKI_BACKUPS", "wiki-backups"))


class Wiki(SessionAgent):
    """The agent: one instance in the monitor, one in each worker."""

    # --- in the monitor --------------------------------------------------------------------------

    async def initialize_monitor(self, monitor: Monitor) -> None:
        """Register what the monitor does for the wiki."""
        monitor.on("backup", lambda args: self.backup(args["mode"]))
        monitor.add_console_command("backup", ["full|quick"], self.backup, "zip the pages")
        monitor.add_console_command("index", ["start|stop"], self.index, "start or stop the search index")
        monitor.on_crash_detected(self.note_crash)

    async def backup(self, mode: str) -> str:
        """Zip the pages; answers the file's name. A failure goes to whoever asked."""
        if mode not in ("full", "quick"):  # a worker's message: the console has checked its own
            raise ValueError(f"a backup is full or quick, not {mode!r}")
        # To the microsecond: two backups in one second must not share a file.
        target = made(BACKUPS) / f"{datetime.now(UTC):%Y-%m-%dT%H-%M-%S.%f}-{mode}.tar.gz"
        # Under its name only once it is whole: the gzip that tar starts may outlive a tar that fails.
        part = target.with_suffix(".part")
        command = ["tar", "-czf", str(part), "-C", str(PAGES), "."]
        if mode == "quick":
            command[3:3] = ["--newer-mtime=1 day ago"]
        result = await self.monitor.exec(command, timeout=60)
        if result.status != 0:
            part.unlink(missing_ok=True)
            raise RuntimeError(f"the backup failed with status {result.status}: {result.stderr.strip()}")
        part.rename(target)
        return target.name

    async def index(self, what: str) -> str:
        """Stands for the search engine that the original started and stopped."""
        program = shutil.which("echo") or "echo"
        result = await self.monitor.exec(f"{shlex.quote(program)} search index: {what}", timeout=10)
        return result.stdout.strip()

    def note_crash(self, died: WorkerDied) -> None:
        """Where the original wrote its mail."""
        with (made(BACKUPS) / "crashes.txt").open("a") as notes:
            notes.write(f"worker {died.worker}: {died.cause.text}; {died.next_step}\n")

    # --- in each worker --------------------------------------------------------------------------

    async def initialize_server_worker(self, worker: ServerWorker) -> None:
        """Serve the wiki."""
        made(PAGES)
        readers = Readers()
        root = Pages()
        root.putChild(b"backup", Backup(worker))
        root.putChild(b"events", readers)
        worker.listen("server", Site(root))
        worker.add_exit_handler(readers.tell_why)


def made(folder: Path) -> Path:
    """The folder, which is there from now on."""
    folder.mkdir(exist_ok=True)
    return folder


class Pages(Resource):
    """``/Name`` shows a page, and a POST to it changes it."""

    def getChild(self, path: bytes, request: Request) -> Resource:
        """A page, or the list of all."""
        name = path.decode("utf-8", "replace")
        return Page(name) if re.fullmatch(r"\w{1,80}", name) else self

    def render_GET(self, request: Request) -> bytes:
        """The list of all pages."""
        request.setHeader(b"content-type", b"text/html; charset=utf-8")
        names = sorted(path.stem for path in PAGES.glob("*.txt"))
        items = "".join(f'<li><a href="/{name}">{name}</a></li>' for name in names)
        return f"<!DOCTYPE html><title>Wiki</title><h1>Wiki</h1><ul>{items}</ul>".encode()


class Page(Resource):
    """One page."""

    isLeaf = True

    def __init__(self, name: str) -> None:
        super().__init__()
        self._path = PAGES / f"{name}.txt"

    def render_GET(self, request: Request) -> bytes:
        """The text."""
        request.setHeader(b"content-type", b"text/html; charset=utf-8")
        if not self._path.exists():
            request.setResponseCode(404)
            return b"no such page\n"
        return f"<!DOCTYPE html><pre>{escape(self._path.read_text())}</pre>".encode()

    def render_POST(self, request: Any) -> bytes:
        """A new text, in the form's field ``text``."""
        self._path.write_bytes(request.args.get(b"text", [b""])[0])
        return b"saved\n"


class Backup(Resource):
    """``POST /backup``, with the session key in a header. It never stands in a URL: those stand in logs."""

    isLeaf = True

    def __init__(self, worker: ServerWorker) -> None:
        super().__init__()
        self._worker = worker

    def render_POST(self, request: Request) -> Any:
        """Let the monitor make a backup, and show what came of it."""
        key = (request.getHeader(b"authorization") or b"").removeprefix(b"Bearer ")
        if not self._worker.authorizes(key):
            request.setResponseCode(403)
            return b"the session key is needed\n"
        mode = (request.args or {}).get(b"mode", [b"full"])[0].decode("utf-8", "replace")
        ensureDeferred(self._backup(request, mode)).addErrback(_client_is_gone)
        return NOT_DONE_YET

    async def _backup(self, request: Request, mode: str) -> None:
        try:
            (name,) = await self._worker.emit("backup", {"mode": mode})
            request.write(f"backup {name} is made\n".encode())
        except Exception as error:
            request.setResponseCode(500)
            request.write(f"no backup: {error}\n".encode())
        request.finish()


def _client_is_gone(failure: Failure) -> None:
    failure.trap(RuntimeError, AttributeError)


class Readers(Resource):
    """``/events``: server-sent events, whose readers are told why the server goes away."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self._requests: list[Request] = []

    def render_GET(self, request: Request) -> int:
        """One more reader."""
        request.setHeader(b"content-type", b"text/event-stream")
        request.write(b"event: hello\ndata: you are told when this server goes away\n\n")
        self._requests.append(request)
        gone: Deferred[None] = request.notifyFinish()
        gone.addBoth(lambda _: self._requests.remove(request))
        return NOT_DONE_YET

    def tell_why(self, reason: ExitReason) -> None:
        """An exit handler: crash, restart or session end, and the streams end."""
        for request in list(self._requests):
            request.write(f"event: bye\ndata: {reason.kind.value}\n\n".encode())
            request.finish()
