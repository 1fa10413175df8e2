"""The dashboard as an operator has it: Debian's Chromium, a real session, and all that goes wrong with one."""

from __future__ import annotations

import os
import signal

from tests.integration.sessions import wait_until
from tests.system.dashboard_pages import DESK, PHONE, SITE, DashboardTestCase


class CrashTests(DashboardTestCase):
    """A worker dies while somebody looks."""

    def test_a_killed_worker(self) -> None:
        """It goes, another one serves, and the cause stands at the top; the page was not loaded again."""
        self.log_in()
        victim = self.running.serving()[-1]["worker"]
        os.kill(self.running.pid_of(victim), signal.SIGKILL)
        self.see("#last-crash", "killed by SIGKILL")
        self.page.locator(f"#workers-body th:text-is('{victim}')").wait_for(state="detached")
        self.page.locator("#workers-body tr.life-serving").first.wait_for()
        self.see("#phase", "running")
        self.see("#timeline", f"worker {victim} (pid")
        self.page.get_by_role("button", name="Read the report").click()
        self.see("#crashes .report", f"worker {victim} (pid")
        self.assertEqual("true", self.page.evaluate("document.activeElement.getAttribute('aria-expanded')"))
        self.assert_same_page()

    def test_a_hang(self) -> None:
        """The line that it hung on is named at the top, and the report has the request and the stacks."""
        self.log_in()
        self.visit("/hang")
        line = next(number for number, text in enumerate(SITE.split("\n"), 1) if "time.sleep" in text)
        self.see("#last-crash", f"site_of_test.py, line {line}")
        self.page.get_by_role("button", name="Read the report").click()
        self.see("#crashes .report", "GET /hang")
        self.page.get_by_text("Stacks of all threads").click()
        self.see("#crashes .report details[open]", "render_GET")
        self.assert_same_page()

    def test_html_is_text(self) -> None:
        """What a worker prints or raises is shown as it is, and does nothing."""
        self.log_in()
        self.visit("/boom")
        self.see("#last-crash .cause", "<script>document.title='robbed'</script> is raised")
        self.see("#lines", "<img src=x onerror=document.title='robbed'> is printed")
        self.page.get_by_role("button", name="Read the report").click()
        self.see("#crashes .report pre", "Traceback (most recent call last)")
        self.assertEqual(0, self.page.locator("#lines img, #main script").count())
        self.assertEqual("serverworker", self.page.title())


class DeedTests(DashboardTestCase):
    """What an operator does from the page."""

    def test_a_deploy_and_a_bad_one(self) -> None:
        """A restart shows the new version; one that fails says why, and what served before goes on."""
        self.log_in()
        self.see("#facts", "1.0")
        self.deploy("2.0")
        self.page.get_by_role("button", name="Restart", exact=True).click()
        self.see("#outcome.good", "generation 2 serves")
        self.see("#facts", "2.0")
        self.see("#timeline li.good", "(version 2.0)")
        self.deploy("3.0", site="import this is no Python")
        self.page.get_by_role("button", name="Restart", exact=True).click()
        self.see("#outcome.bad", "restart clean failed")
        self.see("#timeline li.bad", "failed deploy")
        self.see("#last-crash", "SyntaxError")
        self.see("#facts", "2.0")
        self.assertEqual((200, b"ok"), self.running.get("/"))
        self.assert_same_page()

    def test_settings_and_commands(self) -> None:
        """Forms, the command line and the agent's own commands say what came of them; nonsense, what there is."""
        self.log_in()
        self.page.get_by_role("textbox", name="Workers").fill("2")
        self.page.get_by_role("button", name="Set workers").click()
        self.see("#outcome.good", "2 workers are to serve")
        self.see("#facts", "2 of 2")
        command = self.page.get_by_label("Command", exact=True)
        command.fill("restrat")
        command.press("Enter")
        self.see("#outcome.bad", "restart")
        command.fill("status")
        command.press("Enter")
        self.see("#output", "generation 1: 2 of 2 serving")
        self.page.get_by_role("button", name="pull").click()
        self.see("#outcome.good", "pull: pulled <b>all</b>")

    def test_ending_asks_first(self) -> None:
        """The session is ended after a question alone; then the page says that nobody is there."""
        self.log_in()
        button = self.page.get_by_role("button", name="End the session…")
        button.click()
        self.page.keyboard.press("Escape")
        self.assertEqual("exit clean", self.page.evaluate("document.activeElement.dataset.command"))
        self.page.keyboard.press("Enter")
        self.page.keyboard.press("Enter")  # what has the focus is: Cancel
        self.assertIsNone(self.running.process.poll())
        button.click()
        self.page.locator("#confirm-yes").click()
        self.assertEqual(0, self.running.exit_status())
        self.see("#connection", "Disconnected since")

    def test_output(self) -> None:
        """Lines come by themselves, can be filtered, and wait while it is paused."""
        self.log_in()
        self.visit("/boom")
        self.see("#lines", "is printed")
        self.page.get_by_label("Only lines with").fill("is PRINTED")
        self.page.locator("#lines .line", has_text="Traceback").wait_for(state="detached")
        self.see("#lines", "is printed")
        self.page.get_by_role("button", name="Pause").click()
        self.running.standby_ready_or_loaded()
        self.visit("/boom")
        self.see("#log-count", "more")
        self.assertEqual(1, self.page.locator("#lines .line").count())
        self.page.get_by_role("button", name="Pause").click()
        wait_until(lambda: self.page.locator("#lines .line").count() == 2, "the second line")


class LoginTests(DashboardTestCase):
    """Who gets in, and until when."""

    def test_a_wrong_key(self) -> None:
        """It is said, the field has the focus again, and the right one gets in a moment later."""
        self.page.get_by_label("Session key").fill("no such key")
        self.page.get_by_role("button", name="Log in").click()
        self.see("#login-error", "a wrong session key")
        self.assertEqual("key", self.page.evaluate("document.activeElement.id"))
        self.assertFalse(self.page.locator("#desk").is_visible())
        self.page.wait_for_timeout(1000)  # the first wrong key costs a second
        self.log_in()
        self.see("#timeline", "did not get into the dashboard")
        self.assertNotIn(self.key, self.page.content())
        self.assertNotIn(self.key, self.page.url)

    def test_logging_out(self) -> None:
        """It is over at once, nothing of the session is left on the page, and loading it again does not help."""
        self.log_in()
        self.page.get_by_role("button", name="Log out").click()
        self.see("#login-reason", "You are logged out.")
        self.assertEqual(0, self.page.locator("#workers-body tr, #timeline li, #lines .line").count())
        self.page.reload()
        self.page.get_by_label("Session key").wait_for()
        self.assertFalse(self.page.locator("#desk").is_visible())

    def test_a_login_that_has_ended(self) -> None:
        """A page whose cookie is worth nothing any more shows the login as soon as it wants something."""
        self.log_in()
        self.context.clear_cookies()
        self.page.get_by_role("button", name="Restart", exact=True).click()
        self.see("#login-reason", "You are logged out")
        self.log_in()
        self.see("#connection", "Live")

    def test_a_reload(self) -> None:
        """Who is logged in stays so, and the cookie is none that a script could read."""
        self.log_in()
        self.page.reload()
        self.page.locator("#workers-body tr.life-serving").first.wait_for()
        self.assertEqual("", self.page.evaluate("document.cookie"))
        (cookie,) = self.context.cookies()
        self.assertEqual((True, "Strict"), (cookie["httpOnly"], cookie["sameSite"]))

    def test_another_session(self) -> None:
        """The monitor is killed under the open page: it says so, then asks for the new session's key, and shows that one."""
        self.log_in()
        before = self.key
        self.visit("/boom")
        self.see("#last-crash", "is raised")
        self.running.process.kill()
        self.see("#connection", "Disconnected since")
        self.running.exit_status()
        self.running = self.start()
        self.see("#login-reason", "the session was started anew")
        self.assertNotEqual(before, self.key)
        self.log_in()
        self.see("#connection", "Live")
        self.see("#facts", f"pid {self.running.process.pid}")
        self.see("#last-crash", "is raised")  # the reports outlive the session


class LookTests(DashboardTestCase):
    """How it looks, and for whom."""

    def test_everybody_can_use_it(self) -> None:
        """axe-core has nothing to say of login, page, report and question, light and dark, on a desk and on a phone."""
        self.assert_accessible("login")
        self.log_in()
        self.visit("/boom")
        self.see("#last-crash", "is raised")
        self.page.get_by_role("button", name="Read the report").click()
        self.see("#crashes .report pre", "Traceback (most recent call last)")
        self.see("#beats", "at most")
        for scheme in ("light", "dark"):
            self.page.emulate_media(color_scheme=scheme)
            for name, size in (("desk", DESK), ("phone", PHONE)):
                self.page.set_viewport_size(size)  # type: ignore[arg-type]
                self.page.wait_for_timeout(400)  # colours fade, the chart is drawn anew
                self.assert_no_sideways_scrolling(f"{scheme}, {name}")
                self.assert_accessible(f"{scheme}, {name}")
                self.keep_picture(self.page, f"{scheme}-{name}")
            self.page.get_by_role("button", name="End at once…").click()
            self.assert_accessible(f"{scheme}, question")
            self.page.keyboard.press("Escape")

    def test_the_keyboard(self) -> None:
        """After the login the focus is at the top; the first stop behind it leads past the head."""
        self.log_in()
        self.assertEqual("title", self.page.evaluate("document.activeElement.id"))
        self.page.locator("body").press("Shift+Tab")
        self.assertEqual("Skip to the workers", self.page.evaluate("document.activeElement.textContent"))
        self.page.keyboard.press("Enter")
        self.page.keyboard.press("Tab")
        inside = "document.getElementById('main').contains(document.activeElement)"
        self.assertTrue(self.page.evaluate(inside))
