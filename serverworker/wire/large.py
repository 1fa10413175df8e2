"""JSON as it crosses the channel, and AMP arguments for values past AMP's own 65,535 bytes."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from twisted.protocols import amp

from serverworker.values.errors import NotJSON, ValueTooLarge

MAX_VALUE_BYTES = 16 * 1024 * 1024
"""The largest value that crosses the channel, in bytes of its JSON (UTF-8)."""

AMP_VALUE_BYTES = 65_535
"""The most that one key of an AMP box can hold."""


def to_json(value: Any) -> bytes:
    """`value` as compact JSON in UTF-8, on one line.

    As with :func:`json.dumps`, tuples become lists and keys that are numbers become strings. A lone
    surrogate, as file names may hold, survives.

    :raises NotJSON: it cannot be written as JSON; NaN and infinities cannot either.
    """
    try:
        return _encode(value).encode("utf-8", "surrogatepass")
    except Exception as fault:  # TypeError, ValueError, and what a subclass of dict may raise
        raise NotJSON(_reason(fault)) from fault


def from_json(text: bytes) -> Any:
    """The value that `text` holds.

    :raises NotJSON: it holds none, or one that is nested too deeply to be read.
    """
    try:
        return _decode(text.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError) as fault:
        raise NotJSON(_reason(fault)) from fault


def _reason(fault: Exception) -> str:
    if isinstance(fault, RecursionError):
        return "it is nested too deeply"
    return f"{fault}" if isinstance(fault, (TypeError, ValueError)) else f"{type(fault).__name__}: {fault}"


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_encode = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode
_decode = json.JSONDecoder(parse_constant=_refuse_constant).decode


class Large(amp.Argument):
    """Bytes of any size up to `limit`, spread over the keys ``name``, ``name.1``, ``name.2``, … of one box.

    A value that fits into one key looks as AMP's own String does.

    :param limit: the most bytes that it carries, either way.
    :raises ValueTooLarge: from either end, over the limit. Nothing has been sent then.
    """

    def __init__(self, limit: int = MAX_VALUE_BYTES, optional: bool = False) -> None:
        super().__init__(optional)
        self._limit = limit

    def toBox(self, name: bytes, strings: dict[bytes, bytes], objects: dict[str, Any], proto: Any) -> None:
        """Write the value into `strings`, in pieces."""
        whole: dict[bytes, bytes] = {}
        super().toBox(name, whole, objects, proto)
        if not whole:
            return
        value = whole[name]
        self._check(name, len(value))
        strings[name] = value[:AMP_VALUE_BYTES]
        for number, start in enumerate(range(AMP_VALUE_BYTES, len(value), AMP_VALUE_BYTES), 1):
            strings[b"%b.%d" % (name, number)] = value[start : start + AMP_VALUE_BYTES]

    def fromBox(self, name: bytes, strings: dict[bytes, bytes], objects: dict[str, Any], proto: Any) -> None:
        """Put the pieces in `strings` together again."""
        whole = {}
        if name in strings:
            pieces = [strings.pop(name)]
            while (piece := strings.pop(b"%b.%d" % (name, len(pieces)), None)) is not None:
                pieces.append(piece)
            self._check(name, sum(map(len, pieces)))
            whole[name] = b"".join(pieces)
        super().fromBox(name, whole, objects, proto)

    def toString(self, inObject: Any) -> bytes:
        """The value itself."""
        if not isinstance(inObject, bytes):
            raise TypeError(f"bytes are needed here, not {type(inObject).__name__}")
        return inObject

    def fromString(self, inString: bytes) -> Any:
        """The value itself."""
        return inString

    def _check(self, name: bytes, size: int) -> None:
        if size > self._limit:
            raise ValueTooLarge(f"{name.decode()} has {size:,} bytes; {self._limit:,} are allowed")


class LargeJSON(Large):
    """Any JSON value, as :class:`Large` carries it."""

    def toString(self, inObject: Any) -> bytes:
        """The value as JSON."""
        return to_json(inObject)

    def fromString(self, inString: bytes) -> Any:
        """The value."""
        return from_json(inString)


class LargeText(Large):
    """Text, as :class:`Large` carries it. Lone surrogates survive."""

    def toString(self, inObject: Any) -> bytes:
        """The text in UTF-8."""
        if not isinstance(inObject, str):
            raise TypeError(f"text is needed here, not {type(inObject).__name__}")
        return inObject.encode("utf-8", "surrogatepass")

    def fromString(self, inString: bytes) -> Any:
        """The text."""
        return inString.decode("utf-8", "surrogatepass")
