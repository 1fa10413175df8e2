"""When our log observer takes the place of twistd's or twist's, and which one."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO, cast

from twisted.application.twist._options import TwistOptions
from twisted.logger import ILogObserver, LogLevel
from twisted.scripts._twistd_unix import ServerOptions
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from serverworker.observers.log_choice import choose_observer


def event(text: str = "hello", level: Any = LogLevel.info) -> dict[str, Any]:
    return {"log_level": level, "log_format": "{text}", "text": text}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class ChoiceTests(SynchronousTestCase):
    """`choose_observer`."""

    def twistd(self, *arguments: str) -> Mapping[str, Any]:
        """twistd's own options, without a plugin."""
        options = ServerOptions()
        options.parseOptions(list(arguments))
        return cast(Mapping[str, Any], options)

    def chosen(
        self, options: Mapping[str, Any], form: str = "text", stdout: TextIO | None = None
    ) -> ILogObserver | None:
        return choose_observer(options, form, stdout or io.StringIO(), {})

    def test_in_the_foreground_it_is_ours(self) -> None:
        """`twistd -n`, with --logfile=- too, which means the same stream; and under the debugger."""
        for arguments in (["-n"], ["--nodaemon", "--logfile=-"]):
            self.assertIsNotNone(self.chosen(self.twistd(*arguments)), arguments)
        self.assertIsNotNone(self.chosen({**self.twistd(), "debug": True}))

    def test_the_operators_own_choice_stands(self) -> None:
        """A file, syslog, another observer; and a daemon, which has no stdout."""
        for arguments in (
            ["-n", "--logfile=x.log"],
            ["-n", "--syslog"],
            ["-n", "--logger=twisted.logger.textFileLogObserver"],
            ["--logfile=-"],
            [],
        ):
            self.assertIsNone(self.chosen(self.twistd(*arguments)), arguments)

    def test_without_such_a_program_the_log_is_not_ours(self) -> None:
        """Whoever runs the service by itself has a log already."""
        self.assertIsNone(choose_observer(None, "text", io.StringIO(), {}))

    def twist(self, stdout: TextIO, *arguments: str) -> Mapping[str, Any]:
        """twist's own options; the plugin that it runs is of no importance."""
        options = TwistOptions()
        options["logFile"] = stdout
        options.parseOptions([*arguments, "web"])
        return cast(Mapping[str, Any], options)

    def test_under_twist_it_is_ours_unless_its_own_options_say_otherwise(self) -> None:
        """--log-file, and a --log-format that is not the default of the stream."""
        for stdout, other in ((io.StringIO(), "text"), (Terminal(), "json")):
            self.assertIsNotNone(self.chosen(self.twist(stdout), stdout=stdout))
            self.assertIsNone(self.chosen(self.twist(stdout, f"--log-format={other}"), stdout=stdout))
        log = Path(self.mktemp())
        options = self.twist(io.StringIO(), f"--log-file={log}")
        self.addCleanup(options["logFile"].close)
        self.assertIsNone(self.chosen(options))

    def test_twists_log_level_counts(self) -> None:
        """`twist --log-level=warn` shows warnings and above."""
        stdout = io.StringIO()
        observer = self.chosen(self.twist(stdout, "--log-level=warn"), stdout=stdout)
        assert observer is not None
        observer(event("info"))
        observer(event("bad", LogLevel.warn))
        self.assertEqual(1, stdout.getvalue().count("\n"))

    def test_colours_are_for_terminals_that_want_them(self) -> None:
        """Not for a pipe or a file, and not where NO_COLOR is set (to anything but nothing)."""
        cases: list[tuple[Callable[[], TextIO], dict[str, str], bool]] = [
            (Terminal, {}, True),
            (Terminal, {"NO_COLOR": ""}, True),
            (Terminal, {"NO_COLOR": "1"}, False),
            (io.StringIO, {}, False),
        ]
        for make, environ, expected in cases:
            stdout = make()
            observer = choose_observer(self.twistd("-n"), "text", stdout, environ)
            assert observer is not None
            observer(event())
            stdout.seek(0)
            self.assertEqual(expected, "\x1b" in stdout.read())

    def test_json_on_request(self) -> None:
        """`[output] log_format`, whatever the stream."""
        stdout = Terminal()
        observer = self.chosen(self.twistd("-n"), "json", stdout)
        assert observer is not None
        verifyObject(ILogObserver, observer)
        observer(event())
        self.assertEqual("hello", json.loads(stdout.getvalue())["text"])
