"""The units that `serverworkerctl systemd` prints, under a real systemd as process 1."""

from __future__ import annotations

import atexit
import contextlib
import functools
import http.client
import socket
import threading
import time
from collections.abc import Iterator

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.integration.sessions import LONG, wait_until
from tests.system import SKIP
from tests.system.machine import SITE, VENV, Machine, MachineUnavailable, why_not

APPLICATION = """
    import os
    import time

    from serverworker import ServerWorker, SessionAgent
    from twisted.internet import reactor
    from twisted.web.resource import Resource
    from twisted.web.server import NOT_DONE_YET

    class Slow(Resource):
        def render_GET(self, request):
            reactor.callLater(float(request.args[b"seconds"][0]), self.finish, request)
            return NOT_DONE_YET
        def finish(self, request):
            request.write(b"done")
            request.finish()

    class Root(Resource):
        def render_GET(self, request):
            return b"%d %d" % (os.getpid(), os.getuid())

    class Hang(Resource):
        def render_GET(self, request):
            ServerWorker.current().emit("hang").addErrback(lambda failure: None)
            return NOT_DONE_YET

    class Agent(SessionAgent):
        async def initialize_monitor(self, monitor):
            monitor.on("hang", lambda *args: time.sleep(600))

    root = Root()
    root.putChild(b"", root)
    root.putChild(b"hang", Hang())
    root.putChild(b"slow", Slow())
    """

UNIT = "mysite.service"
_unavailable: list[str] = []


@functools.cache
def the_machine() -> Machine:
    """One for all tests: it takes a minute to be made. It goes with this process."""
    machine = Machine()
    atexit.register(machine.close)
    return machine


def free_port(first: int) -> int:
    """A number that nobody listens on, from `first` on."""
    for number in range(first, first + 100):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("0.0.0.0", number))
            return number
    raise AssertionError(f"no free port from {first} on")


def get(port: int, path: str = "/", host: str = "127.0.0.1") -> tuple[int, str]:
    """One request on a connection of its own."""
    connection = http.client.HTTPConnection(host, port, timeout=LONG)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


class Load:
    """Requests without a pause, from four threads, each on a new connection."""

    def __init__(self, port: int) -> None:
        self.answered = 0
        self.failures: list[str] = []
        self._port = port
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(4)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                status, text = get(self._port)
                failure = "" if status == 200 else f"{status} {text}"
            except Exception as error:
                failure = f"{type(error).__name__}: {error}"
            with self._lock:
                self.answered += not failure
                self.failures += [failure] if failure else []

    def stop(self) -> None:
        """After the requests that are under way."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(LONG)

    def wait_for_answers(self, number: int) -> None:
        """So many more."""
        goal = self.answered + number
        wait_until(lambda: self.answered >= goal, f"{number} more answers; failures: {self.failures[:5]}")


class Asking:
    """One request in a thread, under way."""

    def __init__(self, port: int, path: str) -> None:
        self._answers: list[tuple[int, str] | str] = []
        self._thread = threading.Thread(target=self._run, args=(port, path), daemon=True)
        self._thread.start()

    def _run(self, port: int, path: str) -> None:
        try:
            self._answers.append(get(port, path))
        except Exception as error:
            self._answers.append(f"{type(error).__name__}: {error}")

    def answer(self) -> tuple[int, str] | str:
        """What came of it."""
        self._thread.join(LONG)
        return self._answers[0] if self._answers else "nothing"


class SystemdTests(SynchronousTestCase):
    """What an operator does with a unit."""

    skip = SKIP or why_not()

    def setUp(self) -> None:
        if _unavailable:
            raise SkipTest(_unavailable[0])
        try:
            self.machine = the_machine()
        except MachineUnavailable as error:
            _unavailable.append(str(error))
            raise SkipTest(str(error)) from None
        self.port = free_port(18400)
        self.machine.write(f"{SITE}/mysite.py", APPLICATION)
        self.machine.write(f"{SITE}/twistd.pid", "1")  # a stale pid file keeps nothing from starting
        self.addCleanup(self.clean_up)

    def clean_up(self) -> None:
        self.machine.run("systemctl", "stop", "mysite.socket", "mysite.service", check=False)
        self.machine.run("systemctl", "reset-failed", check=False)
        self.machine.run(
            "sh", "-c", "rm -rf /etc/systemd/system/mysite* /var/lib/private/mysite /var/lib/mysite"
        )
        self.machine.run("journalctl", "--rotate", "--vacuum-time=1s", "--quiet", check=False)

    def install(self, *options: str, ctl: tuple[str, ...] = (), more: str = "") -> list[str]:
        """Print the units for these options into systemd's folder; `more` is added as an operator would."""
        words = [
            "--output",
            "/etc/systemd/system",
            "--name",
            "mysite",
            *ctl,
            "--",
            "--app",
            "mysite:root",
            *options,
        ]
        command = f'cd {SITE} && exec {VENV}/bin/serverworkerctl systemd "$@"'
        written = self.machine.run("sh", "-c", command, "sh", *words).split()
        if more:
            self.machine.write(f"/etc/systemd/system/{UNIT}.d/more.conf", f"[Service]\n{more}\n")
        self.machine.run("systemctl", "daemon-reload")
        return written

    def start(self, *options: str, ctl: tuple[str, ...] = (), more: str = "") -> None:
        self.install("--port", str(self.port), *options, ctl=ctl, more=more)
        self.machine.run("systemctl", "start", UNIT)

    @contextlib.contextmanager
    def load(self) -> Iterator[Load]:
        """Requests without a pause, of which none may fail."""
        load = Load(self.port)
        try:
            load.wait_for_answers(20)
            yield load
            load.wait_for_answers(20)
        finally:
            load.stop()
        self.assertEqual(load.failures, [], self.machine.journal(UNIT))

    def slow(self, seconds: float) -> Asking:
        """A request that is under way when this returns."""
        asking = Asking(self.port, f"/slow?seconds={seconds}")
        ctl = (f"{VENV}/bin/serverworkerctl", "--state-dir", "/var/lib/mysite")
        wait_until(lambda: "/slow" in self.machine.run(*ctl, "status", "--json"), "the request")
        return asking

    def assert_nobody_died(self) -> None:
        journal = self.machine.journal(UNIT)
        self.assertNotIn("died", journal)
        self.assertNotIn("Traceback", journal)

    def main_pid(self) -> str:
        return self.machine.show(UNIT, "MainPID")

    # --- the units ------------------------------------------------------------------------------

    def test_units_are_in_order_and_hardened(self) -> None:
        """`systemd-analyze` has nothing to say against them, and counts an exposure below 3, with a low port too."""
        for options, ctl in (
            (("--port", "80"), ()),
            (("--port", "8080", "--port", "s=unix:/run/mysite.s"), ("--socket",)),
            (("--port", "8080"), ("--user", "www-data", "--writable", "/srv/mysite")),
        ):
            units = self.install(*options, ctl=ctl)
            self.assertEqual(self.machine.run("systemd-analyze", "verify", *units), "")
            said = self.machine.run("systemd-analyze", "security", UNIT)
            exposure = float(said.partition("Overall exposure level for mysite.service: ")[2].split()[0])
            self.assertLess(exposure, 3.0)

    def test_start(self) -> None:
        """It is started when it serves: on a low port, as nobody's user, with a journal that says so."""
        self.port = free_port(300)
        self.start()
        status, text = get(self.port)
        self.assertEqual(status, 200)
        self.assertNotEqual(text.split()[1], "0")
        self.assertEqual(self.machine.show(UNIT, "StatusText"), "serving 1 of 1, generation 1")
        journal = self.machine.journal(UNIT)
        self.assertIn("the server is running: worker 1 (generation 1) accepts connections", journal)
        self.assert_nobody_died()
        said = self.machine.run(f"{VENV}/bin/serverworkerctl", "--state-dir", "/var/lib/mysite", "status")
        self.assertIn("serving", said)

    def test_options_of_the_session_that_runs(self) -> None:
        """Without options the unit has those that the session was started with."""
        self.start("--drain-timeout", "7")
        ctl = f"{VENV}/bin/serverworkerctl"
        said = self.machine.run(ctl, "--state-dir", "/var/lib/mysite", "systemd", "--name", "mysite")
        own = (self.machine.root / "etc/systemd/system" / UNIT).read_text()
        self.assertEqual(said, f"# /etc/systemd/system/{UNIT}\n{own}")

    def test_what_cannot_start_is_not_tried_again(self) -> None:
        """Status 78, once, and the journal says why."""
        self.install("--port", str(self.port), "--agent", "mysite:Nobody")
        self.machine.run("systemctl", "start", UNIT, check=False)
        wait_until(lambda: self.machine.show(UNIT, "ActiveState") == "failed", "the end of it")
        self.assertEqual(self.machine.show(UNIT, "ExecMainStatus"), "78")
        self.assertEqual(self.machine.show(UNIT, "NRestarts"), "0")
        self.assertIn("Nobody", self.machine.journal(UNIT))

    # --- a reload -------------------------------------------------------------------------------

    def test_reload_under_load(self) -> None:
        """It returns when the new generation serves, and no request fails."""
        self.start("--workers", "2")
        before = self.main_pid()
        with self.load():
            for generation in (2, 3):
                self.machine.run("systemctl", "reload", UNIT)
                status = self.machine.show(UNIT, "StatusText")
                self.assertIn(f"serving 2 of 2, generation {generation}", status)
        self.assertEqual(self.main_pid(), before)
        self.assert_nobody_died()

    def test_reload_that_fails(self) -> None:
        """`systemctl reload` fails, the journal says why, and what served goes on."""
        self.start()
        self.machine.write(f"{SITE}/mysite.py", "import nothing_at_all")
        with self.load(), self.assertRaises(AssertionError):
            self.machine.run("systemctl", "reload", UNIT)
        self.assertEqual(self.machine.show(UNIT, "ActiveState"), "active")
        self.assertIn("nothing_at_all", self.machine.journal(UNIT))

    # --- misfortunes ----------------------------------------------------------------------------

    def test_the_monitor_is_killed(self) -> None:
        """Requests in flight finish, since the workers are told to drain; then systemd starts a new session."""
        self.start()
        before, asking = self.main_pid(), self.slow(2)
        self.machine.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", UNIT)
        self.assertEqual(asking.answer(), (200, "done"))
        wait_until(lambda: self.main_pid() not in ("0", before), "another monitor")
        wait_until(lambda: self.machine.show(UNIT, "ActiveState") == "active", "the service")
        self.assertEqual(get(self.port)[0], 200)
        self.assertEqual(self.machine.show(UNIT, "NRestarts"), "1")

    def test_the_watchdog(self) -> None:
        """A monitor that is stopped is ended and followed by another; requests in flight finish meanwhile."""
        self.start("--drain-timeout", "4", more="WatchdogSec=2")
        before, asking = self.main_pid(), self.slow(4)
        self.machine.run("systemctl", "kill", "--kill-whom=main", "--signal=STOP", UNIT)
        self.assert_watchdog(before, asking)

    def test_the_watchdog_and_a_monitor_that_hangs(self) -> None:
        """It hears no SIGTERM, so its workers drain without its word, and it is killed after `TimeoutAbortSec`."""
        self.start("--drain-timeout", "4", "--agent", "mysite:Agent", more="WatchdogSec=2")
        before, asking = self.main_pid(), self.slow(6)
        hanging = Asking(self.port, "/hang")
        self.assert_watchdog(before, asking)
        self.assertNotEqual(hanging.answer()[0], 200)

    def assert_watchdog(self, before: str, asking: Asking) -> None:
        """The request was answered, and the next session runs because of the watchdog."""
        self.assertEqual(asking.answer(), (200, "done"))
        wait_until(lambda: self.main_pid() not in ("0", before), "another monitor")
        wait_until(lambda: self.machine.show(UNIT, "ActiveState") == "active", "the service")
        self.assertEqual(get(self.port)[0], 200)
        self.assertIn("Watchdog timeout", self.machine.journal(UNIT))

    # --- sockets --------------------------------------------------------------------------------

    def test_socket_activation(self) -> None:
        """The first request starts the service and is answered by it; a monitor that is killed costs no connection."""
        self.install("--port", f"{self.port}:interface=127.0.0.1", ctl=("--socket",))
        self.machine.run("systemctl", "start", "mysite.socket")
        self.assertEqual(self.machine.show(UNIT, "ActiveState"), "inactive")
        self.assertEqual(get(self.port)[0], 200)
        self.assertEqual(self.machine.show(UNIT, "ActiveState"), "active")
        before = self.main_pid()
        with self.load() as load:
            self.machine.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", UNIT)
            wait_until(lambda: self.main_pid() not in ("0", before), "another monitor")
            load.wait_for_answers(20)

    # --- the end --------------------------------------------------------------------------------

    def test_stop(self) -> None:
        """Every process gets SIGTERM at once: requests in flight finish, the status is 0, and nobody has died."""
        self.start("--workers", "2")
        asking = self.slow(2)
        began = time.monotonic()
        self.machine.run("systemctl", "stop", UNIT)
        self.assertLess(time.monotonic() - began, 30.0)
        self.assertEqual(asking.answer(), (200, "done"))
        self.assertEqual(self.machine.show(UNIT, "Result"), "success")
        self.assertEqual(self.machine.show(UNIT, "ExecMainStatus"), "0")
        self.assert_nobody_died()
        self.assertEqual(self.machine.show(UNIT, "ActiveState"), "inactive")

    def test_stop_has_a_deadline(self) -> None:
        """A request that does not end in time is cut short, by the session itself."""
        self.start("--drain-timeout", "1")
        asking = self.slow(600)
        began = time.monotonic()
        self.machine.run("systemctl", "stop", UNIT)
        self.assertLess(time.monotonic() - began, 10.0)
        self.assertNotEqual(asking.answer(), (200, "done"))
        self.assertEqual(self.machine.show(UNIT, "Result"), "success")
        self.assert_nobody_died()

    def test_load_balancers_have_their_time(self) -> None:
        """The workers serve on for `unready_seconds`, although they too were sent SIGTERM."""
        self.machine.write(f"{SITE}/site.toml", "[drain]\nunready_seconds = 3\n")
        self.start("--config", "site.toml")
        self.machine.run("systemctl", "stop", "--no-block", UNIT)
        began = time.monotonic()
        wait_until(lambda: "the session ends" in self.machine.journal(UNIT), "the end's beginning")
        while time.monotonic() - began < 2.0:
            self.assertEqual(get(self.port)[0], 200)
        wait_until(lambda: self.machine.show(UNIT, "ActiveState") == "inactive", "the end")
        self.assert_nobody_died()
