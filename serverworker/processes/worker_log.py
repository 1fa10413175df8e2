"""What is logged in a worker: the application's own entries, as lines beside all else that it prints."""

from __future__ import annotations

from typing import TextIO

from twisted.logger import ILogObserver, LogEvent, LogLevel, eventAsText, globalLogBeginner
from zope.interface import implementer

_UNWANTED = ("Starting factory", "Stopping factory")


def begin_log(stream: TextIO) -> None:
    """Show from now on what is logged in this process, and what was until now. Once, before anything else is done.

    Without this Twisted would show nothing below a critical error. What is printed stays as it is.
    """
    globalLogBeginner.beginLoggingTo([WorkerLog(stream)], redirectStandardIO=False)


@implementer(ILogObserver)
class WorkerLog:
    """Writes each entry as ``error: what happened``; the time is the monitor's, which reads the lines.

    Left out are Twisted's own notes that nothing is wrong. Every request is one of them: the access log is there for
    those, ``[output] access_log``.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, event: LogEvent) -> None:
        """Write an entry. Never raises: the monitor at the other end may be gone."""
        try:
            text = "" if _is_unwanted(event) else _as_text(event)
            if text:
                self._stream.write(f"{text}\n")
                self._stream.flush()
        except Exception:  # the logger would only tell it to the other observers, as an error of theirs
            return


def _is_unwanted(event: LogEvent) -> bool:
    level = event.get("log_level", LogLevel.info)
    if level is not LogLevel.info:
        return bool(level < LogLevel.info)
    is_twisteds = str(event.get("log_namespace")).startswith("twisted.")
    return is_twisteds or str(event.get("log_format")).startswith(_UNWANTED)


def _as_text(event: LogEvent) -> str:
    text = eventAsText(event, includeTimestamp=False, includeSystem=False).strip("\n")
    level = event.get("log_level", LogLevel.info)
    # A traceback has a line of its own that says what it is.
    if not text or level is LogLevel.info or "log_failure" in event:
        return text
    return f"{level.name}: {text}"
