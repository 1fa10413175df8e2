"""The table of a worker's life: for each life and each happening, what follows. No cell is empty."""

from __future__ import annotations

import enum

from serverworker.values.state import Life


class Happening(enum.Enum):
    """What can happen to a worker: what it tells, what befalls it, and what is decided about it."""

    LOADED = "it has loaded"
    LOAD_FAILED = "it cannot load"
    READY = "it is ready"
    CRASHED = "it tells of a crash"
    HUNG = "it does not answer the ping"
    LINK_LOST = "its link broke"
    OVERDUE = "its deadline is over"
    EXITED = "its process is gone"
    ACTIVATE = "it is to be activated"
    SERVE = "it is to serve"
    LEAVE = "it is to leave"
    KILL = "it is to be killed"


class Outcome(enum.Enum):
    """What a cell says beside a next life."""

    STAY = "nothing changes: it comes too late, or says nothing new"
    BREACH = "no sane worker says this now: it is killed, and that is a crash"
    NEVER = "the monitor never decides this now: a fault of its own"
    GONE = "it is taken out of the state"


_S, _B, _N, _G = Outcome.STAY, Outcome.BREACH, Outcome.NEVER, Outcome.GONE
_STARTING, _LOADED, _ACTIVATING, _READY = Life.STARTING, Life.LOADED, Life.ACTIVATING, Life.READY
_SERVING, _DRAINING, _DEAD = Life.SERVING, Life.DRAINING, Life.DEAD

_LIVES = (_STARTING, _LOADED, _ACTIVATING, _READY, _SERVING, _DRAINING, _DEAD)

# fmt: off
_ROWS: dict[Happening, tuple[Life | Outcome, ...]] = {
    #                       STARTING   LOADED       ACTIVATING  READY      SERVING    DRAINING   DEAD
    Happening.LOADED:      (_LOADED,   _B,          _B,         _B,        _B,        _S,        _S),
    Happening.LOAD_FAILED: (_DEAD,     _B,          _B,         _B,        _B,        _S,        _S),
    Happening.READY:       (_B,        _B,          _READY,     _B,        _B,        _S,        _S),
    Happening.CRASHED:     (_DRAINING, _DRAINING,   _DRAINING,  _DRAINING, _DRAINING, _DRAINING, _S),
    # A start may take as long as the start-up deadline allows: a module of 30 s is imported without one turn.
    Happening.HUNG:        (_S,        _DEAD,       _S,         _DEAD,     _DEAD,     _DEAD,     _S),
    # A worker that is ending closes its link on its way out.
    Happening.LINK_LOST:   (_DEAD,     _DEAD,       _DEAD,      _DEAD,     _DEAD,     _S,        _S),
    Happening.OVERDUE:     (_DEAD,     _N,          _DEAD,      _N,        _N,        _DEAD,     _DEAD),
    Happening.EXITED:      (_G,        _G,          _G,         _G,        _G,        _G,        _G),
    Happening.ACTIVATE:    (_N,        _ACTIVATING, _N,         _N,        _N,        _N,        _N),
    Happening.SERVE:       (_N,        _N,          _N,         _SERVING,  _N,        _N,        _N),
    # Who has not loaded yet has nothing to finish.
    Happening.LEAVE:       (_DEAD,     _DRAINING,   _DRAINING,  _DRAINING, _DRAINING, _S,        _S),
    Happening.KILL:        (_DEAD,     _DEAD,       _DEAD,      _DEAD,     _DEAD,     _DEAD,     _S),
}
# fmt: on

TABLE: dict[tuple[Life, Happening], Life | Outcome] = {
    (life, happening): cell
    for happening, row in _ROWS.items()
    for life, cell in zip(_LIVES, row, strict=True)
}


def next_life(life: Life, happening: Happening) -> Life | Outcome:
    """What follows when `happening` meets a worker in `life`."""
    return TABLE[life, happening]
