"""Who has the session key gets in: how it is compared, and what becomes of somebody who guesses."""

from __future__ import annotations

import hashlib
import hmac
from collections import OrderedDict
from collections.abc import Callable

from attrs import define
from twisted.internet.interfaces import IReactorTime

from serverworker.values.errors import NotAllowed
from serverworker.values.events import LoginFailed

LONGEST_WAIT_SECONDS = 60.0
KEPT_ORIGINS = 1000
"""How many addresses are remembered that have shown a wrong key; the oldest are forgotten."""


@define
class _Guesser:
    failures: int = 0
    next_at: float = 0.0


class KeyCheck:
    """Compares keys in constant time, and lets whoever was wrong wait, twice as long each time, a minute at most.

    A key that comes too early is not even looked at: that is what makes guessing slow. Waiting is by address, so that
    somebody who guesses keeps nobody else out.
    """

    def __init__(
        self, clock: IReactorTime, key: Callable[[], str], publish: Callable[[LoginFailed], object]
    ) -> None:
        """`key` answers the session's key of now: an agent may have set its own."""
        self._clock = clock
        self._key = key
        self._publish = publish
        self._guessers: OrderedDict[str, _Guesser] = OrderedDict()

    def check(self, given: str, origin: str, surface: str) -> None:
        """Let the key pass, or raise `NotAllowed`; its text may be shown to whoever it was."""
        now = self._clock.seconds()
        guesser = self._guessers.get(origin)
        if guesser is not None and now < guesser.next_at:
            raise NotAllowed(f"too many wrong keys: try again in {guesser.next_at - now:.0f} s")
        if self.is_key(given):
            self._guessers.pop(origin, None)
            return
        guesser = self._guessers.setdefault(origin, _Guesser())
        self._guessers.move_to_end(origin)
        while len(self._guessers) > KEPT_ORIGINS:
            self._guessers.popitem(last=False)
        guesser.failures += 1
        guesser.next_at = now + min(2.0 ** (guesser.failures - 1), LONGEST_WAIT_SECONDS)
        text = "a wrong session key" if given else "no session key"
        self._publish(LoginFailed(origin=origin, surface=surface, text=text, failures=guesser.failures))
        raise NotAllowed(f"{text}: it stands in the file `key` of the session's state directory")

    def is_key(self, given: str) -> bool:
        """Whether it is the key; takes the same time whichever it is."""
        return hmac.compare_digest(_digest(given), _digest(self._key()))


def _digest(text: str) -> bytes:
    # Of one length, so that the comparison does not tell how long the key is.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
