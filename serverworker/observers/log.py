"""The log as an observer: each event as one entry, with a sentence for people and named fields for programs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
from twisted.logger import Logger, LogLevel

from serverworker.values import events
from serverworker.values.causes import CauseKind
from serverworker.values.events import Told
from serverworker.values.lines import ToldLines
from serverworker.values.sentences import level_and_sentence, source_of, traceback_of

NAMESPACE = "serverworker.session"

_NOT_LOGGED = frozenset({"output", "beats", "requests", "stacks"})
"""Fields of a death that its crash report holds, and that would drown the log."""

_log = Logger(namespace=NAMESPACE)


class LogObserver:
    """Logs every event that it is told, under `NAMESPACE`.

    An entry has the fields ``sentence``, ``source`` (``monitor``, ``worker 3`` or ``exec``), ``event`` (the
    class's name), ``sequence``, ``traceback`` (empty where there is none) and those of the event itself, plain
    values and dictionaries of such; what only a crash report needs is left out.
    """

    def __init__(
        self, *, show_server_output: bool = True, sinks: Sequence[Callable[[ToldLines], None]] = ()
    ) -> None:
        """`show_server_output`: whether lines that workers print are logged; those of commands always are.

        `sinks` are told of these lines directly, many at once; without any, each goes through the logger.
        """
        self._show_server_output = show_server_output
        self._sinks = sinks

    def __call__(self, told: Told) -> None:
        """Log an event."""
        event = told.event
        source = source_of(event)
        if isinstance(event, events.OutputLine) and source != "exec" and not self._show_server_output:
            return
        level, sentence = level_and_sentence(event)
        traceback = traceback_of(event).rstrip("\n")
        fields = attrs.asdict(event, filter=_is_logged, value_serializer=_plain)
        fields |= {
            "source": source,
            "log_system": source,  # what twistd's own observer (`--logfile`) puts in brackets
            "event": told.name,
            "sequence": told.sequence,
            "sentence": sentence,
            "traceback": traceback,
        }
        _log.emit(
            LogLevel.lookupByName(level), "{sentence}\n{traceback}" if traceback else "{sentence}", **fields
        )

    def lines(self, told: ToldLines) -> None:
        """Log what a worker printed."""
        if not self._show_server_output:
            return
        for sink in self._sinks:
            sink(told)
        if not self._sinks:
            for line in told:
                self(line)


def _is_logged(attribute: attrs.Attribute[Any], value: Any) -> bool:
    return attribute.name not in _NOT_LOGGED


def _plain(instance: Any, attribute: Any, value: Any) -> Any:
    return value.value if isinstance(value, CauseKind) else value
