"""Who is logged in: tokens in memory, so that they end with the session."""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict

from attrs import define
from twisted.internet.interfaces import IReactorTime

IDLE_SECONDS = 12 * 3600.0
"""A login that asks for nothing for so long has ended. An open page that only listens asks for nothing."""
MOST_LOGINS = 100
"""With one more, the one that has been idle longest ends."""


@define(kw_only=True, eq=False)
class Login:
    """One browser that has shown the key."""

    csrf: str
    """What its deeds show besides the cookie: a page from elsewhere can have the cookie sent, but not read this."""
    used_at: float
    """Monotonic seconds."""
    ended: bool = False


class Logins:
    """All of them, by the digest of their token: so how long a look-up takes tells nothing of a token."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._logins: OrderedDict[bytes, Login] = OrderedDict()

    def begin(self) -> tuple[str, Login]:
        """A new one, and its token: 256 bits of chance."""
        token = secrets.token_urlsafe(32)
        login = Login(csrf=secrets.token_urlsafe(32), used_at=self._clock.seconds())
        self._logins[_digest(token)] = login
        while len(self._logins) > MOST_LOGINS:
            _, oldest = self._logins.popitem(last=False)
            oldest.ended = True
        return token, login

    def of(self, token: str) -> Login | None:
        """Whose token it is; None for nobody's, and for one that has ended. It counts as used."""
        digest = _digest(token)
        login = self._logins.get(digest)
        if login is None or not self.lasts(login):
            return None
        login.used_at = self._clock.seconds()
        self._logins.move_to_end(digest)
        return login

    def lasts(self, login: Login) -> bool:
        """Whether it has not ended; looking does not count as using."""
        if self._clock.seconds() - login.used_at > IDLE_SECONDS:
            self.end(login)
        return not login.ended

    def end(self, login: Login) -> None:
        """It ends now."""
        login.ended = True
        for digest in [digest for digest, each in self._logins.items() if each is login]:
            del self._logins[digest]


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
