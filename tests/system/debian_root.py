"""A small Debian, made by debootstrap: what a container or an image is made of where no registry can be reached."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

_PACKAGES = ("systemd-sysv", "dbus", "python3", "python3-venv", "curl")
"""What all who take it need: those that boot it, and those that make an image of it."""
_SECONDS = 300.0


class DebianUnavailable(Exception):
    """This machine does not make one; the text says why."""


def why_no_root() -> str | None:
    """What is missing for one here; None where nothing is known to be."""
    if os.geteuid() != 0:
        return "needs root, for debootstrap"
    if shutil.which("debootstrap") is None:
        return "needs debootstrap, of Debian's package of that name"
    return None if _codename() else "needs Debian: /etc/os-release has no VERSION_CODENAME"


def _codename() -> str:
    """This machine's own Debian: its Python is the one that this run's packages are for, where that is Debian's."""
    for line in Path("/etc/os-release").read_text().splitlines():
        name, _, value = line.partition("=")
        if name == "VERSION_CODENAME":
            return value.strip('"')
    return ""


@functools.cache
def debian_root() -> Path:
    """The folder of a minimal Debian, made once a run and removed at its end; whoever changes anything takes a copy.

    Raises `DebianUnavailable` where it cannot be made.
    """
    base = Path(tempfile.mkdtemp(prefix="serverworker-debian-"))
    atexit.register(shutil.rmtree, base, ignore_errors=True)
    root = base / "root"
    command = ["debootstrap", "--variant=minbase", f"--include={','.join(_PACKAGES)}", _codename(), str(root)]
    try:
        made = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise DebianUnavailable(f"debootstrap had not ended within {_SECONDS:g} s") from None
    if made.returncode:
        last = made.stdout.decode(errors="replace").splitlines()[-1:]
        raise DebianUnavailable(f"debootstrap failed: {' '.join(last)}")
    return root
