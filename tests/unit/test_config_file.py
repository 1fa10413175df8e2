"""The configuration file: reading it, and every way in which it cannot be read."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from serverworker.config_file import LARGEST_FILE, read_file
from serverworker.values.reading import combine
from serverworker.values.rules import InvalidSettings
from serverworker.values.settings import Settings

# All of the documentation's example.
WHOLE = """
state_directory = "/var/lib/mysite"
[app]
resource = "mysite.web:root"
wsgi_threads = 20
agent = "mysite.session:Wiki"
directory = "/srv/mysite/current"
python = "/srv/mysite/venv/bin/python"
version = "2.4.1"
reload = true
[app.environment]
DATABASE = "x"
[ports]
server = 8080
socket = "tcp:4321:interface=127.0.0.1"
[tls.server]
certificate = "site.pem"
private_key = "/etc/mysite/site.key"
minimum_version = "1.3"
[workers]
count = 2
standby = 0
overlap = false
bind = true
[polling]
route = "/"
interval_seconds = 20
timeout_seconds = 2.5
failure_tolerance = 0
[watchdog]
interval_seconds = 2
timeout_seconds = 11
[startup]
timeout_seconds = 61
[drain]
timeout_seconds = 31
unready_seconds = 5
[restart]
initial_delay_seconds = 0.25
maximum_delay_seconds = 30
reset_after_seconds = 90
give_up_after = 20
give_up_window_seconds = 300
[limits]
requests = 100000
lifetime_seconds = 86400
memory_mib = 500
memory_samples = 6
[output]
show_server_output = false
log_format = "json"
file = "/var/log/mysite/session.log"
file_max_mib = 0
files_kept = 9
access_log = "combined"
access_log_file = "access.log"
[journal]
max_mib = 20
max_days = 90
files = 3
[ipc]
maximum_bytes = 65536
timeout_seconds = 9
[control]
endpoint = "tcp:9443"
certificate = "control.pem"
private_key = "/etc/mysite/control.key"
client_authority = "operators.pem"
[dashboard]
endpoint = "tcp:9001:interface=127.0.0.1"
certificate = "/etc/mysite/site.pem"
private_key = "/etc/mysite/site.key"
hosts = ["ops.example.org"]
[health]
endpoint = "tcp:9002"
[notify]
events = ["WorkerDied", "LoginFailed"]
group_seconds = 60
budget_per_hour = 5
key_at_start = true
[mail]
recipients = ["ops@example.org"]
sender = "serverworker@example.org"
host = "smtp.example.org"
port = 2525
security = "tls"
user = "serverworker"
password_file = "mail.password"
[webhook]
url = "https://chat.example.org/hooks/x"
secret_file = "hook.secret"
timeout_seconds = 5
"""


class ReadingTests(SynchronousTestCase):
    """`read_file`."""

    def setUp(self) -> None:
        # A short path: a unix socket's ends at 107 bytes, wherever the checkout lies.
        self.folder = Path(tempfile.mkdtemp()).resolve()
        self.addCleanup(shutil.rmtree, self.folder)
        self.file = self.folder / "serverworker.toml"

    def settings(self, content: str | bytes) -> Settings:
        """What a file of this content comes to."""
        self.file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return combine(read_file(str(self.file)))

    def error(self, content: str | bytes) -> str:
        """What is said of a file of this content, its name taken off each line."""
        error = self.assertRaises(InvalidSettings, self.settings, content)
        lines = str(error).splitlines()
        self.assertEqual(len(lines), len(error.problems))
        for line in lines:
            self.assertTrue(line.startswith(f"{self.file}: "), line)
        return "\n".join(line.removeprefix(f"{self.file}: ") for line in lines)

    def test_whole(self) -> None:
        """Every key there is can be set."""
        made = self.settings(WHOLE)
        default = Settings()
        self.assertEqual(made.state_directory, "/var/lib/mysite")
        self.assertEqual(
            [port.describe() for port in made.ports], ["tcp:8080", "tcp:4321:interface=127.0.0.1"]
        )
        self.assertEqual(made.app.environment, {"DATABASE": "x"})
        self.assertEqual(made.polling.timeout_seconds, 2.5)
        self.assertEqual(made.control.certificate, str(self.folder / "control.pem"))
        self.assertEqual(made.tls[0].certificate, str(self.folder / "site.pem"))
        self.assertEqual(made.output.access_log_file, str(self.folder / "access.log"))
        told, untold = made.as_json(), default.as_json()
        left = {
            (table, key)
            for table in untold
            for key in untold[table]
            if told[table].get(key) == untold[table].get(key)
        }
        self.assertEqual(left, {("workers", "bind"), ("ports", "server"), ("app", "plugin")})

    def test_empty(self) -> None:
        """An empty file is a fine configuration: all defaults."""
        self.assertEqual(self.settings(""), Settings())

    def test_line_ends_and_mark(self) -> None:
        """A file from an editor with CRLF and a byte order mark is read like any other."""
        made = self.settings(b"\xef\xbb\xbf[workers]\r\ncount = 3\r\n")
        self.assertEqual(made.workers.count, 3)

    def test_problems_name_the_file(self) -> None:
        """Each problem starts with the file's name, then the key."""
        self.assertEqual(
            self.error("[workers]\ncount = 0\n[poling]\n"),
            "workers.count: must be a whole number, 1 to 1000, not 0\n"
            "poling: there is no such key; did you mean 'polling'?",
        )

    def test_between_keys(self) -> None:
        """A problem between two values names the file too, although one of them is a default."""
        self.assertEqual(
            self.error("[watchdog]\ninterval_seconds = 30"),
            "watchdog.timeout_seconds: must be at least watchdog.interval_seconds, which is 30, not 10",
        )

    def test_syntax(self) -> None:
        """What is no TOML is told with line, column and tomllib's words."""
        for content, text in [
            ("[ports]\nserver = \n", "is not TOML: Invalid value (at line 2, column 10)"),
            ("[ports\n", "is not TOML: Expected ']' at the end of a table declaration (at line 1, column 7)"),
            ("a = 1\na = 2\n", "is not TOML: Cannot overwrite a value (at line 2, column 6)"),
            ('a = "', "is not TOML: Unterminated string (at end of document)"),
            ("[a]\n[a]\n", "is not TOML: Cannot declare ('a',) twice (at line 2, column 3)"),
        ]:
            self.assertEqual(self.error(content), text)

    def test_too_deep(self) -> None:
        """Arrays in arrays without end are refused, and are no RecursionError."""
        self.assertEqual(
            self.error("a = " + "[" * 100_000), "is not TOML that can be read: it is nested too deeply"
        )

    def test_endless_number(self) -> None:
        """A number of more digits than Python reads is refused like any other fault of the file."""
        self.assertIn("is not TOML: ", self.error("a = " + "9" * 5000))

    def test_long_hexadecimal(self) -> None:
        """A number that Python reads and does not print is told without its digits."""
        self.assertEqual(
            self.error("[workers]\ncount = 0x" + "f" * 5000),
            "workers.count: must be a whole number, 1 to 1000, not a number too long to show",
        )

    def test_not_utf8(self) -> None:
        """Bytes that are no UTF-8 are told with the first of them and its line."""
        self.assertEqual(self.error(b"# a\n# caf\xe9\n"), "is not UTF-8: byte 0xe9 in line 2")

    def test_too_large(self) -> None:
        """A file that cannot be meant is not read to its end."""
        self.assertEqual(
            self.error("#" * (LARGEST_FILE + 1)),
            "is larger than 1048576 bytes, so it is hardly a configuration file",
        )
        self.assertEqual(self.settings("#" * LARGEST_FILE), Settings())

    def test_not_read(self) -> None:
        """A file that is missing, a folder, or no name at all is told as that."""
        loop = self.folder / "loop"
        loop.symlink_to(loop)
        for name, text in [
            ("none.toml", "none.toml: there is no such file"),
            (".", ".: is a folder, not a file"),
            ("", "'': is a folder, not a file"),
            ("loop", "loop: cannot be read: Too many levels of symbolic links"),
            ("x" * 300, f"{'x' * 300}: cannot be read: File name too long"),
            ("a\0b", "'a\\x00b': cannot be the name of a file: embedded null byte"),
        ]:
            error = self.assertRaises(InvalidSettings, combine, read_file(name, str(self.folder)))
            self.assertEqual(str(error), text)

    def test_not_permitted(self) -> None:
        """A file that belongs to somebody else is told as that."""

        def refuse(path: Path, mode: str) -> None:
            raise PermissionError(13, "Permission denied")

        self.patch(Path, "open", refuse)  # the suite may run as root, who may read everything
        error = self.assertRaises(InvalidSettings, combine, read_file("a.toml"))
        self.assertEqual(str(error), "a.toml: must not be read by this user")

    def test_relative_paths(self) -> None:
        """A relative path in the file starts at the folder of the file, wherever the monitor was started."""
        made = self.settings(
            'state_directory = "s"\n[app]\ndirectory = "current"\n[ports]\nserver = "unix:s"'
        )
        self.assertEqual(made.state_directory, f"{self.folder}/s")
        self.assertEqual(made.app.directory, f"{self.folder}/current")

    def test_links_are_not_followed(self) -> None:
        """Neither the file nor a folder in it is resolved: a switched link must be seen by the next worker."""
        (self.folder / "releases").mkdir()
        (self.folder / "releases" / "real.toml").write_text('[app]\ndirectory = "current"')
        self.file.symlink_to(self.folder / "releases" / "real.toml")
        (self.folder / "current").symlink_to(self.folder / "releases")
        made = combine(read_file(str(self.file)))
        self.assertEqual(made.app.directory, f"{self.folder}/current")

    def test_name_is_relative_to_the_folder(self) -> None:
        """The file's name starts at the folder that is given, and is told as it was written."""
        self.file.write_text("[workers]\ncount = 4")
        source = read_file("serverworker.toml", str(self.folder))
        self.assertEqual(source.label, "serverworker.toml")
        self.assertEqual(combine(source).workers.count, 4)

    def test_from_a_pipe(self) -> None:
        """What a shell's ``<(command)`` gives is read as well."""
        reading, writing = os.pipe()
        self.addCleanup(os.close, reading)
        os.write(writing, b"[workers]\ncount = 5")
        os.close(writing)
        self.assertEqual(combine(read_file(f"/dev/fd/{reading}")).workers.count, 5)
