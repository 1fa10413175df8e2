"""Watching folders for changes of Python files, with watchfiles in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from attrs import Factory, frozen
from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

OVERLAP_SECONDS = 1.0
"""How long the former watch goes on beside a new one, which takes a moment until it sees anything."""

_GATHER_MILLISECONDS = 50
_WAKE_MILLISECONDS = 1000


@frozen
class FileChange:
    """A Python file has been written, made or removed."""

    path: str
    is_new: bool = False


@frozen(eq=False)
class _Watch:
    folders: frozenset[str]
    stop: threading.Event = Factory(threading.Event)
    lost: threading.Event = Factory(threading.Event)
    """One of the folders was removed or made anew, as by a switch to another branch: nothing more is seen of it."""


class FileWatch:
    """Watches the files in some folders, not those in folders within them."""

    def __init__(
        self,
        reactor: Any,
        changed: Callable[[list[FileChange]], object],
        failed: Callable[[Failure], object],
    ) -> None:
        """Both are called in the reactor's thread. `failed`: nothing is watched until `watch` is called again."""
        self._reactor = reactor
        self._changed = changed
        self._failed = failed
        self._watches: list[_Watch] = []
        self._gone: Deferred[None] | None = None

    def watch(self, folders: Collection[str]) -> None:
        """Watch these from now on, in the place of others; anew where one of them was removed meanwhile."""
        wanted = frozenset(each for each in folders if Path(each).is_dir())
        last = self._watches[-1] if self._watches else None
        if not wanted or (last is not None and last.folders == wanted and not last.lost.is_set()):
            return
        for former in self._watches:
            self._reactor.callLater(OVERLAP_SECONDS, former.stop.set)
        watch = _Watch(wanted)
        self._watches.append(watch)
        # No thread of the reactor's pool, which is waited for at the end.
        threading.Thread(target=self._run, args=(watch,), name="serverworker reload", daemon=True).start()

    def stop(self) -> Deferred[None]:
        """Watch no more; fires when the threads have ended, which takes a tenth of a second."""
        for each in self._watches:
            each.stop.set()
        if not self._watches:
            return succeed(None)
        self._gone = Deferred()
        return self._gone

    def _run(self, watch: _Watch) -> None:
        """In the thread."""
        from watchfiles import Change
        from watchfiles import watch as changes_in

        try:
            for changes in changes_in(
                *sorted(watch.folders),
                watch_filter=lambda _, path: path.endswith(".py") or path in watch.folders,
                step=_GATHER_MILLISECONDS,
                stop_event=watch.stop,
                rust_timeout=_WAKE_MILLISECONDS,
                recursive=False,
                raise_interrupt=False,
                ignore_permission_denied=True,
            ):
                if any(path in watch.folders for _, path in changes):
                    watch.lost.set()
                python = sorted(each for each in changes if each[1].endswith(".py"))
                found = [FileChange(path, change is Change.added) for change, path in python]
                self._reactor.callFromThread(self._changed, found)
        except Exception:  # whatever it is: without it a session would be thought to be watched that is not
            self._reactor.callFromThread(self._failed, Failure())
        finally:
            self._reactor.callFromThread(self._ended, watch)

    def _ended(self, watch: _Watch) -> None:
        self._watches.remove(watch)
        if self._gone is not None and not self._watches:
            gone, self._gone = self._gone, None
            gone.callback(None)
