"""Messages on disk: one JSON file for each message and sink, whole or not at all, until it is delivered.

Everything here waits for the disk, and so runs in a thread. A file is one object::

    schema      1
    sink        mail or webhook
    attempts    how many were begun
    done        who has got it, such as the addresses of a mail
    message     {id, at, event, cause, host, subject, body, details, count}
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import attrs
from attrs import define, field, frozen

from serverworker.observers.notifications.ledger import Ledger
from serverworker.observers.notifications.message import Message
from serverworker.processes.state_directory import PART_SUFFIX, own_folder, write_whole
from serverworker.values.errors import ErrorRecord

SPOOL_NAME = "spool"
"""The folder in the state directory."""
LEDGER_NAME = "ledger.json"
UNREADABLE_SUFFIX = ".unreadable"
LARGEST_FILE = 16 * 1024 * 1024
"""What is longer is cut off when it is read, and so set aside."""
_SCHEMA = 1
_KEPT_UNREADABLE = 20
_NAME = re.compile(r"[A-Za-z0-9-]{1,100}\.(mail|webhook)\.json")

_T = TypeVar("_T")


@define(eq=False)
class Item:
    """One message on its way to one sink."""

    message: Message
    sink: str
    attempts: int = 0
    done: tuple[str, ...] = ()
    """Who has got it already."""
    secret: bool = False
    """It must never be written."""
    size: int = field(init=False)
    """About how many bytes it takes."""

    def __attrs_post_init__(self) -> None:
        self.size = len(self.as_json())

    @property
    def file_name(self) -> str:
        """Sorts by time."""
        return f"{self.message.id}.{self.sink}.json"

    def as_json(self) -> bytes:
        """The file's content."""
        content = {
            "schema": _SCHEMA,
            "sink": self.sink,
            "attempts": self.attempts,
            "done": self.done,
            "message": attrs.asdict(self.message),
        }
        return json.dumps(content).encode()

    @classmethod
    def from_json(cls, text: str) -> Item:
        """The item again. Raises ValueError, KeyError or TypeError where the text is none."""
        data = json.loads(text)
        _check_schema(data)
        attempts, done, sink = data["attempts"], data["done"], data["sink"]
        if type(attempts) is not int or not isinstance(sink, str) or not isinstance(done, list):
            raise TypeError("attempts, done or sink is of the wrong type")
        message = Message.from_json(data["message"])
        return cls(message=message, sink=sink, attempts=attempts, done=tuple(map(str, done)))


def _check_schema(data: Any) -> None:
    if not isinstance(data, Mapping):
        raise TypeError("it is no JSON object")
    if (schema := data["schema"]) != _SCHEMA:
        raise ValueError(f"its schema is {schema}, and this version reads {_SCHEMA}")


@frozen(kw_only=True)
class Found:
    """What was in a spool."""

    items: tuple[Item, ...] = ()
    """Oldest first."""
    ledger: Mapping[str, Any] | None = None
    unreadable: tuple[str, ...] = ()
    """Of each file that was set aside: its name and why."""


class Spool:
    """The folder. Its methods block, and raise `OSError` or `ConfigurationError` where the disk says no."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def load(self) -> Found:
        """All that is there. What cannot be read is set aside under another name, what was half written is removed."""
        own_folder(self.directory)
        for leftover in self.directory.glob(f".*{PART_SUFFIX}"):
            leftover.unlink()
        unreadable: list[str] = []
        names = sorted(path for path in self.directory.iterdir() if _NAME.fullmatch(path.name))
        items = [self._attempt(_item_in, path, unreadable) for path in names]
        ledger_path = self.directory / LEDGER_NAME
        ledger = self._attempt(_ledger_in, ledger_path, unreadable) if ledger_path.exists() else None
        self._forget_old_unreadable()
        return Found(
            items=tuple(item for item in items if item is not None),
            ledger=ledger,
            unreadable=tuple(unreadable),
        )

    def put(self, name: str, content: bytes | None) -> None:
        """Write a file, whole or not at all, or with None remove it; to remove one that is not there is no error."""
        if content is None:
            (self.directory / name).unlink(missing_ok=True)
        else:
            own_folder(self.directory)
            write_whole(self.directory / name, content)

    def _attempt(self, read: Callable[[Path], _T], path: Path, unreadable: list[str]) -> _T | None:
        """What a file holds; one that cannot be read is noted, and set aside where the disk lets us."""
        try:
            return read(path)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            unreadable.append(f"{path.name} ({ErrorRecord.from_exception(error)})")
            with contextlib.suppress(OSError):
                path.replace(path.with_name(f"{path.name}{UNREADABLE_SUFFIX}"))
            return None

    def _forget_old_unreadable(self) -> None:
        old = sorted(self.directory.glob(f"*{UNREADABLE_SUFFIX}"), key=lambda path: path.stat().st_mtime)
        with contextlib.suppress(OSError):
            for path in old[:-_KEPT_UNREADABLE]:
                path.unlink()


def ledger_as_json(ledger: Mapping[str, Any]) -> bytes:
    """The content of the ledger's file, of what `Ledger.as_json` gave."""
    return json.dumps({"schema": _SCHEMA, **ledger}).encode()


def _item_in(path: Path) -> Item:
    item = Item.from_json(_read(path))
    if item.file_name != path.name:  # it would be written again, and removed, under another name
        raise ValueError(f"its content belongs in a file called {item.file_name}")
    return item


def _ledger_in(path: Path) -> Mapping[str, Any]:
    ledger: Mapping[str, Any] = json.loads(_read(path))
    _check_schema(ledger)
    Ledger(1, 1.0).take_over(ledger)
    return ledger


def _read(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(LARGEST_FILE).decode("utf-8")
