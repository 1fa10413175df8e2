"""What the agent promises, without processes and without waiting."""

from notes import Notes
from treq.testing import StubTreq
from twisted.trial.unittest import SynchronousTestCase

from serverworker import ExitKind, ExitReason, RemoteError
from serverworker.testing import FakeSession, ShellResult
from serverworker.values.events import Lifecycle, WorkerDied


class NotesTests(SynchronousTestCase):
    def setUp(self):
        self.session = FakeSession(agent=Notes, key="the key").start()
        self.addCleanup(self.session.close)

    def test_add(self):
        """A worker's emit comes to the monitor's handler, and the answer back; so does an error."""
        emit = self.session.worker.emit
        self.assertEqual(self.session.wait(emit("add", {"text": "milk"})), [1])
        error = self.assertRaises(RemoteError, self.session.wait, emit("add", {"text": ""}))
        self.assertEqual(error.record.type, "builtins.ValueError")

    def test_archive(self):
        """What the shell would have been given, and what a failed command leads to."""
        self.session.shell = lambda command: ShellResult(status=1, stdout="", stderr="disk full", seconds=0.1)
        archived = self.session.worker.emit("archive", {"file": "notes.py"})
        error = self.assertRaises(RemoteError, self.session.wait, archived)
        self.assertIn("disk full", str(error))
        self.assertEqual(self.session.shell_commands, [["gzip", "--keep", "--force", "notes.py"]])

    def test_console(self):
        """The operator's commands, as they are typed."""
        self.session.wait(self.session.worker.emit("add", {"text": "milk"}))
        self.assertEqual(self.session.wait(self.session.type("notes 1")), "milk")
        self.assertIn("worker 1", self.session.wait(self.session.type("forget")))

    def test_crash(self):
        """What `kill -9` of the worker leads to: an event, and a successor with the notes still there."""
        self.session.wait(self.session.worker.emit("add", {"text": "milk"}))
        self.session.process.end(by_signal=9)
        self.session.reactor.turn()
        [died] = [event for event in self.session.told if isinstance(event, WorkerDied)]
        self.assertEqual(died.cause.signal, "SIGKILL")
        self.assertEqual(self.session.wait(self.session.worker.emit("add", {"text": "bread"})), [2])

    def test_exit_handler(self):
        """The worker says why it ends."""
        self.session.wait(self.session.leave(ExitReason(ExitKind.CRASH, text="it broke")))
        notes = [event.text for event in self.session.told if isinstance(event, Lifecycle)]
        self.assertIn("ends by crash: it broke", notes)

    def test_hang(self):
        """A worker that answers no ping is replaced; time passes when the test says so."""
        self.session.process.answers_pings = False
        self.session.reactor.pass_seconds(12)
        [died] = [event for event in self.session.told if isinstance(event, WorkerDied)]
        self.assertEqual(died.cause.kind.value, "hang")

    def get(self, path, **options):
        """The status that the worker's site answers with."""
        client = StubTreq(self.session.factories["server"].resource)
        response = client.get(f"http://localhost{path}", **options)
        self.session.reactor.turn()
        client.flush()
        return self.successResultOf(response).code

    def test_routes(self):
        """The web side: a good note, an empty one, and a route for whoever has the session key."""
        self.assertEqual(self.get("/add?text=milk"), 200)
        self.assertEqual(self.get("/add"), 400)
        self.assertEqual(self.get("/archive"), 403)
        self.assertEqual(self.get("/archive", headers={"authorization": "Bearer the key"}), 200)
