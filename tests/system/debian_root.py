"""A small Debian, made by debootstrap: what a container or an image is made of where no registry can be reached."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

SUITE = "bookworm"
MIRROR = "http://deb.debian.org/debian"


def why_no_root() -> str | None:
    """What is missing for one here; None where nothing is."""
    if os.geteuid() != 0:
        return "needs root, for debootstrap"
    if shutil.which("debootstrap") is None:
        return "needs debootstrap, of Debian's package of that name"
    return None


@functools.cache
def debian_root(*packages: str) -> Path:
    """The folder of a minimal Debian with these packages, made once a run and removed at its end; nobody changes it.

    Raises `AssertionError` with debootstrap's own words where it cannot be made.
    """
    base = Path(tempfile.mkdtemp(prefix="serverworker-debian-"))
    atexit.register(shutil.rmtree, base, ignore_errors=True)
    root = base / "root"
    command = [
        "debootstrap",
        "--variant=minbase",
        f"--include={','.join(packages)}",
        SUITE,
        str(root),
        MIRROR,
    ]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return root
