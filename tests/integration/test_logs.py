"""Where the log goes: to files that are turned over or moved away, to disks that fail, to readers that are too slow."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

from tests.integration.sessions import LONG, SessionTestCase, TestSession, wait_until
from tests.integration.test_daemon import Daemon

LOUD = """
    import os
    from threading import Thread
    from twisted.web.resource import Resource

    class Loud(Resource):
        isLeaf = True
        def render_GET(self, request):
            if request.path.count(b"/") == 1:
                return b"fine"
            _, what, number = request.path.decode().split("/")
            Thread(target=globals()[what], args=[int(number)], daemon=True).start()
            return b"begun"

    def prints(number):
        for each in range(number):
            print(f"line {each:06} {'.' * 84}")
        print("that was all")

    def writes(number):
        data = b"".join(b"line %06d %s\\n" % (each, b"." * 84) for each in range(number))
        for start in range(0, len(data), 50_000):
            os.write(1, data[start : start + 50_000])
        os.write(1, b"that was all\\n")

    def long(number):
        for each in range(number):
            print(f"long {each} " + "x" * 1_000_000 + "|")
        print("that was all")
"""
NUMBER = re.compile(r'"text": "line (\d{6}) \.{84}", "fields"')
"""In a line of JSON, as `TestSession` has its log."""
SHORT = "[watchdog]\ntimeout_seconds = 2\ninterval_seconds = 0.5\n"
"""With these a worker that waits in print waits for a second, and not for five."""


def peak_memory(pid: int) -> int:
    """The most that a process has ever held, in MiB."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) // 1024


class LogCase(SessionTestCase):
    """Sessions whose worker prints as much as it is asked to."""

    def loud(self, configuration: str, *arguments: str, **options: Any) -> TestSession:
        folder = self.folder(loud__py=LOUD, serverworker__toml=configuration)
        session = self.session(
            *("--config", "serverworker.toml", "--app", "loud:Loud", "--standby", "0", *arguments),
            folder=folder,
            **options,
        )
        self.addCleanup(session.reading.set)
        session.serving()
        self.log = folder / "site.log"
        return session

    def wait_in_log(self, text: str, path: Path | None = None) -> str:
        """Wait until a log file has a text; answers all of it."""
        path = path or self.log
        wait_until(lambda: path.exists() and text in path.read_text(), f"{text!r} in {path}")
        return path.read_text()

    def files(self) -> str:
        """The log file and those before it, oldest first."""
        paths = sorted(self.log.parent.glob("site.log.*"), key=lambda path: -int(path.suffix[1:]))
        return "".join(path.read_text() for path in (*paths, self.log))


class FileTests(LogCase):
    """``[output] file``."""

    def test_nothing_is_lost(self) -> None:
        """10 MB as fast as a worker can, while it is turned over time and again: each line is there, once, in order."""
        session = self.loud('[output]\nfile = "site.log"\nfile_max_mib = 2\nfiles_kept = 50\n')
        before = peak_memory(session.process.pid)
        session.get("/writes/100000")
        self.wait_in_log("that was all")
        text = self.files()
        self.assertEqual([int(number) for number in NUMBER.findall(text)], list(range(100_000)))
        turned_over = list(self.log.parent.glob("site.log.*"))
        self.assertGreaterEqual(len(turned_over), 10)
        for path in turned_over:
            self.assertLessEqual(path.stat().st_size, 2 * 2**20)
        session.get("/long/3")
        wait_until(lambda: self.files().count('"text": "that was all", "fields"') == 2, "the long lines")
        texts = [str(json.loads(line)["text"]) for line in self.files().splitlines()[-1000:]]
        pieces = [text for text in texts if text.startswith(("long ", "x")) or text == "|"]
        whole = "".join(piece.removesuffix(" [... continues]") for piece in pieces)
        self.assertEqual(whole, "".join(f"long {each} {'x' * 1_000_000}|" for each in range(3)))
        self.assertLess(peak_memory(session.process.pid) - before, 32)
        self.assertEqual(session.end(), 0)
        self.assertIn("the session has ended", self.files())

    def test_moved_away(self) -> None:
        """As logrotate does it: it is moved, SIGUSR1 sent, and a new one is there at once; a line more is no lost one."""
        session = self.loud('[output]\nfile = "site.log"\nfile_max_mib = 0\n')
        session.get("/prints/5")
        self.wait_in_log("that was all")
        moved = self.log.with_name("moved")
        self.log.rename(moved)
        session.process.send_signal(signal.SIGUSR1)
        self.wait_in_log("SIGUSR1")
        session.get("/prints/5")
        text = self.wait_in_log("that was all")
        self.assertEqual([json.loads(line)["text"] for line in text.splitlines()].count("that was all"), 1)
        self.assertEqual(moved.read_text().count("that was all"), 2)  # as text and among the fields
        self.assertEqual(session.end(), 0)

    def test_no_folder(self) -> None:
        """A disk that is not there yet: it is said once, nothing waits for it, and all is in the file once it is."""
        session = self.loud('[output]\nfile = "disk/site.log"\n')
        fault = session.wait_for("Fault")
        self.assertIn("disk/site.log", fault["where"])
        self.assertIn("No such file or directory", fault["error"]["message"])
        session.get("/prints/5")
        session.wait_for("OutputLine", matching=lambda event: event["text"] == "that was all")
        path = session.folder / "disk" / "site.log"
        path.parent.mkdir()
        text = self.wait_in_log("that was all", path)
        self.assertEqual(text.count("the session runs"), 1)
        self.assertEqual(len(NUMBER.findall(text)), 5)
        self.assertEqual([event["event"] for event in session.events].count("Fault"), 1)

    def test_daemon(self) -> None:
        """Without ``-n`` it takes the place of ``twistd.log``."""
        folder = self.folder(loud__py=LOUD, serverworker__toml='[output]\nfile = "site.log"\n')
        arguments = ("--config", "serverworker.toml", "--app", "loud:Loud", "--standby", "0")
        daemon = Daemon(folder, "--port", "tcp:0:interface=127.0.0.1", *arguments)
        twistd_log, daemon.log_file = daemon.log_file, folder / "site.log"
        launched = daemon.launch()
        self.assertEqual((launched.returncode, launched.stdout), (0, ""))
        daemon.wait_for("the server is running")
        self.assertEqual(daemon.get(), b"fine")
        os.kill(daemon.pid, signal.SIGTERM)
        daemon.wait_for("Server Shut Down")
        wait_until(lambda: not daemon.pid_file.exists(), "the daemon's end")
        self.assertFalse(twistd_log.exists())


class SignalTests(LogCase):
    """SIGUSR1 where the log is no file of ours."""

    def test_no_file(self) -> None:
        """It ends nobody, as it would by default."""
        session = self.loud("")
        session.process.send_signal(signal.SIGUSR1)
        session.wait_for_line("SIGUSR1")
        self.assertEqual(session.get(), (200, b"fine"))
        self.assertEqual(session.end(), 0)

    def test_twistds_file(self) -> None:
        """``--logfile``: twistd turns its own file over, as it does without us."""
        folder = self.folder(loud__py=LOUD)
        session = self.session(
            *("--app", "loud:Loud", "--standby", "0"),
            folder=folder,
            runner=("twistd", "-n", "--pidfile=", "--logfile=twistd.log"),
        )
        log = folder / "twistd.log"
        self.wait_in_log("the server is running", log)
        session.process.send_signal(signal.SIGUSR1)
        wait_until((folder / "twistd.log.1").exists, "the former file")
        self.wait_in_log("SIGUSR1", log)
        self.assertEqual(session.end(), 0)


class SlowReaderTests(LogCase):
    """What becomes of output that nobody takes away."""

    def numbers(self, session: TestSession) -> list[int]:
        texts = [event["text"] for event in list(session.events) if event["event"] == "OutputLine"]
        return [int(text[5:11]) for text in texts if text.startswith("line ")]

    def test_stuck(self) -> None:
        """The worker waits, for a second here; then lines are dropped and counted, and the count is said.

        Nothing else minds: requests are answered, pings too, and the monitor's memory stays what it was.
        """
        session = self.loud(SHORT)
        before = peak_memory(session.process.pid)
        session.reading.clear()
        started = time.monotonic()
        session.get("/writes/200000")
        while time.monotonic() - started < 3:
            self.assertEqual(session.get(), (200, b"fine"))
            time.sleep(0.05)
        session.reading.set()
        dropped = session.wait_for("OutputDropped")
        self.assertEqual((dropped["origin"], dropped["sink"]), ("worker 1", "the log on stdout"))
        there = self.numbers(session)
        # Those before the gap, those behind it if there are any, and none twice.
        self.assertEqual(there, sorted(set(there)))
        self.assertEqual(len(there) + dropped["lines"], 200_001)
        self.assertLess(peak_memory(session.process.pid) - before, 24)
        self.assertNotIn("WorkerDied", [event["event"] for event in session.events])
        session.get("/prints/3")
        session.wait_for("OutputLine", matching=lambda event: event["text"] == "that was all")
        self.assertEqual(session.end(), 0)

    def test_slow(self) -> None:
        """One that reads slowly but steadily slows the worker down, and loses nothing."""
        session = self.loud("")
        session.get("/writes/30000")
        for _ in range(20):
            session.reading.clear()
            time.sleep(0.05)
            session.reading.set()
            time.sleep(0.01)
        session.wait_for("OutputLine", matching=lambda event: event["text"] == "that was all")
        self.assertEqual(self.numbers(session), list(range(30_000)))
        self.assertNotIn("OutputDropped", [event["event"] for event in session.events])


class AccessLogTests(LogCase):
    """``[output] access_log``."""

    def accesses(self, text: str) -> list[str]:
        """The lines of requests other than those of the test's own ways."""
        return [line for line in text.splitlines() if "/page" in line]

    def ask(self, session: TestSession) -> None:
        """One request with all that a client might try, and its answer."""
        with session.connect() as connection:
            connection.settimeout(LONG)
            connection.sendall(
                b'GET /page/prints/0?a="b\\ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n'
                b'Referer: x"\xe9\x1b[2J\r\nUser-Agent: a" 200 1 "b\r\n\r\n'
            )
            while connection.recv(1000):
                pass

    PLAIN = """
        from twisted.web.resource import Resource

        class Plain(Resource):
            isLeaf = True
            def render_GET(self, request):
                return b"fine"
    """

    def plain(self, configuration: str, *arguments: str) -> TestSession:
        folder = self.folder(plain__py=self.PLAIN, serverworker__toml=configuration)
        session = self.session(
            *("--config", "serverworker.toml", "--app", "plain:Plain", "--standby", "0", *arguments),
            folder=folder,
        )
        session.serving()
        self.log = folder / "access.log"
        return session

    def test_file(self) -> None:
        """Two workers, one file, a line for each request, none of them torn; moved away, it is made anew at once."""
        session = self.plain(
            '[output]\naccess_log = "combined"\naccess_log_file = "access.log"\n', "--workers", "2"
        )
        session.serving(2)
        self.ask(session)
        (line,) = self.accesses(self.wait_in_log("/page"))
        self.assertRegex(
            line,
            r'^127\.0\.0\.1 - - \[[^\]]+ \+0000\] "GET /page/prints/0\?a=\\x22b\\x5c HTTP/1\.1" 200 4 '
            r'"x\\x22\\xe9\\x1b\[2J" "a\\x22 200 1 \\x22b"$',
        )
        with self.clients(session, "/page/many") as clients:
            clients.wait_for_answers(200)
        answered = clients.answered
        self.assertEqual(clients.failures, [])
        wait_until(lambda: self.log.read_text().count("/page/many") == answered, "a line for each")
        for each in self.accesses(self.log.read_text())[1:]:
            self.assertRegex(each, r'^127\.0\.0\.1 - - \[[^\]]+\] "GET /page/many HTTP/1\.1" 200 4 "-" "-"$')
        self.log.rename(self.log.with_name("moved"))
        session.get("/page/new")
        self.assertEqual(len(self.accesses(self.wait_in_log("/page/new"))), 1)

    def test_json(self) -> None:
        """An object for each, with the time that it took. The worker's own polls are nobody's visit."""
        session = self.plain(
            '[output]\naccess_log = "json"\naccess_log_file = "access.log"\n[polling]\ninterval_seconds = 0.1\n'
        )
        time.sleep(0.3)
        self.ask(session)
        (line,) = self.wait_in_log("/page").splitlines()
        access = json.loads(line)
        self.assertEqual((access["target"], access["user_agent"]), ('/page/prints/0?a="b\\', 'a" 200 1 "b'))
        self.assertLess(access["seconds"], LONG)

    def test_output(self) -> None:
        """Without a file the lines are among what the worker prints. The session key is in none."""
        session = self.plain('[output]\naccess_log = "common"\n')
        key = (session.state_directory / "key").read_text().strip()
        session.get(f"/page?key={key}")
        line = session.wait_for("OutputLine", matching=lambda event: "/page" in event["text"])
        self.assertRegex(line["text"], r'"GET /page\?key=\[session-key\] HTTP/1\.1" 200 4$')
        self.assertNotIn(key, session.transcript())
