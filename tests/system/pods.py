"""Pods under test: podman with a store of its own, the image that deploy/container makes, the base's Deployment played.

What a kubelet does from outside, the probes on their periods, podman leaves to systemd's timers; `Pod.probe` does it here.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import http.client
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.integration.sessions import LONG, wait_until
from tests.integration.test_packaging import ROOT, copy_sources
from tests.system.debian_root import DebianUnavailable, debian_root, why_no_root

PROGRAMS = ("podman", "runc", "conmon")
DEBIAN = "localhost/debian:test"
BASE = "localhost/base:test"
IMAGE = "localhost/site:test"
POD = "mysite-pod-0"
CONTAINER = "mysite-pod-0-mysite"
"""What podman calls the Deployment's pod, and the container in it."""
GRACE_SECONDS = 60
"""The base's terminationGracePeriodSeconds, which podman 4.3 does not read."""

_LARGEST = 32768
"""Processes: podman cannot raise its limit above the kernel's usual highest pid, and needs CAP_SYS_RESOURCE to try."""


def why_no_pods() -> str | None:
    """What is missing for pods here; None where nothing is."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=_PATH) is None]
    return f"needs {', '.join(missing)}, of Debian's packages of these names" if missing else why_no_root()


_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


class Podman:
    """The program, with containers, images and configuration of its own, so that nobody else's are touched."""

    def __init__(self, base: Path) -> None:
        self.base = base
        files = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 1048576)
        # What its defaults take for granted, and a machine without systemd or some rights does not have.
        (base / "containers.conf").write_text(
            "[containers]\n"
            f'default_ulimits = ["nofile={files}:{files}", "nproc={_LARGEST}:{_LARGEST}"]\n'
            "[engine]\n"
            'cgroup_manager = "cgroupfs"\nevents_logger = "file"\nruntime = "runc"\n'
            "[network]\n"
            'network_backend = "netavark"\n'
        )
        self.environment = {
            **os.environ,
            "CONTAINERS_CONF": str(base / "containers.conf"),
            "PATH": _PATH,
        }

    def run(self, *arguments: str, seconds: float = 300.0, check: bool = True) -> str:
        """Run it, and answer its standard output; `AssertionError` with all it said where it fails and `check`."""
        command = ["podman", "--root", f"{self.base}/graph", "--runroot", f"{self.base}/run", *arguments]
        done = subprocess.run(
            command,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)}\n{done.stdout[-8000:]}\n{done.stderr[-8000:]}")
        return done.stdout

    def remove(self) -> None:
        """End and remove everything."""
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
            self.run("pod", "rm", "--all", "--force", "--time", "0")
            self.run("rm", "--all", "--force", "--time", "0")
        # The store's overlay may still be mounted, and would keep its folder from being removed.
        subprocess.run(["umount", f"{self.base}/graph/overlay"], capture_output=True, check=False, timeout=60)
        shutil.rmtree(self.base, ignore_errors=True)


@functools.cache
def engine() -> Podman:
    """The one of this run, with an image of Debian in it; removed at the end."""
    made = Podman(Path(tempfile.mkdtemp(prefix="serverworker-pods-")))
    atexit.register(made.remove)
    _import_debian(made)
    return made


@functools.cache
def why_none_runs() -> str | None:
    """Why this machine cannot run even a container that does nothing; None where it can."""
    try:
        engine().run("run", "--rm", "--network", "host", DEBIAN, "true")
    except DebianUnavailable as error:
        return str(error)
    except AssertionError as error:
        return f"podman cannot run a container here: {error}"
    return None


@functools.cache
def podman() -> Podman:
    """The same, with the image of the application as well."""
    made = engine()
    _build_base(made)
    _build(made)
    return made


def _import_debian(made: Podman) -> None:
    """An image with Python, from Debian's packages: no registry is asked. curl: podman's probes run it inside."""
    root = debian_root()
    archive = made.base / "base.tar"
    left = ("--exclude=./proc/*", "--exclude=./sys/*", "--exclude=./var/cache", "--exclude=./usr/share/doc")
    subprocess.run(["tar", "-C", str(root), *left, "-cf", str(archive), "."], check=True, timeout=300)
    made.run("import", "--change", "ENV PATH=/usr/local/bin:/usr/bin:/bin", str(archive), DEBIAN)
    archive.unlink()


def _build_base(made: Podman) -> None:
    """What python:slim is: the interpreter is called python."""
    empty = made.base / "empty"
    empty.mkdir()
    steps = made.base / "Base"
    steps.write_text(f'FROM {DEBIAN}\nRUN ["ln", "-s", "python3", "/usr/bin/python"]\n')
    made.run("build", "--network", "host", "--file", str(steps), "--tag", BASE, str(empty))


def _build(made: Podman) -> None:
    """Build the Containerfile as it stands, with wheels instead of the index: the network of a build may be closed."""
    wheels, context = made.base / "wheels", made.base / "context"
    _collect_wheels(made, wheels)
    shutil.copytree(ROOT / "deploy" / "container", context)
    shutil.copy(Path(__file__).parent / "pod_site.py", context)
    (context / "requirements.txt").write_text("serverworker[metrics]\n")
    (context / "serverworker.toml").write_text('[app]\nresource = "pod_site:Page"\n')
    (context / "server.key").write_text("secret\n")
    (made.base / "pip.conf").write_text("[global]\nno-index = true\nfind-links = /wheels\n")
    made.run(
        *("build", "--network", "none", "--build-arg", f"BASE={BASE}", "--tag", IMAGE),
        *("--volume", f"{wheels}:/wheels:ro", "--volume", f"{made.base}/pip.conf:/etc/pip.conf:ro"),
        *("--file", str(context / "Containerfile"), str(context)),
    )


def _collect_wheels(made: Podman, wheels: Path) -> None:
    """Our own, of the checkout, and those of all it needs, for the Python of the image."""
    checkout = made.base / "checkout"
    copy_sources(checkout)  # a build leaves files behind
    version = made.run("run", "--rm", "--network", "host", BASE, "python", "-c", _VERSION).strip()
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    commands = (
        [*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", str(wheels), str(checkout)],
        [
            *(*pip, "download", "--quiet", "--dest", str(wheels), "--find-links", str(wheels)),
            *("--only-binary", ":all:", "--python-version", version, "serverworker[metrics]"),
        ],
    )
    for command in commands:
        done = subprocess.run(
            command, cwd=made.base, capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"


_VERSION = "import sys; print('.'.join(map(str, sys.version_info[:2])))"


class Pod:
    """The base's Deployment, with one replica, the application under test, and ports of its own on this machine."""

    def __init__(self, base: Path, configuration: str = "") -> None:
        """`configuration` comes after the tables that each pod has: app, ports and health."""
        self.podman = podman()
        self.base = base
        self.port, self.health = free_ports()
        self.file = base / "pod.yaml"
        self.file.write_text(self._manifests(configuration))

    def _manifests(self, configuration: str) -> str:
        """The manifests, changed only in what they say of a cluster that is not here."""
        import yaml

        folder = ROOT / "deploy" / "kubernetes" / "base"
        deployment = yaml.safe_load((folder / "deployment.yaml").read_text())
        deployment["spec"]["replicas"] = 1
        spec = deployment["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        container["image"] = IMAGE
        container["imagePullPolicy"] = "Never"
        # On this machine's own network, where podman publishes no port: a bridge needs rights that may be missing.
        spec["hostNetwork"] = True
        del container["ports"]
        for name in ("startupProbe", "readinessProbe"):
            container[name]["httpGet"]["port"] = self.health
        # podman makes a curl inside of it, and then waits for that as long as it takes, where a kubelet has a timeout.
        liveness = container["livenessProbe"]
        address = f"http://127.0.0.1:{self.health}{liveness.pop('httpGet')['path']}"
        limit = str(liveness["timeoutSeconds"])
        liveness["exec"] = {"command": ["curl", "--fail", "--silent", "--max-time", limit, address]}
        tables = (
            f'[app]\nresource = "pod_site:Page"\nagent = "pod_site:Agent"\n'
            f'[ports]\nserver = "tcp:{self.port}:interface=127.0.0.1"\n'
            f'[health]\nendpoint = "tcp:{self.health}:interface=127.0.0.1"\n'
            f'[output]\nlog_format = "json"\n{configuration}\n'
        )
        settings = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "mysite"},
            "data": {"serverworker.toml": tables},
        }
        return str(yaml.safe_dump_all([settings, deployment]))

    def play(self) -> None:
        """Start it, and wait until it is ready."""
        self.podman.run("kube", "play", str(self.file))
        self.wait_ready()

    def start_again(self) -> None:
        """What podman 4.3 means to do after the third failure: it has killed the container, but its pod went with it."""
        self.podman.run("pod", "start", POD)
        self.wait_ready()

    def down(self) -> None:
        """End and remove it, with its volumes."""
        self.podman.run("pod", "rm", "--all", "--force", "--time", "0", check=False)
        self.podman.run("volume", "rm", "--all", "--force", check=False)

    # --- from outside ---------------------------------------------------------------------------

    def ask(self, path: str, *, health: bool = False, seconds: float = LONG) -> tuple[int, bytes]:
        """Status and body of one request; OSError where there is no answer."""
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.health if health else self.port, timeout=seconds
        )
        with contextlib.closing(connection):
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def answers(self, path: str) -> int | None:
        """The status that a probe gets within two seconds; None where it gets none."""
        try:
            return self.ask(path, health=True, seconds=2.0)[0]
        except (OSError, http.client.HTTPException):
            return None

    def wait_ready(self) -> None:
        """Wait until a kubelet would send requests here."""
        wait_until(lambda: self.answers("/readyz") == 200, f"readiness\n{self.transcript()}")

    def probe(self) -> bool:
        """Ask for liveness once, as podman does; the third failure in a row has the container restarted."""
        self.podman.run("healthcheck", "run", CONTAINER, check=False)
        return int(self.inspect()["State"]["Health"]["FailingStreak"]) == 0

    # --- from inside ----------------------------------------------------------------------------

    def inspect(self) -> dict[str, Any]:
        """All that podman knows of the container."""
        found: dict[str, Any] = json.loads(self.podman.run("inspect", CONTAINER))[0]
        return found

    def execute(self, *command: str) -> str:
        """Run a program inside, and answer what it printed."""
        return self.podman.run("exec", CONTAINER, *command)

    def events(self, name: str) -> list[dict[str, Any]]:
        """The events of that name that the log has, of all runs of the container."""
        entries = [json.loads(line) for line in self.transcript().splitlines() if line.startswith("{")]
        return [entry["fields"] for entry in entries if entry["fields"].get("event") == name]

    def transcript(self) -> str:
        """All that the container has printed."""
        return self.podman.run("logs", CONTAINER, check=False)


def free_ports() -> tuple[int, int]:
    """Two numbers that are free now; nobody else here asks for numbers of this kind at the same time."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return int(one.getsockname()[1]), int(other.getsockname()[1])
