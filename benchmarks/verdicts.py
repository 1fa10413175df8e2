"""What a benchmark concludes: each thing owed, whether it holds, and the exit status that says so."""

from __future__ import annotations

from attrs import define, field


@define
class Verdicts:
    """Collects what was owed and what was found; printed at the end."""

    _lines: list[str] = field(factory=list)
    _all_hold: bool = True

    def add(self, what: str, holds: bool, found: str) -> None:
        """Note whether something owed holds, and the figure."""
        self._all_hold = self._all_hold and holds
        self._lines.append(f"owed ({what}): {'holds' if holds else 'DOES NOT HOLD'}, {found}")

    def ratio(self, what: str, ours: float, theirs: float | None, allowed: float) -> None:
        """Note whether ours is at most so many times theirs; None where there was nobody to compare with."""
        if theirs is None:
            self._lines.append(f"owed ({what}): NOT JUDGED, the peer is not here")
        else:
            ratio = ours / theirs if theirs else float("inf")
            self.add(what, ratio <= allowed, f"{ours:.4g} / {theirs:.4g} = {ratio:.3g}")

    def conclude(self) -> int:
        """Print everything; the exit status is 1 where something does not hold."""
        print("\n".join(self._lines))
        return 0 if self._all_hold else 1
