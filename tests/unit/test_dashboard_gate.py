"""Who gets to the dashboard: names, origins, keys, cookies, tokens."""

from __future__ import annotations

from serverworker.surfaces.dashboard.exchange import Call
from serverworker.surfaces.dashboard.guard import ANSWER_HEADERS, host_name
from serverworker.surfaces.dashboard.logins import IDLE_SECONDS, MOST_LOGINS, Logins
from serverworker.values.events import LoginFailed, OperatorAction
from tests.unit.dashboard_case import FORM, KEY, DashboardCase, value_of

RESTART = {"words": ["restart", "clean"]}


class HostTests(DashboardCase):
    """By which names it may be asked for."""

    def codes(self, *hosts: str) -> list[int]:
        return [self.ask("GET", "/", host=host).code for host in hosts]

    def test_its_own_names(self) -> None:
        """Loopback, the address that the connection came to, and what is configured, with any port."""
        hosts = (
            "localhost",
            "LOCALHOST:1",
            "127.0.0.1:9001",
            "[::1]:9001",
            "192.0.2.1:443",
            "ops.example.org",
        )
        self.assertEqual([200] * len(hosts), self.codes(*hosts))

    def test_other_names(self) -> None:
        """A name that was made to lead here, more than one name, none, or nonsense gets no answer."""
        hosts = (
            "evil.example",
            "evil.example, localhost",
            "localhost.evil.example",
            "ops.example.org.",
            "192.0.2.2",
            "localhost:x",
            "[::1",
            "[::1]x",
            "",
        )
        self.assertEqual([421] * len(hosts), self.codes(*hosts))
        self.assertIn("dashboard.hosts", value_of(self.ask("GET", "/", host="evil.example"))["text"])

    def test_without_the_header(self) -> None:
        """Whoever does not say whom it asks is refused."""
        reply = self.successResultOf(self.api.answer(Call(method="GET", path="/")))
        self.assertEqual(421, getattr(reply, "code", None))

    def test_a_mapped_address(self) -> None:
        """On a socket of both families an IPv4 client's address is written as IPv4."""
        call = Call(method="GET", path="/", headers={"host": "192.0.2.1"}, here="::ffff:192.0.2.1")
        self.assertEqual(200, getattr(self.successResultOf(self.api.answer(call)), "code", None))

    def test_names_are_read(self) -> None:
        """A name of the header, without port and brackets."""
        self.assertEqual(["a", "::1", ""], [host_name("A:80"), host_name("[::1]"), host_name("a:b:c")])


class OriginTests(DashboardCase):
    """Which pages may ask for deeds."""

    def code(self, **headers: str) -> int:
        cookie, csrf = self.log_in()
        return self.ask("POST", "/api/run", RESTART, cookie=cookie, x_csrf_token=csrf, **headers).code

    def test_its_own_page(self) -> None:
        """The same scheme does not matter (a proxy may speak TLS), name and port do."""
        self.assertEqual(200, self.code(origin="http://localhost:9001", sec_fetch_site="same-origin"))
        self.assertEqual(200, self.code(origin="https://localhost:9001"))

    def test_other_pages(self) -> None:
        """Another site, another port of this machine, a page without an origin, and one that the browser calls strange."""
        for headers in (
            {"origin": "http://evil.example"},
            {"origin": "http://localhost:3000"},
            {"origin": "null"},
            {"origin": ""},
            {"sec_fetch_site": "cross-site"},
            {"sec_fetch_site": "same-site"},
            {"sec_fetch_site": "none"},
        ):
            self.assertEqual(403, self.code(**headers), headers)
        self.assertEqual([], self.monitor.asked)

    def test_a_login_from_another_page(self) -> None:
        """Nor may another page log somebody in, or read."""
        answer = self.ask(
            "POST", "/login", f"key={KEY}".encode(), content_type=FORM, origin="http://evil.example"
        )
        self.assertEqual(403, answer.code)
        cookie, _ = self.log_in()
        self.assertEqual(403, self.ask("GET", "/api/status", cookie=cookie, sec_fetch_site="same-site").code)


class KeyTests(DashboardCase):
    """The session key."""

    def test_logging_in(self) -> None:
        """The right key gets a cookie that no script reads and no other site sends; both are told."""
        answer = self.ask("POST", "/login", f"key={KEY}".encode(), content_type=FORM)
        cookie = dict(answer.headers)["Set-Cookie"]
        self.assertRegex(cookie, r"^serverworker=[\w-]{43}; Path=/; HttpOnly; SameSite=Strict$")
        (told,) = self.published
        assert isinstance(told, OperatorAction)
        self.assertEqual(
            ("session key, 192.0.2.7", "dashboard", "log in"), (told.who, told.surface, told.action)
        )
        self.assertNotIn(KEY, repr(told))

    def test_a_wrong_key(self) -> None:
        """It is refused and told; the next one that comes too early is not even looked at, then the right one is."""
        wrong = self.ask("POST", "/login", b"key=no", content_type=FORM)
        self.assertEqual(401, wrong.code)
        self.assertNotIn("Set-Cookie", dict(wrong.headers))
        early = self.ask("POST", "/login", f"key={KEY}".encode(), content_type=FORM)
        self.assertIn("try again in 1 s", value_of(early)["text"])
        self.clock.advance(1)
        self.log_in()
        (failed, _) = self.published
        self.assertIsInstance(failed, LoginFailed)

    def test_a_key_elsewhere(self) -> None:
        """A key in the address, or in a body of another kind, is none."""
        self.assertEqual(401, self.ask("POST", f"/login?key={KEY}", b"", content_type=FORM).code)
        self.assertEqual(401, self.ask("GET", f"/api/status?key={KEY}").code)
        self.assertEqual(415, self.ask("POST", "/login", {"key": KEY}).code)
        self.assertEqual(405, self.ask("GET", f"/login?key={KEY}").code)

    def test_bad_forms(self) -> None:
        """No UTF-8, no key, and more fields than a login has."""
        self.assertEqual(400, self.ask("POST", "/login", b"key=\xff", content_type=FORM).code)
        self.assertEqual(400, self.ask("POST", "/login", b"a=1&b=2&key=3", content_type=FORM).code)
        self.assertEqual(401, self.ask("POST", "/login", b"", content_type=FORM).code)

    def test_programs(self) -> None:
        """A program shows the key with each request, and needs no token; a wrong one is told, another scheme is nothing."""
        self.assertEqual(200, self.by_key("POST", "/api/run", RESTART).code)
        self.assertEqual(200, self.ask("GET", "/api/status", authorization=f"bearer  {KEY} ").code)
        self.assertEqual(401, self.ask("GET", "/api/status", authorization=f"Basic {KEY}").code)
        self.assertEqual(401, self.ask("GET", "/api/status", authorization="Bearer no").code)
        self.assertEqual(1, sum(isinstance(each, LoginFailed) for each in self.published))

    def test_a_key_beside_a_cookie(self) -> None:
        """Who shows a wrong key is not let in by the cookie."""
        cookie, _ = self.log_in()
        self.assertEqual(401, self.ask("GET", "/api/status", cookie=cookie, authorization="Bearer no").code)


class CookieTests(DashboardCase):
    """What comes after the login."""

    def test_nobody(self) -> None:
        """Without a cookie there is one answer for all that needs one, whether it is there or not, and nothing is told."""
        answers = {
            self.ask("GET", path).body
            for path in ("/api/status", "/api/nothing", "/api/crashes/last", "/api/stream", "/api/run")
        }
        self.assertEqual(1, len(answers))
        self.assertEqual([], self.published)

    def test_others_cookies(self) -> None:
        """An invented token, an empty one, the CSRF token, and a cookie of another name."""
        cookie, csrf = self.log_in()
        for bad in (
            f"serverworker={'x' * 43}",
            "serverworker=",
            f"serverworker={csrf}",
            cookie.replace("s", "S", 1),
        ):
            self.assertEqual(401, self.ask("GET", "/api/status", cookie=bad).code, bad)
        self.assertEqual(200, self.ask("GET", "/api/status", cookie=f"a=b; {cookie}; c").code)

    def test_deeds_need_the_token(self) -> None:
        """A cookie alone does nothing: another page could have it sent."""
        cookie, csrf = self.log_in()
        for headers in ({}, {"x_csrf_token": "no"}, {"x_csrf_token": "ü" + csrf}):
            self.assertEqual(403, self.ask("POST", "/api/run", RESTART, cookie=cookie, **headers).code)
            self.assertEqual(403, self.ask("POST", "/logout", cookie=cookie, **headers).code)
        self.assertEqual([], self.monitor.asked)
        self.assertEqual(200, self.ask("POST", "/api/run", RESTART, cookie=cookie, x_csrf_token=csrf).code)

    def test_a_token_is_one_logins(self) -> None:
        """That of one login is none of another's."""
        cookie, _ = self.log_in()
        _, other = self.log_in()
        self.assertEqual(403, self.ask("POST", "/api/run", RESTART, cookie=cookie, x_csrf_token=other).code)

    def test_logging_out(self) -> None:
        """The cookie is taken back, and is worth nothing afterwards; the other logins go on."""
        cookie, csrf = self.log_in()
        other, _ = self.log_in()
        answer = self.ask("POST", "/logout", cookie=cookie, x_csrf_token=csrf)
        self.assertIn("Max-Age=0", dict(answer.headers)["Set-Cookie"])
        self.assertEqual(401, self.ask("GET", "/api/status", cookie=cookie).code)
        self.assertEqual(200, self.ask("GET", "/api/status", cookie=other).code)

    def test_idle(self) -> None:
        """A login ends when nothing was asked for in twelve hours, and not while something is."""
        cookie, _ = self.log_in()
        for _ in range(3):
            self.clock.advance(IDLE_SECONDS - 1)
            self.assertEqual(200, self.ask("GET", "/api/status", cookie=cookie).code)
        self.clock.advance(IDLE_SECONDS + 1)
        self.assertEqual(401, self.ask("GET", "/api/status", cookie=cookie).code)

    def test_how_many(self) -> None:
        """Logins are bounded: the one that was idle longest ends."""
        logins = Logins(self.clock)
        used, unused = logins.begin()[0], logins.begin()[0]
        logins.of(used)
        for _ in range(MOST_LOGINS - 1):
            logins.begin()
        self.assertIsNone(logins.of(unused))
        self.assertIsNotNone(logins.of(used))


class SecureCookieTests(DashboardCase):
    """Over TLS."""

    secure = True

    def test_the_cookie(self) -> None:
        """It goes over TLS alone, and no other host can have set it."""
        answer = self.ask("POST", "/login", f"key={KEY}".encode(), content_type=FORM)
        cookie = dict(answer.headers)["Set-Cookie"]
        self.assertTrue(cookie.startswith("__Host-serverworker="), cookie)
        self.assertIn("; Secure", cookie)


class HeaderTests(DashboardCase):
    """What every answer says."""

    def test_the_policy(self) -> None:
        """Nothing from elsewhere, nothing inline, no frame."""
        policy = dict(ANSWER_HEADERS)["Content-Security-Policy"]
        for part in ("default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"):
            self.assertIn(part, policy)
        self.assertNotIn("unsafe", policy)

    def test_the_page_keeps_it(self) -> None:
        """No page of ours has a script or a style in itself, puts in HTML, or loads anything from elsewhere."""
        for path in ("/", "/app.js", "/style.css", "/text.js", "/crashes.js", "/chart.js"):
            text = self.ask("GET", path).body.decode()
            for bad in (
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "eval(",
                "style=",
                "onclick=",
                "https://",
            ):
                self.assertNotIn(bad, text, path)
            self.assertNotIn("http://", text.replace("http://www.w3.org/2000/svg", ""), path)
