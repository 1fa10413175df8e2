"""What stands behind ``--command``: words, placeholders, the program."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from serverworker.processes.hosts.command_line import Places, find_program, split
from serverworker.values.errors import ApplicationError
from serverworker.values.ports import parse_port

PORTS = {
    "server": parse_port("server", "tcp:8080"),
    "socket": parse_port("socket", "tcp:4321:interface=127.0.0.1"),
    "local": parse_port("local", "unix:/run/site.sock"),
}


class SplitTests(SynchronousTestCase):
    """A command becomes words, without a shell."""

    def test_words(self) -> None:
        """Quotes hold words together, and nothing is expanded."""
        self.assertEqual(split("node 'my server.js' $HOME *"), ["node", "my server.js", "$HOME", "*"])

    def test_unbalanced(self) -> None:
        """A quote that is left open is told, with the command."""
        error = self.assertRaises(ApplicationError, split, "node 'server.js")
        self.assertEqual(
            str(error), '--command "node \'server.js" cannot be split into words: no closing quotation'
        )

    def test_nothing(self) -> None:
        """Blanks, or an empty word, name no program."""
        for command in (" ", "'' x"):
            self.assertIn("names no program", str(self.assertRaises(ApplicationError, split, command)))


class PlacesTests(SynchronousTestCase):
    """What stands in braces is filled in, or refused."""

    def fill(self, *words: str, bind: bool = True) -> list[str]:
        return Places(ports=PORTS, bind=bind).fill(words)

    def refused(self, *words: str, bind: bool = True) -> str:
        return str(self.assertRaises(ApplicationError, self.fill, *words, bind=bind))

    def test_descriptors(self) -> None:
        """Sockets are 3, 4, … in the order of the ports; without a name it is the port server's."""
        self.assertEqual(
            self.fill("x", "--bind=fd://{fd}", "{fd:socket}{fd:local}", "{fd:server}"),
            ["x", "--bind=fd://3", "45", "3"],
        )

    def test_numbers(self) -> None:
        """A program that binds by itself is told the number."""
        self.assertEqual(
            self.fill("x", "--port={port}", "{port:socket}", bind=False), ["x", "--port=8080", "4321"]
        )

    def test_others_braces(self) -> None:
        """JSON, and what else stands in braces and is no name, is the program's own."""
        words = ['{"a": {"b": 1}}', "{}", "{1}", "{ fd }", "{a-b}"]
        self.assertEqual(self.fill(*words), words)

    def test_unknown(self) -> None:
        """A name that is none of ours is told, with those that are."""
        self.assertIn("there is no {prot}; allowed: {fd}, {fd:NAME}, {port}", self.refused("{prot}"))
        self.assertIn("no shell reads the command", self.refused("${HOME}"))

    def test_no_such_port(self) -> None:
        """A port that the session has not is told, with the nearest one."""
        self.assertEqual(
            self.refused("{fd:sockte}"),
            "--command: {fd:sockte}: the session has no port 'sockte'; did you mean 'socket'?",
        )
        self.assertIn("no port ''", self.refused("{fd:}"))

    def test_number_of_a_bound_port(self) -> None:
        """Who binds by itself where the session does would find its address in use."""
        text = self.refused("{port}")
        self.assertIn("needs `bind = false`", text)
        self.assertIn("{fd}, or finds it by LISTEN_FDS", text)

    def test_socket_of_an_unbound_port(self) -> None:
        """With bind = false there is no socket to hand over."""
        self.assertIn(
            "with bind = false the session binds none: write {port}", self.refused("{fd}", bind=False)
        )

    def test_number_of_a_path(self) -> None:
        """A unix socket has no number."""
        self.assertIn(
            "'local' is unix:/run/site.sock, which has no number", self.refused("{port:local}", bind=False)
        )


class ProgramTests(SynchronousTestCase):
    """The file that is run."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).resolve()
        self.folder.mkdir()
        self.program = self.folder / "serve"
        self.program.write_text("#!/bin/sh\n")
        self.program.chmod(0o755)

    def refused(self, word: str) -> str:
        return str(self.assertRaises(ApplicationError, find_program, word, "/nowhere"))

    def test_search_path(self) -> None:
        """A bare name is looked up."""
        self.assertEqual(find_program("serve", f"/nowhere:{self.folder}"), str(self.program))

    def test_whole_path(self) -> None:
        """A path is taken as it is."""
        self.assertEqual(find_program(str(self.program), ""), str(self.program))

    def test_relative_path(self) -> None:
        """A relative path begins at the worker's folder."""
        path = os.path.relpath(self.program)
        self.assertEqual(Path(find_program(f"./{path}", "")).resolve(), self.program)
        self.assertTrue(os.path.isabs(find_program(f"./{path}", "")))  # noqa: PTH117

    def test_beside_the_interpreter(self) -> None:
        """What is installed in the venv of the session is found though that is not active."""
        self.patch(sys, "executable", str(self.folder / "python"))
        self.assertEqual(find_program("serve", "/nowhere"), str(self.program))

    def test_search_path_first(self) -> None:
        """What the operator's PATH says goes first."""
        other = self.folder / "other"
        other.mkdir()
        (other / "serve").write_text("")
        (other / "serve").chmod(0o755)
        self.patch(sys, "executable", str(self.folder / "python"))
        self.assertEqual(find_program("serve", str(other)), str(other / "serve"))

    def test_missing(self) -> None:
        """The error says where it was looked for."""
        text = self.refused("nonesuch")
        self.assertIn("there is no program 'nonesuch' in PATH (/nowhere) or in ", text)
        self.assertIn("there is no file './nonesuch' in ", self.refused("./nonesuch"))
        self.assertEqual(self.refused("/nowhere/nonesuch"), "--command: there is no file '/nowhere/nonesuch'")

    def test_folder(self) -> None:
        """A folder is none."""
        self.assertEqual(
            self.refused(str(self.folder)), f"--command: '{self.folder}' is a folder, and no program"
        )

    def test_not_executable(self) -> None:
        """A file without the permission is told of, with what to do."""
        self.program.chmod(0o644)
        self.assertIn("may not be executed by this user: `chmod +x` it", self.refused(str(self.program)))
