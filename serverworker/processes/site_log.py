"""Twisted's own line for each request of a site, made only where somebody sees it.

A Site without a log file of its own writes that line to Twisted's log, where a worker leaves it out (`worker_log`): to
make it costs a seventh of a small request. For those who want one there is ``[output] access_log``.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IProtocolFactory
from twisted.logger import LogPublisher, globalLogPublisher
from twisted.python.log import logfile
from twisted.web.http import HTTPFactory, datetimeToLogString

from serverworker.processes.uncaught import UncaughtErrors
from serverworker.processes.worker_log import WorkerLog

_OURS = (WorkerLog, UncaughtErrors)


def spare_unseen_lines(factory: IProtocolFactory, publisher: LogPublisher = globalLogPublisher) -> None:
    """Have a Site make its lines only while somebody but us observes Twisted's log, or it has a log file of its own.

    One whose class logs in a way of its own is left as it is.
    """
    if not isinstance(factory, HTTPFactory) or type(factory).log is not HTTPFactory.log:
        return
    site: Any = factory

    def log(request: Any) -> None:
        if getattr(site, "logFile", None) is not logfile or not _is_seen_by_us_alone(publisher):
            # Twisted takes the reactor's clock for the time of day; a worker's is monotonic.
            site._logDateTime = datetimeToLogString()
            HTTPFactory.log(site, request)

    site.log = log


def _is_seen_by_us_alone(publisher: Any) -> bool:
    # Twisted has no public way to ask. Where this one is gone, each line is made, as ever.
    observers = getattr(publisher, "_observers", None)
    return observers is not None and all(isinstance(observer, _OURS) for observer in observers)
