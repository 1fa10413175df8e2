"""The dashboard in Debian's Chromium, without a window, as an operator has it."""

from __future__ import annotations

import importlib.util
import shutil
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.integration.sessions import LONG, SessionTestCase, TestSession
from tests.system import SKIP

if TYPE_CHECKING:
    from playwright.sync_api import Page

PHONE = {"width": 320, "height": 640}
DESK = {"width": 1280, "height": 900}

SITE = """
import os, time
from twisted.internet import reactor
from twisted.web.resource import Resource

class Root(Resource):
    def getChild(self, name, request):
        return self

    def render_GET(self, request):
        path = request.path
        if path == b"/hang":
            time.sleep(1000)  # the line that hangs
        if path == b"/boom":
            print("<img src=x onerror=document.title='robbed'> is printed", flush=True)
            reactor.callLater(0, self.boom)
        return b"ok"

    def boom(self):
        raise RuntimeError("<script>document.title='robbed'</script> is raised")

root = Root()
"""

AGENT = """
from serverworker import SessionAgent

class Agent(SessionAgent):
    async def initialize_monitor(self, monitor):
        monitor.add_console_command("pull", [], lambda: "pulled <b>all</b>", "fetch the code")
        return None
"""

CONFIGURATION = """
[app]
agent = "agent_of_test:Agent"
resource = "site_of_test:root"
version = "{version}"
[polling]
interval_seconds = 0.5
[watchdog]
interval_seconds = 0.2
timeout_seconds = 1.5
[restart]
initial_delay_seconds = 0.1
"""


class DashboardTestCase(SessionTestCase):
    """A session with a dashboard, and a browser that has come to it."""

    skip = SKIP

    def setUp(self) -> None:
        from playwright.sync_api import sync_playwright

        chromium = shutil.which("chromium")
        if chromium is None:
            raise AssertionError("there is no chromium: apt-get install chromium")
        self.path = self.folder(site_of_test__py=SITE, agent_of_test__py=AGENT)
        self.deploy("1.0")
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.number = found.getsockname()[1]
        self.running = self.start()
        player = sync_playwright().start()
        self.addCleanup(player.stop)
        browser = player.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        self.addCleanup(browser.close)
        self.context = browser.new_context(viewport=DESK)  # type: ignore[arg-type]
        self.context.set_default_timeout(LONG * 1000)
        self.page = self.context.new_page()
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.addCleanup(lambda: self.assertEqual([], self.errors))
        self.page.goto(f"http://127.0.0.1:{self.number}/")

    def deploy(self, version: str, site: str = SITE) -> None:
        """Put other code, and the version that it is called, where the next restart finds it."""
        (self.path / "site_of_test.py").write_text(site)
        (self.path / "serverworker.toml").write_text(CONFIGURATION.format(version=version))

    def start(self) -> TestSession:
        """A session on the same port and state as any before it."""
        endpoint = f"tcp:{self.number}:interface=127.0.0.1"
        session = self.session("--config", "serverworker.toml", "--dashboard", endpoint, folder=self.path)
        session.standby_ready()
        return session

    @property
    def key(self) -> str:
        """The session's."""
        return (self.running.state_directory / "key").read_text().strip()

    def log_in(self) -> None:
        """Type the key and press Enter."""
        self.page.get_by_label("Session key").fill(self.key)
        self.page.keyboard.press("Enter")
        self.page.locator("#workers-body tr.life-serving").first.wait_for()
        # Gone if the page is ever loaded anew.
        self.page.evaluate("window.isTheSamePage = true")

    def see(self, selector: str, text: str) -> None:
        """Wait until an element shows a text."""
        self.page.locator(selector).filter(has_text=text).first.wait_for()

    def assert_same_page(self) -> None:
        """It was not loaded again."""
        self.assertTrue(self.page.evaluate("window.isTheSamePage === true"))

    def visit(self, path: str) -> None:
        """Have a worker asked, without waiting for what it says."""
        thread = threading.Thread(target=self._get, args=(path,), daemon=True)
        thread.start()
        self.addCleanup(thread.join, LONG)

    def _get(self, path: str) -> None:
        try:
            self.running.get(path)
        except OSError:
            pass  # its worker was killed
        except Exception as error:
            if "closed connection" not in str(error):
                raise

    def assert_accessible(self, where: str) -> None:
        """axe-core finds nothing wrong in what is shown: names, roles, contrast, landmarks."""
        self.page.evaluate(axe_core())
        found: dict[str, Any] = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        faults = [
            f"{fault['id']}: {[node['target'] for node in fault['nodes']][:3]}: {fault['nodes'][0]['failureSummary']}"
            for fault in found["violations"]
        ]
        self.assertEqual([], faults, where)
        self.assertGreater(len(found["passes"]), 10, where)

    def assert_no_sideways_scrolling(self, where: str) -> None:
        """The page is not wider than the window."""
        wide, window = self.page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
        self.assertLessEqual(wide, window, where)

    def keep_picture(self, page: Page, name: str) -> None:
        """For whoever wants to look, in the folder that trial leaves behind."""
        folder = Path("dashboard")
        folder.mkdir(exist_ok=True)
        page.screenshot(path=str(folder / f"{name}.png"), full_page=True)


def axe_core() -> str:
    """The source of axe-core, from the package that brings it."""
    found = importlib.util.find_spec("axe_playwright_python")
    assert found is not None and found.origin is not None
    return (Path(found.origin).parent / "axe.min.js").read_text(encoding="utf-8")
