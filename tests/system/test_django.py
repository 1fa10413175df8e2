"""Django, from PyPI: a project with its admin, sessions and SQLite, logged into while it is restarted under load."""

from __future__ import annotations

import atexit
import functools
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from http.cookies import SimpleCookie
from importlib.util import find_spec
from pathlib import Path
from unittest import skipIf
from urllib.parse import urlencode

from tests.integration.sessions import LONG, TestSession
from tests.system import SKIP
from tests.system.applications import ApplicationProof

MISSING = None if find_spec("django") else "needs django: python -m pip install -e '.[frameworks]'"

SETTINGS = """
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent
SECRET_KEY = "of a test"
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "a"]
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
ROOT_URLCONF = "mysite.urls"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
WSGI_APPLICATION = "mysite.wsgi.application"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "db.sqlite3"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
STATIC_URL = "static/"
"""

URLS = """
import os
import time

from django.contrib import admin
from django.contrib.auth.models import User
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path

state = {"well": True}

def index(request):
    User.objects.count()
    return HttpResponse("good")

def health(request):
    return HttpResponse("good", status=200 if state["well"] else 500)

def sicken(request):
    state["well"] = False
    return HttpResponse("good")

def crash(request):
    os._exit(7)

def hang(request):
    time.sleep(3600)  # HANGS HERE

def stream(request):
    def pieces():
        for number in range(29):
            time.sleep(0.05)
            yield f"piece {number}\\n"
        yield "end"
    return StreamingHttpResponse(pieces(), content_type="text/plain")

urlpatterns = [
    path("", index),
    path("health", health),
    path("sicken", sicken),
    path("crash", crash),
    path("hang", hang),
    path("stream", stream),
    path("admin/", admin.site.urls),
]
"""

WSGI = """
import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")

application = get_wsgi_application()
"""

PROJECT = {
    "mysite/__init__.py": "",
    "mysite/settings.py": SETTINGS,
    "mysite/urls.py": URLS,
    "mysite/wsgi.py": WSGI,
}


@functools.cache
def database() -> Path:
    """A database with its tables and one administrator, made once: the migrations take longer than all else."""
    folder = Path(tempfile.mkdtemp(prefix="django-"))
    atexit.register(shutil.rmtree, folder)
    for name, text in PROJECT.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    variables = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "mysite.settings",
        "PYTHONPATH": str(folder),
        "DJANGO_SUPERUSER_PASSWORD": "secret of a test",
    }
    for words in (
        ("migrate", "--verbosity", "0"),
        ("createsuperuser", "--noinput", "--username", "admin", "--email", "a@example.com"),
    ):
        command = [sys.executable, "-m", "django", *words]
        subprocess.run(command, env=variables, cwd=folder, check=True, capture_output=True)
    return folder / "db.sqlite3"


class DjangoTests(ApplicationProof):
    """A project of Django's, with two threads."""

    skip = SKIP or MISSING
    options = ("--wsgi", "mysite.wsgi:application", "--wsgi-threads", "2")
    module = "mysite/urls.py"
    hangs = 2

    def files(self) -> dict[str, str]:
        """The project's."""
        return PROJECT

    def prepare(self, folder: Path) -> None:
        """With its database."""
        shutil.copy(database(), folder)

    def test_lives(self) -> None:
        """Served, drained with a stream open, badly deployed, and told of its end."""
        session = self.begin()
        self.check_served(session)
        self.check_drain_with_stream(session)
        self.check_bad_deploy(session, "mysite/wsgi.py")
        self.check_exit_handlers(session)

    def test_dies(self) -> None:
        """Crashes, a hang and a health route that fails: each is one report with its cause."""
        session = self.begin()
        self.check_crash(session)
        session.standby_ready_or_loaded()
        self.check_heartbeat(session)
        session.standby_ready_or_loaded()
        self.check_hang(session)

    def test_bad_settings(self) -> None:
        """A misspelt setting of Django's ends the first start with 78 and Django's own words."""
        folder = self.folder()
        for name, text in {
            **PROJECT,
            "mysite/settings.py": SETTINGS.replace(".sessions", ".sesions"),
        }.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)
        session = self.session("--wsgi", "mysite.wsgi:application", folder=folder)
        self.assertEqual(session.exit_status(), 78)
        self.assertIn("No module named 'django.contrib.sesions'", json.dumps(session.reports()))

    def test_loaded_late(self) -> None:
        """Django imports its URLs at the first request: what is broken there fails at the health route, and never serves."""
        self.check_bad_deploy(self.begin("--startup-timeout", "8"))

    def test_admin_under_restarts(self) -> None:
        """Logging into the admin, adding a user and logging out work while restarts go on, and no request fails."""
        session = self.begin()
        with self.clients(session) as clients, self.clients(session, keeps=True) as kept:
            for number in range(2):
                after = len(session.events)
                session.process.send_signal(signal.SIGHUP)
                browser = Browser(session)
                self.assertIn("/admin/login/", browser.get("/admin/").location)
                form = {"username": "admin", "password": "secret of a test", "next": "/admin/"}
                self.assertEqual(browser.post("/admin/login/", form).status, 302)
                self.assertIn("Site administration", browser.get("/admin/").text)
                user = {
                    "username": f"user{number}",
                    "password1": "x9-long-enough",
                    "password2": "x9-long-enough",
                }
                user |= {"usable_password": "true"}
                added = browser.post("/admin/auth/user/add/", user)
                self.assertEqual(added.status, 302, added.text)
                session.wait_for("RestartCompleted", after=after)
                self.assertIn(f"user{number}", browser.get("/admin/auth/user/").text)
                self.assertEqual(browser.post("/admin/logout/", {}, form_at="/admin/").status, 200)
                self.assertIn("/admin/login/", browser.get("/admin/").location)
        self.assertEqual((clients.failures, kept.failures), ([], []))
        self.assertEqual(session.reports(), [])

    @skipIf(find_spec("uvicorn") is None, "needs uvicorn: python -m pip install -e '.[frameworks]'")
    def test_asgi(self) -> None:
        """What `startproject` writes is served with --asgi, unchanged, and a restart costs no request."""
        folder = self.folder()
        command = [sys.executable, "-m", "django", "startproject", "mysite", str(folder)]
        subprocess.run(command, check=True, capture_output=True)
        session = self.session("--asgi", "mysite.asgi:application", folder=folder)
        session.serving()
        with self.clients(session, keeps=True) as clients:
            status, page = session.get("/")
            self.assertEqual((status, b"The install worked successfully" in page), (200, True))
            self.assertEqual(session.get("/admin/")[0], 302)
            session.process.send_signal(signal.SIGHUP)
            session.wait_for("RestartCompleted")
        self.assertEqual((clients.failures, session.reports()), ([], []))
        self.assertEqual(session.end(), 0)

    def test_forgery(self) -> None:
        """Without its token a form is refused, which shows that the one above was looked at."""
        session = self.begin()
        status, _ = session.get("/admin/login/", method="POST", body=b"username=admin&password=x")
        self.assertEqual(status, 403)


class Page:
    """An answer."""

    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self.status = answer.status
        self.location = answer.getheader("Location", "")
        self.text = answer.read().decode()


class Browser:
    """Keeps its connection and its cookies, and fills in the token of a form."""

    def __init__(self, session: TestSession) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", session.port(), timeout=LONG)
        self._cookies: SimpleCookie = SimpleCookie()

    def get(self, path: str) -> Page:
        """A page."""
        return self._ask("GET", path)

    def post(self, path: str, form: dict[str, str], form_at: str | None = None) -> Page:
        """Get the form, then send it filled in."""
        found = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', self.get(form_at or path).text)
        assert found is not None, path
        return self._ask("POST", path, urlencode({**form, "csrfmiddlewaretoken": found[1]}))

    def _ask(self, method: str, path: str, body: str | None = None) -> Page:
        headers = {"Cookie": "; ".join(f"{name}={each.value}" for name, each in self._cookies.items())}
        if body is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        self._connection.request(method, path, body, headers)
        answer = self._connection.getresponse()
        for line in answer.headers.get_all("Set-Cookie", []):
            self._cookies.load(line)
        return Page(answer)
