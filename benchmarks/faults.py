"""The fault table, again and again: what each fault costs, in requests lost and in seconds without an answer.

    python benchmarks/faults.py                # each fault twenty times
    python benchmarks/faults.py --rounds 3 --only sleep

The table and the ground are those of the tests (`tests/integration/faults/`). Owed (issue 3): no more requests are lost
than were inside the process that failed, and afterwards the session is whole. Exit status 1 where that does not hold.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.integration.faults.ground import Ground, Outcome
from tests.integration.faults.table import FAULTS, Fault
from tests.integration.sessions import wait_until

CLIENTS = 3


def once(fault: Fault) -> Outcome:
    """One session, struck once."""
    with tempfile.TemporaryDirectory() as folder:
        ground = Ground(Path(folder))
        try:
            outcome = ground.strike(fault.blow)
            wait_until(ground.is_whole, "a session that is whole again")
            return outcome
        finally:
            ground.close()


def row(fault: Fault, outcomes: list[Outcome]) -> str:
    """A line of the table."""
    seconds = [outcome.seconds for outcome in outcomes]
    kinds = {outcome.report["cause"]["kind"] for outcome in outcomes if outcome.report}
    lost = max(outcome.lost for outcome in outcomes)
    return f"{fault.name:28} {statistics.median(seconds):8.3f} s {max(seconds):8.3f} s {lost:6}   {', '.join(sorted(kinds))}"


def main() -> int:
    """Try all, print, judge."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20, help="how often each fault is tried (default 20)")
    parser.add_argument("--only", default="", help="only faults whose name holds this text")
    options = parser.parse_args()
    held = True
    print(f"{'fault':28} {'median':>10} {'worst':>10} {'lost':>6}   cause in the report")
    for fault in FAULTS:
        if options.only in fault.name:
            outcomes = [once(fault) for _ in range(options.rounds)]
            print(row(fault, outcomes), flush=True)
            held &= all(
                outcome.lost <= CLIENTS and outcome.report and outcome.report["cause"]["kind"] == fault.kind
                for outcome in outcomes
            )
    print("owed (nothing lost outside the process, whole afterwards):", "holds" if held else "DOES NOT HOLD")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
