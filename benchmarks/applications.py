"""The application that all contenders serve, in every dialect: each answer is the pid of the worker that gave it.

``/hang`` blocks the thread that answers it, and with it the reactor or the loop, for an hour.
"""

from __future__ import annotations

from pathlib import Path

_TWISTED = """
import os, sys, time
from twisted.web.resource import Resource
time.sleep({import_seconds})

class Pid(Resource):
    isLeaf = True

    def render_GET(self, request):
        if request.path == b"/hang":
            time.sleep(3600)
        return b"%d" % os.getpid()
"""

_SERVE = """
import os, socket, sys
from twisted.internet import reactor
from twisted.web.server import Site
from pid_twisted import Pid

where = sys.argv[1]
if where.startswith("fd="):
    descriptor = int(where[3:])
    os.set_blocking(descriptor, False)
    reactor.adoptStreamPort(descriptor, socket.AF_INET, Site(Pid()))
else:
    reactor.listenTCP(int(where), Site(Pid()), backlog=1024, interface="127.0.0.1")
reactor.run()
"""

_WSGI = """
import os, time
time.sleep({import_seconds})

def app(environ, start_response):
    if environ["PATH_INFO"] == "/hang":
        time.sleep(3600)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"%d" % os.getpid()]
"""

_ASGI = """
import os, time
time.sleep({import_seconds})

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({{"type": message["type"] + ".complete"}})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["path"] == "/hang":
        time.sleep(3600)
    body = b"%d" % os.getpid()
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({{"type": "http.response.start", "status": 200, "headers": headers}})
    await send({{"type": "http.response.body", "body": body}})
"""


def write_applications(folder: Path, import_seconds: float) -> None:
    """Write `pid_twisted`, `pid_wsgi`, `pid_asgi`, whose imports take so many seconds more, and `serve.py`.

    The last one is a program for supervisors: it serves `pid_twisted` on the port, or the descriptor, that it is given.
    """
    for name, text in (("pid_twisted", _TWISTED), ("pid_wsgi", _WSGI), ("pid_asgi", _ASGI)):
        (folder / f"{name}.py").write_text(text.format(import_seconds=import_seconds))
    (folder / "serve.py").write_text(_SERVE)
