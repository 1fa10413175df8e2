"""The commands that an agent adds to the console."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from serverworker.monitor.console_commands import ConsoleCommands


def action(*arguments: str) -> None:
    """Does nothing."""


class AddTests(SynchronousTestCase):
    """What may be added."""

    def setUp(self) -> None:
        self.commands = ConsoleCommands(("status", "exit"))

    def refused(self, kind: type[Exception], *arguments: Any) -> str:
        return str(self.assertRaises(kind, self.commands.add, *arguments))

    def test_kept(self) -> None:
        """Commands are kept in the order of their coming, with their names once."""
        self.commands.add("backup", ["full|quick"], action, "zip the pages")
        self.commands.add("pull", [], action)
        self.commands.add("backup", [], action)
        self.assertEqual(self.commands.names, ("backup", "pull"))
        self.assertEqual([len(each.patterns) for each in self.commands.of("backup")], [1, 0])
        self.assertEqual([each.help for each in self.commands], ["zip the pages", "", ""])
        self.assertEqual(self.commands.of("nothing"), ())

    def test_name(self) -> None:
        """A name is one word that begins with a letter."""
        for name in ("a", "index-2", "Re_build"):
            self.commands.add(name, [], action)
        for name in ("", "two words", "2nd", "-x", "a:b", " a"):
            self.assertEqual(
                self.refused(ValueError, name, [], action),
                f"a console command's name is one word of letters, digits, - and _, not {name!r}",
            )

    def test_reserved(self) -> None:
        """The console's own names are taken."""
        self.assertEqual(
            self.refused(ValueError, "exit", [], action),
            "'exit' is a command of the console's own: choose another name",
        )

    def test_not_callable(self) -> None:
        """What cannot be called is refused when it is added, not when it is typed."""
        self.assertEqual(
            self.refused(TypeError, "pull", [], "git pull"),
            "the action of console command 'pull' must be callable, not 'git pull'",
        )

    def test_bad_pattern(self) -> None:
        """A pattern that is none is named, with what is wrong with it; nothing is added."""
        self.assertIn(
            "console command 'pull': the pattern '(' is no regular expression: missing )",
            self.refused(ValueError, "pull", ["(", "x"], action),
        )
        self.assertEqual(self.commands.names, ())

    def test_a_text_for_patterns(self) -> None:
        """One text where a list of patterns belongs would be a pattern for each letter: it is refused."""
        self.assertIn("['full|quick']", self.refused(TypeError, "backup", "full|quick", action))


class MatchTests(SynchronousTestCase):
    """Which arguments are for a command."""

    def setUp(self) -> None:
        self.commands = ConsoleCommands(())

    def matches(self, patterns: list[str], *arguments: str) -> bool:
        self.commands.add("do", patterns, action)
        return self.commands.of("do")[-1].matches(arguments)

    def test_number(self) -> None:
        """There are as many arguments as patterns."""
        self.assertTrue(self.matches([]))
        self.assertFalse(self.matches([], "x"))
        self.assertFalse(self.matches([".*"]))
        self.assertFalse(self.matches([".*"], "x", "y"))

    def test_whole(self) -> None:
        """A pattern has to match the whole of its argument, and the case counts."""
        self.assertTrue(self.matches(["full|quick"], "quick"))
        for argument in ("quickly", "a quick", "Quick", "full\n", ""):
            self.assertFalse(self.matches(["full|quick"], argument), argument)

    def test_each(self) -> None:
        """Every argument has to match its own."""
        self.assertTrue(self.matches([r"\d+", "a|b"], "12", "b"))
        self.assertFalse(self.matches([r"\d+", "a|b"], "b", "12"))

    def test_usage(self) -> None:
        """How it is typed: its name and its patterns."""
        self.commands.add("index", ["start|stop", r"\d+"], action)
        self.assertEqual([each.usage for each in self.commands], [r"index start|stop \d+"])
