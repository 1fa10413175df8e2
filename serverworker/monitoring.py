"""Joins to a session what keeps its history and shows it to machines: the journals, metrics, and the health endpoint."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from serverworker.monitor.journal_files import AUDIT_NAME, JOURNAL_NAME, previous_session, session_id
from serverworker.monitor.session import Session
from serverworker.monitor.stream import ignore_lines
from serverworker.observers.journal import Journal, for_audit
from serverworker.observers.journal_file import JournalFile
from serverworker.observers.metric_families import Exposed
from serverworker.observers.metrics import Counts, Metrics
from serverworker.processes.awaiting import record_of
from serverworker.processes.state_directory import StateDirectory
from serverworker.surfaces.health import HealthAnswers
from serverworker.values.events import Fault, PreviousSession
from serverworker.values.settings import Settings

_log = Logger(namespace="serverworker.monitor")
_MIB = 1024 * 1024
_DAY_SECONDS = 86_400.0


class Monitoring:
    """What keeps the history of one session and shows it to machines."""

    def __init__(
        self,
        *,
        reactor: Any,
        session: Session,
        settings: Settings,
        bound: socket.socket | None,
        state: StateDirectory,
        in_thread: Callable[[Callable[[], Any]], Deferred[Any]],
    ) -> None:
        """`bound` is what the health endpoint listens on; None: there is none."""
        self._reactor = reactor
        self._session = session
        self._settings = settings
        self._bound = bound
        self._state = state
        self._in_thread = in_thread
        self.session_id = session_id(time.time(), os.getpid())
        """What this session is called in its journal."""
        self.counts = Counts()
        """What others count, for metrics."""

    def open(self) -> None:
        """Begin. To be called before anything else that has something to tell at the end: journals are closed last."""
        self._look_back()
        journal = self._open_journal(JOURNAL_NAME)
        audit = self._open_journal(AUDIT_NAME, wants=for_audit)
        self.counts.dropped |= {"journal": lambda: journal.dropped, "audit": lambda: audit.dropped}
        if self._bound is not None:
            self._open_health(self._bound)

    def _open_journal(self, name: str, **options: Any) -> Journal:
        settings = self._settings.journal
        file = JournalFile(
            path=self._state.path / name,
            max_bytes=settings.max_mib * _MIB,
            max_seconds=settings.max_days * _DAY_SECONDS,
            files=settings.files,
            wall_clock=time.time,
        )
        journal = Journal(
            self._reactor,
            file,
            self._session.stream.publish,
            self._in_thread,
            session=self.session_id,
            **options,
        )
        self._session.stream.observe(journal, ignore_lines)
        self._session.at_end(journal.drain)
        return journal

    def _open_health(self, bound: socket.socket) -> None:
        # Who has no such endpoint does without: twisted.web alone takes some megabytes.
        from serverworker.surfaces.health_port import HealthPort

        monitor = self._session.handle
        metrics = Metrics(monitor, self.counts)
        self._session.stream.observe(metrics, ignore_lines)
        port = HealthPort(self._reactor, bound, HealthAnswers(monitor, Exposed(metrics)))
        port.start()
        self._session.at_end(port.close)
        _log.info("/livez, /readyz and /metrics are at {address}", address=port.address)

    def _look_back(self) -> None:
        """Tell how the session before this one ended."""
        found = self._in_thread(partial(previous_session, self._state.path, self.session_id))
        found.addCallbacks(self._tell_previous, self._cannot_look_back)

    def _tell_previous(self, previous: PreviousSession | None) -> None:
        if previous is not None:
            self._session.stream.publish(previous)

    def _cannot_look_back(self, failure: Failure) -> None:
        self._session.stream.publish(
            Fault(where="the journal of the session before", error=record_of(failure))
        )
