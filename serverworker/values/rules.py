"""What a value of the configuration may be: rules that are checked in code and told in words."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from attrs import Attribute, field, frozen

from serverworker.values.errors import ConfigurationError, Problem

_LONGEST_SHOWN = 60
_LONGEST_DURATION = 86_400.0
_LARGEST_SHOWN_BITS = 100
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]{1,60}")
_VARIABLE = re.compile(r"[^=\0]+")
_ROUTE = re.compile(r"/[!-\"$-~]*")
_MONITORS_OWN_VARIABLES = ("LISTEN_", "WATCHDOG_", "NOTIFY_SOCKET")


class InvalidSettings(ConfigurationError):
    """Settings that cannot be used. Its text has one line for each of `problems`."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


class Rule(Protocol):
    """What one value may be; a validator in the sense of attrs as well."""

    def problems(self, key: str, value: object) -> list[Problem]:
        """All that is wrong with the value of this key; nothing where it may stand."""

    def __call__(self, instance: object, attribute: Attribute[Any], value: object) -> None:
        """Raise `InvalidSettings` where there is a problem."""


def shown(value: object) -> str:
    """The value in one short line, whatever it is; tables and arrays are named and not spread out."""
    match value:
        case bool():
            return str(value).lower()
        case int():
            # Python refuses to write out very long numbers, and nobody wants to read them.
            return str(value) if value.bit_length() <= _LARGEST_SHOWN_BITS else "a number too long to show"
        case str():
            text = repr(value[:_LONGEST_SHOWN])
            return text if len(value) <= _LONGEST_SHOWN else f"{text}…"
        case Mapping():
            return "a table"
        case list() | tuple():
            return "an array"
        case None:
            return "null"
    return str(value)[:_LONGEST_SHOWN]


def key_part(name: str) -> str:
    """A name as it stands in a dotted key: bare where TOML allows it, else quoted and short."""
    return name if _BARE_KEY.fullmatch(name) else shown(name)


def _raise_problems(rule: Rule, instance: object, attribute: Attribute[Any], value: object) -> None:
    # The class of a table is named after it: `[polling]` is `PollingSettings`.
    table = type(instance).__name__.removesuffix("Settings").lower()
    problems = rule.problems(f"{table}.{attribute.name}" if table else attribute.name, value)
    if problems:
        raise InvalidSettings(problems)


@frozen
class _Allowed:
    """A rule for one plain value: a test, and in words what it lets through."""

    words: str
    accepts: Callable[[Any], bool]

    def problems(self, key: str, value: object) -> list[Problem]:
        return [] if self.accepts(value) else [Problem(key, f"must be {self.words}, not {shown(value)}")]

    def __call__(self, instance: object, attribute: Attribute[Any], value: object) -> None:
        _raise_problems(self, instance, attribute, value)


class EnvironmentRule:
    """A rule for a table of environment variables. Their content is never shown: it may be secret."""

    def problems(self, key: str, value: object) -> list[Problem]:
        """One for each variable that cannot be set."""
        if not isinstance(value, Mapping):
            return [Problem(key, f"must be a table of strings, not {shown(value)}")]
        return [
            Problem(f"{key}.{key_part(str(name))}", text)
            for name, content in value.items()
            if (text := self._fault(name, content))
        ]

    def _fault(self, name: object, content: object) -> str:
        if not (is_file_name(name) and _VARIABLE.fullmatch(str(name))):
            return "the name of a variable must not be empty, nor hold '=' or a NUL"
        if str(name).startswith(_MONITORS_OWN_VARIABLES):
            return "is the monitor's own business and never reaches a worker; leave it out"
        if content != "" and not is_file_name(content):
            return "must be a string without a NUL"
        return ""

    def __call__(self, instance: object, attribute: Attribute[Any], value: object) -> None:
        """Raise `InvalidSettings` where there is a problem."""
        _raise_problems(self, instance, attribute, value)


def is_whole(value: object, minimum: int, maximum: int) -> bool:
    """Whether it is an int, no bool, and in range."""
    return type(value) is int and minimum <= value <= maximum


def is_file_name(value: object) -> bool:
    """Whether the system would take it for the name of a file or a variable's content: encodable, no NUL."""
    if not isinstance(value, str) or not value or "\0" in value:
        return False
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        return False
    return True


def is_argument(value: str) -> bool:
    """Whether a program can be given it as an argument; an empty one can."""
    return not value or is_file_name(value)


def placed(path: str, folder: str) -> str:
    """Where a path points that was written in `folder`; ``~`` is the user's home. No folder: left alone.

    Links and ``..`` stay as they are: each worker resolves them anew.
    """
    if not path or not folder:
        return path
    try:
        return str(Path(folder, Path(path).expanduser()))
    except RuntimeError:  # `~` and the name of no user: it is the name of a folder then
        return str(Path(folder, path))


def _is_target(value: object) -> bool:
    if not isinstance(value, str) or value.count(":") != 1:
        return False
    return all(part.isidentifier() for half in value.split(":") for part in half.split("."))


def _exact_float(minimum: float, maximum: float, value: Any) -> Any:
    # Only what the rule may take: anything else is left as it was written, for the error's text.
    return float(value) if type(value) is int and minimum <= value <= maximum else value


def _plain(default: object, words: str, accepts: Callable[[Any], bool]) -> Any:
    if default is None:
        return field(default=None, validator=_Allowed(words, lambda value: value is None or accepts(value)))
    return field(default=default, validator=_Allowed(words, accepts))


def whole(default: int | None, minimum: int, maximum: int) -> Any:
    """A field for an int from `minimum` to `maximum`. ``3.0``, ``"3"`` and ``true`` are refused.

    A default of None: it may be left unset.
    """
    return _plain(
        default,
        f"a whole number, {minimum} to {maximum}",
        lambda value: is_whole(value, minimum, maximum),
    )


def seconds(default: float | None, minimum: float = 0.01, maximum: float = _LONGEST_DURATION) -> Any:
    """A field for a duration in seconds, `minimum` to a day; an int becomes the float of the same value.

    A default of None: it may be left unset.
    """

    def accepts(value: Any) -> bool:
        # NaN fails both comparisons, infinity the second.
        return type(value) in (int, float) and minimum <= value <= maximum

    rule = _Allowed(
        f"a number of seconds, {minimum:g} to {maximum:.7g}",
        accepts if default is not None else lambda value: value is None or accepts(value),
    )
    return field(default=default, validator=rule, converter=partial(_exact_float, minimum, maximum))


def flag(default: bool) -> Any:
    """A field that is true or false."""
    return _plain(default, "true or false", lambda value: type(value) is bool)


def one_of(default: str | None, *choices: str) -> Any:
    """A field for one of a few words. A default of None: it may be left unset."""
    words = " or ".join(repr(choice) for choice in choices)
    return _plain(default, words, lambda value: isinstance(value, str) and value in choices)


def target(words: str) -> Any:
    """A field for something to import, ``module:attribute``, unset by default."""
    return _plain(None, words, _is_target)


def target_or_factory(words: str) -> Any:
    """A field for something to import, or for what a function without arguments makes, ``module:function()``."""
    return _plain(None, words, lambda value: isinstance(value, str) and _is_target(value.removesuffix("()")))


def path() -> Any:
    """A field for the name of a file or folder, unset by default."""
    return _plain(None, "the name of a file or folder", is_file_name)


def text(words: str, accepts: Callable[[str], bool] = str.isprintable) -> Any:
    """A field for one line of text, printable unless `accepts` says otherwise; unset by default."""
    return _plain(None, words, lambda value: isinstance(value, str) and bool(value) and accepts(value))


def route() -> Any:
    """A field for the path of a URL, unset by default."""
    words = "the path of a URL, which starts with '/' and holds no spaces, '#' or non-ASCII characters"
    return _plain(None, words, lambda value: isinstance(value, str) and bool(_ROUTE.fullmatch(value)))


def texts(words: str, accepts: Callable[[str], bool] = bool) -> Any:
    """A field for an array of texts, empty by default; it becomes a tuple."""

    def accepted(value: Any) -> bool:
        return isinstance(value, list | tuple) and all(
            isinstance(each, str) and accepts(each) for each in value
        )

    def as_tuple(value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    return field(default=(), validator=_Allowed(words, accepted), converter=as_tuple)
