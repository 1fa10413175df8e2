"""Where a coroutine waits: what a traceback is to an error."""

from __future__ import annotations

import gc
import traceback
from types import FrameType
from typing import Any

_DEEPEST = 50


def where_it_waits(coroutine: Any) -> str:
    """The frames of a suspended coroutine, outermost first, as a traceback prints them."""
    frames = []
    waits: Any = coroutine
    while waits is not None and len(frames) < _DEEPEST:
        frame, inner = _look_into(waits)
        if frame is None:
            # `asend()` of an asynchronous generator, such as `asynccontextmanager` makes, shows it to the collector
            # alone.
            waits = next((each for each in gc.get_referents(waits) if hasattr(each, "ag_frame")), None)
            continue
        frames.append((frame, frame.f_lineno))
        waits = inner
    return "".join(traceback.StackSummary.extract(iter(frames)).format()).rstrip()


def _look_into(waits: Any) -> tuple[FrameType | None, Any]:
    for prefix in ("cr", "ag", "gi"):
        frame = getattr(waits, f"{prefix}_frame", None)
        if frame is not None:
            inner = "gi_yieldfrom" if prefix == "gi" else f"{prefix}_await"
            return frame, getattr(waits, inner, None)
    return None, None
