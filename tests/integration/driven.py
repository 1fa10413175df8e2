"""An agent whose methods a test calls by HTTP, in either process: what it is made of, and how it is asked."""

from __future__ import annotations

import json
import textwrap
from typing import Any

from tests.integration.sessions import SessionTestCase, TestSession

DRIVEN = '''
    """`GET /name` runs the agent's method `name` in a worker, `GET /monitor/name` in the monitor; answers JSON."""

    import json

    from twisted.internet.defer import Deferred, ensureDeferred, maybeDeferred
    from twisted.internet.task import deferLater
    from twisted.web.resource import Resource
    from twisted.web.server import NOT_DONE_YET, Site

    from serverworker import *

    def told(error):
        return {"type": type(error).__name__, "text": str(error)}

    class Driven(SessionAgent):
        async def initialize_monitor(self, monitor):
            monitor.on("do", lambda name: getattr(self, name)())

        async def initialize_server_worker(self, worker):
            worker.listen("server", Site(Doing(self)))

        async def tried(self, awaitable):
            """What it comes to, an error included."""
            try:
                return await awaitable
            except Exception as error:
                return told(error)

    class Doing(Resource):
        isLeaf = True

        def __init__(self, agent):
            super().__init__()
            self.agent = agent

        def render_GET(self, request):
            ensureDeferred(self.answer(request)).addErrback(lambda failure: None)
            return NOT_DONE_YET

        async def answer(self, request):
            where, _, name = request.path.decode().strip("/").rpartition("/")
            try:
                if where == "monitor":
                    (result,) = await self.agent.worker.emit("do", name)
                else:
                    result = await maybeDeferred(getattr(self.agent, name)) if name else None
            except Exception as error:
                result = told(error)
            request.write(json.dumps(result).encode())
            request.finish()
    '''


class DrivenTestCase(SessionTestCase):
    """Sessions of agents that are made of `DRIVEN`."""

    def driven(self, agent: str, *arguments: str, **options: Any) -> TestSession:
        """A session of the class `Agent` in the source text `agent`, which may use all names of `DRIVEN`."""
        source = f"from driven import *\n{textwrap.dedent(agent)}"
        folder = self.folder(driven__py=DRIVEN, agent__py=source)
        session = self.session("--agent", "agent:Agent", *arguments, folder=folder, **options)
        session.serving()
        return session


def ask(session: TestSession, name: str) -> Any:
    """Have a method run: ``name`` in a worker, ``monitor/name`` in the monitor."""
    status, body = session.get(f"/{name}")
    if status != 200:
        raise AssertionError(f"/{name} answered {status}: {body!r}")
    return json.loads(body)
