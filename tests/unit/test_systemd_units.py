"""`serverworkerctl systemd`: what a unit says for which options, and what it is refused for."""

from __future__ import annotations

import fcntl
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from serverworker import options as command_line
from serverworker.ctl import systemd
from serverworker.ctl.finding import NoSession
from serverworker.ctl.present_options import CommandLine, given_options, running_options
from serverworker.ctl.systemd import Wanted, parse, units
from serverworker.ctl.units import quoted
from serverworker.options import Options
from serverworker.processes.state_directory import CONTROL_FILE, LOCK_NAME
from serverworker.values import reading
from serverworker.values.errors import BadCommand, ConfigurationError
from tests.integration.sessions import wait_until

LINE = CommandLine(
    words=(), directory="/srv/mysite", program="/srv/mysite/venv/bin", interpreter="/usr/bin/python3.11"
)


class UnitsTestCase(SynchronousTestCase):
    """Units for options that were given in /srv/mysite."""

    def units(self, *words: str, line: CommandLine = LINE, **wanted: Any) -> dict[str, str]:
        options = Options()
        options.folder = line.directory
        options.parseOptions(list(words))
        return units(Wanted(name="mysite", **wanted), line, options, options.settings())

    def service(self, *words: str, **wanted: Any) -> list[str]:
        return self.units(*words, **wanted)["mysite.service"].splitlines()

    def value(self, name: str, *words: str, **wanted: Any) -> str:
        """The one value of a key in the service."""
        (found,) = [line for line in self.service(*words, **wanted) if line.startswith(f"{name}=")]
        return found.partition("=")[2]

    def refused(self, *words: str, line: CommandLine = LINE, **wanted: Any) -> str:
        """Why it is refused: one problem."""
        error = self.assertRaises(ConfigurationError, self.units, *words, line=line, **wanted)
        first, problem = str(error).splitlines()
        self.assertEqual(first, "this cannot work under systemd:")
        return problem.strip()


class ServiceTests(UnitsTestCase):
    """The ``.service``."""

    def test_sections(self) -> None:
        """Three, in order, and no key twice in one of them but where a second one adds to the first."""
        lines = self.service("--port", "8080", "--app", "mysite:root")
        self.assertEqual([each for each in lines if each[:1] == "["], ["[Unit]", "[Service]", "[Install]"])
        keys = [each.partition("=")[0] for each in lines if "=" in each]
        self.assertEqual({key for key in keys if keys.count(key) > 1}, {"SystemCallFilter"})

    def test_start(self) -> None:
        """In the foreground, without a pid file, where relative paths start."""
        start = self.value("ExecStart", "--app", "mysite:root", "--port", "8080")
        program = "/srv/mysite/venv/bin/twistd --nodaemon --pidfile= serverworker"
        self.assertEqual(start, f"{program} --app=mysite:root --port=8080")
        self.assertEqual(self.value("WorkingDirectory"), "/srv/mysite")

    def test_paths_are_absolute(self) -> None:
        """Whichever folder systemd starts it in."""
        folder = Path(tempfile.mkdtemp(prefix="sw-"))  # a unix socket needs a short path
        self.addCleanup(shutil.rmtree, folder)
        (folder / "site.toml").write_text("")
        options = Options()
        options.folder = str(folder)
        endpoints = ("--control", "unix:c", "--dashboard", "unix:d", "--health", "unix:h:mode=660")
        words = (
            "--config",
            "site.toml",
            "--state-dir",
            "state",
            *endpoints,
            "--port",
            "unix:s",
            "--port",
            "b=1",
        )
        options.parseOptions(list(words))
        options.settings()
        self.assertEqual(
            systemd.absolute_words(options),
            [
                f"--config={folder}/site.toml",
                f"--control=unix:{folder}/c:mode=600",
                f"--dashboard=unix:{folder}/d:mode=600",
                f"--health=unix:{folder}/h:mode=660",
                f"--state-dir={folder}/state",
                f"--port=unix:{folder}/s",
                "--port=b=1",
            ],
        )

    def test_every_option_with_a_path_is_known(self) -> None:
        """One that is added to the command line is added to the table as well, or its path stays relative."""
        placed = {
            option.name
            for option in command_line._OPTIONS
            if option.key in reading._FOLDER_KEYS or option.key.endswith(".endpoint")
        }
        self.assertEqual(set(systemd._PLACED), placed)

    def test_plugin(self) -> None:
        """What stands behind -- stays there, quoted where systemd needs it."""
        start = self.value(
            "ExecStart", "--port", "8080", "--", "web", "--path", "/srv/my site", "100%", "$HOME"
        )
        self.assertTrue(start.endswith('--port=8080 -- web --path "/srv/my site" 100%% $$HOME'), start)

    def test_quoted(self) -> None:
        """systemd reads the same words again."""
        for word, text in (
            ("plain:root", "plain:root"),
            ("", '""'),
            ('a "b" c', '"a \\"b\\" c"'),
            ("it's", '"it\'s"'),
            ("back\\slash", '"back\\\\slash"'),
            ("50%", "50%%"),
            ("$HOME", "$$HOME"),
            (";", '";"'),
        ):
            self.assertEqual(quoted(word), text)

    def test_deadlines(self) -> None:
        """systemd waits longer than the session itself, and the watchdog's end is short."""
        self.assertEqual(self.value("TimeoutStopSec"), "45")
        self.assertEqual(self.value("TimeoutAbortSec"), "15")
        self.assertEqual(self.value("TimeoutStopSec", "--drain-timeout", "2.5"), "18")
        self.assertEqual(self.value("TimeoutAbortSec", "--drain-timeout", "2.5"), "8")

    def test_low_port(self) -> None:
        """The right to bind one is there where one is bound, and nowhere else."""
        self.assertEqual(self.value("AmbientCapabilities", "--port", "80"), "CAP_NET_BIND_SERVICE")
        self.assertEqual(self.value("CapabilityBoundingSet", "--port", "80"), "CAP_NET_BIND_SERVICE")
        self.assertEqual(self.value("CapabilityBoundingSet", "--health", "tcp:81"), "CAP_NET_BIND_SERVICE")
        for words, socket in ((("--port", "1024"), False), (("--port", "80"), True)):
            self.assertEqual(self.value("CapabilityBoundingSet", *words, socket=socket), "")
            self.assertNotIn("AmbientCapabilities=CAP_NET_BIND_SERVICE", self.service(*words, socket=socket))

    def test_user(self) -> None:
        """One of its own, or the one that is named."""
        self.assertIn("DynamicUser=yes", self.service())
        self.assertIn("User=wiki", self.service(user="wiki"))
        self.assertNotIn("DynamicUser=yes", self.service(user="wiki"))

    def test_reload(self) -> None:
        """By serverworkerctl, which waits and says what came of it; by SIGHUP where that would need a key."""
        self.assertEqual(self.value("ExecReload"), "/srv/mysite/venv/bin/serverworkerctl restart clean")
        self.assertEqual(
            self.value("ExecReload", "--control", "unix:/run/mysite/c"),
            "/srv/mysite/venv/bin/serverworkerctl restart clean",
        )
        config = Path(self.mktemp()).absolute()
        config.write_text('[control]\nendpoint = "tcp:9443"\ncertificate = "/srv/mysite/c.pem"\n')
        options = Options()
        options.parseOptions(["--config", str(config)])
        settings = options.settings()
        options["config"] = "/srv/mysite/site.toml"  # this folder may be one that a unit cannot see
        text = units(Wanted(name="mysite"), LINE, options, settings)["mysite.service"]
        self.assertIn("ExecReload=/bin/kill -HUP $MAINPID\n", text)

    def test_programs(self) -> None:
        """A program of its own would be told to end before its worker says so; it is found beside twistd."""
        lines = self.service("--command", "gunicorn mysite:app")
        self.assertIn("KillMode=mixed", lines)
        path = "/srv/mysite/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"
        self.assertIn(f"Environment=PATH={path}", lines)
        self.assertIn("KillMode=control-group", self.service())

    def test_twistd_options(self) -> None:
        """The reactor stays."""
        words = (
            "/venv/bin/twistd",
            "-n",
            "--pidfile=x",
            "--reactor",
            "asyncio",
            "serverworker",
            "--port",
            "1",
        )
        line = given_options(words, "/srv/mysite", "/venv/bin", "/usr/bin/python3")
        self.assertEqual((line.words, line.twistd), (("--port", "1"), ("--reactor=asyncio",)))
        start = self.value("ExecStart", line=line)
        self.assertEqual(start, "/venv/bin/twistd --nodaemon --pidfile= --reactor=asyncio serverworker")


class SocketTests(UnitsTestCase):
    """The ``.socket`` units."""

    def test_one_for_each_port(self) -> None:
        """With the port's name, its address and its queue; the service requires and takes all."""
        found = self.units(
            *("--port", "80", "--port", "six=tcp6:81:interface=::1", "--port", "u=unix:/run/u.s:mode=660"),
            socket=True,
        )
        self.assertEqual(
            list(found), ["mysite.service", "mysite.socket", "mysite-six.socket", "mysite-u.socket"]
        )
        names = "mysite.socket mysite-six.socket mysite-u.socket"
        for key in ("Requires", "After", "Sockets", "Also"):
            self.assertIn(f"{key}={names}", found["mysite.service"].splitlines())
        expected = {
            "mysite.socket": ["ListenStream=0.0.0.0:80", "FileDescriptorName=server"],
            "mysite-six.socket": [
                "ListenStream=[::1]:81",
                "FileDescriptorName=six",
                "BindIPv6Only=ipv6-only",
            ],
            "mysite-u.socket": ["ListenStream=/run/u.s", "FileDescriptorName=u", "SocketMode=0660"],
        }
        for name, lines in expected.items():
            for each in (*lines, "Backlog=1024", "Service=mysite.service"):
                self.assertIn(each, found[name].splitlines())

    def test_refused(self) -> None:
        """What no socket can be for."""
        self.assertIn("--reload is for development", self.refused("--reload"))
        self.assertIn("the port server is tcp:0, any free one", self.refused("--port", "0", socket=True))
        self.assertIn(
            "/run/mysite goes with everything in it when the service stops: put it beside, such as /run/mysite.server",
            self.refused("--port", "unix:/run/mysite/s", socket=True),
        )
        config = Path(self.mktemp()).absolute()
        config.write_text("[workers]\nbind = false\noverlap = false\n")
        options = Options()
        options.parseOptions(["--config", str(config)])
        settings = options.settings()
        options["config"] = "/srv/mysite/site.toml"
        error = self.assertRaises(
            ConfigurationError, units, Wanted(name="mysite", socket=True), LINE, options, settings
        )
        self.assertIn("workers.bind is false", str(error))


class SandboxTests(UnitsTestCase):
    """Files."""

    def test_hidden_folders(self) -> None:
        """What the sandbox hides is named, with where it could be instead."""
        for line, what in (
            (
                evolve(LINE, directory="/home/me/site"),
                "the current folder, which is the application's: /home/me/site",
            ),
            (evolve(LINE, program="/tmp/site/bin"), "the folder of twistd: /tmp/site/bin"),
            (
                evolve(LINE, interpreter="/root/pythons/bin/python"),
                "the interpreter of twistd: /root/pythons",
            ),
        ):
            said = self.refused(line=line)
            self.assertTrue(said.startswith(what), said)
            self.assertIn("put it elsewhere, such as below /srv", said)

    def test_links_are_followed(self) -> None:
        """A link outside that leads into a home is as good as the home."""
        self.patch(os.path, "realpath", lambda path: {"/srv/mysite": "/home/me"}.get(path, path))
        said = self.refused()
        self.assertIn("/srv/mysite, which leads to /home/me, is below /home, and ProtectHome", said)

    def test_state_directory(self) -> None:
        """It is the unit's; another one is refused, with what to do."""
        self.assertIn(
            "--state-dir=/var/lib/mysite", self.value("ExecStart", "--state-dir", "/var/lib/mysite")
        )
        said = self.refused("--state-dir", "/srv/state")
        self.assertEqual(
            said,
            "--state-dir: /srv/state is not the unit's StateDirectory=, which is /var/lib/mysite: leave it out, or "
            "choose another --name",
        )

    def test_sockets_of_operators(self) -> None:
        """In a folder of the unit's they need nothing; elsewhere the folder is there and the user is known."""
        self.assertEqual(
            [each for each in self.service("--control", "unix:/run/mysite/c") if "ReadWritePaths" in each], []
        )
        self.assertIn("there is no folder /run/nowhere", self.refused("--dashboard", "unix:/run/nowhere/d"))
        self.assertIn("give it a user with --user", self.refused("--health", "unix:/srv/h"))
        self.assertEqual(self.value("ReadWritePaths", "--health", "unix:/srv/h", user="wiki"), "/srv")
        self.assertIn("ProtectHome", self.refused("--port", "unix:/home/me/s", user="wiki"))

    def test_writable(self) -> None:
        """What else the application writes to is named by the operator, and is there: else no unit starts with it."""
        there = ("/srv/a", "/srv/b c")
        self.patch(Path, "exists", lambda path: str(path) in there)
        self.assertEqual(self.value("ReadWritePaths", writable=there), '/srv/a "/srv/b c"')
        self.assertIn("--writable: /tmp/x", self.refused(writable=("/tmp/x",)))
        self.assertIn("--writable: there is no /srv/c", self.refused(writable=("/srv/c",)))

    def test_log_files(self) -> None:
        """A folder below /var/log is made by systemd."""
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        config = folder / "site.toml"
        config.write_text(
            '[output]\nfile = "/var/log/wiki/log"\naccess_log = "json"\naccess_log_file = "/dev/stderr"\n'
        )
        options = Options()
        options.parseOptions(["--config", str(config)])
        settings = options.settings()
        options["config"] = "/srv/mysite/site.toml"
        text = units(Wanted(name="mysite"), LINE, options, settings)["mysite.service"]
        self.assertIn("LogsDirectory=wiki\n", text)
        self.assertNotIn("ReadWritePaths", text)


class CommandTests(SynchronousTestCase):
    """The command's own words, and whose options it takes."""

    def bad(self, *words: str) -> str:
        return str(self.assertRaises(BadCommand, parse, words))

    def test_parse(self) -> None:
        """What stands behind -- is the session's, even where it looks like ours."""
        wanted = parse(("--name", "a", "--user", "wiki", "--socket", "--", "--port", "1", "--", "web"))
        expected = Wanted(name="a", user="wiki", socket=True, words=("--port", "1", "--", "web"))
        self.assertEqual(wanted, expected)
        self.assertEqual(parse(("--",)).words, ())
        self.assertIsNone(parse(()).words)

    def test_own_paths(self) -> None:
        """They start where the operator is, which need not be where the session runs whose options are taken."""
        wanted = parse(("--output", "units", "--writable", "data"))
        here = Path.cwd()
        self.assertEqual((wanted.output, wanted.writable), (f"{here}/units", (f"{here}/data",)))

    def test_bad(self) -> None:
        """Each says what it takes."""
        self.assertIn("option --nmae not recognized; it takes [--name NAME]", self.bad("--nmae", "x"))
        self.assertIn("'8080' is no option of it", self.bad("8080"))
        self.assertIn("not 'a b'", self.bad("--name", "a b"))
        self.assertIn("not '../x'", self.bad("--name", "../x"))
        self.assertIn("not 'a b'", self.bad("--user", "a b"))
        self.assertIn("nothing of a session needs root", self.bad("--user", "root"))

    def test_twistd_options_without_a_place(self) -> None:
        """Its own log, user and folder are the unit's business; a plugin that is not ours is none of it."""
        for words, said in (
            (("twistd", "--logfile=x", "serverworker"), "option --logfile has no place in a unit"),
            (("twistd", "--uid", "33", "serverworker"), "option --uid has no place in a unit"),
            (("twistd", "-n", "web"), "behind -- belongs `twistd serverworker …`"),
            (("twistd", "--nodeamon", "serverworker"), "--nodeamon"),
        ):
            error = self.assertRaises(BadCommand, given_options, words, "/srv", "/srv", "/usr/bin/python3")
            self.assertIn(said, str(error))

    def test_output(self) -> None:
        """The files are written there, and named; a folder that is not there is said."""
        folder = self.mktemp()
        texts = {"mysite.service": "[Unit]\n"}
        error = self.assertRaises(BadCommand, systemd._write, Wanted(output=folder), texts)
        self.assertIn("No such file or directory", str(error))
        Path(folder).mkdir()
        with redirect_stdout(io.StringIO()) as said:
            systemd._write(Wanted(output=folder), texts)
        self.assertEqual(said.getvalue(), f"{folder}/mysite.service\n")
        self.assertEqual(Path(folder, "mysite.service").read_text(), "[Unit]\n")


class RunningTests(SynchronousTestCase):
    """The options of the session that runs."""

    def session(self, *command: str) -> dict[str, str]:
        """A process with that command line that holds a state directory; answers the environment to find it by."""
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        script = folder / command[0]
        script.write_text("input()")
        process = subprocess.Popen(
            [sys.executable, command[0], *command[1:]], stdin=subprocess.PIPE, cwd=folder, text=True
        )
        self.addCleanup(process.communicate, "\n", 60)
        wait_until(
            lambda: command[0] in Path(f"/proc/{process.pid}/cmdline").read_text(), "the program's start"
        )
        lock = os.open(folder / LOCK_NAME, os.O_CREAT | os.O_RDWR)
        self.addCleanup(os.close, lock)
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.write(lock, f"{process.pid}\n".encode())
        (folder / CONTROL_FILE).write_text(json.dumps({"control": "unix:/nowhere"}))
        return {"STATE_DIRECTORY": str(folder)}

    def test_command_line(self) -> None:
        """Its words, the folder that it runs in, its interpreter and the folder of its twistd."""
        environ = self.session("twistd", "-n", "serverworker", "--port", "1", "--", "web")
        line = running_options(None, environ)
        self.assertEqual(line.words, ("--port", "1", "--", "web"))
        self.assertEqual(line.directory, environ["STATE_DIRECTORY"])
        self.assertEqual(line.program, environ["STATE_DIRECTORY"])
        self.assertEqual(line.interpreter, os.path.realpath(sys.executable))

    def test_not_by_twistd(self) -> None:
        """A session that something else has started is not guessed at."""
        error = self.assertRaises(BadCommand, running_options, None, self.session("twist", "serverworker"))
        self.assertIn("a unit has twistd; give its options", str(error))

    def test_no_session(self) -> None:
        """The usual words."""
        self.assertRaises(NoSession, running_options, "/nowhere/at/all", {})
