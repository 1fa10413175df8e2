"""What makes `twistd serverworker` and `twist serverworker` exist.

twistd imports this file in every run on a machine that has it, whatever plugin was asked for. So it names our module
by string and imports nothing of ours: a fault of ours must never print a traceback in somebody else's service.
There is no `__init__.py` beside it, and there must be none: the folder belongs to Twisted.
"""

from __future__ import annotations

from twisted.application.service import ServiceMaker

serverworker = ServiceMaker(
    "serverworker",
    "serverworker.session",
    "Keeps a web server answering: runs it in workers, and replaces those that crash or hang.",
    "serverworker",
)
