"""Passwords that stand in files of their own."""

from __future__ import annotations

from pathlib import Path

from serverworker.observers.notifications.delivery import Undelivered

_LONGEST = 4096


def secret_of(given: str | None, file: str | None, what: str) -> str | None:
    """The secret as it was given, or what its file holds but for the end of the line; None where there is neither.

    It waits for the disk. Raises `Undelivered` where the file cannot be used.
    """
    if file is None:
        return given
    try:
        with Path(file).open("rb") as opened:
            text = opened.read(_LONGEST + 1).decode("utf-8").rstrip("\r\n")
    except OSError as error:
        raise Undelivered(f"{what} cannot be read: {error.strerror} ({file})") from error
    except UnicodeDecodeError as error:
        raise Undelivered(f"{what} is no text in UTF-8 ({file})") from error
    if not text or len(text) > _LONGEST or not text.isprintable():
        raise Undelivered(f"{what} has to hold one line of printable text and nothing else ({file})")
    return text
