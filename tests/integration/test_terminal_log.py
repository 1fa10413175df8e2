"""What an operator reads: lines for people on a terminal and in a pipe, JSON on request (M10, M11)."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
from typing import Any

from tests.integration.sessions import LONG, SessionTestCase, wait_until
from tests.integration.terminal import Output, Terminal, start

LOUD = r"""
    import sys

    from twisted.web.resource import Resource

    from serverworker import ServerWorker

    class Loud(Resource):
        isLeaf = True

        def render_GET(self, request):
            if request.path == b"/boom":
                print("a red \x1b[31malarm\x07 żółw")
                print("and to stderr", file=sys.stderr)
                ServerWorker.current().reactor.callLater(0, self.explode)
            return b"fine"

        def explode(self):
            raise RuntimeError("the fuse was short")
    """

LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}Z \[(monitor|worker \d+|exec)\] ")


class LogTests(SessionTestCase):
    """One crash, and how its story is told."""

    def story(
        self, *arguments: str, terminal: Terminal | None = None, twistd: tuple[str, ...] = (), **more: str
    ) -> str:
        """Run a session whose worker prints, crashes and is followed; answer all that was written until its end."""
        self.directory = self.folder(loud__py=LOUD)
        process = start(
            self.directory,
            *("-n", "--pidfile=", *twistd, "serverworker", "--port", "tcp:0:interface=127.0.0.1"),
            *("--app", "loud:Loud", "--state-dir", "state", *arguments),
            stdout=subprocess.PIPE if terminal is None else terminal.descriptor,
            **more,
        )
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        output = Output(os.dup(process.stdout.fileno())) if terminal is None else terminal.output
        log = self.directory / "log" if twistd else None

        def wait_for(pattern: str) -> re.Match[str]:
            if log is None:
                return output.wait_for(pattern)
            wait_until(lambda: log.exists() and re.search(pattern, log.read_text()) is not None, pattern)
            found = re.search(pattern, log.read_text())
            assert found is not None
            return found

        port = int(wait_for(r"server=tcp:(\d+)")[1])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LONG)
        connection.request("GET", "/boom")
        self.assertEqual(connection.getresponse().read(), b"fine")
        connection.close()
        wait_for("the report of worker 1's death is in")
        wait_for("worker 2 .*accepts connections")
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(LONG), 0)
        if terminal is None:
            output.wait_for_end()
            output.close()
            process.stdout.close()
        else:
            output.wait_for("Server Shut Down")
        return output.text

    def screen(self, **more: Any) -> str:
        terminal = Terminal()
        self.addCleanup(terminal.close)
        return self.story(terminal=terminal, TERM="xterm", **more).replace("\r\n", "\n")

    def report(self) -> str:
        """The crash's report on disk."""
        (path,) = (self.directory / "state" / "crashes").glob("*.json")
        return path.read_text()

    def test_terminal(self) -> None:
        """Each source has its colour on a terminal; what a worker prints has none of its own, nor rings the bell."""
        text = self.screen()
        dim, green, cyan, red, end = "\x1b[2m", "\x1b[32m", "\x1b[36m", "\x1b[31m", "\x1b[0m"
        when = rf"{re.escape(dim)}[-0-9]{{10}} [:.0-9]{{12}}Z{re.escape(end)}"
        alarm = rf"^{when} {re.escape(green)}\[worker 1\]{re.escape(end)} a red \\x1b\[31malarm\\x07 żółw$"
        self.assertRegex(text, re.compile(alarm, re.MULTILINE))
        death = rf"^{when} {re.escape(cyan)}\[monitor\]{re.escape(end)} {re.escape(red)}error:{re.escape(end)} worker 1 "
        self.assertRegex(text, re.compile(death, re.MULTILINE))
        self.assertNotIn("\x07", text)
        self.assertEqual(set(re.findall(r"\x1b\[[0-9;]*m", text)), {dim, green, cyan, red, end})

    def test_no_color(self) -> None:
        """With ``NO_COLOR`` there is none."""
        text = self.screen(NO_COLOR="1")
        self.assertIn("[worker 1] and to stderr\n", text)
        self.assertNotIn("\x1b", text)

    def test_pipe(self) -> None:
        """In a pipe lines are plain; each says when, who and what, and a traceback belongs to the line above it."""
        text = self.story()
        self.assertNotIn("\x1b", text)
        lines = text.splitlines()
        self.assertEqual([line for line in lines if not LINE.match(line) and not line.startswith("    ")], [])
        (death,) = (
            number for number, line in enumerate(lines) if "worker 1" in line and " died while " in line
        )
        self.assertRegex(lines[death], r"\[monitor\] error: .*RuntimeError: the fuse was short; worker 2\b")
        self.assertEqual(lines[death + 1], "    Traceback (most recent call last):")
        self.assertIn("in explode", "\n".join(lines[death : death + 8]))

    def test_json(self) -> None:
        """``--log-format json``: one object a line, with a traceback of its own, and nothing else."""
        entries = [json.loads(line) for line in self.story("--log-format", "json").splitlines()]
        for entry in entries:
            self.assertLessEqual({"time", "level", "source", "namespace", "text", "fields"}, set(entry))
        self.assertEqual(entries, sorted(entries, key=lambda entry: str(entry["time"])))
        (death,) = (entry for entry in entries if entry["fields"].get("event") == "WorkerDied")
        self.assertEqual((death["level"], death["source"]), ("error", "monitor"))
        self.assertIn("in explode", death["traceback"])
        (alarm,) = (entry for entry in entries if entry["text"].startswith("a red"))
        self.assertEqual((alarm["source"], alarm["text"]), ("worker 1", "a red \x1b[31malarm\x07 żółw"))

    def test_output_not_shown(self) -> None:
        """``--show-output false``: what workers print is not in the log, and in the crash report all the same."""
        text = self.story("--show-output", "false")
        self.assertNotIn("and to stderr", text)
        self.assertNotIn("alarm", text)
        self.assertIn("RuntimeError: the fuse was short", text)
        self.assertIn("and to stderr", self.report())

    def test_own_log_file(self) -> None:
        """The operator's own choice of a log stands: ``--logfile`` has it all, with its source; the terminal nothing."""
        text = self.story(twistd=("--logfile=log",))
        self.assertEqual(text, "")
        log = (self.directory / "log").read_text()
        self.assertIn("the fuse was short", log)
        self.assertIn(" [worker 1] ", log)
        self.assertIn(" [monitor] ", log)
