"""The examples, the tutorial and the README's application: each run as its text says, over real HTTP."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import textwrap
import urllib.parse
from pathlib import Path
from typing import Any

from tests.integration.programs import CHECKOUT, own_environment
from tests.integration.sessions import LONG, SessionTestCase, TestSession, wait_until
from tests.integration.terminal import Terminal

LOOPBACK = "tcp:0:interface=127.0.0.1"


def arguments_in(text: str) -> list[str]:
    """What stands behind `serverworker` in a text's first twistd command, with free ports in place of its own."""
    found = re.search(r"twistd -n serverworker(.*)", text.replace("``", "\n"))
    assert found is not None, text
    words = shlex.split(found[1])
    position = words.index("--port")
    assert words[position + 1] == "8080", words
    del words[position : position + 2]
    return [re.sub(r"^(\w+)=\d+$", rf"\1={LOOPBACK}", word) for word in words]


class ExampleTestCase(SessionTestCase):
    """Starts what somebody else may copy."""

    def run_file(self, path: Path, text: str, *, name: str | None = None, **options: Any) -> TestSession:
        """Run the first command in `text`, in a folder that holds a copy of the file."""
        folder = self.folder()
        shutil.copy(path, folder / (name or path.name))
        session = self.session(*arguments_in(text), folder=folder, **options)
        session.serving()
        return session

    def example(self, name: str, **options: Any) -> TestSession:
        """Run an example as its own first lines say."""
        path = CHECKOUT / "examples" / name
        return self.run_file(path, path.read_text(), **options)

    def text_of(self, session: TestSession, path: str = "/") -> str:
        """The text of a page that is there."""
        status, body = session.get(path)
        self.assertEqual(status, 200, body)
        return body.decode()

    def post(self, session: TestSession, path: str, key: str = "", **fields: str) -> tuple[int, bytes]:
        """Send a form."""
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        body = urllib.parse.urlencode(fields).encode()
        return session.get(path, method="POST", body=body, headers=headers)

    def terminal(self) -> Terminal:
        """A terminal to run it on."""
        terminal = Terminal()
        self.addCleanup(terminal.close)
        return terminal

    def open(self, session: TestSession, name: str = "server") -> socket.socket:
        """A connection that ends with the test."""
        connection = session.connect(name)
        self.addCleanup(connection.close)
        return connection


class GuestbookTests(ExampleTestCase):
    """``examples/guestbook.py``."""

    def test_guestbook(self) -> None:
        """Entries are kept in the data base, so that a worker's death costs none of them."""
        session = self.example("guestbook.py")
        self.assertEqual(session.get("/heartbeat"), (200, b"ok\n"))
        self.assertEqual(self.post(session, "/", text="<b>Grüße</b>")[0], 302)
        self.assertEqual(self.post(session, "/", text=" ")[0], 400)
        os.kill(session.server_pid, signal.SIGKILL)
        self.assertEqual(self.post(session, "/", text="again")[0], 302)
        page = self.text_of(session)
        self.assertIn("<ul><li>again</li><li>&lt;b&gt;Grüße&lt;/b&gt;</li></ul>", page)
        self.assertTrue((session.folder / "guestbook.sqlite").exists())


class OperatorTests(ExampleTestCase):
    """``examples/steer.py``, beside a session."""

    def test_operator(self) -> None:
        """It hears of crashes, has the code started anew after three, and follows the next session as well."""
        session = self.session(folder=self.folder())
        session.serving()
        endpoint = f"unix:{session.state_directory}/run/control"
        output = session.folder / "operator.log"
        with output.open("wb") as file:
            operator = subprocess.Popen(
                [sys.executable, str(CHECKOUT / "examples" / "steer.py"), endpoint],
                env=own_environment({}),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )
        self.addCleanup(operator.wait, LONG)
        self.addCleanup(operator.kill)
        wait_until(lambda: "generation 1, 1 serving" in output.read_text(), "the operator")
        for number in (1, 2, 3):
            session.standby_ready()
            os.kill(session.server_pid, signal.SIGKILL)
            wait_until(lambda text=f"crash {number}: ": text in output.read_text(), "the next crash")  # type: ignore[misc]
        wait_until(lambda: "generation 2 serves" in output.read_text(), "the restart")
        session.end()
        wait_until(lambda: "no session: " in output.read_text(), "the loss of the session")
        again = self.session(folder=session.folder)
        again.serving()
        wait_until(lambda: output.read_text().count(" serving\n") == 2, "the next session")


class TwoPortsTests(ExampleTestCase):
    """``examples/two_ports.py``."""

    def test_chat(self) -> None:
        """Lines go to everybody, the page counts who is there, and people are told why the server goes away."""
        session = self.example("two_ports.py")
        people = [self.open(session, "socket").makefile("rwb", buffering=0) for _ in range(2)]
        self.assertEqual([person.readline() for person in people], [b"1 here\n", b"2 here\n"])
        self.assertEqual(self.text_of(session), "2\n")
        people[0].write(b"good evening\n")
        self.assertEqual([person.readline() for person in people], [b"good evening\n"] * 2)
        session.process.send_signal(signal.SIGHUP)
        self.assertEqual([person.readline() for person in people], [b"* this worker ends: restart\n"] * 2)
        for person in people:
            person.close()
        session.wait_for("RestartCompleted")
        wait_until(lambda: self.text_of(session) == "0\n", "an empty room")


class WikiTests(ExampleTestCase):
    """``examples/wiki.py``."""

    def test_pages_and_backup(self) -> None:
        """Pages can be written and read; a backup is for who has the key, who is shown its name or the error."""
        session = self.example("wiki.py")
        self.assertIn("<ul></ul>", self.text_of(session))
        self.assertEqual(session.get("/Nobody")[0], 404)
        self.assertEqual(self.post(session, "/Home", text="<i>sweet</i>"), (200, b"saved\n"))
        self.assertIn("<pre>&lt;i&gt;sweet&lt;/i&gt;</pre>", self.text_of(session, "/Home"))
        self.assertIn('<a href="/Home">Home</a>', self.text_of(session))
        for key in ("", "no-key"):
            self.assertEqual(self.post(session, "/backup", key)[0], 403)
        key = (session.state_directory / "key").read_text().strip()
        status, body = self.post(session, "/backup", key, mode="full")
        self.assertEqual(status, 200, body)
        (archive,) = (session.folder / "wiki-backups").glob("*.tar.gz")
        self.assertEqual(body.decode(), f"backup {archive.name} is made\n")
        with tarfile.open(archive) as backup:
            self.assertIn("./Home.txt", backup.getnames())
        status, body = self.post(session, "/backup", key, mode="../../../tmp/x")
        self.assertEqual(status, 500)
        self.assertIn(b"no backup: ValueError: a backup is full or quick, not '../../../tmp/x'", body)
        shutil.rmtree(session.folder / "wiki-pages")
        status, body = self.post(session, "/backup", key)
        self.assertEqual(status, 500)
        self.assertIn(b"no backup: RuntimeError: the backup failed with status 2: tar: ", body)
        self.assertEqual(list((session.folder / "wiki-backups").glob("*.tar.gz")), [archive])

    def test_events_and_console(self) -> None:
        """Readers are told why the server goes away; the console makes a backup; each crash is noted."""
        terminal = self.terminal()
        session = self.example("wiki.py", stdin=terminal.descriptor)
        first = session.serving()[0]["worker"]
        session.standby_ready()
        os.kill(session.pid_of(first), signal.SIGKILL)
        session.serving(2)
        notes = session.folder / "wiki-backups" / "crashes.txt"
        wait_until(notes.exists, "the note of the crash")
        self.assertRegex(notes.read_text(), rf"^worker {first}: killed by SIGKILL; worker \d+ takes over now")
        terminal.type("backup quick")
        session.wait_for_line("-quick.tar.gz")
        terminal.type("index start")
        session.wait_for_line("search index: start")
        terminal.type("index again")
        session.wait_for_line("usage: index start|stop")
        for end, reason in ((signal.SIGHUP, b"restart"), (signal.SIGTERM, b"session-end")):
            position = len(session.events)
            reader = self.open(session)
            reader.sendall(b"GET /events HTTP/1.0\r\n\r\n")
            events = reader.makefile("rb")
            while events.readline() != b"event: hello\n":
                pass  # the head; the socket has a deadline, and an end would be an empty line for ever
            session.process.send_signal(end)
            self.assertTrue(events.read().endswith(b"\n\nevent: bye\ndata: %s\n\n" % reason))
            if end is signal.SIGHUP:
                session.wait_for("WorkerExited", after=position)
        self.assertEqual(session.exit_status(), 0)


class TutorialTests(ExampleTestCase):
    """``docs/tutorial.rst``."""

    TEXT = (CHECKOUT / "docs" / "tutorial.rst").read_text()
    AGENT = TEXT[TEXT.index("An agent\n--------") :]

    def tutorial(self, number: int, text: str, **options: Any) -> TestSession:
        path = CHECKOUT / "docs" / "tutorial" / f"visits_{number}.py"
        return self.run_file(path, text, name="visits.py", **options)

    def visit(self, session: TestSession, *paths: str) -> list[str]:
        return [self.text_of(session, path) for path in paths]

    def numbers(self, *numbers: int) -> list[str]:
        return [f"You are visitor number {number}.\n" for number in numbers]

    def test_page(self) -> None:
        """A crash loses the count, which lived in the worker, and no visitor."""
        session = self.tutorial(1, self.TEXT)
        session.standby_ready()
        self.assertEqual(self.visit(session, "/", "/"), self.numbers(1, 2))
        self.assertEqual(self.visit(session, "/boom"), ["This worker is about to crash.\n"])
        report = session.report_of(1)
        self.assertEqual(report["cause"]["error"]["message"], "you asked for it")
        self.assertIn("in explode", report["cause"]["error"]["traceback"])
        self.assertEqual(self.visit(session, "/"), self.numbers(1))

    def test_agent(self) -> None:
        """The agent's count outlives the worker; new code takes over at a restart, and a mistake does not."""
        terminal = self.terminal()
        session = self.tutorial(2, self.AGENT, stdin=terminal.descriptor)
        self.assertEqual(
            self.visit(session, "/", "/", "/boom", "/"),
            [*self.numbers(1, 2), "This worker is about to crash.\n", *self.numbers(3)],
        )
        session.wait_for_line("worker 1 died: RuntimeError: you asked for it")
        session.wait_for("OutputLine", matching=lambda event: event["text"] == "this worker ends: crash")
        terminal.type("visits")
        session.wait_for_line("3 visits so far")
        session.standby_ready()
        file = session.folder / "visits.py"
        file.write_text(file.read_text().replace("You are visitor", "Welcome, visitor"))
        terminal.type("restart clean")
        session.wait_for("WorkerExited", matching=lambda event: "takes over" in event["reason"])
        wait_until(lambda: self.text_of(session) != "", "an answer")
        self.assertRegex(self.text_of(session), r"^Welcome, visitor number \d+\.\n$")
        file.write_text("import nothing_of_that_name\n" + file.read_text())
        terminal.type("restart clean")
        self.assertIn("nothing_of_that_name", session.wait_for("RestartFailed")["text"])
        self.assertRegex(self.text_of(session), r"^Welcome, visitor number \d+\.\n$")


class HowToTests(ExampleTestCase):
    """``docs/howto``."""

    def test_test_your_agent(self) -> None:
        """The tests of an agent that it shows pass, by the command that it gives."""
        text = (CHECKOUT / "docs" / "howto" / "test-your-agent.rst").read_text()
        command = re.search(r"^   \$ python (-m twisted\.trial test_notes)$", text, re.M)
        assert command is not None
        folder = self.folder()
        for name in ("notes.py", "test_notes.py"):
            shutil.copy(CHECKOUT / "docs" / "howto" / "code" / name, folder)
        done = subprocess.run(
            [sys.executable, *command[1].split()],
            cwd=folder,
            env=own_environment({}),
            capture_output=True,
            text=True,
            timeout=LONG,
            check=False,
        )
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertRegex(done.stdout, r"PASSED \(successes=\d+\)")


class ReadmeTests(ExampleTestCase):
    """``README.rst``."""

    def test_hello(self) -> None:
        """Its application says hello, crashes on request, and says hello again."""
        text = (CHECKOUT / "README.rst").read_text()
        block = re.search(r"\.\. code-block:: python\n\n((?:   .*\n|\n)+)", text)
        assert block is not None
        folder = self.folder(hello__py=textwrap.dedent(block[1]))
        session = self.session(*arguments_in(text[text.index("``hello.py``") :]), folder=folder)
        session.serving()
        self.assertEqual(self.text_of(session), "Hello, world!")
        self.assertEqual(self.text_of(session, "/boom"), "This worker is about to crash.")
        self.assertEqual(session.report_of(1)["cause"]["error"]["type"], "builtins.ZeroDivisionError")
        self.assertEqual(self.text_of(session), "Hello, world!")
