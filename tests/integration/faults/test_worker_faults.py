"""Each fault of a worker, once: only what was inside the process is lost, and the session is whole afterwards."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from tests.integration.faults.ground import Ground
from tests.integration.faults.table import FAULTS, Fault
from tests.integration.sessions import SessionTestCase, is_alive, wait_until


class WorkerFaultTests(SessionTestCase):
    """The table, row by row."""

    def try_fault(self, fault: Fault) -> None:
        """Strike, and look at what is left."""
        ground = Ground(self.folder())
        self.addCleanup(ground.close)
        outcome = ground.strike(fault.blow)
        assert outcome.report is not None
        self.assertEqual(fault.kind, outcome.report["cause"]["kind"], outcome.report)
        self.assertIn(fault.says, json.dumps(outcome.report))
        self.assertLess(outcome.seconds, fault.seconds)
        # Three clients: no more can have been inside the process. Nobody was refused.
        self.assertLessEqual(outcome.lost, 3, ground.tally.failures)
        refused = [text for _, text in ground.tally.failures if "Refused" in text]
        self.assertEqual([], refused)
        wait_until(ground.is_whole, "one that serves and one that stands by")
        if "child" in str(outcome.report["output"]):
            child = int(str(outcome.report["output"][-1]["text"]).split()[1])
            wait_until(lambda: not is_alive(child), "the end of what the worker had forked")


def _method(fault: Fault) -> Callable[[WorkerFaultTests], None]:
    def test(self: WorkerFaultTests) -> None:
        self.try_fault(fault)

    test.__doc__ = (
        f"After {fault.name} only what was inside the process is lost, and the session is whole again."
    )
    return test


for _fault in FAULTS:
    setattr(WorkerFaultTests, "test_" + re.sub(r"\W+", "_", _fault.name.lower()), _method(_fault))
