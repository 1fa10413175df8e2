"""Faults of more than one worker, and of the monitor's own surroundings: the session is whole again afterwards."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
import time
from pathlib import Path

from tests.integration.faults.ground import Ground
from tests.integration.sessions import SessionTestCase, is_alive, wait_until


class SessionFaultTests(SessionTestCase):
    """What one row of the table cannot say."""

    def ground(self, *options: str) -> Ground:
        """A session that is ready to be struck; it ends with the test."""
        ground = Ground(self.folder(), *options)
        self.addCleanup(ground.close)
        return ground

    def assert_whole(self, ground: Ground, lost: int) -> None:
        """It serves, one stands by, and no more clients than these have lost a request."""
        moment = time.monotonic()
        wait_until(lambda: ground.tally.answered_since(moment) > 20, "answers after the fault")
        wait_until(ground.is_whole, "one that serves and one that stands by")
        ground.tally.stop()
        self.assertLessEqual(len(ground.tally.failures), lost, ground.tally.failures)
        self.assertEqual([], [text for _, text in ground.tally.failures if "Refused" in text])

    def standby(self, ground: Ground) -> int:
        """The worker that stands by."""
        return int(ground.session.standby_ready()["worker"])

    def test_the_standby_dies(self) -> None:
        """Nobody notices but the report."""
        ground = self.ground()
        standby = self.standby(ground)
        ground.tally.start()
        ground.signal(signal.SIGKILL, standby)
        report = ground.session.report_of(standby)
        self.assertEqual("ready", report["life"])
        self.assert_whole(ground, lost=0)

    def test_both_at_once(self) -> None:
        """The one that serves and the one that stands by: connections wait for a cold start, none is refused."""
        ground = self.ground()
        standby, serving = self.standby(ground), ground.serving
        ground.tally.start()
        wait_until(lambda: len(ground.tally.answers) > 20, "the clients' first answers")
        ground.signal(signal.SIGKILL, standby)
        ground.signal(signal.SIGKILL, serving)
        self.assertEqual(serving, ground.session.report_of(serving)["worker"])
        self.assertEqual(standby, ground.session.report_of(standby)["worker"])
        self.assert_whole(ground, lost=3)

    def test_the_promoted_one_dies_too(self) -> None:
        """Three deaths one after the other, each of the one that has just taken over."""
        ground = self.ground()
        ground.tally.start()
        for number in range(1, 4):
            victim = ground.session.serving(number)[number - 1]["worker"]
            ground.signal(signal.SIGKILL, victim)
            ground.session.report_of(victim)
        self.assert_whole(ground, lost=9)

    def test_death_during_the_start(self) -> None:
        """A worker that dies while it starts is reported as one, and followed by the next."""
        ground = self.ground()
        ground.tally.start()
        ground.signal(signal.SIGKILL)
        spawned = ground.session.wait_for("WorkerSpawned", matching=lambda event: event["worker"] == 3)
        os.kill(spawned["pid"], signal.SIGKILL)
        self.assertIn(ground.session.report_of(3)["life"], ("starting", "activating"))
        self.assert_whole(ground, lost=3)

    def test_death_while_draining(self) -> None:
        """A worker that is killed while it drains is a death as well: its client has lost an answer."""
        ground = self.ground()
        first = ground.serving
        with ground.session.connect() as client:
            client.sendall(b"GET /slow HTTP/1.0\r\n\r\n")
            # It is at the request once its board says so; a second one on the same worker is answered behind it.
            self.assertEqual(200, ground.session.get("/")[0])
            ground.tally.start()
            ground.session.process.send_signal(signal.SIGHUP)
            ground.session.wait_for("WorkerDraining", matching=lambda event: event["worker"] == first)
            ground.signal(signal.SIGKILL, first)
        died = ground.session.wait_for("WorkerDied")
        self.assertEqual((first, "draining"), (died["worker"], died["life"]))
        self.assertEqual("nothing: it was leaving", died["next_step"])
        self.assert_whole(ground, lost=3)

    def test_the_disk_is_full(self) -> None:
        """Workers are replaced all the same; the report is written when there is room again."""
        ground = self.ground()
        limits = resource.prlimit(ground.monitor, resource.RLIMIT_FSIZE)
        resource.prlimit(ground.monitor, resource.RLIMIT_FSIZE, (0, limits[1]))
        victim = ground.serving
        ground.tally.start()
        ground.signal(signal.SIGKILL, victim)
        # The journal says it too, of itself.
        ground.session.wait_for("Fault", matching=lambda event: "the report of worker" in event["where"])
        ground.session.serving(2)
        self.assertEqual([], ground.session.reports())
        resource.prlimit(ground.monitor, resource.RLIMIT_FSIZE, limits)
        self.assertEqual("SIGKILL", ground.session.report_of(victim)["cause"]["signal"])
        self.assert_whole(ground, lost=3)

    def test_the_monitor_has_no_descriptors(self) -> None:
        """No successor can be started: the standby serves, and the start is tried again until it succeeds."""
        ground = self.ground()
        victim = ground.serving
        open_now = max(int(each.name) for each in Path(f"/proc/{ground.monitor}/fd").iterdir())
        limits = resource.prlimit(ground.monitor, resource.RLIMIT_NOFILE)
        resource.prlimit(ground.monitor, resource.RLIMIT_NOFILE, (open_now + 1, limits[1]))
        ground.tally.start()
        ground.signal(signal.SIGKILL, victim)
        failed = ground.session.wait_for(
            "WorkerDied", matching=lambda event: event["cause"]["kind"] == "spawn"
        )
        self.assertIn("cannot be started", failed["cause"]["text"])
        moment = time.monotonic()
        wait_until(lambda: ground.tally.answered_since(moment) > 20, "answers of the standby")
        resource.prlimit(ground.monitor, resource.RLIMIT_NOFILE, limits)
        self.assert_whole(ground, lost=3)

    def test_the_interpreter_is_away(self) -> None:
        """Where the interpreter has vanished for a while, starts fail and are tried again."""
        folder = self.folder()
        python = folder / "python"
        python.symlink_to(sys.executable)
        settings = Path(sys.prefix) / "pyvenv.cfg"
        if settings.exists():  # a venv is found by the file beside the link
            (folder / "bin").mkdir()
            python.unlink()
            python = folder / "bin" / "python"
            python.symlink_to(Path(sys.executable).resolve())
            shutil.copy(settings, folder / "pyvenv.cfg")
            (folder / "lib").symlink_to(Path(sys.prefix) / "lib")
        ground = Ground(folder)
        self.addCleanup(ground.close)
        self.assertTrue(is_alive(ground.monitor))
        text = (folder / "serverworker.toml").read_text()
        (folder / "own.toml").write_text(text.replace("[app]", f'[app]\npython = "{python}"'))
        ground.close()
        ground = Ground(folder, "--config", "own.toml")
        self.addCleanup(ground.close)
        ground.tally.start()
        away = python.rename(folder / "away")
        ground.signal(signal.SIGKILL)
        ground.session.wait_for("WorkerDied", matching=lambda event: event["cause"]["kind"] == "spawn")
        away.rename(python)
        self.assert_whole(ground, lost=3)
