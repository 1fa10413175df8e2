"""Starting a worker's process: what is needed for it, as data, and the one way that there is to do it."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

from attrs import frozen
from twisted.internet.interfaces import IProcessProtocol

from serverworker.processes.board import RequestBoard
from serverworker.processes.inheritance import FIRST_DESCRIPTOR, listen_environment
from serverworker.values.errors import ConfigurationError
from serverworker.values.settings import AppSettings

_NEVER_PASSED_ON = ("NOTIFY_SOCKET", "WATCHDOG_", "LISTEN_")
"""What the names of variables begin with that are for the monitor alone; a new systemd has new ones."""

_FOR_RELOAD = {"PYTHONDONTWRITEBYTECODE": "1"}
"""Python takes a .pyc for current whose source has the same size and was changed in the same second: in development that
is the edit before this one."""

WORKER_VARIABLE = "SERVERWORKER_WORKER"
"""The worker's id, in its environment and so in that of all that it starts: what it leaves behind is known by it."""

ENTRY = ("-u", "-m", "serverworker.processes.entry")
"""Behind the interpreter in a worker's command line."""


@frozen(kw_only=True)
class BoundPort:
    """A port that the monitor has bound."""

    name: str
    description: str
    socket: socket.socket


@frozen(kw_only=True)
class Recipe:
    """How the workers of one generation are started: resolved once, the same for all of them."""

    python: str
    directory: str
    """Resolved: no symbolic link is left in it."""
    environment: Mapping[str, str]
    ports: tuple[BoundPort, ...]
    shares: int
    """The descriptor of the table in which all workers note how many connections they have (`shares`)."""
    reactor: str = "default"
    """Twisted's own choice, or ``asyncio``."""
    keeps_program: bool = False
    """Whether what serves is a program that each worker starts (``--command``)."""


def resolve_recipe(
    app: AppSettings, ports: tuple[BoundPort, ...], environment: Mapping[str, str], shares: int
) -> Recipe:
    """Find out what a new generation is started with, symbolic links included, as they stand now.

    Raises `ConfigurationError` where the folder or the interpreter is not there.
    """
    directory = Path(os.path.realpath(app.directory or "."))  # which does not mind a link to itself
    if not directory.is_dir():
        raise ConfigurationError(f"app.directory: {app.directory!r} is no folder (looked at {directory})")
    python = _resolve_python(app.python, directory, environment.get("PATH"))
    return Recipe(
        python=python,
        directory=str(directory),
        environment={**passed_on(environment), **(_FOR_RELOAD if app.reload else {}), **app.environment},
        ports=ports,
        shares=shares,
        reactor="default" if app.asgi is None else "asyncio",
        keeps_program=app.command is not None,
    )


def passed_on(environment: Mapping[str, str]) -> dict[str, str]:
    """Of the monitor's environment what its children may have: not what systemd tells the monitor alone."""
    return {name: value for name, value in environment.items() if not name.startswith(_NEVER_PASSED_ON)}


def _resolve_python(python: str | None, directory: Path, search_path: str | None) -> str:
    """The interpreter: the links on the way to it are resolved, but not its own, which makes a venv what it is.

    A bare name is looked up in `search_path`, the value of ``PATH``.
    """
    if python is None:
        return sys.executable
    found = python if os.sep in python else shutil.which(python, path=search_path)
    if found is None:
        raise ConfigurationError(
            f"app.python: there is no program {python!r} in PATH ({search_path}); give its whole path, "
            "such as /srv/site/venv/bin/python"
        )
    path = directory / found
    resolved = Path(os.path.realpath(path.parent)) / path.name
    if not (resolved.is_file() and os.access(resolved, os.X_OK)):
        raise ConfigurationError(
            f"app.python: {python!r} is no program that can be run (looked at {resolved})"
        )
    return str(resolved)


@frozen(kw_only=True)
class Ends:
    """The monitor's ends of what connects it with one worker."""

    transport: Any
    """The process, as `reactor.spawnProcess` answers it."""
    channel: socket.socket
    """The AMP channel: an AF_UNIX socket, not connected to a protocol yet."""
    stdout: int
    """The descriptor that its output is read from, not blocking; likewise the next two."""
    stderr: int
    stacks: int
    """Of its stack dumps."""
    board: RequestBoard

    def close(self) -> None:
        """Give back what has not been given on."""
        self.channel.close()
        for descriptor in (self.stdout, self.stderr, self.stacks):
            os.close(descriptor)
        self.board.close()


class Spawner(Protocol):
    """Starts worker processes."""

    def spawn(self, recipe: Recipe, worker_id: int, protocol: IProcessProtocol) -> Ends:
        """Start one. Raises `OSError` where the system cannot. `protocol` may be told of the exit before this returns."""


@frozen(kw_only=True)
class Start:
    """What one worker's process is started with, in whatever way."""

    arguments: tuple[str, ...]
    """Of the worker's `entry`."""
    environment: Mapping[str, str]
    descriptors: tuple[int, ...]
    """Each is to be the one of its place here: the first is its standard input."""


def connected(recipe: Recipe, worker_id: int, start: Callable[[Start], Any]) -> Ends:
    """Make what connects a worker with the monitor; `start` starts the process and answers its transport.

    Whatever `start` or the system raises, nothing stays open.
    """
    with ExitStack() as undo, ExitStack() as theirs:
        channel, worker_channel = socket.socketpair()
        undo.callback(channel.close)
        theirs.callback(worker_channel.close)
        channel.setblocking(False)
        pipes = []
        for _ in ("stdout", "stderr", "stacks"):
            reading, writing = os.pipe2(os.O_CLOEXEC)
            undo.callback(os.close, reading)
            theirs.callback(os.close, writing)
            os.set_blocking(reading, False)
            pipes.append((reading, writing))
        (stdout, worker_stdout), (stderr, worker_stderr), (stacks, worker_stacks) = pipes
        board, worker_board = RequestBoard.create()
        undo.callback(board.close)
        theirs.callback(os.close, worker_board)
        nothing = theirs.enter_context(open(os.devnull, "rb"))
        standard = (nothing.fileno(), worker_stdout, worker_stderr)
        own = (worker_channel.fileno(), worker_stacks, worker_board, recipe.shares)
        transport = start(_start_of(recipe, worker_id, standard, own))
        undo.pop_all()
    return Ends(
        transport=transport, channel=channel, stdout=stdout, stderr=stderr, stacks=stacks, board=board
    )


def _start_of(
    recipe: Recipe, worker_id: int, standard: tuple[int, ...], own: tuple[int, int, int, int]
) -> Start:
    sockets = tuple(port.socket.fileno() for port in recipe.ports)
    first = FIRST_DESCRIPTOR + len(sockets)
    arguments = [
        f"--worker={worker_id}",
        f"--directory={recipe.directory}",
        f"--reactor={recipe.reactor}",
        *(f"--{name}={first + place}" for place, name in enumerate(("channel", "stacks", "board", "shares"))),
        *(f"--port={port.name}={port.description}" for port in recipe.ports),
    ]
    environment = {
        **recipe.environment,
        **listen_environment([port.name for port in recipe.ports]),
        WORKER_VARIABLE: str(worker_id),
    }
    return Start(arguments=tuple(arguments), environment=environment, descriptors=(*standard, *sockets, *own))


class InterpreterSpawner:
    """Starts each worker as a new interpreter."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def spawn(self, recipe: Recipe, worker_id: int, protocol: IProcessProtocol) -> Ends:
        """See `Spawner.spawn`."""

        def start(worker: Start) -> Any:
            # Neither path nor uid: with them Twisted forks the whole monitor instead of using posix_spawn. The worker
            # changes its folder itself.
            return self._reactor.spawnProcess(
                protocol,
                recipe.python,
                [recipe.python, *ENTRY, *worker.arguments],
                env=worker.environment,
                childFDs=dict(enumerate(worker.descriptors)),
            )

        return connected(recipe, worker_id, start)
