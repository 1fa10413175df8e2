"""Who gets in: the key once, then a cookie; programs show the key with each request."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from urllib.parse import parse_qs

from attrs import frozen
from twisted.internet.interfaces import IReactorTime

from serverworker.surfaces.dashboard.exchange import Answer, Call, Refused, as_json
from serverworker.surfaces.dashboard.logins import Login, Logins
from serverworker.surfaces.desk import Asker
from serverworker.surfaces.session_key import KeyCheck
from serverworker.values.errors import NotAllowed
from serverworker.values.events import OperatorAction

_FORM = "application/x-www-form-urlencoded"
_SURFACE = "dashboard"


@frozen(kw_only=True)
class Visitor:
    """Somebody who was let in."""

    asker: Asker
    login: Login | None
    """None: a program that shows the key itself."""


class Gate:
    """Lets in who has the key, and tells of whoever has not."""

    def __init__(
        self,
        *,
        clock: IReactorTime,
        keys: KeyCheck,
        publish: Callable[[OperatorAction], object],
        secure: bool,
    ) -> None:
        """`secure`: it is spoken to by TLS, and so is the cookie."""
        self.logins = Logins(clock)
        self._keys = keys
        self._publish = publish
        self._cookie = "__Host-serverworker" if secure else "serverworker"
        self._attributes = "; Path=/; HttpOnly; SameSite=Strict" + ("; Secure" if secure else "")

    def visitor(self, call: Call) -> Visitor:
        """Who calls. Raises `Refused` where that is nobody who may."""
        shown = call.headers.get("authorization")
        if shown is not None:
            scheme, _, key = shown.partition(" ")
            if scheme.lower() != "bearer":
                raise _stranger("log in first")
            self._check(key.strip(), call)
            return Visitor(asker=_asker(call), login=None)
        login = self.logins.of(call.cookie(self._cookie))
        if login is None:
            raise _stranger("log in first")
        return Visitor(asker=_asker(call), login=login)

    def check_deed(self, call: Call, visitor: Visitor) -> None:
        """Raise `Refused` for a deed of a browser's that does not show what only its own page knows."""
        if visitor.login is None:
            return
        shown = call.headers.get("x-csrf-token", "").encode("utf-8", "replace")
        if not hmac.compare_digest(shown, visitor.login.csrf.encode()):
            raise Refused(403, "the page is out of date: load it again")

    def log_in(self, call: Call) -> Answer:
        """``POST /login``, with the key in the body. Raises `Refused`."""
        if media_type(call) != _FORM:
            raise Refused(415, f"the key comes as {_FORM}")
        try:
            keys = parse_qs(call.body.decode("utf-8"), max_num_fields=2).get("key", [])
        except ValueError as error:  # no UTF-8, or more fields than that
            raise Refused(400, "the form cannot be read") from error
        self._check(keys[0].strip() if keys else "", call)
        token, _ = self.logins.begin()
        self._tell(call, "log in", "the key is right")
        return as_json(
            {"ok": True, "text": "logged in", "data": None},
            200,
            ("Set-Cookie", f"{self._cookie}={token}{self._attributes}"),
        )

    def log_out(self, call: Call, visitor: Visitor) -> Answer:
        """``POST /logout``."""
        if visitor.login is not None:
            self.logins.end(visitor.login)
            self._tell(call, "log out", "the login has ended")
        return as_json(
            {"ok": True, "text": "logged out", "data": None},
            200,
            ("Set-Cookie", f"{self._cookie}={self._attributes}; Max-Age=0"),
        )

    def _check(self, key: str, call: Call) -> None:
        try:
            self._keys.check(key, call.origin, _SURFACE)
        except NotAllowed as error:
            raise _stranger(str(error)) from error

    def _tell(self, call: Call, action: str, outcome: str) -> None:
        who = _asker(call)
        self._publish(
            OperatorAction(who=who.who, surface=who.surface, action=action, ok=True, outcome=outcome)
        )


def _asker(call: Call) -> Asker:
    return Asker(who=f"session key, {call.origin}", surface=_SURFACE)


def _stranger(text: str) -> Refused:
    return Refused(401, text, ("WWW-Authenticate", 'Bearer realm="serverworker"'))


def media_type(call: Call) -> str:
    """What the body is, such as ``application/json``."""
    return call.headers.get("content-type", "").partition(";")[0].strip().lower()
