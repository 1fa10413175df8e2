"""Tests that need root, Debian packages or a whole system; see README."""

import os

SKIP = None if os.environ.get("SYSTEM_TESTS") else "runs with SYSTEM_TESTS=1 only, as in .ci/run"
"""Why none of them runs here; None where they are wanted."""
