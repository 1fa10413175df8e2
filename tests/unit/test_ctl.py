"""`serverworkerctl`: what its command line means, which session it finds, what it completes and draws."""

from __future__ import annotations

import fcntl
import io
import json
import subprocess
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, cast

from twisted.internet.defer import Deferred, ensureDeferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from serverworker.control import Position
from serverworker.ctl import main
from serverworker.ctl.completion import script
from serverworker.ctl.finding import NoSession, find
from serverworker.ctl.main import Request, parse
from serverworker.ctl.shell import complete
from serverworker.ctl.tasks import follow
from serverworker.ctl.watch import cells, headline
from serverworker.processes.state_directory import CONTROL_FILE, LOCK_NAME
from serverworker.values.errors import BadCommand, PeerLost

WORKER = {
    "id": 3,
    "pid": 4711,
    "generation": 2,
    "life": "serving",
    "leaving": "",
    "uptime_seconds": 61.2,
    "heartbeat_failures": 0,
    "figures": {
        "requests_finished": 17,
        "connections": 2,
        "resident_bytes": 50 * 2**20,
        "cpu_seconds": 1.25,
        "ping_seconds": 0.0015,
        "last_beat": {"text": "200"},
    },
}
STATUS: dict[str, Any] = {
    "generation": 2,
    "serving": 1,
    "count": 2,
    "ports": ["server=tcp:8080"],
    "restart": None,
    "replacing": None,
    "ending": None,
    "next_start_in_seconds": 0.0,
}


class ParseTests(SynchronousTestCase):
    """`parse`."""

    def bad(self, *arguments: str) -> str:
        return str(self.assertRaises(BadCommand, parse, arguments))

    def test_words(self) -> None:
        """What follows the options is the command, and belongs to it whatever it looks like."""
        self.assertEqual(parse(["restart", "clean"]), Request(words=("restart", "clean")))
        self.assertEqual(parse(["emit", "x", "--json"]).words, ("emit", "x", "--json"))
        self.assertEqual(parse(["events", "--since", "2h"]).words, ("events", "--since", "2h"))
        self.assertEqual(parse([]), Request())

    def test_options(self) -> None:
        """Options stand before the command."""
        request = parse(["--state-dir", "/s", "--json", "--timeout", "2.5", "status"])
        self.assertEqual(request, Request(words=("status",), state_directory="/s", json=True, timeout=2.5))
        request = parse(
            ["--connect=tls:h:1", "--key-file=k", "--authority=a", "--certificate=c", "exit", "force"]
        )
        self.assertEqual(
            (request.connect, request.key_file, request.authority, request.certificate),
            ("tls:h:1", "k", "a", "c"),
        )

    def test_flags(self) -> None:
        """Some flags stand behind the command they belong to."""
        self.assertEqual(parse(["status", "--json"]), Request(words=("status",), json=True))
        self.assertEqual(parse(["status", "--watch"]), Request(words=("status",), watch=True))
        request = parse(["logs", "--follow", "--worker", "3", "--json"])
        self.assertEqual(request, Request(words=("logs", "--worker", "3"), follow=True, json=True))

    def test_bad(self) -> None:
        """What is wrong is told, and what is allowed."""
        self.assertIn("option --statedir not recognized", self.bad("--statedir", "/s", "status"))
        self.assertEqual(self.bad("logs", "--watch"), "--watch goes with status")
        self.assertEqual(self.bad("status", "--follow"), "--follow goes with events and logs")
        self.assertIn("leave out --json", self.bad("status", "--watch", "--json"))
        for text in ("0", "-1", "fast", "nan", "100000"):
            self.assertIn(f"not '{text}'", self.bad("--timeout", text, "status"))

    def test_told(self) -> None:
        """--help and --version end with 0; wrong usage with 64 and a line on stderr."""
        for arguments, status in (
            (["--help"], 0),
            (["--version"], 0),
            (["--halp"], 64),
            (["completion", "fish"], 64),
        ):
            with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
                end = self.assertRaises(SystemExit, main.main, arguments)
            self.assertEqual(end.code, status)
            self.assertTrue((err if status else out).getvalue())
            self.assertFalse((out if status else err).getvalue())


class FindingTests(SynchronousTestCase):
    """`find`."""

    def setUp(self) -> None:
        self.home = Path(self.mktemp()).absolute()
        self.environ = {"XDG_STATE_HOME": str(self.home)}

    def session(self, name: str) -> Path:
        """A folder that is held as a session holds it."""
        folder = self.home / "serverworker" / name
        folder.mkdir(parents=True)
        lock = (folder / LOCK_NAME).open("w")
        self.addCleanup(lock.close)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (folder / CONTROL_FILE).write_text(json.dumps({"control": f"unix:/run/{name}/control", "pid": 1}))
        return folder

    def refused(self, given: str | None = None) -> str:
        return str(self.assertRaises(NoSession, find, given, self.environ))

    def test_none(self) -> None:
        """Where nothing runs it says where it looked, and what to do."""
        text = self.refused()
        self.assertIn(f"looked in {self.home / 'serverworker'}", text)
        self.assertIn("twistd serverworker --port 8080", text)

    def test_one(self) -> None:
        """The one that runs is found; the folder of one that has ended, or was killed, is not it."""
        ended = self.home / "serverworker" / "8081"
        ended.mkdir(parents=True)
        (ended / LOCK_NAME).touch()
        (ended / CONTROL_FILE).write_text('{"control": "unix:/gone"}')
        folder = self.session("8080")
        found = find(None, self.environ)
        self.assertEqual((found.state_directory, found.control), (folder, "unix:/run/8080/control"))

    def test_several(self) -> None:
        """Of several each is named, as it is to be given."""
        folders = [self.session("8080"), self.session("8081")]
        text = self.refused()
        for folder in folders:
            self.assertIn(f"serverworkerctl --state-dir {folder}", text)
        self.assertEqual(find(str(folders[1]), self.environ).control, "unix:/run/8081/control")
        systemd = {**self.environ, "STATE_DIRECTORY": f"{folders[0]}:/other"}
        self.assertEqual(find(None, systemd).control, "unix:/run/8080/control")

    def test_given(self) -> None:
        """A folder that is given is the one, or the reason why it is not."""
        self.assertIn("there is no folder /nonexistent", self.refused("/nonexistent"))
        empty = self.home / "empty"
        empty.mkdir(parents=True)
        self.assertIn("no session runs that keeps its state", self.refused(str(empty)))
        folder = self.session("8080")
        for content in (None, "", "[]", '{"pid": 1}'):
            (folder / CONTROL_FILE).unlink(missing_ok=True)
            if content is not None:
                (folder / CONTROL_FILE).write_text(content)
            self.assertIn("has no control port that is open", self.refused(str(folder)))


class TurningReactor:
    """A reactor that nobody stops."""

    def addSystemEventTrigger(self, phase: str, event: str, call: Any, *arguments: Any) -> None:
        """Nothing."""


class StoppingReactor:
    """A reactor that is stopped at once."""

    def addSystemEventTrigger(self, phase: str, event: str, call: Any, *arguments: Any) -> None:
        """It happens now."""
        call(*arguments)


class InterruptTests(SynchronousTestCase):
    """^C, which takes the connection away from whatever is at work."""

    def status(self, reactor: Any, *words: str) -> Any:
        with redirect_stderr(io.StringIO()) as err:
            done = ensureDeferred(main._run(reactor, parse(["--state-dir", "/nonexistent", *words])))
            status = self.failureResultOf(done, SystemExit).value.code
        return status, bool(err.getvalue())

    def test_statuses(self) -> None:
        """What only ends by it has done its work; a command has not. Nothing is said of either."""
        self.assertEqual(self.status(StoppingReactor(), "events", "--follow"), (0, False))
        self.assertEqual(self.status(StoppingReactor(), "status", "--watch"), (0, False))
        self.assertEqual(self.status(StoppingReactor(), "restart", "clean"), (130, False))
        self.assertEqual(self.status(TurningReactor(), "events", "--follow"), (69, True))


class FollowedSession:
    """A client of a session that is at event 9."""

    def __init__(self, *found: dict[str, Any]) -> None:
        self.found = found
        self.since: Position | None = None
        self.listen: Any = None
        self.gone: Deferred[Any] = Deferred()

    def status(self) -> Deferred[dict[str, Any]]:
        return succeed({"session": "this", "sequence": 9})

    def run(self, words: Any, timeout: float) -> Deferred[dict[str, Any]]:
        return succeed({"text": "", "data": list(self.found)})

    def subscribe(self, listen: Any, *, since: Position, **options: Any) -> Deferred[None]:
        self.listen, self.since = listen, since
        return succeed(None)

    def lost(self) -> Deferred[Any]:
        return self.gone


def told(sequence: int, session: str = "this", kind: str = "PollingChanged") -> dict[str, Any]:
    """An event, as the journal has it."""
    return {
        "sequence": sequence,
        "session": session,
        "event": kind,
        "at": "2026-11-24T08:00:00.000Z",
        "source": "worker 3" if kind == "OutputLine" else "monitor",
        "level": "info",
        "sentence": f"event {sequence}",
        "fields": {"text": f"line {sequence}"},
    }


class FollowTests(SynchronousTestCase):
    """Where following begins, so that nothing is shown twice, and nothing is missed."""

    def follow(self, client: FollowedSession, *words: str) -> str:
        """What is printed, once two more events were told and the session is gone."""
        with redirect_stdout(io.StringIO()) as out:
            ended = ensureDeferred(follow(TurningReactor(), parse(words), cast(Any, client)))
            client.listen(told(11))
            client.listen(told(12, kind="OutputLine"))
            client.gone.callback("the end")
        self.failureResultOf(ended, PeerLost)
        return out.getvalue()

    def test_events(self) -> None:
        """Behind the last event of this session that was read, though that came after the status."""
        client = FollowedSession(told(70, "before"), told(8), told(10))
        shown = self.follow(client, "events", "--follow")
        self.assertEqual(client.since, Position(session="this", sequence=10))
        self.assertEqual([line[-2:].strip() for line in shown.splitlines()], ["70", "8", "10", "11"])

    def test_none(self) -> None:
        """Where there was none of this session, from where it was."""
        client = FollowedSession(told(70, "before"))
        self.follow(client, "events", "--follow")
        self.assertEqual(client.since, Position(session="this", sequence=9))

    def test_logs(self) -> None:
        """Lines alone, of one worker where that is asked for."""
        client = FollowedSession(told(10, kind="OutputLine"))
        shown = self.follow(client, "logs", "--follow")
        self.assertEqual([line[-2:] for line in shown.splitlines()], ["10", "12"])
        client = FollowedSession()
        self.assertEqual(self.follow(client, "logs", "--follow", "--worker", "4"), "")


class CompletionTests(SynchronousTestCase):
    """Completion, in bash and in our own shell."""

    def bash(self, *words: str) -> list[str]:
        """What bash offers for the last of these words."""
        line = " ".join(f"'{word}'" for word in words)
        code = (
            f"{script(['bash'])}\nCOMP_WORDS=(serverworkerctl {line}); COMP_CWORD={len(words)}\n"
            "_serverworkerctl; printf '%s\\n' \"${COMPREPLY[@]}\""
        )
        done = subprocess.run(
            ["bash", "--norc", "-c", code], capture_output=True, text=True, check=True, timeout=60
        )
        self.assertEqual(done.stderr, "")
        return done.stdout.split()

    def test_bash(self) -> None:
        """Commands, their words and flags, behind options too."""
        self.assertEqual(self.bash("re"), ["restart"])
        self.assertEqual(self.bash("restart", ""), ["clean", "force"])
        self.assertEqual(self.bash("set", "p"), ["port", "polling"])
        self.assertEqual(self.bash("--state-dir", "/s", "status", "--w"), ["--watch"])
        self.assertIn("--state-dir", self.bash("--s"))
        self.assertEqual(self.bash("restart", "clean", "now", ""), ["clean", "force"])
        self.assertEqual(self.bash("emit", ""), [])

    def test_syntax_of_zsh(self) -> None:
        """Nothing of it that zsh does not know."""
        text = script(["zsh"])
        self.assertNotIn("mapfile", text)
        self.assertEqual(text.count("COMPREPLY=($(compgen"), 3)

    def test_shell(self) -> None:
        """Our shell knows what the session tells it, the agent's commands too."""
        usages = [
            ["restart clean|force", ""],
            ["set port NAME ADDRESS [now]", ""],
            ["set workers N", ""],
            ["backup full|quick", ""],
        ]
        self.assertEqual(list(complete([], usages)), ["restart", "set", "backup"])
        self.assertEqual(list(complete(["set"], usages)), ["port", "workers"])
        self.assertEqual(list(complete(["backup"], usages)), ["full", "quick"])
        self.assertEqual(list(complete(["set", "port"], usages)), [])
        self.assertEqual(list(complete(["set", "port", "server", "8081"], usages)), ["now"])
        self.assertEqual(list(complete(["nothing"], usages)), [])


class WatchTests(SynchronousTestCase):
    """What ``status --watch`` draws."""

    def test_headline(self) -> None:
        """The session in one line, with what is going on."""
        self.assertEqual(headline(STATUS), "generation 2: 1 of 2 serve on server=tcp:8080")
        busy = {
            **STATUS,
            "restart": {"generation": 3},
            "replacing": {"replaced": 3, "total": 8},
            "next_start_in_seconds": 2.4,
        }
        self.assertEqual(
            headline(busy),
            "generation 2: 1 of 2 serve on server=tcp:8080; generation 3 is being started; "
            "3 of 8 old workers are gone; the next worker is started in 2 s",
        )
        self.assertIn("ending: SIGTERM", headline({**STATUS, "ending": {"reason": "SIGTERM"}}))

    def test_row(self) -> None:
        """A worker's figures, and its trouble."""
        self.assertEqual(
            [cell for cell, _ in cells(WORKER)],
            ["3", "serving", "4711", "2", "61 s", "17", "2", "50 M", "1.2 s", "1.5 ms", "200"],
        )
        sick = {**WORKER, "heartbeat_failures": 2, "leaving": "generation 3 takes over"}
        row = [cell for cell, _ in cells(sick)]
        self.assertEqual((row[1], row[-1]), ("serving (generation 3 takes over)", "200, 2 failed"))

    def test_no_figures(self) -> None:
        """A worker that is just being started has none."""
        row = [cell for cell, _ in cells({**WORKER, "figures": None, "pid": None})]
        self.assertEqual(row[2], "")
        self.assertEqual(row[5:], ["", "", "", "", "", ""])
