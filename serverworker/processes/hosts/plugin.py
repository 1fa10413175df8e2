"""Plugins of twistd (``-- web --path .``), their endpoints rewritten to the session's sockets."""

from __future__ import annotations

from collections.abc import Sequence

from serverworker.processes.hosts.interface import Host
from serverworker.values.errors import ApplicationError


def load_plugin(words: Sequence[str]) -> Host:
    """Find the plugin of this name, have it read its arguments, and make its host."""
    raise ApplicationError("plugins are not there yet")
