"""``--reload``: a change of the application's code restarts, in the way in which an operator would."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any, Protocol

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from serverworker.monitor.engine import Engine
from serverworker.monitor.file_watch import FileChange, FileWatch
from serverworker.monitor.session import Session
from serverworker.monitor.stream import ignore_lines
from serverworker.values import events
from serverworker.values.events import Told
from serverworker.values.state import Life
from serverworker.wire import commands

QUIET_SECONDS = 0.2
"""So long nothing must have changed any more: an editor, or a switch to another branch, writes one file after the other."""

ASK_SECONDS = 5.0
"""From one look at what is imported to the next: an application may import in the middle of a request."""

_SHOWN_FILES = 3
_FILE_IN_TRACEBACK = re.compile(r'^ *File "([^"\n]+)", line', re.MULTILINE)


class Watcher(Protocol):
    """What watches; see `file_watch.FileWatch`."""

    def watch(self, folders: Collection[str]) -> None:
        """Watch the files in these folders, in the place of others."""

    def stop(self) -> Deferred[None]:
        """Watch no more."""


class Reload:
    """Restarts when a file of the code has changed, one restart after the other. An observer of the session's events."""

    _log = Logger(namespace="serverworker.monitor")

    def __init__(
        self,
        *,
        clock: Any,
        directory: str,
        imported: Callable[[], Deferred[set[str]]],
        restart: Callable[[str], Deferred[str]],
    ) -> None:
        """`imported` asks the workers for their files; `restart(asked_by)` begins a restart."""
        self._clock = clock
        self._directory = directory
        self._imported = imported
        self._restart = restart
        self._watcher: Watcher | None = None
        self._files: frozenset[str] = frozenset()
        self._of_failed: frozenset[str] = frozenset()
        """What the last restart failed in; empty where it did not."""
        self._changed: dict[str, None] = {}
        self._has_failed = False
        """Whether the last restart did."""
        self._is_free = False
        """Whether somebody serves and nothing is being restarted."""
        self._is_ending = False
        self._told_failure = ""
        """Why the files could not be watched; empty once they were."""
        self._timer: IDelayedCall | None = None
        self._loop = LoopingCall(self._ask)
        self._loop.clock = clock

    def start(self, watcher: Watcher) -> None:
        """Watch from now on; a change before somebody serves waits for that."""
        self._watcher = watcher
        self._watch()

    def stop(self) -> Any:
        """Watch no more."""
        self._end()
        if self._loop.running:
            self._loop.stop()
        watcher, self._watcher = self._watcher, None
        return None if watcher is None else watcher.stop()

    def __call__(self, told: Told) -> None:
        """Something has happened."""
        match told.event:
            case events.ServerRunning(is_first_time=True):
                self._settled(frozenset())
                self._loop.start(ASK_SECONDS)
            case events.ServerRunning():
                self._ask()
            case events.RestartStarted():
                self._is_free = False
                self._cancel_timer()
            case events.RestartCompleted():
                self._has_failed = False
                self._settled(frozenset())
            case events.RestartFailed(cause=cause):
                error = None if cause is None else cause.error
                self._has_failed = True
                self._settled(files_in(error.traceback if error is not None else ""))
                self._log.info("--reload: the next change of the code is tried as well")
            case events.SessionEnding():
                self._end()
            case _:
                pass

    def changed(self, changes: Iterable[FileChange]) -> None:
        """Files have changed: those that are of the code count."""
        self._told_failure = ""
        for each in changes:
            if Path(each.path).name.startswith("."):  # an editor's own, such as Emacs' lock .#web.py
                continue
            # What a broken version lacks may be a file that nobody has imported yet.
            if each.path in self._files or each.is_new or self._has_failed:
                self._changed[each.path] = None
        if self._changed:
            self._wait()

    def failed(self, failure: Failure) -> None:
        """The watcher has: that is said once, what to do about it too, and the session goes on."""
        why = failure.getErrorMessage()
        if why == self._told_failure:
            return
        self._told_failure = why
        self._log.error(
            "--reload: the files cannot be watched: {why}; tried again every {seconds:g} s. Where the system has too few "
            "inotify watches: sysctl fs.inotify.max_user_watches",
            why=why,
            seconds=ASK_SECONDS,
        )

    def _wait(self) -> None:
        self._cancel_timer()
        if self._is_free:
            self._timer = self._clock.callLater(QUIET_SECONDS, self._begin)

    def _end(self) -> None:
        self._is_ending, self._is_free = True, False
        self._cancel_timer()

    def _cancel_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _settled(self, of_failed: frozenset[str]) -> None:
        self._is_free = not self._is_ending
        self._of_failed = of_failed
        self._watch()
        self._ask()
        if self._changed:  # meanwhile
            self._wait()

    def _begin(self) -> None:
        self._timer = None
        names, self._changed = list(self._changed), {}
        asking = True

        def refused(failure: Failure) -> None:
            if asking:  # what becomes of one that was begun is told as an event
                self._log.error("--reload: {why}", why=failure.getErrorMessage())

        self._restart(f"--reload: {_shown(names, self._directory)}").addErrback(refused)
        asking = False

    def _ask(self) -> None:
        self._imported().addCallback(self._take_files)

    def _take_files(self, files: Collection[str]) -> None:
        if files:  # else nobody has answered
            self._files = frozenset(files)
            self._watch()

    def _watch(self) -> None:
        if self._watcher is not None:
            files = self._files | self._of_failed
            self._watcher.watch({self._directory, *(str(Path(each).parent) for each in files)})


def open_reload(session: Session) -> None:
    """Have a session restart when its code changes, until its end."""
    reload = Reload(
        clock=session.reactor,
        directory=str(Path(session.settings.app.directory or ".").resolve()),
        imported=lambda: imported_by_workers(session.engine),
        restart=lambda asked_by: session.restart("clean", asked_by),
    )
    session.stream.observe(reload, ignore_lines)
    reload.start(FileWatch(session.reactor, reload.changed, reload.failed))
    session.at_end(reload.stop)


def files_in(traceback: str) -> frozenset[str]:
    """The files that a traceback names, that of a syntax error among them."""
    return frozenset(_FILE_IN_TRACEBACK.findall(traceback))


def imported_by_workers(engine: Engine) -> Deferred[set[str]]:
    """The files that the workers who serve have imported; empty where none of them answers."""
    asked = []
    for worker in engine.state.in_life(Life.SERVING):
        process = engine.process(worker.id)
        if process is not None:
            asked.append(process.link.ask(commands.ImportedFiles, ASK_SECONDS))

    def together(answers: list[tuple[bool, Any]]) -> set[str]:
        return {file for ok, answer in answers if ok for file in answer["files"]}

    return DeferredList(asked, consumeErrors=True).addCallback(together)


def _shown(names: list[str], directory: str) -> str:
    """The files in short, as seen from the application's folder."""
    short = [name.removeprefix(f"{directory}/") for name in names]
    more = len(short) - _SHOWN_FILES
    return ", ".join(short[:_SHOWN_FILES]) + (f" and {more} more" if more > 0 else "")
