"""The welcome page: what a session without an application serves."""

from __future__ import annotations

import os
from html import escape

from twisted.web.http import Request
from twisted.web.resource import Resource
from twisted.web.server import Site

from serverworker import __version__

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>serverworker</title>
<style>body{{font:1.1rem/1.5 system-ui,sans-serif;max-width:38rem;margin:4rem auto;padding:0 1rem;
color:#222;background:#fff}}code{{background:#eee;padding:.1em .3em}}
@media(prefers-color-scheme:dark){{body{{color:#ddd;background:#181818}}code{{background:#333}}}}</style></head>
<body><h1>It works</h1>
<p>This page comes from worker process <code>{pid}</code>. The monitor that started it holds the port.</p>
<p>Kill the worker: <code>kill -9 {pid}</code>, and load this page again. Another worker answers, and no connection
was refused in between.</p>
<p>Now run an application of your own: <code>{command}</code></p>
<p><small>serverworker {version}</small></p></body></html>
"""


class Welcome(Resource):
    """``/``, and ``/heartbeat`` beside it."""

    isLeaf = True

    def render_GET(self, request: Request) -> bytes:
        """The page, or ``ok`` for the heartbeat, or 404."""
        if request.path == b"/heartbeat":
            request.setHeader(b"content-type", b"text/plain; charset=utf-8")
            return b"ok\n"
        request.setHeader(b"content-type", b"text/html; charset=utf-8")
        if request.path != b"/":
            request.setResponseCode(404)
        command = escape("twistd -n serverworker --port 8080 --app module:attribute")
        return _PAGE.format(pid=os.getpid(), version=__version__, command=command).encode()


def welcome_site() -> Site:
    """The site that serves it."""
    return Site(Welcome())
