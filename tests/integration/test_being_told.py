"""A real session tells of a crash: while receivers are down, over a monitor that is killed, and of its own end."""

from __future__ import annotations

import contextlib
import json
import signal
import stat
import time
from pathlib import Path
from typing import Any

from tests.integration.receivers import PASSWORD, USER, HTTPSink, MailServer, make_certificate
from tests.integration.sessions import LONG, SessionTestCase, TestSession, wait_until

APPLICATION = """
    from twisted.internet import reactor
    from twisted.web.resource import Resource

    class Root(Resource):
        isLeaf = True

        def render_GET(self, request):
            if request.path == b"/crash":
                print("this is the last that was heard of it")
                reactor.callLater(0, explode)
            return b"fine"

    def explode():
        raise RuntimeError("it broke")

    root = Root()
"""

MAIL = """
[mail]
recipients = ["ops@example.org"]
sender = "serverworker@example.org"
host = "localhost"
port = {port}
user = "{user}"
password_file = "password"
"""


class BeingToldTests(SessionTestCase):
    """`[notify]`, `[mail]` and `[webhook]` in a session."""

    def told_folder(self, configuration: str) -> Path:
        """A folder with an application and a configuration."""
        folder = self.folder(shop__py=APPLICATION)
        (folder / "password").write_text(PASSWORD)
        (folder / "serverworker.toml").write_text(f'[app]\nresource = "shop:root"\n{configuration}')
        return folder

    def mail_server(self, folder: Path) -> MailServer:
        server = MailServer(certificate=make_certificate(folder, "localhost"), login=True)
        self.addCleanup(server.stop)
        return server

    def http_sink(self) -> HTTPSink:
        sink = HTTPSink()
        self.addCleanup(sink.stop)
        return sink

    def begin(self, folder: Path, *arguments: str) -> TestSession:
        """A session of that folder, which trusts the certificate in it."""
        session = self.session(
            *("--config", "serverworker.toml", "--standby", "0", *arguments),
            folder=folder,
            environment={"SSL_CERT_FILE": str(folder / "localhost.pem")},
        )
        session.serving()
        return session

    def wait_for_sink(self, session: TestSession, event: str, sink: str) -> None:
        session.wait_for(event, matching=lambda told: bool(told["sink"] == sink))

    def spooled(self, folder: Path) -> list[dict[str, Any]]:
        found = []
        for path in sorted((folder / "state/spool").glob("*.mail.json")):
            with contextlib.suppress(FileNotFoundError):  # delivered since they were listed
                found.append(json.loads(path.read_text()))
        return found

    def test_a_crash_while_receivers_are_down_and_the_monitor_is_killed(self) -> None:
        """The mail server is down, the webhook answers 500, the monitor is killed: both are told, and told once."""
        folder = self.told_folder("")
        server, sink = self.mail_server(folder), self.http_sink()
        sink.status = lambda number: 500
        with (folder / "serverworker.toml").open("a") as file:
            file.write(MAIL.format(port=server.port, user=USER))
            file.write(f'[webhook]\nurl = "http://127.0.0.1:{sink.port}/hush"\nsecret = "hush-hush"\n')
        session = self.begin(folder)
        session.get("/crash")
        for name in ("mail", "webhook"):
            self.wait_for_sink(session, "NotificationFailed", name)
        self.assertEqual(session.get()[0], 200)
        wait_until(lambda: len(self.spooled(folder)) == 1, "the mail on disk")
        [item] = self.spooled(folder)
        self.assertGreaterEqual(item["attempts"], 1)
        session.end(signal.SIGKILL)
        self.assertNotIn("hush", session.transcript())
        self.assertEqual(server.mails, [])

        refused = len(sink.posts)
        sink.status = lambda number: 200
        server.start()
        second = self.begin(folder)
        for name in ("mail", "webhook"):
            self.wait_for_sink(second, "NotificationDelivered", name)
        [got] = server.mails
        self.assertEqual((got.recipients, got.user, got.secure), (("ops@example.org",), USER, True))
        self.assertGreater(int(got.mail["X-Serverworker-Attempt"]), item["attempts"])
        text = got.mail.get_content()
        for part in (
            "RuntimeError: it broke",
            'shop.py", line',
            "this is the last that was heard of it",
            "worker 2 is started now",
        ):
            self.assertIn(part, text)
        self.assertIn("This is attempt", text)
        posts = sink.posts[refused:]
        self.assertEqual(len(posts), 1)
        self.assertEqual({each.json["id"] for each in sink.posts}, {item["message"]["id"]})
        wait_until(lambda: not self.spooled(folder), "an empty spool")
        self.assertEqual(second.end(), 0)

        third = self.begin(folder)
        third.end()
        self.assertEqual((len(server.mails), len(sink.posts)), (1, refused + 1))

    def test_files_are_this_users_alone(self) -> None:
        """Nobody else can look into the spool, whatever the umask."""
        folder = self.told_folder('[webhook]\nurl = "http://127.0.0.1:9/"\n')
        session = self.begin(folder)
        session.get("/crash")
        session.wait_for("NotificationFailed")
        spool = folder / "state/spool"
        self.assertEqual(stat.S_IMODE(spool.stat().st_mode), 0o700)
        for path in spool.iterdir():
            self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600, path)

    def test_the_key_is_mailed_if_asked_for(self) -> None:
        """It is the session's key, over a secure connection, and nowhere in the spool or the log."""
        folder = self.told_folder("")
        server = self.mail_server(folder)
        with (folder / "serverworker.toml").open("a") as file:
            file.write(MAIL.format(port=server.port, user=USER) + "[notify]\nkey_at_start = true\n")
        server.start()
        session = self.begin(folder)
        session.wait_for("NotificationDelivered")
        key = (folder / "state/key").read_text().strip()
        [got] = server.mails
        self.assertTrue(got.secure)
        self.assertIn(key, got.mail.get_content())
        self.assertNotIn(key, session.transcript())
        self.assertEqual([path for path in (folder / "state/spool").iterdir() if key in path.read_text()], [])

    def test_a_session_that_gives_up_says_so(self) -> None:
        """Before the monitor ends with an error somebody is told; its end does not wait for those who do not answer."""
        folder = self.told_folder("[restart]\ngive_up_after = 1\n")
        sink = self.http_sink()
        with (folder / "serverworker.toml").open("a") as file:
            file.write(f'[webhook]\nurl = "http://127.0.0.1:{sink.port}/"\n')
        session = self.begin(folder)
        session.get("/crash")
        self.assertEqual(session.exit_status(), 70)
        events = [each.json["event"]["event"] for each in sink.posts]
        self.assertEqual(sorted(events), ["SessionEnding", "WorkerDied"])

    def test_the_end_does_not_wait_for_long(self) -> None:
        """With a receiver that takes connections and says nothing a session ends within its five seconds all the same."""
        import socket

        listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)
        port = listener.getsockname()[1]
        folder = self.told_folder(f'[webhook]\nurl = "http://127.0.0.1:{port}/"\ntimeout_seconds = 60\n')
        session = self.begin(folder)
        session.get("/crash")
        session.wait_for("WorkerDied")
        listener.settimeout(LONG)
        connection, _ = listener.accept()
        self.addCleanup(connection.close)
        began = time.monotonic()
        self.assertEqual(session.end(), 0)
        self.assertLess(time.monotonic() - began, 15)
        self.assertEqual(len(list((folder / "state/spool").glob("*.webhook.json"))), 1)

    def test_nothing_is_made_where_nobody_is_to_be_told(self) -> None:
        """Without recipients and URL there is no spool, and a worker's environment and files know of no secret."""
        folder = self.folder(shop__py=APPLICATION)
        session = self.session("--app", "shop:root", folder=folder)
        session.serving()
        session.end()
        self.assertFalse((folder / "state/spool").exists())
