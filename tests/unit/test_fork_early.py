"""Whether twistd's own process is fit to be forked as the first fork server."""

from __future__ import annotations

import gc
import os
import sys
from types import ModuleType
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from serverworker.processes import fork_early as module
from serverworker.processes.fork_early import fork_early, why_not
from tests.unit.accept_case import open_descriptors

COMMAND_LINE = ["python", "/srv/venv/bin/twistd", "-n", "serverworker"]


def imported(*names: str) -> dict[str, ModuleType]:
    """These modules, as if they had been imported from files."""
    found = {name: ModuleType(name) for name in names}
    for name, each in found.items():
        each.__file__ = f"/srv/{name}.py"
    return found


class WhyNotTests(SynchronousTestCase):
    """`why_not`."""

    def setUp(self) -> None:
        # How many threads trial has, and how long its command line is, is not what is asked here.
        self.patch(module, "threading", self)
        self.threads = 1
        self.room = (60, 120)
        self.patch(module, "room_for_names", lambda: self.room)

    def active_count(self) -> int:
        """In the place of `threading.active_count`."""
        return self.threads

    def why_not(
        self,
        modules: dict[str, ModuleType] | None = None,
        command_line: list[str] | None = None,
        **parent: Any,
    ) -> str | None:
        options = {"nodaemon": True, **dict.fromkeys(module.CHANGES_PROCESS), **parent}
        return why_not(options, modules or {}, command_line or COMMAND_LINE)

    def test_nothing(self) -> None:
        """Of `twistd -n` in the foreground nothing stands in the way."""
        self.assertIsNone(self.why_not())

    def test_twist(self) -> None:
        """`twist` has no such options, and stays in the foreground."""
        self.assertIsNone(why_not({}, {}, COMMAND_LINE))

    def test_daemon(self) -> None:
        """What daemonises is another process afterwards, and no parent of what it forked."""
        self.assertEqual(self.why_not(nodaemon=False), "twistd will daemonise")

    def test_another_user(self) -> None:
        """Each option that changes what the monitor may do or see is named; 0 is a value, too."""
        options: tuple[tuple[str, Any], ...] = (("uid", 0), ("gid", 12), ("chroot", "/srv"), ("umask", 0))
        for name, value in options:
            self.assertEqual(self.why_not({}, COMMAND_LINE, **{name: value}), f"twistd has --{name}")

    def test_interpreter_options(self) -> None:
        """An option of the interpreter's is not passed on to workers, so a fork would be another thing."""
        for option in ("-O", "-I", "-Xdev", "-W", "-bb"):
            line = ["python", option, "-m", "twisted", "serverworker"]
            self.assertEqual(self.why_not(command_line=line), "the interpreter has options of its own")

    def test_no_interpreter_options(self) -> None:
        """A module or a command is what runs, and is no option; nor is what belongs to twistd."""
        for line in (
            ["python", "-m", "twisted", "-x"],
            ["python", "-c", "…", "-n"],
            ["python", "twistd", "-n"],
        ):
            self.assertIsNone(self.why_not(command_line=line))

    def test_reactor(self) -> None:
        """A reactor that is installed would be every worker's."""
        modules = imported("twisted.internet.reactor")
        self.assertEqual(self.why_not(modules), "there is a reactor already")

    def test_threads(self) -> None:
        """A fork has none of the threads, but the locks that they hold."""
        self.threads = 2
        self.assertEqual(self.why_not(), "there are threads already")

    def test_foreign(self) -> None:
        """A module that is not the framework's is named: a worker would not import it anew."""
        for name in ("mysite", "mysite.web", "twistedx", "serverworker_site"):
            modules = imported("twisted.web", name)
            self.assertEqual(self.why_not(modules), f"{name} is imported already")

    def test_foreign_plugin(self) -> None:
        """A plugin of somebody else's is foreign, though its name begins as Twisted's own."""
        modules = imported("twisted.plugins.twisted_web", "twisted.plugins.klein_plugin")
        self.assertEqual(self.why_not(modules), "twisted.plugins.klein_plugin is imported already")

    def test_known(self) -> None:
        """The framework, the standard library, plugins that come with them, and what `site` imports are known."""
        known = (
            *("twisted", "twisted.web.server", "serverworker.options", "zope.interface", "attr", "treq"),
            *("json", "json.decoder", "_ssl", "sitecustomize", "usercustomize", "__main__"),
            *("__editable___mysite_1_0_finder", "_sysconfigdata__linux_x86_64-linux-gnu", "_virtualenv"),
            *("twisted.plugins", "twisted.plugins.twisted_web", "twisted.plugins.cred_unix"),
            "twisted.plugins.serverworker_plugin",
        )
        self.assertIsNone(self.why_not(imported(*known)))

    def test_no_file(self) -> None:
        """What has no file holds no code that could have been changed: namespaces, and what a loader has made."""
        self.assertIsNone(self.why_not({"google": ModuleType("google")}))

    def test_room(self) -> None:
        """Where a worker's marks have no room in /proc, the guardian could not find what it starts."""
        for room in ((59, 120), (60, 119), (0, 0)):
            self.room = room
            self.assertEqual(self.why_not(), "a worker's marks have no room")


class ForkEarlyTests(SynchronousTestCase):
    """`fork_early`."""

    def setUp(self) -> None:
        import twisted.internet.reactor  # noqa: F401 - it is there, whichever test is run alone

        def refuse() -> int:
            raise AssertionError("this process was forked")

        self.patch(os, "fork", refuse)
        self.before = open_descriptors()

    def tearDown(self) -> None:
        self.assertEqual(open_descriptors(), self.before)

    def test_no_parent(self) -> None:
        """Options that neither twistd nor twist parses fork nothing."""
        self.assertIsNone(fork_early(None))

    def test_in_trial(self) -> None:
        """Where there is a reactor nothing is forked, be it twistd that asks."""
        self.assertIn("twisted.internet.reactor", sys.modules)
        self.assertIsNone(fork_early({"nodaemon": True}))

    def test_no_process(self) -> None:
        """Where the system can start no process there is no fork server, and nothing stays open."""

        def fail() -> int:
            raise OSError(11, "no more processes")

        frozen: list[str] = []
        self.patch(os, "fork", fail)
        self.patch(gc, "freeze", lambda: frozen.append("frozen"))
        self.patch(module, "why_not", lambda *_: None)
        self.assertIsNone(fork_early({}))
        self.assertEqual(frozen, ["frozen"])
