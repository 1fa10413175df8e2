"""What an application finds in a worker that was forked, and what is done for it at the worker's end."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

from tests.integration.sessions import TestSession, is_alive, wait_until
from tests.integration.test_forked_session import ForkedSessionTestCase, is_forked

APPLICATION = """
    import atexit, json, logging.handlers, multiprocessing, os, sys, tempfile
    from twisted.application.service import IServiceMaker
    from twisted.internet.threads import deferToThread
    from twisted.plugin import getPlugins
    from twisted.web.resource import Resource
    from twisted.web.server import NOT_DONE_YET

    FOLDER = os.path.dirname(__file__)
    PID = os.getpid()
    kept = tempfile.TemporaryDirectory(prefix="kept-", dir=FOLDER)
    target = logging.FileHandler(f"{FOLDER}/log-{PID}")
    logging.getLogger("late").addHandler(logging.handlers.MemoryHandler(1000, target=target))
    logging.getLogger("late").error("kept until the end")
    file = open(f"{FOLDER}/exit-{PID}", "w")
    atexit.register(file.close)
    atexit.register(file.write, "at exit")
    atexit.register(lambda: 1 / 0)

    def double(number):
        return number * 2

    def multiply():
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            return pool.map(double, [21])

    def path():
        return sys.path[:1] + [each for each in sys.path if each == FOLDER]

    def plugins():
        return [each.tapname for each in getPlugins(IServiceMaker)]

    def streams():
        return [[each.name, each.mode, each.fileno()] for each in (sys.stdin, sys.stdout, sys.stderr)]

    class Root(Resource):
        isLeaf = True

        def render_GET(self, request):
            call = {"multiply": multiply, "path": path, "plugins": plugins, "streams": streams}[
                request.path[1:].decode() or "path"
            ]
            called = deferToThread(call)
            called.addCallback(lambda found: request.write(json.dumps(found).encode()))
            called.addCallback(lambda _: request.finish())
            return NOT_DONE_YET
    """

PLUGIN = """
    from twisted.application.service import ServiceMaker

    found = ServiceMaker("of the application", "nowhere", "A plugin.", "plugin-of-the-application")
    """


class ForkedApplicationTests(ForkedSessionTestCase):
    """What an application finds in a worker that was forked, and what is done at its end."""

    def forked(self) -> tuple[TestSession, Path]:
        """A session whose workers are forked; its application lies in a folder, with a plugin, where twistd is not."""
        session_folder = self.folder()
        site = session_folder / "site"
        plugins = site / "twisted" / "plugins"
        plugins.mkdir(parents=True)
        (site / "site_under_test.py").write_text(textwrap.dedent(APPLICATION))
        (plugins / "plugin_of_the_application.py").write_text(textwrap.dedent(PLUGIN))
        session = self.begin(folder=session_folder, configuration='directory = "site"\n')
        self.assertTrue(is_forked(session.server_pid))
        return session, site

    def test_surroundings(self) -> None:
        """The folder comes first in sys.path, once; plugins are found; `multiprocessing` spawns; streams have names."""
        session, site = self.forked()
        folder = str(site.resolve())
        self.assertEqual(json.loads(session.get("/path")[1]), [folder, folder])
        self.assertIn("plugin-of-the-application", json.loads(session.get("/plugins")[1]))
        self.assertEqual(json.loads(session.get("/multiply")[1]), [42])
        streams = [["<stdin>", "r", 0], ["<stdout>", "w", 1], ["<stderr>", "w", 2]]
        self.assertEqual(json.loads(session.get("/streams")[1]), streams)

    def test_end(self) -> None:
        """At its end all is done that an interpreter does: exit functions, `logging`, temporary folders."""
        session, site = self.forked()
        workers = self.workers(session)
        self.assertEqual(len(list(site.glob("kept-*"))), len(workers))
        self.assertEqual(session.end(), 0)
        wait_until(lambda: not any(map(is_alive, workers)), "the end of all workers")
        self.assertEqual(list(site.glob("kept-*")), [])
        for pid in workers:
            self.assertEqual((site / f"log-{pid}").read_text(), "kept until the end\n")
            self.assertEqual((site / f"exit-{pid}").read_text(), "at exit")
        self.assertIn("ZeroDivisionError", session.transcript())
