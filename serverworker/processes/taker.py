"""What serves the connections of a port by itself: a server that is no factory of Twisted's."""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred

from serverworker.processes.access_log import AccessLog
from serverworker.processes.board import RequestBoard

if TYPE_CHECKING:
    from ssl import SSLContext


class Taker(ABC):
    """Takes accepted connections, serves them, and can be drained as a factory of Twisted's is (`drain.Tracked`)."""

    tls: SSLContext | None = None
    """For the connections to come; None: they are plain."""

    @abstractmethod
    def begin(self, board: RequestBoard, access: AccessLog | None) -> None:
        """It is listened with from now on: requests and connections go on the board, what was answered to the log."""

    @abstractmethod
    def take(self, connection: socket.socket, closed: Callable[[], object]) -> None:
        """Serve a connection, not blocking, and call `closed` once when it has ended.

        It is the caller's, and closed when this returns, unless it was detached. Raises `OSError` where it cannot be
        served for want of something; nothing else.
        """

    @property
    @abstractmethod
    def open_connections(self) -> int:
        """How many there are, whatever they are at."""

    @abstractmethod
    def drain(self) -> None:
        """From now on a connection ends with its next answer; one that waits for its next request goes on waiting."""

    @abstractmethod
    def close_idle(self) -> None:
        """Drain, and close the connections that wait for a next request. For when no successor answers."""

    @abstractmethod
    def abort(self) -> None:
        """Close every connection, whatever it is at; what has not closed a second later is reset."""

    @abstractmethod
    def when_idle(self) -> Deferred[None]:
        """Fires when no connection is left, and nothing is at work for one."""

    @abstractmethod
    def end(self) -> None:
        """It is over: all connections are gone."""
