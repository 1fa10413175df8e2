"""Health routes that answer badly: borne as often as is tolerated, forgotten after a good one, else a death (W12 to W15)."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

from tests.integration.doomed import notes, output
from tests.integration.sessions import SessionTestCase, TestSession, wait_until

HEALTH = """
    import json
    import os
    import time

    from twisted.internet import reactor
    from twisted.web.resource import Resource
    from twisted.web.server import NOT_DONE_YET, Site

    polls = []
    behaviour = {"script": os.environ.get("SCRIPT", ""), "then": "good", "root": "good"}
    served = []

    class Health(Resource):
        isLeaf = True

        def render_GET(self, request):
            script = behaviour["script"]
            way = {"g": "good", "b": "broken"}.get(script[:1], behaviour["then"])
            behaviour["script"] = script[1:]
            polls.append([time.monotonic(), None])
            request.notifyFinish().addBoth(self.over, polls[-1])
            return getattr(self, way)(request)

        def over(self, result, poll):
            poll[1] = time.monotonic()

        def good(self, request):
            return b"well"

        def broken(self, request):
            request.setResponseCode(500)
            return b"no data base"

        def forbidden(self, request):
            request.setResponseCode(403)
            return b"not for you"

        def never(self, request):
            return NOT_DONE_YET

        def stalls(self, request):
            request.setHeader("Content-Length", "100")
            request.write(b"so far")
            return NOT_DONE_YET

        def closes(self, request):
            request.setHeader("Content-Length", "100")
            request.write(b"so far")
            reactor.callLater(0, request.transport.loseConnection)
            return NOT_DONE_YET

        def slow(self, request):
            reactor.callLater(0.15, request.write, b"well")
            reactor.callLater(0.15, request.finish)
            return NOT_DONE_YET

        def redirects(self, request):
            request.redirect(b"/trap")
            return b""

    class Root(Resource):
        def getChild(self, name, request):
            return self

        def render_GET(self, request):
            what, _, value = request.path.decode().strip("/").partition("/")
            if what == "trap":
                print("somebody came to the trap", flush=True)
            elif what in behaviour:
                behaviour[what] = value
            elif what == "polls":
                return json.dumps(polls).encode()
            elif what == "served":
                return b"%d" % len(served)
            elif not what:
                served.append(behaviour["root"])
                request.setResponseCode({"forbidden": 403, "broken": 500}.get(served[-1], 200))
            return b"here"

    def work(worker):
        root = Root()
        root.putChild(b"health", Health())
        worker.add_exit_handler(lambda reason: print(reason.kind.value, reason.error.type))
        worker.listen("server", Site(root))
    """

QUICK = """
    [polling]
    route = "/health"
    interval_seconds = 0.1
    timeout_seconds = 1
    failure_tolerance = 1
    [restart]
    initial_delay_seconds = 0.05
    maximum_delay_seconds = 0.1
    """


class HealthRouteTests(SessionTestCase):
    """A worker that polls its own route ``/health``."""

    def health(self, *arguments: str, standby: str = "0", configuration: str = QUICK) -> TestSession:
        """A session of this application, once it serves."""
        folder = self.folder(health__py=HEALTH, quick__toml=configuration)
        arguments = ("--app", "health:work", "--config", "quick.toml", "--standby", standby, *arguments)
        session = self.session(*arguments, folder=folder)
        session.serving()
        return session

    def polls(self, session: TestSession) -> list[Any]:
        """When the polls of the worker that answers began and ended; None for one that has not."""
        polls: list[Any] = json.loads(session.get("/polls")[1])
        return polls

    def heartbeats(self, session: TestSession) -> list[tuple[str, int]]:
        """What was told of failures and of their end, in order."""
        names = {"HeartbeatFailed": "failed", "HeartbeatRecovered": "recovered"}
        return [
            (names[event["event"]], event["failures"]) for event in session.events if event["event"] in names
        ]

    def test_tolerance(self) -> None:
        """So many failures in a row as are tolerated are borne, time and again: a success resets the count."""
        session = self.health("--poll-tolerance", "2", "--poll-timeout", "30")
        session.get("/script/gbbgbbgbg")
        session.wait_for("HeartbeatRecovered", matching=lambda event: event["failures"] == 1)
        two = [("failed", 1), ("failed", 2), ("recovered", 2)]
        self.assertEqual(self.heartbeats(session), [*two, *two, ("failed", 1), ("recovered", 1)])
        failed = session.wait_for("HeartbeatFailed")
        self.assertEqual((failed["text"], failed["tolerance"]), ("500", 2))
        self.assertEqual(session.get("/")[0], 200)
        self.assertEqual((len(session.serving()), session.reports()), (1, []))

    def test_replaced(self) -> None:
        """One failure more, of whatever kind, is a death with the cause heartbeat; another worker takes over."""
        session = self.health(standby="1")
        for number, (way, text) in enumerate(
            (
                ("broken", "500"),
                ("forbidden", "403"),
                ("never", "no answer within 1 s"),
                ("stalls", "half an answer (status 200) within 1 s"),
                ("closes", "half an answer (status 200)"),
            ),
            1,
        ):
            worker = session.serving()[-1]["worker"]
            session.get(f"/then/{way}")
            report = session.report_of(worker)
            cause = report["cause"]
            self.assertEqual(
                (cause["kind"], report["life"], cause["exit_status"]), ("heartbeat", "serving", 1)
            )
            self.assertEqual(
                cause["text"],
                f"serverworker.HeartbeatFailed: the health route failed 2 times in a row: {text}",
            )
            beats = [(beat["ok"], beat["text"], beat["failures"]) for beat in report["beats"][-3:]]
            self.assertEqual(beats, [(True, "200", 0), (False, text, 1), (False, text, 2)])
            # The same end as a crash: exit handlers are told.
            self.assertIn("crash serverworker.HeartbeatFailed", output(report))
            self.assertTrue(any("crash event detected @" in note for note in notes(session, worker)))
            session.serving(number + 1)
            self.assertEqual(session.get("/"), (200, b"here"))
        self.assertEqual(len(session.reports()), 5)

    def test_redirects(self) -> None:
        """A redirect is a good answer, and is not followed."""
        session = self.health("--poll-tolerance", "0", "--poll-timeout", "30")
        before = len(self.polls(session))
        session.get("/then/redirects")
        wait_until(lambda: len(self.polls(session)) >= before + 5, "five more polls")
        self.assertEqual([event for event in session.events if event["event"] == "OutputLine"], [])
        self.assertEqual((self.heartbeats(session), session.reports()), ([], []))

    def test_any_below_500(self) -> None:
        """Without a route of its own any full answer below 500 is good: the page itself may be forbidden."""
        session = self.health(configuration="[polling]\ninterval_seconds = 0.1\n")
        worker = session.serving()[0]["worker"]
        session.get("/root/forbidden")
        before = int(session.get("/served")[1])
        wait_until(lambda: int(session.get("/served")[1]) >= before + 3, "three more polls")
        self.assertEqual((self.heartbeats(session), session.reports()), ([], []))
        session.get("/root/broken")
        self.assertEqual(session.report_of(worker)["cause"]["kind"], "heartbeat")

    def test_one_at_a_time(self) -> None:
        """A poll that takes its time delays the next: an interval from the end of one to the start of the next."""
        session = self.health()
        session.get("/then/slow")
        slow = len(self.polls(session)) + 1
        wait_until(lambda: len(self.polls(session)) >= slow + 5, "five slow polls")
        polls = self.polls(session)[slow : slow + 4]
        for (began, ended), (next_began, _) in pairwise(polls):
            self.assertGreaterEqual(ended - began, 0.149)
            # The end is what the server knows of; the worker's client has read it a moment later.
            self.assertGreaterEqual(next_began - ended, 0.099)

    def test_fast_until_the_first_success(self) -> None:
        """Until the first success polls follow fast, whatever the interval; failures until then have no consequence."""
        session = self.health(
            configuration="""
            [app]
            environment = { SCRIPT = "bbbbb" }
            [polling]
            route = "/health"
            interval_seconds = 3600
            failure_tolerance = 0
            """
        )
        ready = session.wait_for("WorkerReady")
        loaded = session.wait_for("WorkerLoaded")
        self.assertLess(ready["seconds"] - loaded["seconds"], 20)
        polls = self.polls(session)
        self.assertEqual((len(polls), session.reports()), (6, []))
        self.assertEqual(self.heartbeats(session), [])
