"""Each fault of a worker, once: only what was inside the process is lost, and the session is whole afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable

from tests.integration.faults.ground import Ground
from tests.integration.faults.table import FAULTS, Fault
from tests.integration.sessions import SessionTestCase, is_alive, wait_until


class WorkerFaultTests(SessionTestCase):
    """The table, by the kind of cause that the report tells: one session suffers all of a kind, one after the other."""

    def try_fault(self, ground: Ground, fault: Fault) -> None:
        """Strike, and look at what is left."""
        outcome = ground.strike(fault.blow)
        assert outcome.report is not None
        self.assertEqual(fault.kind, outcome.report["cause"]["kind"], outcome.report)
        self.assertIn(fault.says, json.dumps(outcome.report))
        self.assertLess(outcome.seconds, fault.seconds, fault.name)
        # Three clients: no more can have been inside the process. Nobody was refused.
        self.assertLessEqual(outcome.lost, 3, (fault.name, ground.tally.failures))
        refused = [text for _, text in ground.tally.failures if "Refused" in text]
        self.assertEqual([], refused, fault.name)
        wait_until(ground.is_whole, f"one that serves and one that stands by, after {fault.name}")
        if "child" in str(outcome.report["output"]):
            child = int(str(outcome.report["output"][-1]["text"]).split()[1])
            wait_until(lambda: not is_alive(child), "the end of what the worker had forked")


def _method(kind: str) -> Callable[[WorkerFaultTests], None]:
    def test(self: WorkerFaultTests) -> None:
        ground = Ground(self.folder())
        self.addCleanup(ground.close)
        for fault in FAULTS:
            if fault.kind == kind:
                self.try_fault(ground, fault)

    names = ", ".join(fault.name for fault in FAULTS if fault.kind == kind)
    test.__doc__ = (
        f"After {names} only what was inside is lost; the session is whole again, ready for the next."
    )
    return test


for _kind in sorted({fault.kind for fault in FAULTS}):
    setattr(WorkerFaultTests, f"test_{_kind}", _method(_kind))
