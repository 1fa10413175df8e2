"""Tests of `serverworker.processes.inheritance`: sockets that are handed over by systemd's convention."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import TestCase

from serverworker.processes import inheritance
from serverworker.processes.inheritance import InheritedSocketsError, inherited_sockets, listen_environment

NAMES = st.lists(st.from_regex(r"[ -9;-~]{1,20}", fullmatch=True), max_size=6, unique=True)


class InheritanceTests(TestCase):
    """What a parent writes and a child reads."""

    def setUp(self) -> None:
        self.inheritable: list[tuple[int, bool]] = []
        self.patch(os, "set_inheritable", lambda fd, value: self.inheritable.append((fd, value)))

    @settings(deadline=None, max_examples=60)
    @given(names=NAMES)
    def test_round_trip(self, names: list[str]) -> None:
        """The child reads what the parent wrote, in its order, and nothing of it stays in the environment."""
        environ = {**listen_environment(names), "LISTEN_PID": "7", "HOME": "/"}
        found = inherited_sockets(environ, 7)
        self.assertEqual(list(found.items()), list(zip(names, range(3, 3 + len(names)), strict=True)))
        self.assertEqual(environ, {"HOME": "/"})

    def test_close_on_exec(self) -> None:
        """What was inherited once is not inherited by the next children."""
        inherited_sockets({"LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b", "LISTEN_PID": "7"}, 7)
        self.assertEqual(self.inheritable, [(3, False), (4, False)])

    def test_nothing(self) -> None:
        """No variables, or only some of them, are no sockets."""
        for environ in ({}, {"LISTEN_FDS": "1"}, {"LISTEN_PID": "7"}, {"LISTEN_FDNAMES": "a"}):
            self.assertEqual(inherited_sockets(environ, 7), {})
            self.assertEqual(environ, {})

    def test_meant_for_another(self) -> None:
        """What is meant for another process is not taken, but does not stay for children to find either."""
        environ = {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "a", "LISTEN_PID": "8"}
        self.assertEqual(inherited_sockets(environ, 7), {})
        self.assertEqual(environ, {})

    def test_unnamed(self) -> None:
        """One socket without a name has the name that systemd gives it; several cannot be told apart."""
        for names in ({}, {"LISTEN_FDNAMES": ""}):
            self.assertEqual(
                inherited_sockets({"LISTEN_FDS": "1", "LISTEN_PID": "7", **names}, 7), {"unknown": 3}
            )
        self.assert_refused("nobody knows which", LISTEN_FDS="2")

    def test_contradictions(self) -> None:
        """Counts and names that disagree, names that are there twice, and numbers that are none are told."""
        self.assert_refused(
            "LISTEN_FDS says 2 and LISTEN_FDNAMES has 1 names", LISTEN_FDS="2", LISTEN_FDNAMES="a"
        )
        self.assert_refused(
            "LISTEN_FDS says 1 and LISTEN_FDNAMES has 2", LISTEN_FDS="1", LISTEN_FDNAMES="a:b"
        )
        self.assert_refused("share a name (a:a)", LISTEN_FDS="2", LISTEN_FDNAMES="a:a")
        for number in ("two", "-1", "", "1.0", "²", "٣"):
            self.assert_refused("must be a number", LISTEN_FDS=number, LISTEN_FDNAMES="a")
        self.assert_refused("nobody knows", LISTEN_FDS="999999999999")
        self.assert_refused("LISTEN_PID is 'me'", LISTEN_FDS="1", LISTEN_PID="me")

    def test_not_open(self) -> None:
        """A descriptor that is promised and not open is told by number and name."""

        def refuse(descriptor: int, value: bool) -> None:
            raise OSError(9, "Bad file descriptor")

        self.patch(os, "set_inheritable", refuse)
        self.assert_refused("descriptor 3 ('a') is not open", LISTEN_FDS="1", LISTEN_FDNAMES="a")

    def assert_refused(self, text: str, **environ: str) -> None:
        error = self.assertRaises(InheritedSocketsError, inherited_sockets, {"LISTEN_PID": "7", **environ}, 7)
        self.assertIn(text, str(error))

    def test_bad_names(self) -> None:
        """A name that the convention cannot carry is refused before any process is started."""
        for names in ([""], ["a:b"], ["a\n"], ["ä"], ["a" * 256], ["a", "a"]):
            self.assertRaises(ValueError, listen_environment, names)


class StandardLibraryTests(TestCase):
    """What a worker needs before Twisted is imported."""

    def test_alone(self) -> None:
        """The module loads without site-packages, and so without Twisted."""
        program = f"import runpy; runpy.run_path({str(Path(inheritance.__file__))!r})"
        subprocess.run([sys.executable, "-I", "-S", "-c", program], check=True, timeout=30)
