"""The last crash: why? ``python why.py STATE_DIRECTORY``."""

import sys
from pathlib import Path

from serverworker.monitor.crash_store import list_reports, load

death = load(list_reports(Path(sys.argv[1], "crashes"))[-1]).death
print(death.cause.text, death.hung_at, death.next_step, sep="\n")
for request in death.requests:
    print(f"it was at {request.method} {request.path} for {request.age_seconds:.1f} s")
for line in death.output[-5:]:
    print(f"it said: {line.text}")
