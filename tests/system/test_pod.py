"""The image and the Deployment that deploy/ has, as a pod: what Kubernetes would see of it, tried with podman."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
import time
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.integration.sessions import LONG, is_alive, wait_until
from tests.system import SKIP
from tests.system.pods import CONTAINER, GRACE_SECONDS, IMAGE, Pod, podman, why_no_pods, why_none_runs
from tests.system.test_pid1 import children, name_of, named

PROBES = 3
"""So many in a row have to fail: the base's failureThreshold."""


class PodTestCase(SynchronousTestCase):
    """Makes pods that end with the test."""

    skip = SKIP or why_no_pods()

    def pod(self, configuration: str = "") -> Pod:
        """A pod that is ready."""
        if why := why_none_runs():
            raise SkipTest(why)
        folder = Path(tempfile.mkdtemp(prefix="pod-"))
        self.addCleanup(shutil.rmtree, folder)
        pod = Pod(folder, configuration)
        self.addCleanup(pod.down)
        pod.play()
        return pod

    def monitor(self, pod: Pod) -> int:
        """The pid of the container's process 1, as it is known outside."""
        return int(pod.inspect()["State"]["Pid"])

    def restarts(self, pod: Pod) -> int:
        """How often podman has started the container again."""
        return int(pod.inspect()["RestartCount"])


class ImageTests(PodTestCase):
    """What the image is, before anything is asked of it."""

    def test_exit_status(self) -> None:
        """An application that is not there ends the container with 78, and is named; the configuration can be checked."""
        if why := why_none_runs():
            raise SkipTest(why)
        run = ("run", "--rm", "--network", "none", "--read-only", "--tmpfs", "/var/lib/serverworker", IMAGE)
        with self.assertRaisesRegex(AssertionError, "nowhere") as caught:
            podman().run(*run, "--app", "nowhere:Page")
        self.assertIn("exit status 78", str(caught.exception))
        told = podman().run(*run, "--config", "/etc/serverworker/serverworker.toml", "--check-config")
        self.assertIn("configuration is fine", told)

    def test_content(self) -> None:
        """It runs as a number that is not root; no installer, no secret and no uncompiled module is in it."""
        if why := why_none_runs():
            raise SkipTest(why)
        look = (
            "import os, pathlib, serverworker, importlib.util\n"
            "print(os.getuid(), os.getgid(), importlib.util.find_spec('pip'), sorted(os.listdir('/srv/app')))\n"
            "uncompiled = [each for each in pathlib.Path(serverworker.__file__).parent.rglob('*.py')\n"
            "              if not pathlib.Path(importlib.util.cache_from_source(each)).exists()]\n"
            "print(len(uncompiled), pathlib.Path('/opt/venv/bin/pip').exists())\n"
        )
        told = podman().run("run", "--rm", "--network", "none", "--entrypoint", "python", IMAGE, "-c", look)
        identity, compiled = told.splitlines()
        self.assertTrue(identity.startswith("10001 10001 None ["), identity)
        self.assertNotIn("server.key", identity)
        self.assertIn("pod_site.py", identity)
        self.assertEqual(compiled, "0 False")


class DrainTests(PodTestCase):
    """The end of a pod."""

    def test_slow_request(self) -> None:
        """After SIGTERM it is unready and still serves; a request of 10 s ends well, then all processes, with status 0."""
        pod = self.pod("[drain]\nunready_seconds = 3\ntimeout_seconds = 30")
        monitor = self.monitor(pod)
        processes = [monitor, *descendants(monitor)]
        self.assertEqual(name_of(monitor), "twistd")
        answers: list[tuple[int, bytes]] = []
        slow = threading.Thread(target=lambda: answers.append(pod.ask("/slow/10")))
        slow.start()
        wait_until(lambda: "/slow/10" in pod.execute("serverworkerctl", "status", "--json"), "the request")
        began = time.monotonic()
        stop = threading.Thread(
            target=lambda: pod.podman.run("stop", "--time", str(GRACE_SECONDS), CONTAINER)
        )
        stop.start()
        wait_until(lambda: pod.answers("/readyz") == 503, "the load balancer's word")
        self.assertEqual(pod.answers("/livez"), 200)
        self.assertEqual(pod.ask("/new")[0], 200)
        slow.join(LONG)
        stop.join(LONG)
        self.assertEqual(answers, [(200, b"done\n")])
        self.assertGreater(time.monotonic() - began, 8.0)
        self.assertEqual(pod.inspect()["State"]["ExitCode"], 0)
        self.assertEqual([pid for pid in processes if is_alive(pid)], [])


class LivenessTests(PodTestCase):
    """When Kubernetes is asked to kill, and when not."""

    def test_hang_of_a_worker(self) -> None:
        """A worker that hangs is replaced, and its pod stays live and ready."""
        pod = self.pod("[watchdog]\ninterval_seconds = 0.2\ntimeout_seconds = 1")
        wait_until(lambda: bool(pod.events("WorkerReady")[1:]), "a standby")
        self.hit(pod, "/hang")
        wait_until(lambda: bool(pod.events("WorkerDied")), "the end of the hang")
        self.assertEqual(pod.events("WorkerDied")[0]["cause"]["kind"], "hang")
        pod.wait_ready()
        self.assertTrue(pod.probe())
        self.assertEqual(pod.ask("/")[0], 200)
        self.assertEqual(self.restarts(pod), 0)

    def test_hang_of_all(self) -> None:
        """Each new worker hangs: unready, and live, since another monitor would fare no better; it mends without one."""
        pod = self.pod(
            "[workers]\nstandby = 0\n[startup]\ntimeout_seconds = 1\n[restart]\nmaximum_delay_seconds = 1\n"
            "[watchdog]\ninterval_seconds = 0.2\ntimeout_seconds = 1"
        )
        self.hit(pod, "/doom")
        seen = 0
        while seen < 2 * PROBES:
            wait_until(lambda seen=seen: len(pod.events("WorkerDied")) > seen, "one more death")  # type: ignore[misc]
            seen = len(pod.events("WorkerDied"))
            self.assertTrue(pod.probe(), pod.transcript())
            self.assertEqual((pod.answers("/readyz"), pod.answers("/livez")), (503, 200))
        self.assertEqual(self.restarts(pod), 0)
        pod.execute("rm", "/tmp/doomed")
        pod.wait_ready()
        self.assertEqual(pod.ask("/")[0], 200)
        self.assertEqual(self.restarts(pod), 0)

    def test_hang_of_the_monitor(self) -> None:
        """What no restart of a worker can mend: the monitor hangs. Workers serve on; three probes later it is a new one."""
        pod = self.pod()
        self.assertTrue(pod.probe())
        before = self.monitor(pod)
        pod.ask("/hang-monitor")
        wait_until(lambda: pod.answers("/livez") is None, "the hang")
        self.assertEqual(pod.ask("/")[0], 200)
        for _ in range(PROBES - 1):
            self.assertFalse(pod.probe())
            self.assertEqual(self.monitor(pod), before)
        pod.probe()
        self.assertFalse(is_alive(before))
        pod.start_again()
        self.assertNotEqual(self.monitor(pod), before)
        self.assertEqual(pod.ask("/")[0], 200)
        (previous,) = pod.events("PreviousSession")
        self.assertIsNone(previous["status"])  # killed, and the state that it left is taken up

    def hit(self, pod: Pod, path: str) -> None:
        """Send a request that gets no answer."""
        with self.assertRaises((OSError, Exception)):
            pod.ask(path, seconds=30.0)


class Process1Tests(PodTestCase):
    """The monitor as process 1 of a container that is started again."""

    def test_killed(self) -> None:
        """After SIGKILL the container starts again on the state of before, whatever was left there."""
        pod = self.pod()
        before = self.monitor(pod)
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: self.monitor(pod) not in (0, before), "another start")
        pod.wait_ready()
        self.assertEqual(pod.ask("/")[0], 200)
        self.assertEqual(self.restarts(pod), 1)

    def test_orphan(self) -> None:
        """A process that `exec` leaves behind is the monitor's to bury."""
        pod = self.pod()
        monitor = self.monitor(pod)
        leave = "import subprocess; subprocess.Popen(['sleep', '1'], start_new_session=True)"
        pod.execute("python", "-c", leave)
        wait_until(lambda: bool(named(monitor, "sleep")), "the adoption of an orphan")
        wait_until(lambda: not named(monitor, "sleep"), "the end of a zombie")
        self.assertEqual(pod.answers("/readyz"), 200)


def descendants(pid: int) -> list[int]:
    """The children of a process, and theirs."""
    return [each for child in children(pid) for each in (child, *descendants(child))]
