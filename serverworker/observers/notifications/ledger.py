"""Which messages go out: repeats of a cause become one, and no hour has more than the budget allows. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
from attrs import define, evolve

from serverworker.observers.notifications.message import Message, Tally, repeated

MOST_GROUPS = 200
"""Causes that are watched for repeats at the same time; a further one is told of each time, as far as the budget goes."""
MOST_TALLIES = 50
"""Causes that the message about what was held back tells of; further ones are counted together."""
_HOUR = 3600.0


@define
class _Group:
    """One cause that was told of, and what has repeated it since."""

    since: float
    count: int = 0
    first_at: float = 0.0
    last_at: float = 0.0
    last: Message | None = None


class Ledger:
    """Remembers what was sent, repeated and held back. Times are seconds since the epoch, which may step back."""

    def __init__(self, budget: int, group_seconds: float) -> None:
        """`budget` is how many messages any hour may have."""
        self._budget = budget
        self._group_seconds = group_seconds
        self._groups: dict[str, _Group] = {}
        self._sent: list[float] = []
        self._held: dict[str, Tally] = {}
        self._others = 0

    @property
    def held(self) -> int:
        """How many events wait to be summed up."""
        return sum(tally.count for tally in self._held.values()) + self._others

    def note(self, message: Message, now: float) -> Message | None:
        """The message again if it is to go out by itself; None if it is a repeat, or held back."""
        group = self._groups.get(message.cause)
        # One whose time is up, and whose repeats are not told yet, takes this one along.
        if group is not None and (group.count or self._is_open(group, now)):
            group.first_at = message.at if group.count == 0 else group.first_at
            group.last_at = message.at
            group.count += 1
            group.last = message
            return None
        if len(self._groups) < MOST_GROUPS:
            self._groups[message.cause] = _Group(since=now)
        return self._within_budget(message, now)

    def due(self, now: float, *, all_of_them: bool = False) -> list[Message]:
        """The repeats whose time has come; `all_of_them`: of every cause, as the session ends."""
        messages = []
        for cause, group in list(self._groups.items()):
            if self._is_open(group, now) and not all_of_them:
                continue
            if group.last is None:
                del self._groups[cause]
                continue
            message = repeated(group.last, group.count, group.first_at, group.last_at)
            self._groups[cause] = _Group(since=now)  # what comes next repeats this one
            if self._within_budget(message, now) is not None:
                messages.append(message)
        return messages

    def take_held(self, now: float) -> tuple[list[Tally], int] | None:
        """All that was held back, and how many more of further causes, where there is room for one message about it."""
        if not self.held or not self._has_room(now):
            return None
        held = list(self._held.values()), self._others
        self._held, self._others = {}, 0
        self._sent.append(now)
        return held

    def next_due(self, now: float) -> float | None:
        """When `due` or `take_held` may have something next; None: not before something else happens."""
        times = [group.since + self._group_seconds for group in self._groups.values()]
        if self.held:
            times.append(now if self._has_room(now) else self._sent[0] + _HOUR)
        return min(times, default=None)

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {
            "sent": list(self._sent),
            "groups": {cause: attrs.asdict(group) for cause, group in self._groups.items()},
            "held": {cause: attrs.asdict(tally) for cause, tally in self._held.items()},
            "others": self._others,
        }

    def take_over(self, data: Mapping[str, Any]) -> None:
        """Go on where another ledger's `as_json` ended. Raises ValueError, KeyError or TypeError where it is none."""
        sent = [float(each) for each in data["sent"]]
        groups = {}
        for cause, group in data["groups"].items():
            last = None if group["last"] is None else Message.from_json(group["last"])
            groups[str(cause)] = _Group(**(group | {"last": last}))
        held = {str(cause): Tally(**tally) for cause, tally in data["held"].items()}
        others = int(data["others"])
        self._sent, self._groups, self._held, self._others = sent, groups, held, others

    def _is_open(self, group: _Group, now: float) -> bool:
        return group.since <= now < group.since + self._group_seconds

    def _has_room(self, now: float) -> bool:
        self._sent = [at for at in self._sent if now - _HOUR < at <= now]
        return len(self._sent) < self._budget

    def _within_budget(self, message: Message, now: float) -> Message | None:
        # Where something is held back already, room belongs to the one message about all of it.
        if not self.held and self._has_room(now):
            self._sent.append(now)
            return message
        self._hold(message)
        return None

    def _hold(self, message: Message) -> None:
        tally = self._held.get(message.cause)
        if tally is not None:
            self._held[message.cause] = evolve(tally, count=tally.count + message.count, last_at=message.at)
        elif len(self._held) < MOST_TALLIES:
            self._held[message.cause] = Tally(
                subject=message.subject, count=message.count, first_at=message.at, last_at=message.at
            )
        else:
            self._others += message.count
