"""Wrong options and wrong configuration files: all that is wrong is told at once, and nothing is started."""

from __future__ import annotations

import socket
from pathlib import Path

from tests.integration.programs import CHECKOUT
from tests.integration.refusals import DAEMON, RUNNERS, TWIST, RefusalTestCase

WRONG_TOML = """
    state_directori = "x"

    [polling]
    interval = 3
    timeout_seconds = "5"
    failure_tolerance = -1

    [wrokers]
    count = 1

    [workers]
    count = 2.5
    bind = "no"

    [ports]
    server = 80800
"""

WRONG_LINES = (
    "wrong.toml: state_directori: there is no such key; did you mean 'state_directory'?",
    "wrong.toml: polling.interval: there is no such key; did you mean 'interval_seconds'?",
    "wrong.toml: polling.timeout_seconds: must be a number of seconds, 0.01 to 86400, not '5'",
    "wrong.toml: polling.failure_tolerance: must be a whole number, 0 to 1000, not -1",
    "wrong.toml: wrokers: there is no such key; did you mean 'workers'?",
    "wrong.toml: workers.count: must be a whole number, 1 to 1000, not 2.5",
    "wrong.toml: workers.bind: must be true or false, not 'no'",
    "wrong.toml: ports.server: the number must be 0 to 65535 (0: any free one), not 80800",
)
"""What is to be said of it."""


class WrongUsageTests(RefusalTestCase):
    """The command line is wrong: status 64, whichever program runs the plugin, and nothing was made."""

    def test_unknown_option(self) -> None:
        """An option that does not exist is answered with the nearest one that does."""
        text = self.never_begun(64, "--prot", "8080", runners=RUNNERS)
        self.assertEqual(
            text,
            "serverworker cannot start:\n"
            "  there is no option --prot; did you mean --port?\n"
            "`twistd serverworker --help` tells all options.",
        )

    def test_wrong_values(self) -> None:
        """Wrong types and values out of range are all told at once, each with what is allowed."""
        text = self.never_begun(
            64,
            "--workers=many",
            "--standby=-1",
            "--poll-interval=0",
            "--poll-tolerance=1.5",
            "--drain-timeout=for ever",
            "--show-output=maybe",
            "--port=socket=99999",
            "--port=other=http:80",
            "--app=nothing",
        )
        self.assert_lines(
            text,
            "--workers: must be a whole number, 1 to 1000, not 'many'",
            "--standby: must be a whole number, 0 to 1000, not -1",
            "--poll-interval: must be a number of seconds, 0.1 to 86400, not 0",
            "--poll-tolerance: must be a whole number, 0 to 1000, not 1.5",
            "--drain-timeout: must be a number of seconds, 0.01 to 86400, not 'for ever'",
            "--show-output: must be true or false, not 'maybe'",
            "--port socket: the number must be 0 to 65535 (0: any free one), not 99999",
            "--port other: there is no kind of port 'http'; allowed: tcp, tcp6, unix",
            "--app: must be module:attribute, such as 'mysite.web:root', not 'nothing'",
        )

    def test_no_option(self) -> None:
        """A word that is no option, and an option without its value, are told as such."""
        text = self.never_begun(64, "mysite.web:root")
        self.assert_lines(text, "'mysite.web:root' is no option; did you mean --app mysite.web:root?")
        self.assertIn("option --workers requires argument", self.never_begun(64, "--workers"))

    def test_socket_path_too_long(self) -> None:
        """A unix socket's path that the system would not take is told with the length that it takes."""
        text = self.never_begun(64, port=f"unix:/tmp/{'long/' * 30}socket")
        self.assert_lines(text, "--port: the path of a socket must be at most 107 bytes long, not 161")


class WrongFileTests(RefusalTestCase):
    """The configuration file is wrong: status 78, and nothing was made."""

    def test_wrong_keys_and_values(self) -> None:
        """Unknown keys, wrong types and values out of range are all told, each with its key and what is allowed."""
        folder = self.folder(wrong__toml=WRONG_TOML)
        text = self.never_begun(78, "--config", "wrong.toml", folder=folder, runners=RUNNERS, port=None)
        self.assertEqual(text, "\n  ".join(["serverworker cannot start:", *WRONG_LINES]))

    def test_beside_wrong_usage(self) -> None:
        """Where an option is wrong as well, both are told, and the status is that of wrong usage."""
        folder = self.folder(wrong__toml=WRONG_TOML)
        text = self.never_begun(64, "--config", "wrong.toml", "--workers=0", folder=folder)
        self.assert_lines(text, *WRONG_LINES, "--workers: must be a whole number, 1 to 1000, not 0")

    def test_no_toml(self) -> None:
        """A file that is no TOML is told with the place; nothing more is guessed of what it was meant to say."""
        folder = self.folder(broken__toml='[ports]\nserver = 8080\n[polling\nroute = "/"\n')
        text = self.never_begun(78, "--config", "broken.toml", folder=folder, runners=[TWIST])
        self.assertEqual(len(text.splitlines()), 2, text)
        self.assertIn("broken.toml: is not TOML: Expected ']'", text)
        self.assertIn("line 3", text)

    def test_not_there(self) -> None:
        """A file that is not there, or is none, is told with the name that was given."""
        text = self.never_begun(78, "--config", "nowhere.toml", runners=[DAEMON])
        self.assert_lines(text, "nowhere.toml: there is no such file")
        text = self.never_begun(78, "--config", str(CHECKOUT / "tests"))
        self.assert_lines(text, f"{CHECKOUT / 'tests'}: is a folder, not a file")


class CheckConfigTests(RefusalTestCase):
    """`--check-config` says what would be, and starts nothing."""

    def test_fine(self) -> None:
        """A fine configuration ends with 0: each value and where it is from, and no secret of the environment."""
        folder = self.folder(
            fine__toml="""
            [app]
            environment = { TOKEN = "0xSECRET" }
            [polling]
            route = "/health"
            interval_seconds = 3
            """
        )
        arguments = ("--config", "fine.toml", "--workers", "2", "--check-config")
        with socket.create_server(("127.0.0.1", 0)) as taken:
            # In use, and yet the configuration is fine: nothing is bound.
            port = f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
            text = self.never_begun(0, *arguments, folder=folder, runners=RUNNERS, port=port)
        self.assert_lines(
            text,
            "configuration is fine",
            "polling.route = '/health'  (fine.toml)",
            "polling.interval_seconds = 3  (fine.toml)",
            "workers.count = 2  (command line)",
            f"ports.server = '{port}'  (command line)",
            "workers.standby = 1  (default)",
            "app.environment = TOKEN  (fine.toml)",
        )
        self.assertNotIn("SECRET", text)

    def test_wrong(self) -> None:
        """A wrong one is told as a start would tell it, with the same status."""
        folder = self.folder(wrong__toml=WRONG_TOML)
        arguments = ("--config", str(Path(folder, "wrong.toml")), "--check-config")
        text = self.never_begun(78, *arguments, folder=folder)
        self.assertIn(WRONG_LINES[0], text)
        self.assertNotIn("fine", text.replace(str(folder), ""))
        self.assertIn("--standby", self.never_begun(64, "--check-config", "--standby=no"))
