"""What a worker's process is started with."""

from __future__ import annotations

import errno
import os
import socket
import sys
from pathlib import Path
from typing import Any

from twisted.internet.protocol import ProcessProtocol
from twisted.trial.unittest import SynchronousTestCase

from serverworker.processes.shares import Shares
from serverworker.processes.spawn import BoundPort, InterpreterSpawner, Recipe, resolve_recipe
from serverworker.values.errors import ConfigurationError
from serverworker.values.settings import AppSettings
from tests.unit.accept_case import open_descriptors


class RecipeTests(SynchronousTestCase):
    """From the settings to a recipe, as things stand at that moment."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).resolve()
        self.folder.mkdir()
        self.environment = {"PATH": str(self.folder / "bin"), "HOME": "/home/ann"}

    def recipe(self, **app: Any) -> Recipe:
        settings = AppSettings(**{"directory": str(self.folder), **app})
        return resolve_recipe(settings, (), self.environment, -1)

    def refused(self, **app: Any) -> str:
        return str(self.assertRaises(ConfigurationError, self.recipe, **app))

    def program(self, path: str, mode: int = 0o755) -> Path:
        found = self.folder / path
        found.parent.mkdir(parents=True, exist_ok=True)
        found.write_text("#!/bin/sh\n")
        found.chmod(mode)
        return found

    # --- the folder -----------------------------------------------------------------------------

    def test_folder(self) -> None:
        """A folder without links is itself."""
        self.assertEqual(self.recipe().directory, str(self.folder))

    def test_keeper(self) -> None:
        """With ``--command`` what serves is another program."""
        made = [self.recipe(command=command).keeps_program for command in (None, "node server.js")]
        self.assertEqual(made, [False, True])

    def test_switched_link(self) -> None:
        """A link is resolved anew each time: to switch it, and to restart, is a deploy."""
        for release in ("1", "2"):
            (self.folder / "releases" / release).mkdir(parents=True)
        current = self.folder / "current"
        current.symlink_to("releases/1")
        first = self.recipe(directory=str(current))
        current.unlink()
        current.symlink_to("releases/2")
        second = self.recipe(directory=str(current))
        self.assertEqual(first.directory, f"{self.folder}/releases/1")
        self.assertEqual(second.directory, f"{self.folder}/releases/2")

    def test_link_on_the_way(self) -> None:
        """Links further up are resolved as well, and what is behind the link stays: `current/app`."""
        (self.folder / "releases" / "1" / "app").mkdir(parents=True)
        (self.folder / "current").symlink_to("releases/1")
        recipe = self.recipe(directory=f"{self.folder}/current/app")
        self.assertEqual(recipe.directory, f"{self.folder}/releases/1/app")

    def test_where_the_monitor_was_started(self) -> None:
        """Without one it is the folder that the monitor is in."""
        self.assertEqual(self.recipe(directory=None).directory, str(Path.cwd()))

    def test_no_folder(self) -> None:
        """A folder that is not there, a file, a link to nothing and a link to itself: what was given, and looked at."""
        (self.folder / "file").touch()
        (self.folder / "dangling").symlink_to("nothing")
        (self.folder / "loop").symlink_to("loop")
        for name, seen in (("none", "none"), ("file", "file"), ("dangling", "nothing"), ("loop", "loop")):
            given = f"{self.folder}/{name}"
            self.assertEqual(
                self.refused(directory=given),
                f"app.directory: {given!r} is no folder (looked at {self.folder}/{seen})",
            )

    # --- the interpreter ------------------------------------------------------------------------

    def test_own_interpreter(self) -> None:
        """Without one it is the monitor's own."""
        self.assertEqual(self.recipe().python, sys.executable)

    def test_venv(self) -> None:
        """Of a venv the interpreter's own link is kept: resolved, it would be the system's, without the venv."""
        self.program("system/python3")
        (self.folder / "venv-1" / "bin").mkdir(parents=True)
        (self.folder / "venv-1" / "bin" / "python").symlink_to(self.folder / "system" / "python3")
        (self.folder / "venv").symlink_to("venv-1")
        recipe = self.recipe(python=f"{self.folder}/venv/bin/python")
        self.assertEqual(recipe.python, f"{self.folder}/venv-1/bin/python")

    def test_in_the_release(self) -> None:
        """A relative path starts at the folder, link resolved: each release has its own venv."""
        self.program("releases/1/venv/bin/python")
        (self.folder / "current").symlink_to("releases/1")
        recipe = self.recipe(directory=f"{self.folder}/current", python="venv/bin/python")
        self.assertEqual(recipe.python, f"{self.folder}/releases/1/venv/bin/python")

    def test_looked_up(self) -> None:
        """A bare name is looked up in PATH, that of the workers' environment."""
        found = self.program("bin/python-of-ours")
        self.assertEqual(self.recipe(python="python-of-ours").python, str(found))

    def test_no_interpreter(self) -> None:
        """What is not there, or cannot be run, is told with the place that was looked at."""
        self.program("bin/plain", mode=0o644)
        for name in ("bin/none", "bin/plain", "bin"):
            self.assertEqual(
                self.refused(python=f"{self.folder}/{name}"),
                f"app.python: '{self.folder}/{name}' is no program that can be run (looked at {self.folder}/{name})",
            )
        text = self.refused(python="python-of-nobody")
        self.assertIn(f"there is no program 'python-of-nobody' in PATH ({self.folder}/bin)", text)
        self.assertIn("no program 'plain' in PATH", self.refused(python="plain"))

    # --- the environment ------------------------------------------------------------------------

    def test_environment(self) -> None:
        """The monitor's environment, and over it what the configuration adds."""
        recipe = self.recipe(environment={"HOME": "/srv", "DEBUG": ""})
        self.assertEqual(recipe.environment, {"PATH": f"{self.folder}/bin", "HOME": "/srv", "DEBUG": ""})

    def test_what_is_the_monitors_alone(self) -> None:
        """What systemd told the monitor reaches no worker: it would answer in the monitor's name."""
        before = dict(self.environment)
        self.environment |= {
            "NOTIFY_SOCKET": "/run/systemd/notify",
            "WATCHDOG_USEC": "30000000",
            "WATCHDOG_PID": "1",
            "LISTEN_FDS": "1",
            "LISTEN_PID": "1",
            "LISTEN_FDNAMES": "http",
            "LISTEN_PIDFDID": "7",
        }
        self.assertEqual(self.recipe().environment, before)


class RecordingReactor:
    """Keeps what a process would have been started with, looking at its descriptors while they are open."""

    def __init__(self) -> None:
        self.error: OSError | None = None
        self.given: dict[str, Any] = {}
        self.kinds: dict[int, int] = {}

    def spawnProcess(
        self, protocol: Any, executable: str, args: list[str], env: dict[str, str], childFDs: dict[int, Any]
    ) -> object:
        self.given = {
            "protocol": protocol,
            "executable": executable,
            "args": args,
            "env": env,
            "fds": childFDs,
        }
        self.kinds = {
            child: os.fstat(ours).st_ino for child, ours in childFDs.items() if isinstance(ours, int)
        }
        if self.error is not None:
            raise self.error
        return object()


class SpawnerTests(SynchronousTestCase):
    """What the process is given: arguments, environment and descriptors, and nothing that stays open here."""

    def setUp(self) -> None:
        self.reactor = RecordingReactor()
        self.sockets = {name: socket.create_server(("127.0.0.1", 0)) for name in ("server", "socket")}
        for each in self.sockets.values():
            self.addCleanup(each.close)
        self.shares = Shares.create()
        self.addCleanup(os.close, self.shares)
        self.recipe = Recipe(
            python="/srv/venv/bin/python",
            directory="/srv/site",
            environment={"HOME": "/srv"},
            ports=tuple(
                BoundPort(name=name, description=f"tcp:{name}", socket=each)
                for name, each in self.sockets.items()
            ),
            shares=self.shares,
        )
        self.protocol: Any = ProcessProtocol()
        self.before = open_descriptors()

    def test_arguments(self) -> None:
        """A new interpreter, unbuffered, runs the worker's entry and is told which descriptor is what."""
        InterpreterSpawner(self.reactor).spawn(self.recipe, 7, self.protocol).close()
        self.assertIs(self.reactor.given["protocol"], self.protocol)
        self.assertEqual(self.reactor.given["executable"], "/srv/venv/bin/python")
        self.assertEqual(
            self.reactor.given["args"],
            [
                *("/srv/venv/bin/python", "-u", "-m", "serverworker.processes.entry"),
                *("--worker=7", "--directory=/srv/site", "--reactor=default"),
                *("--channel=5", "--stacks=6", "--board=7", "--shares=8"),
                *("--port=server=tcp:server", "--port=socket=tcp:socket"),
            ],
        )

    def test_environment(self) -> None:
        """The recipe's, the sockets by systemd's convention (the child sets LISTEN_PID itself), and whose it is."""
        InterpreterSpawner(self.reactor).spawn(self.recipe, 7, self.protocol).close()
        sockets = {"LISTEN_FDS": "2", "LISTEN_FDNAMES": "server:socket"}
        self.assertEqual(self.reactor.given["env"], {"HOME": "/srv", "SERVERWORKER_WORKER": "7", **sockets})

    def test_descriptors(self) -> None:
        """/dev/null, two pipes, the sockets from 3 on, then the channel, the stacks, the board and the shares."""
        ends = InterpreterSpawner(self.reactor).spawn(self.recipe, 7, self.protocol)
        self.addCleanup(ends.close)
        self.assertEqual(sorted(self.reactor.given["fds"]), list(range(9)))
        kinds = self.reactor.kinds
        self.assertEqual(kinds[0], Path(os.devnull).stat().st_ino)
        for number, each in enumerate(self.sockets.values(), 3):
            self.assertEqual(kinds[number], os.fstat(each.fileno()).st_ino)
        for number, descriptor in ((1, ends.stdout), (2, ends.stderr), (6, ends.stacks)):
            self.assertEqual(kinds[number], os.fstat(descriptor).st_ino)
        self.assertEqual(kinds[8], os.fstat(self.shares).st_ino)

    def test_ends(self) -> None:
        """The monitor's ends do not block, are not inherited, and are all that stays open."""
        ends = InterpreterSpawner(self.reactor).spawn(self.recipe, 7, self.protocol)
        self.assertEqual(open_descriptors(), self.before + 5)  # channel, three pipes, and the board's memory
        for descriptor in (ends.channel.fileno(), ends.stdout, ends.stderr, ends.stacks):
            self.assertFalse(os.get_blocking(descriptor))
            self.assertFalse(os.get_inheritable(descriptor))
        ends.close()
        self.assertEqual(open_descriptors(), self.before)

    def test_cannot_be_started(self) -> None:
        """What the system says comes to the caller, and nothing stays open, neither ours nor the worker's."""
        self.reactor.error = FileNotFoundError(errno.ENOENT, "No such file or directory")
        spawner = InterpreterSpawner(self.reactor)
        self.assertRaises(FileNotFoundError, spawner.spawn, self.recipe, 7, self.protocol)
        self.assertEqual(open_descriptors(), self.before)

    def test_no_descriptor_left(self) -> None:
        """Nor when the descriptors themselves cannot be had."""

        def pipe2(flags: int) -> tuple[int, int]:
            raise OSError(errno.EMFILE, "Too many open files")

        self.patch(os, "pipe2", pipe2)
        spawner = InterpreterSpawner(self.reactor)
        self.assertRaises(OSError, spawner.spawn, self.recipe, 7, self.protocol)
        self.assertEqual(open_descriptors(), self.before)
