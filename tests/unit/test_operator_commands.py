"""What an operator can type: what each line does, and what is said of a bad one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from serverworker.monitor.console_commands import ConsoleCommands
from serverworker.monitor.figures import MonitorFigures, monitor_figures
from serverworker.monitor.history import History
from serverworker.monitor.session import OWN_COMMANDS
from serverworker.surfaces.desk import Asker, Desk
from serverworker.surfaces.operator_commands import COMMANDS, help_text, parse, run
from serverworker.values.errors import BadCommand, ConfigurationError, PeerLost
from serverworker.values.events import Event, OperatorAction, OutputLine, Told
from serverworker.values.settings import Settings
from serverworker.values.state import Policy, SessionState

ASKER = Asker(who="the console", surface="console")


class RecordingMonitor:
    """Notes what is asked of it."""

    state = SessionState(policy=Policy())
    settings = Settings()
    ports = ("server=tcp:8080",)
    previous_session = None

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.answers: dict[int, Any] = {1: ["one"], 2: PeerLost("worker 2 ended")}

    def seconds(self) -> float:
        return 1000.0

    def figures(self) -> tuple[()]:
        return ()

    def own_figures(self) -> MonitorFigures:
        return monitor_figures()

    def restart(self, mode: str, asked_by: str) -> Deferred[str]:
        self.asked.append(("restart", mode, asked_by))
        return succeed("generation 2 serves")

    def kill_session(self, reason: str, graceful: bool) -> Deferred[str]:
        self.asked.append(("exit", reason, graceful))
        return succeed("the session has ended")

    def set_port(self, name: str, address: str, *, now: bool, asked_by: str) -> Deferred[str]:
        self.asked.append(("port", name, address, now, asked_by))
        return succeed("the port is another")

    def set_polling(self, seconds: float) -> None:
        if seconds <= 0:
            raise ConfigurationError("polling.interval_seconds: must be more")
        self.asked.append(("polling", seconds))

    def set_workers(self, count: int) -> None:
        self.asked.append(("workers", count))

    def emit(self, name: str, args: Any, timeout: float | None, worker: int | None = None) -> Deferred[Any]:
        self.asked.append(("emit", name, args, worker))
        if worker == 9:
            return fail(PeerLost("there is no worker 9"))
        return succeed([args] if worker is not None else dict(self.answers))

    def dispatch(self, name: str, args: Any, timeout: float | None) -> Deferred[Any]:
        self.asked.append(("dispatch", name, args))
        return succeed([args, None])


def desk_of(monitor: Any, agents: ConsoleCommands, told: list[Event] | None = None) -> Desk:
    """The desk of a session that does nothing but note what is asked of it; `told` gets what is published."""
    return Desk(
        monitor=monitor,
        agents=agents,
        history=History(),
        publish=(told if told is not None else []).append,
        state_directory=Path("/nonexistent"),
        session="s",
        in_thread=maybeDeferred,
    )


class CommandTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.monitor: Any = RecordingMonitor()
        self.agents = ConsoleCommands(OWN_COMMANDS)
        self.told: list[Event] = []
        self.desk = desk_of(self.monitor, self.agents, self.told)
        self.typed: list[tuple[str, ...]] = []
        self.agents.add("backup", ["full|quick"], self.backup, "zip the pages")
        self.agents.add("backup", ["mail", ".+@.+"], self.backup)
        self.agents.add("pull", [], lambda: self.typed.append(()))

    def backup(self, *arguments: str) -> str:
        self.typed.append(arguments)
        return "done"

    def do(self, line: str) -> Any:
        """What the line shows."""
        return self.successResultOf(run(parse(line, self.desk, ASKER), self.desk, ASKER)).text

    def bad(self, line: str) -> str:
        """What is said of a line that is none, wherever that is found out."""
        try:
            parsed = parse(line, self.desk, ASKER)
        except BadCommand as error:
            return str(error)
        return str(self.failureResultOf(run(parsed, self.desk, ASKER), BadCommand).value)


class OwnCommandTests(CommandTestCase):
    """The console's own commands."""

    def asks(self, line: str, *expected: Any) -> None:
        self.monitor.asked.clear()
        self.do(line)
        self.assertEqual(self.monitor.asked, [expected])

    def test_what_each_does(self) -> None:
        """Each line asks the monitor for one thing."""
        self.asks("restart clean", "restart", "clean", "the console")
        self.asks("restart force", "restart", "force", "the console")
        self.asks("exit clean", "exit", "the console asked for it", True)
        self.asks("exit force", "exit", "the console asked for it", False)
        self.asks("set port server 8081", "port", "server", "8081", False, "the console")
        self.asks(
            "set port server tcp:81:interface=::1 now",
            *("port", "server", "tcp:81:interface=::1", True, "the console"),
        )
        self.asks("set polling 15", "polling", 15.0)
        self.asks("set polling 0.5", "polling", 0.5)
        self.asks("set workers 4", "workers", 4)

    def test_spaces_and_quotes(self) -> None:
        """Words are told apart as in a shell."""
        self.asks("  set   port 'server'  8081  ", "port", "server", "8081", False, "the console")
        self.asks(
            'set port server "unix:/run/my site"', "port", "server", "unix:/run/my site", False, "the console"
        )

    def test_what_is_shown(self) -> None:
        """The answer of the monitor, or what was done, in words."""
        self.assertEqual(self.do("restart clean"), "generation 2 serves")
        self.assertEqual(self.do("set polling 0.5"), "every worker polls itself every 0.5 s")
        self.assertEqual(self.do("set workers 4"), "4 workers are to serve")
        self.assertTrue(self.do("status").startswith("generation 1: 0 of 1 serving"))

    def test_at_any_time(self) -> None:
        """While another command runs one may look, and end the session; nothing else."""
        allowed = [command.words for command in COMMANDS if command.at_any_time]
        self.assertEqual(allowed, [("status",), ("exit",), ("events",), ("crashes",), ("logs",)])
        self.assertTrue(parse("help", self.desk, ASKER).at_any_time)
        self.assertFalse(parse("pull", self.desk, ASKER).at_any_time)

    def test_refused_by_the_monitor(self) -> None:
        """What the monitor refuses fails with the monitor's own words."""
        failure = self.failureResultOf(run(parse("set polling 0", self.desk, ASKER), self.desk, ASKER))
        self.assertIsInstance(failure.value, ConfigurationError)

    def test_own_names_are_reserved(self) -> None:
        """No agent's command can have the name of one of these."""
        self.assertLessEqual({command.words[0] for command in COMMANDS}, set(OWN_COMMANDS))


class BadLineTests(CommandTestCase):
    """Each bad line, with what is said of it."""

    def test_no_such_command(self) -> None:
        """The nearest that exists, an agent's among them; or all."""
        self.assertEqual(self.bad("restrat clean"), "there is no command 'restrat'; did you mean 'restart'?")
        self.assertEqual(self.bad("bakcup full"), "there is no command 'bakcup'; did you mean 'backup'?")
        self.assertEqual(self.bad("halp"), "there is no command 'halp'; did you mean 'help'?")
        self.assertEqual(
            self.bad("xyzzy"),
            "there is no command 'xyzzy'; allowed: backup, crashes, emit, events, exit, help, logs, pull, restart, "
            "set polling, set port, set workers, status",
        )

    def test_case(self) -> None:
        """Commands are written small: a large one is told the nearest."""
        self.assertEqual(self.bad("Restart clean"), "there is no command 'Restart'; did you mean 'restart'?")

    def test_nothing_to_set(self) -> None:
        """What can be set is told by its whole name."""
        self.assertEqual(
            self.bad("set poling 3"), "there is nothing to set called 'poling'; did you mean 'set polling'?"
        )
        self.assertEqual(
            self.bad("set prot server 1"), "there is nothing to set called 'prot'; did you mean 'set port'?"
        )
        self.assertEqual(
            self.bad("set"),
            "usage: set port NAME ADDRESS [now], or: set polling SECONDS, or: set workers N",
        )

    def test_modes(self) -> None:
        """A restart, or an exit, is clean or force, and says so when it is neither."""
        self.assertEqual(self.bad("restart"), "usage: restart clean|force")
        self.assertEqual(self.bad("restart now"), "usage: restart clean|force, not 'now'")
        self.assertEqual(self.bad("exit clean force"), "usage: exit clean|force, not 'clean force'")

    def test_set_port(self) -> None:
        """A port needs a name and an address, and a third word can only be ``now``."""
        for line in ("set port", "set port server", "set port server 81 later", "set port a b now x"):
            self.assertEqual(
                self.bad(line), "usage: set port NAME ADDRESS [now], such as: set port server 8081 now"
            )

    def test_set_polling(self) -> None:
        """An interval is one number."""
        for line in ("set polling", "set polling 1 2"):
            self.assertEqual(self.bad(line), "usage: set polling SECONDS, such as: set polling 15")
        self.assertEqual(self.bad("set polling fast"), "'fast' is no number of seconds, such as 15 or 0.5")

    def test_set_workers(self) -> None:
        """A number of workers is whole."""
        for line in (
            "set workers",
            "set workers 2.5",
            "set workers -1",
            "set workers two",
            "set workers 1 2",
        ):
            self.assertEqual(self.bad(line), "usage: set workers N, a whole number, such as: set workers 4")

    def test_status(self) -> None:
        """What takes no arguments is told which it got."""
        self.assertEqual(self.bad("status all"), "status takes no arguments, not 'all'")

    def test_open_quote(self) -> None:
        """A line that is not finished cannot be read."""
        self.assertEqual(
            self.bad('set port "server'), "'set port \"server' cannot be read: No closing quotation"
        )

    def test_empty(self) -> None:
        """An empty line is no command, and neither is an empty word."""
        self.assertIn("nothing to do in an empty line", self.bad("  "))
        self.assertTrue(self.bad("''").startswith("there is no command ''; allowed: "))


class AgentCommandTests(CommandTestCase):
    """The agent's own commands."""

    def test_arguments(self) -> None:
        """The first whose patterns match is run, with the arguments as they were typed."""
        self.assertEqual(self.do("backup quick"), "done")
        self.do("backup mail 'Ann <ann@example.org>'")
        self.do("pull")
        self.assertEqual(self.typed, [("quick",), ("mail", "Ann <ann@example.org>"), ()])

    def test_wrong_arguments(self) -> None:
        """Otherwise every way in which it may be typed is shown."""
        self.assertEqual(self.bad("backup half"), "usage: backup full|quick, or: backup mail .+@.+")
        self.assertEqual(self.bad("pull now"), "usage: pull")
        self.assertEqual(self.typed, [])

    def test_error(self) -> None:
        """What an action raises, in whatever way, is its failure."""

        async def broken() -> None:
            raise OSError("no network")

        self.agents.add("push", [], broken)
        self.failureResultOf(run(parse("push", self.desk, ASKER), self.desk, ASKER), OSError)


class EmitTests(CommandTestCase):
    """``emit``."""

    def data(self, line: str) -> Any:
        return self.successResultOf(run(parse(line, self.desk, ASKER), self.desk, ASKER)).data

    def test_workers(self) -> None:
        """Without more it goes to all that serve, and tells what each answered, failures among them."""
        self.assertEqual(self.do("emit forget"), 'worker 1: ["one"]\nworker 2: failed: worker 2 ended')
        self.assertEqual(self.monitor.asked, [("emit", "forget", None, None)])
        data = self.data("""emit forget '{"page": 3}'""")
        self.assertEqual(self.monitor.asked[-1], ("emit", "forget", {"page": 3}, None))
        self.assertEqual(data["worker 1"], {"results": ["one"]})
        self.assertEqual(data["worker 2"]["error"]["message"], "worker 2 ended")

    def test_one(self) -> None:
        """To one worker, or to the monitor's own handlers."""
        self.assertEqual(self.do("emit forget 3 to 7"), "worker 7: [3]")
        self.assertEqual(self.do("emit backup true to monitor"), "monitor: [true, null]")
        self.assertEqual(self.monitor.asked, [("emit", "forget", 3, 7), ("dispatch", "backup", True)])

    def test_nobody(self) -> None:
        """Where nobody answers, or nobody is there, it has failed."""
        for line, text in (("emit forget to 9", "no worker 9"), ("emit forget", "no worker serves now")):
            self.monitor.answers.clear()
            failure = self.failureResultOf(run(parse(line, self.desk, ASKER), self.desk, ASKER))
            self.assertIn(text, failure.getErrorMessage())

    def test_bad(self) -> None:
        """What is no JSON, or no target, is told so."""
        self.assertIn("'{page' is no JSON (", self.bad("emit forget {page"))
        self.assertIn("not to 'all'", self.bad("emit forget 1 to all"))
        self.assertIn("usage: emit NAME", self.bad("emit"))


class AuditTests(CommandTestCase):
    """What is told of a deed."""

    def test_deeds(self) -> None:
        """Whoever has something done, or fails to, is told of with what came of it; whoever looks is not."""
        self.do("restart clean")
        self.failureResultOf(run(parse("set polling 0", self.desk, ASKER), self.desk, ASKER))
        self.do("backup full")
        self.do("status")
        self.do("logs")
        self.do("help")
        self.assertEqual(
            [
                (each.action, each.ok, each.outcome, each.who)
                for each in self.told
                if isinstance(each, OperatorAction)
            ],
            [
                ("restart clean", True, "generation 2 serves", "the console"),
                ("set polling 0", False, "polling.interval_seconds: must be more", "the console"),
                ("backup full", True, "done", "the console"),
            ],
        )
        self.assertEqual(len(self.told), 3)


class LookingTests(CommandTestCase):
    """``logs`` and ``crashes``; ``events`` is the journal's."""

    def print(self, *texts: str) -> None:
        for text in texts:
            line = OutputLine(source="worker 3", stream="stdout", text=text)
            self.desk.history(Told(sequence=self.desk.history.sequence + 1, at=0.0, event=line))

    def test_logs(self) -> None:
        """The last lines, of one worker or of all."""
        self.assertEqual(self.do("logs"), "nothing has been printed")
        self.print("one", "two", "three")
        self.assertEqual(
            self.do("logs --last 2"),
            "1970-01-01 00:00:00.000Z [worker 3] two\n1970-01-01 00:00:00.000Z [worker 3] three",
        )
        self.assertEqual(self.do("logs --worker 4"), "nothing has been printed")
        self.assertIn("three", self.do("logs --worker 3"))

    def test_bad_logs(self) -> None:
        """What is allowed is told."""
        self.assertEqual(
            self.bad("logs --wroker 3"), "logs: option --wroker not recognized; allowed: --worker, --last"
        )
        self.assertIn("1 to 10000, not '0'", self.bad("logs --last 0"))
        self.assertIn("id of a worker, not 'x'", self.bad("logs --worker x"))
        self.assertIn("not 'all'", self.bad("logs all"))

    def test_no_crash(self) -> None:
        """Where nobody has died there is nothing to show."""
        self.assertEqual(self.do("crashes"), "no worker has died unasked")
        self.assertEqual(self.bad("crashes last"), "there is no crash report: no worker has died unasked")
        self.assertIn("usage: crashes", self.bad("crashes a b"))

    def test_bad_events(self) -> None:
        """A kind that there is not, and a time that is none."""
        self.assertIn("did you mean 'WorkerDied'?", self.bad("events --kind WorkerDead"))
        self.assertIn("'yesterday' is no time", self.bad("events --since yesterday"))


class HelpTests(CommandTestCase):
    """What `help` shows."""

    def test_all(self) -> None:
        """Each command has a line, with its usage and what it does."""
        text = help_text(self.agents)
        self.assertEqual(self.do("help"), text)
        self.assertEqual(self.do("help restart"), text)
        lines = text.split("\n")
        self.assertEqual(len(lines), len(COMMANDS) + 1 + 3)
        width = max(len(command.usage) for command in COMMANDS) + 2
        self.assertIn(f"{'set port NAME ADDRESS [now]':<{width}}give a port another address", text)
        self.assertIn(f"{'backup full|quick':<{width}}zip the pages", lines)
        self.assertIn(f"{'pull':<{width}}a command of the agent's", lines)
