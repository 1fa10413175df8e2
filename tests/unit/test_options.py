"""The command line: what each option sets, what is said of wrong usage, and how the process ends."""

from __future__ import annotations

import io
import os
import shutil
import sys
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.python import usage
from twisted.trial.unittest import SynchronousTestCase

from serverworker.options import Options, conclude_check, settle
from serverworker.values.exit_status import ExitStatus
from serverworker.values.rules import InvalidSettings
from serverworker.values.settings import Settings

HELP_TAIL = "`twistd serverworker --help` tells all options.\n"
NOT_A_PORT = "must be a port's number, or tcp:, tcp6: or unix: with an address, not"

# Arguments that getopt or ours refuses while they are parsed, and the one line that is said.
WRONG_USAGE: list[tuple[list[str], str]] = [
    (["--bogus"], "there is no option --bogus"),
    (["--bogus=3"], "there is no option --bogus"),
    (["--polinterval", "3"], "there is no option --polinterval; did you mean --poll-interval?"),
    (["-x"], "there is no option -x"),
    (["-p", "80"], "there is no option -p"),
    (
        ["--poll", "3"],
        "option --poll not a unique prefix: --poll-route, --poll-interval, --poll-timeout, --poll-tolerance",
    ),
    (["--port"], "option --port requires argument"),
    (["--check-config=yes"], "option --check-config must not have an argument"),
    (["mysite"], "'mysite' is no option"),
    (["workers", "4"], "'workers' is no option; did you mean --workers?"),
    (["8080"], "'8080' is no option; did you mean --port 8080?"),
    (
        ["mysite.web:root", "--port", "80"],
        "'mysite.web:root' is no option; did you mean --app mysite.web:root?",
    ),
    (["web", "--", "--path", "."], "'web' is no option"),
    (["--"], "behind -- belongs a plugin of twistd and its arguments, such as -- web --path ."),
    ([""], "'' is no option"),
]

# Arguments whose values cannot be used, and all that is said.
BAD_VALUES: list[tuple[list[str], list[str]]] = [
    (["--port", "http"], [f"--port: {NOT_A_PORT} 'http'"]),
    (["--port", "--workers"], [f"--port: {NOT_A_PORT} '--workers'"]),
    (["--port", "8080.9"], [f"--port: {NOT_A_PORT} '8080.9'"]),
    (["--port", "99999"], ["--port: the number must be 0 to 65535 (0: any free one), not 99999"]),
    (["--port", "ssl:443"], ["--port: there is no kind of port 'ssl'; allowed: tcp, tcp6, unix"]),
    (["--port", "80", "--port", "81"], ["--port: is given more than once: '80' and '81'"]),
    (
        ["--port", "80", "--port", "a=81", "--port", "a=82"],
        ["--port a: is given more than once: '81' and '82'"],
    ),
    (
        ["--port", "socket=4321"],
        ["--port: is missing: the port that is polled, and that --port without a name sets"],
    ),
    (
        ["--port", "80", "--port", "socket=tcp:80"],
        ["--port socket: 'tcp:80' cannot be bound beside ports.server, 'tcp:80'"],
    ),
    (
        ["--port", "80", "--port", "a.b=81"],
        ["--port 'a.b': the name of a port must be 1 to 64 letters, digits, '-' or '_'"],
    ),
    (
        ["--port", "=80"],
        ["--port '': the name of a port must be 1 to 64 letters, digits, '-' or '_'"],
    ),
    (["--workers", "0"], ["--workers: must be a whole number, 1 to 1000, not 0"]),
    (["--workers", "2.5"], ["--workers: must be a whole number, 1 to 1000, not 2.5"]),
    (["--workers", "two"], ["--workers: must be a whole number, 1 to 1000, not 'two'"]),
    (["--workers", ""], ["--workers: must be a whole number, 1 to 1000, not ''"]),
    (["--workers", "9" * 5000], ["--workers: must be a whole number, 1 to 1000, not inf"]),
    (["--standby", "-1"], ["--standby: must be a whole number, 0 to 1000, not -1"]),
    (
        ["--poll-interval", "5s", "--poll-timeout", "nan", "--poll-tolerance", "1e1"],
        [
            "--poll-interval: must be a number of seconds, 0.1 to 86400, not '5s'",
            "--poll-timeout: must be a number of seconds, 0.01 to 86400, not nan",
            "--poll-tolerance: must be a whole number, 0 to 1000, not 10.0",
        ],
    ),
    (["--startup-timeout", "0"], ["--startup-timeout: must be a number of seconds, 0.01 to 86400, not 0"]),
    (["--drain-timeout", "inf"], ["--drain-timeout: must be a number of seconds, 0.01 to 86400, not inf"]),
    (
        ["--app", "a:b", "--wsgi", "c:d"],
        ["--wsgi: there is an application already, by app.resource: give one"],
    ),
    (
        ["--command", "x", "--asgi", "c:d", "--", "web"],
        ["--command: there is an application already, by app.asgi, app.plugin: give one"],
    ),
    (["--wsgi-threads", "0"], ["--wsgi-threads: must be a whole number, 1 to 1000, not 0"]),
    (["--app", "web.py"], ["--app: must be module:attribute, such as 'mysite.web:root', not 'web.py'"]),
    (["--agent", "x"], ["--agent: must be module:Class, such as 'mysite.session:Wiki', not 'x'"]),
    (["--show-output", "yes"], ["--show-output: must be true or false, not 'yes'"]),
    (["--log-format", "xml"], ["--log-format: must be 'text' or 'json', not 'xml'"]),
    (["--state-dir", ""], ["--state-dir: must be the name of a file or folder, not ''"]),
]


class Twistd(usage.Options):
    """What is in front of ours on the command line."""

    optFlags = [["nodaemon", "n", "stay"]]
    optParameters = [["pidfile", None, "twistd.pid", "pid file"]]
    subCommands = [["serverworker", None, Options, "ours"]]


class OptionsTestCase(SynchronousTestCase):
    """A test that works in a folder of its own, and holds what is written."""

    def setUp(self) -> None:
        # A short path: a unix socket's ends at 107 bytes.
        self.folder = Path(tempfile.mkdtemp()).resolve()
        self.addCleanup(shutil.rmtree, self.folder)
        before = Path.cwd()
        os.chdir(self.folder)
        self.addCleanup(os.chdir, before)
        self.stdout, self.stderr = io.StringIO(), io.StringIO()
        self.patch(sys, "stdout", self.stdout)
        self.patch(sys, "stderr", self.stderr)

    def parse(self, *arguments: str) -> Options:
        """The options, parsed as twistd does it."""
        options = Options()
        options.parseOptions(list(arguments))
        return options

    def exit_status(self, *arguments: str) -> object:
        """What the process ends with, where it ends."""

        def run() -> None:
            options = self.parse(*arguments)
            conclude_check(options, settle(options))

        return self.assertRaises(SystemExit, run).code


class ValueTests(OptionsTestCase):
    """What options come to."""

    def test_none(self) -> None:
        """Without an option all is at its default."""
        self.assertEqual(self.parse().settings(), Settings())

    def test_each(self) -> None:
        """Every option sets its key."""
        made = self.parse(
            *("--app", "a.b:c", "--agent=d:E", "--workers", "3", "--standby", "0", "--poll-route", "/beat"),
            *("--poll-interval", "20", "--poll-timeout", "2.5", "--poll-tolerance", "4"),
            *("--startup-timeout", "70", "--drain-timeout=5", "--state-dir", "/s", "--show-output", "false"),
            *("--log-format", "json", "--port", "unix:/s.sock", "--port", "a=tcp:81:interface=127.0.0.1"),
        ).settings()
        self.assertEqual((made.app.resource, made.app.agent), ("a.b:c", "d:E"))
        self.assertEqual((made.workers.count, made.workers.standby), (3, 0))
        self.assertEqual((made.polling.route, made.polling.interval_seconds), ("/beat", 20))
        self.assertEqual((made.polling.timeout_seconds, made.polling.failure_tolerance), (2.5, 4))
        self.assertEqual((made.startup.timeout_seconds, made.drain.timeout_seconds), (70, 5))
        self.assertEqual(made.state_directory, "/s")
        self.assertEqual((made.output.show_server_output, made.output.log_format), (False, "json"))
        self.assertEqual(
            [(port.name, port.describe()) for port in made.ports],
            [("server", "unix:/s.sock"), ("a", "tcp:81:interface=127.0.0.1")],
        )

    def test_name_or_description(self) -> None:
        """A name stands before `=` and holds no colon, so an address with `=` in it needs none."""
        made = self.parse("--port", "tcp6:80:interface=::1", "--port", "b=unix:/a:mode=600").settings()
        self.assertEqual(
            [(port.name, port.describe()) for port in made.ports],
            [("server", "tcp6:80:interface=::1"), ("b", "unix:/a:mode=600")],
        )
        made = self.parse("--port=server=81").settings()
        self.assertEqual([port.describe() for port in made.ports], ["tcp:81"])

    def test_win_over_the_file(self) -> None:
        """An option wins over the file, key by key and port by port."""
        Path("a.toml").write_text("[ports]\nserver = 1\nsocket = 2\n[workers]\ncount = 5\nstandby = 6\n")
        made = self.parse("--config", "a.toml", "--workers", "7", "--port", "3").settings()
        self.assertEqual([port.describe() for port in made.ports], ["tcp:3", "tcp:2"])
        self.assertEqual((made.workers.count, made.workers.standby), (7, 6))

    def test_relative_paths(self) -> None:
        """A relative path in an option starts where the command was given, although twistd leaves later."""
        (self.folder / "etc").mkdir()
        Path("etc/a.toml").write_text('[app]\ndirectory = "current"')
        options = self.parse("--config", "etc/a.toml", "--state-dir", "state", "--port", "unix:s")
        os.chdir("/")
        made = options.settings()
        self.assertEqual(made.app.directory, f"{self.folder}/etc/current")
        self.assertEqual(made.state_directory, f"{self.folder}/state")
        self.assertEqual(made.ports[0].path, f"{self.folder}/s")

    def test_plugin(self) -> None:
        """What stands behind `--` is a plugin with its own arguments, whatever they look like."""
        made = self.parse("--port", "81", "--", "web", "--port", "tcp:80", "--", "-x").settings()
        self.assertEqual(made.app.plugin, ("web", "--port", "tcp:80", "--", "-x"))
        self.assertEqual([port.port for port in made.ports], [81])

    def test_read_anew(self) -> None:
        """Asked again, the file is read again; a file that has gone bad raises, and ends nothing."""
        Path("a.toml").write_text("workers.count = 1")
        options = self.parse("--config", "a.toml")
        self.assertEqual(options.settings().workers.count, 1)
        Path("a.toml").write_text("workers.count = 2")
        self.assertEqual(options.settings().workers.count, 2)
        Path("a.toml").write_text("workers.count = 0")
        self.assertRaises(InvalidSettings, options.settings)


class BadInputTests(OptionsTestCase):
    """Wrong usage and wrong configuration: one clear text, the status of sysexits, no traceback."""

    def test_wrong_usage(self) -> None:
        """What cannot be parsed ends with 64 and one line that names it, and the nearest option there is."""
        for arguments, text in WRONG_USAGE:
            self.stderr.truncate(self.stderr.seek(0))
            self.assertIs(self.exit_status(*arguments), ExitStatus.USAGE)
            told = f"serverworker cannot start:\n  {text}\n{HELP_TAIL}"
            self.assertEqual(self.stderr.getvalue(), told)

    def test_bad_values(self) -> None:
        """Values that cannot be used are told all at once, each with its option, and end with 64."""
        for arguments, lines in BAD_VALUES:
            self.stderr.truncate(self.stderr.seek(0))
            self.assertIs(self.exit_status(*arguments), ExitStatus.USAGE)
            told = "".join(f"  {line}\n" for line in lines)
            self.assertEqual(self.stderr.getvalue(), f"serverworker cannot start:\n{told}{HELP_TAIL}")

    def test_bad_file(self) -> None:
        """A wrong file ends with 78, its lines with the file's name."""
        Path("a.toml").write_text("[workers]\ncount = 0\ncuont = 1")
        self.assertIs(self.exit_status("--config", "a.toml", "--port", "80"), ExitStatus.CONFIG)
        self.assertEqual(
            self.stderr.getvalue(),
            "serverworker cannot start:\n"
            "  a.toml: workers.count: must be a whole number, 1 to 1000, not 0\n"
            "  a.toml: workers.cuont: there is no such key; did you mean 'count'?\n",
        )

    def test_no_file(self) -> None:
        """A file that is not there ends with 78, and nothing is said of what it might have held."""
        self.assertIs(self.exit_status("--config", "a.toml", "--port", "socket=81"), ExitStatus.CONFIG)
        self.assertEqual(
            self.stderr.getvalue(), "serverworker cannot start:\n  a.toml: there is no such file\n"
        )

    def test_both(self) -> None:
        """With a wrong option and a wrong file both are told; the status is that of wrong usage."""
        Path("a.toml").write_text("[workers]\nstandby = -1")
        self.assertIs(self.exit_status("--config", "a.toml", "--workers", "x"), ExitStatus.USAGE)
        self.assertEqual(
            self.stderr.getvalue(),
            "serverworker cannot start:\n"
            "  a.toml: workers.standby: must be a whole number, 0 to 1000, not -1\n"
            f"  --workers: must be a whole number, 1 to 1000, not 'x'\n{HELP_TAIL}",
        )

    def test_an_option_does_not_heal_the_file(self) -> None:
        """A wrong key of the file is an error although an option overrides it: the next start may have none."""
        Path("a.toml").write_text("[workers]\ncount = 0")
        self.assertIs(self.exit_status("--config", "a.toml", "--workers", "2"), ExitStatus.CONFIG)

    def test_behind_twistd(self) -> None:
        """As twistd's sub-command too the status is ours, and an option of twistd's is told where it belongs."""
        for arguments, text in [
            (["--bogus"], "there is no option --bogus"),
            (["-n"], "-n is none of serverworker's own options: write it in front of `serverworker`"),
            (
                ["--pidfile="],
                "--pidfile is none of serverworker's own options: write it in front of `serverworker`",
            ),
        ]:
            self.stderr.truncate(self.stderr.seek(0))
            error = self.assertRaises(SystemExit, Twistd().parseOptions, ["serverworker", *arguments])
            self.assertIs(error.code, ExitStatus.USAGE)
            self.assertEqual(self.stderr.getvalue(), f"serverworker cannot start:\n  {text}\n{HELP_TAIL}")

    @given(
        st.lists(
            st.sampled_from(
                ["--port", "--workers", "--poll-timeout", "--app", "--show-output", "--state-dir", "--"]
            )
            | st.text(max_size=8)
            | st.sampled_from(["0", "1e999", "nan", "a=b", "unix:", "true"]),
            max_size=6,
        )
    )
    @settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
    def test_any_arguments(self, arguments: list[str]) -> None:
        """No arguments do anything but give settings or end with a text and the status 64."""
        self.stderr.truncate(self.stderr.seek(0))
        try:
            settle(self.parse(*arguments))
        except SystemExit as end:
            self.assertIn(end.code, (ExitStatus.USAGE, ExitStatus.OK))
            self.assertTrue(end.code is ExitStatus.OK or self.stderr.getvalue())


class CheckTests(OptionsTestCase):
    """``--check-config``."""

    def test_fine(self) -> None:
        """A fine configuration is told with every value in effect and its source, and ends with 0."""
        Path("a.toml").write_text(
            '[ports]\nserver = 80\nsocket = 81\n[polling]\nroute = "/beat"\ninterval_seconds = 7\n'
            '[app]\nresource = "a:b"\nenvironment = {TOKEN = "hush", "A B" = ""}\n'
            '[webhook]\nurl = "https://hush.example.org"\nsecret = "hush"\n'
        )
        status = self.exit_status("--check-config", "--config", "a.toml", "--port", "82", "--workers", "2")
        self.assertEqual((status, self.stderr.getvalue()), (0, ""))
        self.assertEqual(
            self.stdout.getvalue(),
            f"""\
configuration is fine
  app.resource = 'a:b'  (a.toml)
  app.wsgi = unset  (default)
  app.wsgi_threads = 10  (default)
  app.asgi = unset  (default)
  app.plugin = none  (default)
  app.command = unset  (default)
  app.agent = unset  (default)
  app.directory = unset  (default)
  app.python = unset  (default)
  app.environment = 'A B', TOKEN  (a.toml)
  app.version = unset  (default)
  app.reload = false  (default)
  ports.server = 'tcp:82'  (command line)
  ports.socket = 'tcp:81'  (a.toml)
  workers.count = 2  (command line)
  workers.standby = 1  (default)
  workers.overlap = true  (default)
  workers.bind = true  (default)
  polling.route = '/beat'  (a.toml)
  polling.interval_seconds = 7  (a.toml)
  polling.timeout_seconds = 5  (default)
  polling.failure_tolerance = 2  (default)
  watchdog.interval_seconds = 1  (default)
  watchdog.timeout_seconds = 10  (default)
  startup.timeout_seconds = 60  (default)
  drain.timeout_seconds = 30  (default)
  drain.unready_seconds = 0  (default)
  restart.initial_delay_seconds = 0.5  (default)
  restart.maximum_delay_seconds = 60  (default)
  restart.give_up_after = unset  (default)
  restart.give_up_window_seconds = 600  (default)
  restart.reset_after_seconds = 60  (default)
  limits.requests = unset  (default)
  limits.lifetime_seconds = unset  (default)
  limits.memory_mib = unset  (default)
  limits.memory_samples = 3  (default)
  output.show_server_output = true  (default)
  output.log_format = 'text'  (default)
  output.file = unset  (default)
  output.file_max_mib = 100  (default)
  output.files_kept = 5  (default)
  output.access_log = unset  (default)
  output.access_log_file = unset  (default)
  journal.max_mib = 10  (default)
  journal.max_days = 30  (default)
  journal.files = 5  (default)
  ipc.maximum_bytes = {16 * 2**20}  (default)
  ipc.timeout_seconds = 60  (default)
  control.endpoint = unset  (default)
  control.certificate = unset  (default)
  control.private_key = unset  (default)
  control.client_authority = unset  (default)
  dashboard.endpoint = unset  (default)
  dashboard.certificate = unset  (default)
  dashboard.private_key = unset  (default)
  dashboard.hosts = none  (default)
  health.endpoint = unset  (default)
  notify.events = 'WorkerDied', 'RestartFailed', 'Fault', 'CertificateExpiring', 'SessionEnding'  (default)
  notify.group_seconds = 300  (default)
  notify.budget_per_hour = 20  (default)
  notify.key_at_start = false  (default)
  mail.recipients = none  (default)
  mail.sender = unset  (default)
  mail.host = unset  (default)
  mail.port = unset  (default)
  mail.security = 'starttls'  (default)
  mail.user = unset  (default)
  mail.password = unset  (default)
  mail.password_file = unset  (default)
  webhook.url = set, and not shown  (a.toml)
  webhook.secret = set, and not shown  (a.toml)
  webhook.secret_file = unset  (default)
  webhook.timeout_seconds = 10  (default)
  state_directory = unset  (default)
""",
        )

    def test_not_fine(self) -> None:
        """A wrong one is told like at a start, and ends with 78."""
        Path("a.toml").write_text("[a]")
        self.assertIs(self.exit_status("--check-config", "--config", "a.toml"), ExitStatus.CONFIG)
        self.assertEqual(self.stdout.getvalue(), "")
        self.assertIn("a.toml: a: there is no such key", self.stderr.getvalue())

    def test_not_asked(self) -> None:
        """Without the option the start goes on and nothing is printed."""
        options = self.parse()
        conclude_check(options, settle(options))
        self.assertEqual((self.stdout.getvalue(), self.stderr.getvalue()), ("", ""))


class HelpTests(OptionsTestCase):
    """``--help`` and ``--version``."""

    def help(self) -> str:
        """What --help prints behind twistd."""
        self.patch(sys, "argv", ["twistd", "serverworker", "--help"])
        error = self.assertRaises(SystemExit, Twistd().parseOptions, ["serverworker", "--help"])
        self.assertEqual(error.code, 0)
        return self.stdout.getvalue()

    def test_every_option(self) -> None:
        """Each option has a text that says what its value is and what its default is (--app's, for its siblings)."""
        text = " ".join(self.help().split())
        for option in (
            *("--wsgi= module:attribute", "--wsgi-threads= How many", "--asgi= module:attribute"),
            *("--command= A program to run", "as a number in place of {fd}"),
            *("--app= module:attribute", "--agent= module:Class", "--config= The configuration file"),
            *("--check-config Say", "--workers= How many", "--standby= How many", "--poll-route= Path"),
            *("--poll-interval= Seconds", "--poll-timeout= Seconds", "--poll-tolerance= How many"),
            *("--startup-timeout= Seconds", "--drain-timeout= Seconds", "--state-dir= Folder"),
            *("--port= Where to listen", "--show-output= true or false", "--log-format= 'text', or 'json'"),
        ):
            self.assertIn(option, text)
        without = ("--wsgi ", "--asgi ", "--command ")
        self.assertEqual(text.count("(default"), len(Options.optParameters) + 1 - len(without))
        self.assertIn("socket=4321", text)

    def test_defaults(self) -> None:
        """The defaults that it tells are those that hold."""
        text = " ".join(self.help().split())
        self.assertIn("one poll of the health route to the next (default 10).", text)
        self.assertIn("How many workers serve (default 1).", text)
        self.assertIn("what workers print goes to the log (default true).", text)

    def test_shape(self) -> None:
        """It has a synopsis, and its examples stand on lines of their own, none wider than a terminal."""
        lines = self.help().splitlines()
        self.assertEqual(" ".join(lines).count("The monitor binds the ports"), 1)
        self.assertIn(
            "serverworker [--port 8080] [--app module:attribute] [options] [-- PLUGIN ARGUMENTS…]", lines[0]
        )
        self.assertIn("  twistd -n serverworker --port 8080 --app mysite.web:root", lines)
        self.assertIn("  twistd serverworker --config /etc/mysite/serverworker.toml --workers 4", lines)
        self.assertEqual([line for line in lines if len(line) > 80 and line != lines[0]], [])

    def test_version(self) -> None:
        """The version told is ours, with Twisted's behind it."""
        self.assertEqual(self.exit_status("--version"), 0)
        self.assertRegex(self.stdout.getvalue(), r"^serverworker \S.*, Twisted \d+\.\d+\.\S+\n$")
