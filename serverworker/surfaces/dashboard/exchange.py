"""A question and its answer, as values: what is decided about them needs no connection."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from attrs import field, frozen

JSON = "application/json; charset=utf-8"


@frozen(kw_only=True)
class Call:
    """One request, whole."""

    method: str
    path: str
    """Without its query, not decoded."""
    query: Mapping[str, str] = field(factory=dict)
    headers: Mapping[str, str] = field(factory=dict)
    """By name in lower case; several of one name are joined by commas."""
    body: bytes = b""
    origin: str = ""
    """The address that it came from; what an audit shows."""
    here: str = ""
    """The address of this machine that it came to; empty on a unix socket."""

    def cookie(self, name: str) -> str:
        """A cookie's value; empty where there is none."""
        for part in self.headers.get("cookie", "").split(";"):
            key, _, value = part.strip().partition("=")
            if key == name:
                return value
        return ""


@frozen(kw_only=True)
class Answer:
    """What is sent back."""

    code: int = 200
    content_type: str = JSON
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    """Besides those that every answer has."""


def as_json(value: Any, code: int = 200, *headers: tuple[str, str]) -> Answer:
    """An answer for programs."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    # A lone surrogate, such as a path of bytes that are no UTF-8 has, cannot be encoded.
    return Answer(code=code, body=text.encode("utf-8", "replace"), headers=headers)


def refusal(code: int, text: str, *headers: tuple[str, str]) -> Answer:
    """An answer that says why there is no other."""
    return as_json({"ok": False, "text": text, "data": None}, code, *headers)


NOT_FOUND = refusal(404, "there is nothing here")


class Refused(Exception):
    """Raised by whoever cannot go on with a call."""

    def __init__(self, code: int, text: str, *headers: tuple[str, str]) -> None:
        super().__init__(text)
        self.answer = refusal(code, text, *headers)
