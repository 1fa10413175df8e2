"""``--reload``: what of the code's changes restarts, when, and what is watched; the watcher is a fake."""

from __future__ import annotations

import sys
from collections.abc import Collection
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from serverworker import listening
from serverworker.listening import check_extras
from serverworker.monitor.file_watch import FileChange
from serverworker.monitor.reload import ASK_SECONDS, QUIET_SECONDS, Reload, files_in
from serverworker.processes.imported_files import imported_files
from serverworker.processes.spawn import resolve_recipe
from serverworker.values import events
from serverworker.values.causes import Cause, CauseKind
from serverworker.values.errors import ErrorRecord, NotDone
from serverworker.values.events import Event, Told
from serverworker.values.settings import AppSettings, Settings

TRACEBACK = """\
Traceback (most recent call last):
  File "/srv/site/web.py", line 2, in <module>
    import parts.new
  File "/srv/site/parts/new.py", line 1
    WHAT = "
           ^
SyntaxError: unterminated string literal (detected at line 1)
"""


class FakeWatcher:
    """Notes which folders are to be watched."""

    def __init__(self) -> None:
        self.folders: Collection[str] = ()
        self.stopped = False

    def watch(self, folders: Collection[str]) -> None:
        self.folders = set(folders)

    def stop(self) -> Deferred[None]:
        self.stopped = True
        return succeed(None)


class ReloadTests(SynchronousTestCase):
    """`Reload`."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.files = {"/srv/site/web.py", "/srv/site/parts/a.py"}
        self.restarts: list[str] = []
        self.answer: Deferred[str] = Deferred()
        self.watcher = FakeWatcher()
        self.reload = Reload(
            clock=self.clock,
            directory="/srv/site",
            imported=lambda: succeed(set(self.files)),
            restart=self.restart,
        )
        self.reload.start(self.watcher)
        self.addCleanup(self.reload.stop)

    def restart(self, asked_by: str) -> Deferred[str]:
        self.restarts.append(asked_by)
        return self.answer

    def tell(self, event: Event) -> None:
        self.reload(Told(sequence=1, at=0.0, event=event))

    def serves(self, first: bool = True) -> None:
        self.tell(events.ServerRunning(worker=1, generation=1, is_first_time=first))

    def starts(self) -> None:
        self.tell(events.RestartStarted(generation=2, mode="clean", asked_by="somebody"))

    def completes(self) -> None:
        self.tell(events.RestartCompleted(generation=2, seconds=1.0))

    def fails(self, traceback: str = TRACEBACK) -> None:
        error = ErrorRecord(type="builtins.SyntaxError", message="no", traceback=traceback)
        cause = Cause(kind=CauseKind.LOAD, text="no", error=error)
        self.tell(events.RestartFailed(generation=2, text="no", cause=cause))

    def change(self, *paths: str, new: bool = False) -> None:
        self.reload.changed([FileChange(path, new) for path in paths])

    def quiet(self) -> None:
        self.clock.advance(QUIET_SECONDS)

    def test_a_change_restarts(self) -> None:
        """Once it is quiet; who asked and for which file is said, as seen from the application's folder."""
        self.serves()
        self.change("/srv/site/web.py")
        self.assertEqual(self.restarts, [])
        self.quiet()
        self.assertEqual(self.restarts, ["--reload: web.py"])

    def test_many_changes_are_one(self) -> None:
        """Each change begins the wait anew, and all together are one restart."""
        self.serves()
        for _ in range(5):
            self.change("/srv/site/web.py", "/srv/site/parts/a.py")
            self.clock.advance(QUIET_SECONDS * 0.9)
        self.assertEqual(self.restarts, [])
        self.quiet()
        self.assertEqual(self.restarts, ["--reload: web.py, parts/a.py"])
        self.quiet()
        self.assertEqual(len(self.restarts), 1)

    def test_what_is_not_imported(self) -> None:
        """A file that nobody has imported may change; a new one may be what the next edit needs."""
        self.serves()
        self.change("/srv/site/test_web.py")
        self.quiet()
        self.assertEqual(self.restarts, [])
        self.change("/srv/site/new.py", new=True)
        self.quiet()
        self.assertEqual(self.restarts, ["--reload: new.py"])

    def test_editors_own_files(self) -> None:
        """Emacs' lock is there as soon as somebody types, long before the file is written."""
        self.serves()
        self.change("/srv/site/.#web.py", new=True)
        self.quiet()
        self.assertEqual(self.restarts, [])

    def test_before_anybody_serves(self) -> None:
        """A change during the start waits until somebody serves."""
        self.change("/srv/site/web.py", new=True)
        self.quiet()
        self.assertEqual(self.restarts, [])
        self.serves()
        self.quiet()
        self.assertEqual(len(self.restarts), 1)

    def test_during_a_restart(self) -> None:
        """One at a time, whoever asked for it: what changes meanwhile restarts once more afterwards."""
        self.serves()
        for over in (self.completes, self.fails):
            self.restarts.clear()
            self.starts()
            self.change("/srv/site/web.py")
            self.quiet()
            self.assertEqual(self.restarts, [])
            over()
            self.quiet()
            self.assertEqual(len(self.restarts), 1)

    def test_restart_of_another_between(self) -> None:
        """A restart that somebody else begins within the quiet time is not run into; the change comes after it."""
        self.serves()
        self.change("/srv/site/web.py")
        self.starts()
        self.quiet()
        self.assertEqual(self.restarts, [])
        self.completes()
        self.quiet()
        self.assertEqual(len(self.restarts), 1)

    def test_what_failed_is_watched(self) -> None:
        """A new version that failed: the files that its traceback names are watched, and any change is tried."""
        self.serves()
        self.starts()
        self.fails()
        self.assertEqual(self.watcher.folders, {"/srv/site", "/srv/site/parts"})
        self.files.discard("/srv/site/parts/a.py")
        self.clock.advance(ASK_SECONDS)
        self.assertIn("/srv/site/parts", self.watcher.folders)
        self.change("/srv/site/parts/new.py")
        self.quiet()
        self.assertEqual(self.restarts, ["--reload: parts/new.py"])
        self.starts()
        self.completes()
        self.change("/srv/site/parts/new.py")
        self.quiet()
        self.assertEqual(len(self.restarts), 1)

    def test_failed_without_a_word(self) -> None:
        """A version that failed without a traceback (it hung, or was killed) is followed by the next edit as well."""
        self.serves()
        self.starts()
        self.tell(events.RestartFailed(generation=2, text="it hung"))
        self.change("/srv/site/other.py")
        self.quiet()
        self.assertEqual(len(self.restarts), 1)

    def test_imported_later(self) -> None:
        """What is imported in the middle of a request is watched soon after."""
        self.serves()
        self.files.add("/srv/library/late.py")
        self.clock.advance(ASK_SECONDS)
        self.assertIn("/srv/library", self.watcher.folders)
        self.change("/srv/library/late.py")
        self.quiet()
        self.assertEqual(self.restarts, ["--reload: /srv/library/late.py"])

    def test_nobody_answers(self) -> None:
        """Where no worker says what it has imported, what was known goes on being watched."""
        self.serves()
        self.files.clear()
        self.clock.advance(ASK_SECONDS)
        self.assertEqual(self.watcher.folders, {"/srv/site", "/srv/site/parts"})

    def test_refused(self) -> None:
        """A restart that is refused at once, as for a broken configuration, is told in the log."""
        self.answer = fail(NotDone("nothing is restarted"))
        self.serves()
        self.change("/srv/site/web.py")
        with capturedLogs() as logged:
            self.quiet()
        self.assertIn("--reload: nothing is restarted", [formatEvent(each) for each in logged])

    def test_end(self) -> None:
        """At the session's end nothing is begun any more, and nothing is left running."""
        self.serves()
        self.change("/srv/site/web.py")
        self.tell(events.SessionEnding(reason="x", graceful=True, status=0))
        self.quiet()
        self.fails()
        self.change("/srv/site/web.py")
        self.quiet()
        self.assertEqual(self.restarts, [])
        self.reload.stop()
        self.assertTrue(self.watcher.stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_many_files(self) -> None:
        """A switch to another branch changes hundreds: a few are named."""
        self.serves()
        self.change(*(f"/srv/site/{number}.py" for number in range(9)), new=True)
        self.quiet()
        self.assertEqual(self.restarts, ["--reload: 0.py, 1.py, 2.py and 6 more"])

    def test_files_in(self) -> None:
        """The file of a syntax error, which is in no frame, is among those of a traceback."""
        self.assertEqual(files_in(TRACEBACK), {"/srv/site/web.py", "/srv/site/parts/new.py"})

    def test_cannot_watch(self) -> None:
        """Said once, though it is tried at each look; and again where it had worked in between."""
        failure = Failure(OSError("too many watches"))
        with capturedLogs() as told:
            for _ in range(3):
                self.reload.failed(failure)
            self.reload.changed([])
            self.reload.failed(failure)
        self.assertEqual(len(told), 2)
        self.assertIn("too many watches; tried again every 5 s", formatEvent(told[0]) or "")


class ExtraTests(SynchronousTestCase):
    """What ``--reload`` needs is looked for while the service is made."""

    def test_missing(self) -> None:
        """Without watchfiles the start ends with 78, and says what to type; without ``--reload`` nobody asks."""
        self.patch(listening, "find_spec", lambda name: None)
        stderr = StringIO()
        self.patch(sys, "stderr", stderr)
        check_extras(Settings())
        error = self.assertRaises(SystemExit, check_extras, Settings(app=AppSettings(reload=True)))
        self.assertEqual(error.code, 78)
        self.assertIn("--reload needs watchfiles, which is not installed for", stderr.getvalue())
        self.assertIn(f"{sys.executable} -m pip install 'serverworker[reload]'", stderr.getvalue())


class ImportedFilesTests(SynchronousTestCase):
    """`imported_files`: what a worker answers."""

    def test_the_application_alone(self) -> None:
        """Neither Python's own modules nor installed packages; this test's own module is one of the others."""
        found = imported_files()
        self.assertIn(__file__, found)
        self.assertEqual([each for each in found if "site-packages" in each or "/asyncio/" in each], [])
        self.assertEqual(found, sorted(found))

    def test_odd_modules(self) -> None:
        """A module without a file, or with anything else in its place, is none."""
        module: Any = ModuleType("odd")
        module.__file__ = 5
        self.patch(sys, "modules", {**sys.modules, "odd": module, "none": None})
        self.assertNotIn(5, imported_files())

    def test_no_stale_bytecode(self) -> None:
        """With ``reload`` workers write no bytecode: an edit of the same size in the same second would be taken for it."""
        made = resolve_recipe(AppSettings(reload=True, directory=str(Path.cwd())), (), {}, 0)
        self.assertEqual(made.environment["PYTHONDONTWRITEBYTECODE"], "1")
        made = resolve_recipe(AppSettings(directory=str(Path.cwd())), (), {}, 0)
        self.assertNotIn("PYTHONDONTWRITEBYTECODE", made.environment)
