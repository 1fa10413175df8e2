"""What a session answers to probes and to Prometheus: ``/livez``, ``/readyz``, ``/metrics``; `health_port` serves it."""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen
from twisted.logger import Logger

from serverworker.decisions.health import is_healthy, why_unready
from serverworker.monitor.handle import Monitor

_TEXT = "text/plain; charset=utf-8"
_METHODS = ("GET", "HEAD")
_NO_METRICS = "metrics need prometheus-client: pip install 'serverworker[metrics]'"

_log = Logger(namespace="serverworker.health")


@frozen(kw_only=True)
class Answer:
    """An answer to an HTTP request."""

    status: int
    body: bytes
    content_type: str = _TEXT


class HealthAnswers:
    """Answers from the state, whatever the workers are at. Nothing in it is of use to who should not be here."""

    def __init__(self, monitor: Monitor, metrics: Callable[[], tuple[str, bytes]]) -> None:
        """`metrics()` answers a content type and a content, or raises ImportError where a package is missing."""
        self._monitor = monitor
        self._metrics = metrics
        self._routes = {"/livez": self._livez, "/readyz": self._readyz, "/metrics": self._told_metrics}
        self._failed = False

    def answer(self, method: str, path: str) -> Answer:
        """The answer to a request for a path, without its query."""
        route = self._routes.get(path)
        if route is None:
            return _text(404, "there is /livez, /readyz and /metrics")
        if method not in _METHODS:
            return _text(405, "GET or HEAD")
        try:
            return route()
        except Exception:
            if not self._failed:  # once: whoever asks every second must not fill the log
                self._failed = True
                _log.failure("{path} cannot be answered, and is answered with 500 from now on", path=path)
            return _text(500, "the monitor has a fault of its own; its log tells it")

    def _livez(self) -> Answer:
        healthy = is_healthy(self._monitor.state, self._monitor.seconds())
        return _text(200, "live") if healthy else _text(503, "not live: nobody serves and nothing is planned")

    def _readyz(self) -> Answer:
        why = why_unready(self._monitor.state)
        return _text(503, f"not ready: {why}") if why else _text(200, "ready")

    def _told_metrics(self) -> Answer:
        try:
            content_type, body = self._metrics()
        except ImportError:
            return _text(501, _NO_METRICS)
        return Answer(status=200, body=body, content_type=content_type)


def _text(status: int, text: str) -> Answer:
    return Answer(status=status, body=f"{text}\n".encode())
