"""The life of a session, from the outside: real processes, real sockets, real HTTP."""

from __future__ import annotations

import os
import signal

from tests.integration.sessions import SessionTestCase, is_alive, wait_until


class StartTests(SessionTestCase):
    """What a user gets from the first command on."""

    def test_welcome_page(self) -> None:
        """Without an application a welcome page is served, with the worker's pid in it, and a heartbeat route."""
        session = self.session()
        session.serving()
        status, body = session.get("/")
        self.assertEqual(status, 200)
        self.assertIn(str(session.server_pid).encode(), body)
        self.assertEqual(session.get("/heartbeat"), (200, b"ok\n"))
        self.assertEqual(session.get("/nowhere")[0], 404)

    def test_sigterm_ends_with_0(self) -> None:
        """SIGTERM ends the session with status 0, and nothing of it is left."""
        session = self.session()
        session.serving()
        standby = session.pid_of(session.standby_ready()["worker"])
        pids = [session.server_pid, standby]
        self.assertEqual(session.end(signal.SIGTERM), 0)
        self.assertEqual([pid for pid in pids if is_alive(pid)], [])
        self.assertEqual(session.reports(), [])

    def test_sigint_ends_with_0(self) -> None:
        """So does SIGINT, as from a ^C."""
        session = self.session()
        session.serving()
        self.assertEqual(session.end(signal.SIGINT), 0)

    def test_twist(self) -> None:
        """`twist serverworker` runs the same session, and ends with its status."""
        session = self.session(runner=("twist",))
        session.serving()
        self.assertEqual(session.get("/heartbeat"), (200, b"ok\n"))
        self.assertEqual(session.end(signal.SIGTERM), 0)

    def test_second_signal_does_not_wait(self) -> None:
        """The first SIGTERM waits for a request under way, a second one does not."""
        folder = self.folder(
            slow__py="""
            from twisted.web.resource import Resource
            from twisted.web.server import NOT_DONE_YET

            class Slow(Resource):
                isLeaf = True

                def render_GET(self, request):
                    request.write(b"begun")
                    return NOT_DONE_YET if request.path == b"/slow" else b""
            """
        )
        session = self.session("--app", "slow:Slow", "--drain-timeout", "600", folder=folder)
        session.serving()
        with session.connect() as connection:
            connection.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
            self.assertIn(b"200 OK", connection.recv(1000))
            session.process.send_signal(signal.SIGTERM)
            session.wait_for("WorkerDraining")
            self.assertEqual(session.end(signal.SIGTERM), 0)
        self.assertFalse(is_alive(session.server_pid))

    def test_end_of_a_worker(self) -> None:
        """A worker imports the application with the collector on, and ends as Python does: threads, then `atexit`."""
        folder = self.folder(
            late__py="""
            import atexit, gc, threading, time

            def last_thread():
                time.sleep(0.5)
                print("the thread is done", flush=True)

            def work(worker):
                print("collector", gc.isenabled(), flush=True)
                atexit.register(print, "atexit has run")  # not flushed: that is the end's to do
                worker.add_exit_handler(lambda reason: threading.Thread(target=last_thread).start())
            """
        )
        session = self.session("--app", "late:work", "--standby", "0", folder=folder)
        session.wait_for("OutputLine", matching=lambda event: event["text"] == "collector True")
        self.assertEqual(session.end(signal.SIGTERM), 0)
        lines = [event["text"] for event in session.events if event["event"] == "OutputLine"]
        self.assertEqual(lines[-2:], ["the thread is done", "atexit has run"])


class DeathTests(SessionTestCase):
    """A worker dies, and nobody had asked for it."""

    def test_kill_9(self) -> None:
        """After kill -9 of the serving worker the standby serves, no connection fails, and a report is written."""
        session = self.session()
        first = session.serving()[0]["worker"]
        standby = session.standby_ready()["worker"]
        with self.clients(session) as clients:
            clients.wait_for_answers(20)
            os.kill(session.pid_of(first), signal.SIGKILL)
            session.serving(2)
            clients.wait_for_answers(20)
        died = session.wait_for("WorkerDied")
        self.assertEqual(died["worker"], first)
        self.assertIn(f"worker {standby} takes over now", died["next_step"])
        report = session.report_of(first)
        self.assertEqual(report["cause"]["signal"], "SIGKILL")
        self.assertEqual(report["life"], "serving")
        # Who was in the middle of an answer has lost it; nobody was refused.
        self.assertEqual([text for text in clients.failures if "Refused" in text], [])
        self.assertLessEqual(len(clients.failures), 4)

    def test_dead_without_standby(self) -> None:
        """Without a standby connections wait for the next worker; none is refused."""
        session = self.session("--standby", "0")
        os.kill(session.pid_of(session.serving()[0]["worker"]), signal.SIGKILL)
        self.assertEqual(session.get("/heartbeat"), (200, b"ok\n"))

    def test_exit_0_is_a_death(self) -> None:
        """A worker that exits unasked has died, whatever its status: it is reported and followed."""
        folder = self.folder(
            leaver__py="""
            import os
            from twisted.web.resource import Resource

            class Leaver(Resource):
                isLeaf = True

                def render_GET(self, request):
                    if request.path == b"/leave":
                        print("I am off")
                        os._exit(0)
                    return b"here"
            """
        )
        session = self.session("--app", "leaver:Leaver", folder=folder)
        first = session.serving()[0]["worker"]
        with session.connect() as connection:
            connection.sendall(b"GET /leave?secret=1 HTTP/1.0\r\n\r\n")
            self.assertEqual(connection.recv(100), b"")
        report = session.report_of(first)
        self.assertEqual(report["cause"]["kind"], "exit")
        self.assertEqual(report["cause"]["exit_status"], 0)
        self.assertEqual([line["text"] for line in report["output"]], ["I am off"])
        self.assertEqual([(each["method"], each["path"]) for each in report["requests"]], [("GET", "/leave")])
        self.assertEqual(session.get("/"), (200, b"here"))

    def test_uncaught_exception(self) -> None:
        """An exception in a timed call is a crash: exit handlers run with it, the report has its traceback."""
        folder = self.folder(
            bomb__py="""
            from twisted.web.resource import Resource
            from twisted.web.server import Site

            class Bomb(Resource):
                isLeaf = True

                def __init__(self, worker):
                    super().__init__()
                    self.worker = worker

                def render_GET(self, request):
                    if request.path == b"/boom":
                        self.worker.reactor.callLater(0, self.explode)
                    return b"fine"

                def explode(self):
                    raise RuntimeError("the fuse was short")

            def work(worker):
                worker.listen("server", Site(Bomb(worker)))
                worker.add_exit_handler(lambda reason: print("exit:", reason.kind.value, reason.error.message))
            """
        )
        session = self.session("--app", "bomb:work", folder=folder)
        first = session.serving()[0]["worker"]
        self.assertEqual(session.get("/boom"), (200, b"fine"))
        report = session.report_of(first)
        self.assertEqual(report["cause"]["kind"], "exception")
        self.assertEqual(report["cause"]["error"]["message"], "the fuse was short")
        self.assertIn("in explode", report["cause"]["error"]["traceback"])
        self.assertEqual(report["cause"]["exit_status"], 1)
        self.assertEqual([line["text"] for line in report["output"]][-1], "exit: crash the fuse was short")
        self.assertEqual(session.get("/"), (200, b"fine"))
        notes = [event["text"] for event in session.events if event["event"] == "Lifecycle"]
        self.assertTrue(any(note.startswith("crash event detected @") for note in notes), notes)


class OrphanTests(SessionTestCase):
    """The monitor is killed."""

    def test_monitor_killed(self) -> None:
        """After kill -9 of the monitor a request under way is finished, then nothing is left, and the port is free."""
        folder = self.folder(
            slow__py="""
            from twisted.internet import reactor
            from twisted.web.resource import Resource
            from twisted.web.server import NOT_DONE_YET

            class Slow(Resource):
                isLeaf = True

                def render_GET(self, request):
                    if request.path != b"/slow":
                        return b""
                    request.write(b"begun")
                    reactor.callLater(1.0, self.finish, request)
                    return NOT_DONE_YET

                def finish(self, request):
                    request.write(b", finished")
                    request.finish()
            """
        )
        session = self.session("--app", "slow:Slow", folder=folder)
        session.serving()
        pids = [session.server_pid, session.pid_of(session.standby_ready()["worker"])]
        port = session.port()
        with session.connect() as connection:
            connection.sendall(b"GET /slow HTTP/1.0\r\n\r\n")
            answer = connection.recv(1000)
            os.kill(session.process.pid, signal.SIGKILL)
            while piece := connection.recv(1000):
                answer += piece
        self.assertTrue(answer.endswith(b"begun, finished"), answer)
        wait_until(lambda: not any(map(is_alive, pids)), "the end of the workers")
        again = self.session(port=f"tcp:{port}:interface=127.0.0.1")
        again.serving()
        self.assertEqual(again.get("/heartbeat"), (200, b"ok\n"))
