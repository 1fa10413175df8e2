"""Real sessions, steered through their control port by the client."""

from __future__ import annotations

import textwrap
from typing import Any

from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from serverworker.control import Client, connect
from tests.integration.sessions import LONG, SessionTestCase, TestSession

AGENT = """
    import os

    from twisted.web.resource import Resource
    from twisted.web.server import Site

    from serverworker import SessionAgent

    class Page(Resource):
        isLeaf = True

        def render_GET(self, request):
            return b"hello"

    class Agent(SessionAgent):
        async def initialize_monitor(self, monitor):
            monitor.on("count", lambda args: args + 1)
            monitor.add_console_command("greet", [".+"], lambda name: f"hello, {name}", "say hello")

        async def initialize_server_worker(self, worker):
            worker.listen("server", Site(Page()))
            worker.on("echo", lambda args: args)
            worker.on("print", print)
            worker.on("fail", self.fail)
            worker.on("die", lambda args: os._exit(3))

        def fail(self, args):
            raise ValueError(f"not {args}")
    """


class ControlledCase(SessionTestCase, TestCase):
    """Makes sessions, and clients that are gone when the test is over."""

    timeout = 3 * LONG

    def controlled(self, *arguments: str, agent: str = AGENT, **options: Any) -> TestSession:
        """A session of the agent above; it serves."""
        folder = options.pop("folder", None) or self.folder()
        (folder / "agent.py").write_text(textwrap.dedent(agent))
        session = self.session("--agent", "agent:Agent", *arguments, folder=folder, **options)
        session.serving()
        return session

    async def client(self, session: TestSession, endpoint: str = "", **options: Any) -> Client:
        """A client of it; of its own unix socket, where no other endpoint is given."""
        client = await connect(
            reactor, endpoint or f"unix:{session.state_directory}/run/control", timeout=LONG, **options
        )

        def gone() -> Any:
            client.close()
            return client.lost()

        self.addCleanup(gone)
        return client

    async def failure(self, awaitable: Any, kind: type[Exception]) -> str:
        """The text that it fails with."""
        try:
            result = await awaitable
        except kind as error:
            return str(error)
        raise AssertionError(f"it did not fail, but came to {result!r}")
