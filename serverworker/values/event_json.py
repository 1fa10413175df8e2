"""An event as JSON: the one shape for the journal, webhooks, the control protocol and the dashboard.

Its keys::

sequence    the number of the event in its session, from 1
at          ISO 8601, UTC, milliseconds, such as 2026-11-24T08:07:17.123Z
event       the name of its class, such as WorkerDied
level       debug, info, warn or error
source      who speaks: monitor, worker 3 or exec
sentence    what happened, in words
fields      the event's own fields, as `serverworker.values.events` has them
"""

from __future__ import annotations

import enum
from datetime import UTC, datetime
from typing import Any

import attrs

from serverworker.values.events import Told
from serverworker.values.sentences import level_and_sentence, source_of


def utc(at: float) -> str:
    """Seconds since the epoch as ISO 8601 in UTC, to the millisecond, such as ``2026-11-24T08:07:17.123Z``."""
    moment = datetime.fromtimestamp(round(at * 1000) / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def event_json(told: Told) -> dict[str, Any]:
    """The event as JSON values, in the shape above."""
    level, sentence = level_and_sentence(told.event)
    return {
        "sequence": told.sequence,
        "at": utc(told.at),
        "event": told.name,
        "level": level,
        "source": source_of(told.event),
        "sentence": sentence,
        "fields": attrs.asdict(told.event, value_serializer=_plain),
    }


def _plain(instance: Any, attribute: Any, value: Any) -> Any:
    return value.value if isinstance(value, enum.Enum) else value
