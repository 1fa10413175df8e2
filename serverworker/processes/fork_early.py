"""The first fork server is a fork of twistd's own process, made before there is a reactor or a secret in it.

It costs no start of an interpreter, and what monitor and workers have both imported lies in the memory once. Where
twistd's process is not what a new interpreter would be, none is made: the session then starts one as a process of its
own (`forking`).
"""

from __future__ import annotations

import gc
import os
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from serverworker.processes import fork_server
from serverworker.processes.forked import room_for_names
from serverworker.processes.forking import ForkedProcess, ForkServer

CHANGES_PROCESS = ("uid", "gid", "chroot", "umask")
"""Options of twistd's that change what the monitor is after it has read its options."""

_FRAMEWORK = """
    OpenSSL _cffi_backend attr attrs automat constantly cryptography h2 hpack hyperframe hyperlink idna incremental multipart
    packaging priority pyasn1 pyasn1_modules serverworker service_identity treq twisted typing_extensions zope
"""
_OF_ANY_INTERPRETER = "_distutils_hack _virtualenv sitecustomize usercustomize __main__ __mp_main__"
"""What Python's own start and `site` import in an environment."""

_KNOWN = frozenset([*_FRAMEWORK.split(), *_OF_ANY_INTERPRETER.split()])
"""Packages whose modules a worker may find imported: the framework's own."""

_KNOWN_BEGINNINGS = ("__editable__", "_sysconfigdata_")
_PLUGINS = "twisted.plugins."
_KNOWN_PLUGINS = ("twisted_", "cred_", "serverworker_plugin")

_COMMAND_LINE_BYTES = 60
_ENVIRONMENT_BYTES = 120
"""What a worker's marks and its id take; see `forked.name_process`."""


def fork_early(parent: Mapping[str, Any] | None) -> ForkServer | None:
    """Fork a fork server, if this process is twistd or twist and nothing stands in the way; `parent` are its options.

    In the workers that it forks this never returns: it ends the process.
    """
    if parent is None or why_not(parent, sys.modules, sys.orig_argv) is not None:
        return None
    ours, theirs = socket.socketpair()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()  # or the child might write it once more
    gc.freeze()  # no collection, here or there, writes into the pages that are shared from now on
    try:
        pid = os.fork()
    except OSError:
        ours.close()
        theirs.close()
        return None
    if pid == 0:
        try:
            fork_server.run(_alone_with(theirs))
        finally:  # whatever it was: these frames are the parent's
            os._exit(0)
    theirs.close()
    server = ForkServer(ours)
    ForkedProcess(pid, server)
    server.preload(())
    return server


def why_not(parent: Mapping[str, Any], modules: Mapping[str, Any], command_line: list[str]) -> str | None:
    """What stands in the way, for whoever looks for it; None where nothing does."""
    if not parent.get("nodaemon", True):
        return "twistd will daemonise"  # and be no parent of what it has forked
    changing = [name for name in CHANGES_PROCESS if parent.get(name) is not None]
    if changing:
        return f"twistd has --{changing[0]}"
    if any(word.startswith("-") and word not in ("-m", "-c") for word in command_line[1:2]):
        return "the interpreter has options of its own"
    if "twisted.internet.reactor" in modules:
        return "there is a reactor already"
    if threading.active_count() > 1:
        return "there are threads already"
    foreign = next(_foreign(modules), None)
    if foreign is not None:
        return f"{foreign} is imported already"
    command_line_bytes, environment_bytes = room_for_names()
    if command_line_bytes < _COMMAND_LINE_BYTES or environment_bytes < _ENVIRONMENT_BYTES:
        return "a worker's marks have no room"
    return None


def _foreign(modules: Mapping[str, Any]) -> Iterator[str]:
    for name, module in modules.items():
        top = name.partition(".")[0]
        if name.startswith(_PLUGINS):
            known = name.removeprefix(_PLUGINS).startswith(_KNOWN_PLUGINS)
        else:
            known = top in _KNOWN or top in sys.stdlib_module_names or top.startswith(_KNOWN_BEGINNINGS)
        if not known and isinstance(getattr(module, "__file__", None), str):
            yield name


def _alone_with(channel: socket.socket) -> socket.socket:
    """Close all that this process has of its parent's, but for the channel, which it moves."""
    kept = 3
    os.dup2(channel.detach(), kept, inheritable=False)
    os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX"))
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(kept):
        os.dup2(nowhere, descriptor)
    os.close(nowhere)
    return socket.socket(fileno=kept)
