"""Where a coroutine waits: what a traceback is to an error."""

from __future__ import annotations

import gc
import traceback
from sysconfig import get_path
from types import FrameType
from typing import Any

_DEEPEST = 50


def where_it_waits(coroutine: Any) -> str:
    """In words where a suspended coroutine waits, and how it came there, as a traceback prints it.

    What it has called of Python's own library is left out: the last line is of the code that waits.
    """
    frames = traceback.StackSummary.extract(iter(_frames(coroutine)))
    while len(frames) > 1 and _is_pythons_own(frames[-1].filename):
        frames.pop()
    if not frames:
        return "at its beginning"
    last = frames[-1]
    came = "".join(frames.format()).rstrip()
    return f"at {last.filename}, line {last.lineno}, in {last.name}:\n{came}"


def _is_pythons_own(file: str) -> bool:
    return file.startswith(f"{get_path('stdlib')}/") and "/site-packages/" not in file


def _frames(coroutine: Any) -> list[tuple[FrameType, int]]:
    frames: list[tuple[FrameType, int]] = []
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
    return frames


def _look_into(waits: Any) -> tuple[FrameType | None, Any]:
    for prefix in ("cr", "ag", "gi"):
        frame = getattr(waits, f"{prefix}_frame", None)
        if frame is not None:
            inner = "gi_yieldfrom" if prefix == "gi" else f"{prefix}_await"
            return frame, getattr(waits, inner, None)
    return None, None
