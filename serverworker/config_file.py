"""The configuration file, `serverworker.toml`: from a name to a `Source`."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from serverworker.values.errors import Problem
from serverworker.values.reading import Source, read

LARGEST_FILE = 1024 * 1024
"""Bytes. More is no configuration; it keeps a device or a log, named by mistake, from filling the memory."""


class _Unreadable(Exception):
    """The file as a whole cannot be used. Its text says why."""


def read_file(name: str, folder: str = "") -> Source:
    """Read the configuration file of this name, relative to `folder` (or else to the current one).

    A relative path in the file starts at the folder that the file is in, as it was named: links are not followed.
    Never raises: what is wrong is in the source's problems, each with the file's name.
    """
    label = name if name and name.isprintable() else repr(name)

    def spell(key: str) -> str:
        return f"{label}: {key}" if key else label

    path = Path(folder, name).absolute()
    try:
        data = _tables(_text(path))
    except _Unreadable as error:
        return Source(label=label, values={}, problems=(Problem("", str(error)),), spell=spell)
    return read(data, label=label, folder=str(path.parent), spell=spell)


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except (OSError, ValueError) as error:
        raise _Unreadable(_why_not_read(error)) from error
    if len(content) > LARGEST_FILE:
        raise _Unreadable(f"is larger than {LARGEST_FILE} bytes, so it is hardly a configuration file")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _Unreadable(f"is not UTF-8: byte 0x{content[error.start]:02x} in line {line}") from error


def _why_not_read(error: OSError | ValueError) -> str:
    match error:
        case FileNotFoundError():
            return "there is no such file"
        case IsADirectoryError():
            return "is a folder, not a file"
        case PermissionError():
            return "must not be read by this user"
        case OSError():
            return f"cannot be read: {error.strerror or error}"
    return f"cannot be the name of a file: {error}"  # a NUL in it


def _tables(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise _Unreadable("is not TOML that can be read: it is nested too deeply") from error
    except ValueError as error:  # TOMLDecodeError, or a number longer than Python takes
        raise _Unreadable(f"is not TOML: {error}") from error
